"""Store what "Play with DIVER" shows before a reader has loaded the networks.

Run: python scripts/store_live.py
Writes book/_static/live/stored/: one sheet of pictures per set, and a list of them. A
sheet has a row per picture of the set; its columns are the picture through the VAE
only, then what each noise level of `LEVELS` makes of it. "noised" sheets hold the
latents that the reverse process begins with, decoded.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from diver_lite.priors.contract import Prior
from diver_lite.priors.loading import load_prior
from diver_lite.priors.schedule import draw_noise
from diver_lite.recovery import RecoveryConfig, inherit, recover
from diver_lite.sets.load import load_distilled

FOLDER = Path(__file__).parents[1] / "book" / "_static" / "live" / "stored"
LEVELS = range(0, 1000, 50)
SEED = 0
# sheet -> prior and set, recovered with the settings recommended for the prior
SHEETS = {
    "photographs": ("cifar10", "cifar10-mtt-ipc1"),
    "garments": ("fashion-mnist", "fashion-mnist-dm-ipc1"),
}


def draw(prior: Prior, name: str) -> tuple[Tensor, Tensor]:
    """Return a set's clean latents and their noise: (N, C, h, w) each."""
    images = load_distilled(name).images.clamp(0, 1)
    noise = draw_noise(prior.latent_shape, range(len(images)), SEED)
    return prior.encode(images), noise


def recovered(prior: Prior, name: str, level: int) -> Tensor:
    """Return what one noise level makes of a set: (N, 3, S, S)."""
    config = RecoveryConfig.recommended(prior, noise_timestep=level)
    _, noise = draw(prior, name)
    distilled = load_distilled(name)
    return recover(distilled, prior, config, noise=noise, progress=False).images


def save(name: str, columns: list[Tensor], **options) -> None:
    """Write columns of pictures (N, 3, S, S) in [0, 1] as one WebP."""
    sheet = torch.cat([torch.cat([*column], 1) for column in columns], 2)
    pixels = (sheet.permute(1, 2, 0) * 255).round().byte().numpy()
    image = Image.fromarray(np.ascontiguousarray(pixels))
    image.save(FOLDER / f"{name}.webp", method=6, **options)


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    listed = []
    for name, (prior_name, set_name) in SHEETS.items():
        prior = load_prior(prior_name, device="cpu")
        latents, noise = draw(prior, set_name)
        levels = [inherit(latents, noise, *prior.signal_and_noise(t)) for t in LEVELS]
        noised = [prior.decode(z) for z in levels]
        save(f"{set_name}-noised", noised, quality=50)
        ends = [recovered(prior, set_name, t) for t in LEVELS]
        save(name, [prior.decode(latents), *ends], quality=90)
        entry = {"sheet": name, "prior": prior_name, "set": set_name}
        entry |= {"seed": SEED, "levels": [*LEVELS]}
        listed.append(entry)
    (FOLDER / "stored.json").write_text(json.dumps(listed, indent=1) + "\n")


if __name__ == "__main__":
    main()
