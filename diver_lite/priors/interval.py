"""Classifier-free guidance in a part of the reverse process only.

Guidance does harm where noise is high and little where it is low, says Kynkaanniemi et
al. 2024 (arXiv 2404.07724). A step without it costs half, as only one half is computed.
"""

from __future__ import annotations

from torch import Tensor

from diver_lite.checks import number
from diver_lite.priors.contract import Prior, Wrapped, name_of
from diver_lite.priors.schedule import to_window


class IntervalPrior(Wrapped):
    """A prior that is guided while high >= t > low, and only conditional elsewhere.

    Args:
        prior: any prior, also a `FastPrior`; its networks are shared, not copied.
        interval: (high, low) as of `RecoveryConfig.window`: timesteps, or fractions.

    Raises `InputError`: no such pair. Source: Kynkaanniemi et al. 2024.
    """

    def __init__(self, prior: Prior, interval: tuple[int | float, int | float]) -> None:
        super().__init__(prior)
        self.interval = to_window(interval, "guidance_interval", {})

    @property
    def info(self) -> dict:
        high, low = self.interval
        name = f"{name_of(self.prior)}, guided in {high} >= t > {low}"
        return self.prior.info | {"name": name, "guidance_interval": [high, low]}

    def denoise(
        self,
        latents: Tensor,
        timestep: float,
        class_labels: Tensor,
        guidance_scale: float,
    ) -> tuple[Tensor, Tensor]:
        """Answer as the prior does, with scale 1 outside the interval."""
        scale = number(guidance_scale, "guidance_scale", 1)
        high, low = self.interval
        if not high >= timestep > low:
            scale = 1.0
        return self.prior.denoise(latents, timestep, class_labels, scale)
