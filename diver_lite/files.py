"""Write files so that a reader never meets half of one."""

from __future__ import annotations

import glob
import hashlib
import io
import os
import shutil
import stat
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from diver_lite.checks import InputError, check_text, ensure, naming

if TYPE_CHECKING:  # the set-up check must run where torch is missing
    from torch import Tensor

# In every folder that this package wrote: only such a folder is ever overwritten.
MARKER = ".diver-lite"
HELD = f"{MARKER}-held"  # a lock, in a folder for what is being written


@contextmanager
def atomic_path(path: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary sibling of `path`; move it to `path` if the block succeeds.

    The block decides whether it creates a file or a folder. If it raises, `path` is as
    it was. New files get the umask's mode, whatever the library that wrote them thinks.
    `InputError`: there is a `path` already, or it can't be written (`WriteError`).
    """
    path = Path(path)
    check_writable(path, overwrite=overwrite)
    with naming(path, output=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _scratch(path) as scratch:
            temporary = scratch / path.name
            yield temporary
            (scratch / MARKER).touch()
            usual = stat.S_IMODE((scratch / MARKER).stat().st_mode)
            for file in [temporary, *temporary.rglob("*")]:
                if file.is_file() and not file.is_symlink():
                    file.chmod(usual)
            if temporary.is_dir():
                (temporary / MARKER).touch()
            move(temporary, path, overwrite=overwrite)


def move(new: Path, path: Path, *, overwrite: bool) -> None:
    """Rename `new` to `path`, on one file system, without a moment that loses anything.

    A folder can't be replaced in one step: the old one is renamed aside, goes when the
    new one is in place, and is put back if that fails, after a kill by the next
    `check_writable`. Without `overwrite` `InputError` also if `path` came just now.
    """
    if not overwrite:
        with suppress(OSError):  # no links to folders, nor on FAT
            os.link(new, path)  # which never replaces
            new.unlink()
            return
        ensure(
            not os.path.lexists(path),
            f"output {path} has appeared during this run, and is not overwritten; move "
            "it away and run again, or pass overwrite (--overwrite)",
        )
    elif new.is_dir() or path.is_dir():
        with suppress(FileNotFoundError):
            os.replace(path, _aside(path))
    try:
        os.replace(new, path)
    finally:
        _settle(path)


def _new_folder(path: Path) -> Path:
    return Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))


@contextmanager
def _scratch(path: Path) -> Iterator[Path]:
    """Yield a new folder beside `path`, under a lock; it goes when the block ends."""
    folder = _new_folder(path)
    lock = FileLock(folder / HELD, timeout=0)
    try:
        with suppress(NotImplementedError):  # some network file systems lock nothing
            lock.acquire()
        yield folder
    finally:
        lock.release()
        shutil.rmtree(folder, ignore_errors=True)


def sweep(path: Path) -> None:
    """Remove what was half-written for `path` when a run was killed: no lock is held.

    A lock that is younger than a second may be one that is just being taken.
    """
    for held in path.parent.glob(f".{glob.escape(path.name)}.*/{HELD}"):
        with suppress(OSError, NotImplementedError):  # `Timeout`, for one
            if time.time() > held.stat().st_mtime + 1:
                with FileLock(held, timeout=0):
                    pass
                shutil.rmtree(held.parent, ignore_errors=True)


def _aside(path: Path) -> Path:
    """Return where an old folder waits while the new one is moved to `path`."""
    return path.parent / f".{path.name}{MARKER}-replaced"


def _settle(path: Path) -> None:
    """End a replacement that was cut off: the old folder comes back, or goes."""
    old = _aside(path)
    if os.path.lexists(old) and not os.path.lexists(path):
        os.replace(old, path)
    elif os.path.lexists(old):
        # under another name, as what is half deleted must never come back
        with _scratch(path) as scratch:
            os.replace(old, scratch / path.name)


def check_writable(path: str | Path, *, overwrite: bool = False) -> None:
    """Raise `InputError` now if `path` could not be written at a long run's end."""
    path = Path(path)
    check_text(str(path), "output")
    with naming(path, output=True):
        _settle(path)
        sweep(path)
        ensure(
            overwrite or not os.path.lexists(path),
            f"output {path} exists already; choose another path or pass overwrite "
            "(--overwrite)",
        )
        foreign = path.is_dir() and not (path / MARKER).exists()
        ensure(
            not (foreign and any(path.iterdir())),
            f"output {path} is a folder that diver_lite did not write; it is not "
            "overwritten: choose another path or delete it yourself",
        )
        # in the nearest folder there is: a check must not leave new ones behind
        folder = next(p for p in path.absolute().parents if os.path.lexists(p))
        _new_folder(folder / path.name).rmdir()


def check_apart(outputs: Mapping[str, str | Path | None]) -> None:
    """Refuse outputs one of which would replace another, or what is in it."""
    real = {name: Path(os.path.realpath(p)) for name, p in outputs.items() if p}
    for (one, outer), (other, inner) in permutations(real.items(), 2):
        ensure(
            outer not in (inner, *inner.parents),
            f"{other} ({outputs[other]}) is in {one} ({outputs[one]}), or is the same; "
            "expected outputs that don't replace each other",
        )


@contextmanager
def exclusive(output: str | Path, path: str | Path | None = None) -> Iterator[None]:
    """Hold a lock file, `.NAME.lock` or `path`, while the block runs; then it goes.

    The system frees it when its owner ends, even by kill -9: no lock is ever stale.
    Raises `InputError`, which names the output, if another process holds it.
    """
    output = Path(output)
    path = Path(path or output.parent / f".{output.name}.lock")
    with naming(output, output=True):
        missing = [parent for parent in path.parents if not parent.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path, timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise InputError(
                f"output {output} is being written by another process; wait for it, "
                "or choose another"
            ) from None
    try:
        yield
    finally:
        with suppress(OSError):  # Windows deletes no file that is open
            path.unlink()
        lock.release()
        with suppress(OSError):
            for folder in missing:
                folder.rmdir()


def save_torch(value: object, path: Path) -> None:
    """Write with torch.save; a full disk is an `OSError`, as with all other writers."""
    import torch

    content = io.BytesIO()  # torch would raise its own error
    torch.save(value, content)
    path.write_bytes(content.getbuffer())


# torch's list of what a file may build is one for all threads
_SAFE = threading.Lock()
_FOLDER = 0x10  # in the attributes of an archive's entry


def read_torch(path: Path, known: Sequence[Any] = ()) -> Any:
    """Read what torch.save wrote: tensors and plain values, on the CPU, no code.

    An archive's checksums are compared first, which torch doesn't do (files from before
    torch 1.6 have none). Beside torch's own classes only those `known` are built,
    whatever else the caller has called safe for files of their own, which stays so.
    Raises whatever torch does, and `zipfile.BadZipFile` for a damaged archive.
    """
    import torch
    from torch import serialization

    _compare_checksums(path)
    with _SAFE:
        theirs = serialization.get_safe_globals()
        serialization.clear_safe_globals()
        try:
            serialization.add_safe_globals([*known])
            return torch.load(path, map_location="cpu", weights_only=True)
        finally:
            here = serialization.get_safe_globals()  # others may have come meanwhile
            serialization.clear_safe_globals()
            others = [each for each in here if each not in known]
            serialization.add_safe_globals([*theirs, *others])


def _compare_checksums(path: Path) -> None:
    """Raise unless each record of a torch.save archive is as it was written."""
    with path.open("rb") as stream:
        if stream.read(4) != b"PK\3\4":
            return
    try:
        with zipfile.ZipFile(path) as archive:
            wrong = archive.testzip()
            # of what is flagged as a folder torch leaves what the memory held
            flagged = [m for m in archive.infolist() if m.external_attr & _FOLDER]
            folders = [m.filename for m in flagged if not m.is_dir()]
    except Exception as error:  # a damaged archive can fail in any way
        raise zipfile.BadZipFile(f"damaged or truncated ({error})") from None
    for name in (wrong, *folders):
        if name is not None:
            raise zipfile.BadZipFile(f"damaged: {name} isn't what was written")


def sha256(path: str | Path) -> str:
    """Return the hexadecimal SHA-256 digest of a file."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fingerprint(tensors: Iterable[Tensor | None], facts: str = "") -> str:
    """Return a digest (16 hexadecimal digits) of tensors, bit by bit, and of a text."""
    import torch

    digest = hashlib.sha256(facts.encode())
    for tensor in tensors:
        if tensor is None:
            tensor = torch.empty(0)
        digest.update(str(tuple(tensor.shape)).encode())
        if not tensor.shape:
            tensor = tensor[None]
        for start in range(0, len(tensor), 100):  # a copy of all may be too large
            flat = tensor[start : start + 100].detach().cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().tobytes())  # also of bfloat16
    return digest.hexdigest()[:16]
