"""Measure what makes a recovery cheaper: how much, and what it costs.

Run: python scripts/measure_shortcuts.py [SET] [--dataset NAME] [--data-root FOLDER]
     [--prior FOLDER] [--base guidance_scale=4 ...]

SET is a shipped name; the default is DATASET-dm-ipc1. Each shortcut changes the base,
which is the default with the changes of --base: fewer steps, with the same pull or with
one as strong in all; classifier-free guidance in an interval only (outside of it half
the network's work falls away); 16 bits. A shortcut's results are compared with the
base's, noise by noise: mean absolute difference of pixels (the row "base, other noise"
says what two draws differ by) and the accuracy of networks that learn from them, on
validation images. Test images are never looked at.

Times are ratios to the base: processor time, medians over the draws, which all
shortcuts take in turns; use one thread (OMP_NUM_THREADS=1). The stored results also
have rows that the package can't make any more, as they were no use: DPM-Solver++ in
DDIM's place, and products of 8 bits.

Writes results/shortcuts_SET_trainings.csv, .csv (a row per shortcut) and .json.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace
from math import sqrt

import pandas as pd
import torch
from provenance import begin, find_distilled, write_csv, write_result

from diver_lite import (
    Prior,
    RecoveryConfig,
    cross_architecture,
    load_dataset,
    load_prior,
    recover,
)
from diver_lite.cli import Preset, parse_config
from diver_lite.judge.compare import compare, footnote, tally
from diver_lite.priors.interval import IntervalPrior
from diver_lite.sets.real import describe_source

BASE, OTHER_NOISE = "base", "base, other noise"
INTERVALS = {"from 500": (500, -1), "500 to 100": (500, 100), "until 400": (1000, 400)}


def shortcuts(base: RecoveryConfig) -> dict[str, tuple[RecoveryConfig, dict]]:
    """Return name -> config, and a guidance interval or dtype of the prior."""
    found = {BASE: (base, {}), OTHER_NOISE: (base, {})}
    for steps in (25, 10):
        fewer = replace(base, num_inference_steps=steps)
        # the pull is a rate; the sigma_k of n steps of the paper's form add up to about
        # sqrt(n) times a constant
        weaker = replace(
            fewer,
            guidance_factor=base.guidance_factor
            * sqrt(steps / base.num_inference_steps),
        )
        found[f"{steps} steps"] = (weaker, {})
        found[f"{steps} steps, pull as strong"] = (fewer, {})
    for name, interval in INTERVALS.items():
        found[f"guidance {name}"] = (base, {"interval": interval})
    found["bfloat16"] = (base, {"dtype": torch.bfloat16})
    return found


def passes(config: RecoveryConfig, options: dict, prior: Prior) -> int:
    """Count the latents per image that go through the network."""
    high, low = options.get("interval", (1000, -1))
    guided = config.guidance_scale != 1
    return sum(1 + (guided and high >= t > low) for t in config.timesteps(prior))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("set", nargs="?", help="default: DATASET-dm-ipc1")
    parser.add_argument("--dataset", default="fashion-mnist")
    parser.add_argument("--prior", help="default: the one named like the dataset")
    parser.add_argument("--base", nargs="+", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--judges", nargs="+", default=["ShuffleNetV2", "MobileNetV2"])
    parser.add_argument("--seeds", type=int, default=5, help="of judges and of noise")
    parser.add_argument("--protocol", default="quick")
    parser.add_argument("--images", type=int, default=1000, help="that score")
    parser.add_argument("--sets-folder", help="where sets lie that don't ship")
    parser.add_argument("--data-root")
    args = parser.parse_args()
    started = begin()
    name = args.set or f"{args.dataset}-dm-ipc1"
    distilled = find_distilled(name, args.sets_folder)
    ways = shortcuts(parse_config(Preset.default, args.base))
    priors = {
        dtype: load_prior(args.prior or args.dataset, dtype=dtype)
        for dtype in (torch.float32, torch.bfloat16)
    }

    recovered: dict[str, list] = {way: [] for way in ways}
    seconds: dict[str, list] = {way: [] for way in ways}
    for seed in range(-1, args.seeds):  # the first round warms up
        for way, (config, options) in ways.items():
            prior = priors[options.get("dtype", torch.float32)]
            if interval := options.get("interval"):
                prior = IntervalPrior(prior, interval)
            noise = max(seed, 0) + (1000 if way == OTHER_NOISE else 0)
            before = time.process_time()
            result = recover(distilled, prior, config, seed=noise, progress=False)
            if seed >= 0:
                seconds[way].append(time.process_time() - before)
                recovered[way].append(result)
        print(f"recovered, round {seed + 2} of {args.seeds + 1}", flush=True)

    images, labels, names = load_dataset(
        args.dataset, "validation", root=args.data_root
    )
    out = f"results/shortcuts_{name}"
    table = cross_architecture(
        {way: lambda seed, sets=sets: sets[seed] for way, sets in recovered.items()},
        (images[: args.images], labels[: args.images], names),
        judges=args.judges,
        seeds=args.seeds,
        protocol=args.protocol,
        out=f"{out}_trainings.csv",
    )
    rows = []
    for way, (config, options) in ways.items():
        apart = [
            (found.images - expected.images).abs().mean().item()
            for found, expected in zip(recovered[way], recovered[BASE], strict=True)
        ]
        ratios = [a / b for a, b in zip(seconds[way], seconds[BASE], strict=True)]
        mine = 100 * table[table["set"] == way].set_index("judge")["accuracy"]
        row = {
            "shortcut": way,
            "passes": passes(config, options, priors[torch.float32]),
            "time_over_base": statistics.median(ratios),
            "pixels_apart": statistics.mean(apart),
            "unseen": mine.mean(),
        }
        if way != BASE:
            row |= compare(table, way, BASE, "vs_base")
        rows.append(row)
    digits = {"pixels_apart": 4, "time_over_base": 3}
    columns = ("unseen", "vs_base", "low", "high")
    summary = pd.DataFrame(rows).round(digits | dict.fromkeys(columns, 2))
    print(summary.to_string(index=False), footnote(summary["verdict"]), sep="\n")
    write_csv(f"{out}.csv", summary)
    write_result(
        f"{out}.json",
        {
            "data": describe_source(args.dataset, root=args.data_root),
            "split": "validation",
            "base": str(ways[BASE][0]),
            "seconds_of_base": round(statistics.median(seconds[BASE]), 2),
            "images": len(distilled),
            "verdicts": tally(summary["verdict"]),
        },
        vars(args),
        started=started,
    )


if __name__ == "__main__":
    main()
