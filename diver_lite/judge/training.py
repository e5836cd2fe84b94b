"""Train judges, one by one or many at once, and ask them for predictions.

A judge learns from 10 to 500 images, so on a GPU its training is a long queue of tiny
kernels that leaves the device idle. Trainings are independent: `train_judges` stacks
the weights of several and runs them as one (`torch.func.vmap`), each with the batches
and the augmentation that it would have had alone. Source: ours.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm.auto import tqdm

from diver_lite.checks import InputError, class_indices, finite, first_line, floats
from diver_lite.judge.augment import cutmix, dsa, resized_crops
from diver_lite.judge.networks import build_judge
from diver_lite.judge.protocols import Protocol, get_protocol
from diver_lite.sets.priors import resolve_device

CHECK_EVERY = 50  # steps between two looks at the losses: a look waits for the GPU
# faster on a CPU with channels in the last dimension (measured; the others aren't)
CHANNELS_LAST = frozenset({"ShuffleNetV2", "MobileNetV2"})


def train_judge(
    name: str, images: Tensor, labels: Tensor, *, seed: int = 0, **options: Any
) -> nn.Module:
    """Train one judge and return it in evaluation mode.

    Args:
        name: a key of `diver_lite.judge.networks.JUDGES`.
        images: (N, 3, H, W) on the [0, 1] scale.
        labels: (N,) int64, or (N, num_classes) probabilities.
        seed: fixes initial weights, batches and augmentation.
        options: the others of `train_judges`, of which `num_classes` is needed.

    Raises:
        FloatingPointError: the loss became NaN or infinite.
    """
    (result,) = train_judges(name, [images], [labels], [seed], **options)
    if isinstance(result, FloatingPointError):
        raise result
    return result


def train_judges(
    name: str,
    images: Sequence[Tensor],
    labels: Sequence[Tensor],
    seeds: Sequence[int],
    *,
    num_classes: int,
    protocol: str | Protocol = "corrected",
    lr: float | None = None,
    device: str | torch.device | None = None,
    progress: bool = False,
) -> list[nn.Module | FloatingPointError]:
    """Train several judges of one kind at once, each as `train_judge` would.

    Args:
        name: a key of `diver_lite.judge.networks.JUDGES`.
        images, labels, seeds: one of each per training, all of one shape.
        num_classes: number of outputs.
        protocol: a name or a `Protocol`.
        lr: peak learning rate of all, instead of the protocol's.
        device: default: CUDA if there is one.

    Returns:
        For each training its network in evaluation mode, or, where the loss became NaN
        or infinite, the error that `train_judge` would raise. They agree with those of
        one-by-one training up to rounding.

    Raises:
        InputError: differing numbers or shapes of images and labels; images or labels
            of another type or out of range, or not finite.
    """
    protocol, device = get_protocol(protocol), resolve_device(device)
    numbers = {len(images), len(labels), len(seeds)}
    for x, y in zip(images, labels, strict=False):
        _check_images(x)
        if getattr(y, "ndim", 1) == 1:
            class_indices(y, "labels", len(x), num_classes)
        else:
            floats(y, "labels", (len(x), num_classes))
            finite(y, "labels")
    shapes = {(*x.shape, *y.shape) for x, y in zip(images, labels, strict=False)}
    if len(shapes) != 1 or len(numbers) != 1:
        raise InputError(
            f"images, labels and seeds: found shapes {sorted(shapes)}, and {numbers} "
            "of them; expected one shape, and as many of each"
        )
    lr = lr or protocol.peak_lr(name)
    run = _Run(name, num_classes, protocol, lr, device, progress)
    tasks = list(zip(images, labels, seeds, strict=True))
    if len(tasks) > 1:
        try:
            return run(tasks)
        except RuntimeError as error:  # no batching rule for an operation, or no memory
            warnings.warn(
                f"judge {name} can't be trained {len(tasks)} at a time "
                f"({first_line(error)}); training one by one",
                stacklevel=2,
            )
    return [result for task in tasks for result in run([task])]


def _check_images(images: Tensor) -> None:
    floats(images, "images", ("N", 3, "H", "W"))
    finite(images, "images")


Task = tuple[Tensor, Tensor, int]  # images, labels, seed


@dataclass
class _Run:
    """What trainings that run at once have in common."""

    name: str
    num_classes: int
    protocol: Protocol
    lr: float
    device: torch.device
    progress: bool = False

    def __call__(self, tasks: list[Task]) -> list[nn.Module | FloatingPointError]:
        count, size = len(tasks[0][0]), tasks[0][0].shape[-1]
        networks = [
            build_judge(self.name, self.num_classes, size, seed).to(self.device).train()
            for *_, seed in tasks
        ]
        if len(tasks) == 1:
            parameters, losses, finish = _alone(self.name, networks[0], self.device)
        else:
            parameters, losses, finish = _stacked(networks)
        optimizer = self._optimizer(parameters)
        if self.protocol.cutmix:
            tasks = [(x, self._mixable(y), seed) for x, y, seed in tasks]
        streams = [_batches(*task, self.protocol, self.device) for task in tasks]
        total = self.protocol.total_steps(count)
        history, failed = [], {}  # failed: training -> first step without finite loss
        for step in tqdm(range(total), desc=self.name, disable=not self.progress):
            for group in optimizer.param_groups:
                group["lr"] = self.lr * self.protocol.factor(step, total)
            if self.protocol.schedule == "step" and step == total // 2:
                optimizer.state.clear()
            loss = losses(*zip(*map(next, streams), strict=True))
            optimizer.zero_grad()
            loss.sum().backward()  # each loss depends on its own network alone
            optimizer.step()
            history.append(loss.detach())
            if len(history) == CHECK_EVERY or step == total - 1:
                broken = (~torch.stack(history).isfinite()).nonzero().flip(0).tolist()
                first = step - len(history) + 1
                failed = {index: first + later for later, index in broken} | failed
                history.clear()
            if len(failed) == len(tasks):
                break
        finish()
        results: list[nn.Module | FloatingPointError] = []
        for index, network in enumerate(networks):
            who = f"judge {self.name}, seed {tasks[index][2]}"
            text = f"{who}: the loss became NaN at step {failed.get(index)}"
            broken = index in failed
            results.append(FloatingPointError(text) if broken else network.eval())
        return results

    def _mixable(self, labels: Tensor) -> Tensor:
        return (
            F.one_hot(labels, self.num_classes).float() if labels.ndim == 1 else labels
        )

    def _optimizer(self, parameters: list[Tensor]) -> torch.optim.Optimizer:
        decay = self.protocol.weight_decay
        if self.protocol.optimizer == "adamw":
            return torch.optim.AdamW(parameters, lr=self.lr, weight_decay=decay)
        return torch.optim.SGD(parameters, self.lr, 0.9, weight_decay=decay)


def to_device(images: Tensor, device: torch.device) -> Tensor:
    """Move images (N, C, H, W); of grey ones, repeated, a single channel."""
    if images.stride(1) == 0:
        return images[:, :1].to(device).expand(-1, images.shape[1], -1, -1)
    return images.to(device)


def _batches(
    images: Tensor, labels: Tensor, seed: int, protocol: Protocol, device: torch.device
):
    """Yield one training's normalised, augmented images and its labels, per step."""
    few, normalise = len(images) <= 5_000, protocol.normalise  # few: once for all
    images = normalise(images.to(device)) if few else to_device(images, device)
    labels = labels.to(device)
    generator = torch.Generator().manual_seed(seed)
    for index in protocol.batches(len(labels), generator):
        index = index.to(device)
        x = images[index] if few else normalise(images[index])
        if protocol.augment:
            x = dsa(x, generator, families=protocol.augment)
        if protocol.crops:
            x = resized_crops(x, generator)
        yield (
            cutmix(x, labels[index], generator)
            if protocol.cutmix
            else (x, labels[index])
        )


Parts = tuple[list[Tensor], Callable[..., Tensor], Callable[[], None]]


def _alone(name: str, network: nn.Module, device: torch.device) -> Parts:
    """Return parameters, the function batches -> losses (1,), and nothing to finish."""
    if device.type == "cpu" and name in CHANNELS_LAST:
        network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def losses(images: tuple[Tensor], labels: tuple[Tensor]) -> Tensor:
        return F.cross_entropy(network(images[0]), labels[0]).unsqueeze(0)

    return list(network.parameters()), losses, lambda: None


def _stacked(networks: list[nn.Module]) -> Parts:
    """Return stacked parameters, batches -> losses (M,), and what unstacks at the end.

    BatchNorm's running statistics are stacked, too, and updated in place by `vmap`.
    """
    parameters, buffers = torch.func.stack_module_state(networks)

    def one_loss(parameters: dict, buffers: dict, x: Tensor, y: Tensor) -> Tensor:
        logits = torch.func.functional_call(networks[0], (parameters, buffers), (x,))
        return F.cross_entropy(logits, y)

    all_losses = torch.func.vmap(one_loss)

    def losses(images: tuple[Tensor, ...], labels: tuple[Tensor, ...]) -> Tensor:
        # fused attention has no batching rule on every device; plain attention has
        with sdpa_kernel(SDPBackend.MATH):
            return all_losses(
                parameters, buffers, torch.stack(images), torch.stack(labels)
            )

    @torch.no_grad()
    def finish() -> None:
        for index, network in enumerate(networks):
            for key, value in network.state_dict(keep_vars=True).items():
                value.copy_((parameters | buffers)[key][index])

    return list(parameters.values()), losses, finish


@torch.no_grad()
def predict(
    network: nn.Module, images: Tensor, protocol: str | Protocol = "corrected"
) -> Tensor:
    """Return a judge's logits (N, K) for images (N, 3, H, W) in [0, 1]."""
    _check_images(images)
    protocol = get_protocol(protocol)
    device = next(network.parameters()).device
    return torch.cat(
        [
            network(protocol.normalise(part.to(device))).cpu()
            for part in images.split(500 if device.type == "cpu" else 2_000)
        ]
    )
