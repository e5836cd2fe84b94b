"""diver_lite: DIVER in the open, as a runnable book with a companion package."""

__version__ = "0.1.0"  # the one place: pyproject.toml reads it
