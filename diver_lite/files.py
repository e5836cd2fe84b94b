"""Write files so that a reader never meets half of one."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from diver_lite.errors import InputError

# In every folder that this package wrote: only such a folder is ever overwritten.
MARKER = ".diver-lite"


@contextmanager
def atomic_path(path: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary sibling of `path`; rename it to `path` if the block succeeds.

    Works for a file or a folder (the block decides which it creates). If the block
    raises, the temporary is removed and `path` is as it was.

    Args:
        path: where the finished file or folder shall stand.
        overwrite: replace an existing `path` instead of refusing.

    Raises:
        InputError: `path` exists, or its folder can't be created or written to.

    Source: ours: an interrupted run must not leave a file that looks complete.
    """
    path = Path(path)
    check_writable(path, overwrite=overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    temporary = scratch / path.name
    try:
        yield temporary
        if temporary.is_dir():
            (temporary / MARKER).touch()
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        os.replace(temporary, path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def check_writable(path: str | Path, *, overwrite: bool = False) -> None:
    """Raise `InputError` now if `path` could not be written at a long run's end."""
    path = Path(path)
    if path.exists() and not overwrite:
        raise InputError(
            f"output {path} exists already; choose another path or pass overwrite "
            "(--overwrite on the command line)"
        )
    if path.is_dir() and any(path.iterdir()) and not (path / MARKER).exists():
        raise InputError(
            f"output {path} is a folder that diver_lite did not write; it is not "
            "overwritten: choose another path or delete it yourself"
        )
    # look at the nearest folder there is: a check must not leave new ones behind
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(
            f"output {path}: the folder {folder} can't be written to "
            f"({error.strerror or error})"
        ) from None


def sha256(path: str | Path) -> str:
    """Return the hexadecimal SHA-256 digest of a file."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
