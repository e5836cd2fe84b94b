"""What the loop asks of a diffusion prior, and the DiT that answers."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from diver_lite import checks
from diver_lite.checks import require

VAE_BATCH = 8  # its activations take 100 MB per image of 256 x 256; more gain no time
T = 1000  # training timesteps of DiT: settings mean the noise levels of its schedule


@contextmanager
def inference() -> Iterator[None]:
    """Ask a network without gradients, and in its own dtype, not in autocast's."""
    plain = functools.partial(torch.autocast, enabled=False)
    with torch.no_grad(), plain("cpu"), plain("cuda"):
        yield


@functools.lru_cache(maxsize=8)
def noise_angles(alphas_cumprod: Tensor) -> np.ndarray:
    """Return atan(sigma / alpha) of the timesteps -1 (clean), 0 .. T-1, T (noise).

    The angle orders noise levels of any schedule, pure signal and noise included, and
    doesn't depend on the scale of the latents. alphas_cumprod (T,) falls from 1 to 0.
    """
    angles = np.arccos(np.sqrt(alphas_cumprod.double().cpu().numpy()))
    return np.concatenate([[0.0], angles, [np.pi / 2]])


DIT = (1 - torch.linspace(1e-4, 0.02, T)).cumprod(0)  # Peebles and Xie 2023, as DDPM
DIT_STEPS, DIT_ANGLES = np.arange(-1, T + 1), noise_angles(DIT)


def snap(value: float) -> int | float:
    """Return the integer that a rounding error hides, or the number as it is."""
    return round(value) if abs(value - round(value)) < 1e-6 else float(value)


def dit_timesteps(angles: np.ndarray) -> list[int | float]:
    """Return the timesteps of DiT's schedule with these noise levels."""
    return [snap(t) for t in np.interp(angles, DIT_ANGLES, DIT_STEPS)]


def abar_at(timestep: float) -> Tensor:
    """Return abar of DiT's schedule, 0-d; 1 at -1 and below, 0 at 1000."""
    if timestep in range(T):
        return DIT[int(timestep)]
    angle = np.interp(timestep, DIT_STEPS, DIT_ANGLES)
    return torch.tensor(np.cos(angle) ** 2, dtype=torch.float32)


def to_timestep(value: Any, name: str, lowest: int = 0, words: Sequence = ()) -> int:
    """Turn a timestep into an integer, or raise `InputError` that names the argument.

    Integers are training timesteps, 0 .. T-1; floats in [0, 1] are fractions of T, 1.0
    the last one. A window's bounds (lowest = -1) may lie just outside, at T and at -1,
    which is what 0.0 means there. Words that may stand for one pass.
    """
    if checks.is_one_of(value, words):
        return lowest
    highest = T - 1 if lowest == 0 else T
    if isinstance(value, float) and 0 <= value <= 1:
        return min(round(value * T), highest) if value > 0 else lowest
    valid = isinstance(value, int) and not isinstance(value, bool)
    expected = "".join(f"{word!r}, " for word in words) + (
        f"a training timestep (an integer in {lowest} .. {highest}) or a fraction "
        "(a float in [0, 1])"
    )
    require(valid and lowest <= value <= highest, name, value, expected)
    return int(value)


def to_window(value: Any, name: str, known: dict) -> tuple[int, int]:
    """Turn a pair (high, low), or its known name, into timesteps: high >= t > low."""
    pair: Any = known.get(value) if isinstance(value, str) else value
    names = f"one of {[*known]} or " if known else ""
    both = isinstance(pair, tuple) and len(pair) == 2
    require(both, name, value, f"{names}(high, low)")
    high, low = (to_timestep(bound, name, lowest=-1) for bound in pair)
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

    The loop asks it for `timesteps`, `signal_and_noise`, `denoise`, and to `encode` and
    `decode`. Timesteps are DiT's everywhere; a prior of another schedule looks up its
    own `place` with the same signal-to-noise ratio, between its timesteps if need be.

    Attributes:
        transformer: diffusers' `DiTTransformer2DModel`; predicts noise or a velocity.
        vae: diffusers' `AutoencoderKL`.
        scheduler: diffusers' `DDIMScheduler`, whose `prediction_type` says what the
            network predicts, or `FlowMatchEulerDiscreteScheduler`.
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
    embeddings = None  # of prompts, which a recovery's record counts as weights

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
    def prediction(self) -> str:
        """What the network predicts: "flow", or diffusers' `prediction_type`."""
        flow = not hasattr(self.scheduler, "alphas_cumprod")
        return "flow" if flow else self.scheduler.config.prediction_type

    @property
    def num_timesteps(self) -> int:
        """T, the number of its own training timesteps."""
        return self.scheduler.config.num_train_timesteps

    def timesteps(self, steps: int) -> list[int | float]:
        """Return DiT's timesteps of the scheduler's own grid, noisiest first."""
        scheduler, total = deepcopy(self.scheduler), self.num_timesteps
        require(steps <= total, "num_inference_steps", steps, f"at most T = {total}")
        scheduler.set_timesteps(steps)
        grid = scheduler.timesteps.double().numpy()
        if self.prediction == "flow":
            return dit_timesteps(np.arctan2(grid, total - grid))  # s and 1 - s
        expected = f"steps that the schedule's steps_offset leaves below T = {total}"
        require(grid[0] < total, "num_inference_steps", steps, expected)
        angles = noise_angles(self.scheduler.alphas_cumprod)
        return dit_timesteps(angles[grid.astype(int) + 1])

    def place(self, timestep: float, name: str = "timestep") -> int | float:
        """Return its own timestep with the signal-to-noise ratio of one of DiT's.

        Raises `InputError`, which names the argument, where the schedule has none.
        """
        angle = np.interp(timestep, DIT_STEPS, DIT_ANGLES)
        total = self.num_timesteps
        if self.prediction == "flow":
            return snap(total * np.sin(angle) / (np.sin(angle) + np.cos(angle)))
        angles = noise_angles(self.scheduler.alphas_cumprod)
        first, last = dit_timesteps(angles[[1, -2]])
        expected = f"a noise level of the prior's schedule, {first:.5g} .. {last:.5g}"
        require(first <= timestep <= last, name, timestep, expected)
        place = np.interp(angle, angles[:-1], np.arange(-1, total))
        return snap(max(place, 0))

    def level(self, value: Any, name: str) -> int:
        """Return the timestep that a setting means, if the prior knows that level."""
        timestep = to_timestep(value, name)
        self.place(timestep, name)
        return timestep

    def norm(self, timestep: float) -> float:
        """Return the root of alpha^2 + sigma^2: 1 where the variance is preserved."""
        return snap(math.hypot(*self.signal_and_noise(timestep)))

    def signal_and_noise(self, timestep: float) -> tuple[Tensor, Tensor]:
        """Return (alpha, sigma) of z = alpha z_0 + sigma noise, 0-d; -1 is the end.

        Where the variance is preserved these are sqrt(abar) and sqrt(1 - abar), on
        straight paths 1 - s and s. Their ratio is that of DiT's timestep.
        """
        flow, end = self.prediction == "flow", timestep <= -1
        place = -1 if end else self.place(timestep)
        if flow:
            s = torch.tensor(0 if end else place / self.num_timesteps)
            return 1 - s, s
        if end:
            alpha = torch.as_tensor(self.scheduler.final_alpha_cumprod)
        elif isinstance(place, int):
            alpha = self.scheduler.alphas_cumprod[place]
        else:  # between two of its timesteps
            alpha = abar_at(timestep)
        return alpha.sqrt(), (1 - alpha).sqrt()

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

    def for_classes(self, class_names: Sequence[str]) -> Prior:
        """Return the prior for a set's classes: itself, unless it is told in words."""
        return self

    def for_steps(self, timesteps: Sequence[float], class_labels: Tensor) -> Prior:
        """Return the prior for one batch: itself, unless that can be prepared for."""
        return self

    @inference()
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
        checks.floats(images, "images", ("B", 3, size, size))
        checks.finite(images, "images")
        if posterior_noise is not None:
            shape = (len(images), *self.latent_shape)
            checks.floats(posterior_noise, "posterior_noise", shape)
        posteriors = [
            self.vae.encode(x.to(self.device, self.vae.dtype) * 2 - 1).latent_dist
            for x in images.split(VAE_BATCH)
        ]
        latents = torch.cat([p.mode() for p in posteriors]).float()
        if posterior_noise is not None:
            std = torch.cat([p.std for p in posteriors]).float()
            latents = latents + std * posterior_noise.to(latents)
        return (latents - self._shift) * self.vae.config.scaling_factor

    @inference()
    def decode(self, latents: Tensor) -> Tensor:
        """Decode (B, C, h, w) latents to (B, 3, H, W) float32 images in [0, 1]."""
        checks.floats(latents, "latents", ("B", *self.latent_shape))
        z = latents / self.vae.config.scaling_factor + self._shift
        z = z.to(self.device, self.vae.dtype)
        parts = [self.vae.decode(part).sample for part in z.split(VAE_BATCH)]
        return (torch.cat(parts).float() / 2 + 0.5).clamp(0, 1)

    @property
    def _shift(self) -> float:
        return getattr(self.vae.config, "shift_factor", None) or 0.0

    @inference()
    def denoise(
        self,
        latents: Tensor,
        timestep: float,
        class_labels: Tensor,
        guidance_scale: float,
    ) -> tuple[Tensor, Tensor]:
        """Split noisy latents into the predicted clean ones and the predicted noise.

        Arguments as of `predict_noise`. Returns (x_0, eps), each (B, C, h, w) float32,
        with latents = alpha x_0 + sigma eps. Source: velocities: Salimans and Ho 2022,
        appendix D ("v_prediction"); SiT, Ma et al. 2024 ("flow").
        """
        asked = (latents, timestep, class_labels, guidance_scale)
        if self.prediction == "epsilon":
            eps = self.predict_noise(*asked)
            alpha, sigma = self.signal_and_noise(timestep)
            return (latents - sigma * eps) / alpha, eps
        velocity = self._guided(*asked)
        alpha, sigma = self.signal_and_noise(timestep)
        if self.prediction == "flow":  # eps - x_0
            return latents - sigma * velocity, latents + alpha * velocity
        x_0 = alpha * latents - sigma * velocity  # alpha eps - sigma x_0
        return x_0, sigma * latents + alpha * velocity

    @inference()
    def predict_noise(
        self,
        latents: Tensor,
        timestep: float,
        class_labels: Tensor,
        guidance_scale: float,
    ) -> Tensor:
        """Predict the noise in `latents`, with classifier-free guidance.

        Args:
            latents: (B, C, h, w) at `timestep`.
            timestep: of DiT's schedule, 0 .. 999, see `place`.
            class_labels: (B,) int64, 0 .. num_classes-1, or num_classes for "no class".
            guidance_scale: s >= 1 in eps_u + s (eps_c - eps_u); 1 skips the
                unconditional half, which halves the cost.

        Returns:
            (B, C, h, w) float32.

        Source: Ho and Salimans 2022, eq. 6. The original DiT sampler guides 3 of 4
        channels, diffusers all of them.
        """
        asked = (latents, timestep, class_labels, guidance_scale)
        noise = self.prediction == "epsilon"
        return self._guided(*asked) if noise else self.denoise(*asked)[1]

    def _guided(
        self, latents: Tensor, timestep: float, class_labels: Tensor, scale: float
    ) -> Tensor:
        """Return what the network predicts, guided: (B, C, h, w) float32."""
        self.check_request(latents, timestep, class_labels, scale)
        x, place = latents.to(self.device, self.dtype), self.place(timestep)
        y = class_labels.to(self.device)
        channels = self.latent_shape[0]
        if scale == 1:
            return self._forward(x, place, y)[:, :channels].float()
        null = torch.full_like(y, self.num_classes)
        both = self._forward(torch.cat([x, x]), place, torch.cat([y, null]))
        # a DiT that learned its variance gives 2C channels; the noise is the first C
        out_c, out_u = both[:, :channels].float().chunk(2)
        return out_u + scale * (out_c - out_u)

    def check_request(
        self, latents: Tensor, timestep: float, class_labels: Tensor, scale: float
    ) -> None:
        """Raise `InputError` where `predict_noise` can't answer."""
        checks.floats(latents, "latents", ("B", *self.latent_shape))
        self.place(checks.number(timestep, "timestep", -1, T))
        classes = self.num_classes + 1  # the last one is "no class"
        checks.class_indices(class_labels, "class_labels", len(latents), classes)
        checks.number(scale, "guidance_scale", 1)

    def _forward(self, x: Tensor, place: float, class_labels: Tensor) -> Tensor:
        timesteps = torch.full((len(x),), place, device=x.device)
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
