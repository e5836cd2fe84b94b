"""Compare recovery settings on the validation split; the default is chosen from this.

Run: python scripts/choose_default.py [--ipc 1] [--seeds 5] [--data-root FOLDER]

One setting is changed at a time around a base. Test images are never looked at. Writes
results/default_fashion-mnist_ipc<IPC>.json and a .csv with one row per setting.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import pandas as pd
from provenance import begin, write_csv, write_result

from diver_lite import (
    RecoveryConfig,
    cross_architecture,
    load_dataset,
    load_distilled,
    load_prior,
    recover,
)
from diver_lite.judge.table import paired_difference
from diver_lite.make.baselines import random_real, vae_only

BASE = RecoveryConfig(
    guidance_scale=1.5, noise_timestep=500, start="matched", guidance_factor=0.0
)
# SG can act only below the start, so its rows start high enough for their window
SG = replace(BASE, noise_timestep=700, guidance_factor=0.1, guidance_target="x0")
SETTINGS = {
    "raw prior (scale 1.5)": replace(BASE, inheritance=False),
    "SI matched 300": replace(BASE, noise_timestep=300),
    "SI matched 400": replace(BASE, noise_timestep=400),
    "SI matched 500": BASE,
    "SI matched 600": replace(BASE, noise_timestep=600),
    "SI matched 700": replace(BASE, noise_timestep=700),
    "SI matched 800": replace(BASE, noise_timestep=800),
    "SI matched 600, scale 1": replace(BASE, noise_timestep=600, guidance_scale=1.0),
    "SI matched 600, scale 2.5": replace(BASE, noise_timestep=600, guidance_scale=2.5),
    "SI matched 600, scale 4": replace(BASE, noise_timestep=600, guidance_scale=4.0),
    "SI published": replace(BASE, noise_timestep=510, start="published"),
    "SI matched 700 + SG x0, published window": SG,
    "SI matched 700 + SG x0, late window": replace(SG, window="late"),
    "SI matched 700 + SG x0, full window": replace(SG, window="full"),
    "SI matched 700 + SG z, published window": replace(SG, guidance_target="latent"),
    "DIVER published": RecoveryConfig.published(),
    "DIVER published, scale 1.5": RecoveryConfig.published(guidance_scale=1.5),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prior", default="fashion-mnist")
    parser.add_argument("--ipc", type=int, default=1)
    parser.add_argument("--judges", nargs="+", default=["ShuffleNetV2", "MobileNetV2"])
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--only", nargs="+", help="settings whose name contains this")
    parser.add_argument("--data-root")
    args = parser.parse_args()
    started = begin()
    prior = load_prior(args.prior)
    distilled = load_distilled(f"fashion-mnist-dm-ipc{args.ipc}")
    fit = load_dataset("fashion-mnist", "fit", root=args.data_root)
    images, labels, names = load_dataset(
        "fashion-mnist", "validation", root=args.data_root
    )
    validation = (images[: args.images], labels[: args.images], names)

    chosen = {
        name: config
        for name, config in SETTINGS.items()
        if not args.only or any(part in name for part in args.only)
    }
    sets = {
        "random real": lambda seed: random_real(fit, args.ipc, seed),
        "Stage I": distilled,
        "VAE only": vae_only(distilled, prior),
    }
    for name, config in chosen.items():
        # a draw of noise per seed, so that the interval covers it too
        recovered = [
            recover(distilled, prior, config, seed=seed, progress=False)
            for seed in range(args.seeds)
        ]
        sets[name] = lambda seed, recovered=recovered: recovered[seed]
    table = cross_architecture(
        sets,
        validation,
        judges=args.judges,
        seeds=args.seeds,
        protocol="quick",
        steps=args.steps,
    )
    rows = []
    for name in sets:
        mine = table[table["set"] == name]
        mean, low, high = paired_difference(table, name, "random real")
        row = {"setting": name, "unseen": mine["accuracy"].mean()}
        row |= mine.groupby("judge")["accuracy"].mean().to_dict()
        rows.append(row | {"vs_random_real": mean, "low": low, "high": high})
    summary = pd.DataFrame(rows).round(4)
    print((summary.set_index("setting") * 100).round(1).to_string())
    stem = f"results/default_fashion-mnist_ipc{args.ipc}"
    write_csv(f"{stem}.csv", summary)
    write_result(
        f"{stem}.json",
        {"split": "validation", "trainings": table.to_dict("records")},
        vars(args),
        started=started,
    )


if __name__ == "__main__":
    main()
