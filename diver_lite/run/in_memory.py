"""Recover in memory, as well as the device allows; the algorithm knows nothing of it.

On the CPU this is `recovery.recover`, to the bit. On CUDA its plain path and its batch
of ten would leave most of a card idle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from tqdm.auto import tqdm

from diver_lite import checks, recovery
from diver_lite.priors.contract import Prior, device_of
from diver_lite.priors.fast import COMPILE_FROM, FastPrior, accelerate_prior
from diver_lite.recovery import RecoveryConfig, RecoveryJob
from diver_lite.run.batches import Memory, choose_batch_size, in_parts
from diver_lite.sets.distilled import DistilledSet


def recover(
    distilled: DistilledSet,
    prior: Prior,
    config: RecoveryConfig | None = None,
    *,
    seed: int = 0,
    noise: Tensor | None = None,
    class_map: Sequence[int] | Mapping[int | str, int] | None = None,
    batch_size: int | None = None,
    progress: bool = True,
) -> DistilledSet:
    """Refine every image of a distilled set with DIVER.

    On CUDA it takes the fast path of `priors.fast` where that applies, equal up to
    rounding, and batches that are halved where memory runs out. For the plain path
    there call `diver_lite.recovery.recover`.

    Args:
        distilled, prior, config, seed, noise, class_map: as of `recovery.recover`.
        batch_size: images at a time, which changes no result but by rounding; default:
            10 on the CPU, on CUDA 64 (5 for a UNet).
        progress: show a progress bar.

    Returns and raises what `recovery.recover` does; `InputError`, too, if memory is too
    small for a single image. Source: ours.
    """
    if device_of(prior).type != "cuda":
        return recovery.recover(
            distilled, prior, config, seed=seed, noise=noise, class_map=class_map,
            batch_size=batch_size, progress=progress,
        )  # fmt: skip
    if config is None:
        config = RecoveryConfig.recommended(prior)
    if batch_size is None:
        batch_size = choose_batch_size(prior)
    size = checks.integer(batch_size, "batch_size", 1)
    job = RecoveryJob(distilled, prior, config, seed, noise, class_map)
    compile = len(distilled) >= COMPILE_FROM
    job.prior = accelerate_prior(job.prior, compile=compile, warn=False)
    memory = Memory(job.prior.release if isinstance(job.prior, FastPrior) else None)
    sides = distilled.images.shape[-2:]

    def refine(indices: range) -> Tensor:
        return job.finish(job.refine(indices), sides)

    count = len(distilled)
    batches = [range(count)[i : i + size] for i in range(0, count, size)]
    bar = tqdm(batches, "recover", unit="batch", disable=not progress)
    return job.result(torch.cat([in_parts(refine, each, memory) for each in bar]))
