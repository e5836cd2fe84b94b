"""Does recovery help networks that Stage I never saw? The study behind the tables.

Run: python scripts/study.py --ipc 1 [--sets dm dsa mtt] [--judges ...] [--seeds 5]
     [--dataset cifar10 --prior FOLDER --sets-folder FOLDER --data-root FOLDER]
     [--tuned guidance_scale=3 ...] [--also "noise_timestep=500 guidance_factor=0" ...]
     [--name published_cifar10_ipc1]

Every Stage-I set is judged as it is, clipped, through the VAE only, and after each
variant of recovery, beside random real images, recovered random real images, and
samples of the prior; all on real test images. Nothing is chosen here: settings are
chosen on a validation split, by sweep.py. With --tuned
FIELD=VALUE ... such a choice gets a row of its own, "DIVER tuned", and one for samples
of the prior by the same sampler, "raw prior tuned"; each --also "FIELD=VALUE ..."
gets a row named by its text. Sets that others published are studied after conversion
to .safetensors, as --sets-folder, with a --name of their own for the results.

Finished recoveries lie in --work, finished trainings in the first of these files, so
an interrupted study goes on where it stopped:

results/study_NAME_trainings.csv    one row per training; NAME is DATASET_ipcN
results/study_NAME.csv              one row per set and variant
results/study_NAME_comparisons.csv  paired differences, with intervals
results/study_NAME.json             provenance
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import pandas as pd
from provenance import begin, find_distilled, kept_recovery, write_csv, write_result

from diver_lite import (
    DistilledSet,
    RecoveryConfig,
    cross_architecture,
    load_dataset,
    load_prior,
)
from diver_lite.cli import Preset, parse_config
from diver_lite.judge.compare import compare, footnote, tally
from diver_lite.judge.networks import UNSEEN
from diver_lite.judge.protocols import get_protocol
from diver_lite.make.baselines import clip_only, random_real, vae_only, variants
from diver_lite.sets.real import describe_source

CONTROLS = ("clip only", "VAE only")
RANDOM = "random real + DIVER"  # not a row of each set: one for all
VARIANTS = ("SI matched", "SI published", "SI + SG", "DIVER published", "DIVER")
TUNED, TUNED_PRIOR = "DIVER tuned", "raw prior tuned"
# what each comparison asks, (row, against): Stage I is compared set by set
QUESTIONS = (
    ("DIVER", "Stage I"),
    ("clip only", "Stage I"),
    ("VAE only", "clip only"),
    ("VAE only", "Stage I"),
    ("DIVER", "clip only"),
    ("DIVER", "VAE only"),
    ("DIVER", "SI matched"),  # SI matched is PReDD
    ("DIVER", "DIVER published"),
    ("DIVER", "raw prior"),
    ("DIVER", "random real"),
    ("Stage I", "random real"),
    # asked only with --tuned
    (TUNED_PRIOR, "Stage I"),
    (TUNED_PRIOR, "random real"),
    (TUNED, "Stage I"),
    (TUNED, "DIVER"),
    (TUNED, TUNED_PRIOR),
    (TUNED, "random real"),
)
SHARED = ("random real", RANDOM, "raw prior", TUNED_PRIOR)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="fashion-mnist")
    parser.add_argument("--prior", help="default: the one named like the dataset")
    parser.add_argument("--ipc", type=int, default=1)
    parser.add_argument("--sets", nargs="+", default=["dm", "dm-real", "dsa", "mtt"])
    every = [*CONTROLS, *VARIANTS, RANDOM]
    parser.add_argument("--variants", nargs="+", default=every, choices=every)
    parser.add_argument("--tuned", nargs="+", metavar="FIELD=VALUE")
    parser.add_argument("--also", nargs="+", default=[], metavar="'F=V F=V'")
    parser.add_argument("--name", help="of the results; default: DATASET_ipcN")
    parser.add_argument("--judges", nargs="+", default=["ConvNet", *UNSEEN])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--proxy-seeds",
        type=int,
        help="seeds of the ConvNet, which is shown beside and carries no verdict; "
        "default: all",
    )
    parser.add_argument("--draws", type=int, help="recoveries per variant; default: a "
                        "new one for each seed")  # fmt: skip
    parser.add_argument("--protocol", default="corrected")
    parser.add_argument("--soft-labels", action="store_true", help="learn a set's own, "
                        "where it carries some; real images keep theirs")  # fmt: skip
    parser.add_argument("--test-images", type=int, help="default: all")
    parser.add_argument("--work", type=Path, default=Path("runs/study"))
    parser.add_argument("--sets-folder", help="where sets lie that don't ship")
    parser.add_argument("--data-root")
    args = parser.parse_args()
    started = begin()
    prior = load_prior(args.prior or args.dataset)
    fit = load_dataset(args.dataset, "fit", root=args.data_root)
    images, labels, names = load_dataset(args.dataset, "test", root=args.data_root)
    test = (images[: args.test_images], labels[: args.test_images], names)
    stem = args.name or f"{args.dataset}_ipc{args.ipc}"
    settings = variants(RecoveryConfig())
    chosen = [variant for variant in args.variants if variant != RANDOM]
    if args.tuned:
        settings[TUNED] = parse_config(Preset.default, args.tuned)
        settings[TUNED_PRIOR] = variants(settings[TUNED])["raw prior"]
        chosen.append(TUNED)
    for text in args.also:
        settings[text] = parse_config(Preset.default, text.split())
        chosen.append(text)
    draws = args.draws or args.seeds
    protocol = get_protocol(args.protocol)
    protocol = replace(protocol, labels="soft") if args.soft_labels else protocol

    def recovered(source, variant: str):
        """Return seed -> set; each draw of noise is computed once and kept."""

        def draw(seed: int) -> DistilledSet:
            from_set = source(seed) if callable(source) else source
            return kept_recovery(
                args.work, from_set, prior, settings[variant], seed % draws
            )

        return draw

    def real(seed: int) -> DistilledSet:
        return random_real(fit, args.ipc, seed % draws)

    sets = {"random real": lambda seed: random_real(fit, args.ipc, seed)}
    if RANDOM in args.variants:
        sets[RANDOM] = recovered(real, "DIVER")
    # samples of the prior depend on the labels alone, so one row serves all sets
    sets["raw prior"] = recovered(real(0), "raw prior")
    if args.tuned:
        sets[TUNED_PRIOR] = recovered(real(0), TUNED_PRIOR)
    for name in args.sets:
        distilled = find_distilled(
            f"{args.dataset}-{name}-ipc{args.ipc}", args.sets_folder
        )
        sets[f"{name}: Stage I"] = distilled
        controls = {"clip only": clip_only(distilled)}
        controls["VAE only"] = vae_only(distilled, prior)
        for variant in chosen:
            sets[f"{name}: {variant}"] = controls.get(variant) or recovered(
                distilled, variant
            )

    out = f"results/study_{stem}"
    unseen = [judge for judge in args.judges if judge != "ConvNet"]
    proxy = ["ConvNet"] if "ConvNet" in args.judges else []
    panels = [(proxy, args.proxy_seeds or args.seeds), (unseen, args.seeds)]
    tables = [
        cross_architecture(
            sets,
            test,
            judges=judges,
            seeds=seeds,
            protocol=protocol,
            out=f"{out}_trainings.csv",
        )
        for judges, seeds in panels
        if judges
    ]
    table = pd.concat(tables, ignore_index=True)
    summary = summary_of(table)
    comparisons = comparisons_of(table, args.sets, args.also)
    for content, path in ((summary, out), (comparisons, f"{out}_comparisons")):
        write_csv(f"{path}.csv", content)
        print(content.to_string(index=False), end="\n\n")
    print(footnote(comparisons["verdict"]))
    failed = table[table["error"] != ""]
    write_result(
        f"{out}.json",
        {
            "data": describe_source(args.dataset, root=args.data_root),
            "split": "test",
            "test_images": len(test[1]),
            "recoveries_per_variant": draws,
            "config": str(RecoveryConfig()),
            "tuned": str(settings[TUNED]) if args.tuned else None,
            "verdicts": tally(comparisons["verdict"]),
            "failed": failed[["set", "judge", "seed", "error"]].to_dict("records"),
            "training_seconds": round(float(table["seconds"].sum())),
        },
        vars(args),
        started=started,
    )


def summary_of(table: pd.DataFrame) -> pd.DataFrame:
    """Return one row per set and variant: mean and std per judge, in percent."""
    rows = []
    for full in dict.fromkeys(table["set"]):
        name, _, variant = full.rpartition(": ")
        mine = table[table["set"] == full]
        row = {"set": name or "-", "variant": variant}
        row["unseen"] = 100 * mine[mine["unseen"]]["accuracy"].mean()
        for judge, group in mine.groupby("judge", sort=False)["accuracy"]:
            row[judge] = 100 * group.mean()
            row[f"{judge} std"] = 100 * group.std()
        rows.append(row)
    return pd.DataFrame(rows).round(2)


def comparisons_of(
    table: pd.DataFrame, sets: list[str], also: Sequence[str] = ()
) -> pd.DataFrame:
    """Return one row per set and question: points on unseen judges, interval, word."""
    against = ("Stage I", "VAE only", "raw prior", TUNED_PRIOR, "random real", "DIVER")
    rows = []
    for name in sets:
        for pair in (*QUESTIONS, *product(also, against)):
            first, second = (p if p in SHARED else f"{name}: {p}" for p in pair)
            if not {first, second} <= set(table["set"]):
                continue
            row = {"set": name, "row": pair[0], "against": pair[1]}
            rows.append(row | compare(table, first, second, "points"))
    return pd.DataFrame(rows).round(2)


if __name__ == "__main__":
    main()
