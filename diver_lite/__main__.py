"""`python -m diver_lite`: the command line, which looks for no module where it is run.

Python itself puts the working folder first. It may hold what a stranger wrote, also
under the name of a module of Python's own.
"""

import sys

if __name__ == "__main__":
    if not sys.flags.safe_path:
        del sys.path[0]

    from diver_lite.trust import forget_working_folder

    forget_working_folder()

    from diver_lite.cli import main

    main()
