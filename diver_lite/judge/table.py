"""Judge datasets by what networks learn from them, and score on real test images.

One call judges many sets with many judges and seeds, and can be interrupted. This file
checks and says what is to be trained. Source: ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import cast

import pandas as pd
import torch
from tqdm.auto import tqdm

from diver_lite.checks import (
    InputError,
    check_text,
    class_indices,
    ensure,
    instance,
    integer,
    path,
    require,
)
from diver_lite.devices import plain_torch
from diver_lite.files import check_writable, exclusive
from diver_lite.judge.networks import Judge, is_unseen, judge_name, known_judge
from diver_lite.judge.own import OwnJudge
from diver_lite.judge.protocols import Protocol, get_protocol, with_statistics
from diver_lite.judge.record import Cells
from diver_lite.judge.training import judge_one
from diver_lite.judge.workers import default_count, devices_of, side_by_side
from diver_lite.sets.classes import in_order_of
from diver_lite.sets.distilled import DistilledSet
from diver_lite.sets.real import labelled_images

Sets = Mapping[str, DistilledSet | Callable[[int], DistilledSet]]


@plain_torch(grad=True, single=False)
def cross_architecture(
    sets: Sets,
    test: tuple,
    *,
    judges: Sequence[Judge] = ("ConvNet", "ShuffleNetV2", "MobileNetV2"),
    seeds: int | Sequence[int] = 5,
    protocol: str | Protocol = "corrected",
    steps: int | None = None,
    looks: Sequence[int] | None = None,
    out: str | Path | None = None,
    n_jobs: int | None = None,
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
        judges: keys of `diver_lite.judge.networks.JUDGES`, perhaps with a suffix for
            another norm: "ShuffleNetV2-GN", or "ShuffleNetV2-AdaBN", a diagnosis. Or
            your own: a function or class that is called as ``factory(num_classes=10,
            image_size=32, channels=3)`` and returns an untrained `nn.Module`, (B,
            channels, H, W) -> (B, num_classes); or a text that says where one is,
            "package.module:factory" or "path/to/file.py:factory", whose code is run.
            See `diver_lite.judge.own`.
        seeds: how many (0, 1, ...) or which.
        protocol: a name or a `Protocol`.
        steps: override the protocol's number of steps.
        looks: numbers of steps after which a training tells how far it is, on the first
            500 test images; default: powers of two from 64 on. It changes no result.
        out: a .csv file that keeps finished trainings, failed ones included, which are
            then not repeated; rows of other sets, judges and seeds stay in it. Without
            it, an interruption loses the table.
        n_jobs: how many trainings run side by side, each in a process with one thread,
            or, if it is 1, in this one. Default: one per core that this process may
            use, on GPUs one per card. It changes no result.
        device: default: all CUDA cards, if there are any.
        progress: show a progress bar.

    Returns:
        One row per training: set, judge (its name), norm ("BN", "GN", "IN", "LN",
        "AdaBN" or "none"; of your own as its modules say), unseen (bool), seed, draw
        ("" for a set that isn't random, else a fingerprint of the one drawn), accuracy
        in [0, 1] (NaN if training failed), loss (of training, at its end), curve (text
        for `judge.answers.curves`), right (text for `judge.answers.unpacked`: which
        test images), seconds, error ("" or why it failed).

    Raises:
        InputError: before anything is trained: an unknown judge, norm or protocol, a
            judge that can't take the images' size, one of your own that can't be found,
            built, asked or sent to other processes, two of one name, repeated or no
            seeds, sets that don't fit the test images, a class without images, or an
            `out` that was made with another protocol, other test images, another set of
            that name or another judge of your own of that name.
            Later: a worker process was killed, again and again.
    """
    protocol = get_protocol(protocol)
    cards = devices_of(device)
    if steps is not None:
        protocol = replace(protocol, steps=steps, epochs=None)
    if n_jobs is None:
        n_jobs = default_count(cards)
    n_jobs = integer(n_jobs, "n_jobs", 1)
    images, labels, *more = labelled_images(test, "test", 2)
    names = more[0] if more else None
    instance(judges, "judges", list | tuple)
    require(images.shape[-1] == images.shape[-2], "test: images", images, "square ones")
    classes = len(names) if names else int(labels.max()) + 1
    require(
        classes > 1, "test: number of classes", classes, "two or more to tell apart"
    )
    known = _known_judges(judges, protocol, classes, images.shape[-1])
    seeds = _check_lists(sets, known, seeds)
    by_name = {_name(judge): judge for judge in known}
    own = {judge.name: judge for judge in known if isinstance(judge, OwnJudge)}
    if n_jobs > 1:
        by_name |= {name: judge.packed() for name, judge in own.items()}
    if looks is not None:
        looks = [integer(step, "looks: one of them", 1) for step in looks]
    protocol = with_statistics(protocol, images)
    keys = [(s, j, k) for k in seeds for j in by_name for s in sets]
    lock = _locked(out)
    # not at once: no bar above what is wrong with a set
    bar = tqdm(total=len(keys), desc="judges", disable=not progress, delay=1)
    with lock, bar:
        cells = Cells(out, protocol, (images, labels))
        for judge in own.values():
            cells.register_judge(judge)
        drawn = _drawn(sets, seeds, (images, labels, names), cells)
        shared = (images.numpy(), labels.numpy())
        tasks = {
            (s, j, k): (by_name[j], k, drawn[s, k], protocol, shared, looks)
            for s, j, k in keys
            if (s, j, k) not in cells.rows
        }
        bar.update(len(keys) - len(tasks))
        for (name, judge, seed), found in side_by_side(judge_one, tasks, cards, n_jobs):
            unseen = is_unseen(by_name[judge])
            about = {"set": name, "judge": judge, "unseen": unseen, "seed": seed}
            cells.add(about | found)
            bar.update()
        return cells.table(keys)


def _locked(out: str | Path | None) -> AbstractContextManager[None]:
    """Keep other runs from a file, as two would lose each other's rows."""
    if out is None:
        return nullcontext()
    check_writable(path(out, "out"), overwrite=True)
    return exclusive(out)


def _drawn(
    sets: Sets, seeds: Sequence[int], test: tuple, cells: Cells
) -> dict[tuple[str, int], DistilledSet]:
    """Return the set of each name and seed, its classes in the order of the test's.

    Where the test images have no class names, the first set's are taken for them.
    """
    images, labels, names = test
    named = bool(names)
    found = {}
    for seed, name in product(seeds, sets):
        given = sets[name]
        train = given(seed) if callable(given) else given
        instance(train, f"set {name!r}", DistilledSet)
        names = names or train.class_names
        train = _fitted(f"set {name!r}", train, (images, labels, names), named)
        cells.register(name, seed, train, drawn=callable(given))
        found[name, seed] = train
    return found


def _known_judges(
    judges: Sequence[Judge], protocol: Protocol, num_classes: int, image_size: int
) -> list[str | OwnJudge]:
    """Return judges as trainings know them, ours with the protocol's norm."""
    known = [known_judge(judge, num_classes, image_size) for judge in judges]
    return [protocol.judge(j) if isinstance(j, str) else j for j in known]


def _name(judge: str | OwnJudge) -> str:
    return judge if isinstance(judge, str) else judge.name


def _check_lists(
    sets: Sets, judges: Sequence[str | OwnJudge], seeds: int | Sequence[int]
) -> list[int]:
    """Return the seeds; raise if there is nothing to do, or something twice."""
    instance(sets, "sets", Mapping)
    kinds = [  # plain names of ours spelled out
        "-".join(judge_name(judge)) if isinstance(judge, str) else judge.name
        for judge in judges
    ]
    if isinstance(seeds, list | tuple | range) or getattr(seeds, "ndim", 0) == 1:
        several = cast(Sequence, seeds)
        seeds = [integer(k, "seeds: one of them", 0, 2**63 - 1) for k in several]
    else:
        seeds = list(range(integer(seeds, "seeds", 1, 100_000)))
    for name in sets:
        check_text(str(name), "sets: a name")
    for what, given in {"sets": [*sets], "judges": kinds, "seeds": seeds}.items():
        require(len(given) > 0, what, given, "at least one")
        if twice := [value for value in dict.fromkeys(given) if given.count(value) > 1]:
            own = what == "judges" and not all(isinstance(j, str) for j in judges)
            hint = "; an attribute `name` of your factory sets its name" * own
            raise InputError(
                f"{what}: found {twice} more than once; expected it once{hint}"
            )
    return seeds


def _fitted(what: str, train: DistilledSet, test: tuple, named: bool) -> DistilledSet:
    """Return a set with its classes in the order of the test labels, or raise."""
    images, labels, names = test
    theirs = "the test images" if named else "the first set"
    ordered = in_order_of(train, names, what, theirs)
    ensure(
        named or ordered is train,
        f"{what}: its classes are in another order than the first set's, and the test "
        "labels can't be in both; pass class names with the test images",
    )
    shape = tuple(train.images.shape[1:])
    wanted = tuple(images.shape[1:])
    require(
        shape == wanted,
        f"{what}: shape of an image",
        shape,
        f"that of the test images, {wanted}; a folder's are brought to a square set's "
        "size (--data)",
    )
    classes = len(names)
    class_indices(labels, f"{what}: test labels", len(labels), classes)
    if empty := sorted({*range(classes)} - {*ordered.labels.tolist()}):
        found = ", ".join(repr(names[label]) for label in empty)
        raise InputError(f"{what}: no image of {found}; expected some of every class")
    return ordered
