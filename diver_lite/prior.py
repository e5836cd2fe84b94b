"""What the loop asks of a diffusion prior, and the DiT that answers."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from diver_lite.checks import (
    InputError,
    class_indices,
    describe,
    finite,
    floats,
    integer,
    is_one_of,
    number,
    require,
)

VAE_BATCH = 8  # its activations take 100 MB per image of 256 x 256; more gain no time


def to_timestep(
    value: Any, total: int, name: str, *, lowest: int = 0, words: Sequence[str] = ()
) -> int:
    """Turn a timestep into an integer, or raise `InputError` that names the argument.

    Integers are training timesteps, 0 .. total-1; floats in [0, 1] are fractions of
    total, 1.0 the last one. A window's bounds (lowest = -1) may lie just outside, at
    total and at -1, which is what 0.0 means there. Words that may stand for one pass.
    """
    if is_one_of(value, words):
        return lowest
    highest = total - 1 if lowest == 0 else total
    if isinstance(value, float) and 0 <= value <= 1:
        return min(round(value * total), highest) if value > 0 else lowest
    valid = isinstance(value, int) and not isinstance(value, bool)
    expected = "".join(f"{word!r}, " for word in words) + (
        f"a training timestep (an integer in {lowest} .. {highest}) or a fraction "
        "(a float in [0, 1])"
    )
    require(valid and lowest <= value <= highest, name, value, expected)
    return int(value)


def to_window(value: Any, total: int, name: str, known: dict) -> tuple[int, int]:
    """Turn a pair (high, low), or its known name, into timesteps: high >= t > low."""
    pair = known.get(value) if isinstance(value, str) else value
    names = f"one of {[*known]} or " if known else ""
    if not isinstance(pair, tuple) or len(pair) != 2:
        raise InputError(f"{name} is {describe(value)}; expected {names}(high, low)")
    high, low = (to_timestep(bound, total, name, lowest=-1) for bound in pair)
    require(high >= low, name, value, "high >= low")
    return high, low


def draw_noise(
    shape: Sequence[int], indices: Sequence[int], seed: int, draws: int = 1
) -> list[Tensor]:
    """Draw standard normal noise for images of given indices, each on its own.

    Image i's generator is seeded by (seed, i) on the CPU, so neither batch size, order
    nor device changes what it gets. Shape is (C, h, w) of one latent, seed 0 .. 2^31-1.
    Returns `draws` tensors (len(indices), C, h, w) float32. Source: ours.
    """
    per_image = [
        # NumPy's seeding mixes both numbers; torch's CPU generator keeps 32 bits only
        np.random.default_rng([seed, int(index)]).standard_normal(
            (draws, *shape), dtype=np.float32
        )
        for index in indices
    ]
    return list(torch.from_numpy(np.stack(per_image, axis=1)))


@dataclass
class Prior:
    """A class-conditional latent diffusion transformer, ready to denoise.

    Attributes:
        transformer: diffusers' `DiTTransformer2DModel`; predicts the noise.
        vae: diffusers' `AutoencoderKL`.
        scheduler: diffusers' `DDIMScheduler`; gives `alphas_cumprod` and the timesteps.
        class_names: one name per class the transformer knows.
        info: the folder's `diver_lite.json`: how the prior was made, and `image_fit`,
            how images of another size are brought to `image_size` ("pad", "resize").

    Source: DiT, Peebles and Xie 2023; latent diffusion, Rombach et al. 2022.
    """

    # Any: diffusers types neither what `config` holds nor what its models return
    transformer: Any
    vae: Any
    scheduler: Any
    class_names: tuple[str, ...]
    info: dict = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What a recovery's record calls it."""
        return self.info.get("name", "unnamed")

    @property
    def num_classes(self) -> int:
        """Number of classes; this index itself stands for "no class"."""
        return self.transformer.config.num_embeds_ada_norm

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, h, w) of one latent."""
        size = self.transformer.config.sample_size
        return (self.transformer.config.in_channels, size, size)

    @property
    def image_size(self) -> int:
        """Height and width of the images in pixels."""
        halvings = len(self.vae.config.block_out_channels) - 1
        return self.transformer.config.sample_size * 2**halvings

    @property
    def num_timesteps(self) -> int:
        """T, the number of training timesteps."""
        return len(self.scheduler.alphas_cumprod)

    def timesteps(self, steps: int) -> list[int]:
        """Return the timesteps of DDIM's grid with so many steps, noisiest first."""
        scheduler, total = deepcopy(self.scheduler), self.num_timesteps
        require(steps <= total, "num_inference_steps", steps, f"at most T = {total}")
        scheduler.set_timesteps(steps)
        grid = [int(t) for t in scheduler.timesteps]
        expected = f"steps that the schedule's steps_offset leaves below T = {total}"
        require(grid[0] < total, "num_inference_steps", steps, expected)
        return grid

    @property
    def device(self) -> torch.device:
        return next(self.transformer.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.transformer.parameters()).dtype

    def to(self, device=None, dtype: torch.dtype | None = None) -> Prior:
        """Move both networks (in place) and return the prior itself.

        In float16 a VAE with `force_upcast` stays in float32: it would overflow.
        """
        for module in (self.transformer, self.vae):
            upcast = dtype == torch.float16 and module.config.get("force_upcast")
            # not ModelMixin.to, which warns about every change of dtype
            torch.nn.Module.to(
                module, device=device, dtype=torch.float32 if upcast else dtype
            )
        return self

    def prepare(self, timesteps: Sequence[int], class_labels: Tensor) -> None:
        """Hear which timesteps and classes will come; only `FastPrior` needs to."""

    @torch.no_grad()
    def encode(self, images: Tensor, *, posterior_noise: Tensor | None = None):
        """Encode images into scaled latents.

        Args:
            images: (B, 3, H, W) float on the [0, 1] scale; H = W = `image_size`.
            posterior_noise: (B, C, h, w) standard normal; draws from the posterior
                instead of taking its mode.

        Returns:
            (B, C, h, w) float32, about unit variance over the training data.
        """
        size = self.image_size
        floats(images, "images", ("B", 3, size, size))
        finite(images, "images")
        if posterior_noise is not None:
            shape = (len(images), *self.latent_shape)
            floats(posterior_noise, "posterior_noise", shape)
        posteriors = [
            self.vae.encode(x.to(self.device, self.vae.dtype) * 2 - 1).latent_dist
            for x in images.split(VAE_BATCH)
        ]
        latents = torch.cat([p.mode() for p in posteriors]).float()
        if posterior_noise is not None:
            std = torch.cat([p.std for p in posteriors]).float()
            latents = latents + std * posterior_noise.to(latents)
        return (latents - self._shift) * self.vae.config.scaling_factor

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Decode (B, C, h, w) latents to (B, 3, H, W) float32 images in [0, 1]."""
        floats(latents, "latents", ("B", *self.latent_shape))
        z = latents / self.vae.config.scaling_factor + self._shift
        z = z.to(self.device, self.vae.dtype)
        parts = [self.vae.decode(part).sample for part in z.split(VAE_BATCH)]
        return (torch.cat(parts).float() / 2 + 0.5).clamp(0, 1)

    @property
    def _shift(self) -> float:
        return getattr(self.vae.config, "shift_factor", None) or 0.0

    @torch.no_grad()
    def predict_noise(
        self,
        latents: Tensor,
        timestep: int,
        class_labels: Tensor,
        guidance_scale: float,
    ) -> Tensor:
        """Predict the noise in `latents`, with classifier-free guidance.

        Args:
            latents: (B, C, h, w) at `timestep`.
            timestep: training timestep, 0 .. T-1.
            class_labels: (B,) int64, 0 .. num_classes-1, or num_classes for "no class".
            guidance_scale: s >= 1 in eps_u + s (eps_c - eps_u); 1 skips the
                unconditional half, which halves the cost.

        Returns:
            (B, C, h, w) float32.

        Source: Ho and Salimans 2022, eq. 6. The original DiT sampler guides 3 of 4
        channels, diffusers all of them.
        """
        self.check_request(latents, timestep, class_labels, guidance_scale)
        x = latents.to(self.device, self.dtype)
        y = class_labels.to(self.device)
        channels = self.latent_shape[0]
        if guidance_scale == 1:
            return self._forward(x, timestep, y)[:, :channels].float()
        null = torch.full_like(y, self.num_classes)
        both = self._forward(torch.cat([x, x]), timestep, torch.cat([y, null]))
        # a DiT that learned its variance gives 2C channels; the noise is the first C
        eps_c, eps_u = both[:, :channels].float().chunk(2)
        return eps_u + guidance_scale * (eps_c - eps_u)

    def check_request(
        self, latents: Tensor, timestep: int, class_labels: Tensor, scale: float
    ) -> None:
        """Raise `InputError` where `predict_noise` can't answer."""
        floats(latents, "latents", ("B", *self.latent_shape))
        integer(timestep, "timestep", 0, len(self.scheduler.alphas_cumprod) - 1)
        classes = self.num_classes + 1  # the last one is "no class"
        class_indices(class_labels, "class_labels", len(latents), classes)
        number(scale, "guidance_scale", 1)

    def _forward(self, x: Tensor, timestep: int, class_labels: Tensor) -> Tensor:
        timesteps = torch.full((len(x),), int(timestep), device=x.device)
        return self.transformer(x, timestep=timesteps, class_labels=class_labels).sample

    def fit_images(self, images: Tensor, size: int | Sequence | None = None) -> Tensor:
        """Bring (N, 3, H, W) images to a size (default: `image_size`), or back.

        A prior with `image_fit: pad` gives small pictures a black border (exact to
        undo); all others are resized bilinearly with antialiasing, squashed if they
        are not square.
        """
        how = self.info.get("image_fit", "resize")
        return fit_images(images, size or self.image_size, how)


def fit_images(images: Tensor, size: int | Sequence, how: str = "resize") -> Tensor:
    """Resize, or pad with / crop off a border, to (N, 3, *size)."""
    target = (size, size) if isinstance(size, int) else tuple(size)
    sizes = zip(target, images.shape[-2:], strict=True)
    margins = [wanted - found for wanted, found in sizes]
    if margins == [0, 0]:
        return images
    margin = margins[0]
    if how == "pad" and margins[1] == margin and abs(margin) <= 4 and margin % 2 == 0:
        return F.pad(images, (margin // 2,) * 4)  # a negative margin crops
    return F.interpolate(images, target, mode="bilinear", antialias=True)
