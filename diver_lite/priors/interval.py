"""Classifier-free guidance in a part of the reverse process only.

Guidance does harm where noise is high and little where it is low, says Kynkaanniemi et
al. 2024 (arXiv 2404.07724). A step without it costs half, as only one half is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

from torch import Tensor

from diver_lite.priors.dit import Prior, to_window


class IntervalPrior(Prior):
    """A prior that is guided while high >= t > low, and only conditional elsewhere.

    Args:
        prior: any prior, also a `FastPrior`; its networks are shared, not copied.
        interval: (high, low) as of `RecoveryConfig.window`: timesteps, or fractions.

    Raises:
        InputError: no such pair.

    Source: Kynkaanniemi et al. 2024.
    """

    def __init__(self, prior: Prior, interval: tuple[int | float, int | float]) -> None:
        high, low = to_window(interval, "guidance_interval", {})
        name = f"{prior.name}, guided in {high} >= t > {low}"
        info = prior.info | {"name": name, "guidance_interval": [high, low]}
        networks = (prior.transformer, prior.vae, prior.scheduler)
        super().__init__(*networks, prior.class_names, info)
        self.prior, self.interval = prior, (high, low)

    # what a prior of another kind answers in its own way
    num_classes = property(lambda self: self.prior.num_classes)
    latent_shape = property(lambda self: self.prior.latent_shape)
    image_size = property(lambda self: self.prior.image_size)
    embeddings = property(lambda self: self.prior.embeddings)

    def for_classes(self, class_names: Sequence[str]) -> IntervalPrior:
        return self._around(self.prior.for_classes(class_names))

    def for_steps(
        self, timesteps: Sequence[float], class_labels: Tensor
    ) -> IntervalPrior:
        return self._around(self.prior.for_steps(timesteps, class_labels))

    def _around(self, prior: Prior) -> IntervalPrior:
        other = copy(self)
        other.prior, other.class_names = prior, prior.class_names
        return other

    def timesteps(self, steps: int) -> list[int | float]:
        return self.prior.timesteps(steps)

    def denoise(
        self,
        latents: Tensor,
        timestep: float,
        class_labels: Tensor,
        guidance_scale: float,
    ) -> tuple[Tensor, Tensor]:
        """Answer as the prior does, with scale 1 outside the interval."""
        self.check_request(latents, timestep, class_labels, guidance_scale)
        scale = self._scale(timestep, guidance_scale)
        return self.prior.denoise(latents, timestep, class_labels, scale)

    def predict_noise(
        self,
        latents: Tensor,
        timestep: float,
        class_labels: Tensor,
        guidance_scale: float,
    ) -> Tensor:
        """Predict the noise as the prior does, with scale 1 outside the interval."""
        self.check_request(latents, timestep, class_labels, guidance_scale)
        scale = self._scale(timestep, guidance_scale)
        return self.prior.predict_noise(latents, timestep, class_labels, scale)

    def _scale(self, timestep: float, guidance_scale: float) -> float:
        high, low = self.interval
        return guidance_scale if high >= timestep > low else 1.0
