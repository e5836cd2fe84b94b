"""Distilled sets: the type, its files, and how it shows itself."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from diver_lite.checks import (
    InputError,
    class_indices,
    describe,
    finite,
    floats,
    instance,
    naming,
    require,
)
from diver_lite.files import atomic_path, slug

FORMAT_VERSION = 1


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
        floats(self.images, "images", ("N", 3, "H", "W"))
        count = len(self.images)
        self.images = finite(self.images, "images").to("cpu", torch.float32)
        several = isinstance(self.class_names, tuple | list | str) and len(
            self.class_names
        )
        require(bool(several), "class_names", self.class_names, "one name per class")
        self.class_names = tuple(str(name) for name in self.class_names)
        classes = len(self.class_names)
        try:
            labels = torch.as_tensor(self.labels).detach().cpu()
        except (TypeError, ValueError, RuntimeError, NotImplementedError):
            raise InputError(
                f"labels are {describe(self.labels)}; expected integer class indices"
            ) from None
        class_indices(labels, "labels", count, classes)
        self.labels = labels.to(torch.int64)
        if self.soft_labels is not None:
            floats(self.soft_labels, "soft_labels", (count, classes))
            soft = finite(self.soft_labels, "soft_labels")
            self.soft_labels = soft.to("cpu", torch.float32)
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
        soft = None if self.soft_labels is None else self.soft_labels[chosen]
        return replace(
            self,
            images=self.images[chosen],
            labels=self.labels[chosen],
            soft_labels=soft,
        )

    def __repr__(self) -> str:
        shape = "x".join(str(size) for size in self.images.shape[1:])
        low, high = self.images.min().item(), self.images.max().item()
        return (
            f"DistilledSet({len(self)} images {shape}, {len(self.class_names)} "
            f"classes, ipc {self.ipc}, values {low:.2f}..{high:.2f}, "
            f"from {self.provenance.get('format', 'memory')})"
        )

    def with_images(self, images: Tensor, method: str, **how: Any) -> DistilledSet:
        """Return the set with other pixels (N, 3, H, W), and how they were made."""
        record = {"method": method, **how, "source": self.provenance}
        return replace(self, images=images, provenance=record)

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

        Raises `InputError`: wrong ending or dtype, or it can't be written.
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

        Raises `InputError`: no such file, not ours, or of a newer version.
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
