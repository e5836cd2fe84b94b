"""Does the prior copy its training images? Distances to the nearest of them.

Run: python scripts/measure_copying.py [SET ...] [--dataset NAME] [--data-root FOLDER]
     [--prior FOLDER --sets-folder FOLDER]

Samples of the prior and recovered sets (SET; default DATASET-dm-ipc10, and 10 random
training images per class) are compared with every image of `fit`, in pixels and in the
features of a judge of real data. Held-out images of `validation` give the unit. Two
controls say whether the measure can be trusted: held-out images through the VAE must
look new, training images through it must be found. Recovery keeps the layout of what it
is given, so recovered training images are compared with recovered held-out ones, and
both with the images that they were made from.

Writes results/copying_DATASET.json: a `table` with a row per space and set, and the
ratio of each image, from which `figures.copying_plot` draws. Judges are kept in
runs/judges.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import pandas as pd
from measure_metrics import add_arguments, load_real
from provenance import begin, find_distilled, write_result  # and bookkit

# isort: split
from bookkit.copying import copying_distances, copying_summary

from diver_lite import RecoveryConfig, load_prior, recover
from diver_lite.make.baselines import random_real, raw_prior, vae_only
from diver_lite.sets.real import describe_source


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sets", nargs="*", help="default: DATASET-dm-ipc10")
    parser.add_argument("--held-out", type=int, default=50, help="images per class")
    parser.add_argument("--seed", type=int, default=0)
    add_arguments(parser)
    parser.set_defaults(judges=["ConvNet"])
    args = parser.parse_args()
    started = begin()
    prior = load_prior(args.prior or args.dataset)
    fit, validation, judges, accuracies = load_real(args)

    held_out = random_real(validation, args.held_out, args.seed)
    training = random_real(fit, 10, args.seed)
    new = random_real(validation, min(10, args.held_out), args.seed + 1)
    recovered = {"recovered training real": training, "recovered held-out real": new}
    names = args.sets or [f"{args.dataset}-dm-ipc10"]
    sets = {
        "held-out real, VAE": vae_only(held_out, prior),
        "training real, VAE": vae_only(training, prior),
        "raw prior": raw_prior(training, prior, seed=args.seed),
    }
    for name, source in recovered.items():
        sets[name] = recover(source, prior, seed=args.seed)
    for name in names:
        source = find_distilled(name, args.sets_folder)
        short = Path(name).stem.removeprefix(f"{args.dataset}-")
        sets[f"recovered {short}"] = recover(source, prior, seed=args.seed)
        print(f"{name}: {time.perf_counter() - started:.0f} s", flush=True)

    spaces = {"pixels": None}
    spaces |= {f"{name} features": judge for name, judge in judges.items()}
    tables, summaries, ratios = {}, [], {}
    for space, judge in spaces.items():
        table = copying_distances(sets, fit, held_out, judge=judge)
        tables[space] = table
        summaries.append(copying_summary(table).assign(space=space))
        ratios[space] = {
            name: mine.round(3).tolist()
            for name, mine in table.groupby("set", sort=False)["ratio"]
        }
        print(summaries[-1].round(3).to_string(), flush=True)
    summary = pd.concat(summaries)
    summary.insert(0, "space", summary.pop("space"))
    write_result(
        f"results/copying_{args.dataset}.json",
        {
            "data": describe_source(args.dataset, root=args.data_root),
            "training_images": len(fit[1]),
            "config": str(RecoveryConfig.recommended(prior)),
            "note": "ratio: distance to the nearest training image, in units of the "
            "mean for held-out real images of the class; share_near: below their 5 % "
            "quantile, with a 95 % Wilson interval",
            "judge_test_accuracy": accuracies,
            "table": summary.round(4),
            "ratios": ratios,
            "ratios_to_own_source": {
                name: distances_to_source(tables["pixels"], name, sets[name], source)
                for name, source in recovered.items()
            },
        },
        vars(args),
        started=started,
    )


def distances_to_source(table, name, made, source) -> list[float]:
    """Return the distance of each image to what it was made from, in the same units."""
    mine = table[table["set"] == name]
    unit = (mine["distance"] / mine["ratio"]).to_numpy()
    gaps = (made.images.clamp(0, 1) - source.images).flatten(1).norm(dim=1)
    return (gaps.numpy() / unit).round(3).tolist()


if __name__ == "__main__":
    main()
