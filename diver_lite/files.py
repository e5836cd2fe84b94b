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
    scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    temporary = scratch / path.name
    try:
        yield temporary
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
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise InputError(
            f"output {path}: the folder {path.parent} can't be written to "
            f"({error.strerror or error})"
        ) from None


def sha256(path: str | Path) -> str:
    """Return the hexadecimal SHA-256 digest of a file."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
