"""The rows that every comparison needs beside DIVER itself.

Source: the ablation of the paper, its reviewers' questions, and PReDD, its precursor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from diver_lite.checks import ensure, integer
from diver_lite.priors.contract import Prior, fit_images
from diver_lite.recovery import RecoveryConfig, recover
from diver_lite.sets.distilled import DistilledSet
from diver_lite.sets.real import labelled_images


def random_real(dataset: tuple, ipc: int, seed: int) -> DistilledSet:
    """Draw `ipc` real images per class: the baseline that everything must beat."""
    images, labels, class_names = labelled_images(dataset, "dataset")
    ipc = integer(ipc, "ipc", 1)
    seed = integer(seed, "seed", 0, 2**63 - 1)
    rows = rows_by_class(labels, class_names, ipc)
    index = draw_rows(rows, ipc, torch.Generator().manual_seed(seed))
    return DistilledSet(
        images[index].contiguous(),
        labels[index],
        class_names,
        provenance={"method": "random real", "ipc": ipc, "seed": seed},
    )


def rows_by_class(labels: Tensor, class_names: Sequence[str], ipc: int) -> list[Tensor]:
    """Return the indices of each class's images, or raise if one has fewer than ipc."""
    rows = [(labels == c).nonzero().flatten() for c in range(len(class_names))]
    for name, mine in zip(class_names, rows, strict=True):
        ensure(
            len(mine) >= ipc,
            f"ipc is {ipc}, but class {name!r} has {len(mine)} images",
        )
    return rows


def draw_rows(rows: list[Tensor], ipc: int, generator: torch.Generator) -> Tensor:
    """Return the indices of `ipc` random images of each class, class-major."""
    return torch.cat(
        [mine[torch.randperm(len(mine), generator=generator)[:ipc]] for mine in rows]
    )


def clip_only(distilled: DistilledSet) -> DistilledSet:
    """Cut a set's pixels off at 0 and 1: the part of recovery that needs no network."""
    return distilled.with_images(distilled.images.clamp(0, 1), method="clip only")


def vae_only(distilled: DistilledSet, prior: Prior) -> DistilledSet:
    """Send a set through the VAE and back: what DIVER does with nothing in between."""
    images = fit_images(distilled.images.clamp(0, 1), prior)
    decoded = torch.cat([prior.decode(prior.encode(x)).cpu() for x in images.split(50)])
    images = fit_images(decoded, prior, distilled.images.shape[-2:]).clamp(0, 1)
    return distilled.with_images(images, method="VAE only")


def variants(config: RecoveryConfig) -> dict[str, RecoveryConfig]:
    """Return the ablation's settings, each with the sampler settings of `config`.

    "raw prior" samples from noise and ignores the distilled image; "SI ..." inherits
    but never guides ("SI matched" is PReDD); "SG only" guides from pure noise;
    "SI + SG" guides at all steps; "DIVER" is `config` itself.
    """
    plain = replace(config, guidance_factor=0.0)
    steps = config.num_inference_steps
    return {
        "raw prior": replace(plain, inheritance=False),
        "SI published": replace(plain, start="published"),
        "SI matched": replace(plain, start="matched"),
        "SG only": replace(config, inheritance=False),
        "SI + SG": replace(config, window="full"),
        "DIVER published": RecoveryConfig.published(num_inference_steps=steps),
        "DIVER": config,
    }


def raw_prior(
    distilled: DistilledSet,
    prior: Prior,
    config: RecoveryConfig | None = None,
    *,
    seed: int = 0,
    progress: bool = True,
) -> DistilledSet:
    """Sample the prior from noise, one image per label: no distilled image is used."""
    config = variants(config or RecoveryConfig.recommended(prior))["raw prior"]
    return recover(distilled, prior, config, seed=seed, progress=progress)
