"""Train one judge, ask it for predictions, and score them. Source: ours."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn
from tqdm.auto import tqdm

from diver_lite.checks import InputError, class_indices, finite, floats, require
from diver_lite.devices import plain_torch
from diver_lite.judge.answers import Look, packed, to_text
from diver_lite.judge.augment import cutmix, dsa, resized_crops
from diver_lite.judge.networks import Judge, build_judge, judge_name, known_judge
from diver_lite.judge.own import OwnJudge, said
from diver_lite.judge.protocols import Protocol, get_protocol
from diver_lite.judge.seeding import Seeded
from diver_lite.priors.loading import resolve_device
from diver_lite.sets.distilled import DistilledSet

# Raise it whenever a training may give another number than before; a test of stored
# results (tests/judge/test_stored_trainings.py) fails where somebody forgot. Trainings
# that are kept in a file are taken from it only with the same number.
RESULTS = 2
CHECK_EVERY = 50  # steps between two checks of the losses: a check waits for the GPU
LOSSES = 10  # the steps whose losses are averaged, as augmentation scatters them
LOOK_IMAGES = 500  # test images that score in the middle of a training
# test images at a time: on a CPU 50 stay in its caches, and take half the time of 500
SCORE_BATCH = {"cpu": 50, "cuda": 2_000}
# Errors that aren't kept as those of somebody's own judge: what we say ourselves, and
# want of memory, which may be there next time.
NOT_THEIRS = (InputError, MemoryError, torch.OutOfMemoryError)
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
    name: Judge,
    images: Tensor,
    labels: Tensor,
    *,
    seed: int = 0,
    num_classes: int,
    protocol: str | Protocol = "corrected",
    lr: float | None = None,
    device: str | torch.device | None = None,
    progress: bool = False,
    look_at: Sequence[int] = (),
    look: Callable[[int, nn.Module, float], None] | None = None,
) -> nn.Module:
    """Train one judge and return it in evaluation mode.

    Args:
        name: a key of `diver_lite.judge.networks.JUDGES`, perhaps with a suffix for
            its norm, such as "ShuffleNetV2-GN"; or one of your own, see
            `cross_architecture`.
        images: (N, 3, H, W) on the [0, 1] scale.
        labels: (N,) int64, or (N, num_classes) probabilities.
        seed: fixes initial weights, batches and augmentation.
        num_classes: number of outputs.
        protocol: a name or a `Protocol`.
        lr: peak learning rate, instead of the protocol's.
        device: default: CUDA if there is one.
        progress: show a progress bar.
        look_at: numbers of steps after which `look` is called, besides the last.
        look: takes how many steps are done, the network in evaluation mode, and the
            mean training loss of the last `LOSSES` steps. It changes no result.

    Raises:
        InputError: images or labels of another type, shape or range, or not finite; a
            judge that `diver_lite.judge.networks.known_judge` refuses.
        FloatingPointError: the loss became NaN or infinite.
    """
    protocol = get_protocol(protocol)
    device = resolve_device(device)
    _check_images(images)
    _check_labels(labels, len(images), num_classes)
    judge = known_judge(name, num_classes, images.shape[-1])
    if isinstance(judge, str):
        judge = name = protocol.judge(judge)
    else:
        name = judge.name
    peak = lr or protocol.peak_lr(judge)
    total = protocol.total_steps(len(images))
    if protocol.cutmix and labels.ndim == 1:
        labels = F.one_hot(labels, num_classes).float()
    with plain_torch(grad=True), _seeded_draws(judge, seed, device):
        network = build_judge(judge, num_classes, images.shape[-1], seed)
        network = network.to(device).train()
        if device.type == "cpu" and judge_name(judge) in CHANNELS_LAST:
            network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        optimizer = _optimizer(network, protocol, peak)
        batches = _batches(images, labels, seed, protocol, device)
        steps = tqdm(range(1, total + 1), desc=name, disable=not progress)
        losses: list[Tensor] = []
        for step, (x, y) in zip(steps, batches, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = peak * protocol.factor(step - 1, total)
            if protocol.schedule == "step" and step - 1 == total // 2:
                optimizer.state.clear()
            loss = F.cross_entropy(network(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
            looking = step in look_at or step == total
            if looking or step % CHECK_EVERY == 0:
                _check_losses(losses, name, seed, step)
                losses = losses[-LOSSES:]
            if looking and look is not None:
                look(step, network.eval(), torch.stack(losses).mean().item())
                network.train()
    return network.eval()


def _check_labels(labels: Tensor, count: int, num_classes: int) -> None:
    """Refuse what is neither a class for each image nor probabilities."""
    if getattr(labels, "ndim", 1) == 1:
        class_indices(labels, "labels", count, num_classes)
    else:
        floats(labels, "labels", (count, num_classes))
        finite(labels, "labels")


@contextmanager
def _seeded_draws(
    judge: str | OwnJudge, seed: int, device: torch.device
) -> Iterator[None]:
    """Let what a judge of one's own draws while it trains follow the seed.

    None of ours draws. A GPU's dropout takes no generator: there torch's own ones are
    seeded, and are afterwards as they were.
    """
    if isinstance(judge, str) or not judge.draws:
        yield
    elif device.type == "cpu":
        with Seeded(torch.Generator().manual_seed(seed)):
            yield
    else:
        with torch.random.fork_rng([device], device_type=device.type):
            torch.manual_seed(seed)
            yield


def _check_losses(losses: list[Tensor], name: str, seed: int, step: int) -> None:
    """Raise if one of the losses up to a step isn't a number."""
    broken = (~torch.stack(losses).isfinite()).nonzero()
    if len(broken):
        first = step - len(losses) + int(broken[0])
        raise FloatingPointError(
            f"judge {name}, seed {seed}: the loss became NaN at step {first}"
        )


def _check_images(images: Tensor) -> None:
    floats(images, "images", ("N", 3, "H", "W"))
    require(images.shape[-1] == images.shape[-2], "images", images, "square ones")
    finite(images, "images")


def _optimizer(
    network: nn.Module, protocol: Protocol, lr: float
) -> torch.optim.Optimizer:
    parameters, decay = network.parameters(), protocol.weight_decay
    options = {"weight_decay": decay, "fused": True}  # a tenth of a step's time less
    if protocol.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=lr, **options)
    return torch.optim.SGD(parameters, lr, 0.9, **options)


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
    # each part gives an estimate of its own, and they are averaged
    parts = images.split(500)
    with plain_torch(grad=False):
        update_bn((protocol.normalise(part.to(device)) for part in parts), network)


def predict(
    network: nn.Module, images: Tensor, protocol: str | Protocol = "corrected"
) -> Tensor:
    """Return a judge's logits (N, K) for images (N, 3, H, W) in [0, 1]."""
    _check_images(images)
    protocol = get_protocol(protocol)
    device = next(network.parameters()).device
    parts = images.split(SCORE_BATCH.get(device.type, 500))
    with plain_torch(grad=False):
        logits = [network(protocol.normalise(part.to(device))).cpu() for part in parts]
    return torch.cat(logits)


def looks_of(total: int) -> list[int]:
    """Return the steps after which a training of so many is looked at by default.

    Powers of two from 64 on: whoever reads a verdict sees whether the network was still
    learning. Source: ours.
    """
    return [2**k for k in range(6, total.bit_length()) if 2**k < total]


def judge_one(
    judge: str | OwnJudge,
    seed: int,
    train: DistilledSet,
    protocol: Protocol,
    test: tuple[np.ndarray, np.ndarray],
    looks: Sequence[int] | None,
    device: torch.device,
) -> dict[str, Any]:
    """Train one judge on a set and score it on test images and labels.

    Returns what a row of a table says of it: "accuracy" in [0, 1], NaN if training
    failed; "loss", the training loss at the end; "curve", a `Look` for each of `looks`
    (default: `looks_of`), scored on the first `LOOK_IMAGES` test images; "right", which
    test images it got right; "error", "" or why it failed; "seconds".
    """
    started = time.perf_counter()
    images, labels = (torch.from_numpy(each) for each in test)
    if looks is None:
        looks = looks_of(protocol.total_steps(len(train)))
    found = {"accuracy": float("nan"), "loss": float("nan"), "right": ""}
    curve: list[Look] = []

    def right(network: nn.Module, first: int | None = None) -> Tensor:
        if judge_name(judge).norm == "AdaBN":
            network = copy.deepcopy(network)  # the training goes on with its own
            adapt_statistics(network, images, protocol)
        logits = predict(network, images[:first], protocol)
        return logits.argmax(1) == labels[:first]

    def look(step: int, network: nn.Module, loss: float) -> None:
        found["loss"] = loss
        if step in looks:
            accuracy = right(network, LOOK_IMAGES).float().mean().item()
            curve.append(Look(step, accuracy, loss))

    error = ""
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
            look_at=looks,
            look=look,
        )
        hits = right(network)
        found["accuracy"] = hits.float().mean().item()
        found["right"] = packed(hits)
    except FloatingPointError as broken:
        error = str(broken)
    except Exception as broken:  # the user's code fails in any way
        if isinstance(judge, str) or isinstance(broken, NOT_THEIRS):
            raise
        error = f"judge {judge.name}, seed {seed}: its code failed ({said(broken)})"
    if error:
        found["loss"] = float("nan")
    seconds = round(time.perf_counter() - started, 2)
    return found | {"curve": to_text(curve), "error": error, "seconds": seconds}
