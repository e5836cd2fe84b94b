"""Judge datasets by what networks learn from them.

`train_judge` trains one network on a set and scores it on real test images;
`cross_architecture` does so for many sets, judges and seeds, and can be interrupted.
How a judge is trained is in `protocols`, the training in `fit`, and what a table of
trainings says in `compare`; all that users need is importable from here.
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

from diver_lite.checks import (
    InputError,
    instance,
    integer,
    labelled_images,
    path,
    require,
)
from diver_lite.distilled import DistilledSet
from diver_lite.judge.compare import (
    footnote,
    is_difference,
    paired_difference,
    summarise,
    to_latex,
    to_markdown,
    verdict,
    write_table,
)
from diver_lite.judge.networks import PROXY, UNSEEN, check_judge
from diver_lite.judge.protocols import (
    PROTOCOLS,
    Protocol,
    get_protocol,
    with_statistics,
)
from diver_lite.judge.record import Cells, Key
from diver_lite.judge.training import fit_judge, fit_judges, predict
from diver_lite.prior import resolve_device
from diver_lite.sets.classes import in_order_of

__all__ = [
    "PROTOCOLS",
    "UNSEEN",
    "Protocol",
    "cross_architecture",
    "fit_judge",
    "fit_judges",
    "footnote",
    "is_difference",
    "paired_difference",
    "predict",
    "summarise",
    "to_latex",
    "to_markdown",
    "train_judge",
    "verdict",
    "with_statistics",
    "write_table",
]

Sets = Mapping[str, DistilledSet | Callable[[int], DistilledSet]]


def train_judge(
    name: str,
    train: DistilledSet,
    test: tuple,
    *,
    seed: int = 0,
    protocol: str | Protocol = "corrected",
    device: str | torch.device | None = None,
    allow_empty_classes: bool = False,
) -> float:
    """Train a judge on a set and return its last-step accuracy on real images.

    Args:
        name: a key of `diver_lite.judge.networks.JUDGES`.
        train: the set to learn from.
        test: images (N, 3, H, W) in [0, 1], labels (N,) and class names, as of
            `load_dataset`; see `cross_architecture`.
        seed: fixes everything that is random.
        protocol: a name or a `Protocol`.
        device: default: CUDA if there is one.
        allow_empty_classes: accept a set that lacks images of some class.

    Returns:
        Top-1 accuracy in [0, 1].

    Raises:
        InputError: set and test images differ in size or classes, a class without
            images, or a judge that can't take the size.
        FloatingPointError: the loss became NaN or infinite.

    Source: ours; see `Protocol`.
    """
    table = cross_architecture(
        {"set": train},
        test,
        judges=[name],
        seeds=[seed],
        protocol=protocol,
        device=device,
        allow_empty_classes=allow_empty_classes,
        progress=False,
    )
    (row,) = table.to_dict("records")
    if row["error"]:
        raise FloatingPointError(row["error"])
    return row["accuracy"]


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
    allow_empty_classes: bool = False,
    device: str | torch.device | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Train every judge on every set with every seed.

    Args:
        sets: name -> set. A value may also be a function seed -> set, for rows such
            as "random real" that draw anew for each seed: a verdict about what is
            random itself needs as many draws as seeds.
        test: real images (N, 3, H, W) in [0, 1], labels (N,) and class names. The sets
            are joined to them by name, whatever the order of either. Without names, the
            labels are taken to be in the order of the sets' classes.
        judges: names; "ConvNet" is the proxy that Stage I saw.
        seeds: how many (0, 1, ...) or which.
        protocol: a name or a `Protocol`.
        steps: override the protocol's number of steps.
        out: a .csv file that keeps finished trainings. Where it exists, its trainings
            are not repeated, failed ones included (they would fail again); rows of
            other sets, judges and seeds stay in it. A file made with another protocol,
            other test images or another set of one of the names is refused. Without
            it, an interruption loses the table.
        batch_models: how many trainings of one judge run at once: seeds first, then
            sets of equal shape. Default: 1 on a CPU, where more doesn't pay, and all
            seeds on a GPU. Results agree up to rounding.
        allow_empty_classes: accept a set that lacks images of some class.
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

    Source: ours.
    """
    protocol, device = get_protocol(protocol), resolve_device(device)
    instance(sets, "sets", Mapping)
    instance(judges, "judges", list | tuple)
    require(isinstance(allow_empty_classes, bool), "allow_empty_classes",
            allow_empty_classes, "True or False")  # fmt: skip
    if out is not None:
        path(out, "out")
    if steps is not None:
        protocol = replace(protocol, steps=steps, epochs=None)
    if isinstance(seeds, list | tuple | range) or getattr(seeds, "ndim", 0) == 1:
        several: Sequence = seeds  # pyright: ignore[reportAssignmentType]
        seeds = [_seed(seed) for seed in several]
    else:
        seeds = list(range(integer(seeds, "seeds", 0, 100_000)))
    images, labels = _check_test(test)
    _check_lists(sets, judges, seeds, images.shape[-1])
    if batch_models is None:
        batch_models = len(seeds) if device.type == "cuda" else 1
    batch_models = integer(batch_models, "batch_models", 1, 2**31 - 1)
    protocol = with_statistics(protocol, images)
    named = len(test) > 2
    names = tuple(test[2]) if named else ()
    cells = Cells(out, protocol, images, labels)
    scoring = (_on_device(images, device), labels)
    keys = [(s, j, k) for k in seeds for j in judges for s in sets]
    with tqdm(total=len(keys), desc="judges", disable=not progress) as bar:
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
                train = _joined(name, train, names, named)
                _check_set(name, train, (images, labels), allow_empty_classes)
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
    judges = list(dict.fromkeys(judge for _, judge, _ in keys))
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
    started = time.perf_counter()
    trains = [drawn[name, seed] for name, _, seed in keys]
    judge = keys[0][1]
    networks = fit_judges(
        judge,
        [train.images for train in trains],
        [protocol.targets(train) for train in trains],
        [seed for *_, seed in keys],
        num_classes=len(trains[0].class_names),
        protocol=protocol,
        lr=protocol.peak_lr(judge, trains[0]),
        device=device,
    )
    rows = []
    for (name, _, seed), network in zip(keys, networks, strict=True):
        failed = isinstance(network, FloatingPointError)
        rows.append(
            {
                "set": name,
                "judge": judge,
                "unseen": judge != PROXY,
                "seed": seed,
                "accuracy": float("nan") if failed else _score(network, test, protocol),
                "error": str(network) if failed else "",
            }
        )
    seconds = round((time.perf_counter() - started) / len(keys), 2)
    return [row | {"seconds": seconds} for row in rows]


def _score(
    network: nn.Module, test: tuple[Tensor, Tensor], protocol: Protocol
) -> float:
    images, labels = test
    return (
        (predict(network, images, protocol).argmax(1) == labels).float().mean().item()
    )


def _on_device(images: Tensor, device: torch.device) -> Tensor:
    """Move test images once, one channel only if it is repeated."""
    if images.stride(1) == 0:
        return images[:, :1].to(device).expand(-1, images.shape[1], -1, -1)
    return images.to(device)


def _check_lists(
    sets: Sets, judges: Sequence[str], seeds: Sequence[int], image_size: int
) -> None:
    for judge in judges:
        instance(judge, "judges: one of them", str)
    given = {"sets": [*sets], "judges": [*judges], "seeds": [*seeds]}
    for what, values in given.items():
        if not values:
            raise InputError(f"{what}: found none; expected at least one")
        if twice := [v for v in dict.fromkeys(values) if values.count(v) > 1]:
            raise InputError(f"{what}: found {twice} more than once; expected it once")
    for judge in judges:
        check_judge(judge, image_size)


def _seed(seed: int) -> int:
    """Return a seed as a plain int, whichever integer type it has."""
    return integer(seed, "seeds: one of them", 0, 2**63 - 1)


def _check_test(test: tuple) -> tuple[Tensor, Tensor]:
    images, labels, *_ = labelled_images(test, "test", 2)
    if images.shape[-1] != images.shape[-2]:
        raise InputError(
            f"test: found images {tuple(images.shape)}; expected square ones"
        )
    return images, labels


def _joined(
    name: str, train: DistilledSet, names: Sequence[str], named: bool
) -> DistilledSet:
    """Return a set with its classes in the order of the test labels."""
    theirs = "the test images" if named else "the first set"
    joined = in_order_of(train, names, f"set {name!r}", theirs)
    if not named and joined is not train:
        raise InputError(
            f"set {name!r}: its classes are in another order than the first set's, and "
            "the test labels can't be in both; pass class names with the test images"
        )
    return joined


def _check_set(
    name: str,
    train: DistilledSet,
    test: tuple[Tensor, Tensor],
    allow_empty_classes: bool,
) -> None:
    images, labels = test
    if images.shape[1:] != train.images.shape[1:]:
        raise InputError(
            f"set {name!r}: its images are {tuple(train.images.shape[1:])}, the test "
            f"images {tuple(images.shape[1:])}; bring both to one size"
        )
    classes = len(train.class_names)
    if int(labels.max()) >= classes:
        raise InputError(
            f"set {name!r}: the test labels go up to {int(labels.max())}; the set has "
            f"{classes} classes"
        )
    counts = torch.bincount(train.labels, minlength=classes).tolist()
    empty = [c for c, n in zip(train.class_names, counts, strict=True) if not n]
    if empty and not allow_empty_classes:
        raise InputError(
            f"set {name!r}: no image of {', '.join(map(repr, empty))}; expected some "
            "of every class (allow_empty_classes accepts it)"
        )
