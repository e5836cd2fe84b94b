"""What strangers' files hold: archives, tensors from torch.save and NumPy, and pairs.

Nothing that a file holds is ever run, and everything that leaves here is checked.
"""

from __future__ import annotations

import re
import stat
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PureWindowsPath
from tempfile import TemporaryDirectory, gettempdir
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor

from diver_lite.checks import (
    InputError,
    class_indices,
    ensure,
    finite,
    floats,
    instance,
    integer,
    naming,
    number,
    reason,
    require,
)
from diver_lite.files import read_torch
from diver_lite.sets import stored
from diver_lite.sets.folder import class_folders, natural

# in a file's name
IMAGES = re.compile(r"(?<![A-Za-z])images?(_zca)?(?![A-Za-z])")
A_PICTURE_EACH = (
    "files that hold a picture each, as RDED's, are read from a folder that has a "
    "folder of them for each class"
)
_MOST_FILES = 100_000  # in an archive
_ARRAYS = "a NumPy file with arrays of numbers"
_MOST_CLASSES = 100_000  # all of ImageNet has 21,841
# DatasetCondensation stores accuracies as numpy scalars; these names can build a number
# and nothing else. Older files spell the module without underscore.
_NUMPY_SCALARS: list[Any] = [
    (np.float64(0).__reduce__()[0], "numpy.core.multiarray.scalar"),
    (np.float64(0).__reduce__()[0], "numpy._core.multiarray.scalar"),
    np.dtype,
    type(np.dtype(np.float64)),
]
# A pickle's import of two texts, at which torch stops without their names
_CODE = r"\x8c.(?!torch|collections)([\w.]+)\x94?\x8c.(\w+)\x94?\x93"
# How a file begins that torch can't read -> what it is
_BEGINNINGS = {
    r"\Z": "empty (0 bytes)",
    r"\x93NUMPY": "a NumPy array, of formats 'kip' and 'rfad' only",
    r"[\x81-\x8f\xde\xdf].{0,4}[\xa1-\xbf\xd9]": "msgpack (RCIG's), which isn't read "
    "here; store its x_proto and y_proto as images and labels of an .npz (RFAD's)",
    r"PK|\x80": "damaged, or not from torch.save",
    r"version http": "a Git LFS pointer, not the data it points to",
}


# --- Archives ----------------------------------------------------------------------


def is_archive(path: Path) -> bool:
    """Tell a .zip file, not a folder of that name."""
    return path.suffix == ".zip" and path.is_file()


@contextmanager
def unpacked(path: Path) -> Iterator[tuple[Path, Path]]:
    """Yield what a .zip holds, and its place in there; it goes when the block ends.

    Raises `InputError`: no whole archive, a name that leads out of it, a link, an
    archive in it, or more than a GiB or 100,000 files, which are better unpacked by
    hand.

    Source: ours.
    """
    with TemporaryDirectory() as scratch:
        whole = Path(scratch, path.name)
        _extract(path, whole)
        inside = innermost(whole)
        ensure(
            not is_archive(inside),
            "an archive in an archive; unzip it yourself, and pass what is in it",
        )
        try:
            yield inside, path / inside.relative_to(whole)
        except InputError as error:  # nobody knows the scratch folder
            error.args = (str(error).replace(str(whole), str(path)),)
            raise


def _extract(path: Path, folder: Path) -> None:
    """Unpack an archive of harmless members into a new folder."""
    with naming(path, "a .zip archive"), zipfile.ZipFile(path) as archive:
        members = [m for m in archive.infolist() if not m.is_dir()]
        _check_total(members)
        for member in members:
            name = member.filename[:80]
            place = PureWindowsPath(member.filename)  # it knows every system's ways
            ensure(
                ".." not in place.parts and not place.anchor,
                f"the archive holds {name!r}, a path that leads out of it",
            )
            ensure(
                not stat.S_ISLNK(member.external_attr >> 16),
                f"the archive holds a link, {name!r}; expected files",
            )
        folder.mkdir()  # though there may be nothing to put into it
        try:
            archive.extractall(folder)
        except OSError as error:
            raise InputError(
                f"can't be unpacked to {gettempdir()} ({reason(error)})"
            ) from None


def _check_total(members: list[zipfile.ZipInfo]) -> None:
    size = sum(member.file_size for member in members)
    ensure(
        size <= stored.LARGE and len(members) <= _MOST_FILES,
        f"the archive would unpack to {size:,} bytes in {len(members):,} files; unzip "
        "it yourself, if you trust it, and pass the folder",
    )


def innermost(folder: Path) -> Path:
    """Enter folders of nothing but one file, or one folder of class folders or runs."""
    inside = [p for p in folder.iterdir() if p.name[0] not in "._"]
    inside = [p for p in inside if p.is_dir() or p.suffix != ".md"]
    if len(inside) != 1:
        return folder
    (alone,) = inside
    if alone.is_file():
        return alone
    if class_folders(alone) or runs(alone):
        return innermost(alone)
    return folder


# --- Files -------------------------------------------------------------------------


def load_torch(path: Path) -> Any:
    """Read what torch.save wrote, and never run code that the file may hold.

    Raises `InputError` if it is missing, damaged, not from torch.save, or holds code.

    Source: ours: published sets are pickles, and a pickle can run anything.
    """
    with naming(path, "tensors from torch.save"):
        try:  # pickle protocols are warned about
            with warnings.catch_warnings(action="ignore"):
                return read_torch(path, _NUMPY_SCALARS)
        except Exception as error:  # a damaged file can fail in any way
            found = _what_it_is(path, error)
            raise InputError(f"{found}; expected tensors from torch.save") from None


def _what_it_is(path: Path, error: Exception) -> str:
    """Say what a file is that torch couldn't load, or why it couldn't."""
    if isinstance(error, zipfile.BadZipFile):
        return f"the file is {error}"
    with path.open("rb") as stream:
        start = stream.read(2**20)
    text = start.decode("latin-1")
    code = re.search(r"GLOBAL ([\w.]+)", str(error))
    code = code or re.search(_CODE, text, re.DOTALL)
    if code:
        name = ".".join(code.groups())
        return f"the file holds code ({name}), which was not executed"
    for beginning, name in _BEGINNINGS.items():
        if re.match(beginning, text, re.DOTALL):
            return f"the file is {name}"
    return f"the file is not a torch file (it begins with {start[:12]!r})"


def load_any(path: Path) -> Any:
    """Read a .npy or .npz as NumPy's, and everything else as torch.save's."""
    if path.suffix == ".npy":
        return _load_array(path)
    return load_numpy(path) if path.suffix == ".npz" else load_torch(path)


def load_numpy(path: Path) -> dict[str, Tensor]:
    """Read the arrays of numbers in a .npz, or images.npy and the labels.npy beside it.

    Raises `InputError`: missing or damaged, or arrays of Python objects, which could
    run code and are never unpickled.

    Source: ours.
    """
    if path.suffix == ".npy":
        return {
            "images": _load_array(path),
            "labels": _load_array(partner(path, "labels")),
        }
    with naming(path, _ARRAYS):
        with zipfile.ZipFile(path) as archive:
            _check_total(archive.infolist())
        with np.load(path, allow_pickle=False) as arrays:
            return {name: _from_numpy(arrays[name]) for name in arrays.files}


def _load_array(path: Path) -> Tensor:
    with naming(path, _ARRAYS):
        return _from_numpy(np.load(path, mmap_mode="r", allow_pickle=False))


def _from_numpy(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(array, array.dtype.newbyteorder("=")))


# --- Tensors -----------------------------------------------------------------------


def describe(item: Any) -> str:
    """Return in a few words what a file was found to hold."""
    if isinstance(item, Tensor) and not item.is_nested:
        return f"a {item.dtype} tensor of shape {tuple(item.shape)}"
    if isinstance(item, dict):
        return f"a dict with keys {[key for key in item if isinstance(key, str)][:9]}"
    if isinstance(item, list | tuple):
        return f"a {type(item).__name__} of {len(item)}"
    return f"a {type(item).__name__}"


def is_both(content: Any) -> TypeGuard[dict[str, Any]]:
    """Tell whether one file holds images and labels under these names."""
    return isinstance(content, dict) and {"images", "labels"} <= {*content}


def pair(item: Any) -> tuple[Tensor, Tensor]:
    """Return images and labels of a list of both."""
    ensure(
        isinstance(item, list | tuple) and len(item) == 2,
        f"found {describe(item)}; expected [images, labels]",
    )
    images = pixels(item[0])
    return images, targets(item[1], len(images))


def tensor(item: Any, name: str) -> Tensor:
    """Return a dense tensor, all of whose values are in the file."""
    instance(item, name, Tensor)
    ensure(
        item.layout is torch.strided
        and not (item.is_nested or item.is_quantized or item.is_meta),
        f"{name} is nested, sparse, quantised or has no values",
    )
    in_file = item.untyped_storage().nbytes()  # fewer if values are repeated
    ensure(
        item.nbytes <= max(16 * in_file, 2**20),
        f"{name} is of {item.nbytes:,} bytes, of which the file has {in_file:,}; "
        "expected all of them",
    )
    return item.detach()


def pixels(item: Any) -> Tensor:
    """Return images (N, 1 or 3, H, W), finite floats as stored.

    They may be stored as (N, H, W), unless that may be one picture, or with the
    channels last.
    """
    images = tensor(item, "images")
    ensure(
        images.dtype != torch.uint8,
        f"images are {describe(images)}; divide the bytes by 255, and save floats",
    )
    if images.ndim == 3 and images.shape[0] not in (1, 3):
        images = images.unsqueeze(1)
    if images.ndim == 4 and images.shape[-1] in (1, 3) and images.shape[1] > 3:
        images = images.permute(0, 3, 1, 2)
    floats(images, "images", "NCHW")
    require(images.shape[1] in (1, 3), "images", images, "1 or 3 channels (N, C, H, W)")
    return finite(images, "images")


def targets(item: Any, count: int) -> Tensor:
    """Return labels for so many images: class indices (N,), or floats (N, K)."""
    labels = tensor(item, "labels")
    if labels.ndim == 2:
        floats(labels, "labels", (count, "K"))
        integer(labels.shape[1], "labels: K", 1, _MOST_CLASSES)
    else:
        is_float = labels.is_floating_point() and labels.itemsize > 1  # no float8
        if is_float and bool((labels % 1 == 0).all()):
            labels = labels.to(torch.int64)  # DC-BENCH, DataDAM
        class_indices(labels, "labels", count, _MOST_CLASSES)
    return labels


# --- Files that belong together ----------------------------------------------------


def runs(folder: Path) -> list[Path]:
    """Return images_best.pt, images_500.pt, X_images.pt, 10images.pt and the like."""
    return [file for file in folder.glob("*.pt") if IMAGES.search(file.stem)]


def best(folder: Path) -> Path:
    """Return images_best.pt, or the only file of images in a folder."""
    files = sorted((f for f in runs(folder) if "_zca_" not in f.name), key=natural)
    if folder / "images_best.pt" in files:
        return folder / "images_best.pt"
    ensure(
        len(files) == 1,
        f"found {len(files)} files images_*.pt and no images_best.pt; pass the one you "
        "want, or a list of files if the set is split",
    )
    return files[0]


def partner(images: Path, kind: str) -> Path:
    """Return the labels, lr or inverse-whitened file that belongs to an images file."""
    ensure(
        bool(IMAGES.search(images.stem)),
        f"file name {images.name!r}: expected images_*.pt, images.pt or *images.pt",
    )
    words = (kind, kind.removesuffix("s"))
    paths = [images.with_name(IMAGES.sub(word, images.name)) for word in words]
    return next((path for path in paths if path.is_file()), paths[0])


def with_labels(path: Path) -> tuple[Tensor, Tensor]:
    """Read images, and the labels that lie in the same file or in that beside it."""
    content = load_any(path)
    if is_both(content):
        return pair([content["images"], content["labels"]])
    images = pixels(content)
    other = partner(path, "labels")
    with naming(other):
        return images, targets(load_any(other), len(images))


def learned_lr(images: Path) -> float | None:
    """Read the learning rate that was stored beside images, if one was."""
    path = images.with_name(IMAGES.sub("lr", images.name))
    if path == images or not path.exists():
        return None  # of a dict of everything, for one
    with naming(path):
        return number(tensor(load_torch(path), "lr").squeeze(), "lr", 0)


def stacked(paths: Sequence[Path]) -> Tensor:
    """Return (N, C, H, W) of files that hold a picture each."""
    pictures = []
    for path in paths:
        with naming(path):
            picture = tensor(load_torch(path), "picture")
            if picture.ndim == 2:  # (H, W)
                picture = picture.unsqueeze(0)
            picture = pixels(picture.reshape(-1, *picture.shape[-3:]))
            require(len(picture) == 1, "picture", picture, "one a file")
            pictures.append(picture)
    return joined(pictures, "images")


def joined(parts: Sequence[Tensor], name: str) -> Tensor:
    """Return the parts of a split set as one tensor."""
    shapes = sorted({tuple(part.shape[1:]) for part in parts})
    ensure(len(shapes) == 1, f"split files differ in shape: {name} {shapes}")
    return torch.cat([*parts])
