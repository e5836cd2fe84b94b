"""Zip archives and NumPy files of strangers, opened without harm."""

from __future__ import annotations

import os
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import chain
from pathlib import Path, PurePosixPath, PureWindowsPath
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor

from diver_lite.checks import InputError, naming, reason
from diver_lite.sets import stored

_MOST_FILES = 100_000
_DEPTH = 2  # an archive in an archive, as hubs zip what was zipped
# what the archives around this one hold: the limits are for all of them together
_AROUND: ContextVar[tuple[list[zipfile.ZipInfo], ...]] = ContextVar(
    "_AROUND", default=()
)


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """Yield a folder with what a .zip holds; it goes when the block ends.

    Raises `InputError`: no whole archive, a name that leads out of the folder, a link,
    an archive in one in one, or more than a GiB or 100,000 files, together with the
    archive around it, which are better unpacked by hand.

    Source: ours.
    """
    with TemporaryDirectory() as scratch:
        with naming(path, "a .zip archive"), zipfile.ZipFile(path) as archive:
            if len(_AROUND.get()) >= _DEPTH:
                raise InputError(
                    "an archive in an archive in an archive; unzip it yourself, and "
                    "pass the folder"
                )
            members = [m for m in archive.infolist() if not m.is_dir()]
            for member in members:
                _check_member(member)
            _check_total(members)
            try:
                archive.extractall(scratch, members)
            except OSError as error:
                place, why = Path(scratch).parent, reason(error)
                raise InputError(f"can't be unpacked to {place} ({why})") from None
        token = _AROUND.set((*_AROUND.get(), members))
        try:
            yield Path(scratch)
        except InputError as error:  # nobody knows the scratch folder
            inside = str(error).replace(f"{scratch}{os.sep}", "")
            raise InputError(inside.replace(scratch, path.name)) from None
        finally:
            _AROUND.reset(token)


def _check_member(member: zipfile.ZipInfo) -> None:
    """Refuse names that lead elsewhere, in the manner of any system, and links."""
    name = member.filename
    windows = PureWindowsPath(name)
    outside = ".." in windows.parts or windows.drive or windows.root
    if outside or PurePosixPath(name).is_absolute():
        raise InputError(
            f"the archive holds {name[:80]!r}, a path that leads out of it"
        )
    if stat.S_ISLNK(member.external_attr >> 16):
        raise InputError(f"the archive holds a link, {name[:80]!r}; expected files")
    if member.flag_bits & 1:
        raise InputError("the archive is encrypted; unzip it and pass the folder")


def _check_total(members: list[zipfile.ZipInfo]) -> None:
    members = [*chain(*_AROUND.get(), members)]
    size = sum(member.file_size for member in members)
    if size > stored.LARGE or len(members) > _MOST_FILES:
        raise InputError(
            f"the archive would unpack to {size:,} bytes in {len(members):,} files; "
            "unzip it yourself, if you trust it, and pass the folder"
        )


def load_numpy(path: Path) -> dict[str, Tensor]:
    """Read the arrays of numbers in a .npz, or of a .npy the one under its stem.

    Raises `InputError`: missing or damaged, or arrays of Python objects, which could
    run code and are never unpickled.

    Source: ours.
    """
    with naming(path, "a NumPy file with arrays of numbers"):
        if path.suffix == ".npy":
            return {
                path.stem: _tensor(np.load(path, mmap_mode="r", allow_pickle=False))
            }
        with zipfile.ZipFile(path) as archive:
            _check_total(archive.infolist())
        with np.load(path, allow_pickle=False) as arrays:
            return {name: _tensor(arrays[name]) for name in arrays.files}


def _tensor(array: np.ndarray) -> Tensor:
    if array.dtype.kind not in "biuf":
        raise InputError(f"found an array of {array.dtype}; expected numbers")
    if array.dtype.itemsize == 16 or array.dtype.byteorder == ">":
        array = array.astype(np.float64)  # what PyTorch doesn't know
    return torch.from_numpy(np.array(array))
