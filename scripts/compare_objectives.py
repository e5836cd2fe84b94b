"""How sensitive is recovery to the prior? Noise prediction against flow matching.

Run: python scripts/compare_objectives.py noise=FOLDER flow=FOLDER [--sets dm dsa mtt]
     [--steps 4 8 16 36] [--judges ShuffleNetV2] [--seeds 10] [--test-images 2000]

The priors differ in what they learned to predict, and in nothing else: data, VAE, size
and training budget are compared, and refused where they differ. Both visit the same
noise levels, evenly spaced in timesteps of DiT from the start of the default settings
down, so that window, pull and noise level mean the same for both. Each seed of a judge
gets a draw of its own. Nothing is chosen here.

Finished recoveries lie in --work, finished trainings in the first of these files, so
an interrupted run goes on where it stopped:

results/objectives_DATASET_ipcN_trainings.csv  one row per training
results/objectives_DATASET_ipcN.json           provenance

Paired differences are printed; `recompute.py` stores them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from answer import comparisons_of
from provenance import begin, find_distilled, write_result

from diver_lite import (
    DistilledSet,
    Prior,
    RecoveryConfig,
    cross_architecture,
    load_dataset,
    load_prior,
)
from diver_lite.advice.rows import kept_recovery
from diver_lite.checks import InputError
from diver_lite.judge.compare import footnote
from diver_lite.priors.fast import FastPrior
from diver_lite.sets.real import describe_source

NOISE, FLOW = "noise", "flow"


def even_steps(prior: Prior, top: int) -> Prior:
    """Return a fast prior that visits evenly spaced levels from `top` down.

    DIVER's grid of 50 steps is such a one: 36 of them are left from 700 down.
    """
    fast = FastPrior(prior)

    def timesteps(steps: int) -> list[int | float]:
        return [round(top - top * k / steps) for k in range(steps)]

    fast.timesteps = timesteps
    return fast


def check_alike(priors: dict[str, Prior]) -> None:
    """Raise unless two priors differ in their objective alone."""
    recipes = {name: dict(prior.info["recipe"]) for name, prior in priors.items()}
    for name, recipe in recipes.items():
        if (found := recipe.pop("objective", "noise")) != name:
            raise InputError(f"prior {name} was trained for {found!r}")
    first, second = recipes.values()
    different = [key for key in first if first[key] != second.get(key)]
    if different:
        raise InputError(f"the priors differ in {', '.join(different)}, too")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("priors", nargs=2, metavar="noise=FOLDER flow=FOLDER")
    parser.add_argument("--dataset", default="fashion-mnist")
    parser.add_argument("--ipc", type=int, default=1)
    parser.add_argument("--sets", nargs="+", default=["dm", "dsa", "mtt"])
    parser.add_argument("--steps", nargs="+", type=int, default=[4, 8, 16, 36])
    parser.add_argument("--judges", nargs="+", default=["ShuffleNetV2"])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--protocol", default="quick")
    parser.add_argument("--test-images", type=int, default=2000)
    parser.add_argument("--work", type=Path, default=Path("runs/objectives"))
    parser.add_argument("--data-root")
    args = parser.parse_args()
    started = begin()
    priors = {
        name: load_prior(folder)
        for name, folder in (text.split("=", 1) for text in args.priors)
    }
    check_alike({name: priors[name] for name in (NOISE, FLOW)})
    images, labels, names = load_dataset(args.dataset, "test", root=args.data_root)
    every = max(1, len(images) // args.test_images)
    test = (images[::every], labels[::every], names)
    stem = f"results/objectives_{args.dataset}_ipc{args.ipc}"
    default = RecoveryConfig()
    sets = {}
    for name in args.sets:
        distilled = find_distilled(f"{args.dataset}-{name}-ipc{args.ipc}")
        sets[f"{name}: Stage I"] = distilled
        for steps in args.steps:
            config = RecoveryConfig(num_inference_steps=steps)
            for objective, prior in priors.items():
                even = even_steps(prior, int(default.noise_timestep))
                sets[f"{name}: {objective}, {steps} steps"] = _recovered(
                    args.work / objective, distilled, even, config
                )
    table = cross_architecture(
        sets, test, judges=args.judges, seeds=args.seeds, protocol=args.protocol,
        out=f"{stem}_trainings.csv",
    )  # fmt: skip
    found = comparisons_of(table, args.sets, pairs_of(args.steps))
    print(found.to_string(index=False), footnote(found["verdict"]), sep="\n\n")
    write_result(
        f"{stem}.json",
        {
            "data": describe_source(args.dataset, root=args.data_root),
            "split": "test",
            "test_images": len(test[1]),
            "recoveries_per_variant": args.seeds,
            "recipe": priors[FLOW].info["recipe"],
            "last_losses": {k: p.info["losses"]["dit"][-1] for k, p in priors.items()},
            "config": str(default),
        },
        vars(args) | {"priors": [NOISE, FLOW]},
        started=started,
    )


def _recovered(work: Path, distilled: DistilledSet, prior: Prior, config):
    """Return seed -> set; each draw of noise is computed once and kept."""

    def draw(seed: int) -> DistilledSet:
        return kept_recovery(work, distilled, prior, config, seed)

    return draw


def pairs_of(steps: list[int]) -> tuple[tuple[str, str], ...]:
    """Return what is compared: flow against noise, by number of steps."""
    return tuple((f"{FLOW}, {n} steps", f"{NOISE}, {n} steps") for n in steps)


if __name__ == "__main__":
    main()
