"""Change one setting of the default recovery at a time, and judge on validation data.

Run: python scripts/sweep.py [--set dm --ipc 1] [--seeds 5] [--data-root FOLDER]
     [--dataset cifar10 --prior FOLDER --sets-folder FOLDER]
     [--only guidance_scale noise --also "guidance_scale=3 noise_timestep=500" ...]
     [--name cifar10_dm_steps]

With --also, several settings are changed together, in rows that stand last.
Test images are never looked at, so a default may be chosen from this. Finished
recoveries and trainings are kept: an interrupted sweep goes on where it stopped.

results/sweep_NAME_trainings.csv  one row per training; NAME is DATASET_SET_ipcN
results/sweep_NAME.csv            one row per setting
results/sweep_NAME.json           provenance
"""

from __future__ import annotations

import argparse
from dataclasses import replace
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
from diver_lite.make.baselines import random_real, vae_only
from diver_lite.sets.real import describe_source

DEFAULT = RecoveryConfig()
# field -> values other than the default's
SWEEPS = {
    "noise_timestep": (300, 400, 500, 600, 800, 900),
    "guidance_factor": (0.0, 0.05, 0.2, 0.4, 0.8),
    "window": ("early", "late", "full"),
    "guidance_target": ("latent",),
    "guidance_sigma": ("marginal", "signal", "one"),
    "guidance_scale": (1.0, 2.5, 4.0),
    "num_inference_steps": (10, 25, 100),
    "start": ("published",),
    "clip_input": (False,),
}


def settings() -> dict[str, RecoveryConfig]:
    """Return name -> config: the default, the published one, and all single changes."""
    changed = {
        f"{field} = {value}": replace(DEFAULT, **{field: value})
        for field, values in SWEEPS.items()
        for value in values
    }
    # below the window guidance never acts, so this is inheritance alone (PReDD)
    return {
        "default": DEFAULT,
        "published": RecoveryConfig.published(),
        "published, guidance_scale = 1.5": RecoveryConfig.published(guidance_scale=1.5),
        "raw prior": replace(DEFAULT, inheritance=False, guidance_factor=0.0),
        **changed,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="fashion-mnist")
    parser.add_argument("--prior", help="default: the one named like the dataset")
    parser.add_argument("--set", default="dm")
    parser.add_argument("--ipc", type=int, default=1)
    parser.add_argument("--judges", nargs="+", default=["ShuffleNetV2", "MobileNetV2"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--draws", type=int, help="recoveries per setting; default: a "
                        "new one for each seed")  # fmt: skip
    parser.add_argument("--protocol", default="quick")
    parser.add_argument("--images", type=int, default=1000, help="that score")
    parser.add_argument("--only", nargs="+", help="settings whose name contains this")
    parser.add_argument("--also", nargs="+", default=[], metavar="'F=V F=V'")
    parser.add_argument("--name", help="of the results; default: DATASET_SET_ipcN")
    parser.add_argument("--work", type=Path, default=Path("runs/sweep"))
    parser.add_argument("--sets-folder", help="where sets lie that don't ship")
    parser.add_argument("--data-root")
    args = parser.parse_args()
    started = begin()
    prior = load_prior(args.prior or args.dataset)
    stem = args.name or f"{args.dataset}_{args.set}_ipc{args.ipc}"
    distilled = find_distilled(
        f"{args.dataset}-{args.set}-ipc{args.ipc}", args.sets_folder
    )
    fit = load_dataset(args.dataset, "fit", root=args.data_root)
    images, labels, names = load_dataset(
        args.dataset, "validation", root=args.data_root
    )
    validation = (images[: args.images], labels[: args.images], names)

    def recovered(config: RecoveryConfig):
        def draw(seed: int) -> DistilledSet:
            # a draw of noise per seed, so that the interval covers it too
            seed %= args.draws or args.seeds
            return kept_recovery(args.work, distilled, prior, config, seed)

        return draw

    sets = {
        "random real": lambda seed: random_real(fit, args.ipc, seed),
        "Stage I": distilled,
        "VAE only": vae_only(distilled, prior),
    }
    chosen = {
        name: config
        for name, config in settings().items()
        if not args.only or any(part in name for part in args.only)
    }
    for text in args.also:
        chosen[text] = parse_config(Preset.default, text.split())
    for name, config in chosen.items():
        sets[name] = recovered(config)
    out = f"results/sweep_{stem}"
    table = cross_architecture(
        sets,
        validation,
        judges=args.judges,
        seeds=args.seeds,
        protocol=args.protocol,
        out=f"{out}_trainings.csv",
    )
    rows = []
    for name in sets:
        mine = 100 * table[table["set"] == name].set_index("judge")["accuracy"]
        row = {"setting": name, "unseen": mine.mean()}
        row |= mine.groupby(level=0).mean().to_dict()
        if "default" in sets and name != "default":
            row |= compare(table, name, "default", "vs_default")
        rows.append(row)
    summary = pd.DataFrame(rows).round(2)
    verdicts = summary.get("verdict", [])
    print(summary.to_string(index=False), footnote(verdicts), sep="\n")
    write_csv(f"{out}.csv", summary)
    write_result(
        f"{out}.json",
        {
            "data": describe_source(args.dataset, root=args.data_root),
            "split": "validation",
            "default": str(DEFAULT),
            "verdicts": tally(verdicts),
        },
        vars(args),
        started=started,
    )


if __name__ == "__main__":
    main()
