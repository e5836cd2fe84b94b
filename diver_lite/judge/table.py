"""Judge datasets by what networks learn from them, and score on real test images.

One call judges many sets with many judges and seeds, and can be interrupted. How a
judge is trained is in `protocols`, the training in `training`, and what a table of
trainings says in `compare`. Source: ours.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from diver_lite import checks
from diver_lite.checks import InputError, instance, integer, require
from diver_lite.distilled import DistilledSet
from diver_lite.judge.networks import PROXY, check_judge
from diver_lite.judge.protocols import Protocol, get_protocol, with_statistics
from diver_lite.judge.record import Cells, Key
from diver_lite.judge.training import predict, to_device, train_judges
from diver_lite.sets.classes import in_order_of
from diver_lite.sets.priors import resolve_device
from diver_lite.sets.real import labelled_images

Sets = Mapping[str, DistilledSet | Callable[[int], DistilledSet]]


def cross_architecture(
    sets: Sets,
    test: tuple,
    *,
    judges: Sequence[str] = ("ConvNet", "ShuffleNetV2", "MobileNetV2"),
    seeds: int | Sequence[int] = 5,
    protocol: str | Protocol = "corrected",
    steps: int | None = None,
    out: str | Path | None = None,
    batch_models: int | None = None,
    device: str | torch.device | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Train every judge on every set with every seed.

    Args:
        sets: name -> set, or a function seed -> set for what is drawn anew for each
            seed, such as "random real".
        test: real images (N, 3, H, W) in [0, 1], labels (N,) and class names, by which
            the sets are joined to them. Without names, the labels are taken to be in
            the order of the first set's classes.
        judges: keys of `diver_lite.judge.networks.JUDGES`.
        seeds: how many (0, 1, ...) or which.
        protocol: a name or a `Protocol`.
        steps: override the protocol's number of steps.
        out: a .csv file that keeps finished trainings, failed ones included, which are
            then not repeated; rows of other sets, judges and seeds stay in it. Without
            it, an interruption loses the table.
        batch_models: how many trainings of one judge run at once: seeds first, then
            sets of equal shape. Default: 1 on a CPU, where more doesn't pay, and all
            seeds on a GPU. Results agree up to rounding.
        device: default: CUDA if there is one.
        progress: show a progress bar.

    Returns:
        One row per training: set, judge, unseen (bool), seed, draw ("" for a set that
        isn't random, else a fingerprint of the one drawn), accuracy in [0, 1] (NaN if
        training failed), seconds (shared equally by what ran at once), error ("" or
        why it failed).

    Raises:
        InputError: before anything is trained: an unknown judge or protocol, a judge
            that can't take the images' size, repeated or no seeds, sets that don't fit
            the test images, a class without images, or an `out` that was made with
            another protocol, other test images or another set of that name.
    """
    protocol, device = get_protocol(protocol), resolve_device(device)
    if steps is not None:
        protocol = replace(protocol, steps=steps, epochs=None)
    if out is not None:
        checks.path(out, "out")
    images, labels, *more = labelled_images(test, "test", 2)
    seeds = _check_lists(sets, judges, seeds, images)
    if batch_models is None:
        batch_models = len(seeds) if device.type == "cuda" else 1
    batch_models = integer(batch_models, "batch_models", 1)
    protocol = with_statistics(protocol, images)
    scoring = (to_device(images, device), labels)
    keys = [(s, j, k) for k in seeds for j in judges for s in sets]
    names = named = tuple(more[0] or ()) if more else ()
    with (
        Cells.locked(out, protocol, (images, labels)) as cells,
        # not at once: no bar above what is wrong with a set
        tqdm(total=len(keys), desc="judges", disable=not progress, delay=1) as bar,
    ):
        for start in range(0, len(seeds), batch_models):
            block = seeds[start : start + batch_models]
            drawn = {
                (s, k): train(k) if callable(train) else train
                for s, train in sets.items()
                for k in block
            }
            for (name, seed), train in drawn.items():
                instance(train, f"set {name!r}", DistilledSet)
                names = names or train.class_names
                train = _joined(f"set {name!r}", train, names, bool(named))
                _check_fit(f"set {name!r}", train, images, labels)
                cells.register(name, seed, train, drawn=callable(sets[name]))
                drawn[name, seed] = train
            mine = [key for key in keys if key[2] in block]
            todo = [key for key in mine if key not in cells.rows]
            bar.update(len(mine) - len(todo))
            for group in _groups(todo, drawn, protocol, batch_models):
                cells.add(_judge(group, drawn, scoring, protocol, device))
                bar.update(len(group))
        return cells.table(keys)


Drawn = Mapping[tuple[str, int], DistilledSet]


def _groups(
    keys: list[Key], drawn: Drawn, protocol: Protocol, size: int
) -> Iterator[list[Key]]:
    """Yield at most `size` trainings at a time that can run at once."""
    sets = [name for name, _ in drawn]
    judges = [judge for _, judge, _ in keys]
    alike: dict[tuple, list[Key]] = {}
    for key in sorted(keys, key=lambda k: (judges.index(k[1]), sets.index(k[0]))):
        name, judge, seed = key
        train = drawn[name, seed]
        shapes = (train.images.shape, protocol.targets(train).shape)
        what = (judge, protocol.peak_lr(judge, train), len(train.class_names), *shapes)
        alike.setdefault(what, []).append(key)
    for group in alike.values():
        yield from (group[i : i + size] for i in range(0, len(group), size))


def _judge(
    keys: list[Key],
    drawn: Drawn,
    test: tuple[Tensor, Tensor],
    protocol: Protocol,
    device: torch.device,
) -> list[dict]:
    """Train a group of one judge at once, score it, and return its rows."""
    started, judge = time.perf_counter(), keys[0][1]
    trains = [drawn[name, seed] for name, _, seed in keys]
    networks = train_judges(
        judge,
        [train.images[:] for train in trains],
        [protocol.targets(train) for train in trains],
        [seed for *_, seed in keys],
        num_classes=len(trains[0].class_names),
        protocol=protocol,
        lr=protocol.peak_lr(judge, trains[0]),
        device=device,
    )
    rows = []
    for (name, _, seed), network in zip(keys, networks, strict=True):
        row = {"set": name, "judge": judge, "unseen": judge != PROXY, "seed": seed}
        if isinstance(network, FloatingPointError):
            row |= {"accuracy": float("nan"), "error": str(network)}
        else:
            row |= {"accuracy": _score(network, test, protocol), "error": ""}
        rows.append(row)
    seconds = round((time.perf_counter() - started) / len(keys), 2)
    return [row | {"seconds": seconds} for row in rows]


def _score(network: nn.Module, test: tuple, protocol: Protocol) -> float:
    right = predict(network, test[0], protocol).argmax(1) == test[1]
    return right.float().mean().item()


def _check_lists(
    sets: Sets, judges: Sequence[str], seeds: int | Sequence[int], images: Tensor
) -> list[int]:
    """Return the seeds; raise if there is nothing to do, or something twice."""
    require(images.shape[-1] == images.shape[-2], "test: images", images, "square ones")
    instance(sets, "sets", Mapping)
    instance(judges, "judges", list | tuple)
    for judge in judges:
        check_judge(judge, images.shape[-1])
    if isinstance(seeds, list | tuple | range) or getattr(seeds, "ndim", 0) == 1:
        several: Sequence = seeds  # pyright: ignore[reportAssignmentType]
        seeds = [integer(k, "seeds: one of them", 0, 2**63 - 1) for k in several]
    else:
        seeds = list(range(integer(seeds, "seeds", 1, 100_000)))
    for what, given in {"sets": [*sets], "judges": judges, "seeds": seeds}.items():
        require(len(given) > 0, what, given, "at least one")
        if twice := [value for value in dict.fromkeys(given) if given.count(value) > 1]:
            raise InputError(f"{what}: found {twice} more than once; expected it once")
    return seeds


def _joined(
    what: str, train: DistilledSet, names: Sequence[str], named: bool
) -> DistilledSet:
    """Return a set with its classes in the order of the test labels."""
    theirs = "the test images" if named else "the first set"
    joined = in_order_of(train, names, what, theirs)
    if not named and joined is not train:
        raise InputError(
            f"{what}: its classes are in another order than the first set's, and the "
            "test labels can't be in both; pass class names with the test images"
        )
    return joined


def _check_fit(what: str, train: DistilledSet, images: Tensor, labels: Tensor) -> None:
    shape, wanted = tuple(train.images.shape[1:]), tuple(images.shape[1:])
    expected = f"that of the test images, {wanted}"
    require(shape == wanted, f"{what}: shape of an image", shape, expected)
    classes = len(train.class_names)
    checks.class_indices(labels, f"{what}: test labels", len(labels), classes)
    seen = set(train.labels.tolist())
    empty = [repr(c) for i, c in enumerate(train.class_names) if i not in seen]
    if empty:
        found = f"no image of {', '.join(empty)}"
        raise InputError(f"{what}: {found}; expected some of every class")
