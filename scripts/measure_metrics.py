"""Measure what recovery does to sets: agreement, distances, neighbours, t-SNE.

Run: python scripts/measure_metrics.py [SET ...] [--dataset NAME] [--data-root FOLDER]

SET is a shipped name, a name in --sets-folder or a file; the default is
DATASET-dm-ipc10. Each set is measured in the rows of `answer.py`: as it is (Stage I),
through the VAE, by inheritance, by DIVER, and with the paper's settings, all but those
at the guidance scale that is recommended for the prior. Random real images, also
recovered, and samples of the prior stand beside.

Two judges of real data look at them, because one of them, the ConvNet, is the network
that Stage I distils on. They learn from `fit`; `validation` is what sets are compared
with; the test split gives the judges' accuracy only. Trained judges are kept in
runs/judges. Sets are recovered with different seeds: with one, image i of all of them
would share its noise and they would resemble each other for that reason.

Writes results/metrics_DATASET.json: a `table` with a row per set, variant and judge,
the distances between sets, and `plane` (t-SNE).
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
from provenance import begin, find_distilled, write_result  # and bookkit

# isort: split
from bookkit.copying import copying_distances
from bookkit.features import (
    class_agreement,
    embed_2d,
    frechet_distance,
    judge_features,
    kernel_distance,
    real_judge,
)
from bookkit.latents import latent_distances, source_distances

from diver_lite import DistilledSet, RecoveryConfig, load_dataset, load_prior, recover
from diver_lite.advice.rows import PAPER, STAGE1, inheritance_of
from diver_lite.judge.protocols import PROTOCOLS
from diver_lite.judge.training import predict
from diver_lite.make.baselines import random_real, raw_prior, vae_only
from diver_lite.sets.real import describe_source

REAL = "random real"
SAMPLES = "prior"


def load_real(args):
    """Return fit and validation images, and judges of `fit` with their accuracies.

    The judges are trained, or loaded from runs/judges; they are scored on test images.
    """
    fit, validation, test = (
        load_dataset(args.dataset, split, root=args.data_root)
        for split in ("fit", "validation", "test")
    )
    steps, batch_size = args.judge_steps, args.judge_batch
    protocol = replace(PROTOCOLS["real"], steps=steps, batch_size=batch_size)
    judges, accuracies = {}, {}
    for name in args.judges:
        file = f"{args.dataset}-{name}-{steps}x{batch_size}.safetensors"
        path = Path("runs/judges", file)
        judges[name] = real_judge(fit, path, name=name, protocol=protocol)
        right = predict(judges[name], test[0]).argmax(1) == test[1]
        accuracies[name] = round(right.float().mean().item(), 4)
        print(f"{name}: {accuracies[name]:.1%} of test images", flush=True)
    return fit, validation, judges, accuracies


def add_arguments(parser):
    """Add what all measurements with judges of real data share."""
    parser.add_argument("--dataset", default="fashion-mnist")
    parser.add_argument("--prior", help="default: the one named like the dataset")
    parser.add_argument("--judges", nargs="+", default=["ConvNet", "ShuffleNetV2"])
    parser.add_argument("--judge-steps", type=int, default=800)
    parser.add_argument("--judge-batch", type=int, default=64)
    parser.add_argument("--sets-folder", help="where sets lie that don't ship")
    parser.add_argument("--data-root")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sets", nargs="*", help="default: DATASET-dm-ipc10")
    parser.add_argument("--inference-steps", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--floors", type=int, default=5, help="draws of real images")
    parser.add_argument("--held-out", type=int, default=50, help="images per class")
    add_arguments(parser)
    args = parser.parse_args()
    started = begin()
    prior = load_prior(args.prior or args.dataset)
    fit, validation, judges, accuracies = load_real(args)

    # (set, variant, seed) -> images; as it is, a set's variant is Stage I
    steps = {"num_inference_steps": args.inference_steps}
    plain = inheritance_of(prior, **steps)
    configs = {
        "inheritance 700": plain,
        "DIVER 700": replace(plain, guidance_factor=0.1),
        PAPER: RecoveryConfig.published(**steps),
    }
    sets = args.sets or [f"{args.dataset}-dm-ipc10"]
    sources = {Path(s).stem: find_distilled(s, args.sets_folder) for s in sets}
    # equally many real images stand beside the sets of each size
    for ipc in sorted({s.ipc or 1 for s in sources.values()}):
        sources[f"{REAL} ipc{ipc}"] = random_real(fit, ipc, args.seed)
    measured: dict[tuple[str, str, int], DistilledSet] = {}
    for number, (name, source) in enumerate(sources.items()):
        seed = args.seed + 1000 * number
        measured[name, STAGE1, seed] = source
        measured[name, "VAE", seed] = vae_only(source, prior)
        for variant, config in configs.items():
            measured[name, variant, seed] = recover(source, prior, config, seed=seed)
            print(f"{name}, {variant}: {time.perf_counter() - started:.0f} s")
    for name, source in sources.items():
        if not name.startswith(REAL):
            continue
        seed = args.seed + 1000 * len(sources)
        drawn = raw_prior(source, prior, plain, seed=seed)
        measured[name.replace(REAL, "none,"), SAMPLES, seed] = drawn
        for seed in range(args.seed + 1, args.seed + args.floors):
            measured[name, STAGE1, seed] = random_real(fit, source.ipc, seed)

    near = copying_distances(
        {str(key): images for key, images in measured.items()},
        fit,
        random_real(validation, args.held_out, 0),
    ).groupby("set")["ratio"]
    real = random_real(validation, 2 * args.held_out, args.seed)
    many = random_real(validation, 4 * args.held_out, args.seed).images
    references = {name: judge_features(judges[name], many) for name in judges}
    rows = []
    for (name, variant, seed), images in measured.items():
        ratios = near.get_group(str((name, variant, seed)))
        drawn = name.startswith(REAL) and variant == STAGE1  # nothing was distilled
        row = {"set": name, "variant": "as drawn" if drawn else variant}
        row |= {"seed": seed, "images": len(images)}
        for relation, distance in to_real(images, real, prior).items():
            row |= {f"cosine_to_real_{relation}": distance[0]}
            row |= {f"l2_to_real_{relation}": distance[1]}
        if variant not in (STAGE1, SAMPLES):
            source = sources[name]
            kept = source_distances(images, source, prior)
            row["l2_to_source"] = kept["l2_distance"].mean()
            row["layout_of_source"] = kept["layout"].mean()
            if (source.ipc or 1) > 1:
                row["own_source_nearest"] = (kept["rank"] == 0).mean()
        # of the distance that a held-out real image of the class has on average
        row["nearest_training_image"] = ratios.mean()
        row["nearest_training_image_min"] = ratios.min()
        for judge_name, judge in judges.items():
            agreement = class_agreement(images, judge)
            features = judge_features(judge, images.images)
            pair = (features, references[judge_name])
            rows.append(
                row
                | {
                    "judge": judge_name,
                    "agreement": float(agreement["agrees"].mean()),
                    "confidence": float(agreement["confidence"].mean()),
                    "frechet": frechet_distance(*pair),
                    "kid": kernel_distance(*pair),
                }
            )
    table = pd.DataFrame(rows)
    # of some judges kid is 1e-5
    digits = table.select_dtypes("float").map(lambda value: float(f"{value:.5g}"))
    numeric = table.drop(columns=["seed", "images"]).groupby(
        ["set", "variant", "judge"], sort=False
    )
    print(numeric.mean().T.to_string(float_format="{:.3g}".format))

    between = []
    order = [STAGE1, "VAE", *configs]
    for variant in order:
        chosen = {
            name: measured[name, variant, args.seed + 1000 * number]
            for number, name in enumerate(sources)
        }
        distances = latent_distances(chosen | {"real": real}, prior)
        between.append(distances.assign(variant=variant))
    between = pd.concat(between)
    same = between[between["relation"] == "same class"].assign(
        pair=lambda t: t["set_a"] + " | " + t["set_b"]
    )
    for value in ("cosine_distance", "l2_distance"):
        wide = same.pivot_table(index="pair", columns="variant", values=value)
        print(value, wide[order].round(3).to_string(), sep="\n")

    first = next(iter(sources))
    stages = {
        "real": random_real(validation, min(20, args.held_out), args.seed),
        **{
            variant: measured[first, variant, args.seed]
            for variant in (STAGE1, "VAE", "DIVER 700")
        },
    }
    judge = judges[args.judges[0]]
    embedding = embed_2d(stages, judge, seed=args.seed)
    write_result(
        f"results/metrics_{args.dataset}.json",
        {
            "data": describe_source(args.dataset, root=args.data_root),
            "note": "seed of recovery differs between sets; real images of validation; "
            "frechet is biased for few images: compare with random real of equal n",
            "judge_test_accuracy": accuracies,
            "table": table.assign(**digits),
            "plane": embedding.round(3),
            "embedding": {
                "set": first,
                "features": f"{args.judges[0]} trained on fit, last layer's input",
                "stages": {stage: len(s) for stage, s in stages.items()},
            },
            "distances_between_sets": [
                {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}
                for row in between.where(between.notna(), None).to_dict("records")
            ],
        },
        vars(args),
        started=started,
    )


def to_real(images: DistilledSet, real: DistilledSet, prior) -> dict:
    """Return mean (cosine, L2) distances to real images: same class, other class."""
    table = latent_distances({"set": images, "real": real}, prior)
    table = table[(table["set_a"] == "set") & (table["set_b"] == "real")]
    return {
        row.relation.replace(" ", "_"): (row.cosine_distance, row.l2_distance)
        for row in table.itertuples()
    }


if __name__ == "__main__":
    main()
