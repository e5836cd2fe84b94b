"""Ask what recovery owes to a prior that has seen the pictures.

Run: python scripts/seen.py [--dataset cifar10] [--parts 1 2 --methods dm-real dsa]
     [--judges ShuffleNetV2-BN ShuffleNetV2-GN --seeds 5:10 --steps 300]

The shipped priors were trained on the `fit` split alone. So sets are distilled twice,
with the same settings, from as many pictures: once from pictures of `fit`, which the
prior has seen, and once from `validation`, which it has not. Both are recovered by that
prior. What recovery gains on the first more than on the second, it owes to having seen
the pictures that the set was made from.

`validation` is cut into parts of 250 pictures of each class, and each part gives a set.
Sets and recoveries lie in --work; an interrupted study goes on where it stopped.

results/seen_NAME_trainings.csv  one row per training
results/seen_NAME_copies.csv     how near pictures lie to those of each split
results/seen_NAME.json           provenance

Paired differences are printed; `recompute.py` stores them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
import torch
from answer import comparisons_of
from distill_sets import SETS, make
from provenance import begin, write_csv, write_result  # and bookkit

# isort: split
from bookkit.copying import copying_distances, copying_summary

from diver_lite import (
    DistilledSet,
    Prior,
    cross_architecture,
    load_dataset,
    load_prior,
)
from diver_lite.advice.rows import STAGE1, Row, Rows, inheritance_of
from diver_lite.make.baselines import random_real
from diver_lite.sets.real import describe_source

PART = 250  # pictures of each class that a set is distilled from
SPLIT_OF = {"seen": "fit", "unseen": "validation"}
RECOVERIES = ("inheritance", "DIVER")
SAMPLES = "samples"  # of the prior
SHARED = (SAMPLES,)


def gain_of(recovery: str) -> str:
    """Return the name of what a recovery gains over the set as distilled."""
    return f"gain of {recovery}"


PAIRS = (
    *((f"{r}, {seen}", f"{STAGE1}, {seen}") for r in RECOVERIES for seen in SPLIT_OF),
    *((f"{gain_of(r)}, seen", f"{gain_of(r)}, unseen") for r in RECOVERIES),
    (f"{STAGE1}, seen", f"{STAGE1}, unseen"),
    *((f"inheritance, {seen}", SAMPLES) for seen in SPLIT_OF),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="fashion-mnist")
    parser.add_argument("--methods", nargs="+", default=["dm-real", "dsa"])
    parser.add_argument("--parts", nargs="+", type=int, default=[1, 2])
    parser.add_argument(
        "--judges", nargs="+", default=["ShuffleNetV2-BN", "ShuffleNetV2-GN"]
    )
    parser.add_argument("--seeds", default="5:10", help="FIRST:END")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--images", type=int, default=2000, help="that score")
    parser.add_argument("--jobs", type=int)
    parser.add_argument("--work", type=Path, default=Path("runs/seen"))
    parser.add_argument("--data-root")
    args = parser.parse_args()
    args.sets = [f"{method} {part}" for method in args.methods for part in args.parts]
    started = begin()
    prior = load_prior(args.dataset)
    source = describe_source(args.dataset, root=args.data_root)
    distilled = {}
    for seen, split in SPLIT_OF.items():
        real = load_dataset(args.dataset, split, root=args.data_root)
        for name in args.sets:
            distilled[name, seen] = distilled_from(args, name, real, source, split)
    rows = rows_of(args, prior, distilled)
    images, labels, names = load_dataset(args.dataset, "test", root=args.data_root)
    first, end = (int(number) for number in args.seeds.split(":"))
    stem = f"results/seen_{args.dataset}_ipc1"
    table = cross_architecture(
        rows,
        (images[: args.images], labels[: args.images], names),
        judges=args.judges,
        seeds=range(first, end),
        protocol="corrected",
        steps=args.steps,
        out=f"{stem}_trainings.csv",
        n_jobs=args.jobs,
    )
    print(compared(table, args.sets).to_string(index=False))
    copies = copies_of(rows, args, range(first, end))
    print(copies.to_string(index=False))
    write_csv(f"{stem}_copies.csv", copies)
    write_result(
        f"{stem}.json",
        {
            "data": source,
            "split": "test",
            "images": args.images,
            "pictures_of_a_set": PART * len(names),
            "training_seconds": round(float(table["seconds"].sum())),
        },
        vars(args),
        started=started,
    )


def part_of(real: tuple, number: int) -> tuple:
    """Return a part of a split: PART pictures of each class, no two parts alike."""
    images, labels, names = real
    place = pd.DataFrame({"label": labels.numpy()}).groupby("label").cumcount()
    mine = torch.from_numpy((place // PART == number - 1).to_numpy())
    return images[mine], labels[mine], names


def distilled_from(
    args: argparse.Namespace, name: str, real: tuple, source: str, split: str
) -> DistilledSet:
    """Distil a set as the shipped one was, or load what is there."""
    method, _, number = name.partition(" ")
    file = f"{args.dataset}-{method}-{split}{number}.safetensors"
    path = args.work / "sets" / file
    if not path.exists():
        source = f"{source}, {split}, part {number}"
        data = part_of(real, int(number))
        make(path, args.dataset, data, source, *SETS[f"{method}-ipc1"])
    return DistilledSet.load(path)


def rows_of(
    args: argparse.Namespace, prior: Prior, distilled: dict[tuple, DistilledSet]
) -> dict[str, Row]:
    """Return the rows of each set, and that which the sets share."""
    made = Rows(prior, args.work / "recovered", inheritance_of(prior))
    any_set = next(iter(distilled.values()))  # its labels are all that samples take
    rows: dict[str, Row] = {SAMPLES: made.recovered(any_set, made.samples)}
    for (name, seen), given in distilled.items():
        rows[f"{name}: {STAGE1}, {seen}"] = given
        rows[f"{name}: inheritance, {seen}"] = made.recovered(given, made.plain)
        rows[f"{name}: DIVER, {seen}"] = made.recovered(given, made.diver)
    return rows


def compared(table: pd.DataFrame, sets: list[str]) -> pd.DataFrame:
    """Return the differences of `PAIRS`: of rows, and of what they gain."""
    key = ["judge", "seed"]
    parts = [table]
    for name in sets:
        for seen in SPLIT_OF:
            stage1 = table[table["set"] == f"{name}: {STAGE1}, {seen}"]
            before = stage1.set_index(key)["accuracy"]
            for recovery in RECOVERIES:
                rows = table[table["set"] == f"{name}: {recovery}, {seen}"]
                gain = rows.set_index(key)["accuracy"] - before
                rows = rows.assign(
                    set=f"{name}: {gain_of(recovery)}, {seen}",
                    accuracy=gain.reindex(rows.set_index(key).index).to_numpy(),
                )
                parts.append(rows)
    return comparisons_of(pd.concat(parts), sets, PAIRS, shared=SHARED)


def copies_of(
    rows: dict[str, Row], args: argparse.Namespace, seeds: range
) -> pd.DataFrame:
    """Return how near recoveries and samples lie to each split, all seeds together."""
    test = load_dataset(args.dataset, "test", root=args.data_root)
    held_out = random_real(test, 50, 0)
    drawn = {name: row for name, row in rows.items() if callable(row)}
    together = {}
    for name, row in drawn.items():
        sets = [row(seed) for seed in seeds]
        together[name] = DistilledSet(
            torch.cat([one.images for one in sets]),
            torch.cat([one.labels for one in sets]),
            sets[0].class_names,
        )
    parts = []
    for seen, split in SPLIT_OF.items():
        real = load_dataset(args.dataset, split, root=args.data_root)
        taken = [part_of(real, number) for number in args.parts]
        images, labels = (torch.cat([one[i] for one in taken]) for i in (0, 1))
        distances = copying_distances(together, (images, labels, real[2]), held_out)
        parts.append(copying_summary(distances).assign(pictures=seen))
    return pd.concat(parts).round(4)


if __name__ == "__main__":
    main()
