"""`python -m diver_lite`: the command line, which looks for no module where it is run.

Python itself puts the working folder first. It may hold what a stranger wrote.
"""

from diver_lite.trust import forget_working_folder

if __name__ == "__main__":
    forget_working_folder()

    from diver_lite.cli import main

    main()
