"""Files that others wrote: opened only if that can end, and damage told in one line."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from diver_lite.checks import InputError, file_error, first_line, naming


@contextmanager
def told(
    path: Path, errors: type[Exception] = OSError, expected: str = ""
) -> Iterator[None]:
    """Turn errors, those of the system by default, into one line that names a path."""
    with naming(path):
        try:
            yield
        except InputError:
            raise
        except errors as error:
            why = getattr(error, "strerror", None) or first_line(error)
            place = getattr(error, "filename", None)
            message = (
                f" can't be read ({why[:200]}){expected and '; expected '}{expected}"
            )
            named = Path(place) if isinstance(place, str) else path
            raise file_error(named, message) from None


@contextmanager
def reading(path: Path, expected: str) -> Iterator[None]:
    """Turn whatever goes wrong while a file is read into one line that names it.

    Only regular files get as far as the block: a pipe would be waited for. Raises
    `InputError`: no such file, no regular one, unreadable, or not what is `expected`.
    """
    with told(path, Exception, expected):  # a damaged file can fail in any way
        if not path.is_file():
            found = "not a regular file" if os.path.lexists(path) else "no such file"
            raise InputError(f"{found}; expected {expected}")
        yield
