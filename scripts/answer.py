"""Answer a question about recovery by a study: sets, judges, seeds, a table.

Run: python scripts/answer.py recovery [--dataset fashion-mnist --ipc 1]
     [--sets dm dm-real dsa mtt] [--judges ShuffleNetV2-BN ShuffleNetV2-GN ConvNet]
     [--seeds 5:15] [--rows ...] [--name ...] [--sets-folder FOLDER --data-root FOLDER]
     python scripts/answer.py sources ...
     python scripts/answer.py choices --sets dm-real ...
     python scripts/answer.py settings --split validation --seeds 0:5 ...

recovery: whom does recovery help, what in it does, and is it more than the prior?
sources: is anything of the distilled picture left? The same noise recovers the picture
    itself, a real one of its class, a grey one, and one of the next class.
choices: which setting matters? DIVER with one change at a time.
settings: what to recommend, chosen on validation pictures, with seeds of its own.

Every seed has a draw of noise of its own, and, for random real pictures, pictures of
its own. Nothing is chosen with the seeds 5 to 14 that the first three questions take.
Finished recoveries lie in --work, finished trainings in the first of these files, so an
interrupted study goes on where it stopped, also on another machine, and may be asked
for one set, judge or seed after the other:

results/QUESTION_NAME_trainings.csv  one row per training; NAME is DATASET_ipcN
results/QUESTION_NAME.json           provenance

Differences are printed, per group of judges or per judge (--each-judge);
`recompute.py` stores them. `settings` has none, its trainings are read by a test.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from provenance import begin, find_distilled, write_result

from diver_lite import (
    DistilledSet,
    Prior,
    RecoveryConfig,
    cross_architecture,
    load_dataset,
    load_prior,
)
from diver_lite.advice.rows import (
    LEVELS,
    PAPER,
    STAGE1,
    Rows,
    inheritance_of,
    real_row,
)
from diver_lite.judge.compare import (
    GROUPS,
    compare,
    footnote,
    group_of,
    holm,
    t_interval,
)
from diver_lite.make.baselines import vae_only
from diver_lite.sets.real import describe_source

QUESTIONS = ("recovery", "sources", "choices", "settings")
SOURCES = ("own", "real of the class", "grey", "another class")
POOLED = "all, pooled"
SHARED = ("random real", "K-means", "prior")  # rows that don't depend on a set
CHOICES = (  # of `choices`: one change each
    {"start": "published"},
    {"guidance_target": "latent"},
    {"guidance_sigma": "one"},
    {"guidance_sigma": "signal"},
    {"window": "late"},
    {"window": "early"},
    {"window": "full"},
    {"clip_input": False},
    {"inheritance": False},
    {"num_inference_steps": 10},
    {"guidance_factor": 0.05},
    {"guidance_factor": 0.2},
    {"guidance_scale": 1.5},
    {"guidance_scale": 4.0},
)
# of `settings`: noise level 0 is the round trip through the VAE
NOISE = (0, 300, 400, 500, 600, 700, 800)
PULLS = (0.0, 0.05, 0.1, 0.2)


def told(change: dict) -> str:
    """Return a change as a row's name: "window = late"."""
    return ", ".join(f"{name} = {value}" for name, value in change.items())


# what is compared, (row, against); rows that weren't asked for are left out
COMPARISONS = {
    "recovery": (
        ("clip", STAGE1),
        ("VAE", STAGE1),
        ("VAE", "clip"),
        ("VAE", "prior"),
        *((f"inheritance {level}", STAGE1) for level in LEVELS),
        *((f"inheritance {level}", "VAE") for level in LEVELS),
        *((f"inheritance {level}", "prior") for level in LEVELS),
        ("DIVER 700", STAGE1),
        *(("DIVER 700", f"inheritance {level}") for level in LEVELS),
        ("DIVER 700", "VAE"),
        ("DIVER 700", "prior"),
        (PAPER, STAGE1),
        (PAPER, "DIVER 700"),
        (PAPER, "inheritance 700"),
        (PAPER, "prior"),
        ("prior", STAGE1),
        (STAGE1, "random real"),
        (STAGE1, "K-means"),
        ("K-means", "random real"),
        ("DIVER 700", "random real"),
        ("inheritance 700", "random real"),
        ("prior", "random real"),
    ),
    "sources": tuple(
        (f"own {level}", against)
        for level in LEVELS
        for against in ("prior", *(f"{source} {level}" for source in SOURCES[1:]))
    ),
    "choices": (
        ("DIVER 700", STAGE1),
        ("DIVER 700", "inheritance 700"),
        *((told(change), "DIVER 700") for change in CHOICES),
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("question", choices=QUESTIONS)
    parser.add_argument("--dataset", default="fashion-mnist")
    parser.add_argument("--prior", help="default: the one named like the dataset")
    parser.add_argument("--ipc", type=int, default=1)
    parser.add_argument("--sets", nargs="+", default=["dm", "dm-real", "dsa", "mtt"])
    parser.add_argument("--kmeans", help="a set of K-means' pictures, of which every "
                        "seed draws: the row K-means")  # fmt: skip
    parser.add_argument("--rows", nargs="+", help="default: all of the question's")
    parser.add_argument(
        "--judges",
        nargs="+",
        default=["ShuffleNetV2-BN", "ShuffleNetV2-GN", "ConvNet"],
    )
    parser.add_argument("--each-judge", action="store_true", help="compare for each "
                        "judge, not for each group of them")  # fmt: skip
    parser.add_argument("--seeds", default="5:15", help="FIRST:END")
    parser.add_argument("--protocol", default="quick")
    parser.add_argument("--steps", type=int, help="of training; default: the "
                        "protocol's")  # fmt: skip
    parser.add_argument("--scale", type=float, help="guidance scale; default: what is "
                        "recommended for the prior")  # fmt: skip
    parser.add_argument("--split", default="test")
    parser.add_argument("--images", type=int, default=2000, help="that score")
    parser.add_argument("--jobs", type=int)
    parser.add_argument("--name", help="of the results; default: DATASET_ipcN")
    parser.add_argument("--work", type=Path, default=Path("runs/answer"))
    parser.add_argument("--sets-folder", help="where sets lie that don't ship")
    parser.add_argument("--data-root")
    args = parser.parse_args()
    started = begin()
    prior = load_prior(args.prior or args.dataset)
    scaled = {"guidance_scale": args.scale} if args.scale else {}
    plain = inheritance_of(prior, **scaled)
    fit = load_dataset(args.dataset, "fit", root=args.data_root)
    images, labels, names = load_dataset(args.dataset, args.split, root=args.data_root)
    # splits are in random order, so the first are a fair part
    test = images[: args.images], labels[: args.images], names
    first, end = (int(number) for number in args.seeds.split(":"))

    rows = Study(prior, fit, plain, args.ipc, args.work)
    if args.kmeans:
        rows.kmeans = find_distilled(args.kmeans, args.sets_folder)
    sets: dict[str, DistilledSet | Callable[[int], DistilledSet]] = {}
    for name in args.sets:
        full = f"{args.dataset}-{name}-ipc{args.ipc}"
        distilled = find_distilled(full, args.sets_folder)
        for row, made in rows.of(args.question, distilled).items():
            sets[row if row in SHARED else f"{name}: {row}"] = made
    if args.rows:
        sets = {name: made for name, made in sets.items() if row_of(name) in args.rows}
    stem = f"results/{args.question}_{args.name or f'{args.dataset}_ipc{args.ipc}'}"
    table = cross_architecture(
        sets,
        test,
        judges=args.judges,
        seeds=range(first, end),
        protocol=args.protocol,
        steps=args.steps,
        out=f"{stem}_trainings.csv",
        n_jobs=args.jobs,
    )
    pairs = COMPARISONS.get(args.question, ())
    comparisons = comparisons_of(table, args.sets, pairs, args.each_judge)
    if len(comparisons):
        print(comparisons.to_string(index=False))
        print(footnote(comparisons["verdict"]))
    failed = table[table["error"] != ""]
    write_result(
        f"{stem}.json",
        {
            "data": describe_source(args.dataset, root=args.data_root),
            "split": args.split,
            "images": len(test[1]),
            "guidance_scale": plain.guidance_scale,
            "failed": failed[["set", "judge", "seed", "error"]].to_dict("records"),
            "training_seconds": round(float(table["seconds"].sum())),
        },
        vars(args),
        started=started,
    )


def row_of(name: str) -> str:
    """Return a set's row: "VAE" of "dm: VAE"."""
    return name.rpartition(": ")[2]


class Study(Rows):
    """The rows of each question: name of the row -> set, or seed -> set if drawn."""

    kmeans: DistilledSet | None = None

    def __init__(
        self, prior: Prior, fit: tuple, plain: RecoveryConfig, ipc: int, work: Path
    ) -> None:
        super().__init__(prior, work, plain)
        self.ipc = ipc
        self.real = real_row(fit, ipc)

    def of(self, question: str, distilled: DistilledSet) -> dict:
        """Return the rows of a question about one set, and those that all share."""
        rows: dict = {"random real": self.real}
        if self.kmeans is not None:
            pool = self.kmeans.images.clamp(0, 1), self.kmeans.labels
            rows["K-means"] = real_row((*pool, self.kmeans.class_names), self.ipc)
        # samples depend on the labels alone: those of any set do
        rows["prior"] = self.recovered(self.real(0), self.samples)
        if question == "recovery":
            return rows | self.recovery(distilled)
        if question == "sources":
            return rows | self.sources(distilled)
        if question == "choices":
            return self.choices(distilled)
        return rows | self.settings(distilled)

    def sources(self, distilled: DistilledSet) -> dict:
        """Swap the source, and leave noise and labels as they are."""
        order = other_class(distilled)

        def real(seed: int) -> DistilledSet:
            pictures = self.real(seed)
            return distilled.with_images(
                pictures.images[same_classes(distilled, pictures)], "real of the class"
            )

        grey = torch.full_like(distilled.images, 0.5)
        sources = {
            "own": distilled,
            "real of the class": real,
            "grey": distilled.with_images(grey, "grey"),
            "another class": distilled.with_images(
                distilled.images[order], "another class"
            ),
        }
        return {
            f"{name} {level}": self.recovered(
                source, replace(self.plain, noise_timestep=level)
            )
            for level in LEVELS
            for name, source in sources.items()
        }

    def choices(self, distilled: DistilledSet) -> dict:
        """Change one setting of DIVER at a time, if the change is one."""
        rows: dict = {
            STAGE1: distilled,
            "inheritance 700": self.recovered(distilled, self.plain),
            "DIVER 700": self.recovered(distilled, self.diver),
        }
        for change in CHOICES:
            config = replace(self.diver, **change)
            if config != self.diver:
                rows[told(change)] = self.recovered(distilled, config)
        return rows

    def settings(self, distilled: DistilledSet) -> dict:
        rows: dict = {STAGE1: distilled, "noise 0": vae_only(distilled, self.prior)}
        for level in NOISE[1:]:
            for pull in PULLS:
                config = replace(self.plain, noise_timestep=level, guidance_factor=pull)
                rows[f"noise {level}, pull {pull}"] = self.recovered(distilled, config)
        return rows


def other_class(distilled: DistilledSet) -> list[int]:
    """Return for each image the row of one of the next class, each row once."""
    classes = len(distilled.class_names)
    labels = distilled.labels.tolist()
    rows = {c: [i for i, label in enumerate(labels) if label == c] for c in set(labels)}
    return [rows[(label + 1) % classes].pop(0) for label in labels]


def same_classes(distilled: DistilledSet, other: DistilledSet) -> list[int]:
    """Return for each image the row of one of its class in another set, by name."""
    rows: dict[str, list[int]] = {}
    for row, label in enumerate(other.labels.tolist()):
        rows.setdefault(other.class_names[label], []).append(row)
    return [rows[distilled.class_names[c]].pop(0) for c in distilled.labels.tolist()]


def comparisons_of(
    table: pd.DataFrame,
    sets: list[str],
    pairs: tuple,
    each: bool = False,
    shared: tuple[str, ...] = SHARED,
) -> pd.DataFrame:
    """Return one row per group of judges, set and pair, and one for all sets pooled.

    With `each` one row per judge instead of per group; rows that are `shared` don't
    depend on a set. "survives": of Holm's correction, for the family that the question
    asks about: the pooled rows, or all rows where there is one set; the rows of single
    sets are shown, and never survive.
    The interval of a pooled row holds its sets fixed. "sets": how many of them have its
    sign; "sets_low", "sets_high": the 95 % t interval over their means, for whom sets
    are drawn, too. Source: ours.
    """
    there = {*table["set"]}
    panels = {group: group for group in GROUPS}
    if each:
        panels = {judge: group_of(judge) for judge in table["judge"]}
    rows = []
    for judges, group in panels.items():
        mine = table[table["judge"] == judges] if each else table
        if group not in set(map(group_of, mine["judge"])):
            continue
        for pair in pairs:
            several = []  # set, its row, what that is compared with
            for name in sets:
                full = [row if row in shared else f"{name}: {row}" for row in pair]
                if {*full} <= there:
                    several.append((name, *full))
            if {*pair} <= {*shared}:  # no set has a part in it
                several = [("-", *pair)] if {*pair} <= there else []
            about = {"judges": judges, "row": pair[0], "against": pair[1]}
            for name, first, other in several:
                row = about | {"set": name}
                rows.append(row | compare(mine, first, other, "points", group))
            if len(several) > 1:
                _, firsts, others = zip(*several, strict=True)
                row = about | {"set": POOLED}
                pooled = compare(mine, firsts, others, "points", group)
                means = [one["points"] for one in rows[-len(several) :]]
                rows.append(row | pooled | over_sets(pooled["points"], means))
    if not rows:
        return pd.DataFrame(columns=["verdict"])
    found = pd.DataFrame(rows)
    asked = found["set"].isin([POOLED, "-"])
    if not (found["set"] == POOLED).any():
        asked |= True
    found["survives"] = holm(found["p"].where(asked).tolist())
    return found.round(4)


def over_sets(pooled: float, means: list[float]) -> dict[str, str | float]:
    """Return how a pooled difference looks to whom sets are drawn, not fixed."""
    alike = sum(np.sign(mean) == np.sign(pooled) for mean in means)
    _, low, high = map(float, t_interval(np.array(means)))
    return {"sets": f"{alike} of {len(means)}", "sets_low": low, "sets_high": high}


if __name__ == "__main__":
    main()
