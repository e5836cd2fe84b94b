"""DIVER against diffusers' own sampler, its equations, and its promises."""

import itertools
import math
import random
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Literal, get_args, get_origin, get_type_hints

import diffusers
import numpy as np
import pytest
import torch
from cases import each
from conftest import random_set
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diver_lite.assets import asset_path, list_assets
from diver_lite.checks import InputError
from diver_lite.priors.contract import Wrapped
from diver_lite.priors.fast import FastPrior
from diver_lite.priors.loading import shipped_priors
from diver_lite.priors.schedule import draw_noise
from diver_lite.recovery import (
    WINDOWS,
    RecoveryConfig,
    compounded,
    guidance_sigma,
    guide,
    inherit,
    recover,
    recover_steps,
)
from diver_lite.sets.distilled import DistilledSet

LABELS = torch.tensor([3, 8])
NAN, INF = float("nan"), float("inf")
few_examples = settings(
    deadline=None,
    max_examples=8,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def noise_for(prior, count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, *prior.latent_shape, generator=generator)


def last(steps):
    *_, step = steps
    return step


def worst(found, expected):
    """Return the largest error, relative to the largest expected value above 1."""
    assert found.shape == expected.shape
    assert found.isfinite().all()
    scale = max(1.0, expected.abs().max().item())
    return (found.double() - expected.double()).abs().max().item() / scale


# --- Everything off: diffusers' DDIM ------------------------------------------------


def ddim_of_diffusers(prior, labels, noise, steps, scale):
    """Sample as `DiTPipeline` does, with the prior's own null class."""
    scheduler = diffusers.DDIMScheduler.from_config(prior.scheduler.config)
    scheduler.set_timesteps(steps)
    channels, z = prior.latent_shape[0], noise
    null = torch.full_like(labels, prior.num_classes)
    for t in scheduler.timesteps:
        times = t.expand(2 * len(z))
        with torch.no_grad():
            both = prior.transformer(
                torch.cat([z, z]),
                timestep=times,
                class_labels=torch.cat([labels, null]),
            ).sample[:, :channels]
        cond, uncond = both.chunk(2)
        eps = uncond + scale * (cond - uncond)
        z = scheduler.step(eps, t, z, eta=0.0).prev_sample
    return z


@pytest.mark.parametrize("which", ["tiny_prior", "tiny_learned_sigma_prior"])
@pytest.mark.parametrize("scale", [1.0, 1.5, 4.0])
@pytest.mark.parametrize("steps", [1, 7, 10, 50])
def test_with_everything_off_it_is_ddim_of_diffusers(request, which, scale, steps):
    """S3: no inheritance, gamma 0: the latents of `DDIMScheduler.step`, eta 0."""
    prior = request.getfixturevalue(which)
    noise = noise_for(prior, 2, seed=steps)
    config = RecoveryConfig(
        num_inference_steps=steps,
        guidance_scale=scale,
        inheritance=False,
        guidance_factor=0,
        window="full",
    )
    z_0 = noise_for(prior, 2, seed=99) * 5  # must not matter
    found = last(recover_steps(z_0, LABELS, prior, config, noise=noise)).latents
    expected = ddim_of_diffusers(prior, LABELS, noise, steps, scale)
    assert expected.std() > 0.1
    assert worst(found, expected) < 1e-5


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_recover_equals_the_stock_pipeline(
    tiny_learned_sigma_folder, tiny_learned_sigma_prior, tiny_set, scale
):
    """S3 to the pixels: `DiTPipeline` itself draws the same images from the noise."""
    pipeline = diffusers.DiTPipeline.from_pretrained(tiny_learned_sigma_folder)
    pipeline.set_progress_bar_config(disable=True)
    prior, chosen = tiny_learned_sigma_prior, tiny_set[[3, 17]]
    classes = [207, 981, *range(8)]
    expected = pipeline(
        [classes[label] for label in chosen.labels],
        guidance_scale=scale,
        generator=torch.Generator().manual_seed(5),
        num_inference_steps=6,
        output_type="pt",
    ).images
    noise = torch.randn(
        2, *prior.latent_shape, generator=torch.Generator().manual_seed(5)
    )
    config = RecoveryConfig(
        num_inference_steps=6,
        guidance_scale=scale,
        inheritance=False,
        guidance_factor=0,
        window="none",
    )
    found = recover(
        chosen, prior, config, noise=noise, class_map=classes, progress=False
    ).images
    assert expected.std() > 0.02
    assert worst(found, expected) < 1e-5


def open_with_stock_diffusers(folder, names):
    pipeline = diffusers.DiTPipeline.from_pretrained(folder)
    assert type(pipeline.scheduler).__name__ == "DDIMScheduler"
    assert pipeline.labels == {name: index for index, name in enumerate(names)}
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(
        pipeline.get_label_ids([names[0], names[-1]]),
        guidance_scale=1,
        generator=torch.Generator().manual_seed(0),
        num_inference_steps=4,
        output_type="pt",
    ).images
    assert images.shape == (2, 3, 32, 32)
    assert images.isfinite().all()
    assert images.std() > 0.01


def test_stock_diffusers_opens_an_exported_prior(tiny_prior_folder, tiny_prior):
    """An exported folder is a whole `DiTPipeline`, with class names."""
    open_with_stock_diffusers(tiny_prior_folder, tiny_prior.class_names)


def test_stock_diffusers_opens_the_shipped_prior():
    """The prior that ships is there, and a stock `DiTPipeline` samples from it."""
    from diver_lite.sets.real import FASHION_MNIST_CLASSES

    assert "fashion-mnist" in shipped_priors()
    files = list_assets("priors/fashion-mnist/")
    index = asset_path("priors/fashion-mnist/model_index.json")
    assert {name.split("/")[2] for name in files} >= {"transformer", "vae", "scheduler"}
    open_with_stock_diffusers(index.parent, FASHION_MNIST_CLASSES)


# --- The equations, written a second time -------------------------------------------
# From sections 2 and 3 of the project's page on the algorithm, not from recovery.py:
# one image at a time, abar in numpy's float64, no scheduler, no classifier-free batch.

T = 1000
ABAR = np.cumprod(1 - np.linspace(1e-4, 0.02, T))
PHASES = {
    "published": (816, 510),
    "late": (400, -1),
    "early": (1000, 816),
    "full": (1000, -1),
    "none": (-1, -1),
}


def naive_timesteps(o):
    steps = o["num_inference_steps"]
    grid = [(k - 1) * (T // steps) for k in range(steps, 0, -1)]
    if not o["inheritance"] or o["start"] == "published":
        return grid
    start = o["noise_timestep"] if o["start"] == "matched" else o["start"]
    visited = [start]
    for t in grid:
        if t < start:
            visited.append(t)
    return visited


SEEN = {}  # combinations share their first steps


def naive_forward(prior, z, t, y):
    key = (id(prior), z.tobytes(), t, y)
    if key not in SEEN:
        with torch.no_grad():
            out = prior.transformer(
                torch.from_numpy(z[None]).float(),
                timestep=torch.tensor([t]),
                class_labels=torch.tensor([y]),
            ).sample
        SEEN[key] = out[0, : len(z)].double().numpy()
    return SEEN[key]


def naive_eps(prior, z, t, label, scale):
    eps_c = naive_forward(prior, z, t, label)
    eps_u = naive_forward(prior, z, t, prior.num_classes)  # "no class"
    return eps_u + scale * (eps_c - eps_u)


def naive_sigma(kind, abar, abar_next):
    if kind == "posterior":
        beta = 1 - abar / abar_next
        return math.sqrt((1 - abar_next) / (1 - abar) * beta)
    return {
        "marginal": math.sqrt(1 - abar),
        "signal": math.sqrt(abar),
        "one": 1.0,
    }[kind]


def naive_encode(prior, image, o):
    if o["clip_input"]:
        image = image.clamp(0, 1)
    with torch.no_grad():
        latent = prior.vae.encode(2 * image[None] - 1).latent_dist
    return (latent.mean[0] * prior.vae.config.scaling_factor).double().numpy()


def naive_diver(prior, z_0, label, noise, o):
    """Return the final latent of one image, and how often SG acted."""
    window = o["window"]
    high, low = PHASES[window] if isinstance(window, str) else window
    z_k, acted = noise.copy(), 0
    if o["inheritance"]:
        abar = ABAR[o["noise_timestep"]]
        z_k = math.sqrt(abar) * z_0 + math.sqrt(1 - abar) * noise
    visited = naive_timesteps(o)
    for position, t in enumerate(visited):
        abar = ABAR[t]
        final = position == len(visited) - 1
        abar_next = 1.0 if final else ABAR[visited[position + 1]]
        eps = naive_eps(prior, z_k, t, label, o["guidance_scale"])
        x_0 = (z_k - math.sqrt(1 - abar) * eps) / math.sqrt(abar)
        s = math.sqrt(abar_next) * x_0 + math.sqrt(1 - abar_next) * eps
        gradient = 0.0
        if high >= t > low:  # z_{k-1} = s(z_k) - gamma sigma_k (. - z_0)
            pulled = {"latent": z_k, "x0": x_0}[o["guidance_target"]]
            # a pull per 20 timesteps, as strong as a step of the published 50
            sigma = naive_sigma(
                o["guidance_sigma"], abar, ABAR[t - 20] if t >= 20 else 1.0
            )
            passed = 0 if final else t - visited[position + 1]
            left = max(0.0, 1 - o["guidance_factor"] * sigma) ** (passed / 20)
            gradient = (1 - left) * (pulled - z_0)
            acted += o["guidance_factor"] > 0 and not final
        z_k = s - gradient
    return z_k, acted


class Spy(Wrapped):
    """A prior that remembers what it was asked to decode, and needn't decode it."""

    for_real = True

    def decode(self, latents):
        self.decoded = latents
        if self.for_real:
            return super().decode(latents)
        return torch.zeros(2, 3, 32, 32)


def check_against_equations(prior, distilled, config, seed=11, pixels=True, of=(0, 1)):
    """Compare latents and pixels of some images of two; return how often SG acted."""
    o = asdict(config)
    spy = Spy(prior)
    spy.for_real = pixels
    result = recover(distilled, spy, config, seed=seed, progress=False)
    assert len(distilled) == 2
    for index in of:
        noise = draw_noise(prior.latent_shape, [index], seed)[0]
        z_0 = naive_encode(prior, distilled.images[index], o)
        label = int(distilled.labels[index])
        expected, acted = naive_diver(prior, z_0, label, noise.double().numpy(), o)
        expected = torch.from_numpy(expected)
        assert worst(spy.decoded[index], expected) < 1e-5, config
        if pixels:
            scaled = expected[None].float() / prior.vae.config.scaling_factor
            with torch.no_grad():
                image = prior.vae.decode(scaled).sample[0]
            assert worst(result.images[index], (image / 2 + 0.5).clamp(0, 1)) < 1e-5
    return acted


OPTIONS = {
    "guidance_target": ("latent", "x0"),
    "guidance_sigma": ("posterior", "marginal", "signal", "one"),
    "clip_input": (True, False),
}
STARTS = ("published", "matched", 850)
ACTS = {  # how often SG acts, by start: the grid is 800, 600, 400, 200, 0;
    "published": (2, 2, 2),  # from 650: 650, 600, ..., 0; from 850: 850, 800, ..., 0
    "late": (2, 2, 2),  # never in the last step
    "early": (0, 0, 1),
    "full": (4, 4, 5),
    "none": (0, 0, 0),
    (700, 300): (2, 3, 2),
}


def test_every_choice_is_covered():
    """The product below leaves out no value that the package offers."""
    hints = get_type_hints(RecoveryConfig)
    for name, values in OPTIONS.items():
        assert values == (get_args(hints.pop(name)) or (True, False))
    assert not any(get_origin(hint) is Literal for hint in hints.values())
    assert {*WINDOWS} == {w for w in ACTS if isinstance(w, str)}
    assert {name: PHASES[name] for name in WINDOWS} == WINDOWS


@pytest.mark.parametrize("window", ACTS)
@pytest.mark.parametrize("start", STARTS)
def test_every_combination_follows_the_equations(tiny_prior, tiny_set, start, window):
    """S5: all options in all combinations, on one or the other image of a batch.

    Whether pixels are clipped changes nothing but what is inherited, so it takes turns:
    over all starts and windows it meets every combination of the others.
    """
    pair = tiny_set[[6, 15]]
    turn = STARTS.index(start) + [*ACTS].index(window)
    for number, values in enumerate(itertools.product(*OPTIONS.values())):
        if (bin(number).count("1") + turn) % 2:
            continue
        config = RecoveryConfig(
            num_inference_steps=5,
            guidance_scale=2.0,
            guidance_factor=0.3,
            noise_timestep=650,
            start=start,
            window=window,
            **dict(zip(OPTIONS, values, strict=True)),
        )
        which = [(number // 8 + number // 2) % 2]  # no option sees one of them alone
        acted = check_against_equations(
            tiny_prior, pair, config, pixels=False, of=which
        )
        assert acted == ACTS[window][STARTS.index(start)]


@pytest.mark.parametrize("number", range(12))
def test_random_settings_follow_the_equations(
    tiny_learned_sigma_prior, tiny_set, number
):
    """S5 with other numbers, and a prior that learned its variance."""
    draw = random.Random(number)
    high = draw.randrange(200, 1001)
    config = RecoveryConfig(
        num_inference_steps=draw.choice([3, 10, 15]),
        guidance_scale=draw.choice([1.0, 1.5, 4.0]),
        guidance_factor=draw.choice([0.02, 0.1, 0.5]),
        noise_timestep=draw.randrange(1000),
        start=draw.choice(["published", "matched", draw.randrange(1000)]),
        window=(high, draw.randrange(-1, high)),
        inheritance=draw.random() < 0.8,
        **{name: draw.choice(values) for name, values in OPTIONS.items()},
    )
    names = tuple(tiny_learned_sigma_prior.class_names)
    pair = DistilledSet(tiny_set.images[:2], torch.tensor([7, 998]), names)
    check_against_equations(tiny_learned_sigma_prior, pair, config)


def test_the_published_settings_are_literally_those(tiny_prior, tiny_set):
    """S5 for `published()`: its fields, and 50 steps against the equations."""
    config = RecoveryConfig.published()
    assert asdict(config) == {
        "num_inference_steps": 50,
        "guidance_scale": 4.0,
        "inheritance": True,
        "noise_timestep": 510,
        "start": "published",
        "guidance_factor": 0.1,
        "guidance_target": "latent",
        "guidance_sigma": "posterior",
        "window": "published",
        "clip_input": False,
    }
    assert WINDOWS[config.window] == (816, 510)
    assert config.timesteps(tiny_prior) == list(range(980, -1, -20))
    acted = check_against_equations(tiny_prior, tiny_set[[0, 19]], config)
    assert acted == 15  # t_h >= k > t_l with [40, 25]
    assert RecoveryConfig.published(guidance_factor=0.02).guidance_factor == 0.02


def test_the_default_guides_at_some_step(tiny_prior, tiny_set):
    """A default with a guidance factor must not be one that never guides."""
    config = RecoveryConfig()
    z_0 = noise_for(tiny_prior, 2)
    steps = recover_steps(z_0, LABELS, tiny_prior, config, noise=z_0)
    acts = any(step.guided for step in steps)
    assert acts == (config.guidance_factor > 0 and config.window != "none")


# --- inherit, guide, sigma ----------------------------------------------------------


def test_inherit_at_both_ends_and_in_between():
    """All signal gives the latents back, none the noise; variances add up between."""
    generator = torch.Generator().manual_seed(0)
    z_0 = 2 * torch.randn(64, 4, 16, 16, generator=generator) + 1
    noise = torch.randn(z_0.shape, generator=generator)
    assert torch.equal(inherit(z_0, noise, 1.0, 0.0), z_0)
    assert torch.equal(inherit(z_0, noise, 0.0, 1.0), noise)
    for abar in (0.1, 0.5, 0.9):
        shares = torch.tensor([abar, 1 - abar]).sqrt()
        z = inherit(z_0, noise, *shares)
        assert z.mean().item() == pytest.approx(math.sqrt(abar), abs=0.02)
        assert z.var().item() == pytest.approx(abar * 4 + 1 - abar, rel=0.02)


def test_guide_descends_the_gradient_of_g():
    """guide() is latents - gamma grad G, with the gradient taken by autograd."""
    generator = torch.Generator().manual_seed(1)
    moved, pulled, z_0 = torch.randn(3, 2, 4, 8, 8, generator=generator)
    sigma, gamma = torch.tensor(0.37), 0.8
    variable = pulled.clone().requires_grad_(True)
    g = sigma / 2 * (variable - z_0).square().sum()
    (gradient,) = torch.autograd.grad(g, variable)
    found = guide(moved, pulled - z_0, sigma, gamma)
    assert not torch.allclose(found, moved)
    assert torch.allclose(found, moved - gamma * gradient, atol=1e-6)


def test_the_posterior_sigma_is_the_one_of_ddpm(tiny_prior):
    """Over neighbouring timesteps, sigma_k^2 is what DDPMScheduler calls variance."""
    scheduler = diffusers.DDPMScheduler(beta_start=1e-4, beta_end=0.02)
    scheduler.set_timesteps(50)
    abar = scheduler.alphas_cumprod
    for t in (980, 500, 20):
        sigma = guidance_sigma("posterior", abar[t], abar[t - 20])
        variance = scheduler._get_variance(t)
        assert sigma.square().item() == pytest.approx(variance.item(), rel=1e-3)
    assert guidance_sigma("posterior", abar[0], torch.tensor(1.0)) == 0


# --- Steps, phases, timesteps -------------------------------------------------------


def test_steps_report_what_happened(tiny_prior):
    """Every field of Step, for every step of a matched start."""
    config = RecoveryConfig(
        num_inference_steps=10, noise_timestep=650, window=(600, 300)
    )
    z_0, noise = noise_for(tiny_prior, 2), noise_for(tiny_prior, 2, seed=1)
    steps = list(recover_steps(z_0, LABELS, tiny_prior, config, noise=noise))
    assert [s.timestep for s in steps] == [650, 600, 500, 400, 300, 200, 100, 0]
    assert [s.timestep for s in steps] == config.timesteps(tiny_prior)
    assert [s.phase for s in steps] == (
        ["chaotic"] + ["concrete"] * 3 + ["refinement"] * 4
    )
    assert [s.guided for s in steps] == [s.phase == "concrete" for s in steps]
    # nothing pulls with a factor of 0, and nothing in the last step
    idle = replace(config, guidance_factor=0.0)
    assert not any(
        s.guided for s in recover_steps(z_0, LABELS, tiny_prior, idle, noise=noise)
    )
    full = replace(config, window="full")
    guided = [
        s.guided for s in recover_steps(z_0, LABELS, tiny_prior, full, noise=noise)
    ]
    assert guided == [True] * 7 + [False]
    for step in steps:
        assert step.latents.shape == step.pred_original.shape == z_0.shape
        assert step.latents.isfinite().all()
    # the last update removes all noise: its result is the predicted clean latent
    assert torch.allclose(steps[-1].latents, steps[-1].pred_original, atol=1e-6)
    assert not torch.allclose(steps[0].latents, steps[0].pred_original)


@each(
    ("window", "high", "low"),
    [
        ("published", 816, 510),
        ("none", 816, 510),  # phases keep their names where nothing guides
        ((700, 300), 700, 300),
    ],
)
def test_phases_change_exactly_at_the_boundaries(window, high, low):
    """high >= t > low is "concrete": the upper bound belongs to it, the lower not."""
    config = RecoveryConfig(window=window)
    assert config.phase(high + 1) == "chaotic"
    assert config.phase(high) == "concrete"
    assert config.phase(low + 1) == "concrete"
    assert config.phase(low) == "refinement"


def test_late_early_and_full_windows():
    """The presets reach the ends of the schedule."""
    late, early, full = (RecoveryConfig(window=w) for w in ("late", "early", "full"))
    assert [late.phase(t) for t in (401, 400, 0)] == ["chaotic", *["concrete"] * 2]
    assert [early.phase(t) for t in (999, 817, 816)] == [
        *["concrete"] * 2,
        "refinement",
    ]
    assert {full.phase(t) for t in range(1000)} == {"concrete"}


class Knowing(Wrapped):
    """A prior that knows the noise: nothing but the pull moves what is clean."""

    def __init__(self, prior, noise):
        super().__init__(prior)
        self.noise = noise

    def denoise(self, latents, timestep, class_labels, guidance_scale):
        alpha, sigma = self.signal_and_noise(timestep)
        return (latents - sigma * self.noise) / alpha, self.noise


@pytest.mark.parametrize(
    ("sigma", "gamma", "rel"),
    [
        ("posterior", 0.05, 0.2),  # a pull that isn't compounded would miss by 0.3
        ("posterior", 0.02, 0.1),
        ("marginal", 0.02, 0.1),
        ("signal", 0.02, 0.1),
        ("one", 0.02, 0.1),
    ],
)
def test_any_number_of_steps_pulls_as_much(tiny_prior, sigma, gamma, rel):
    """What is left of a distance hardly depends on how many steps there are."""
    noise, z_0, other = (noise_for(tiny_prior, 2, seed=seed) for seed in range(3))
    config = RecoveryConfig(guidance_sigma=sigma, guidance_factor=gamma)
    prior = Knowing(tiny_prior, noise)
    start = inherit(other, noise, *prior.signal_and_noise(700))  # of another picture

    def left(steps):
        pulling = replace(config, num_inference_steps=steps, noise_timestep=700)
        grid = pulling.timesteps(prior)
        free = replace(pulling, inheritance=False)
        walk = recover_steps(z_0, LABELS, Begins(prior, grid), free, noise=start)
        return worst(last(walk).latents, z_0) / worst(other, z_0)

    fifty = left(50)
    assert fifty < 0.95
    for steps in (10, 200):
        assert left(steps) == pytest.approx(fifty, rel=rel)


class Begins(Wrapped):
    """A prior whose reverse process visits some timesteps only."""

    def __init__(self, prior, grid):
        super().__init__(prior)
        self.grid = grid

    def timesteps(self, num_inference_steps):
        return self.grid


@each("gamma", [0.05, 0.5, 1.0, 30.0])
def test_pulls_compound(gamma):
    """Twice half a step is a step, and no pull goes beyond the inherited latents."""
    z, z_0 = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))

    def pull(latents, paper_steps):
        sigma = compounded(torch.tensor(0.4), gamma, paper_steps)
        return guide(latents, latents - z_0, sigma, gamma)

    once = pull(z, 1.0)
    assert worst(once, pull(pull(z, 0.5), 0.5)) < 1e-6
    share = min(1.0, 0.4 * gamma)
    assert worst(once, z - share * (z - z_0)) < 1e-6
    assert worst(pull(z, 5.0), z_0 + (1 - share) ** 5 * (z - z_0)) < 1e-6


@each("sigma", ["posterior", "marginal", "signal", "one"])
def test_the_last_step_does_not_pull(tiny_prior, sigma):
    """What it predicts is the result: nothing would denoise after a pull."""
    config = RecoveryConfig(num_inference_steps=1, window="full", guidance_sigma=sigma)
    noise = noise_for(tiny_prior, 2)
    step = last(recover_steps(noise / 2, LABELS, tiny_prior, config, noise=noise))
    assert torch.equal(step.latents, step.pred_original)


def test_a_prior_recommends_settings(tiny_prior, tiny_set):
    """They are what `recover` does unless told otherwise; changes override them."""
    advice = {"guidance_scale": 3.0, "guidance_factor": 0.0, "num_inference_steps": 3}
    advising = replace(tiny_prior, info=tiny_prior.info | {"recommended": advice})
    assert RecoveryConfig.recommended(tiny_prior) == RecoveryConfig()
    assert RecoveryConfig.recommended(advising) == RecoveryConfig(**advice)
    changed = RecoveryConfig.recommended(advising, guidance_scale=2.0)
    assert changed == RecoveryConfig(**advice | {"guidance_scale": 2.0})
    found = recover(tiny_set, advising, progress=False)
    assert found.provenance["config"] == asdict(RecoveryConfig(**advice))
    for strange in ({"scale": 3}, {"guidance_scale": -1}):
        prior = replace(tiny_prior, info={"recommended": strange})
        with pytest.raises(InputError, match="scale"):
            RecoveryConfig.recommended(prior)


@each(
    ("changes", "message"),
    [
        ({"noise_timestep": 0.7}, r"noise_timestep is 0.7; .*0 .. 999"),
        ({"noise_timestep": 1.0}, r"noise_timestep is 1.0; .*0 .. 999"),
        ({"start": 0.85}, r"start is 0.85; .*0 .. 999"),
        ({"window": (0.816, 0.51)}, r"window is 0.816; .*-1 .. 1000"),
    ],
)
def test_fractions_are_no_timesteps(changes, message):
    """1 and 1.0 were different noise levels once."""
    with pytest.raises(InputError, match=message):
        RecoveryConfig(**changes)
    assert RecoveryConfig(noise_timestep=1).noise_timestep == 1


def acting(window):
    """Return the timesteps in a window."""
    config = RecoveryConfig(window=window)
    return [t for t in range(1000) if config.phase(t) == "concrete"]


def test_windows_hold_their_ends():
    """(1000, -1) is "full", timestep 0 included; (t, t) is empty."""
    for pair in ((1000, -1), (999, -1), (np.int64(999), np.int64(-1))):
        assert acting(pair) == [*range(1000)] == acting("full")
    assert acting((816, 510)) == acting("published")
    assert acting((1000, 0)) == [*range(1, 1000)]
    assert acting((0, -1)) == [0]
    for end in (0, 300, 999):
        assert acting((end, end)) == []


def test_numbers_of_numpy_are_numbers(tiny_prior, tiny_set, tmp_path):
    """They come out of loops over arrays, and can be written into the record."""
    config = RecoveryConfig(
        num_inference_steps=np.int64(2),
        noise_timestep=np.int32(700),
        guidance_scale=np.float32(1.5),
        window=[np.int64(816), np.int16(510)],
        clip_input=np.bool_(True),
    )
    assert config == RecoveryConfig(num_inference_steps=2, window=(816, 510))
    numbers = {"seed": np.int64(3), "batch_size": np.int8(20)}
    found = recover(tiny_set, tiny_prior, config, **numbers, progress=False)
    assert torch.equal(found.images, run(tiny_set, tiny_prior, config=config))
    found.save(tmp_path / "a.safetensors")
    assert DistilledSet.load(tmp_path / "a.safetensors").provenance["seed"] == 3


def test_a_matched_start_is_not_visited_twice(tiny_prior):
    """A noise level on the grid is visited once, and one below it ends the grid."""
    on_grid = RecoveryConfig(num_inference_steps=10, noise_timestep=300)
    assert on_grid.timesteps(tiny_prior) == [300, 200, 100, 0]
    clean = replace(on_grid, noise_timestep=0)
    assert clean.timesteps(tiny_prior) == [0]
    no_si = replace(on_grid, inheritance=False)
    assert no_si.timesteps(tiny_prior) == list(range(900, -1, -100))


def test_no_factor_and_no_window_are_the_same(tiny_prior, tiny_set):
    """gamma = 0 gives the bytes of window "none"; a factor in a window doesn't."""
    base = RecoveryConfig(num_inference_steps=5, noise_timestep=700, window="full")
    run = lambda config: recover(tiny_set, tiny_prior, config, progress=False).images  # noqa: E731
    off = run(replace(base, guidance_factor=0))
    assert torch.equal(off, run(replace(base, window="none")))
    assert not torch.allclose(off, run(base), atol=1e-3)


# --- Noise, batches, order ----------------------------------------------------------

QUICK = RecoveryConfig(num_inference_steps=4, noise_timestep=700)


def run(distilled, prior, **options):
    options = {"seed": 3, "batch_size": 20, "progress": False} | options
    return recover(distilled, prior, options.pop("config", QUICK), **options).images


@pytest.fixture(scope="module")
def whole(tiny_prior):
    """Return the recovered images of the tiny set, in one batch."""
    return run(random_set(), tiny_prior)


@few_examples
@given(batch_size=st.integers(1, 25))
def test_the_batch_size_changes_nothing(tiny_prior, tiny_set, whole, batch_size):
    """S4: any split into batches gives the same images."""
    split = run(tiny_set, tiny_prior, batch_size=batch_size)
    assert worst(split, whole) < 1e-5


@few_examples
@given(order=st.permutations(range(20)))
def test_the_order_changes_nothing(tiny_prior, tiny_set, order):
    """S4: images permuted together with their noise come out permuted."""
    noise = noise_for(tiny_prior, 20)
    straight = run(tiny_set, tiny_prior, noise=noise)
    permuted = run(tiny_set[order], tiny_prior, noise=noise[order])
    assert worst(permuted, straight[order]) < 1e-5


@few_examples
@given(count=st.integers(1, 19))
def test_the_first_images_do_not_know_of_the_rest(tiny_prior, tiny_set, whole, count):
    """S4: the first k images alone equal the first k of the whole set."""
    assert worst(run(tiny_set[:count], tiny_prior), whole[:count]) < 1e-5


@few_examples
@given(seed=st.integers(0, 2**31 - 1))
def test_a_seed_fixes_every_byte(tiny_prior, tiny_set, seed):
    """S4: one seed, the same bytes; another seed, other images."""
    few = tiny_set[:4]
    first = run(few, tiny_prior, seed=seed)
    assert torch.equal(first, run(few, tiny_prior, seed=seed))
    other = run(few, tiny_prior, seed=(seed + 1) % 2**31)
    assert (first - other).flatten(1).abs().amax(dim=1).min() > 1e-3


def test_the_noise_of_an_image_is_its_own():
    """Noise depends on (seed, index) alone and no two images share it."""
    shape = (4, 16, 16)
    all_noise = draw_noise(shape, range(6), seed=2)
    for index in (0, 3, 5):
        alone = draw_noise(shape, [index], seed=2)
        assert torch.equal(alone[0], all_noise[index])
    other_seed = draw_noise(shape, range(6), seed=3)
    flat = torch.cat([all_noise, other_seed]).flatten(1)
    correlation = torch.corrcoef(flat) - torch.eye(12)
    assert correlation.abs().max() < 0.15
    assert flat.mean().abs() < 0.03
    assert flat.std().item() == pytest.approx(1, abs=0.03)


def test_given_noise_is_what_is_used(tiny_prior, tiny_set):
    """The noise of (seed, i), passed explicitly, changes nothing."""
    noise = draw_noise(tiny_prior.latent_shape, range(20), seed=3)
    drawn = run(tiny_set, tiny_prior)
    assert torch.equal(run(tiny_set, tiny_prior, noise=noise), drawn)
    in_parts = run(tiny_set, tiny_prior, noise=noise, batch_size=8)
    assert worst(in_parts, drawn) < 1e-5


def test_neither_the_global_generator_nor_the_input_is_touched(tiny_prior, tiny_set):
    """recover() leaves torch's random state, the set and the prior as they were."""
    before, state = tiny_set.images.clone(), torch.get_rng_state()
    weights = [p.clone() for p in tiny_prior.transformer.parameters()]
    steps = tiny_prior.scheduler.num_inference_steps
    run(tiny_set, tiny_prior)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(tiny_set.images, before)
    assert tiny_prior.scheduler.num_inference_steps == steps
    for old, new in zip(weights, tiny_prior.transformer.parameters(), strict=True):
        assert torch.equal(old, new)


# --- What comes back ----------------------------------------------------------------


@pytest.mark.parametrize("size", [(28, 28), (32, 32), (64, 64), (48, 40)])
def test_images_come_back_in_their_size(tiny_prior, tiny_set, size):
    """Padded (28), as they are (32), resized (64) or squashed (48x40): same size."""
    images = torch.nn.functional.interpolate(tiny_set.images, size)
    if size == (28, 28):
        images = images.mean(1, keepdim=True).repeat(1, 3, 1, 1)  # grey turned RGB
    names = tiny_set.class_names
    result = recover(
        DistilledSet(images, tiny_set.labels, names), tiny_prior, QUICK, progress=False
    )
    assert result.images.shape == images.shape
    assert result.images.min() >= 0
    assert result.images.max() <= 1
    assert result.images.std() > 0.02


def test_padding_is_undone_exactly(tiny_prior, tiny_set):
    """A 28x28 image is refined as its padded 32x32 one, then cropped."""
    small = DistilledSet(
        tiny_set.images[..., 2:30, 2:30], tiny_set.labels, tiny_set.class_names
    )
    padded = DistilledSet(
        torch.nn.functional.pad(small.images, (2, 2, 2, 2)),
        small.labels,
        small.class_names,
    )
    assert torch.equal(run(small, tiny_prior), run(padded, tiny_prior)[..., 2:30, 2:30])


def test_labels_names_and_the_record_are_kept(tiny_prior, tiny_set):
    """The result is a set with all it came with, and says how it was made."""
    soft = torch.rand(20, 10, generator=torch.Generator().manual_seed(0))
    given_set = replace(tiny_set, soft_labels=soft)
    config = replace(QUICK, window=(800, 100))
    result = recover(given_set, tiny_prior, config, seed=42, progress=False)
    assert torch.equal(result.labels, tiny_set.labels)
    assert result.class_names == tiny_set.class_names
    assert torch.equal(result.soft_labels, soft)
    record = result.provenance
    assert record["method"] == "DIVER"
    assert record["seed"] == 42
    assert record["prior"] == "tiny"
    assert record["source"] == tiny_set.provenance
    again = dict(record["config"], window=tuple(record["config"]["window"]))
    assert RecoveryConfig(**again) == config


def test_class_labels_matter_and_can_be_mapped(tiny_prior, tiny_set):
    """Another class gives another image; the map decides, position by position."""
    plain = run(tiny_set, tiny_prior)
    assert torch.equal(run(tiny_set, tiny_prior, class_map=range(10)), plain)
    shifted = run(tiny_set, tiny_prior, class_map=[*range(1, 10), 0])
    assert (shifted - plain).flatten(1).abs().amax(dim=1).min() > 1e-3


@pytest.mark.parametrize("wrap", [lambda prior: prior, FastPrior])
def test_autocast_around_it_changes_nothing(tiny_prior, tiny_set, wrap):
    """A prior computes in its own precision, whatever the caller's program does."""
    prior, noise = wrap(tiny_prior), noise_for(tiny_prior, 2)

    def results():
        steps = recover_steps(noise, LABELS, prior, QUICK, noise=noise)
        return (
            recover(tiny_set, prior, QUICK, progress=False).images,
            last(steps).latents,
            prior.predict_noise(noise, 500, LABELS, 2.0),
            prior.decode(prior.encode(tiny_set.images[:2])),
        )

    expected = results()
    with torch.autocast("cpu", torch.bfloat16):
        found = results()
        assert torch.is_autocast_enabled("cpu")
    assert [*map(torch.equal, found, expected)] == [True] * 4


# --- A prior of one's own -------------------------------------------------------------


@each("grid", [[], [NAN], [500, NAN, 1], [100, 500], [500, 500], [1001], [-1], ["500"]])
def test_a_priors_timesteps_fall(tiny_prior, tiny_set, grid):
    """Else the prior is named, before any image."""
    spy = Spy(tiny_prior)
    spy.timesteps = lambda steps: grid
    with pytest.raises(InputError, match=r"timesteps? of prior 'tiny' is ") as caught:
        recover(tiny_set, spy, QUICK, progress=False)
    assert "expected" in str(caught.value)
    assert not hasattr(spy, "decoded")


def test_a_priors_timesteps_may_be_a_tensor(tiny_prior, tiny_set):
    spy = Spy(tiny_prior)
    spy.timesteps = lambda steps: torch.tensor([800, 600, 400, 200, 0])
    config = replace(QUICK, num_inference_steps=5)
    found, expected = (
        run(tiny_set, prior, config=config) for prior in (spy, tiny_prior)
    )
    assert torch.equal(found, expected)


@each("shape", [(20, 3, 16, 16), (20, 1, 32, 32), (1, 3, 32, 32)])
def test_a_priors_images_have_its_size(tiny_prior, tiny_set, shape):
    spy = Spy(tiny_prior)
    spy.decode = lambda latents: torch.zeros(shape)
    with pytest.raises(
        InputError, match=r"prior 'tiny': what decode gave is .*\(20, 3, 32, 32\)"
    ):
        recover(tiny_set, spy, QUICK, batch_size=20, progress=False)


# --- Bad settings -------------------------------------------------------------------

BAD_VALUES = [
    *[("num_inference_steps", v) for v in (0, -1, 2.5, 2.0, "50", None, 1001)],
    *[("num_inference_steps", v) for v in (True, np.True_, np.float64(2), np.int8(0))],
    *[("guidance_scale", v) for v in (0.5, -4, NAN, INF, "4", None)],
    *[("inheritance", v) for v in ("no", "false", None)],
    *[("noise_timestep", v) for v in (1000, -1, 1.5, NAN, INF, "500", None)],
    *[("noise_timestep", v) for v in (510.0, 0.5, 1.0, -0.1, True, np.False_, 1j)],
    *[("start", v) for v in ("middle", 1000, -1, 1.5, NAN, None, True, 510.0)],
    *[("guidance_factor", v) for v in (-0.1, NAN, INF, "0.1", None)],
    *[("guidance_target", v) for v in ("z", None)],
    *[("guidance_sigma", v) for v in ("beta", None)],
    ("window", "middle"),
    *[("window", v) for v in ((1, 2, 3), (100, 500), (2000, 1), (900, -2))],
    *[("window", v) for v in (("a", 1), (NAN, 1), 5, None, 0.5, (0.1, 0.9))],
    *[("window", v) for v in ((816.0, 510.0), (True, False), (1.5, 0), (1.0, -0.5))],
    *[("window", v) for v in ((), (1.0,), np.array([816, 510]), (0, 0.2))],
    *[("clip_input", v) for v in ("yes", None)],
]


@each(("field", "value"), BAD_VALUES)
def test_a_bad_setting_is_named_with_its_value(tiny_prior, tiny_set, field, value):
    """One InputError that names the field and what was found, before any image."""
    spy = Spy(tiny_prior)
    with pytest.raises(InputError, match=field) as caught:
        recover(tiny_set, spy, RecoveryConfig(**{field: value}), progress=False)
    value = value.item() if isinstance(value, np.generic) else value
    found = value if isinstance(value, tuple) else [value]
    assert any(repr(v) in str(caught.value) for v in (value, *found))
    assert not hasattr(spy, "decoded")


def test_every_field_has_a_bad_value():
    """The table above forgets no field."""
    assert {name for name, _ in BAD_VALUES} == set(asdict(RecoveryConfig()))


@each(
    ("field", "value"),
    [
        ("seed", -1),
        ("seed", 2**31),
        ("seed", 1.5),
        ("seed", True),
        ("seed", "1"),
        ("seed", None),
        ("batch_size", 0),
        ("batch_size", -3),
        ("batch_size", 2.5),
        ("batch_size", True),
        ("batch_size", "3"),
        ("noise", 3),
        ("noise", np.zeros((20, 4, 16, 16))),
        ("noise", torch.zeros(3, 4, 16, 16)),
        ("noise", torch.zeros(20, 4, 8, 8)),
        ("class_map", [0, 1]),
        ("class_map", [10] * 10),
        ("class_map", [-1] * 10),
    ],
)
def test_bad_arguments_of_recover(tiny_prior, tiny_set, field, value):
    """Arguments out of range are named, before any image."""
    spy = Spy(tiny_prior)
    with pytest.raises(InputError, match=field):
        recover(tiny_set, spy, QUICK, **{"progress": False, field: value})
    assert not hasattr(spy, "decoded")


@each("name", ["distilled", "prior", "config"])
@each("value", ["cifar10", 0, [], b"", 1.5])
def test_arguments_that_are_something_else(tiny_prior, tiny_set, name, value):
    """A name in the place of what it names is the likeliest slip."""
    given_ = {"distilled": tiny_set, "prior": tiny_prior, "config": QUICK}
    with pytest.raises(InputError, match=f"^{name} is "):
        recover(**given_ | {name: value}, progress=False)


# --- Off our own path ---------------------------------------------------------------

AROUND = {
    "autocast": lambda: torch.autocast("cpu"),
    "float64": lambda: set_to(torch.set_default_dtype, torch.float64, torch.float32),
    "bfloat16 products": lambda: set_to(
        torch.set_float32_matmul_precision, "medium", "highest"
    ),
    "three threads": lambda: set_to(torch.set_num_threads, 3, torch.get_num_threads()),
}


@contextmanager
def set_to(put, value, usual):
    put(value)
    try:
        yield
    finally:
        put(usual)


class Own(Wrapped):
    """A prior of one's own, whose arithmetic goes by what is set around it."""

    def decode(self, latents):
        mixed = torch.eye(32) @ self.prior.decode(latents)
        return (mixed * torch.tensor(0.9) ** 0.5).clamp(0, 1)


@pytest.mark.parametrize("state", AROUND)
def test_nothing_around_the_call_changes_a_result(tiny_prior, tiny_set, state):
    """Not a bit of it; and what was set is set afterwards."""
    own = Own(tiny_prior)
    plain = run(tiny_set, own)
    z_0, noise = noise_for(tiny_prior, 2), noise_for(tiny_prior, 2, seed=1)
    step = last(recover_steps(z_0, LABELS, tiny_prior, QUICK, noise=noise))
    with AROUND[state]():
        before = torch.get_default_dtype(), torch.get_num_threads()
        found = run(tiny_set, own)
        assert torch.equal(found, plain)
        again = last(recover_steps(z_0, LABELS, tiny_prior, QUICK, noise=noise))
        assert (torch.get_default_dtype(), torch.get_num_threads()) == before
    assert torch.equal(step.latents, again.latents)
    assert not again.latents.requires_grad


def of_denoise(answer):
    """Return a change of a prior: another answer of `denoise`."""
    return {"denoise": lambda z, *_: answer(z)}


def in_place(latents, *_):
    return latents.mul_(0.5), latents


BREACHES = {
    "a single latent": (of_denoise(lambda z: (z[:1], z)), "denoise gave is .*float"),
    "a number": (of_denoise(lambda z: (z.mean(), z)), "what denoise gave is"),
    "integers": (of_denoise(lambda z: (z.long(), z)), "what denoise gave is"),
    "an array": (of_denoise(lambda z: (z.numpy(), z)), "what denoise gave is"),
    "no pair": (of_denoise(lambda z: z), "denoise gave .*; expected a pair"),
    "nothing": (of_denoise(lambda z: None), "denoise gave None; expected a pair"),
    "a dict": (of_denoise(lambda z: {"x_0": z, "eps": z}), "expected a pair"),
    "half a pair": (
        of_denoise(lambda z: (z, None)),
        "gave is of type None",
    ),
    "its input": ({"denoise": in_place}, "denoise changed the latents that it was"),
    "not finite": (of_denoise(lambda z: (z * NAN, z)), "hold .* NaN"),
    "wrong latents": ({"encode": lambda x: x}, "what encode gave is"),
    "bytes": ({"decode": lambda z: torch.full((20, 3, 32, 32), 255.0)}, "255; expec"),
    "-1 .. 1": ({"decode": lambda z: -torch.ones(20, 3, 32, 32)}, r"in -1 \.\. -1; e"),
    "levels": ({"signal_and_noise": lambda t: 0.5}, "signal_and_noise gave 0.5; expe"),
    "a fit": (
        {"info": {"image_fit": "crop"}},
        "image_fit of .* is 'crop",
    ),
}


@each("name", BREACHES)
def test_a_prior_that_breaks_its_contract_is_named(tiny_prior, tiny_set, name):
    """Broadcast, cut or clipped, its answers would be a result without a word."""
    changes, message = BREACHES[name]

    class Broken(Wrapped):
        info = changes.get("info", {"name": "broken"})

    prior = Broken(tiny_prior)
    vars(prior).update({k: v for k, v in changes.items() if k != "info"})
    if "info" in changes:
        tiny_set = DistilledSet(
            tiny_set.images[..., 2:-2, 2:-2], tiny_set.labels, tiny_set.class_names
        )
    with pytest.raises(InputError, match=message):
        recover(tiny_set, prior, QUICK, batch_size=20, progress=False)


def test_a_decoder_on_a_doubtful_scale_is_warned_about(tiny_prior, tiny_set):
    """A few values beyond 0 and 1 are usual, a third of them isn't."""
    prior = Wrapped(tiny_prior)
    prior.decode = lambda z: torch.linspace(-0.4, 1.4, 20 * 3072).view(20, 3, 32, 32)
    with pytest.warns(UserWarning, match=r"44% of the values lie outside 0 \.\. 1"):
        recover(tiny_set, prior, QUICK, batch_size=20, progress=False)
