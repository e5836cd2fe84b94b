"""What the algorithm asks of a prior: nine names, and no class to inherit from.

Whatever has them denoises for DIVER: the DiT of `dit.py`, one that holds another prior
and answers a part itself (`Wrapped`), or thirty lines of one's own; the page "Add a
prior" builds such a one. All else about a prior is a function, or its private matter.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from copy import copy
from itertools import pairwise
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from diver_lite.checks import (
    InputError,
    describe,
    ensure,
    finite,
    floats,
    instance,
    number,
    one_of,
    require,
)
from diver_lite.priors.schedule import T, check_timestep

# what a decoder without a last clamp may give beyond 0 and 1; more is another scale
OVERSHOOT = 0.5
OFTEN = 0.25  # such a share of values beyond is doubtful


@runtime_checkable
class Prior(Protocol):
    """A class-conditional diffusion model of latents, as far as DIVER needs one.

    Timesteps are those of DiT's schedule, 1000 (noise) to -1 (clean), or between two.
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

        alpha / sigma is that of DiT's schedule at this timestep, and alpha^2 + sigma^2
        is 1, or alpha + sigma (on straight paths). At -1, the clean end, that is (1, 0)
        or nearly. Raises `InputError` for a noise level that the prior doesn't know.
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
            class_labels: (B,) int64, indices into `class_names`, on the CPU.
            guidance_scale: s >= 1 of classifier-free guidance, 1 for none.

        Returns (x_0, eps), (B, C, h, w) float32, with latents = alpha x_0 + sigma eps,
        on the latents' device. A row depends on no other row.
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
        told = for_classes(self.prior, class_names)
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


class Checked(Wrapped):
    """A prior whose answers are looked at before anybody computes with them.

    A tensor of another shape would be broadcast without a word, one of integers cut,
    and pictures on another scale clipped. Source: ours.

    Raises `InputError`, which names the prior and what it answered.
    """

    def __init__(self, prior: Prior) -> None:
        super().__init__(prior.prior if isinstance(prior, Checked) else prior)

    def encode(self, images: Tensor) -> Tensor:
        shape = (len(images), *self.latent_shape)
        return self._tensor(self.prior.encode(images), "encode", shape)

    def decode(self, latents: Tensor) -> Tensor:
        shape = (len(latents), 3, self.image_size, self.image_size)
        return self._tensor(self.prior.decode(latents), "decode", shape)

    def timesteps(self, num_inference_steps: int) -> list[int | float]:
        whose = f"of prior {name_of(self)!r}"
        answer: Any = self.prior.timesteps(num_inference_steps)
        instance(answer, f"timesteps {whose}", Iterable)
        grid = [number(t, f"a timestep {whose}", -1, T) for t in answer]
        falling = all(t > after for t, after in pairwise([*grid, -1]))
        expected = "at least one, and each below the one before"
        require(bool(grid) and falling, f"timesteps {whose}", grid, expected)
        return grid

    def signal_and_noise(self, timestep: float) -> tuple[Tensor, Tensor]:
        pair: Any = self._pair(
            self.prior.signal_and_noise(timestep), "signal_and_noise", "(alpha, sigma)"
        )
        for share in pair:
            number(share, f"prior {name_of(self)!r}: alpha or sigma", 0, 1.001)
        return pair

    def denoise(
        self,
        latents: Tensor,
        timestep: float,
        class_labels: Tensor,
        guidance_scale: float,
    ) -> tuple[Tensor, Tensor]:
        version = _version_of(latents)
        answer = self.prior.denoise(latents, timestep, class_labels, guidance_scale)
        ensure(
            version == _version_of(latents),
            f"prior {name_of(self)!r}: denoise changed the latents that it was given; "
            "expected a result of its own",
        )
        shape = tuple(latents.shape)
        x_0, eps = self._pair(answer, "denoise", "(x_0, eps)")
        return self._tensor(x_0, "denoise", shape), self._tensor(eps, "denoise", shape)

    def _pair(self, answer: Any, method: str, expected: str) -> tuple:
        ensure(
            isinstance(answer, tuple | list) and len(answer) == 2,
            f"prior {name_of(self)!r}: {method} gave {describe(answer)}; expected a "
            f"pair {expected}",
        )
        return tuple(answer)

    def _tensor(self, answer: Any, method: str, shape: tuple) -> Tensor:
        floats(answer, f"prior {name_of(self)!r}: what {method} gave", shape)
        return answer.float()


def _version_of(tensor: Tensor) -> int:
    """Return how often a tensor was changed in place, as far as torch counts that."""
    return -1 if tensor.is_inference() else tensor._version


def check_pixels(images: Tensor, prior: Prior) -> None:
    """Raise `InputError` for decoded images on another scale than 0 to 1; warn of odd.

    A decoder without a last clamp gives some values beyond.
    """
    what = f"images of prior {name_of(prior)!r}"
    finite(images, what)
    low, high = images.min().item(), images.max().item()
    ensure(
        low >= -OVERSHOOT and high <= 1 + OVERSHOOT,
        f"{what} hold values in {low:.4g} .. {high:.4g}; expected 0 .. 1",
    )
    beyond = ((images < 0) | (images > 1)).float().mean().item()
    if beyond > OFTEN:
        warnings.warn(
            f"{what}: {beyond:.0%} of the values lie outside 0 .. 1 and are clipped; "
            "is decode on another scale?",
            stacklevel=2,
        )


def for_classes(prior: Prior, class_names: Sequence[str]) -> Any:
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
    return torch.device(getattr(prior, "device", "cpu"))


def check_noise_level(prior: Prior, timestep: Any, name: str) -> int:
    """Return a noise level that a prior knows, or raise `InputError` with its name."""
    level = check_timestep(timestep, name)
    try:
        prior.signal_and_noise(level)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    return level


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
    one_of(how, "image_fit of the prior's info", ["pad", "resize"])
    if how == "pad" and rows == columns and abs(rows) <= 4 and rows % 2 == 0:
        return F.pad(images, (rows // 2,) * 4)  # a negative margin crops
    return F.interpolate(images, tuple(size), mode="bilinear", antialias=True)
