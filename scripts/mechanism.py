"""Ask why a network with batch norm can't read a distilled set.

Run: python scripts/mechanism.py [--dataset fashion-mnist --sets dm dm-real dsa mtt]
     [--judge ShuffleNetV2-BN --seeds 5:15 --steps 300]
     [--sets-folder FOLDER --data-root FOLDER --name ...]

A network learns from a set, and is then tested five times. Batch norm normalises test
pictures by

own: the means and variances that it remembers of its lesson;
both: those of the 2,000 test pictures, without their labels (AdaBN);
means, variances: only one of the two, and its own of the other;
real: means and variances of 2,000 real training pictures.

What it learned is the same each time, so the difference is what it remembers.

results/mechanism_NAME_trainings.csv   five rows per training; an interrupted study
                                       goes on where it stopped
results/mechanism_NAME_histograms.csv  what the first batch norm makes of its lesson
                                       and of test pictures, by its memory
results/mechanism_NAME.json            provenance

Paired differences are printed; `recompute.py` stores them.
"""

from __future__ import annotations

import argparse
import copy
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from answer import comparisons_of
from provenance import begin, find_distilled, write_csv, write_result
from torch import Tensor, nn
from tqdm.auto import tqdm

from diver_lite import DistilledSet, load_dataset, train_judge
from diver_lite.devices import plain_torch
from diver_lite.judge.protocols import Protocol
from diver_lite.judge.record import protocol_fingerprint, set_fingerprint
from diver_lite.judge.training import predict
from diver_lite.make.baselines import random_real
from diver_lite.sets.classes import in_order_of
from diver_lite.sets.real import describe_source

# name -> (means, variances) that are estimated anew, and on which pictures
MEMORIES = {
    "own": (False, False, "test"),
    "both": (True, True, "test"),
    "means": (True, False, "test"),
    "variances": (False, True, "test"),
    "real": (True, True, "fit"),
}
PAIRS = tuple((name, "own") for name in MEMORIES if name != "own")
KEY = ["set", "seed"]
BINS = torch.linspace(-4, 4, 81)  # in the standard deviations that it remembers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="fashion-mnist")
    parser.add_argument("--ipc", type=int, default=1)
    parser.add_argument("--sets", nargs="+", default=["dm", "dm-real", "dsa", "mtt"])
    parser.add_argument("--judge", default="ShuffleNetV2-BN")
    parser.add_argument("--seeds", default="5:15", help="FIRST:END")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--images", type=int, default=2000, help="that score")
    parser.add_argument("--name", help="of the results; default: DATASET_ipcN")
    parser.add_argument("--sets-folder", help="where sets lie that don't ship")
    parser.add_argument("--data-root")
    args = parser.parse_args()
    started = begin()
    fit = load_dataset(args.dataset, "fit", root=args.data_root)
    images, labels, names = load_dataset(args.dataset, "test", root=args.data_root)
    test = images[: args.images], labels[: args.images]
    pictures = {"test": test[0], "fit": fit[0][: args.images]}
    protocol = Protocol(steps=args.steps)
    first, end = (int(number) for number in args.seeds.split(":"))
    stem = f"results/mechanism_{args.name or f'{args.dataset}_ipc{args.ipc}'}"
    path = Path(f"{stem}_trainings.csv")
    sha = protocol_fingerprint(protocol)
    table = read(path, sha)
    seen = pd.DataFrame()
    tasks = [(seed, name) for seed in range(first, end) for name in [*args.sets, "-"]]
    for seed, name in tqdm(tasks, "trainings"):
        train = random_real(fit, args.ipc, seed)
        if name != "-":
            full = f"{args.dataset}-{name}-ipc{args.ipc}"
            train = find_distilled(full, args.sets_folder)
        train = in_order_of(train, names, name, "the test images")
        there = table[(table["name"] == name) & (table["seed"] == seed)]
        if len(there) and seed != first:  # the first seed's network draws histograms
            check = {*there["set_sha"]} == {set_fingerprint(train)}
            assert check, f"{path}: rows of {name!r} are of another set; delete it"
            continue
        network = train_judge(
            args.judge,
            train.images,
            train.labels,
            seed=seed,
            num_classes=len(names),
            protocol=protocol,
        )
        if seed == first:
            seen = pd.concat([seen, histograms(name, network, train, test[0])])
        if not len(there):
            rows = scores(network, pictures, test[1], protocol)
            about = {"name": name, "judge": args.judge, "seed": seed, "draw": ""}
            about |= {"set_sha": set_fingerprint(train), "protocol_sha": sha}
            if name == "-":
                about["draw"] = about["set_sha"]
            rows = [about | row | {"set": set_of(name, row["memory"])} for row in rows]
            table = pd.concat([table, pd.DataFrame(rows)], ignore_index=True)
            write_csv(path, table)
    print(compared(table, args.sets).to_string(index=False))
    write_csv(f"{stem}_histograms.csv", seen)
    write_result(
        f"{stem}.json",
        {
            "data": describe_source(args.dataset, root=args.data_root),
            "split": "test",
            "images": len(test[1]),
            "means": means(table),
        },
        vars(args),
        started=started,
    )


def compared(table: pd.DataFrame, sets: list[str]) -> pd.DataFrame:
    """Return what each memory changes: of sets, and of random real pictures."""
    table = table.assign(unseen=True)
    return pd.concat([comparisons_of(table, part, PAIRS) for part in (sets, ["-"])])


def set_of(name: str, memory: str) -> str:
    return f"{name}: {memory}"


def read(path: Path, sha: str) -> pd.DataFrame:
    """Return the trainings that are there, of this protocol and code."""
    if not path.exists():
        columns = ["name", "judge", "seed", "draw", "set_sha", "protocol_sha"]
        columns += ["memory", "accuracy", "set"]
        return pd.DataFrame(columns=columns).astype({"seed": int, "accuracy": float})
    table = pd.read_csv(path, keep_default_na=False)
    assert {*table["protocol_sha"]} == {sha}, f"{path} is of other code; delete it"
    return table


def scores(
    network: nn.Module, pictures: dict[str, Tensor], labels: Tensor, protocol: Protocol
) -> list[dict]:
    """Return the accuracy of one network by each of `MEMORIES`."""
    found = []
    for name, (mean, variance, which) in MEMORIES.items():
        other = reestimated(
            network, protocol.normalise(pictures[which]), mean, variance
        )
        right = predict(other, pictures["test"], protocol).argmax(1) == labels
        found.append(
            {"memory": name, "accuracy": round(right.float().mean().item(), 6)}
        )
    return found


def reestimated(
    network: nn.Module, images: Tensor, mean: bool, variance: bool
) -> nn.Module:
    """Return a copy whose batch norms remember other pictures, layer after layer.

    Each layer's statistics are taken behind the layers before it as they are then.
    images (N, 3, H, W) are normalised already.
    """
    other = copy.deepcopy(network).eval()
    handles = []

    def remember(module: nn.BatchNorm2d, given: tuple[Tensor]) -> None:
        (x,) = given  # (N, C, h, w)
        if mean:
            module.running_mean = x.mean((0, 2, 3))
        if variance:
            module.running_var = x.var((0, 2, 3))

    for module in other.modules():
        if isinstance(module, nn.BatchNorm2d):
            handles.append(module.register_forward_pre_hook(remember))
    with plain_torch(grad=False):
        other(images)
    for handle in handles:
        handle.remove()
    return other


def histograms(
    name: str, network: nn.Module, train: DistilledSet, test: Tensor
) -> pd.DataFrame:
    """Return how the first batch norm's output is spread, before scale and shift.

    Of the lesson by the lesson's own statistics, as in training; of the lesson and of
    test pictures by what it remembers.
    """
    protocol = Protocol()
    norm = next(m for m in network.modules() if isinstance(m, nn.BatchNorm2d))
    caught: list[Tensor] = []
    handle = norm.register_forward_pre_hook(lambda _, x: caught.append(x[0]))
    with plain_torch(grad=False):
        for images in (train.images, test):
            network(protocol.normalise(images))
    handle.remove()
    lesson, unseen = caught

    def by(x: Tensor, mean: Any, variance: Any) -> Tensor:
        shape = (1, -1, 1, 1)
        return (x - mean.view(shape)) / (variance.view(shape) + norm.eps).sqrt()

    memory = norm.running_mean, norm.running_var
    spread = {
        "lesson, by itself": by(lesson, lesson.mean((0, 2, 3)), lesson.var((0, 2, 3))),
        "lesson, by memory": by(lesson, *memory),
        "test pictures, by memory": by(unseen, *memory),
    }
    density = partial(torch.histogram, bins=BINS, density=True)
    rows = [
        {"name": name, "what": what, "from": round(low, 2), "density": round(height, 6)}
        for what, values in spread.items()
        for low, height in zip(
            BINS.tolist(), density(values.flatten()).hist.tolist(), strict=False
        )
    ]
    return pd.DataFrame(rows)


def means(table: pd.DataFrame) -> dict[str, float]:
    """Return the mean accuracy in percent of each set and memory."""
    accuracies: Any = table.groupby("set", sort=False)["accuracy"].mean()
    return (100 * accuracies).round(4).to_dict()


if __name__ == "__main__":
    main()
