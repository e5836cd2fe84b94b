"""The prior of diffusers' parts: a transformer that denoises, a VAE, a scheduler."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diver_lite.checks import class_indices, finite, floats, number, one_of, require
from diver_lite.devices import plain_torch
from diver_lite.priors.schedule import (
    T,
    abar_at,
    angle_at,
    dit_timesteps,
    noise_angles,
    snap,
)

PREDICTIONS = ("epsilon", "v_prediction")
VAE_BATCH = 8  # its activations take 100 MB per image of 256 x 256; more gain no time


@dataclass
class DiTPrior:
    """A class-conditional latent diffusion transformer, ready to denoise.

    It answers the contract of `contract.Prior`. With a scheduler of another schedule
    than DiT's it looks up its own `place` with the same signal-to-noise ratio, between
    its timesteps if need be.

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

    @property
    def num_classes(self) -> int:
        """Number of classes; this index itself stands for "no class"."""
        return len(self.class_names)

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
        if not hasattr(self.scheduler, "alphas_cumprod"):
            return "flow"
        kind = self.scheduler.config.prediction_type
        return one_of(kind, "the scheduler's prediction_type", PREDICTIONS)

    def timesteps(self, num_inference_steps: int) -> list[int | float]:
        """Return DiT's timesteps of the scheduler's own grid, noisiest first."""
        steps = num_inference_steps
        total = self.scheduler.config.num_train_timesteps
        require(steps <= total, "num_inference_steps", steps, f"at most T = {total}")
        scheduler = deepcopy(self.scheduler)
        scheduler.set_timesteps(steps)
        grid = scheduler.timesteps.double().numpy()
        if self.prediction == "flow":
            return dit_timesteps(np.arctan2(grid, total - grid))  # s and 1 - s
        require(
            grid[0] < total,
            "num_inference_steps",
            steps,
            f"steps that the schedule's steps_offset leaves below T = {total}",
        )
        angles = noise_angles(self.scheduler.alphas_cumprod)
        return dit_timesteps(angles[grid.astype(int) + 1])

    def place(self, timestep: float) -> int | float:
        """Return its own timestep with the signal-to-noise ratio of one of DiT's.

        Raises `InputError` where the schedule has none.
        """
        angle = angle_at(timestep)
        total = self.scheduler.config.num_train_timesteps
        if self.prediction == "flow":
            return snap(total * np.sin(angle) / (np.sin(angle) + np.cos(angle)))
        angles = noise_angles(self.scheduler.alphas_cumprod)
        first, last = dit_timesteps(angles[[1, -2]])
        require(
            first <= timestep <= last,
            "timestep",
            timestep,
            f"a noise level of the prior's schedule, {first:.5g} .. {last:.5g}",
        )
        return snap(max(np.interp(angle, angles[:-1], np.arange(-1, total)), 0))

    def signal_and_noise(self, timestep: float) -> tuple[Tensor, Tensor]:
        """Return (alpha, sigma) of z = alpha z_0 + sigma noise, 0-d; -1 is the end.

        Where the variance is preserved these are sqrt(abar) and sqrt(1 - abar), on
        straight paths 1 - s and s. Their ratio is that of DiT's timestep.
        """
        if self.prediction == "flow":
            share = self.place(timestep) / self.scheduler.config.num_train_timesteps
            s = torch.tensor(share, dtype=torch.float32)
            return 1 - s, s
        if timestep <= -1:
            abar = torch.as_tensor(self.scheduler.final_alpha_cumprod)
            return abar.sqrt(), (1 - abar).sqrt()
        place = self.place(timestep)
        abar = abar_at(timestep)
        if isinstance(place, int):  # not between two of its timesteps
            abar = self.scheduler.alphas_cumprod[place]
        return abar.sqrt(), (1 - abar).sqrt()

    @property
    def device(self) -> torch.device:
        return next(self.transformer.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.transformer.parameters()).dtype

    def to(self, device=None, dtype: torch.dtype | None = None) -> DiTPrior:
        """Move both networks (in place) and return the prior itself.

        In float16 a VAE with `force_upcast` stays in float32: it would overflow.
        """
        for module in (self.transformer, self.vae):
            wanted = dtype
            if dtype == torch.float16 and module.config.get("force_upcast"):
                wanted = torch.float32
            # not ModelMixin.to, which warns about every change of dtype
            torch.nn.Module.to(module, device=device, dtype=wanted)
        return self

    @plain_torch(grad=False)
    def encode(self, images: Tensor) -> Tensor:
        """Encode images into scaled latents, the mode of the VAE's posterior.

        Images are (B, 3, H, W) float on the [0, 1] scale, H = W = `image_size`. Returns
        (B, C, h, w) float32, about unit variance over the training data.
        """
        size = self.image_size
        floats(images, "images", ("B", 3, size, size))
        finite(images, "images")
        modes = [
            self.vae.encode(x.to(self.device, self.vae.dtype) * 2 - 1)
            .latent_dist.mode()
            .float()
            for x in images.split(VAE_BATCH)
        ]
        return (torch.cat(modes) - self._shift) * self._scale

    @plain_torch(grad=False)
    def decode(self, latents: Tensor) -> Tensor:
        """Decode (B, C, h, w) latents to (B, 3, H, W) float32 images in [0, 1]."""
        floats(latents, "latents", ("B", *self.latent_shape))
        z = latents.to(self.device) / self._scale + self._shift
        z = z.to(self.vae.dtype)
        parts = [self.vae.decode(part).sample for part in z.split(VAE_BATCH)]
        return (torch.cat(parts).float() / 2 + 0.5).clamp(0, 1)

    @property
    def _shift(self) -> float | Tensor:
        """What is subtracted from the VAE's latents: a number, or one a channel."""
        mean = self._statistic("latents_mean")
        if mean is not None:
            return mean
        return getattr(self.vae.config, "shift_factor", None) or 0.0

    @property
    def _scale(self) -> float | Tensor:
        """What they are multiplied with then, as in diffusers' pipelines."""
        std = self._statistic("latents_std")
        if std is not None:
            return self.vae.config.scaling_factor / std
        return self.vae.config.scaling_factor

    def _statistic(self, name: str) -> Tensor | None:
        """Return a statistic of the VAE's latents, (C, 1, 1), where it has one."""
        values = getattr(self.vae.config, name, None)
        if values is None:
            return None
        return torch.tensor(values, device=self.device).view(-1, 1, 1)

    @plain_torch(grad=False)
    def denoise(
        self,
        latents: Tensor,
        timestep: float,
        class_labels: Tensor,
        guidance_scale: float,
    ) -> tuple[Tensor, Tensor]:
        """Split noisy latents into the predicted clean ones and the predicted noise.

        Args:
            latents: (B, C, h, w) at `timestep`.
            timestep: of DiT's schedule, 0 .. 999, see `place`.
            class_labels: (B,) int64, 0 .. num_classes-1, or num_classes for "no class".
            guidance_scale: s >= 1 in eps_u + s (eps_c - eps_u); 1 skips the
                unconditional half, which halves the cost.

        Returns (x_0, eps), each (B, C, h, w) float32, with latents = alpha x_0 + sigma
        eps. Source: guidance: Ho and Salimans 2022, eq. 6; velocities: Salimans and Ho
        2022, appendix D ("v_prediction"); SiT, Ma et al. 2024 ("flow"). The original
        DiT sampler guides 3 of 4 channels, diffusers all of them.
        """
        output = self.guided(latents, timestep, class_labels, guidance_scale)
        alpha, sigma = self.signal_and_noise(timestep)
        if self.prediction == "epsilon":
            return (latents - sigma * output) / alpha, output
        if self.prediction == "flow":  # velocity eps - x_0
            return latents - sigma * output, latents + alpha * output
        # velocity alpha eps - sigma x_0
        return alpha * latents - sigma * output, sigma * latents + alpha * output

    def predict_noise(
        self,
        latents: Tensor,
        timestep: float,
        class_labels: Tensor,
        guidance_scale: float,
    ) -> Tensor:
        """Return the noise alone of what `denoise` predicts: (B, C, h, w) float32."""
        return self.denoise(latents, timestep, class_labels, guidance_scale)[1]

    def guided(
        self, latents: Tensor, timestep: float, class_labels: Tensor, scale: float
    ) -> Tensor:
        """Return what the network predicts, guided: (B, C, h, w) float32."""
        floats(latents, "latents", ("B", *self.latent_shape))
        place = self.place(number(timestep, "timestep", -1, T))
        classes = self.num_classes + 1  # the last one is "no class"
        class_indices(class_labels, "class_labels", len(latents), classes)
        number(scale, "guidance_scale", 1)
        x = latents.to(self.device, self.dtype)
        channels = self.latent_shape[0]
        if scale == 1:
            return self.forward(x, place, class_labels)[:, :channels].float()
        null = torch.full_like(class_labels, self.num_classes)
        labels = torch.cat([class_labels, null])
        both = self.forward(torch.cat([x, x]), place, labels)
        # a DiT that learned its variance gives 2C channels; the noise is the first C
        out_c, out_u = both[:, :channels].float().chunk(2)
        return out_u + scale * (out_c - out_u)

    def forward(self, x: Tensor, place: float, class_labels: Tensor) -> Tensor:
        """Ask the network itself: (B, C, h, w) at its own timestep -> its output."""
        timesteps = torch.full((len(x),), place, device=x.device)
        labels = class_labels.to(x.device)
        return self.transformer(x, timestep=timesteps, class_labels=labels).sample
