"""DIVER, top to bottom: inherit, denoise, guide inside a window, decode.

Read it in this order: `RecoveryConfig` (what can be chosen), `inherit` and `guide`
(the two formulas), `recover_steps` (the loop), `recover` (a whole set).

Source: Xia, Shu, Jiang, Du, Wang, Lu, "DIVER: Diving Deeper into Distilled Data via
Expressive Semantic Recovery", arXiv 2605.12649. No reference code is public; each
choice that the paper leaves open is a field of `RecoveryConfig`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from diver_lite.checks import (
    class_indices,
    floats,
    instance,
    integer,
    is_one_of,
    number,
    plain,
    require,
)
from diver_lite.distilled import DistilledSet
from diver_lite.prior import Prior, fit_images
from diver_lite.run.batches import choose_batch_size, run_batches, to_device
from diver_lite.run.fast import COMPILE_FROM, accelerate_prior
from diver_lite.run.to_file import recover_in_shards, run_facts
from diver_lite.sets.classes import prior_classes

# Guided while high >= t > low, in training timesteps of T = 1000.
WINDOWS = {
    "published": (816, 510),  # steps [40, 25] of 50
    "late": (400, -1),  # another definition in circulation: t <= 400
    "early": (1000, 816),  # the chaotic phase before the published window
    "full": (1000, -1),
}
CHOICES = {
    "guidance_channels": ("all", "first-3"),
    "guidance_target": ("latent", "x0"),
    "guidance_sigma": ("posterior", "marginal", "signal", "one"),
    "vae_posterior": ("mode", "sample"),
}
# How a latent is taken to the next timestep, and the order of diffusers' solver. Only
# multistep solvers: others go back to an earlier latent, which would undo the pull.
SOLVERS = {"ddim": None, "dpmsolver++2m": 2, "dpmsolver++3m": 3}


@dataclass(frozen=True)
class RecoveryConfig:
    """Everything that can be chosen about one recovery.

    Integers are training timesteps, 0 (clean) .. T-1 (noise), with T = 1000 for every
    known prior; floats in [0, 1] are fractions of T: 0.51 and 510 mean the same, for
    any number of steps. 1.0 is T-1. In a pair (high, low), which holds high >= t > low,
    integers go from -1 to T, and 0.0 is -1, so that (1.0, 0.0) holds all timesteps.

    Attributes:
        num_inference_steps: steps of the full reverse process, 1 .. T (paper: 50).
        solver: takes each step: "ddim" (paper), or DPM-Solver++ of second or third
            order, "dpmsolver++2m" and "dpmsolver++3m", for fewer steps. All visit
            DDIM's timesteps.
        guidance_scale: classifier-free guidance s, >= 1 (precursor PReDD: 4).
        guidance_channels: "all" latent channels (diffusers) or "first-3" (the original
            DiT sampler, used by PReDD).
        guidance_interval: classifier-free guidance acts while high >= t > low, like
            `window`; outside, only the conditional half is computed (half the cost).
        inheritance: start from the noised distilled latent (SI); False starts from
            pure noise and ignores the distilled image.
        noise_timestep: noise level of the inherited latent (paper: step 25 of 50).
        start: where the reverse process begins: "published" at the top of the grid,
            whatever the noise level; "matched" at `noise_timestep`, as SDEdit and
            PReDD do; or a timestep or fraction.
        guidance_factor: gamma of semantic guidance (SG), >= 0; 0 switches it off
            (paper: 0.1, and 0.02 for NCFM sets).
        guidance_target: SG pulls the noisy "latent" itself towards z_0 (the paper's
            equation) or the predicted clean "x0" (PReDD's and MGD3's code).
        guidance_sigma: sigma_k of SG: "posterior" (standard deviation of the DDPM
            posterior between neighbouring steps), "marginal" sqrt(1 - abar_t),
            "signal" sqrt(abar_t), or "one".
        window: SG acts while high >= t > low (semantic fusion, SF): a name from
            `WINDOWS`, "none", or a pair (high, low).
        clip_input: clip distilled pixels to [0, 1] before they are encoded; the VAE
            never saw others.
        vae_posterior: encode to the posterior's "mode" or a "sample" of it.

    Raises:
        InputError: a value out of range, naming the field.

    Source: paper sections on SI, SG, SF; the alternatives: ours, see the book.
    """

    num_inference_steps: int = 50
    solver: str = "ddim"
    guidance_scale: float = 1.5
    guidance_channels: str = "all"
    guidance_interval: str | tuple[int | float, int | float] = "full"
    inheritance: bool = True
    noise_timestep: int | float = 700
    start: str | int | float = "matched"
    guidance_factor: float = 0.1
    guidance_target: str = "x0"
    guidance_sigma: str = "posterior"
    window: str | tuple[int | float, int | float] = "published"
    clip_input: bool = True
    vae_posterior: str = "mode"

    def __post_init__(self) -> None:
        for field in fields(self):
            object.__setattr__(self, field.name, plain(getattr(self, field.name)))
        for name, allowed in (CHOICES | {"solver": tuple(SOLVERS)}).items():
            value = getattr(self, name)
            require(is_one_of(value, allowed), name, value, f"one of {allowed}")
        for name in ("inheritance", "clip_input"):
            value = getattr(self, name)
            require(isinstance(value, bool), name, value, "True or False")
        integer(self.num_inference_steps, "num_inference_steps", 1, 1000)
        for name, least in {"guidance_scale": 1, "guidance_factor": 0}.items():
            number(getattr(self, name), name, least, 1e4)
        _timestep(self.noise_timestep, 1000, "noise_timestep")
        if not is_one_of(self.start, ("published", "matched")):
            expected = "'published', 'matched' or a timestep"
            require(not isinstance(self.start, str), "start", self.start, expected)
            _timestep(self.start, 1000, "start")
        for name, known in {
            "window": (*WINDOWS, "none"),
            "guidance_interval": tuple(WINDOWS),
        }.items():
            value = getattr(self, name)
            if is_one_of(value, known):
                continue
            valid = isinstance(value, tuple) and len(value) == 2
            require(valid, name, value, f"one of {known} or a pair (high, low)")
            high, low = _bounds(value, 1000, name)
            require(high >= low, name, value, "high >= low")

    @classmethod
    def published(cls, **changes) -> RecoveryConfig:
        """Return the paper's settings, literally; `changes` override fields."""
        paper = cls(
            guidance_scale=4.0,
            noise_timestep=510,
            start="published",
            guidance_target="latent",
            clip_input=False,
        )
        return replace(paper, **changes)

    def timesteps(self, prior: Prior) -> list[int]:
        """Return the timesteps that the reverse process visits, noisiest first."""
        scheduler = deepcopy(prior.scheduler)
        total = scheduler.config.num_train_timesteps
        steps = self.num_inference_steps
        require(steps <= total, "num_inference_steps", steps, f"at most T = {total}")
        scheduler.set_timesteps(steps)
        grid = [int(t) for t in scheduler.timesteps]
        expected = f"steps that the schedule's steps_offset leaves below T = {total}"
        require(grid[0] < total, "num_inference_steps", steps, expected)
        if not self.inheritance or self.start == "published":
            return grid
        matched = self.start == "matched"
        name = "noise_timestep" if matched else "start"
        start = _timestep(getattr(self, name), total, name)
        return [start, *(t for t in grid if t < start)]

    def phase(self, timestep: int, total: int = 1000) -> str:
        """Name the phase of `timestep`: "chaotic", "semantic" or "refinement"."""
        window = "published" if self.window == "none" else self.window
        high, low = _bounds(window, total, "window")
        return (
            "chaotic" if timestep > high
            else "semantic" if timestep > low
            else "refinement"
        )  # fmt: skip

    def scale(self, timestep: int, total: int = 1000) -> float:
        """Return the guidance scale at `timestep`: 1 outside `guidance_interval`.

        Source: Kynkaanniemi et al. 2024, arXiv 2404.07724.
        """
        high, low = _bounds(self.guidance_interval, total, "guidance_interval")
        return self.guidance_scale if high >= timestep > low else 1.0


def _timestep(value: Any, total: int, name: str, lowest: int = 0) -> int:
    """Turn a timestep (int) or a fraction of T (float) into a timestep, or raise.

    A window's bounds (lowest = -1) may lie just outside the timesteps, at T and -1.
    """
    highest = total - 1 if lowest == 0 else total
    if isinstance(value, float) and 0 <= value <= 1:
        return min(round(value * total), highest) if value > 0 else lowest
    valid = isinstance(value, int) and not isinstance(value, bool)
    expected = (
        f"a training timestep (an integer in {lowest} .. {highest}) or a fraction "
        "(a float in [0, 1])"
    )
    require(valid and lowest <= value <= highest, name, value, expected)
    return int(value)


def _bounds(window: str | Sequence, total: int, name: str) -> tuple[int, int]:
    """Return (high, low) of a named window or a pair, in timesteps."""
    pair = WINDOWS[window] if isinstance(window, str) else window
    high, low = (_timestep(value, total, name, lowest=-1) for value in pair)
    return high, low


@dataclass(frozen=True)
class Step:
    """One step of the reverse process, after it was taken.

    Attributes:
        timestep: the training timestep that was left.
        phase: "chaotic", "semantic" (the window) or "refinement".
        latents: (B, C, h, w) z_{k-1}, after the update and the pull.
        pred_original: (B, C, h, w) the clean latent predicted before the update.
        guided: whether semantic guidance acted.
    """

    timestep: int
    phase: str
    latents: Tensor
    pred_original: Tensor
    guided: bool


def inherit(latents: Tensor, noise: Tensor, alpha_cumprod: Tensor | float) -> Tensor:
    """Noise clean latents to a given level (semantic inheritance).

    Args:
        latents: (B, C, h, w) z_0, the encoded distilled images.
        noise: (B, C, h, w) standard normal.
        alpha_cumprod: abar at the noise level, in (0, 1].

    Returns:
        sqrt(abar) z_0 + sqrt(1 - abar) noise.

    Source: paper, semantic inheritance; the forward process of DDPM.
    """
    floats(latents, "latents", "BChw")
    floats(noise, "noise", latents.shape)
    number(alpha_cumprod, "alpha_cumprod", 0, 1)
    alpha_cumprod = torch.as_tensor(alpha_cumprod, dtype=latents.dtype)
    return alpha_cumprod.sqrt() * latents + (1 - alpha_cumprod).sqrt() * noise


def guide(latents: Tensor, difference: Tensor, sigma: Tensor, gamma: float) -> Tensor:
    """Pull latents towards the inherited ones (semantic guidance).

    Args:
        latents: (B, C, h, w) after the DDIM update.
        difference: (B, C, h, w) what is pulled minus z_0.
        sigma: the step's weight sigma_k.
        gamma: the guidance factor.

    Returns:
        latents - gamma grad G, with G = sigma / 2 ||difference||^2, whose gradient is
        sigma * difference: no back-propagation is needed.

    Source: paper, semantic guidance.
    """
    floats(latents, "latents", "BChw")
    floats(difference, "difference", latents.shape)
    number(sigma, "sigma", 0)
    number(gamma, "gamma", 0)
    return latents - gamma * sigma * difference


def guidance_sigma(kind: str, alpha: Tensor, alpha_prev: Tensor) -> Tensor:
    """Return sigma_k from abar of this step and of the next cleaner one."""
    if kind == "posterior":  # sqrt of DDPM's beta~ on the visited timesteps
        beta = 1 - alpha / alpha_prev
        return ((1 - alpha_prev) / (1 - alpha) * beta).sqrt()
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
        prior: the frozen diffusion prior.
        config: what to do.
        noise: (B, C, h, w) standard normal, one draw per image.

    Yields:
        A `Step` per visited timestep; the last one's `latents` are the result.

    Raises:
        InputError: a noise level, start or number of steps that the schedule lacks.

    Source: paper, algorithm 1; DDIM with eta = 0 (Song et al. 2021, eq. 12);
        DPM-Solver++ (Lu et al. 2022, arXiv 2211.01095), as diffusers has it.
    """
    instance(prior, "prior", Prior)
    instance(config, "config", RecoveryConfig)
    floats(latents, "latents", ("B", *prior.latent_shape))
    floats(noise, "noise", latents.shape)
    class_indices(class_labels, "class_labels", len(latents), prior.num_classes + 1)
    alphas_cumprod = prior.scheduler.alphas_cumprod
    total = len(alphas_cumprod)
    timesteps = config.timesteps(prior)
    prior.prepare(timesteps, class_labels)
    first_channels = 3 if config.guidance_channels == "first-3" else None
    solver = _multistep_solver(config, prior, timesteps)
    z_0, z = latents, noise
    if config.inheritance:
        level = _timestep(config.noise_timestep, total, "noise_timestep")
        z = inherit(z_0, noise, alphas_cumprod[level])

    for timestep, next_timestep in zip(timesteps, [*timesteps[1:], None], strict=True):
        alpha = alphas_cumprod[timestep]
        alpha_prev = (
            prior.scheduler.final_alpha_cumprod
            if next_timestep is None
            else alphas_cumprod[next_timestep]
        )
        eps = prior.predict_noise(
            z,
            timestep,
            class_labels,
            config.scale(timestep, total),
            guidance_channels=first_channels,
        )
        x_0 = (z - (1 - alpha).sqrt() * eps) / alpha.sqrt()
        # the paper pulls z_k, the state before the update, towards z_0
        pulled = z if config.guidance_target == "latent" else x_0
        if solver is None:  # DDIM
            z = alpha_prev.sqrt() * x_0 + (1 - alpha_prev).sqrt() * eps
        else:  # remembers earlier predictions
            z = solver.step(eps, timestep, z).prev_sample

        phase = config.phase(timestep, total)
        guided = phase == "semantic" and config.window != "none"
        if guided and config.guidance_factor > 0:
            sigma = guidance_sigma(config.guidance_sigma, alpha, alpha_prev)
            z = guide(z, pulled - z_0, sigma, config.guidance_factor)
        yield Step(timestep, phase, z, x_0, guided)


def _multistep_solver(
    config: RecoveryConfig, prior: Prior, timesteps: list[int]
) -> Any:
    """Return diffusers' solver for these timesteps, or None for DDIM."""
    if config.solver == "ddim":
        return None
    from diffusers import DPMSolverMultistepScheduler  # costs seconds

    # not from the prior's config: what is handed over is noise, whatever it predicts
    solver = DPMSolverMultistepScheduler(
        trained_betas=prior.scheduler.betas.numpy(),
        solver_order=SOLVERS[config.solver],
    )
    solver.set_timesteps(timesteps=timesteps)
    return solver


def draw_noise(
    shape: Sequence[int], indices: Sequence[int], seed: int, draws: int = 1
) -> list[Tensor]:
    """Draw standard normal noise for images of given indices, each on its own.

    Image i's generator is seeded by (seed, i) on the CPU, so neither batch size, order
    nor device changes what it gets.

    Args:
        shape: (C, h, w) of one latent.
        indices: the images' indices in the whole set.
        seed: 0 .. 2^31 - 1.
        draws: how many tensors to draw for each image.

    Returns:
        `draws` tensors (len(indices), C, h, w) float32.
    """
    per_image = [
        # NumPy's seeding mixes both numbers; torch's CPU generator keeps 32 bits only
        np.random.default_rng([seed, int(index)]).standard_normal(
            (draws, *shape), dtype=np.float32
        )
        for index in indices
    ]
    return list(torch.from_numpy(np.stack(per_image, axis=1)))


def recover(
    distilled: DistilledSet,
    prior: Prior,
    config: RecoveryConfig | None = None,
    *,
    seed: int = 0,
    noise: Tensor | None = None,
    class_map: Sequence[int] | None = None,
    batch_size: int | None = None,
    fast: bool = True,
    compile: bool | None = None,
    float8: bool = False,
    progress: bool = True,
    out: str | Path | None = None,
    overwrite: bool = False,
    size: int | None = None,
) -> DistilledSet:
    """Refine every image of a distilled set with DIVER.

    Args:
        distilled: the set; images of another size are brought to the prior's and the
            results brought back.
        prior: the frozen diffusion prior.
        config: default: `RecoveryConfig()`.
        seed: 0 .. 2^31 - 1; image i's noise comes from (seed, i) alone.
        noise: (N, C, h, w) to use instead.
        class_map: the prior's class for each class of the set; default: found by
            name.
        batch_size: images at a time; default: 10 on the CPU, on CUDA what fits into
            the free memory, up to 64. Halved where memory runs out.
        fast: prepare the conditioning (`diver_lite.run.fast`): the same up to rounding.
        compile: use torch.compile in the fast path; default: on CUDA, from 1,000
            images on. Without it a CUDA graph takes the launches together.
        float8: multiply with 8-bit numbers in the fast path, which changes the images;
            see `FastPrior`.
        progress: show a progress bar.
        out: also save the result there, as .safetensors. Finished batches are kept in a
            folder beside it (see `shards`), so a killed run goes on where it was;
            processes of one `accelerate launch` share the batches.
        overwrite: replace `out` if it exists; the default refuses.
        size: height and width of the results; default: as the set's images.

    Returns:
        A set of the same length, labels and image size; pixels in [0, 1].

    Raises:
        InputError: classes that the prior doesn't know, a value of wrong type or range,
            an `out` that exists or that another run is writing or has begun, or memory
            that isn't enough for one image.

    Source: paper, algorithm 1.
    """
    config = RecoveryConfig() if config is None else config
    for name, value, kind in (
        ("distilled", distilled, DistilledSet),
        ("prior", prior, Prior),
        ("config", config, RecoveryConfig),
        ("out", "" if out is None else out, str | Path),
        ("fast", fast, bool),
        ("compile", False if compile is None else compile, bool),
        ("float8", float8, bool),
        ("progress", progress, bool),
        ("overwrite", overwrite, bool),
    ):
        instance(value, name, kind)
    seed = integer(seed, "seed", 0, 2**31 - 1)
    if batch_size is not None:
        batch_size = integer(batch_size, "batch_size", 1, 2**31 - 1)
    size = None if size is None else integer(size, "size", 1, 2**14)
    if noise is not None:
        floats(noise, "noise", (len(distilled), *prior.latent_shape))
    classes = prior_classes(distilled, prior, class_map)
    config.timesteps(prior)  # a bad setting must fail before the first image
    require(fast or not float8, "float8", float8, "the fast path (no --plain)")
    target = (size, size) if size else tuple(distilled.images.shape[-2:])
    how = prior.info.get("image_fit", "resize")
    if fast:
        many = prior.device.type == "cuda" and len(distilled) >= COMPILE_FROM
        compile = many if compile is None else compile
        denoiser = accelerate_prior(prior, compile=compile, float8=float8)
    else:
        denoiser, compile = prior, False

    def refine(indices: range) -> Tensor:
        images = refine_batch(
            distilled, classes, indices, prior, config, seed=seed, noise=noise,
            denoiser=denoiser,
        )  # fmt: skip
        return fit_images(images, target, how).clamp(0, 1)

    def assemble(images: Tensor) -> DistilledSet:
        return DistilledSet(
            images,
            distilled.labels,
            distilled.class_names,
            soft_labels=distilled.soft_labels,
            provenance={
                "method": "DIVER",
                "config": asdict(config),
                "seed": seed if noise is None else "noise given",
                "prior": prior.info.get("name", "unnamed"),
                **({"float8": True} if float8 else {}),
                "source": distilled.provenance,
            },
        )

    if out is not None:
        settings = asdict(config) | {
            "seed": seed, "size": list(target), "fast": fast, "compile": compile,
            "float8": float8,
        }  # fmt: skip
        return recover_in_shards(
            out,
            refine,
            assemble,
            facts=lambda: run_facts(
                distilled.images, distilled.labels, classes, prior, noise, settings
            ),
            count=len(distilled),
            batch_size=batch_size,
            default_batch_size=choose_batch_size(prior),
            device=prior.device,
            overwrite=overwrite,
            progress=progress,
        )
    recovered = []
    bar = tqdm(total=len(distilled), desc="recover", unit="img", disable=not progress)
    with bar:
        for images in run_batches(
            refine, range(len(distilled)), batch_size or choose_batch_size(prior)
        ):
            recovered.append(images)
            bar.update(len(images))
    return assemble(torch.cat(recovered))


def refine_batch(
    distilled: DistilledSet,
    classes: Tensor,
    indices: range,
    prior: Prior,
    config: RecoveryConfig,
    *,
    seed: int,
    noise: Tensor | None = None,
    denoiser: Prior | None = None,
) -> Tensor:
    """Refine neighbouring images of a set in one batch: encode, denoise, decode.

    Args:
        distilled: the whole set.
        classes: (N,) the prior's class of each of its images.
        indices: which images.
        prior: the frozen diffusion prior.
        config: what to do.
        seed: see `recover`.
        noise: (N, C, h, w) of the whole set, or None to draw it from `seed`.
        denoiser: predicts the noise in the prior's place; see `diver_lite.run.fast`.

    Returns:
        (B, 3, S, S) on the prior's device, S its image size; pixels in [0, 1].

    Source: paper, algorithm 1.
    """
    batch = slice(indices.start, indices.stop)
    images = to_device(prior.fit_images(distilled.images[batch]), prior.device)
    drawn, posterior = draw_noise(prior.latent_shape, indices, seed, draws=2)
    z_0 = prior.encode(
        images.clamp(0, 1) if config.clip_input else images,
        posterior_noise=posterior if config.vae_posterior == "sample" else None,
    )
    drawn = to_device(drawn if noise is None else noise[batch], prior.device).to(z_0)
    denoiser = denoiser or prior
    steps = recover_steps(z_0, classes[batch], denoiser, config, noise=drawn)
    for step in steps:  # noqa: B007
        pass  # the generator's last step holds the result
    return prior.decode(step.latents)
