"""Distilled sets: one type, its files, and one loader for all published formats."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from diver_lite.assets import asset_path, list_assets
from diver_lite.checks import InputError, describe, instance, is_one_of, path, require
from diver_lite.classes import in_order_of
from diver_lite.files import atomic_path
from diver_lite.formats import FORMATS, naming, read, slug
from diver_lite.imagenet import (
    SUBSETS,
    class_names,
    dataset_name,
    imagenet_subset,
    numbered,
)
from diver_lite.normalisation import Statistics

FORMAT_VERSION = 1
_SHIPPED = "distilled/"


@dataclass(repr=False, eq=False)
class DistilledSet:
    """Hold distilled images with their labels and the record of where they come from.

    Args:
        images: (N, 3, H, W) float, black 0 and white 1; values may lie outside.
        labels: (N,) integers, indices into `class_names`.
        class_names: one name per class, in label order.
        soft_labels: (N, K) float as stored; `provenance["soft_labels"]` says whether
            they are logits or probabilities.
        provenance: what JSON can hold: source, format, what was undone.

    Raises:
        InputError: shapes, types, labels or pixel values that don't fit.

    Source: ours: one type for all methods, so that refining and judging need one path.
    """

    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...]
    soft_labels: Tensor | None = None
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.images = _checked_images(self.images)
        several = isinstance(self.class_names, tuple | list | str)
        require(several, "class_names", self.class_names, "one name per class")
        self.class_names = tuple(str(name) for name in self.class_names)
        self.labels = _checked_labels(self.labels, len(self), len(self.class_names))
        if self.soft_labels is not None:
            self.soft_labels = _checked_soft_labels(
                self.soft_labels, (len(self), len(self.class_names))
            )
        instance(self.provenance, "provenance", dict)
        try:  # through JSON, so that a set equals what it is after saving and loading
            self.provenance = json.loads(json.dumps(self.provenance))
        except (TypeError, ValueError) as error:
            raise InputError(
                f"provenance: {error}; expected what JSON can hold"
            ) from None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int | slice | Sequence[int] | Tensor) -> DistilledSet:
        """Return the chosen images as a set of their own."""
        if isinstance(index, int):
            index = [range(len(self))[index]]  # IndexError ends a for loop
        elif isinstance(index, slice):
            index = list(range(*index.indices(len(self))))
        chosen = torch.as_tensor(index).reshape(-1)
        if chosen.numel() == 0:
            raise InputError("index selects no image; expected at least one")
        return DistilledSet(
            self.images[chosen],
            self.labels[chosen],
            self.class_names,
            None if self.soft_labels is None else self.soft_labels[chosen],
            self.provenance,
        )

    def __repr__(self) -> str:
        shape = "x".join(str(size) for size in self.images.shape[1:])
        low, high = self.images.min().item(), self.images.max().item()
        return (
            f"DistilledSet({len(self)} images {shape}, {len(self.class_names)} "
            f"classes, ipc {self.ipc}, values {low:.2f}..{high:.2f}, "
            f"from {self.provenance.get('format', 'memory')})"
        )

    @property
    def ipc(self) -> int | None:
        """Images per class, or None if the classes don't have equally many."""
        counts = torch.bincount(self.labels, minlength=len(self.class_names))
        return int(counts[0]) if bool((counts == counts[0]).all()) else None

    def save(
        self,
        path: str | Path,
        overwrite: bool = False,
        *,
        dtype: torch.dtype = torch.float32,
    ) -> Path:
        """Write everything to one .safetensors file, lossless in float32.

        Args:
            path: the file, ending in .safetensors.
            overwrite: replace an existing file instead of refusing.
            dtype: how to store pixels: torch.float32, or torch.float16 at half the
                size (`load` gives float32 in both cases).

        Raises:
            InputError: wrong ending or dtype, or the file can't be written.

        Source: ours.
        """
        path = Path(path)
        if path.suffix != ".safetensors":
            raise InputError(f"output {path}: expected a name ending in .safetensors")
        if dtype not in (torch.float32, torch.float16):
            raise InputError(f"dtype {dtype}: expected torch.float32 or torch.float16")
        tensors = {"images": self.images.to(dtype), "labels": self.labels}
        if not bool(tensors["images"].isfinite().all()):
            raise InputError(
                f"dtype {dtype}: pixels beyond 65504 don't fit; use float32"
            )
        if self.soft_labels is not None:
            tensors["soft_labels"] = self.soft_labels
        rounded = {"stored_as": "float16"} if dtype == torch.float16 else {}
        header = {
            "format_version": FORMAT_VERSION,
            "class_names": self.class_names,
            "provenance": self.provenance | rounded,
        }
        with atomic_path(path, overwrite=overwrite) as temporary:
            contiguous = {name: value.contiguous() for name, value in tensors.items()}
            save_file(contiguous, temporary, {"diver_lite": json.dumps(header)})
        return path

    @classmethod
    def load(cls, path: str | Path) -> DistilledSet:
        """Read a file that `save` wrote.

        Raises:
            InputError: no such file, or not one of ours, or of a newer version.

        Source: ours.
        """
        path = Path(path)
        if not path.is_file():
            raise InputError(f"source {path}: no such file")
        try:
            with safe_open(path, framework="pt") as stored:
                metadata = (stored.metadata() or {}).get("diver_lite")
                tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise InputError(
                f"{path}: not a whole .safetensors file ({error})"
            ) from None
        if metadata is None or not {"images", "labels"} <= tensors.keys():
            raise InputError(
                f"{path}: a .safetensors file with {sorted(tensors)}, but not a "
                "distilled set; expected images, labels and 'diver_lite' metadata"
            )
        try:
            header = json.loads(metadata)
            version, names = header["format_version"], header["class_names"]
            provenance = header["provenance"]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: damaged metadata ({error})") from None
        if version > FORMAT_VERSION:
            raise InputError(
                f"{path}: format version {version} is newer than {FORMAT_VERSION}, the "
                "newest known here; update diver_lite"
            )
        with naming(path):
            images, labels = tensors["images"].float(), tensors["labels"]
            return cls(images, labels, names, tensors.get("soft_labels"), provenance)

    def to_image_folder(self, folder: str | Path, overwrite: bool = False) -> Path:
        """Write PNG files in class folders, and labels.csv, for any other tool.

        Values are clipped to [0, 1] and rounded to 8 bits, so this loses what lies
        outside; `save` doesn't. Image i becomes `{class:03d}_{name}/{i:04d}.png`.

        Raises:
            InputError: the folder exists already or can't be written.

        Source: ours.
        """
        pixels = (self.images.clamp(0, 1) * 255).round().to(torch.uint8)
        with atomic_path(folder, overwrite=overwrite) as temporary:
            temporary.mkdir()
            with (temporary / "labels.csv").open(
                "w", newline="", encoding="utf-8"
            ) as stream:
                table = csv.writer(stream, lineterminator="\n")
                table.writerow(("file", "label", "class_name"))
                for i, label in enumerate(self.labels.tolist()):
                    name = self.class_names[label]
                    file = Path(f"{label:03d}_{slug(name)}", f"{i:04d}.png")
                    (temporary / file.parent).mkdir(exist_ok=True)
                    array = pixels[i].permute(1, 2, 0).numpy()
                    Image.fromarray(array).save(temporary / file)
                    table.writerow((file.as_posix(), label, name))
        return Path(folder)


def _checked_images(images: Tensor) -> Tensor:
    if not isinstance(images, Tensor) or not images.is_floating_point():
        found = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise InputError(f"images: found {found}; expected a float tensor on [0, 1]")
    dense = images.layout is torch.strided and images.device.type != "meta"
    require(dense, "images", images, "a tensor that holds every pixel")
    if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape[2:]:
        raise InputError(
            f"images: found shape {tuple(images.shape)}; expected (N, 3, H, W) "
            "(repeat a grey channel three times)"
        )
    if len(images) == 0:
        raise InputError("images: found zero images; expected at least one")
    images = images.detach().to("cpu", torch.float32)
    broken = ~images.isfinite()
    if bool(broken.any()):
        first = int(broken.flatten(1).any(dim=1).nonzero()[0])
        raise InputError(
            f"images: found {int(broken.sum())} NaN or infinite values, the first in "
            f"image {first}; expected finite pixels"
        )
    return images


def _checked_labels(labels: Tensor, count: int, num_classes: int) -> Tensor:
    try:
        labels = torch.as_tensor(labels).detach().cpu()
    except (TypeError, ValueError, RuntimeError, NotImplementedError):
        raise InputError(
            f"labels: found {describe(labels)}; expected integer class indices"
        ) from None
    if (
        (not labels.dtype.is_signed and labels.dtype != torch.uint8)
        or (labels.is_floating_point() or labels.is_complex())
        or labels.layout is not torch.strided
    ):
        raise InputError(
            f"labels: found {labels.dtype}; expected integer class indices"
        )
    if labels.shape != (count,):
        raise InputError(
            f"labels: found shape {tuple(labels.shape)} for {count} images; "
            f"expected ({count},)"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise InputError(
            f"labels: found values {low}..{high} for {num_classes} class names; "
            f"expected 0..{num_classes - 1}"
        )
    return labels.to(torch.int64)


def _checked_soft_labels(soft_labels: Tensor, shape: tuple[int, int]) -> Tensor:
    instance(soft_labels, "soft_labels", Tensor)
    found = tuple(soft_labels.shape)
    if not soft_labels.is_floating_point() or found != shape:
        raise InputError(
            f"soft_labels: found {soft_labels.dtype} {found}; expected float {shape}, "
            "one value per image and class"
        )
    if not bool(soft_labels.isfinite().all()):
        raise InputError("soft_labels: found NaN or infinite values; expected finite")
    return soft_labels.detach().to("cpu", torch.float32)


def list_shipped() -> tuple[str, ...]:
    """Return the names of the distilled sets that ship with the package."""
    files = (Path(name) for name in list_assets(_SHIPPED))
    return tuple(file.stem for file in files if file.suffix == ".safetensors")


def find_distilled(name: str, folder: str | Path | None = None) -> DistilledSet:
    """Load a set by its name from a folder, or else a shipped one.

    Args:
        name: such as "cifar10-dsa-ipc10"; or a path, which is read as it is.
        folder: where freshly distilled sets lie as NAME.safetensors; what lies there
            comes before what ships.

    Raises:
        InputError: neither in the folder nor shipped; the message lists both places.

    Source: ours.
    """
    if folder is not None:
        path = Path(folder) / f"{name}.safetensors"
        if path.exists():
            return load_distilled(path)
        if name not in list_shipped() and not Path(name).exists():
            found = ", ".join(sorted(p.stem for p in path.parent.glob("*.safetensors")))
            raise InputError(
                f"set {name!r} does not ship, and folder {folder} holds "
                f"{found or 'no .safetensors file'}; make it with "
                "scripts/distill_sets.py"
            )
    return load_distilled(name)


def load_distilled(
    source: str | Path | Sequence[str | Path],
    *,
    format: str = "auto",
    dataset: str | None = None,
    experiment: int | None = None,
    zca: bool | None = None,
    zca_reference: Tensor | None = None,
    factor: int | None = None,
    space: str | None = None,
    normalisation: Statistics | Literal["none"] | None = None,
) -> DistilledSet:
    """Read a distilled set, shipped or published, with its normalisation undone.

    Whether pixels were normalised stands in no file: the pictures that come out are
    compared with what the data set looks like, and with the other readings. Pixels
    that lie in [0, 1] are read as they are; other doubts are warned about.

    Args:
        source: the name of a shipped set (`list_shipped()`), a file or a folder; for
            sets split over several images_*.pt, all of those files in order.
        format: a key of `FORMATS`; "auto" accepts only what is unambiguous.
        dataset: what was distilled ("cifar10", "imagefruit", ...): gives class names
            and the mean and std to undo. Default: what file or folder names say.
        experiment: dc, predd: which of the file's entries. Default: the first of
            repetitions, the last of snapshots of one run, which are told apart by the
            detail that they have in common.
        zca: mtt, datm, dd-ranking: whether pixels are ZCA-whitened. Files don't say,
            so it must be given for CIFAR and Tiny ImageNet (ImageNet subsets: False).
        zca_reference: (M, 3, H, W) in [0, 1], the real training images the whitening
            was fitted on. Without it a whitened set needs its images_zca_*.pt, which
            must be of the same run.
        factor: ncfm: tiles per side (default 2, as published; 1 keeps the canvas).
            Image i becomes images 4i..4i+3: top left, top right, bottom left, bottom
            right, each upsampled bilinearly to the canvas's size.
        space: glad: "wp" (default, decoded by the GAN) or "p" (plain pixels).
        normalisation: (mean, std) to undo instead of the known ones of `dataset`, or
            "none" for pixels that are stored as they are.

    Returns:
        The set; `provenance` records under "undone" every change to the pixels, under
        "assumed" what they were taken for, under "fit" how well that fits (see
        `normalisation.measure`), and under "doubts" what was warned about.

    Raises:
        InputError: missing, damaged or ambiguous files, files that hold code (it is
            never run), arguments that are needed or don't belong to the format, pixels
            that are neither normalised nor in [0, 1], that were not whitened as
            `zca_reference` says, or whose images_zca_*.pt is of another run.

    Warns:
        UserWarning: another reading fits much better, or a file leaves a choice open.

    Source: the repositories named at each reader.
    """
    if not is_one_of(format, ("auto", *FORMATS)):
        raise InputError(
            f"format {describe(format)}: expected 'auto' or one of {[*FORMATS]}"
        )
    paths = _find(source)
    dataset = dataset_name(dataset) if dataset else None
    given = {
        "experiment": experiment,
        "zca": zca,
        "zca_reference": zca_reference,
        "factor": factor,
        "space": space,
        "normalisation": normalisation,
    }
    options = {name: value for name, value in given.items() if value is not None}
    own = format == "diver-lite" or paths[0].suffix == ".safetensors"
    if own and format in ("auto", "diver-lite"):
        if options or len(paths) > 1:
            raise InputError(
                f"{paths[0]}: format 'diver-lite' is one file and has nothing to undo; "
                f"found {len(paths)} file(s) and {[*options]}"
            )
        stored = DistilledSet.load(paths[0])
        if dataset and stored.provenance.get("dataset") not in (None, dataset):
            raise InputError(
                f"{paths[0]}: dataset {dataset!r} was asked for, but the file says "
                f"{stored.provenance['dataset']!r}"
            )
        return stored
    with naming(paths[0]):
        return DistilledSet(**read(paths, format, dataset, options))


def as_subset(distilled: DistilledSet, subset: str) -> tuple[DistilledSet, str]:
    """Check that a set's classes are those of an ImageNet subset, and name them.

    Args:
        distilled: the set; classes that have only numbers get the subset's names,
            classes in another order the subset's order.
        subset: any spelling of an ImageNet subset, or "imagenet".

    Returns:
        The set, and the subset's canonical name: NCFM's variant if the set is NCFM's.

    Raises:
        InputError: another number of classes, or other names.

    Source: ours; label orders as in `imagenet.SUBSETS`.
    """
    subset = imagenet_subset(subset)
    if distilled.provenance.get("dataset") == f"{subset}-ncfm":
        subset = f"{subset}-ncfm"
    names, found = class_names(subset), distilled.class_names
    if len(found) != len(names):
        raise InputError(
            f"the set has {len(found)} classes; subset {subset!r} has {len(names)}"
        )
    if found == numbered(len(found)):
        return replace(distilled, class_names=names), subset
    if strange := list(Counter(found) - Counter(names)):
        (lacking, *_) = Counter(names) - Counter(found)
        fits = [name for name in SUBSETS if class_names(name) == found]
        raise InputError(
            f"the set's classes are not those of subset {subset!r}: it has "
            f"{strange[0]!r} instead of {lacking!r}"
            + (f"; they are those of {fits[0]!r}" if fits else "")
        )
    return in_order_of(distilled, names, theirs=f"subset {subset!r}"), subset


def _find(source: str | Path | Sequence[str | Path]) -> list[Path]:
    if isinstance(source, str) and source in list_shipped():
        return [asset_path(f"{_SHIPPED}{source}.safetensors")]
    several = not isinstance(source, str | Path)
    if several:
        instance(source, "source", list | tuple)
    paths = [path(item, "source") for item in (source if several else [source])]
    for file in paths:
        if not file.exists():
            shipped = ", ".join(list_shipped()) or "none"
            raise InputError(
                f"source {str(file)!r}: no such file or folder, and not the name of a "
                f"shipped set (shipped: {shipped})"
            )
    if not paths:
        raise InputError("source: found an empty list; expected at least one file")
    return paths
