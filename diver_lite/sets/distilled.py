"""Distilled sets: the type, its files, and how it shows itself."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from diver_lite.checks import (
    InputError,
    check_text,
    class_indices,
    describe,
    ensure,
    first_line,
    instance,
    integer,
    naming,
    printable,
    require,
)
from diver_lite.files import atomic_path
from diver_lite.sets import stored as on_disk
from diver_lite.sets.stored import StoredImages, checked

FORMAT_VERSION = 1
INDEX = "set.safetensors"  # of a folder of numbered files: all but the pixels


@dataclass(repr=False, eq=False)
class DistilledSet:
    """Hold distilled images with their labels and the record of where they come from.

    Args:
        images: (N, 3, H, W) float, black 0 and white 1; values may lie outside. Or
            `StoredImages`.
        labels: (N,) integers, indices into `class_names`.
        class_names: one name per class, in label order.
        soft_labels: (N, K) float as stored; `provenance["soft_labels"]` says whether
            they are logits or probabilities.
        provenance: what JSON can hold: source, format, what was undone.

    Raises:
        InputError: shapes, types, labels or pixel values that don't fit.

    Warns:
        UserWarning: pixels that look like 0 .. 255 or -1 .. 1.

    Source: ours: one type for all methods, so that refining and judging need one path.
    """

    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...]
    soft_labels: Tensor | None = None
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.images, StoredImages):  # checked as they are read
            self.images = checked(self.images, "images", ("N", 3, "H", "W"))
            on_disk.doubt_scale(self.images)
        names = self.class_names
        require(
            isinstance(names, tuple | list) and len(names) > 0,
            "class_names",
            names,
            "one name per class",
        )
        self.class_names = tuple(map(str, names))
        for name in self.class_names:
            check_text(name, "class_names: one of them")
        try:
            labels = torch.as_tensor(self.labels, device="cpu").detach()
        except (TypeError, ValueError, RuntimeError, NotImplementedError):
            raise InputError(
                f"labels are {describe(self.labels)}; expected integer class indices"
            ) from None
        class_indices(labels, "labels", len(self), len(names))
        self.labels = labels.to(torch.int64)
        if self.soft_labels is not None:
            shape = (len(self), len(names))
            self.soft_labels = checked(self.soft_labels, "soft_labels", shape)
        instance(self.provenance, "provenance", dict)
        try:  # through JSON, so that a set equals what it is after saving and loading
            self.provenance = json.loads(json.dumps(self.provenance))
        except (TypeError, ValueError, RecursionError) as error:
            raise InputError(
                f"provenance: {first_line(error)}; expected what JSON can hold"
            ) from None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int | slice | Sequence[int] | Tensor) -> DistilledSet:
        """Return the chosen images as a set of their own."""
        if isinstance(index, int | slice):
            index = range(len(self))[index]  # IndexError ends a for loop
        chosen = torch.as_tensor(index, device="cpu").reshape(-1)
        ensure(chosen.numel() > 0, "index selects no image; expected at least one")
        tensors = {"images": self.images, "labels": self.labels}
        if self.soft_labels is not None:
            tensors["soft_labels"] = self.soft_labels
        return replace(self, **{name: t[chosen] for name, t in tensors.items()})

    def __repr__(self) -> str:
        shape = "x".join(str(size) for size in self.images.shape[1:])
        values = "in their files"
        if not isinstance(self.images, StoredImages):
            values = f"{self.images.min().item():.2f}..{self.images.max().item():.2f}"
        return (
            f"DistilledSet({len(self)} images {shape}, {len(self.class_names)} "
            f"classes, ipc {self.ipc}, values {values}, "
            f"from {printable(str(self.provenance.get('format', 'memory')))})"
        )

    def _repr_html_(self) -> str:
        from diver_lite.sets.sheet import as_html

        return as_html(self)

    def with_images(self, images: Tensor, method: str, **how: Any) -> DistilledSet:
        """Return the set with other pixels (N, 3, H, W), and how they were made."""
        record = {"method": method, **how, "source": self.provenance}
        return replace(self, images=images, provenance=record)

    @property
    def ipc(self) -> int | None:
        """Images per class, or None if the classes don't have equally many."""
        counts = torch.bincount(self.labels, minlength=len(self.class_names))
        if bool((counts == counts[0]).all()):
            return int(counts[0])
        return None

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
        ensure(
            path.suffix == ".safetensors",
            f"output {path}: expected a name ending in .safetensors",
        )
        ensure(
            dtype in (torch.float32, torch.float16),
            f"dtype {dtype}: expected torch.float32 or torch.float16",
        )
        images = self.images.to(dtype)
        ensure(
            bool(images.isfinite().all()),
            f"dtype {dtype}: pixels beyond 65504 don't fit; use float32",
        )
        record = self.provenance
        if dtype == torch.float16:
            record = record | {"stored_as": "float16"}
        with atomic_path(path, overwrite=overwrite) as temporary:
            self._write(temporary, {"images": images}, record)
        return path

    def save_index(self, folder: str | Path, rows: int) -> None:
        """Write all but the pixels beside files that hold `rows` images each.

        The files are `000000.safetensors` and so on; `load(folder)` opens them.
        """
        with atomic_path(Path(folder) / INDEX, overwrite=True) as temporary:
            self._write(temporary, {}, self.provenance, rows=rows)

    def _write(self, path: Path, tensors: dict, provenance: dict, **more: Any) -> None:
        tensors = tensors | {"labels": self.labels}
        if self.soft_labels is not None:
            tensors["soft_labels"] = self.soft_labels
        contiguous = {name: value.contiguous() for name, value in tensors.items()}
        header = {
            "format_version": FORMAT_VERSION,
            "class_names": self.class_names,
            "provenance": provenance,
            **more,
        }
        save_file(contiguous, path, {"diver_lite": json.dumps(header)})

    @classmethod
    def load(cls, path: str | Path) -> DistilledSet:
        """Read what `save` wrote, or a folder of numbered files with an index.

        Pixels of a folder, or of a file with more than a GiB of them, stay where they
        are: `StoredImages`. Raises `InputError`: no such file, not ours, damaged, or of
        a newer version.
        """
        path = Path(path)
        numbered = path.is_dir()
        file = path / INDEX if numbered else path
        with naming(file, on_disk.WHOLE), safe_open(file, "pt") as stored:
            names = sorted({"images", "labels", "soft_labels"} & {*stored.keys()})
            header = _header(stored.metadata(), names, numbered)
            about = {name: header[name] for name in ("class_names", "provenance")}
            if not numbered:
                shape = stored.get_slice("images").get_shape()
                if 4 * math.prod(shape) > on_disk.LARGE:
                    names.remove("images")
            tensors = {name: stored.get_tensor(name) for name in names}
        with naming(file):
            if numbered:
                rows = integer(header.get("rows"), "rows of a file", 1)
                count = tensors["labels"].numel()
                require(count > 0, "labels", tensors["labels"], "one for each image")
                files = [
                    path / f"{i:06d}.safetensors" for i in range(-(-count // rows))
                ]
                tensors["images"] = on_disk.stored_images(files, rows)
            elif "images" not in tensors:
                tensors["images"] = on_disk.stored_images([file])
            return cls(**tensors, **about)


def _header(metadata: Any, names: Sequence[str], numbered: bool) -> dict:
    """Return what a set's file says about itself, as it must be, or raise."""
    text = (metadata or {}).get("diver_lite", "")
    whole = "labels" in names and (numbered or "images" in names)
    ensure(
        whole and "diver_lite" in (metadata or {}),
        f"a .safetensors file with {[*names]}, but not a distilled set; expected "
        "images, labels and 'diver_lite' metadata",
    )
    try:
        header = json.loads(text)
        version = integer(header["format_version"], "format_version", 1)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"damaged metadata ({error})") from None
    ensure(
        version <= FORMAT_VERSION,
        f"format version {version} is newer than {FORMAT_VERSION}, the newest known "
        "here; update diver_lite",
    )
    return header
