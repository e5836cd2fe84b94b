"""Files that others wrote: opened only if that can end, and damage told in one line."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from diver_lite.checks import InputError, file_error, first_line, naming


@contextmanager
def reading(path: Path, expected: str) -> Iterator[None]:
    """Turn whatever goes wrong while a file is read into one line that names it.

    Args:
        path: a regular file; at a pipe, reading would wait for ever.
        expected: what the file should hold, in words.

    Raises:
        InputError: no such file, no regular one, not readable, damaged. Source: ours.
    """
    with naming(path):
        try:
            if not path.is_file():
                there = os.path.lexists(path)
                found = "not a regular file" if there else "no such file"
                raise file_error(path, f": {found}; expected {expected}")
            yield
        except InputError:
            raise
        except Exception as error:  # a damaged file can fail in any way
            why = getattr(error, "strerror", None) or first_line(error)[:200]
            message = f" can't be read ({why}); expected {expected}"
            raise file_error(path, message) from None
