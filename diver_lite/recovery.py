"""DIVER, top to bottom: inherit, denoise, guide inside a window, decode.

Read it in this order: `RecoveryConfig` (what can be chosen), `inherit` and `guide`
(the two formulas), `guidance_sigma` and `compounded` (how strongly it pulls),
`recover_steps` (the loop), `RecoveryJob` (some images of a set), `recover` (all; on
CUDA `run.in_memory`, which `diver_lite.recover` is, does it with a faster path).

Source: Xia, Shu, Jiang, Du, Wang, Lu, "DIVER: Diving Deeper into Distilled Data via
Expressive Semantic Recovery", arXiv 2605.12649. What it leaves open is a setting.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import wraps
from itertools import pairwise
from math import hypot
from typing import Literal

import torch
from torch import Tensor
from tqdm.auto import tqdm

from diver_lite import checks
from diver_lite.devices import plain_torch
from diver_lite.priors.contract import (
    Checked,
    Prior,
    check_noise_level,
    check_pixels,
    fit_images,
    for_classes,
    name_of,
)
from diver_lite.priors.schedule import (
    PAPER_STEP,
    T,
    abar_at,
    check_timestep,
    draw_noise,
    window_bounds,
)
from diver_lite.sets.classes import prior_classes
from diver_lite.sets.distilled import DistilledSet

WINDOWS = {  # guided while high >= t > low, in training timesteps of T = 1000
    "published": (816, 510),  # steps [40, 25] of 50
    "late": (400, -1),  # another definition in circulation: t <= 400
    "early": (1000, 816),  # the chaotic phase before the published window
    "full": (1000, -1),
    "none": (-1, -1),
}


@dataclass(frozen=True)
class RecoveryConfig:
    """Everything that can be chosen about one recovery.

    A timestep is an integer of DiT's schedule, 0 (clean) .. 999 (noise). It stands for
    the signal-to-noise ratio there, of any prior.

    Attributes:
        num_inference_steps: of the full reverse process, 1 .. T (paper: 50).
        guidance_scale: classifier-free guidance s, >= 1 (precursor PReDD: 4).
        inheritance: start from the noised distilled latent (SI), or from pure noise.
        noise_timestep: noise level of the inherited latent (paper: step 25 of 50).
        start: the grid's top, "published"; the noise level, "matched"; or a timestep.
        guidance_factor: gamma of semantic guidance (SG), >= 0 (paper: 0.1; NCFM: 0.02);
            a pull per T / 50 timesteps, so that any number of steps pulls as much, and
            at most the whole way.
        guidance_target: SG pulls the noisy "latent" (paper) or predicted "x0" (PReDD).
        guidance_sigma: sigma_k: std of DDPM's "posterior" of a step of T / 50,
            "marginal" sqrt(1 - abar_t), "signal" sqrt(abar_t), or "one".
        window: SG acts while high >= t > low (semantic fusion, SF): a pair (high, low),
            in which -1 lies below all timesteps, or a name from `WINDOWS`.
        clip_input: clip distilled pixels to [0, 1], as the VAE never saw others.

    Raises `InputError`, which names the field. Source: paper; alternatives: ours.
    """

    num_inference_steps: int = 50
    guidance_scale: float = 1.5
    inheritance: bool = True
    noise_timestep: int = 700
    start: str | int = "matched"
    guidance_factor: float = 0.1
    guidance_target: Literal["latent", "x0"] = "x0"
    guidance_sigma: Literal["posterior", "marginal", "signal", "one"] = "posterior"
    window: str | tuple[int, int] = "published"
    clip_input: bool = True

    def __post_init__(self) -> None:
        checks.settings(self)
        checks.integer(self.num_inference_steps, "num_inference_steps", 1, T)
        checks.number(self.guidance_scale, "guidance_scale", 1, 1e4)
        checks.number(self.guidance_factor, "guidance_factor", 0, 1e4)
        check_timestep(self.noise_timestep, "noise_timestep")
        if not checks.is_one_of(self.start, ("published", "matched")):
            check_timestep(self.start, "start", also="'published', 'matched' or ")
        window_bounds(self.window, "window", WINDOWS)

    @classmethod
    def published(cls, **changes) -> RecoveryConfig:
        """Return the paper's settings, literally; `changes` override fields."""
        paper = {
            "guidance_scale": 4.0,
            "noise_timestep": 510,
            "start": "published",
            "guidance_target": "latent",
            "clip_input": False,
        }
        return cls(**(paper | changes))

    @classmethod
    def recommended(cls, prior: Prior, **changes) -> RecoveryConfig:
        """Return what is recommended for a prior; its folder's record says for whom."""
        checks.instance(prior, "prior", Prior)
        recommended = prior.info.get("recommended", {})
        known = [field.name for field in fields(cls)]
        for name in recommended:
            checks.one_of(name, "recommended by the prior", known)
        return cls(**(recommended | changes))

    def timesteps(self, prior: Prior) -> list[int | float]:
        """Return the timesteps that the reverse process visits, noisiest first."""
        grid = Checked(prior).timesteps(self.num_inference_steps)
        if not self.inheritance:
            return grid
        check_noise_level(prior, self.noise_timestep, "noise_timestep")
        if self.start == "published":
            return grid
        if self.start == "matched":
            first = self.noise_timestep
        else:
            first = check_noise_level(prior, self.start, "start")
        return [first, *(t for t in grid if t < first)]

    @property
    def pulls(self) -> bool:
        """Whether semantic guidance acts at all."""
        return self.guidance_factor > 0 and self.window != "none"

    def phase(self, timestep: float) -> str:
        """Name the phase of `timestep`: "chaotic", "concrete" or "refinement".

        They lie before, in and after the window; where nothing pulls, the paper's.
        """
        window = self.window
        if window == "none":
            window = "published"
        high, low = window_bounds(window, "window", WINDOWS)
        if timestep > high:
            return "chaotic"
        if timestep > low:
            return "concrete"
        return "refinement"


@dataclass(frozen=True)
class Step:
    """One step of the reverse process, after it was taken."""

    timestep: int | float  #: the timestep that was left
    phase: str  #: "chaotic", "concrete" (the window) or "refinement"
    latents: Tensor  #: (B, C, h, w) z_{k-1}, after the update and the pull
    pred_original: Tensor  #: (B, C, h, w) clean latent predicted before the update
    guided: bool  #: whether semantic guidance pulled


def inherit(latents: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Noise clean latents to a given level (semantic inheritance, SI).

    Latents z_0 and noise, standard normal, are (B, C, h, w); alpha and sigma, 0-d in
    [0, 1], are the level's shares of signal and noise, sqrt(abar) and sqrt(1 - abar) of
    DDPM. Source: paper, SI; the forward process of DDPM.
    """
    checks.latents(latents=latents, noise=noise)
    checks.number(alpha, "alpha", 0, 1)
    checks.number(sigma, "sigma", 0, 1)
    return alpha * latents + sigma * noise


def guide(latents: Tensor, difference: Tensor, sigma: Tensor, gamma: float) -> Tensor:
    """Pull latents towards the inherited ones (semantic guidance, SG).

    After the DDIM update latents (B, C, h, w) go down the gradient of G = sigma_k / 2
    ||difference||^2, where difference is what is pulled minus z_0. Source: paper, SG.
    """
    checks.latents(latents=latents, difference=difference)
    checks.number(sigma, "sigma", 0)
    checks.number(gamma, "gamma", 0)
    return latents - gamma * sigma * difference


def guidance_sigma(kind: str, abar: Tensor, abar_prev: Tensor) -> Tensor:
    """Return sigma_k from abar of a step and of T / 50 timesteps below it."""
    if kind == "posterior":  # sqrt of DDPM's beta~ of the paper's steps
        return ((1 - abar_prev) / (1 - abar) * (1 - abar / abar_prev)).sqrt()
    if kind == "marginal":
        return (1 - abar).sqrt()
    if kind == "signal":
        return abar.sqrt()
    return torch.ones_like(abar)


def compounded(sigma: Tensor, gamma: float, paper_steps: float) -> Tensor:
    """Return sigma_k of one step that pulls as much as so many steps of the paper.

    One step of the paper leaves 1 - gamma sigma_k of the difference; n of them leave
    that to the power of n. So any number of steps pulls as much, and no pull goes
    beyond the inherited latents. Source: ours.
    """
    left = (1 - gamma * sigma.double()).clamp(min=0) ** paper_steps
    return (1 - left) / gamma


def _checked(loop: Callable[..., Iterator[Step]]) -> Callable[..., Iterator[Step]]:
    """Check what the loop is called with, once, and all that its prior answers.

    That is done at the call: by itself a generator begins at its first step.
    """

    @wraps(loop)
    def checked(latents, class_labels, prior, config, *, noise):
        checks.instance(prior, "prior", Prior)
        checks.instance(config, "config", RecoveryConfig)
        checks.latents(prior.latent_shape, latents=latents, noise=noise)
        classes = len(prior.class_names)
        checks.class_indices(class_labels, "class_labels", len(latents), classes)
        return loop(latents, class_labels, Checked(prior), config, noise=noise)

    return checked


@_checked
def recover_steps(
    latents: Tensor,
    class_labels: Tensor,
    prior: Prior,
    config: RecoveryConfig,
    *,
    noise: Tensor,
) -> Iterator[Step]:
    """Run the reverse process of DIVER, one `Step` at a time.

    Args:
        latents: (B, C, h, w) z_0, the encoded distilled images.
        class_labels: (B,) int64 classes of the prior.
        noise: (B, C, h, w) standard normal, one draw per image.

    Yields a `Step` per visited timestep; the last one's `latents` are the result.
    Raises `InputError` for a noise level, start or number of steps that the schedule
    lacks, and for a prior that breaks its contract. Source: paper, algorithm 1; DDIM
    with eta = 0 (Song et al. 2021, eq. 12).
    """
    z_0 = latents
    z = noise
    if config.inheritance:
        alpha, sigma = prior.signal_and_noise(config.noise_timestep)
        z = inherit(z_0, noise, alpha, sigma)
    for timestep, after in pairwise([*config.timesteps(prior), -1]):
        x_0, eps = prior.denoise(z, timestep, class_labels, config.guidance_scale)
        pulled = x_0
        if config.guidance_target == "latent":  # before the update, as in the paper
            pulled = z / hypot(*prior.signal_and_noise(timestep))  # 1 for a DDPM
        alpha, sigma = prior.signal_and_noise(after)
        z = alpha * x_0 + sigma * eps  # DDIM

        phase = config.phase(timestep)
        # no pull in the last step: nothing would denoise after it
        guided = config.pulls and phase == "concrete" and after > -1
        if guided:
            abar, abar_prev = abar_at(timestep), abar_at(timestep - PAPER_STEP)
            sigma_k = guidance_sigma(config.guidance_sigma, abar, abar_prev)
            paper_steps = (timestep - after) / PAPER_STEP
            sigma_k = compounded(sigma_k, config.guidance_factor, paper_steps)
            difference = hypot(alpha, sigma) * (pulled - z_0)  # so large is z now
            z = guide(z, difference, sigma_k, config.guidance_factor)
        yield Step(timestep, phase, z, x_0, guided)


@dataclass
class RecoveryJob:
    """A set, a prior and settings that were checked against each other.

    `recover` tells of the fields. What works through a set in batches, here or in
    `run.to_file`, calls `refine` for each, `finish`, and at the end `result`.
    """

    distilled: DistilledSet
    prior: Prior
    config: RecoveryConfig
    seed: int = 0
    noise: Tensor | None = None
    class_map: Sequence[int] | Mapping | None = None

    def __post_init__(self) -> None:
        checks.settings(self)
        checks.integer(self.seed, "seed", 0)
        if self.noise is not None:
            shape = (len(self.distilled), *self.prior.latent_shape)
            checks.floats(self.noise, "noise", shape)
        self.prior = for_classes(self.prior, self.distilled.class_names)
        self.classes = prior_classes(self.distilled, self.prior, self.class_map)
        self.config.timesteps(self.prior)  # a bad one must fail before the first image

    def refine(self, indices: Sequence[int], images: Tensor | None = None) -> Tensor:
        """Refine some images of the set: (B, 3, S, S) in [0, 1], S the prior's size.

        `images` (B, 3, H, W): the same, where they were read beforehand.
        """
        batch = [*indices]
        prior = Checked(self.prior)
        if images is None:
            images = self.distilled.images[batch]
        images = fit_images(images, prior)
        if self.config.clip_input:
            images = images.clamp(0, 1)
        with plain_torch(grad=False):
            z_0 = prior.encode(images)
            noise = self.noise_of(batch).to(z_0)
            labels = self.classes[batch]
            steps = recover_steps(z_0, labels, prior, self.config, noise=noise)
            (last,) = deque(steps, maxlen=1)  # the others needn't stay in memory
            return prior.decode(last.latents)

    def noise_of(self, batch: list[int]) -> Tensor:
        """Return the noise of some images, (B, C, h, w)."""
        if self.noise is None:
            return draw_noise(self.prior.latent_shape, batch, self.seed)
        return self.noise[batch]

    def finish(self, images: Tensor, size: Sequence[int]) -> Tensor:
        """Bring what `refine` gave to a size (h, w), and to the CPU."""
        check_pixels(images, self.prior)
        return fit_images(images, self.prior, size).clamp(0, 1).cpu()

    def result(self, images: Tensor) -> DistilledSet:
        """Return the set with these images (N, 3, H, W), and how they were made."""
        how = {"config": asdict(self.config), "prior": name_of(self.prior)}
        if self.noise is None:
            how |= {"seed": self.seed}
        else:
            how |= {"seed": None, "noise": "given"}
        return self.distilled.with_images(images, method="DIVER", **how)


def recover(
    distilled: DistilledSet,
    prior: Prior,
    config: RecoveryConfig | None = None,
    *,
    seed: int = 0,
    noise: Tensor | None = None,
    class_map: Sequence[int] | Mapping[int | str, int] | None = None,
    batch_size: int | None = None,
    progress: bool = True,
) -> DistilledSet:
    """Refine every image of a distilled set with DIVER.

    Args:
        distilled: images of another size are brought to the prior's and back.
        prior: the frozen diffusion prior; `FastPrior(prior)` is faster.
        config: default: what is `recommended` for the prior.
        seed: 0 .. 2^31 - 1; image i's noise comes from (seed, i) alone.
        noise: (N, C, h, w) to use instead.
        class_map: the prior's class for each class of the set, in order, or by the
            index or name of the set's class; default: by name.
        batch_size: images at a time, which changes no result but by rounding; default:
            10.

    Returns a set of the same length, labels and image size; pixels in [0, 1]. Raises
    `InputError` for a class that the prior doesn't know, a value of wrong type or
    range, or a prior that breaks its contract. It computes on one thread, so that other
    work beside it neither slows nor changes it. Source: paper, algorithm 1.
    """
    if config is None:
        config = RecoveryConfig.recommended(prior)
    if batch_size is None:
        batch_size = 10  # as many fit a CPU's caches
    batch_size = checks.integer(batch_size, "batch_size", 1)
    job = RecoveryJob(distilled, prior, config, seed, noise, class_map)
    batches = torch.arange(len(distilled)).split(batch_size)
    height_and_width = distilled.images.shape[-2:]
    recovered = []
    for batch in tqdm(batches, "recover", unit="batch", disable=not progress):
        images = job.refine(batch.tolist())
        recovered.append(job.finish(images, height_and_width))
    return job.result(torch.cat(recovered))
