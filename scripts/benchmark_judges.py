"""Time the training of judges on one set: one by one against all seeds at once.

Run: python scripts/benchmark_judges.py [--source SET] [--judges ...] [--seeds 5]

Both ways run in this one process, judge by judge, after a short warm-up; scoring on the
test images is included. On a CPU the time that counts is "cpu": seconds of processor
time, which other programs don't lengthen. With --layouts it also times one training
with channels first and channels last. Writes results/benchmark_judges_<device>.json.
"""

from __future__ import annotations

import argparse
import time

import torch
from provenance import begin, write_result

from diver_lite import cross_architecture, load_dataset, load_distilled
from diver_lite.judge import training as fit
from diver_lite.judge.networks import JUDGES, PROXY, UNSEEN
from diver_lite.sets.priors import resolve_device


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", default="fashion-mnist-dm-ipc10")
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--judges", nargs="+", default=[PROXY, *UNSEEN], choices=JUDGES)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--protocol", default="corrected")
    parser.add_argument("--steps", type=int, help="change the protocol's number")
    parser.add_argument("--test-images", type=int, default=10_000)
    parser.add_argument("--layouts", action="store_true")
    parser.add_argument("--device")
    parser.add_argument("--out")
    args = parser.parse_args()
    started = begin()
    device = resolve_device(args.device)
    sets = {args.source: load_distilled(args.source)}
    images, labels, names = load_dataset(args.data, "test")
    test = (images[: args.test_images], labels[: args.test_images], names)

    def run(judge: str, batch_models: int, steps: int | None, seeds: int) -> dict:
        """Train and score; return wall and processor seconds, and the accuracies."""
        wall, cpu = time.perf_counter(), time.process_time()
        table = cross_architecture(
            sets,
            test,
            judges=[judge],
            seeds=seeds,
            protocol=args.protocol,
            steps=steps,
            batch_models=batch_models,
            device=device,
            progress=False,
        )
        if device.type == "cuda":
            torch.cuda.synchronize()
        return {
            "wall": round(time.perf_counter() - wall, 3),
            "cpu": round(time.process_time() - cpu, 3),
            "accuracy": table["accuracy"].round(4).tolist(),
        }

    clock = "wall" if device.type == "cuda" else "cpu"
    judges = {}
    for judge in args.judges:
        for size in (1, args.seeds):
            run(judge, size, 2, args.seeds)
        alone = run(judge, 1, args.steps, args.seeds)
        at_once = run(judge, args.seeds, args.steps, args.seeds)
        ratio = round(alone[clock] / at_once[clock], 2)
        judges[judge] = {"one_by_one": alone, "at_once": at_once, "ratio": ratio}
        print(
            f"{judge:<16} one by one {alone[clock]:7.1f} s, at once "
            f"{at_once[clock]:7.1f} s ({clock}), ratio {ratio:.2f}"
        )
        if args.layouts:
            chosen, judges[judge]["layouts"] = fit.CHANNELS_LAST, {}
            for layout, members in (("first", ()), ("last", (judge,))):
                fit.CHANNELS_LAST = members
                run(judge, 1, 2, 1)
                found = run(judge, 1, args.steps, 1)
                judges[judge]["layouts"][layout] = found
                print(f"{judge:<16} channels {layout}: {found[clock]:.1f} s")
            fit.CHANNELS_LAST = chosen
    totals = {
        way: round(sum(found[way][clock] for found in judges.values()), 1)
        for way in ("one_by_one", "at_once")
    }
    ratio = round(totals["one_by_one"] / totals["at_once"], 2)
    print(f"{'all':<16} {totals}, ratio {ratio}")
    write_result(
        args.out or f"results/benchmark_judges_{device.type}.json",
        {"clock": clock, "seconds": totals, "ratio": ratio, "judges": judges},
        vars(args) | {"device": str(device)},
        started=started,
    )


if __name__ == "__main__":
    main()
