"""Ask what recovery owes to a prior that has seen the pictures.

Run: python scripts/halves.py --only A; python scripts/halves.py --only B
     python scripts/halves.py [--sets dm-real dsa --seeds 5:15]

Fashion-MNIST's training pictures are cut into halves A and B, by seed. Sets are
distilled from A. Two priors of the shipped recipe are trained, one on each half (--only
trains one of them and ends, so that two processes can work side by side). Each prior
then recovers the sets, sends them through its VAE, and gives samples. What A's does
better than B's, it owes to having seen the pictures that the sets were made from.

All of it lies in --work and goes on where it stopped.

results/halves_NAME_trainings.csv  one row per training
results/halves_NAME_copies.csv     how near pictures lie to those of each half
results/halves_NAME.json           provenance

Paired differences are printed; `recompute.py` stores them.
"""

from __future__ import annotations

import argparse
import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from answer import comparisons_of
from distill_sets import SETS, make
from provenance import begin, write_csv, write_result  # and bookkit

# isort: split
from bookkit.copying import copying_distances, copying_summary

from diver_lite import (
    DistilledSet,
    cross_architecture,
    load_dataset,
    load_prior,
)
from diver_lite.advice.rows import STAGE1, Row, Rows, inheritance_of, real_row
from diver_lite.files import atomic_path
from diver_lite.make.baselines import random_real, vae_only
from diver_lite.make.train_prior import train_prior
from diver_lite.sets.real import describe_source

DATASET = "fashion-mnist"
HALVES = ("A", "B")
SAMPLES = tuple(f"samples of {half}" for half in HALVES)
SHARED = ("random real", *SAMPLES)
PAIRS = (
    ("VAE A", "VAE B"),
    ("inheritance A", "inheritance B"),
    ("DIVER A", "DIVER B"),
    SAMPLES,
    *((f"inheritance {half}", STAGE1) for half in HALVES),
    *((f"inheritance {half}", f"samples of {half}") for half in HALVES),
    *((f"samples of {half}", STAGE1) for half in HALVES),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=HALVES, help="train this half's prior")
    parser.add_argument("--minutes", type=float, help="of training, in this call")
    parser.add_argument("--vae-steps", type=int, default=2500)
    parser.add_argument("--dit-steps", type=int, default=6600)
    parser.add_argument("--sets", nargs="+", default=["dm-real", "dsa"])
    parser.add_argument(
        "--judges", nargs="+", default=["ShuffleNetV2-BN", "ShuffleNetV2-GN"]
    )
    parser.add_argument("--seeds", default="5:15", help="FIRST:END")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--images", type=int, default=2000, help="that score")
    parser.add_argument("--jobs", type=int)
    parser.add_argument("--work", type=Path, default=Path("runs/halves"))
    parser.add_argument("--data-root")
    args = parser.parse_args()
    started = begin()
    write_halves(args.work, args.data_root)
    priors = {}
    for half in HALVES if args.only is None else [args.only]:
        done = train_prior(
            DATASET,
            args.work / f"prior-{half}",
            data_root=args.work / half,
            minutes=args.minutes,
            vae_steps=args.vae_steps,
            dit_steps=args.dit_steps,
        )
        if not done:
            raise SystemExit(f"time is up; the prior of half {half} goes on next time")
        priors[half] = load_prior(args.work / f"prior-{half}" / "prior")
    if args.only is not None:
        return
    real = {half: fit_of(args.work, half) for half in HALVES}
    distilled = {name: from_a(args.work, name, real["A"]) for name in args.sets}
    rows = rows_of(args.work, priors, distilled, real["A"])
    images, labels, names = load_dataset(DATASET, "test")
    first, end = (int(number) for number in args.seeds.split(":"))
    stem = f"results/halves_{DATASET}_ipc1"
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
    comparisons = comparisons_of(table, args.sets, PAIRS, shared=SHARED)
    print(comparisons.to_string(index=False))
    copies = copies_of(rows, real, range(first, end))
    print(copies.to_string(index=False))
    write_csv(f"{stem}_copies.csv", copies)
    write_result(
        f"{stem}.json",
        {
            "data": describe_source(DATASET, root=args.data_root),
            "split": "test",
            "images": args.images,
            "pictures_of_a_half": len(real["A"][1]),
            "training_seconds": round(float(table["seconds"].sum())),
        },
        vars(args),
        started=started,
    )


def write_halves(work: Path, data_root: str | None) -> None:
    """Write half of each class's training pictures as a data root, twice, once for all.

    The files are those that Fashion-MNIST comes in, so all that reads it reads a half.
    """
    files = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"
    paths = {half: [work / half / file for file in files] for half in HALVES}
    if all(path.exists() for both in paths.values() for path in both):
        return
    images, labels, _ = load_dataset(DATASET, "train", root=data_root)
    pixels = (images[:, 0, 2:-2, 2:-2] * 255).round().to(torch.uint8).numpy()
    order = np.random.default_rng(0).permutation(len(labels))
    # of each class in that order, every other one
    place = pd.DataFrame({"label": labels[order]}).groupby("label").cumcount()
    for number, half in enumerate(HALVES):
        mine = order[place.to_numpy() % 2 == number]
        arrays = pixels[mine], labels[mine].numpy().astype(np.uint8)
        for path, array in zip(paths[half], arrays, strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_idx(path, array)


def write_idx(path: Path, array: np.ndarray) -> None:
    """Write bytes in the IDX format, the same file each time."""
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    with atomic_path(path, overwrite=True) as temporary:
        temporary.write_bytes(gzip.compress(header + array.tobytes(), 1, mtime=0))


def fit_of(work: Path, half: str) -> tuple:
    return load_dataset(DATASET, "fit", root=work / half)


def from_a(work: Path, name: str, data: tuple) -> DistilledSet:
    """Distil a set from A as the shipped one was from all, or load what is there."""
    path = work / "sets" / f"{DATASET}-{name}-ipc1.safetensors"
    if not path.exists():
        source = f"{describe_source(DATASET)}, half A"
        make(path, DATASET, data, source, *SETS[f"{name}-ipc1"])
    return DistilledSet.load(path)


def rows_of(
    work: Path, priors: dict, distilled: dict[str, DistilledSet], real: tuple
) -> dict[str, Row]:
    """Return the rows of each set, by each prior, and those that the sets share."""
    # the scale that is recommended for the shipped prior, for both
    plain = inheritance_of(load_prior(DATASET))
    rows: dict[str, Row] = {"random real": real_row(real, 1)}
    for half, prior in priors.items():
        made = Rows(prior, work / "recovered", plain)
        rows[f"samples of {half}"] = made.recovered(
            random_real(real, 1, 0), made.samples
        )
        for name, given in distilled.items():
            rows[f"{name}: {STAGE1}"] = given
            rows[f"{name}: VAE {half}"] = vae_only(given, prior)
            rows[f"{name}: inheritance {half}"] = made.recovered(given, made.plain)
            rows[f"{name}: DIVER {half}"] = made.recovered(given, made.diver)
    return rows


def copies_of(
    rows: dict[str, Row], real: dict[str, tuple], seeds: range
) -> pd.DataFrame:
    """Return how near samples and recoveries lie to each half, all seeds together."""
    held_out = random_real(load_dataset(DATASET, "test"), 50, 0)
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
    for half, pictures in real.items():
        summary = copying_summary(copying_distances(together, pictures, held_out))
        parts.append(summary.assign(half=half))
    return pd.concat(parts).round(4)


if __name__ == "__main__":
    main()
