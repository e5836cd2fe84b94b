"""How much of a recovery comes from the set, and how much from the noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from diver_lite.priors.contract import Prior
from diver_lite.priors.schedule import draw_noise
from diver_lite.recovery import RecoveryConfig
from diver_lite.run.in_memory import recover
from diver_lite.sets.distilled import DistilledSet

PICTURES = 10
STEPS = 5  # the shares are those of 50 steps within 0.1
# Below it noise decides more than the set. On our sets of one picture per class: 0.2 to
# 0.5 from level 700 without a pull, 0.5 to 0.9 from 500, 0.8 to 1 from 700 with one.
LITTLE = 0.5


def share_of_set(
    distilled: DistilledSet,
    prior: Prior,
    config: RecoveryConfig,
    *,
    seed: int = 0,
    class_map: Sequence[int] | Mapping[int | str, int] | None = None,
) -> float:
    """Return the set's share in what tells recovered pictures of a label apart.

    Up to ten pictures, evenly spaced, are recovered three times in five steps: as they
    are; from each other's pixels, with their own noise and label; from their own
    pixels, with other noise. With the mean squared differences `swapped` and `redrawn`
    to the first, the share is swapped / (swapped + redrawn).

    Args:
        distilled, prior, config, class_map: as of `recover`.
        seed: of the noise.

    Returns:
        A share in 0 .. 1; NaN of fewer than two pictures, or if nothing differs.

    Source: ours; the pictures' side of the study `sources`, which swaps the set and
    trains networks on the results.
    """
    step = -(-len(distilled) // PICTURES)
    chosen = [*range(0, len(distilled), step)]
    few = distilled[chosen]
    if len(few) < 2:
        return float("nan")
    config = replace(config, num_inference_steps=min(STEPS, config.num_inference_steps))

    def recovered(images: Tensor, seed: int) -> Tensor:
        result = recover(
            replace(few, images=images),
            prior,
            config,
            noise=draw_noise(prior.latent_shape, chosen, seed),
            class_map=class_map,
            progress=False,
        )
        return result.images[:]

    images = few.images[:]
    as_it_is = recovered(images, seed)
    swapped = recovered(images.roll(1, 0), seed)
    redrawn = recovered(images, seed + 1)
    by_set = (swapped - as_it_is).square().mean().item()
    by_noise = (redrawn - as_it_is).square().mean().item()
    total = by_set + by_noise
    return by_set / total if total > 0 else float("nan")
