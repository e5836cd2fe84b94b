"""What the algorithm asks of a prior: nine names, and no class to inherit from.

Whatever has them denoises for DIVER: the DiT of `dit.py`, one that holds another prior
and answers a part itself (`Wrapped`), or thirty lines of one's own; the page "Add a
prior" builds such a one. All else about a prior is a function, or its private matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from diver_lite.checks import InputError
from diver_lite.priors.schedule import to_timestep


@runtime_checkable
class Prior(Protocol):
    """A class-conditional diffusion model of latents, as far as DIVER needs one.

    Timesteps are those of DiT's schedule, 1000 (noise) to -1 (clean), fractions too.
    They stand for signal-to-noise ratios: a prior of another schedule looks up its own
    place with the same ratio. Source: ours.
    """

    @property
    def info(self) -> dict:
        """What is known of it, perhaps nothing.

        "name": what a record calls it; "recommended": settings of `RecoveryConfig`;
        "image_fit": how images of another size are brought to `image_size`, "pad" or
        "resize".
        """
        ...

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name for each class it knows, in the order of its labels."""
        ...

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, h, w) of one latent."""
        ...

    @property
    def image_size(self) -> int:
        """Height and width of its images, in pixels."""
        ...

    def encode(self, images: Tensor) -> Tensor:
        """Encode (B, 3, H, W) images in [0, 1], H = W = `image_size`, into latents.

        Returns (B, C, h, w) float32 of about unit variance.
        """
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Decode (B, C, h, w) latents into (B, 3, H, W) float32 images in [0, 1]."""
        ...

    def timesteps(self, num_inference_steps: int) -> list[int | float]:
        """Return the timesteps of a reverse process of so many steps, falling."""
        ...

    def signal_and_noise(self, timestep: float) -> tuple[Tensor, Tensor]:
        """Return (alpha, sigma) of z = alpha z_0 + sigma noise, each 0-d.

        At -1, the clean end, that is (1, 0) or nearly. Raises `InputError` for a noise
        level that the prior doesn't know.
        """
        ...

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
            class_labels: (B,) int64, indices into `class_names`.
            guidance_scale: s >= 1 of classifier-free guidance, 1 for none.

        Returns (x_0, eps), (B, C, h, w) float32, with latents = alpha x_0 + sigma eps.
        """
        ...


class Wrapped:
    """A prior that holds another one and passes on what it doesn't answer itself."""

    def __init__(self, prior: Prior) -> None:
        self.prior: Any = prior

    @property
    def info(self) -> dict:
        return self.prior.info

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.prior.class_names

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        return self.prior.latent_shape

    @property
    def image_size(self) -> int:
        return self.prior.image_size

    def encode(self, images: Tensor) -> Tensor:
        return self.prior.encode(images)

    def decode(self, latents: Tensor) -> Tensor:
        return self.prior.decode(latents)

    def timesteps(self, num_inference_steps: int) -> list[int | float]:
        return self.prior.timesteps(num_inference_steps)

    def signal_and_noise(self, timestep: float) -> tuple[Tensor, Tensor]:
        return self.prior.signal_and_noise(timestep)

    def denoise(
        self,
        latents: Tensor,
        timestep: float,
        class_labels: Tensor,
        guidance_scale: float,
    ) -> tuple[Tensor, Tensor]:
        return self.prior.denoise(latents, timestep, class_labels, guidance_scale)

    def predict_noise(
        self,
        latents: Tensor,
        timestep: float,
        class_labels: Tensor,
        guidance_scale: float,
    ) -> Tensor:
        """Return the noise alone of what `denoise` predicts."""
        return self.denoise(latents, timestep, class_labels, guidance_scale)[1]

    def for_classes(self, class_names: Sequence[str]) -> Wrapped:
        told = told_of(self.prior, class_names)
        if told is self.prior:
            return self
        other = copy(self)
        other.prior = told
        return other

    def to(self, *args: Any, **kwargs: Any) -> Wrapped:
        """Move the held prior, in place."""
        self.prior.to(*args, **kwargs)
        return self

    def __getattr__(self, name: str) -> Any:
        """Find what isn't in the contract: networks, a device."""
        if name == "prior":  # of a copy in the making
            raise AttributeError(name)
        return getattr(self.prior, name)


def told_of(prior: Prior, class_names: Sequence[str]) -> Any:
    """Return a prior for a set's classes: itself, unless it is told of them in words.

    Such a one has a method `for_classes`, which returns the prior that was told.
    """
    tell = getattr(prior, "for_classes", None)
    if tell is None:
        return prior
    return tell(class_names)


def name_of(prior: Prior) -> str:
    """Return what a recovery's record calls a prior."""
    return prior.info.get("name", "unnamed")


def device_of(prior: Prior) -> torch.device:
    """Return where a prior computes: the CPU, if it doesn't say."""
    return getattr(prior, "device", torch.device("cpu"))


def known_level(prior: Prior, value: Any, name: str) -> int:
    """Return the timestep that a setting means, if the prior knows that noise level.

    Raises `InputError`, which names the setting.
    """
    timestep = to_timestep(value, name)
    try:
        prior.signal_and_noise(timestep)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    return timestep


def fit_images(
    images: Tensor, prior: Prior, size: Sequence[int] | None = None
) -> Tensor:
    """Bring (N, 3, H, W) images to a prior's size, or back to a size (h, w).

    With `image_fit` "pad" small pictures get a black border (exact to undo); all others
    are resized bilinearly with antialiasing, squashed if they are not square.
    """
    if size is None:
        size = (prior.image_size, prior.image_size)
    return resize_images(images, size, prior.info.get("image_fit", "resize"))


def resize_images(images: Tensor, size: Sequence[int], how: str = "resize") -> Tensor:
    """Bring (N, 3, H, W) images to a size (h, w): resize, or pad or crop a border."""
    rows = size[0] - images.shape[-2]
    columns = size[1] - images.shape[-1]
    if rows == columns == 0:
        return images
    if how == "pad" and rows == columns and abs(rows) <= 4 and rows % 2 == 0:
        return F.pad(images, (rows // 2,) * 4)  # a negative margin crops
    return F.interpolate(images, tuple(size), mode="bilinear", antialias=True)
