"""Train one judge, ask it for predictions, and score them. Source: ours."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn
from tqdm.auto import tqdm

from diver_lite.checks import class_indices, finite, floats
from diver_lite.judge.augment import cutmix, dsa, resized_crops
from diver_lite.judge.networks import build_judge, judge_name
from diver_lite.judge.protocols import Protocol, get_protocol
from diver_lite.priors.loading import resolve_device
from diver_lite.sets.distilled import DistilledSet

CHECK_EVERY = 50  # steps between two looks at the losses: a look waits for the GPU
# test images at a time: on a CPU 50 stay in its caches, and take half the time of 500
SCORE_BATCH = {"cpu": 50, "cuda": 2_000}
# faster on a CPU with channels in the last dimension (measured; the others are slower)
CHANNELS_LAST = frozenset(
    {
        ("ShuffleNetV2", "BN"),
        ("ShuffleNetV2", "AdaBN"),
        ("MobileNetV2", "BN"),
        ("MobileNetV2", "AdaBN"),
        ("MobileNetV2", "GN"),
    }
)


def train_judge(
    name: str,
    images: Tensor,
    labels: Tensor,
    *,
    seed: int = 0,
    num_classes: int,
    protocol: str | Protocol = "corrected",
    lr: float | None = None,
    device: str | torch.device | None = None,
    progress: bool = False,
) -> nn.Module:
    """Train one judge and return it in evaluation mode.

    Args:
        name: a key of `diver_lite.judge.networks.JUDGES`, perhaps with a suffix for
            its norm, such as "ShuffleNetV2-GN".
        images: (N, 3, H, W) on the [0, 1] scale.
        labels: (N,) int64, or (N, num_classes) probabilities.
        seed: fixes initial weights, batches and augmentation.
        num_classes: number of outputs.
        protocol: a name or a `Protocol`.
        lr: peak learning rate, instead of the protocol's.
        device: default: CUDA if there is one.
        progress: show a progress bar.

    Raises:
        InputError: images or labels of another type, shape or range, or not finite.
        FloatingPointError: the loss became NaN or infinite.
    """
    protocol = get_protocol(protocol)
    device = resolve_device(device)
    _check_images(images)
    if getattr(labels, "ndim", 1) == 1:
        class_indices(labels, "labels", len(images), num_classes)
    else:
        floats(labels, "labels", (len(images), num_classes))
        finite(labels, "labels")
    name = protocol.judge(name)
    network = build_judge(name, num_classes, images.shape[-1], seed).to(device).train()
    if device.type == "cpu" and judge_name(name) in CHANNELS_LAST:
        network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    peak = lr or protocol.peak_lr(name)
    optimizer = _optimizer(network, protocol, peak)
    if protocol.cutmix and labels.ndim == 1:
        labels = F.one_hot(labels, num_classes).float()
    total = protocol.total_steps(len(images))
    batches = _batches(images, labels, seed, protocol, device)
    steps = tqdm(range(total), desc=name, disable=not progress)
    losses: list[Tensor] = []
    for step, (x, y) in zip(steps, batches, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = peak * protocol.factor(step, total)
        if protocol.schedule == "step" and step == total // 2:
            optimizer.state.clear()
        loss = F.cross_entropy(network(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
        if len(losses) == CHECK_EVERY or step == total - 1:
            broken = (~torch.stack(losses).isfinite()).nonzero()
            if len(broken):
                first = step - len(losses) + 1 + int(broken[0])
                raise FloatingPointError(
                    f"judge {name}, seed {seed}: the loss became NaN at step {first}"
                )
            losses.clear()
    return network.eval()


def _check_images(images: Tensor) -> None:
    floats(images, "images", ("N", 3, "H", "W"))
    finite(images, "images")


def _optimizer(
    network: nn.Module, protocol: Protocol, lr: float
) -> torch.optim.Optimizer:
    parameters, decay = network.parameters(), protocol.weight_decay
    if protocol.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=lr, weight_decay=decay)
    return torch.optim.SGD(parameters, lr, 0.9, weight_decay=decay)


def _batches(
    images: Tensor, labels: Tensor, seed: int, protocol: Protocol, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield a training's normalised, augmented images and its labels, per step."""
    images = images.to(device)
    labels = labels.to(device)
    few = len(images) <= 5_000  # they are normalised once for all
    if few:
        images = protocol.normalise(images)
    generator = torch.Generator().manual_seed(seed)
    for index in protocol.batches(len(labels), generator):
        index = index.to(device)
        x = images[index] if few else protocol.normalise(images[index])
        if protocol.augment:
            x = dsa(x, generator, families=protocol.augment)
        if protocol.crops:
            x = resized_crops(x, generator)
        if protocol.cutmix:
            yield cutmix(x, labels[index], generator)
        else:
            yield x, labels[index]


def adapt_statistics(
    network: nn.Module, images: Tensor, protocol: str | Protocol = "corrected"
) -> None:
    """Let batch norm normalise by the statistics of other images, without labels.

    A diagnosis: what a judge with batch norm learned, seen without the statistics of
    the few images that it learned from.

    Args:
        network: a judge in evaluation mode; its running statistics are replaced.
        images: (N, 3, H, W) in [0, 1], those that will score it.

    Source: AdaBN, Li et al. 2016 (1603.04779).
    """
    protocol = get_protocol(protocol)
    device = next(network.parameters()).device
    parts = images.split(
        500
    )  # each gives an estimate of its own, and they are averaged
    update_bn((protocol.normalise(part.to(device)) for part in parts), network)


@torch.no_grad()
def predict(
    network: nn.Module, images: Tensor, protocol: str | Protocol = "corrected"
) -> Tensor:
    """Return a judge's logits (N, K) for images (N, 3, H, W) in [0, 1]."""
    _check_images(images)
    protocol = get_protocol(protocol)
    device = next(network.parameters()).device
    parts = images.split(SCORE_BATCH.get(device.type, 500))
    logits = [network(protocol.normalise(part.to(device))).cpu() for part in parts]
    return torch.cat(logits)


def judge_one(
    judge: str,
    seed: int,
    train: DistilledSet,
    protocol: Protocol,
    test: tuple[np.ndarray, np.ndarray],
    device: torch.device,
) -> dict[str, Any]:
    """Train one judge on a set and score it on test images and labels.

    Returns what a row of a table says of it: "accuracy" in [0, 1], NaN if training
    failed; "error", "" or why it failed; "seconds".
    """
    started = time.perf_counter()
    images, labels = (torch.from_numpy(each) for each in test)
    accuracy, error = float("nan"), ""
    try:
        network = train_judge(
            judge,
            train.images[:],
            protocol.targets(train),
            seed=seed,
            num_classes=len(train.class_names),
            protocol=protocol,
            lr=protocol.peak_lr(judge, train),
            device=device,
        )
    except FloatingPointError as broken:
        error = str(broken)
    else:
        if judge_name(judge).norm == "AdaBN":
            adapt_statistics(network, images, protocol)
        right = predict(network, images, protocol).argmax(1) == labels
        accuracy = right.float().mean().item()
    seconds = round(time.perf_counter() - started, 2)
    return {"accuracy": accuracy, "error": error, "seconds": seconds}
