"""DIVER, top to bottom: inherit, denoise, guide inside a window, decode.

Read it in this order: `RecoveryConfig` (what can be chosen), `inherit` and `guide`
(the two formulas), `recover_steps` (the loop), `recover` (a whole set).

Source: Xia, Shu, Jiang, Du, Wang, Lu, "DIVER: Diving Deeper into Distilled Data via
Expressive Semantic Recovery", arXiv 2605.12649. No reference code is public; each
choice that the paper leaves open is a field of `RecoveryConfig`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor
from tqdm.auto import tqdm

from diver_lite import checks
from diver_lite.priors.dit import Prior, T, abar_at, draw_noise, to_timestep, to_window
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

    A timestep is one of DiT's schedule, 0 (clean) .. 999 (noise), or a float in [0, 1],
    a fraction of 1000. It stands for the signal-to-noise ratio there, of any prior.

    Attributes:
        num_inference_steps: of the full reverse process, 1 .. T (paper: 50).
        guidance_scale: classifier-free guidance s, >= 1 (precursor PReDD: 4).
        inheritance: start from the noised distilled latent (SI), or from pure noise.
        noise_timestep: noise level of the inherited latent (paper: step 25 of 50).
        start: the grid's top, "published"; the noise level, "matched"; or a timestep.
        guidance_factor: gamma of semantic guidance (SG), >= 0 (paper: 0.1; NCFM: 0.02);
            a pull per T / 50 timesteps, so that any number of steps pulls as much.
        guidance_target: SG pulls the noisy "latent" (paper) or predicted "x0" (PReDD).
        guidance_sigma: sigma_k: std of DDPM's "posterior" of a step of T / 50,
            "marginal" sqrt(1 - abar_t), "signal" sqrt(abar_t), or "one".
        window: SG acts while high >= t > low (semantic fusion, SF): a pair (high, low),
            in which -1 and 0.0 lie below all timesteps, or a name from `WINDOWS`.
        clip_input: clip distilled pixels to [0, 1], as the VAE never saw others.
        vae_posterior: encode to the posterior's "mode" or a "sample" of it.

    Raises `InputError`, which names the field. Source: paper; alternatives: ours.
    """

    num_inference_steps: int = 50
    guidance_scale: float = 1.5
    inheritance: bool = True
    noise_timestep: int | float = 700
    start: str | int | float = "matched"
    guidance_factor: float = 0.1
    guidance_target: Literal["latent", "x0"] = "x0"
    guidance_sigma: Literal["posterior", "marginal", "signal", "one"] = "posterior"
    window: str | tuple[int | float, int | float] = "published"
    clip_input: bool = True
    vae_posterior: Literal["mode", "sample"] = "mode"

    def __post_init__(self) -> None:
        checks.settings(self)
        checks.integer(self.num_inference_steps, "num_inference_steps", 1, T)
        checks.number(self.guidance_scale, "guidance_scale", 1, 1e4)
        checks.number(self.guidance_factor, "guidance_factor", 0, 1e4)
        to_timestep(self.noise_timestep, "noise_timestep")
        to_timestep(self.start, "start", words=("published", "matched"))
        to_window(self.window, "window", WINDOWS)

    @classmethod
    def published(cls, **changes) -> RecoveryConfig:
        """Return the paper's settings, literally; `changes` override fields."""
        paper = {"guidance_scale": 4.0, "noise_timestep": 510, "start": "published"}
        paper |= {"guidance_target": "latent", "clip_input": False}
        return cls(**(paper | changes))

    @classmethod
    def recommended(cls, prior: Prior, **changes) -> RecoveryConfig:
        """Return what measured best with a prior, see the record in its folder."""
        found = prior.info.get("recommended", {})
        for name in found:
            checks.one_of(name, "recommended by the prior", [*vars(cls())])
        return cls(**(found | changes))

    def timesteps(self, prior: Prior) -> list[int | float]:
        """Return the timesteps that the reverse process visits, noisiest first."""
        whose = f"of prior {prior.name!r}"
        grid = [
            checks.number(t, f"a timestep {whose}", -1, T)
            for t in prior.timesteps(self.num_inference_steps)
        ]
        falling = all(t > after for t, after in pairwise([*grid, -1]))
        expected = "at least one, and each below the one before"
        checks.require(bool(grid) and falling, f"timesteps {whose}", grid, expected)
        if not self.inheritance or self.start == "published":
            return grid
        name = "noise_timestep" if self.start == "matched" else "start"
        start = prior.level(getattr(self, name), name)
        return [start, *(t for t in grid if t < start)]

    def phase(self, timestep: float) -> str:
        """Name the phase of `timestep`: "chaotic", "concrete" or "refinement"."""
        window = "published" if self.window == "none" else self.window
        high, low = to_window(window, "window", WINDOWS)
        before = "chaotic" if timestep > high else "concrete"
        return before if timestep > low else "refinement"


@dataclass(frozen=True)
class Step:
    """One step of the reverse process, after it was taken."""

    timestep: int | float  #: the timestep that was left
    phase: str  #: "chaotic", "concrete" (the window) or "refinement"
    latents: Tensor  #: (B, C, h, w) z_{k-1}, after the update and the pull
    pred_original: Tensor  #: (B, C, h, w) clean latent predicted before the update
    guided: bool  #: whether semantic guidance acted


def inherit(latents: Tensor, noise: Tensor, alpha_cumprod: Tensor | float) -> Tensor:
    """Noise clean latents to a given level (semantic inheritance, SI).

    Latents z_0 and noise, standard normal, are (B, C, h, w); alpha_cumprod is abar of
    the level, in [0, 1]. Source: paper, SI; the forward process of DDPM.
    """
    checks.latents(latents=latents, noise=noise)
    checks.number(alpha_cumprod, "alpha_cumprod", 0, 1)
    return alpha_cumprod**0.5 * latents + (1 - alpha_cumprod) ** 0.5 * noise


def guide(latents: Tensor, difference: Tensor, sigma: Tensor, gamma: float) -> Tensor:
    """Pull latents towards the inherited ones (semantic guidance, SG).

    After the DDIM update latents (B, C, h, w) go down the gradient of G = sigma_k / 2
    ||difference||^2, where difference is what is pulled minus z_0. Source: paper, SG.
    """
    checks.latents(latents=latents, difference=difference)
    checks.number(sigma, "sigma", 0)
    checks.number(gamma, "gamma", 0)
    return latents - gamma * sigma * difference


def guidance_sigma(kind: str, alpha: Tensor, alpha_prev: Tensor) -> Tensor:
    """Return sigma_k from abar of this step and of the next cleaner one."""
    if kind == "posterior":  # sqrt of DDPM's beta~ on the visited timesteps
        return ((1 - alpha_prev) / (1 - alpha) * (1 - alpha / alpha_prev)).sqrt()
    if kind == "marginal":
        return (1 - alpha).sqrt()
    return alpha.sqrt() if kind == "signal" else torch.ones_like(alpha)


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
    lacks. Source: paper, algorithm 1; DDIM with eta = 0 (Song et al. 2021, eq. 12).
    """
    checks.instance(prior, "prior", Prior)
    checks.instance(config, "config", RecoveryConfig)
    checks.latents(prior.latent_shape, latents=latents, noise=noise)
    checks.class_indices(class_labels, "class_labels", len(latents), prior.num_classes)
    timesteps = config.timesteps(prior)
    prior = prior.for_steps(timesteps, class_labels)
    z_0, z = latents, noise
    if config.inheritance:
        level = prior.level(config.noise_timestep, "noise_timestep")
        z = prior.norm(level) * inherit(z_0, noise, abar_at(level))
    for timestep, after in pairwise([*timesteps, -1]):
        x_0, eps = prior.denoise(z, timestep, class_labels, config.guidance_scale)
        # the paper pulls z_k, the state before the update, towards z_0
        pulled = z if config.guidance_target == "latent" else x_0
        alpha, sigma = prior.signal_and_noise(after)
        z = alpha * x_0 + sigma * eps  # DDIM

        phase = config.phase(timestep)
        guided = phase == "concrete" and config.window != "none"
        # nothing would denoise after a pull in the last step
        if guided and config.guidance_factor > 0 and after > -1:
            alphas = abar_at(timestep), abar_at(timestep - T / 50)
            sigma_k = prior.norm(after) * guidance_sigma(config.guidance_sigma, *alphas)
            passed = (timestep - after) / (T / 50)  # in steps of the paper
            z = guide(z, pulled - z_0, sigma_k, passed * config.guidance_factor)
        yield Step(timestep, phase, z, x_0, guided)


@dataclass
class Recovery:
    """A set, a prior and settings that fit together; `recover` tells of the fields."""

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
        self.prior = self.prior.for_classes(self.distilled.class_names)
        self.classes = prior_classes(self.distilled, self.prior, self.class_map)
        self.config.timesteps(self.prior)  # a bad one must fail before the first image

    def refine(self, indices: Sequence[int]) -> Tensor:
        """Refine some images of the set: (B, 3, S, S) in [0, 1], S the prior's size."""
        prior, config, batch = self.prior, self.config, [*indices]
        images = prior.fit_images(self.distilled.images[batch])
        images = images.clamp(0, 1) if config.clip_input else images
        drawn, posterior = draw_noise(prior.latent_shape, indices, self.seed, draws=2)
        posterior = posterior if config.vae_posterior == "sample" else None
        z_0 = prior.encode(images, posterior_noise=posterior)
        noise = (drawn if self.noise is None else self.noise[batch]).to(z_0)
        steps = recover_steps(z_0, self.classes[batch], prior, config, noise=noise)
        (last,) = deque(steps, maxlen=1)
        decoded = prior.decode(last.latents)
        checks.floats(decoded, f"images of prior {prior.name!r}", images.shape)
        return decoded

    def finish(self, images: Tensor, size: Sequence[int]) -> Tensor:
        """Bring what `refine` gave to a size (h, w), and to the CPU."""
        images = checks.finite(images, f"images of prior {self.prior.name!r}")
        return self.prior.fit_images(images, size).clamp(0, 1).cpu()

    def result(self, images: Tensor) -> DistilledSet:
        """Return the set with these images (N, 3, H, W), and how they were made."""
        seed = self.seed if self.noise is None else "noise given"
        how = {"config": asdict(self.config), "seed": seed, "prior": self.prior.name}
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
        batch_size: images at a time, which changes no result; default: 10.

    Returns a set of the same length, labels and image size; pixels in [0, 1]. Raises
    `InputError` for a class that the prior doesn't know, or a value of wrong type or
    range. Source: paper, algorithm 1.
    """
    config = RecoveryConfig.recommended(prior) if config is None else config
    job = Recovery(distilled, prior, config, seed, noise, class_map)
    size = 10 if batch_size is None else batch_size  # 10 fit a CPU's caches
    batches = torch.arange(len(distilled)).split(checks.integer(size, "batch_size", 1))
    recovered, sides = [], distilled.images.shape[-2:]
    for indices in tqdm(batches, "recover", unit="batch", disable=not progress):
        recovered.append(job.finish(job.refine(indices.tolist()), sides))
    return job.result(torch.cat(recovered))
