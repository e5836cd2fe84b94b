"""Real datasets: what ships, and where the rest is found.

Every image leaves this module as float32 (N, 3, H, W) in [0, 1]. MNIST and
Fashion-MNIST are zero-padded from 28 to 32 pixels, so that networks see one size
everywhere; their grey channel is repeated by a view, which costs no memory.
"""

from __future__ import annotations

import gzip
import io
import os
from collections.abc import Sequence
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from diver_lite import checks
from diver_lite.assets import asset_path
from diver_lite.checks import InputError, ensure, naming
from diver_lite.sets.folder import (
    ONE_EACH,
    class_folders,
    image_files,
    match_folders,
    read_images,
)
from diver_lite.sets.names import (
    CIFAR10_CLASSES,
    FASHION_MNIST_CLASSES,
    class_names,
    dataset_in,
    imagenet_subset,
    usual_name,
)

SPLITS = ("train", "test", "fit", "validation", "sample")
VALIDATION_PER_CLASS = 500
SAMPLE_PER_CLASS = 100
_DEBIAN = Path("/usr/share/datasets/fashion-mnist")
# data set -> files one of which tells that it is there, and what it is then
_FILES = {
    "mnist": {
        "train-images-idx3-ubyte.gz": "official files",
        "train-images-idx3-ubyte": "official files",
    },
    "fashion-mnist": {
        "train-images-idx3-ubyte.gz": "official files",
        "train-images-idx3-ubyte": "official files",
    },
    "cifar10": {
        "cifar-10-batches-py": "official files",
        "cifar10_jpeg.npz": "JPEG re-encoding",
        "{part}/airplane": "image folder",
    },
}
_ORIGINS = {
    "mnist": "with train-labels-idx1-ubyte.gz, in a folder mnist/ or MNIST/raw/ "
    "therein, as torchvision.datasets.MNIST leaves them",
    "fashion-mnist": "with train-labels-idx1-ubyte.gz, both of "
    "https://github.com/zalandoresearch/fashion-mnist",
    "cifar10": "cifar-10-batches-py is what https://www.cs.toronto.edu/~kriz/"
    "cifar-10-python.tar.gz unpacks to; airplane stands for a folder of pictures per "
    "class",
}

Dataset = tuple[Tensor, Tensor, tuple[str, ...]]


def load_dataset(
    name: str,
    split: str,
    *,
    root: str | Path | None = None,
    image_size: int | None = None,
    subset: str | None = None,
) -> Dataset:
    """Load a split of a real dataset.

    `train` is the official training split. All choices of this project are made on
    `validation`, its last 500 images of each class; what is trained on is `fit`, the
    others. `sample` is the first 100 images per class of `fit`; it ships with the
    package for Fashion-MNIST, as does `test`.

    Args:
        name: `"fashion-mnist"`, `"cifar10"`, `"mnist"`, or a folder with one
            sub-folder per split that holds one sub-folder per class.
        split: `train`, `test`, `fit`, `validation` or `sample`.
        root: where the files are; default: the environment variable
            `DIVER_LITE_DATA`, then the places that `find_source` names. CIFAR-10 may
            lie there as cifar-10-batches-py, as cifar10_jpeg.npz, or as images
            train/airplane/*.png, test/airplane/*.png and so on.
        image_size: for a folder, resize and centre-crop images to this size; without
            it they must agree in size.
        subset: for a folder, take the classes of this ImageNet subset only, in its
            label order; names of class folders as for `folder.match_folders`. Split
            folders may be ImageNet's (train, val), may lie in a folder imagenette2*,
            as torchvision leaves it, or be missing: then all is the test split.

    Returns:
        images (N, 3, H, W) float32 in [0, 1], labels (N,) int64, class names.

    Raises:
        InputError: unknown name or split, or files that are missing or broken.

    Source: Fashion-MNIST, Xiao et al. 2017; CIFAR-10, Krizhevsky 2009; splits: ours.
    """
    checks.path(name, "dataset")
    checks.one_of(split, "split", SPLITS)
    if image_size is not None:
        checks.integer(image_size, "image_size", 1, 4096)
    name = _as_named(name)
    if subset is None and name in _SMALL:
        read, names = _SMALL[name]
        return *read(split, _root(root)), names
    ensure(
        subset is None or Path(name).is_dir(),
        f"subset {subset!r} is of a folder of images; {str(name)!r} is no folder",
    )
    ensure(
        Path(name).is_dir(),
        f"data {name!r} is unknown; expected 'fashion-mnist', 'cifar10', 'mnist' or "
        "an existing folder with train/ and test/ sub-folders of class folders",
    )
    return _image_folder(Path(name), split, image_size, subset)


def _as_named(name: str) -> str:
    """Return a folder as it is, and a data set under its usual name."""
    return name if Path(name).is_dir() else usual_name(str(name))


def _root(root: str | Path | None) -> Path | None:
    root = root or os.environ.get("DIVER_LITE_DATA")
    if not root:
        return None
    folder = checks.path(root, "data root")
    ensure(folder.is_dir(), f"data root {root} is not a folder")
    return folder


def split_indices(labels: Tensor, split: str) -> Tensor:
    """Return which images make up a split; `fit` and the like are parts of `train`.

    Takes the labels (N,) of an official split, in its order; returns sorted indices
    (M,) int64.

    Source: ours: a fixed, balanced hold-out, so that no choice needs the test split.
    """
    if split in ("train", "test"):
        return torch.arange(len(labels))
    classes = pd.Series(labels.numpy()).groupby(labels.numpy())
    count: Any = classes.transform("size")
    cut = count - (count // 5).clip(upper=VALIDATION_PER_CLASS)
    place = classes.cumcount()  # of an image among those of its class
    parts = {
        "fit": place < cut,
        "validation": place >= cut,
        "sample": place < cut.clip(upper=SAMPLE_PER_CLASS),
    }
    return torch.from_numpy(np.flatnonzero(parts[split]))


def _take(pixels: Tensor, labels: Tensor, split: str) -> tuple[Tensor, Tensor]:
    """Return a split's part of (N, 1 or 3, H, W) uint8 images as float32 colour."""
    indices = split_indices(labels, split)
    images = pixels[indices].float().div_(255)
    return images.expand(-1, 3, -1, -1), labels[indices]


def _places(name: str, root: Path | None) -> list[Path]:
    """Return where a dataset's files may lie; those of MNIST's relatives look alike."""
    if name == "mnist":
        if root is None:
            return []
        named = any(dataset_in(part) == "mnist" for part in root.absolute().parts[-2:])
        return [*([root] if named else []), root / "mnist", root / "MNIST/raw"]
    if root is None:
        return [_DEBIAN]
    return [root, root / name, root / "FashionMNIST/raw", _DEBIAN]


# ---------------------------------------------------------------- MNIST, garments

_IN_WORDS = {"mnist": "MNIST", "fashion-mnist": "Fashion-MNIST"}
_KINDS = ("images-idx3", "labels-idx1")


def _mnist(split: str, root: Path | None) -> tuple[Tensor, Tensor]:
    folder, _ = find_source("mnist", root)
    stem = "t10k" if split == "test" else "train"
    return _read_mnist([folder / f"{stem}-{kind}-ubyte.gz" for kind in _KINDS], split)


def _fashion_mnist(split: str, root: Path | None) -> tuple[Tensor, Tensor]:
    shipped = {"test": "t10k", "sample": "sample"}
    if split in shipped:
        stem = f"fashion-mnist/{shipped[split]}"
        files = [asset_path(f"{stem}-{kind}-ubyte.gz") for kind in _KINDS]
        split = "test"  # all of them
    else:
        folder, _ = find_source("fashion-mnist", root)
        files = [folder / f"train-{kind}-ubyte.gz" for kind in _KINDS]
    return _read_mnist(files, split)


def _read_mnist(files: Sequence[Path], split: str) -> tuple[Tensor, Tensor]:
    """Read the images and labels of MNIST, or of a data set that is stored alike."""
    pixels, labels = (torch.from_numpy(_read_idx(file)) for file in files)
    with naming(files[0]):
        checks.require(
            pixels.ndim == 3 and len(pixels) > 0 and pixels.shape[1:] == (28, 28),
            "its array",
            pixels,
            "images (N, 28, 28)",
        )
    with naming(files[1]):
        checks.class_indices(labels, "labels", len(pixels), 10)
    return _take(F.pad(pixels.unsqueeze(1), (2, 2, 2, 2)), labels.long(), split)


def _read_idx(path: Path) -> np.ndarray:
    """Read one file of the IDX format (big-endian header, uint8 body)."""
    if not path.exists() and path.with_suffix("").exists():
        path = path.with_suffix("")  # some archives are stored unpacked
    with naming(path, "a complete IDX file of bytes"):
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(path, "rb") as stream:
            content = stream.read(2**26)  # the largest official one has 47 MB
        ensure(
            content[:3] == b"\0\0\x08",
            f"it begins with {content[:3]!r}; expected a complete IDX file of bytes",
        )
        shape = np.frombuffer(content, ">u4", content[3], 4)
        start = 4 + 4 * len(shape)
        return np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy()


def describe_source(
    name: str, *, root: str | Path | None = None, split: str = "train"
) -> str:
    """Say which files `load_dataset` reads for a split, for the record of a result.

    Such as "CIFAR-10 (official files)" or "CIFAR-10 (JPEG re-encoding)"; a number that
    was measured on the latter must not be called "CIFAR-10" alone.
    """
    name = _as_named(name)
    if name in _IN_WORDS:
        return f"{_IN_WORDS[name]} (official files)"
    if name != "cifar10":
        return f"image folder {Path(name).name}"
    return f"CIFAR-10 ({find_source(name, _root(root), split)[1]})"


def _part(split: str) -> str:
    """Return which of the two official splits holds one of ours."""
    return "test" if split == "test" else "train"


def find_source(
    name: str, root: Path | None = None, split: str = "train"
) -> tuple[Path, str]:
    """Find the files of a dataset's split, downloading them as the last resort.

    Searched in this order: `root` (or `root/name`); for Fashion-MNIST the folder of
    Debian's package dataset-fashion-mnist; the user's cache, filled by torchvision.
    What is neither found nor downloadable raises an `InputError` that says what to do.

    Returns the folder, and what its files are: "official files", "JPEG re-encoding" or
    "image folder".
    """
    checks.one_of(name, "dataset", [*_FILES])
    part = _part(split)
    forms = {file.format(part=part): form for file, form in _FILES[name].items()}
    for place, file in product(_places(name, root), forms):
        if (place / file).exists():
            return place, forms[file]
    ensure(
        not root,
        f"data root {root} holds none of {tuple(forms)} (for the {part} split of "
        f"{name}); put one there ({_ORIGINS[name]})",
    )
    import platformdirs
    from torchvision import datasets

    cache = Path(platformdirs.user_cache_dir("diver_lite"))
    loaders = {
        "mnist": datasets.MNIST,
        "fashion-mnist": datasets.FashionMNIST,
        "cifar10": datasets.CIFAR10,
    }
    try:
        loaders[name](str(cache), train=True, download=True)
    except Exception as error:  # URLError, RuntimeError, OSError: all mean "no network"
        raise InputError(
            f"the {part} split of {name} is not on this machine and could not be "
            f"downloaded ({type(error).__name__}); set DIVER_LITE_DATA or pass root= "
            f"(--data-root) to a folder with one of {tuple(forms)} ({_ORIGINS[name]})"
        ) from None
    return find_source(name, cache, split)


# ---------------------------------------------------------------- CIFAR-10, folders


def _cifar10(split: str, root: Path | None) -> tuple[Tensor, Tensor]:
    folder, form = find_source("cifar10", root, split)
    part = _part(split)
    if form == "image folder":
        images, labels, names = _image_folder(folder, split, None, None)
        ensure(
            names == CIFAR10_CLASSES and images.shape[-2:] == (32, 32),
            f"image folder {folder}: found classes {names} of "
            f"{tuple(images.shape[-2:])} pixels; expected {CIFAR10_CLASSES} of "
            "(32, 32)",
        )
        return images, labels
    if form == "JPEG re-encoding":
        pixels, labels = _packed_jpeg(folder / "cifar10_jpeg.npz", part)
    else:
        from torchvision.datasets import CIFAR10

        with naming(folder / "cifar-10-batches-py", "the official files of CIFAR-10"):
            data = CIFAR10(str(folder), train=part == "train")
        pixels = torch.from_numpy(data.data)
        labels = torch.tensor(data.targets)
    return _take(pixels.permute(0, 3, 1, 2), labels, split)


def _packed_jpeg(path: Path, part: str) -> tuple[Tensor, Tensor]:
    """Decode JPEG files stored back to back, (N, 32, 32, 3) uint8, and their labels."""
    with naming(path, f"arrays {part}_blob, {part}_offs and {part}_y"):
        with np.load(path) as packed:
            blob, offs, y = (packed[f"{part}_{key}"] for key in ("blob", "offs", "y"))
        files = (io.BytesIO(blob[a:b].tobytes()) for a, b in pairwise(offs))
        pixels = np.stack([np.asarray(Image.open(f, formats=["JPEG"])) for f in files])
        size = pixels.shape[1:]
        ensure(
            size == (32, 32, 3),
            f"the images are of shape {size}; expected (32, 32, 3)",
        )
        labels = torch.from_numpy(y)
        checks.class_indices(labels, "labels", len(pixels), len(CIFAR10_CLASSES))
    # The packed files are sorted by class; a fixed shuffle makes order carry nothing.
    order = np.random.default_rng(0).permutation(len(y))
    return torch.from_numpy(pixels[order]), labels[order].long()


def _split_folder(folder: Path, split: str, subset: str | None) -> Path:
    """Return the folder of class folders that holds a split."""
    part = _part(split)
    if subset is None:
        return folder / part
    inside = sorted(path for path in folder.glob("imagenette2*") if path.is_dir())
    names = ", ".join(path.name for path in inside)
    ensure(len(inside) < 2, f"image folder {folder} holds {names}; pass one of them")
    folder = [*inside, folder][0]
    if part == "train" or (folder / "test").is_dir():
        return folder / part
    if (folder / "train").is_dir() or (folder / "val").is_dir():
        return folder / "val"
    return folder


def _image_folder(
    folder: Path, split: str, image_size: int | None, subset: str | None
) -> Dataset:
    from torchvision.transforms import v2

    if subset is not None:
        subset = imagenet_subset(subset)
    place = _split_folder(folder, split, subset)
    with naming(place):
        folders = class_folders(place) if place.is_dir() else []
        labels_of = {folder.name: label for label, folder in enumerate(folders)}
        names = tuple(labels_of)
        if subset is not None:
            labels_of = match_folders(names, subset)
            names = class_names(subset)
        known = [folder for folder in folders if folder.name in labels_of]
        files = {folder.name: image_files(folder, "**/*") for folder in known}
        empty = [name for name, images in files.items() if not images]
        ensure(
            bool(files) and not empty,
            f"no images in {empty or 'sub-folders'}; {ONE_EACH}",
        )
    paths = [path for images in files.values() for path in images]
    labels = torch.tensor([labels_of[name] for name in files for _ in files[name]])
    indices = split_indices(labels, split)
    steps: list[Any] = [v2.ToDtype(torch.float32, scale=True)]
    if image_size:
        resize = v2.Resize(image_size, antialias=True)
        steps = [resize, v2.CenterCrop(image_size), *steps]
    images = read_images(
        [paths[i] for i in indices],
        v2.Compose(steps),
        "; pass image_size to resize them",
    )
    return images, labels[indices], names


# the small ones, which have no sub-folders: how each is read, and its classes
_SMALL = {
    "mnist": (_mnist, class_names("mnist")),
    "fashion-mnist": (_fashion_mnist, FASHION_MNIST_CLASSES),
    "cifar10": (_cifar10, CIFAR10_CLASSES),
}


def labelled_images(value: Any, name: str, size: int = 3) -> tuple:
    """Return (images, labels, class names, ...) as of `load_dataset`, or raise.

    Args:
        value: images (N, C, H, W) float and finite, labels (N,) >= 0 and, if there are
            three, class names, more than any label.
        name: of the argument.
        size: how many parts there must be at least.
    """
    parts = ", ".join(("images", "labels", "class names")[:size])
    checks.require(
        isinstance(value, tuple | list) and len(value) >= size,
        name,
        value,
        f"({parts})",
    )
    images, labels, *rest = value
    checks.floats(images, f"{name}: images", "NCHW")
    classes = 2**31
    if rest and rest[0] is not None:
        checks.instance(rest[0], f"{name}: class names", tuple | list)
        classes = len(rest[0])
    checks.class_indices(labels, f"{name}: labels", len(images), classes)
    checks.finite(images, f"{name}: images")
    return (images, labels, *rest)
