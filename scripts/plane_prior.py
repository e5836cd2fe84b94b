"""DIVER in the plane, the book's cover, in Python: a prior that knows three curves.

Run: python scripts/plane_prior.py

Its "images" are points (2, 1, 1), so that nothing but the prior differs from DIVER on
pictures: `recover_steps` runs as it is. Prints where the points of the cover end up.
Source: ours; the score of a mixture of Gaussians is a formula.
"""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import torch
from diffusers import DDIMScheduler
from torch import Tensor

from diver_lite.priors.contract import Prior
from diver_lite.priors.schedule import draw_noise
from diver_lite.recovery import RecoveryConfig, recover_steps

PLANE = Path(__file__).parents[1] / "book" / "_static" / "live" / "plane.json"


class PlanePrior(Prior):
    """A mixture of Gaussians centred along curves, one a class, and its exact noise.

    curves: per class, the centres (x, y); std: of each Gaussian.
    """

    def __init__(self, curves: list, std: float) -> None:
        size = {"num_embeds_ada_norm": len(curves), "sample_size": 1, "in_channels": 2}
        super().__init__(
            transformer=SimpleNamespace(config=SimpleNamespace(**size)),
            vae=None,
            scheduler=DDIMScheduler(
                beta_start=1e-4, beta_end=0.02, clip_sample=False, set_alpha_to_one=True
            ),
            class_names=tuple("ABC"[: len(curves)]),
        )
        everything = list(chain(*curves))  # for "no class", the label after the last
        self.centres = [torch.tensor(points) for points in [*curves, everything]]
        self.std = std

    def predict_noise(self, latents, timestep, class_labels, guidance_scale):
        alpha = self.scheduler.alphas_cumprod[timestep]
        conditional = self._noise(latents, class_labels.tolist(), alpha)
        if guidance_scale == 1:
            return conditional
        unconditional = self._noise(latents, [-1] * len(latents), alpha)
        return unconditional + guidance_scale * (conditional - unconditional)

    def _noise(self, latents: Tensor, labels: list[int], alpha: Tensor) -> Tensor:
        """Return sqrt(1 - abar) times the mixture's negative score: (B, 2, 1, 1)."""
        variance = alpha * self.std**2 + 1 - alpha
        noise = torch.empty_like(latents)
        for i, label in enumerate(labels):
            z, centres = latents[i].flatten(), self.centres[label]  # (2,), (n, 2)
            distances = (z - alpha.sqrt() * centres).square().sum(1)
            weights = (-distances / (2 * variance)).softmax(0)
            mean = alpha.sqrt() * (weights @ centres)
            noise[i] = ((1 - alpha).sqrt() * (z - mean) / variance).view(2, 1, 1)
        return noise


def recover_points(config: RecoveryConfig, seed: int = 0) -> Tensor:
    """Return where the cover's points end: (points, draws, 2)."""
    data = json.loads(PLANE.read_text())
    prior, draws = PlanePrior(data["curves"], data["std"]), data["draws"]
    points = torch.tensor(data["points"]).repeat_interleave(draws, 0)[:, :, None, None]
    labels = torch.tensor(data["classes"]).repeat_interleave(draws)
    noise = draw_noise(prior.latent_shape, range(len(points)), seed)
    *_, last = recover_steps(points, labels, prior, config, noise=noise)
    return last.latents.view(-1, draws, 2)


if __name__ == "__main__":
    for ends in recover_points(RecoveryConfig()).tolist():
        print("  ".join(f"({x:+.2f}, {y:+.2f})" for x, y in ends))
