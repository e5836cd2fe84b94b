"""Write files so that a reader never meets half of one."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from diver_lite.checks import InputError

if TYPE_CHECKING:  # the set-up check must run where torch is missing
    from torch import Tensor

# In every folder that this package wrote: only such a folder is ever overwritten.
MARKER = ".diver-lite"


@contextmanager
def atomic_path(path: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary sibling of `path`; move it to `path` if the block succeeds.

    Works for a file or a folder (the block decides which it creates). If the block
    raises, the temporary is removed and `path` is as it was. New files get the mode
    that the umask gives, whatever the library that wrote them thinks.

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
    scratch = _scratch(path)
    temporary = scratch / path.name
    try:
        yield temporary
        usual = scratch / MARKER
        usual.touch()
        for file in [temporary, *temporary.rglob("*")]:
            if file.is_file() and not file.is_symlink():
                file.chmod(stat.S_IMODE(usual.stat().st_mode))
        if temporary.is_dir():
            (temporary / MARKER).touch()
        move(temporary, path, overwrite=overwrite)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def move(new: Path, path: Path, *, overwrite: bool) -> None:
    """Rename `new` to `path`, on one file system, without a moment that loses anything.

    A folder can't be replaced in one step. So the old one is renamed aside, and goes
    when the new one is in its place. If that fails it is put back; after a kill the
    next `check_writable` of `path` does so. Without `overwrite` not even what appeared
    just now is replaced: `InputError`. Source: ours.
    """
    if not overwrite:
        try:
            if new.is_dir() or not _linked(new, path):
                if os.path.lexists(path):
                    raise FileExistsError
                os.replace(new, path)
        except FileExistsError:
            raise InputError(
                f"output {path} has appeared during this run, and is not overwritten; "
                "move it away and run again, or pass overwrite (--overwrite)"
            ) from None
    elif new.is_dir() or path.is_dir():
        try:
            if os.path.lexists(path):
                os.replace(path, _aside(path))
            os.replace(new, path)
        finally:
            _settle(path)
    else:
        os.replace(new, path)


def _linked(new: Path, path: Path) -> bool:
    """Move a file by a hard link, which never replaces; False if there are none."""
    try:
        os.link(new, path)
    except FileExistsError:
        raise
    except OSError:  # FAT, some network file systems
        return False
    new.unlink()
    return True


def _scratch(path: Path) -> Path:
    return Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))


def _aside(path: Path) -> Path:
    """Return where an old folder waits while the new one is moved to `path`."""
    return path.parent / f".{path.name}{MARKER}-replaced"


def _settle(path: Path) -> None:
    """End a replacement that was cut off: the old folder comes back, or goes."""
    old = _aside(path)
    if os.path.lexists(old) and not os.path.lexists(path):
        os.replace(old, path)
    elif os.path.lexists(old):
        scratch = _scratch(path)
        try:  # under another name, as what is half deleted must never come back
            os.replace(old, scratch / path.name)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def check_writable(path: str | Path, *, overwrite: bool = False) -> None:
    """Raise `InputError` now if `path` could not be written at a long run's end.

    If a kill cut off the replacement of a folder, the old one is brought back first.
    """
    path = Path(path)
    _settle(path)
    if os.path.lexists(path) and not overwrite:
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


@contextmanager
def exclusive(path: str | Path, output: str | Path) -> Iterator[None]:
    """Hold a lock file, made with its folder if need be, while the block runs.

    The system frees it when its owner ends, even by kill -9: no lock is ever stale. The
    block may delete it. Raises `InputError`, which names the output, if it is held.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(FileLock(path, timeout=0))
        except Timeout:
            raise InputError(
                f"output {output} is being written by another process; wait for it, or "
                "choose another output"
            ) from None
        yield


def sha256(path: str | Path) -> str:
    """Return the hexadecimal SHA-256 digest of a file."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fingerprint(tensors: Iterable[Tensor | None], facts: str = "") -> str:
    """Return a digest (16 hexadecimal digits) of tensors, bit by bit, and of a text."""
    import torch

    digest = hashlib.sha256(facts.encode())
    for tensor in tensors:
        tensor = torch.empty(0) if tensor is None else tensor
        digest.update(str(tuple(tensor.shape)).encode())
        rows = tensor if tensor.shape else tensor[None]
        for start in range(0, len(rows), 100):  # a copy of all may be too large
            flat = rows[start : start + 100].detach().cpu().contiguous().reshape(-1)
            # as bytes, because NumPy has no bfloat16
            digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def slug(name: str) -> str:
    """Return a name as a folder can carry it."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "class"
