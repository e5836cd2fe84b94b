"""Judge datasets by what networks learn from them.

`fit_judge` trains one network, `train_judge` scores it on real test images,
`cross_architecture` does so for many sets, judges and seeds, and `summarise` compares
the sets pairwise, seed by seed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from diver_lite.augment import FAMILIES, dsa
from diver_lite.distilled import DistilledSet
from diver_lite.errors import InputError
from diver_lite.judges import PROXY, build_judge
from diver_lite.prior import resolve_device


@dataclass(frozen=True)
class Protocol:
    """How a judge is trained.

    Attributes:
        steps: optimiser steps, whatever the size of the set.
        batch_size: images per step; a smaller set is used whole.
        optimizer: "adamw" or "sgd" (momentum 0.9).
        lr: peak learning rate: linear warm-up over the first tenth, then cosine.
        weight_decay: of the optimiser.
        augment: DSA families, see `diver_lite.augment`; empty for none.
        statistics: (mean, std) that normalise training and test images alike.
    """

    steps: int = 300
    batch_size: int = 128
    optimizer: str = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.01
    augment: tuple[str, ...] = FAMILIES
    statistics: tuple[float, float] = (0.5, 0.25)


PROTOCOLS = {
    "corrected": Protocol(),
    # for the demo and the notebooks: as above, but light enough for a laptop
    "quick": Protocol(steps=80, lr=2e-3),
    # for a judge trained on tens of thousands of real images
    "real": Protocol(steps=4_000, batch_size=256, augment=("crop",)),
}


def _protocol(protocol: str | Protocol) -> Protocol:
    if isinstance(protocol, Protocol):
        return protocol
    if protocol not in PROTOCOLS:
        raise InputError(
            f"protocol {protocol!r} is unknown; expected one of {[*PROTOCOLS]}"
        )
    return PROTOCOLS[protocol]


def fit_judge(
    name: str,
    images: Tensor,
    labels: Tensor,
    *,
    num_classes: int,
    seed: int = 0,
    protocol: str | Protocol = "corrected",
    device: str | torch.device | None = None,
    progress: bool = False,
) -> nn.Module:
    """Train one judge and return it in evaluation mode.

    Args:
        name: a key of `diver_lite.judges.JUDGES`.
        images: (N, 3, H, W) on the [0, 1] scale.
        labels: (N,) int64.
        num_classes: number of outputs.
        seed: fixes initial weights, batches and augmentation.
        protocol: a name or a `Protocol`.
        device: default: CUDA if there is one.
        progress: show a progress bar.

    Raises:
        FloatingPointError: the loss became NaN or infinite.

    Source: ours; DSA augmentation as in Zhao and Bilen 2021.
    """
    protocol, device = _protocol(protocol), resolve_device(device)
    network = build_judge(name, num_classes, images.shape[-1], seed).to(device)
    if images.stride(1) == 0 and len(images) > 5_000:  # grey: move one channel only
        images = images[:, :1].to(device).expand(-1, 3, -1, -1)
    images, labels = images.to(device), labels.to(device)
    if protocol.optimizer == "adamw":
        optimizer = torch.optim.AdamW(
            network.parameters(), lr=protocol.lr, weight_decay=protocol.weight_decay
        )
    else:
        optimizer = torch.optim.SGD(
            network.parameters(), protocol.lr, 0.9, weight_decay=protocol.weight_decay
        )
    generator = torch.Generator().manual_seed(seed)
    order, mean_loss = torch.empty(0, dtype=torch.long), torch.zeros((), device=device)
    network.train()
    # dropout in a judge draws from the global generator: seed it, then restore it
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        for step in tqdm(range(protocol.steps), desc=name, disable=not progress):
            for group in optimizer.param_groups:
                group["lr"] = protocol.lr * _schedule(step / protocol.steps)
            if len(order) < min(protocol.batch_size, len(labels)):
                order = torch.randperm(len(labels), generator=generator)
            index, order = order.split(
                [n := min(protocol.batch_size, len(order)), len(order) - n]
            )
            x = normalise(images[index.to(device)], protocol)
            if protocol.augment:
                x = dsa(x, generator, families=protocol.augment)
            loss = F.cross_entropy(network(x), labels[index.to(device)])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            mean_loss = mean_loss + loss.detach()
    if not math.isfinite(mean_loss.item()):
        raise FloatingPointError(f"judge {name}, seed {seed}: the loss became NaN")
    return network.eval()


def _schedule(done: float) -> float:
    return min(1.0, (done + 1e-3) / 0.1) * 0.5 * (1 + math.cos(math.pi * done))


def normalise(images: Tensor, protocol: Protocol) -> Tensor:
    """Shift and scale images, training and test alike."""
    mean, std = protocol.statistics
    return (images - mean) / std


@torch.no_grad()
def predict(
    network: nn.Module, images: Tensor, protocol: str | Protocol = "corrected"
) -> Tensor:
    """Return a judge's logits (N, K) for images (N, 3, H, W) in [0, 1]."""
    protocol = _protocol(protocol)
    device = next(network.parameters()).device
    return torch.cat(
        [
            network(normalise(part.to(device), protocol)).cpu()
            for part in images.split(500 if device.type == "cpu" else 2_000)
        ]
    )


def train_judge(
    name: str,
    train: DistilledSet,
    test: tuple,
    *,
    seed: int = 0,
    protocol: str | Protocol = "corrected",
    device: str | torch.device | None = None,
) -> float:
    """Train a judge on a set and return its last-step accuracy on real images.

    Args:
        name: a key of `diver_lite.judges.JUDGES`.
        train: the set to learn from.
        test: images (N, 3, H, W) in [0, 1] and labels (N,), as of `load_dataset`.
        seed: fixes everything that is random.
        protocol: a name or a `Protocol`.
        device: default: CUDA if there is one.

    Returns:
        Top-1 accuracy in [0, 1].

    Raises:
        InputError: set and test images differ in size or classes.
    """
    images, labels = test[:2]
    if images.shape[1:] != train.images.shape[1:]:
        raise InputError(
            f"the set's images are {tuple(train.images.shape[1:])}, the test images "
            f"{tuple(images.shape[1:])}; bring both to one size"
        )
    classes = len(train.class_names)
    if int(labels.max()) >= classes:
        raise InputError(
            f"the test labels go up to {int(labels.max())}; the set has {classes} "
            "classes"
        )
    network = fit_judge(
        name,
        train.images,
        train.labels,
        num_classes=classes,
        seed=seed,
        protocol=protocol,
        device=device,
    )
    return (
        (predict(network, images, protocol).argmax(1) == labels).float().mean().item()
    )


def cross_architecture(
    sets: Mapping[str, DistilledSet],
    test: tuple,
    *,
    judges: Sequence[str] = ("ConvNet", "ShuffleNetV2", "MobileNetV2"),
    seeds: int | Sequence[int] = 5,
    protocol: str | Protocol = "corrected",
    steps: int | None = None,
    device: str | torch.device | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Train every judge on every set with every seed.

    Args:
        sets: name -> set. A value may also be a function seed -> set, for rows such
            as "random real" that draw anew for each seed.
        test: real images and labels.
        judges: names; "ConvNet" is the proxy that Stage I saw.
        seeds: how many (0, 1, ...) or which.
        protocol: a name or a `Protocol`.
        steps: override the protocol's number of steps.
        device: default: CUDA if there is one.
        progress: show a progress bar.

    Returns:
        One row per training: set, judge, unseen (bool), seed, accuracy in [0, 1] (NaN
        if training failed), seconds.
    """
    protocol = _protocol(protocol)
    protocol = replace(protocol, steps=steps) if steps else protocol
    seeds = range(seeds) if isinstance(seeds, int) else seeds
    cells = [(s, j, k) for k in seeds for j in judges for s in sets]
    rows = []
    for name, judge, seed in tqdm(cells, desc="judges", disable=not progress):
        train, started = sets[name], time.perf_counter()
        train = train(seed) if callable(train) else train
        try:
            accuracy = train_judge(
                judge, train, test, seed=seed, protocol=protocol, device=device
            )
        except FloatingPointError:
            accuracy = float("nan")
        rows.append(
            {
                "set": name,
                "judge": judge,
                "unseen": judge != PROXY,
                "seed": seed,
                "accuracy": accuracy,
                "seconds": round(time.perf_counter() - started, 2),
            }
        )
    return pd.DataFrame(rows)


def summarise(table: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """Summarise a table of `cross_architecture`, one row per set.

    Columns: per judge "mean ± std" in percent over seeds; "unseen": the mean over
    unseen judges; "vs <baseline>": the paired difference of that mean in points with
    its 95 % bootstrap interval over the seeds.

    Raises:
        InputError: `baseline` is not in the table.
    """
    order = list(dict.fromkeys(table["set"]))
    if baseline not in order:
        raise InputError(f"baseline {baseline!r} is not a set; expected one of {order}")
    percent = table.assign(accuracy=100 * table["accuracy"])
    rows = {}
    for name in order:
        mine = percent[percent["set"] == name]
        row = {
            judge: f"{group.mean():.1f} ± {group.std():.1f}"
            for judge, group in mine.groupby("judge", sort=False)["accuracy"]
        }
        row["unseen"] = f"{mine[mine['unseen']]['accuracy'].mean():.1f}"
        if name == baseline:
            row[f"vs {baseline}"] = "-"
        else:
            mean, low, high = paired_difference(table, name, baseline)
            row[f"vs {baseline}"] = (
                f"{100 * mean:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
            )
        rows[name] = row
    return pd.DataFrame.from_dict(rows, orient="index")


def paired_difference(
    table: pd.DataFrame, name: str, baseline: str, *, resamples: int = 10_000
) -> tuple[float, float, float]:
    """Return mean and 95 % bootstrap interval of name - baseline on unseen judges.

    A pair is two trainings with the same judge and seed. The judges are a fixed panel
    and are averaged first; what is resampled are the seeds. Failed trainings (NaN)
    drop their seed.

    Source: percentile bootstrap, Efron 1979.
    """
    unseen = table[table["unseen"]]
    wide = unseen.pivot_table(
        index=["seed", "judge"], columns="set", values="accuracy", dropna=False
    )
    difference = (wide[name] - wide[baseline]).unstack("judge")  # seeds x judges
    per_seed = difference.mean(axis=1, skipna=False).dropna().to_numpy()
    if len(per_seed) == 0:
        return float("nan"), float("nan"), float("nan")
    rng = np.random.default_rng(0)
    draws = rng.integers(len(per_seed), size=(resamples, len(per_seed)))
    low, high = np.percentile(per_seed[draws].mean(axis=1), [2.5, 97.5])
    return float(per_seed.mean()), float(low), float(high)
