"""Measure a prior: reconstruction, class agreement, and use as training data.

Run: python scripts/measure_prior.py [--dataset cifar10] [--prior FOLDER]
     [--data-root FOLDER] [--judge-steps 800 --unseen-steps 300 --guidance-scale 1.5 3]

(a) A judge trained on the real training images: how much accuracy on test images does
    it lose when they go through the VAE and back? (b) To how many prior samples does
    it assign the intended class? (c) Do unseen judges learn as much from 10 samples
    per class as from 10 random real images per class (paired, 5 seeds)?

(c) is scored on the validation split, so that settings may be chosen with it. Writes
results/prior_DATASET.json. The judge is kept in runs/judges, samples and trainings in
--work, so an interrupted measurement goes on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from measure_metrics import add_arguments, load_real
from provenance import begin, write_result

from diver_lite import (
    DistilledSet,
    RecoveryConfig,
    cross_architecture,
    load_dataset,
    load_prior,
)
from diver_lite.advice.rows import kept_recovery
from diver_lite.judge.compare import paired_difference
from diver_lite.judge.training import predict
from diver_lite.make.baselines import random_real, vae_only, variants
from diver_lite.sets.real import describe_source


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser)
    parser.set_defaults(judges=["ConvNet"], judge_steps=1500, judge_batch=256)
    parser.add_argument("--unseen", nargs="+", default=["ShuffleNetV2", "ResNet18"])
    parser.add_argument("--unseen-steps", type=int, default=150)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--guidance-scale", type=float, nargs="+")
    parser.add_argument("--work", type=Path, default=Path("runs/prior"))
    args = parser.parse_args()
    started = begin()
    prior = load_prior(args.prior or args.dataset)
    fit, validation, judges, accuracies = load_real(args)
    (judge_name, judge), *others = judges.items()
    if others:
        parser.error(f"--judges: found {args.judges}; expected one")
    test = load_dataset(args.dataset, "test", root=args.data_root)
    names = test[2]

    def accuracy(images, labels):
        return (predict(judge, images).argmax(1) == labels).float().mean().item()

    original = accuracies[judge_name]
    real_test = DistilledSet(test[0], test[1], names)
    round_trip = accuracy(vae_only(real_test, prior).images, test[1])
    error = (vae_only(real_test[:500], prior).images - test[0][:500]).abs().mean()
    result = {
        "data": describe_source(args.dataset, root=args.data_root),
        "judge": f"{judge_name}, {args.judge_steps} steps on the fit split",
        "test_accuracy": original,
        "test_accuracy_after_vae": round_trip,
        "vae_loss_in_points": 100 * (original - round_trip),
        "vae_mean_absolute_error_0_to_1": error.item(),
        "guidance_scales": {},
    }
    print(f"(a) {100 * original:.2f} -> {100 * round_trip:.2f} through the VAE")

    labels = torch.arange(len(names)).repeat_interleave(10)
    request = DistilledSet(torch.zeros(len(labels), 3, 32, 32), labels, names)
    sets = {"random real": lambda seed: random_real(fit, 10, seed)}
    scales = args.guidance_scale or [RecoveryConfig().guidance_scale]
    for scale in scales:
        config = variants(RecoveryConfig(guidance_scale=scale))["raw prior"]
        samples = [
            kept_recovery(args.work, request, prior, config, seed)
            for seed in range(args.seeds)
        ]
        agreement = sum(accuracy(s.images, s.labels) for s in samples) / len(samples)
        result["guidance_scales"][str(scale)] = {
            "class_agreement": agreement,
            "samples": len(labels) * args.seeds,
        }
        print(f"(b) scale {scale}: class agreement {100 * agreement:.1f} %")
        sets[f"raw prior {scale}"] = lambda seed, samples=samples: samples[seed]
    table = cross_architecture(
        sets,
        validation,
        judges=args.unseen,
        seeds=args.seeds,
        steps=args.unseen_steps,
        out=args.work / f"{args.dataset}_{args.unseen_steps}.csv",
    )
    result["trainings"] = table.to_dict("records")
    means = table.groupby("set")["accuracy"].mean()
    for scale in scales:
        mean = means[f"raw prior {scale}"]
        difference = paired_difference(table, f"raw prior {scale}", "random real")
        result["guidance_scales"][str(scale)] |= {
            "unseen_random_real": means["random real"],
            "unseen_raw_prior": mean,
            "paired_difference_and_interval": difference,
        }
        print(
            f"(c) scale {scale}: random real {100 * means['random real']:.1f}, raw "
            f"prior {100 * mean:.1f}, difference "
            + " ".join(f"{100 * d:+.1f}" for d in difference)
        )
    write_result(
        f"results/prior_{args.dataset}.json", result, vars(args), started=started
    )


if __name__ == "__main__":
    main()
