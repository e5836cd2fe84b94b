"""Join sets, priors and test images by the names of their classes."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from diver_lite.checks import InputError, class_indices, describe, ensure
from diver_lite.sets.names import (
    DATASETS,
    SUBSETS,
    class_names,
    dataset_name,
    imagenet_subset,
    numbered,
)
from diver_lite.sets.stored import records

if TYPE_CHECKING:
    from diver_lite.priors.contract import Prior
    from diver_lite.sets.distilled import DistilledSet

_NAME_THEM = "name the set's classes with dataset= (--dataset)"


def join(
    names: Sequence[str],
    others: Sequence[str],
    ours: str,
    theirs: str,
    advice: str = "",
) -> list[int]:
    """Return where each class name of one list stands in another.

    Case, hyphens, blanks and underscores don't matter where that leaves one candidate.
    "class 0", "class 1", ..., which a loader gives where it knows no names, stand for
    numbers: with as many classes on both sides they are taken to be in order, with a
    warning. No other names do, digits ("0" .. "9") least of all. Equal lists are joined
    by position, so that names may repeat (some of ImageNet's do).

    Args:
        names, others: class names, and those among which they are looked for.
        ours, theirs: whose these are, in words ("the set", "the prior").
        advice: what to do about classes that can't be joined.

    Returns:
        An index into `others` for each of `names`. `InputError`: a name isn't there,
        or more than once on either side, or numbers have another number of classes.
    """
    if [*names] == [*others]:
        if is_numbered(names) and names is not others:
            warnings.warn(
                f"the classes of {ours} and of {theirs} have no names; taken to be in "
                f"order; {_NAME_THEM}",
                stacklevel=3,
            )
        return [*range(len(names))]
    advice = advice or f"choose data of the same classes (--data), or {_NAME_THEM}"
    sides = f"({ours}: {_few(names)}; {theirs}: {_few(others)}); {advice}"
    if is_numbered(names) or is_numbered(others):
        nameless, named = (ours, others) if is_numbered(names) else (theirs, names)
        # the folders "0", "1", "10", "11", ..., "2" are sorted, but not in order
        matches = [re.fullmatch(r"[A-Za-z]*[-_ ]?(\d+)", name) for name in named]
        numbers = [int(match[1]) for match in matches if match]
        disorder = len(numbers) == len(named) and numbers != sorted(numbers)
        found = f"the classes of {nameless} have no names"
        ensure(
            len(names) == len(others) and not disorder,
            f"{found}, and can't be taken in order {sides}",
        )
        warnings.warn(f"{found}; taken to be in order {sides}", stacklevel=3)
        return [*range(len(names))]
    folded = [_fold(name) for name in others]
    order: list[int] = []
    for name in names:
        places = _places(name, others) or _places(_fold(name), folded)
        ensure(
            len(places) > 0,
            f"class {name!r} of {ours} is not among those of {theirs} {sides}",
        )
        whose = theirs if len(places) > 1 else ours
        ensure(
            len(places) == 1 and places[0] not in order,
            f"class {name!r} is there more than once among those of {whose}, so names "
            f"don't tell which is meant {sides}",
        )
        order += places
    return order


def _places(name: str, among: Sequence[str]) -> list[int]:
    return [i for i, other in enumerate(among) if other == name]


def in_order_of(
    distilled: DistilledSet,
    names: Sequence[str],
    ours: str = "the set",
    theirs: str = "the test images",
    advice: str = "",
) -> DistilledSet:
    """Return a set with its classes in the order of a list, which has the same ones.

    It is the set itself if they are in that order already. A class that is missing on
    either side is an `InputError`; whose they are is said as for `join`.
    """
    if len(names) > len(distilled.class_names):  # tell what the set lacks
        join(names, distilled.class_names, theirs, ours, advice)
    order = join(distilled.class_names, names, ours, theirs, advice)
    if order == list(range(len(order))):
        return distilled
    table = torch.tensor(order, device="cpu")
    soft = distilled.soft_labels
    if soft is not None:
        soft = soft[:, table.argsort()]
    return replace(
        distilled,
        labels=table[distilled.labels],
        class_names=tuple(names),
        soft_labels=soft,
    )


def named_as(
    distilled: DistilledSet, dataset: str, what: str = "data set", advice: str = ""
) -> DistilledSet:
    """Return a set with the class names of a known data set, in its order.

    Classes that have only numbers get the names; those in another order are moved, and
    what can't be is an `InputError`, see `join`.
    """
    names = class_names(dataset)
    found = distilled.class_names
    if is_numbered(found) and len(found) == len(names):
        return replace(distilled, class_names=names)
    return in_order_of(distilled, names, theirs=f"{what} {dataset!r}", advice=advice)


def as_subset(distilled: DistilledSet, subset: str) -> tuple[DistilledSet, str]:
    """Check that a set's classes are those of an ImageNet subset, and name them.

    Args:
        distilled: see `named_as`.
        subset: any spelling of an ImageNet subset, or "imagenet".

    Returns:
        The set, and the subset's canonical name: NCFM's variant if the set is NCFM's.
    """
    subset = imagenet_subset(subset)
    if distilled.provenance.get("dataset") == f"{subset}-ncfm":
        subset += "-ncfm"
    fits = (name for name in SUBSETS if class_names(name) == distilled.class_names)
    advice = next((f"the set's classes are those of {name!r}" for name in fits), "")
    return named_as(distilled, subset, "subset", advice), subset


def prior_classes(
    distilled: DistilledSet,
    prior: Prior,
    class_map: Sequence[int] | Mapping[int | str, int] | None = None,
) -> Tensor:
    """Return the prior's class for each image: found by name, unless there is a map.

    Args:
        distilled, prior: the prior may know more classes than the set has.
        class_map: the prior's class for each class of the set, in order, or by the
            index or name of the set's class.

    Returns:
        (N,) int64, 0 .. num_classes-1. `InputError`: classes that can't be joined, see
        `join`, or a map of wrong length or range.
    """
    names = distilled.class_names
    if class_map is None:
        class_map = join(
            names,
            prior.class_names,
            "the set",
            "the prior",
            "pass class_map (--class-map) with the prior's class for each class of the "
            f"set, or {_NAME_THEM}",
        )
    expected = (
        f"class_map is {describe(class_map)}; expected {len(names)} integers, in order "
        "or by the index or name of each class of the set"
    )
    try:
        if isinstance(class_map, Mapping):
            keys = names if {*names} == {*class_map} else range(len(names))
            ensure({*keys} == {*class_map}, expected)
            class_map = [class_map[key] for key in keys]
        table = torch.as_tensor(class_map, device="cpu")
        ensure(table.shape == (len(names),), expected)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(expected) from None
    class_indices(table, "class_map", len(names), len(prior.class_names))
    return table.long()[distilled.labels]


def origin(distilled: DistilledSet) -> str | None:
    """Return what a set was distilled from, however often it was refined since.

    That is a data set's canonical name, or the folder that was given to `distill`.
    Where the record doesn't say, the one data set that has the set's class names; None
    for none or several (MNIST's and SVHN's are the same).
    """
    for record in records(distilled.provenance):
        if found := record.get("dataset") or record.get("data"):
            try:
                return dataset_name(str(found))
            except InputError:
                return str(found)
    names = distilled.class_names
    fits = [
        name
        for name in DATASETS
        if (name != "imagenet" or len(names) == 1000)  # whose list costs seconds
        and not is_numbered(class_names(name))
        and sorted(class_names(name)) == sorted(names)
    ]
    return fits[0] if len(fits) == 1 else None


def is_numbered(names: Sequence[str]) -> bool:
    """Tell whether names are the stand-ins of `names.numbered`. Source: ours."""
    return tuple(names) == numbered(len(names))


def _fold(name: str) -> str:
    return re.sub(r"[-_\s]+", " ", name).strip().casefold()


def _few(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:3]))
    if len(names) > 3:
        shown += f", ..., {len(names)} in all"
    return shown
