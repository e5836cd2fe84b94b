"""Is our Stage I any good? Its sets beside the figures that were published.

Run: python scripts/stage1.py --ipc 1 [--sets dm-real dsa mtt] [--seeds 3]
     [--dataset cifar10 --sets-folder FOLDER --data-root FOLDER]

The ConvNet judges each set under the `literature` protocol, on all test images.

Finished trainings lie in the first of these files, so an interrupted run goes on:

results/stage1_DATASET_ipcN_trainings.csv  one row per training
results/stage1_DATASET_ipcN.json           what was published, and provenance
"""

from __future__ import annotations

import argparse

from provenance import begin, find_distilled, write_result  # and bookkit

# isort: split
from bookkit.studies import summary_of

from diver_lite import cross_architecture, load_dataset
from diver_lite.sets.real import describe_source

# top-1 % of a ConvNet at 1 and 10 images per class. DC and DSA: the README of
# github.com/VICO-UoE/DatasetCondensation. DM on Fashion-MNIST: from memory, its paper
# has none. CIFAR-10: table 1 of NCFM (arXiv 2502.20653), which has one row for all.
PUBLISHED = {
    "fashion-mnist": {"dc": (70.5, 82.3), "dsa": (70.6, 84.6), "dm": (70.7, 83.5)},
    "cifar10": {
        "dc": (28.3, 44.9), "dsa": (28.8, 52.1), "dm": (26.0, 48.9), "mtt": (46.3, 65.3)
    },
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="fashion-mnist", choices=PUBLISHED)
    parser.add_argument("--ipc", type=int, default=1, choices=(1, 10))
    parser.add_argument("--sets", nargs="+", default=["dm-real", "dsa", "mtt"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sets-folder", help="where sets lie that don't ship")
    parser.add_argument("--data-root")
    args = parser.parse_args()
    started = begin()
    images, labels, names = load_dataset(args.dataset, "test", root=args.data_root)
    sets = {
        name: find_distilled(f"{args.dataset}-{name}-ipc{args.ipc}", args.sets_folder)
        for name in args.sets
    }
    out = f"results/stage1_{args.dataset}_ipc{args.ipc}"
    table = cross_architecture(
        sets,
        (images, labels, names),
        judges=["ConvNet"],
        seeds=args.seeds,
        protocol="literature",
        out=f"{out}_trainings.csv",
    )
    facts = {}
    for name, distilled in sets.items():
        figures = PUBLISHED[args.dataset].get(name.partition("-")[0])
        facts[name] = {
            "iterations": distilled.provenance.get("steps"),
            "published": figures[args.ipc == 10] if figures else None,
        }
    print(summary_of(table).to_string(index=False), facts, sep="\n")
    write_result(
        f"{out}.json",
        {
            "data": describe_source(args.dataset, root=args.data_root),
            "split": "test",
            "test_images": len(labels),
            "protocol": "literature",
            "whose": "our numbers, but what was published, which is the literature's",
            "sets": facts,
        },
        vars(args),
        started=started,
    )


if __name__ == "__main__":
    main()
