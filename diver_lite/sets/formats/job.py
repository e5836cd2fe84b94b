"""What a reader works on: a file and its arguments, and the record of what was done."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from diver_lite.checks import ensure, instance, number, require
from diver_lite.sets.classes import is_numbered
from diver_lite.sets.contents import is_both, load_any, targets, tensor
from diver_lite.sets.distilled import DistilledSet
from diver_lite.sets.names import DATASETS, TABLES, class_names, numbered
from diver_lite.sets.normalisation import (
    family_name,
    has_colours,
    known_statistics,
)
from diver_lite.sets.stored import soft_kind
from diver_lite.sets.undoing import Undoing


class Job(Undoing):
    """What a reader works on: files and arguments in, the record of changes out."""

    @cached_property
    def payload(self) -> Any:
        self.expect(not self.path.is_dir(), "found a folder", "a file")
        return load_any(self.path)

    def expect(self, condition: bool, found: str, expected: str) -> None:
        """Raise unless what was found is as the format has it."""
        ensure(condition, f"{found}; format {self.format!r} expects {expected}")

    def doubt_dataset(self, images: Any, labels: Tensor, hard: bool) -> None:
        """Warn of whatever speaks against the data set that the file is taken for."""
        dataset = self.dataset or ""
        named = self.named or dataset
        low, high = TABLES["sizes"][family_name(dataset)]
        sizes = " to ".join(str(size) for size in sorted({low, high}))
        size = min(images.shape[-2:])
        known = len(class_names(dataset))
        found = len(labels.unique())
        mean, _ = known_statistics(dataset, "dc")
        against = []
        if named.removesuffix("-ncfm") != dataset.removesuffix("-ncfm"):
            against.append(f"the name {self.naming!r} says {named!r}")
        if not low <= size <= high:
            against.append(f"its images have {size} pixels a side (expected {sizes})")
        if hard and found < known:
            against.append(f"it has {found} classes (expected {known})")
        if len(mean) == 1 and has_colours(images[:100]):
            against.append("its pixels have colours (expected grey)")
        if against:
            self.doubt(f"taken for {dataset!r}, but {'; '.join(against)}")

    def doubt_names(self, count: int) -> None:
        """Warn of classes that have no names, and say what gives them some."""
        fits = [
            name
            for name in DATASETS
            if self.named in (None, name)
            and (name != "imagenet" or count == 1000)  # whose list costs seconds
            and len(class_names(name)) == count
            and not is_numbered(class_names(name))
        ]
        advice = "dataset= (--dataset) if they are a known data set's"
        if len(fits) == 1:
            advice = f"dataset={fits[0]!r} (--dataset {fits[0]}) if they are its"
        self.doubt(f"nothing names the {count} classes; pass {advice}")

    def finish(
        self,
        images: Any,
        labels: Tensor,
        names: Sequence[str] = (),
        soft: Tensor | None = None,
    ) -> DistilledSet:
        """Give images three channels, split hard from soft labels, add the record."""
        alone = len(self.paths) == 1 and self.path.is_file()
        if alone and is_both(self.payload):
            names, soft = self._told_beside(self.payload, names, len(images))
        hard = labels.ndim == 1
        if not hard:
            ensure(soft is None, "labels and soft_labels are both soft; expected one")
            soft = labels
            labels = soft.argmax(dim=1)
            if len(images) % soft.shape[1] == 0:  # does the order say another class?
                order = class_major(len(images), soft.shape[1])
                self.record["argmax_not_class_major"] = int((labels != order).sum())
        if soft is not None:
            self.record.setdefault("soft_labels", soft_kind(soft))
        if images.shape[1] == 1:
            images = images.repeat(1, 3, 1, 1)
            self.undone["grey"] = "one channel repeated to three"
        if self.dataset:
            self.doubt_dataset(images, labels, hard)
        classes = int(labels.max()) + 1 if soft is None else soft.shape[1]
        names = self._names(names, classes)
        provenance = {
            "format": self.format,
            "source": ", ".join(path.name for path in self.paths),
            "dataset": self.dataset,
            "undone": self.undone,
            **self.record,
        }
        return DistilledSet(images, labels, tuple(names), soft, provenance)

    def _names(self, told: Sequence[str], classes: int) -> Sequence[str]:
        """Return the classes' names, as told or as the data set has them; warn of none.

        Without a data set so many classes are numbered.
        """
        if self.dataset:
            names = told or class_names(self.dataset)
            if is_numbered(names):
                self.doubt(
                    f"{self.dataset!r} names no class here, as its copies order them "
                    "in different ways: they are called 'class 0', 'class 1', ..., in "
                    "the file's own order"
                )
            return names
        names = told or numbered(classes)
        if all(re.fullmatch(r"[A-Za-z]*[-_ ]?\d+", name) for name in names):
            self.doubt_names(len(names))
        return names

    def _told_beside(
        self, content: dict[str, Any], names: Sequence[str], count: int
    ) -> tuple[Sequence[str], Tensor | None]:
        """Return class names and soft labels, as far as a dict of images holds them."""
        soft = None
        if (told := content.get("class_names")) is not None:
            instance(told, "class_names", list | tuple)
            names = [*map(str, told)]
        if (told := content.get("soft_labels")) is not None:
            soft = targets(told, count)
            require(soft.ndim == 2, "soft_labels", soft, "floats (N, K)")
        if (told := content.get("lr")) is not None:
            if isinstance(told, Tensor):
                told = tensor(told, "lr").squeeze()
            self.record["lr"] = number(told, "lr", 0)
        return names, soft


def class_major(count: int, num_classes: int) -> Tensor:
    return torch.arange(num_classes).repeat_interleave(count // num_classes)
