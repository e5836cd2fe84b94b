"""Noise levels: DiT's schedule, in whose timesteps every setting is given.

A timestep stands for the signal-to-noise ratio that DiT's schedule has there, so that a
setting means the same for a prior of any schedule. Source: ours; the schedule is that
of Peebles and Xie 2023, which is DDPM's.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diver_lite.checks import require

T = 1000  # training timesteps of DiT
PAPER_STEP = T // 50  # between two of the paper's 50 steps
DIT = (1 - torch.linspace(1e-4, 0.02, T)).cumprod(0)  # its abar


@functools.lru_cache(maxsize=8)
def noise_angles(alphas_cumprod: Tensor) -> np.ndarray:
    """Return atan(sigma / alpha) of the timesteps -1 (clean), 0 .. T-1, T (noise).

    The angle orders noise levels of any schedule, pure signal and noise included, and
    doesn't depend on the scale of the latents. alphas_cumprod (T,) falls from 1 to 0.
    """
    angles = np.arccos(np.sqrt(alphas_cumprod.double().cpu().numpy()))
    return np.concatenate([[0.0], angles, [np.pi / 2]])


DIT_STEPS = np.arange(-1, T + 1)
DIT_ANGLES = noise_angles(DIT)


def snap(value: float) -> int | float:
    """Return the integer that a rounding error hides, or the number as it is."""
    if abs(value - round(value)) < 1e-6:
        return round(value)
    return float(value)


def angle_at(timestep: float) -> float:
    """Return the noise angle of DiT's schedule at a timestep, or between two."""
    return float(np.interp(timestep, DIT_STEPS, DIT_ANGLES))


def dit_timesteps(angles: np.ndarray) -> list[int | float]:
    """Return the timesteps of DiT's schedule with these noise angles."""
    return [snap(t) for t in np.interp(angles, DIT_ANGLES, DIT_STEPS)]


def abar_at(timestep: float) -> Tensor:
    """Return abar of DiT's schedule, 0-d; 1 at -1 and below, 0 at 1000."""
    if timestep in range(T):
        return DIT[int(timestep)]
    return torch.tensor(np.cos(angle_at(timestep)) ** 2, dtype=torch.float32)


def check_timestep(value: Any, name: str, lowest: int = 0, also: str = "") -> int:
    """Return a training timestep, 0 .. T-1, or raise `InputError` that names it.

    A window's bounds (lowest = -1) may lie just outside, at T and at -1. What else the
    caller takes is said in `also`.
    """
    highest = T - 1 - lowest  # as far outside as the lowest is
    valid = isinstance(value, int) and not isinstance(value, bool)
    require(
        valid and lowest <= value <= highest,
        name,
        value,
        f"{also}a training timestep, an integer in {lowest} .. {highest}",
    )
    return int(value)


def window_bounds(value: Any, name: str, known: dict) -> tuple[int, int]:
    """Return the timesteps (high, low) of a window, or of its known name."""
    pair: Any = value
    if isinstance(value, str):
        pair = known.get(value)
    require(
        isinstance(pair, tuple) and len(pair) == 2,
        name,
        value,
        f"one of {[*known]} or (high, low)",
    )
    high, low = (check_timestep(bound, name, lowest=-1) for bound in pair)
    require(high >= low, name, value, "high >= low")
    return high, low


def draw_noise(shape: Sequence[int], indices: Sequence[int], seed: int) -> Tensor:
    """Draw standard normal noise for images of given indices, each on its own.

    Image i's generator is seeded by (seed, i) on the CPU, so neither batch size, order
    nor device changes what it gets. Shape is (C, h, w) of one latent, seed 0 .. 2^31-1.
    Returns (len(indices), C, h, w) float32. Source: ours.
    """
    per_image = [
        # NumPy's seeding mixes both numbers; torch's CPU generator keeps 32 bits only
        np.random.default_rng([seed, int(index)]).standard_normal(
            tuple(shape), dtype=np.float32
        )
        for index in indices
    ]
    return torch.from_numpy(np.stack(per_image))
