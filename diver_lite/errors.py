"""The one exception that means "the input is at fault, not the program"."""


class InputError(ValueError):
    """Say in one line what was given, what was found and what is expected.

    Every check of user input in this package raises it; the command line prints the
    message without a traceback and exits with code 2. Source: ours.
    """


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its name if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
