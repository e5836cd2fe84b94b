"""How each published method stores its distilled images, and how to undo it.

One reader per format says which repository it follows and what it undoes; nothing that
a file leaves open is guessed.
"""

from __future__ import annotations

import pickletools
import re
import warnings
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, TypeGuard

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from diver_lite import checks
from diver_lite.checks import InputError, naming
from diver_lite.sets.archives import load_numpy, unpacked
from diver_lite.sets.distilled import DistilledSet
from diver_lite.sets.folder import (
    ONE_EACH,
    class_folders,
    folder_labels,
    image_files,
    natural,
    open_images,
    stored_soft_labels,
)
from diver_lite.sets.names import (
    DATASETS,
    SUBSETS,
    TABLES,
    class_names,
    dataset_in,
    numbered,
)
from diver_lite.sets.normalisation import (
    OFTEN_WHITENED,
    RAW_OUTPUT,
    SAME_DETAIL,
    SNAPSHOT,
    SNAPSHOT_IF_NUMBERED,
    Undoing,
    denormalise,
    has_colours,
    in_unit_range,
    looks_whitened,
    same_detail,
    slow_shares,
    tiles_per_side,
)
from diver_lite.sets.stored import StoredImages, soft_kind

FORMATS = {
    "diver-lite": "our own .safetensors file",
    "dc": "DC, DSA, DM: a dict of images normalised with mean and std",
    "mtt": "MTT: images_*.pt and labels_*.pt, normalised or ZCA-whitened",
    "datm": "DATM, EDF: as MTT, with logits for labels and lr_*.pt",
    "glad": "GLaD: as MTT, normalised with GLaD's own mean",
    "ncfm": "NCFM, IDC: a list [images, labels] in [0, 1], whole or in 2x2 tiles",
    "kip": "KIP: images.npy and labels.npy, whitened in KIP's way",
    "rfad": "RFAD: an .npz with images and labels, whitened in RFAD's way",
    "image-folder": "SRe2L, CDA, G-VBSM, Minimax, IGD, MGD3, D4M, RDED: class folders",
    "dd-ranking": "DD-Ranking: a folder with images.pt, labels.pt, lr.pt",
    "predd": "PReDD, DIVER: a dict of raw decoder output in about [-1, 1]",
}
_GREY = ("mnist", "fashion-mnist")
_SPLIT = ("mtt", "datm", "glad")
_IMAGES = re.compile(r"(?<![A-Za-z])images?(?![A-Za-z])")  # in a file's name
_DECODED = 3  # raw decoder output stays within about 2, normalised sets reach 5 .. 35
_MOST_CLASSES = 100_000  # all of ImageNet has 21,841


def read(
    paths: list[Path],
    format: str,
    dataset: str | None,
    options: dict[str, Any],
    place: Path | None = None,
) -> DistilledSet:
    """Read published files, and undo and raise what `load_distilled` describes.

    Its arguments are checked already; `options` are those of the format, by name, and
    `place` is where the file was before an archive was unpacked.
    Source: the repositories named at each reader.
    """
    job = _Job(paths, dataset, format, options, place or paths[0])
    if job.path.suffix == ".zip" and job.path.is_file():
        with naming(job.path), unpacked(job.path) as folder:
            inner = _innermost(folder)
            place = job.place / inner.relative_to(folder)
            result = read([inner], format, dataset, options, place)
            if isinstance(result.images, StoredImages):  # in files that go with it
                raise InputError(
                    "its pictures fill more than a GiB; unzip it, and pass the folder"
                )
        result.provenance["source"] = job.path.name
        return result
    with naming(job.path):
        if format == "auto":
            job.format = _detect(job)
        reader, allowed = _READERS[job.format]
        for name in options:
            if name not in allowed:
                fitting = [f for f, (_, names) in _READERS.items() if name in names]
                raise InputError(
                    f"{name}= has no meaning for format {job.format!r}; it is for "
                    f"{', '.join(fitting)}"
                )
        enough = len(paths) == 1 or job.format in _SPLIT
        job.expect(enough, f"found {len(paths)} files", "one")
        return reader(job)


@dataclass
class _Job(Undoing):
    """What a reader works on: files and arguments in, the record of changes out."""

    def __post_init__(self) -> None:
        place = self.place.absolute()
        self.names = [folder.name for folder in (place, *place.parents)]
        if self.dataset is None and (found := self.named):
            self.dataset, self.record["dataset_from"] = found[0], f"name {found[1]!r}"

    @cached_property
    def named(self) -> tuple[str, str] | None:
        """The data set that the path names, and the name that does."""
        found = ((dataset_in(name), name) for name in self.names)
        return next(((dataset, name) for dataset, name in found if dataset), None)

    @property
    def called_whitened(self) -> bool | None:
        """Whether the path has the word ZCA, or No-ZCA; None: neither."""
        words = re.compile(r"(?<![a-z])(non?|without)?[-_ ]?zca(?![a-z])")
        found = (words.search(name.lower()) for name in self.names)
        return next((match[1] is None for match in found if match), None)

    @cached_property
    def payload(self) -> Any:
        self.expect(not self.path.is_dir(), "found a folder", "a file")
        return load_torch(self.path)

    def doubt_dataset(self, images: Any, labels: Tensor, hard: bool) -> None:
        """Warn of whatever speaks against the data set that the file is taken for."""
        dataset, size = self.dataset or "", min(images.shape[-2:])
        low, high = TABLES["sizes"]["imagenet" if dataset in SUBSETS else dataset]
        against = []
        named = self.named[0].removesuffix("-ncfm") if self.named else None
        if self.named and named != dataset.removesuffix("-ncfm"):
            against.append("the name {1!r} says {0!r}".format(*self.named))
        if not low <= size <= high:
            wanted = f"{low}" if low == high else f"{low} to {high}"
            against.append(f"its images have {size} pixels a side (expected {wanted})")
        known, found = len(class_names(dataset)), len(labels.unique())
        if hard and found < known:
            against.append(f"it has {found} classes (expected {known})")
        if dataset in _GREY and has_colours(images[:100]):
            against.append("its pixels have colours (expected grey)")
        if against:
            self.doubt(f"taken for {dataset!r}, but {'; '.join(against)}")

    def doubt_names(self, names: Sequence[str]) -> None:
        """Warn of classes that have no names, and say what gives them some."""
        if not all(re.fullmatch(r"[A-Za-z]*[-_ ]?\d+", name) for name in names):
            return
        count = len(names)
        sets = [self.named[0]] if self.named else DATASETS
        sets = [name for name in sets if name != "imagenet" or count == 1000]
        fits = [name for name in sets if len(class_names(name)) == count]
        advice = "dataset= (--dataset) if they are a known data set's"
        if len(fits) == 1:
            advice = f"dataset={fits[0]!r} (--dataset {fits[0]}) if they are its"
        self.doubt(f"nothing names the {count} classes; pass {advice}")

    def expect(self, condition: bool, found: str, expected: str) -> None:
        """Raise unless what was found is as the format has it."""
        if not condition:
            raise InputError(f"{found}; format {self.format!r} expects {expected}")

    def entries(self) -> list[Any]:
        """Return what 'data' lists in a DatasetCondensation dict."""
        data = self.payload.get("data") if isinstance(self.payload, dict) else None
        data = data if isinstance(data, list) else []
        expected = "a dict whose 'data' lists [images, labels]"
        self.expect(len(data) > 0, f"found {_describe(self.payload)}", expected)
        return data

    def dict_pair(self) -> tuple[Tensor, Tensor]:
        """Return images and labels of a DatasetCondensation dict."""
        data = self.entries()
        kind, last = _kind_of_entries(data, self.path), len(data) - 1
        chosen = self.options.get("experiment", last if kind == "snapshots" else 0)
        chosen = checks.integer(chosen, "experiment", 0, last)
        self.record |= {"experiment": chosen, "experiments": len(data)}
        self.record |= {"entries_are": kind} if kind else {}
        if kind == "snapshots" and "experiment" not in self.options:
            self.doubt(
                f"'data' lists {len(data)} snapshots of one run: the last, {last}, was "
                "taken, to which stored accuracies belong; experiment= chooses another"
            )
        return _pair(data[chosen])

    def finish(
        self, images: Any, labels: Tensor, names: Sequence[str] = (), logits=False
    ) -> DistilledSet:
        """Give images three channels, split hard from soft labels, add the record."""
        soft, count = None, len(images)
        if labels.ndim == 2 and labels.is_floating_point():
            soft, labels = labels, labels.argmax(dim=1)
            self.record["soft_labels"] = "logits" if logits else soft_kind(soft)
            if count % soft.shape[1] == 0:  # does the order say another class?
                order = _class_major(count, soft.shape[1])
                self.record["argmax_not_class_major"] = int((labels != order).sum())
        if images.shape[1] == 1:
            images = images.repeat(1, 3, 1, 1)
            self.undone["grey"] = "one channel repeated to three"
        classes = int(labels.max()) + 1 if soft is None else soft.shape[1]
        if self.dataset:
            names = names or class_names(self.dataset)
            self.doubt_dataset(images, labels, hard=soft is None)
        names = tuple(names or numbered(classes))
        if self.dataset is None:
            self.doubt_names(names)
        provenance = {
            "format": self.format,
            "source": ", ".join(path.name for path in self.paths),
            "dataset": self.dataset,
            "undone": self.undone,
            **self.record,
        }
        return DistilledSet(images, labels, names, soft, provenance)


def _describe(item: Any) -> str:
    if isinstance(item, Tensor) and not item.is_nested:
        return f"a {item.dtype} tensor of shape {tuple(item.shape)}"
    size = f" of {len(item)}" if isinstance(item, list | tuple) else ""
    if isinstance(item, dict):
        size = f" with keys {[key for key in item if isinstance(key, str)][:9]}"
    return f"a {type(item).__name__}{size}"


def _pair(item: Any) -> tuple[Tensor, Tensor]:
    if not isinstance(item, list | tuple) or len(item) != 2:
        raise InputError(f"found {_describe(item)}; expected [images, labels]")
    images = _pixels(item[0])
    return images, _labels(item[1], len(images))


def _tensor(item: Any, name: str) -> Tensor:
    """Return a tensor, all of whose values are in the file."""
    checks.instance(item, name, Tensor)
    if item.is_nested or item.is_meta or item.is_quantized or item.is_sparse:
        raise InputError(f"{name} is nested, sparse, quantised or has no values")
    if item.layout is torch.strided:
        stored = item.untyped_storage().nbytes()  # fewer if values are repeated
        if item.nbytes > max(16 * stored, 2**20):
            found = f"{item.nbytes:,} bytes, of which the file has {stored:,}"
            raise InputError(f"{name} is of {found}; expected all of them")
    return item.detach()


def _pixels(item: Any) -> Tensor:
    images = _tensor(item, "images")
    checks.floats(images, "images", "NCHW")
    known = images.shape[1] in (1, 3)
    checks.require(known, "images", images, "1 or 3 channels (N, C, H, W)")
    return images


def _labels(item: Any, count: int) -> Tensor:
    """Return class indices (N,), or floats (N, K), for so many images."""
    labels = _tensor(item, "labels")
    if (
        labels.ndim == 1
        and labels.is_floating_point()
        and bool((labels % 1 == 0).all())
    ):
        labels = labels.to(torch.int64)  # DC-BENCH, DataDAM
    if labels.ndim == 2:
        checks.floats(labels, "labels", (count, "K"))
        checks.integer(labels.shape[1], "labels: K", 1, _MOST_CLASSES)
    else:
        checks.class_indices(labels, "labels", count, _MOST_CLASSES)
    return labels


def _class_major(count: int, num_classes: int) -> Tensor:
    return torch.arange(num_classes).repeat_interleave(count // num_classes)


# --- One reader per format ---------------------------------------------------------


def _read_dc(job: _Job) -> DistilledSet:
    """Read VICO-UoE/DatasetCondensation (DC, DSA, DM) and PReDD's dm_base.py.

    Undone: mean and std of the data set; a single grey channel.
    """
    images, labels = job.dict_pair()
    hard = labels.ndim == 1 and not labels.is_floating_point()
    job.expect(hard, f"labels: found {_describe(labels)}", "integers (N,)")
    return job.finish(job.undo(images, "dc"), labels)


def _read_trajectory(job: _Job) -> DistilledSet:
    """Read GeorgeCazenavette/mtt-distillation, and NUS-HPC-AI-Lab/DATM and EDF.

    The latter have logits for labels: their trainers apply a softmax to them. Undone:
    mean and std of the data set, or ZCA whitening.
    """
    images, labels = _trajectory(job)
    soft, expected = labels.is_floating_point(), "integers ('datm' has logits)"
    fits, lr = not soft, None  # MTT's was learned, but never saved
    if job.format == "datm":
        expected = "float logits (N, K) ('mtt' has integers)"
        fits, lr = soft and labels.ndim == 2, _learned_lr(job)
    job.expect(fits, f"labels: found {_describe(labels)}", expected)
    job.record["lr"] = lr
    return job.finish(_undo_zca_or_mean(job, images), labels, logits=True)


def _read_dd_ranking(job: _Job) -> DistilledSet:
    """Read NUS-HPC-AI-Lab/DD-Ranking's folder; without labels.pt: class-major.

    Undone: mean and std of the data set, or ZCA whitening.
    """
    if job.path.is_dir():
        job.paths = [job.path / "images.pt"]
    named = _IMAGES.search(job.path.stem)
    if (named and _partner(job.path, "labels").is_file()) or _is_both(job.payload):
        images, labels = _trajectory(job)
    elif job.dataset is None:
        raise InputError("without labels.pt the classes are unknown; pass dataset=")
    else:
        images, classes = _pixels(job.payload), len(class_names(job.dataset))
        if len(images) % classes:
            raise InputError(
                f"found {len(images)} images and no labels.pt; expected a multiple of "
                f"the {classes} classes of {job.dataset!r}, in class-major order"
            )
        labels = _class_major(len(images), classes)
        job.record["labels_from"] = "class-major order"
    job.record["lr"] = _learned_lr(job)
    return job.finish(_undo_zca_or_mean(job, images), labels)


def _read_glad(job: _Job) -> DistilledSet:
    """Read GeorgeCazenavette/glad.

    Undone: GLaD's own mean and std (space "wp"), or the data set's (space "p").
    """
    job.record["space"] = space = job.options.get("space", "wp")
    checks.one_of(space, "space", ("wp", "p"))
    images, labels = _trajectory(job)
    return job.finish(job.undo(images, "glad" if space == "wp" else "mtt"), labels)


def _read_ncfm(job: _Job) -> DistilledSet:
    """Read gszfwsb/NCFM, whose pixels are in [0, 1] already.

    Undone: `factor` x `factor` tiles per image become images of their own.
    """
    images, labels = _pair(job.payload)
    low, high = images.min().item(), images.max().item()
    outside = low < -0.05 or high > 1.05  # NaN isn't: the set says where it is
    job.expect(not outside, f"found values {low:.2f}..{high:.2f}", "[0, 1]")
    images = job.as_stored(images)
    if (factor := job.options.get("factor")) is None:
        factor = tiles_per_side(images)
        if factor == 1:
            job.doubt(
                "nothing in the pictures looks like the edge of a tile, so they are "
                "read whole; factor=2 cuts each into NCFM's 2 x 2 tiles"
            )
    highest = min(images.shape[-2:])
    factor = checks.integer(factor, "factor (tiles per side)", 1, highest)
    if factor > 1:
        images = _split_tiles(images, factor)
        labels = labels.repeat_interleave(factor**2, dim=0)
        job.undone["tiles"] = {"factor": factor, "order": "per image, row by row"}
    told = factor > 1 or "factor" in job.options
    if told and f"{job.dataset}-ncfm" in SUBSETS:  # one class differs from the usual
        job.dataset = f"{job.dataset}-ncfm"
    return job.finish(images, labels)


def _read_predd(job: _Job) -> DistilledSet:
    """Read what PReDD and DIVER write: the VAE decoder's output as it is.

    Undone: the decoder's range, x -> (x + 1) / 2.
    """
    images, labels = job.dict_pair()
    largest = images.abs().max().item()
    expected = "about [-1, 1] (normalised images with a 'res' are format 'dc')"
    job.expect(not largest > _DECODED, f"found values up to {largest:.1f}", expected)
    if in_unit_range(images):  # a decoder's blacks are at -1
        job.doubt("all values lie in [0, 1] instead of [-1, 1]: read as stored")
        return job.finish(job.as_stored(images), labels)
    job.undone["range"] = "[-1, 1] to [0, 1]"
    images = denormalise(images, RAW_OUTPUT)
    job.judge(images, "decoder output in [-1, 1]")
    return job.finish(images, labels)


def _read_numpy(job: _Job) -> DistilledSet:
    """Read KIP (google-research/kip, DC-BENCH) and yolky/RFAD.

    Undone: their whitening, given the real images. KIP also brings each image to mean 0
    and norm 1, and doesn't say what they were: all get the average real image's.
    """
    if job.path.is_dir():
        job.paths = [job.path / "images.npy"]
    arrays = load_numpy(job.path)
    if job.path.suffix == ".npy":
        arrays |= load_numpy(_partner(job.path, "labels"))
        arrays = {
            re.sub(r".*(images|labels).*", r"\1", n): a for n, a in arrays.items()
        }
    lacking = {"images", "labels"} - {*arrays}
    job.expect(not lacking, f"found arrays {[*arrays][:9]}", "'images' and 'labels'")
    images = arrays["images"]
    if images.ndim == 4 and images.shape[-1] in (1, 3) and images.shape[1] > 3:
        images = images.permute(0, 3, 1, 2)  # stored as (N, H, W, C)
    images = _pixels(images).float()
    labels = _labels(arrays["labels"], len(images))
    if job.options.get("normalisation") == "none":
        images = job.as_stored(images)
    elif (reference := job.options.get("zca_reference")) is not None:
        images = job.undo_kip(images, reference, unit_norm=job.format == "kip")
    else:
        raise InputError(
            "the pixels are whitened; pass the real training images as zca_reference= "
            "(--read zca_reference=cifar10, for example)"
        )
    return job.finish(images, labels)


def _read_image_folder(job: _Job) -> DistilledSet:
    """Read class folders of images: SRe2L, CDA, G-VBSM, Minimax, IGD, MGD3, D4M, ours.

    Undone: 8 or 16 bits to [0, 1]; of tensors, one .pt an image as some of RDED's, mean
    and std of the data set. SRe2L's relabelling (FKD) is tied to its own
    training loop and stays where it is.
    """
    job.expect(job.path.is_dir(), "found a file", "a folder")
    job.paths = [_innermost(job.path)]
    if job.record.pop("dataset_from", None):  # too weak a hint to name classes by
        job.dataset = None
    inside = sorted(class_folders(job.path), key=natural)
    files = {f.name: sorted(image_files(f), key=natural) for f in inside}
    tensors = not any(files.values()) and not any(_runs(f) for f in inside)
    if tensors:
        files = {f.name: sorted(f.glob("*.pt"), key=natural) for f in inside}
    folders = [name for name, images in files.items() if images]
    if not folders:
        raise InputError(
            f"found {len(files)} folders and no images directly in them; {ONE_EACH}"
        )
    fits = tensors or "normalisation" not in job.options
    job.expect(fits, "normalisation= was given", "none of pictures")
    if len(folders) < len(files):  # FKD labels, for example
        job.record["folders_left_out"] = [name for name in files if name not in folders]
    labels, names, told_by = folder_labels(job.path, folders, job.dataset)
    job.record["labels_from"] = told_by
    order = sorted(zip(labels, folders, strict=True))
    paths = [path for _, folder in order for path in files[folder]]
    targets = [label for label, folder in order for _ in files[folder]]
    images = job.undo(_stacked(paths), "dc") if tensors else open_images(paths)
    result = job.finish(images, torch.tensor(targets), names)
    if (soft := stored_soft_labels(job.path, paths)) is None:
        return result
    kind = {"soft_labels": soft_kind(soft)}
    return replace(result, soft_labels=soft, provenance=result.provenance | kind)


_ZCA = ("normalisation", "zca", "zca_reference")
_NUMPY = ("normalisation", "zca_reference")
# format -> its reader, and the arguments of `load_distilled` that have a meaning for it
_READERS: dict[str, tuple[Callable[[_Job], DistilledSet], tuple[str, ...]]] = {
    "dc": (_read_dc, ("experiment", "normalisation")),
    "mtt": (_read_trajectory, _ZCA),
    "datm": (_read_trajectory, _ZCA),
    "glad": (_read_glad, ("space", "normalisation")),
    "ncfm": (_read_ncfm, ("factor",)),
    "kip": (_read_numpy, _NUMPY),
    "rfad": (_read_numpy, _NUMPY),
    "image-folder": (_read_image_folder, ("normalisation",)),
    "dd-ranking": (_read_dd_ranking, _ZCA),
    "predd": (_read_predd, ("experiment",)),
}


# --- What several readers share ----------------------------------------------------


def _trajectory(job: _Job) -> tuple[Tensor, Tensor]:
    """Read images_*.pt with its labels_*.pt, or several of them one after another."""
    if job.path.is_dir():
        job.paths = [_best(job.path)]
    images, labels = zip(*map(_with_labels, job.paths), strict=True)
    return _joined(images, "images"), _joined(labels, "labels")


def _with_labels(path: Path) -> tuple[Tensor, Tensor]:
    """Read images, and the labels that lie in the same file or in that beside it."""
    content = load_torch(path)
    if _is_both(content):
        return _pair([content["images"], content["labels"]])
    images, partner = _pixels(content), _partner(path, "labels")
    with naming(partner):
        return images, _labels(load_torch(partner), len(images))


def _is_both(content: Any) -> TypeGuard[dict[str, Any]]:
    return isinstance(content, dict) and {"images", "labels"} <= {*content}


def _stacked(paths: list[Path]) -> Tensor:
    """Return (N, C, H, W) of files that hold a picture each."""
    pictures = []
    for path in paths:
        with naming(path):
            picture = _tensor(load_torch(path), "picture")
            picture = _pixels(picture[None] if picture.ndim == 3 else picture)
            checks.require(len(picture) == 1, "picture", picture, "one a file")
            pictures.append(picture)
    return _joined(pictures, "images")


def _joined(parts: Sequence[Tensor], name: str) -> Tensor:
    shapes = {tuple(part.shape[1:]) for part in parts}
    if len(shapes) > 1:
        raise InputError(f"split files differ in shape: {name} {sorted(shapes)}")
    return torch.cat([*parts])


def _best(folder: Path) -> Path:
    files = sorted((f for f in _runs(folder) if "_zca_" not in f.name), key=natural)
    if (folder / "images_best.pt") in files:
        return folder / "images_best.pt"
    if len(files) != 1:
        raise InputError(
            f"found {len(files)} files images_*.pt and no images_best.pt; pass the one "
            "you want, or a list of files if the set is split"
        )
    return files[0]


def _runs(folder: Path) -> list[Path]:
    """Return images_best.pt, images_500.pt, X_images.pt, 10images.pt and the like."""
    return [file for file in folder.glob("*.pt") if _IMAGES.search(file.stem)]


def _partner(images: Path, kind: str) -> Path:
    """Return the labels, lr or inverse-whitened file that belongs to an images file."""
    stem = images.name.replace("images_zca_", "images_")
    if not _IMAGES.search(images.stem):
        raise InputError(
            f"file name {images.name!r}: expected images_*.pt, images.pt or *images.pt"
        )
    names = [_IMAGES.sub(spelt, stem) for spelt in (kind, kind.removesuffix("s"))]
    paths = [images.with_name(name) for name in names]
    return next((path for path in paths if path.is_file()), paths[0])


def _learned_lr(job: _Job) -> float | None:
    if not _IMAGES.search(job.path.stem):
        return None  # a dict of everything
    path = _partner(job.path, "lr")
    if not path.exists():
        return None
    with naming(path):
        lr = _tensor(load_torch(path), "lr")
        checks.require(lr.numel() == 1, "lr", lr, "one number")
        return checks.number(lr.item(), "lr", 0)


def _undo_zca_or_mean(job: _Job, images: Tensor) -> Tensor:
    """Undo whichever of the two was done; the file itself can't tell."""
    zca, reference = job.options.get("zca"), job.options.get("zca_reference")
    checks.require(isinstance(zca, bool | None), "zca", zca, "True or False")
    normalised = "normalisation" in job.options
    if (normalised and zca) or (reference is not None and (normalised or zca is False)):
        raise InputError(
            "normalisation= and zca=False are for pixels that are not whitened, "
            "zca=True and zca_reference= for those that are; pass one of them"
        )
    if all(path.name.startswith("images_zca_") for path in job.paths):
        return _writers_inverse(job, images, given=True)
    evidence = slow_shares(images)
    if reference is not None:
        return job.undo_zca(images, reference, evidence)
    if zca:
        return _writers_inverse(job, images, given=False, **evidence)
    exact = job.exact(images) is not None
    looks = not exact and looks_whitened(images)
    if zca is None and not normalised:
        if not exact and not in_unit_range(images):
            _ask_whether_whitened(job, looks)
        job.record["zca_assumed"] = False
    read = job.undo(images, "mtt", **evidence)
    if looks and job.dataset not in SUBSETS and job.undone:
        job.doubt(
            "mean and std were undone, but the pixels look ZCA-whitened: only "
            f"{evidence['waves']:.0%} of the variance is in slow waves; pass zca=True, "
            "or the real training images as zca_reference="
        )
    return read


def _ask_whether_whitened(job: _Job, looks: bool | None) -> None:
    """Raise if pixels are called whitened or look so, or if nothing tells."""
    ask = "pass the real training images as zca_reference=, or zca=True or zca=False"
    often = f"{job.dataset} sets of this format are often ZCA-whitened"
    called = job.called_whitened
    if called:
        raise InputError(f"the path calls the pixels ZCA-whitened; {ask}")
    if job.dataset not in OFTEN_WHITENED:
        return
    if looks:
        raise InputError(f"{often}, and these look whitened; {ask}")
    if called is None and looks is None:
        raise InputError(
            f"{often}, which the file doesn't tell; pass zca=True or zca=False"
        )
    if called is None:
        job.doubt(f"{often}; these don't look so and are read as normalised alone")


def _writers_inverse(
    job: _Job, images: Tensor, given: bool, **evidence: float
) -> Tensor:
    """Return the writer's copy with whitening undone, images_zca_*.pt, as it is.

    It was `given`, with its labels beside images_*.pt, or it must lie beside those.
    """
    others = [_partner(path, "images" if given else "images_zca") for path in job.paths]
    absent = [path.name for path in others if not path.is_file()]
    if absent and not given:
        raise InputError(
            f"zca=True, but its inverse-whitened copy {absent[0]} is absent; pass "
            "images_zca_{iteration}.pt itself, or the real training images as "
            "zca_reference="
        )
    job.undone["zca"] = "by the file's writer (images_zca_*.pt)"
    if not absent:
        other = _joined([_pixels(load_torch(path)) for path in others], "images")
        alike = same_detail(images, other) if other.shape == images.shape else 0.0
        job.record["zca_detail"] = round(alike, 3)
        found = (
            f"{others[0].name} is of another run: its finest detail correlates "
            f"{alike:.2f} with this file's, 0.99 if they were of the same one"
        )
        if alike < SAME_DETAIL and not given:
            advice = "pass the real training images as zca_reference="
            raise InputError(f"zca=True, but {found}; {advice}")
        if alike < SAME_DETAIL:
            job.doubt(f"{found}: the labels beside it may not be those of these images")
        if not given:
            images = other
            job.undone["zca"] = f"read from {', '.join(path.name for path in others)}"
    return job.as_stored(images, "ZCA whitening, undone by the writer", **evidence)


def _kind_of_entries(data: list[Any], path: Path) -> str | None:
    """Tell snapshots, which have detail in common, from repetitions; None for one."""
    if len(data) < 2:
        return None
    sets = [_pair(entry)[0] for entry in data]
    if len({images.shape for images in sets}) > 1:
        return "repetitions"
    iteration = re.search(r"_\d+\.pt$", path.name)
    limit = SNAPSHOT_IF_NUMBERED if iteration else SNAPSHOT
    likeness = median(same_detail(*pair) for pair in pairwise(sets))
    return "snapshots" if likeness > limit else "repetitions"


def _innermost(folder: Path) -> Path:
    """Enter folders of nothing but one file, or one folder of class folders or runs."""
    inside = [p for p in folder.iterdir() if p.name[0] not in "._"]
    folders = [p for p in inside if p.is_dir()]
    pictures = [p for p in inside if p.is_file() and p.suffix != ".md"]
    alone = folders[0] if len(folders) == 1 and not pictures else None
    if alone and (class_folders(alone) or _runs(alone)):
        return _innermost(alone)
    return pictures[0] if len(pictures) == 1 and not folders else folder


def _split_tiles(images: Tensor, factor: int) -> Tensor:
    """Return (N * factor^2, C, H, W): NCFM's decode_zoom, but image by image."""
    height, width = images.shape[-2:]
    padded = F.pad(images, (0, -width % factor, 0, -height % factor), value=0.5)
    rows = padded.chunk(factor, dim=2)
    tiles = torch.stack([t for row in rows for t in row.chunk(factor, dim=3)], dim=1)
    return F.interpolate(
        tiles.flatten(0, 1), size=(height, width), mode="bilinear", align_corners=False
    )


# --- Detection ---------------------------------------------------------------------


def _detect(job: _Job) -> str:
    """Name the format if only one fits; otherwise say which ones could."""
    path = job.path
    if path.is_dir():
        if (path / "images.pt").is_file():
            return "dd-ranking"
        if (path / "images.npy").is_file():
            return "kip"
        if _runs(path):
            return _detect_trajectory(job, _best(path))
        if any(child.is_dir() for child in path.iterdir()):
            return "image-folder"
        strange = next((file.name for file in path.glob("*.*")), "nothing")
        raise InputError(
            f"the folder holds neither images*.pt nor class folders, but {strange}"
        )
    if path.suffix in (".npy", ".npz"):
        return "kip" if path.suffix == ".npy" else "rfad"
    payload = job.payload
    if isinstance(payload, dict) and "data" in payload:
        if path.name.startswith("imagenet_distill_"):
            return "predd"
        by_name = re.match(r"res_(\d+_)?(DC|DSA|DM)_", path.name)
        if by_name or "accs_all_exps" in payload:
            return "dc"
        if _pair(job.entries()[0])[0].abs().max().item() > _DECODED:
            return "dc"
        raise _ambiguous(_describe(payload), "dc", "predd")
    if isinstance(payload, list | tuple) and len(payload) == 2:
        return "ncfm"
    if isinstance(payload, Tensor):
        return _detect_trajectory(job, path)
    if _is_both(payload):
        soft = isinstance(payload["labels"], Tensor) and payload["labels"].ndim == 2
        return "dd-ranking" if soft else "mtt"
    raise InputError(
        f"found {_describe(payload)}, which no known format has; formats: {[*FORMATS]}"
    )


def _detect_trajectory(job: _Job, images: Path) -> str:
    if images.name == "images.pt":
        return "dd-ranking"
    labels = load_torch(_partner(images, "labels"))
    checks.instance(labels, "labels", Tensor)
    if labels.ndim == 2 and labels.is_floating_point():
        return "datm"
    iteration = re.fullmatch(r"images_(\d+)\.pt", images.name)
    if iteration and re.fullmatch(r"0\d{4}", iteration[1]):
        return "glad"  # it pads iterations with zeros to five digits
    if "images_zca_" in images.name or (iteration and len(iteration[1]) < 5):
        return "mtt"
    pixels = _pixels(job.payload if images == job.path else load_torch(images))
    if job.dataset is None and not in_unit_range(pixels):
        raise _ambiguous(f"{images.name} with hard labels", "mtt", "glad")
    glads = job.is_glads(pixels)
    found, other = ("glad", "mtt") if glads else ("mtt", "glad")
    if glads is None:
        return found
    job.doubt(
        f"{images.name} with hard labels may be MTT's or GLaD's: taken for {found!r}, "
        f"as its mean and std fit; format={other!r} reads it as the other"
    )
    return found


def _ambiguous(found: str, *formats: str) -> InputError:
    readings = "; ".join(f"{name!r} is {FORMATS[name]}" for name in formats)
    return InputError(f"{found} fits several formats; pass format= ({readings})")


# --- Files from strangers ----------------------------------------------------------

# DatasetCondensation stores accuracies as numpy scalars; these names can build a number
# and nothing else. Older files spell the module without underscore.
_NUMPY_SCALARS: list[Any] = [
    (np.float64(0).__reduce__()[0], "numpy.core.multiarray.scalar"),
    (np.float64(0).__reduce__()[0], "numpy._core.multiarray.scalar"),
    np.dtype,
    type(np.dtype(np.float64)),
]


def load_torch(path: Path) -> Any:
    """Read what torch.save wrote, and never run code that the file may hold.

    Raises `InputError` if it is missing, damaged, not from torch.save, or holds code.

    Source: ours: published sets are pickles, and a pickle can run anything.
    """
    with naming(path, "tensors from torch.save"):
        with path.open("rb") as stream:
            head = stream.read(12)
        known = torch.serialization.safe_globals(_NUMPY_SCALARS)
        try:
            with known, warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about pickle protocols
                return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged file can fail in any way
            code = re.findall(r"GLOBAL ([\w.]+)", str(error)) or _imports(path)
            if not head:
                found = "the file is empty (0 bytes)"
            elif code:
                found = f"the file holds code ({code[0]}), which was not executed"
            elif head.startswith(b"PK") and not zipfile.is_zipfile(path):
                found = "the file is truncated or damaged (a zip archive without end)"
            elif head.startswith(b"\x93NUMPY"):
                found = "the file is a NumPy array, of formats 'kip' and 'rfad' only"
            elif re.match(rb"[\x81-\x8f\xde\xdf].{0,4}[\xa1-\xbf\xd9]", head, re.S):
                found = (
                    "the file is msgpack (RCIG's), which isn't read here; store its "
                )
                found += "x_proto and y_proto as images and labels of an .npz (RFAD's)"
            elif head.startswith((b"PK", b"\x80")):
                found = "the file is damaged, or not from torch.save"
            elif head.startswith(b"version http"):
                found = "the file is a Git LFS pointer, not the data it points to"
            else:
                found = f"the file is not a torch file (it begins with {head!r})"
            raise InputError(f"{found}; expected tensors from torch.save") from None


def _imports(path: Path) -> list[str]:
    """List what a bare pickle would import: torch stops at opcodes it doesn't know."""
    strings, found = [], []
    try:
        with path.open("rb") as stream:
            start = stream.read(2**20)
        for opcode, argument, _ in pickletools.genops(start):
            if opcode.name == "STACK_GLOBAL":
                found.append(".".join(strings[-2:]))
            elif isinstance(argument, str) and opcode.name == "GLOBAL":
                found.append(argument.replace(" ", "."))
            elif isinstance(argument, str):
                strings.append(argument)
    except ValueError:
        pass  # not a pickle, or only the beginning of one
    ours = ("torch.", "collections.")
    return [name for name in found if name and not name.startswith(ours)]
