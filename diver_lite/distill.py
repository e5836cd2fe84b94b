"""Stage I: squeeze a training set into a few images per class.

DM (distribution matching) optimises pixels until, for any randomly initialised
ConvNet, the mean embedding of a class's synthetic images equals that of its real
images. It never trains a network, which makes it the fastest and the noisiest method,
and the one whose results need DIVER most.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from diver_lite.augment import dsa
from diver_lite.data import Dataset
from diver_lite.distilled import DistilledSet
from diver_lite.errors import InputError
from diver_lite.files import check_writable
from diver_lite.judges import ConvNet
from diver_lite.prior import resolve_device

METHODS = ("dm",)
INITS = ("real", "noise")


def distill(
    dataset: Dataset,
    method: str = "dm",
    *,
    ipc: int,
    seed: int = 0,
    init: str = "noise",
    steps: int = 20_000,
    lr: float = 1.0,
    real_batch: int = 256,
    augment: bool = True,
    statistics: tuple | None = None,
    device: str | None = None,
    progress: bool = True,
    out: str | Path | None = None,
) -> DistilledSet:
    """Distil a dataset into `ipc` images per class.

    Args:
        dataset: what `load_dataset` returns: images (N, 3, H, W) in [0, 1], labels
            (N,), class names.
        method: "dm".
        ipc: images per class, >= 1.
        seed: of initialisation, batches, networks and augmentation.
        init: start from "real" images or from "noise".
        steps: optimisation steps (DM's paper: 20,000).
        lr: learning rate of the pixels, multiplied by `ipc` (DM's: 1 for 1 image).
        real_batch: real images per class and step.
        augment: match DSA-augmented images, as DM does.
        statistics: per-channel (mean, std) to normalise with; default: the data's.
        device: default: CUDA if there is one.
        progress: show a progress bar.
        out: also save the set there, as .safetensors.

    Returns:
        A class-major `DistilledSet` of C * ipc images; pixels are not clipped.

    Raises:
        InputError: a value out of range, or a class with fewer images than `ipc`.

    Source: Zhao and Bilen 2023, "Dataset condensation with distribution matching".
    """
    if method not in METHODS:
        raise InputError(f"method {method!r} is unknown; expected one of {METHODS}")
    if init not in INITS:
        raise InputError(f"init {init!r} is unknown; expected one of {INITS}")
    for name, value in {"ipc": ipc, "steps": steps, "real_batch": real_batch}.items():
        if value < 1:
            raise InputError(f"{name} is {value}; expected an integer >= 1")
    if not 0 <= seed < 2**31:
        raise InputError(f"seed is {seed}; expected 0 .. 2^31 - 1")
    images, labels, class_names = dataset
    counts = torch.bincount(labels, minlength=len(class_names))
    if counts.min() < ipc:
        poorest = int(counts.argmin())
        raise InputError(
            f"ipc is {ipc}, but class {class_names[poorest]!r} has only "
            f"{int(counts[poorest])} images"
        )
    if out is not None:
        check_writable(out)
    device = resolve_device(device)
    grey = images.stride(1) == 0  # then one channel is optimised, and repeated
    images = images[:, :1] if grey else images
    mean, std = statistics or _statistics(images)
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (mean, std))
    per_class = [(labels == c).nonzero().flatten() for c in range(len(class_names))]
    generator = torch.Generator().manual_seed(seed)

    if init == "real":
        chosen = [
            i[torch.randperm(len(i), generator=generator)[:ipc]] for i in per_class
        ]
        synthetic = (images[torch.cat(chosen)] - mean) / std
    else:
        shape = (len(class_names) * ipc, *images.shape[1:])
        synthetic = torch.randn(shape, generator=generator)
    synthetic = synthetic.to(device).requires_grad_(True)
    losses = _match_distributions(
        synthetic,
        (images, mean, std, per_class),
        steps=steps,
        lr=lr * ipc,
        real_batch=real_batch,
        augment=augment,
        generator=generator,
        progress=progress,
    )
    pixels = synthetic.detach().cpu() * std + mean
    result = DistilledSet(
        pixels.expand(-1, 3, -1, -1).contiguous(),
        torch.arange(len(class_names)).repeat_interleave(ipc),
        class_names,
        provenance={
            "method": method.upper(),
            "ipc": ipc,
            "init": init,
            "steps": steps,
            "lr": lr * ipc,
            "augment": augment,
            "seed": seed,
            "proxy": "ConvNet",
            "normalisation": {"mean": mean.flatten().tolist(),
                              "std": std.flatten().tolist()},
            "final_loss": round(losses[-1], 4),
        },
    )  # fmt: skip
    if out is not None:
        result.save(out)
    return result


def _statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    part = images[:10_000]
    return tuple(part.mean((0, 2, 3)).tolist()), tuple(part.std((0, 2, 3)).tolist())


def _match_distributions(
    synthetic: Tensor,
    real: tuple,
    *,
    steps: int,
    lr: float,
    real_batch: int,
    augment: bool,
    generator: torch.Generator,
    progress: bool,
) -> list[float]:
    """Optimise `synthetic` (C * ipc, ch, H, W) in place; return a loss per 100 steps.

    A step: draw a random ConvNet f and, for each class, a batch of real images; apply
    one random DSA operation A to both; descend || mean f(A(real)) - mean f(A(syn)) ||^2
    summed over the classes (DM, eq. 6).
    """
    images, mean, std, per_class = real
    device, classes = synthetic.device, len(per_class)
    images = ((images - mean) / std).to(device)
    optimizer = torch.optim.SGD([synthetic], lr=lr, momentum=0.5)
    channels, size = synthetic.shape[1], synthetic.shape[-1]
    losses = []
    for step in tqdm(range(steps), desc="DM", disable=not progress, mininterval=1):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
            network = ConvNet(classes, size, channels).to(device).requires_grad_(False)
        chosen = torch.cat(
            [i[torch.randint(len(i), (real_batch,), generator=generator)]
             for i in per_class]
        )  # fmt: skip
        batch, ours = images[chosen.to(device)], synthetic
        if augment:
            operation = generator.get_state()  # the same operation for both
            batch = dsa(batch, generator, siamese=True)
            generator.set_state(operation)
            ours = dsa(ours, generator, siamese=True)
        with torch.no_grad():
            target = network.embed(batch).view(classes, real_batch, -1).mean(1)
        ours = network.embed(ours).view(classes, len(synthetic) // classes, -1).mean(1)
        loss = ((target - ours) ** 2).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 100 == 0 or step == steps - 1:
            losses.append(loss.item() / classes)
    return losses
