"""Every kind of prior against diffusers' own pipeline, and its equations."""

import json
import math
import os
import shutil
import sys
from dataclasses import replace

import diffusers
import pytest
import torch
from draw_plane import run_page
from kinds import KINDS, NAMES

from diver_lite.advice.rows import kept_recovery
from diver_lite.checks import InputError
from diver_lite.priors.contract import Prior, Wrapped, for_classes
from diver_lite.priors.dit import DiTPrior
from diver_lite.priors.fast import FastPrior, why_not_fast
from diver_lite.priors.loading import load_prior
from diver_lite.priors.schedule import DIT, abar_at
from diver_lite.priors.text import TextPrior
from diver_lite.recovery import RecoveryConfig, RecoveryJob, recover, recover_steps
from diver_lite.sets.distilled import DistilledSet

PLAIN = RecoveryConfig(inheritance=False, guidance_factor=0, window="none")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Return a function that writes a folder of each kind, once."""
    made = {}
    root = tmp_path_factory.mktemp("kinds")

    def folder(kind):
        if kind not in made:
            made[kind] = KINDS[kind](root / kind)
        return made[kind]

    return folder


IN_WORDS = {"epsilon": TextPrior, "v": TextPrior, "turbo": TextPrior}


def noise_for(prior, count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, *prior.latent_shape, generator=generator)


def pictures(count=3, size=32, names=NAMES):
    generator = torch.Generator().manual_seed(7)
    images = torch.rand(count, 3, size, size, generator=generator)
    return DistilledSet(images, torch.arange(count) % len(names), names)


def worst(found, expected):
    assert found.shape == expected.shape
    scale = max(1.0, expected.abs().max().item())
    return (found.double() - expected.double()).abs().max().item() / scale


def last(steps):
    *_, step = steps
    return step


# --- The contract --------------------------------------------------------------------

NAMES_OF_A_PRIOR = {
    "class_names",
    "decode",
    "denoise",
    "encode",
    "image_size",
    "info",
    "latent_shape",
    "signal_and_noise",
    "timesteps",
}
WRAPPERS = {
    "fast": FastPrior,
    "held": Wrapped,
    "fast and held": lambda prior: Wrapped(FastPrior(prior)),
}


def some_prior(kind, folders, tiny_prior):
    if kind in KINDS:
        return for_classes(load_prior(folders(kind), device="cpu"), NAMES)
    if kind == "of the page":
        return run_page()["prior"]
    return WRAPPERS[kind](tiny_prior) if kind in WRAPPERS else tiny_prior


def test_a_prior_has_nine_names():
    public = {name for name in vars(Prior) if not name.startswith("_")}
    assert public == NAMES_OF_A_PRIOR


@pytest.mark.parametrize("kind", [*KINDS, *WRAPPERS, "DiT", "of the page"])
def test_every_prior_keeps_the_contract(folders, tiny_prior, kind):
    """What the loop relies on, asked of each prior there is."""
    prior = some_prior(kind, folders, tiny_prior)
    assert isinstance(prior, Prior)
    assert isinstance(prior.info, dict)
    assert len(prior.class_names) >= 3
    visited = prior.timesteps(4)
    assert 1000 >= visited[0] > visited[1] > visited[2] > visited[3] > -1
    z = noise_for(prior, 3)
    labels = torch.arange(3)
    for timestep in visited:
        alpha, sigma = prior.signal_and_noise(timestep)
        shares = alpha**2 / (alpha**2 + sigma**2)
        assert shares.item() == pytest.approx(abar_at(timestep).item(), abs=1e-5)
        x_0, eps = prior.denoise(z, timestep, labels, 2.0)
        assert x_0.shape == eps.shape == z.shape
        assert x_0.dtype == eps.dtype == torch.float32
        assert worst(alpha * x_0 + sigma * eps, z) < 1e-3
    alpha, sigma = prior.signal_and_noise(-1)
    assert alpha > 0.99
    assert sigma < 0.05
    assert prior.timesteps(4) == visited  # asking changes nothing
    images = prior.decode(z)
    assert images.dtype == torch.float32
    if kind != "of the page":  # whose pictures are points
        size = prior.image_size
        assert images.shape == (3, 3, size, size)
        assert images.min() >= 0
        assert images.max() <= 1
        assert prior.encode(images).shape == z.shape
    config = RecoveryConfig(num_inference_steps=4, noise_timestep=700)
    *_, last = recover_steps(z, labels, prior, config, noise=z)
    assert last.latents.isfinite().all()


@pytest.mark.parametrize("lacking", sorted(NAMES_OF_A_PRIOR))
def test_what_lacks_a_name_is_no_prior(lacking):
    names = dict.fromkeys(NAMES_OF_A_PRIOR - {lacking})
    with pytest.raises(InputError, match=r"^prior is "):
        recover(pictures(), type("Almost", (), names)(), progress=False)


# --- Everything off: diffusers' own pipelines ---------------------------------------


@pytest.mark.parametrize("kind", ["epsilon", "v", "turbo"])
@pytest.mark.parametrize(("steps", "scale"), [(1, 1.0), (4, 1.0), (10, 7.5)])
def test_it_is_the_stable_diffusion_pipeline(folders, kind, steps, scale):
    """The same images from the same noise, prompts and negative prompt."""
    folder, chosen = folders(kind), pictures(size=16)
    words = {"prompt": "a drawing of a {name}", "negative_prompt": "a blur"}
    prior = load_prior(folder, device="cpu", **words)
    assert type(prior) is IN_WORDS[kind]
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(
        folder, safety_checker=None
    )
    pipeline.set_progress_bar_config(disable=True)
    noise = noise_for(prior, 3)
    expected = pipeline(
        [f"a drawing of a {name.replace('_', ' ')}" for name in NAMES],
        negative_prompt=["a blur"] * 3,
        latents=noise,
        num_inference_steps=steps,
        guidance_scale=scale,
        output_type="pt",
    ).images
    config = replace(PLAIN, num_inference_steps=steps, guidance_scale=scale)
    found = recover(chosen, prior, config, noise=noise, progress=False).images
    assert expected.std() > 0.02
    assert (expected[0] - expected[1]).abs().max() > 1e-3  # the words matter
    assert worst(found, expected) < 1e-4


@pytest.mark.parametrize("timestep", [-1, 300, 700])
def test_flow_levels_are_float32_whatever_the_default(folders, timestep):
    """A caller's default of float64 would round alpha and sigma otherwise."""
    prior = load_prior(folders("flow"), device="cpu")
    plain = prior.signal_and_noise(timestep)
    torch.set_default_dtype(torch.float64)
    try:
        found = prior.signal_and_noise(timestep)
    finally:
        torch.set_default_dtype(torch.float32)
    for ours, expected in zip(found, plain, strict=True):
        assert ours.dtype == torch.float32
        assert torch.equal(ours, expected)


@pytest.mark.parametrize("kind", ["flow", "shifted flow"])
@pytest.mark.parametrize(("steps", "scale"), [(1, 1.0), (7, 1.0), (20, 4.0)])
def test_flow_is_the_euler_loop_of_diffusers(folders, kind, steps, scale):
    """The latents of `FlowMatchEulerDiscreteScheduler.step`."""
    prior = load_prior(folders(kind), device="cpu")
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler.from_pretrained(
        folders(kind) / "scheduler"
    )
    scheduler.set_timesteps(steps)
    noise, labels = noise_for(prior, 3), torch.arange(3)
    z, null = noise, torch.full_like(labels, 3)
    for t in scheduler.timesteps:
        with torch.no_grad():
            both = prior.transformer(
                torch.cat([z, z]),
                timestep=t.expand(6),
                class_labels=torch.cat([labels, null]),
            ).sample
        cond, uncond = both.chunk(2)
        z = scheduler.step(uncond + scale * (cond - uncond), t, z).prev_sample
    config = replace(PLAIN, num_inference_steps=steps, guidance_scale=scale)
    found = last(recover_steps(z, labels, prior, config, noise=noise)).latents
    assert z.std() > 0.1
    assert worst(found, z) < 1e-4


# --- Everything on: the equations, written a second time -----------------------------


def level_of(kind, place):
    """Return (alpha, sigma) of a prior's own timestep."""
    if "flow" in kind:
        return 1 - place / 1000, place / 1000
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    abar = (1 - betas).cumprod(0)
    low = math.floor(place)
    if low == place:
        return math.sqrt(abar[low]), math.sqrt(1 - abar[low])
    angles = torch.arccos(abar.sqrt())
    angle = angles[low] + (place - low) * (angles[low + 1] - angles[low])
    return math.cos(angle), math.sin(angle)


def place_of(kind, ratio):
    """Return a prior's own timestep with this sigma / alpha, by bisection."""
    low, high = 0.0, 1000.0 if "flow" in kind else 999.0
    for _ in range(200):
        middle = (low + high) / 2
        alpha, sigma = level_of(kind, middle)
        low, high = (middle, high) if sigma < ratio * alpha else (low, middle)
    return (low + high) / 2


def dit_time(alpha, sigma):
    """Return the timestep of DiT with this noise level, between 0 and 999."""
    angles = torch.arccos(DIT.double().sqrt())
    angle = math.atan2(sigma, alpha)
    above = int((angles < angle).sum())
    low, high = angles[above - 1].item(), angles[above].item()
    return above - 1 + (angle - low) / (high - low)


@pytest.mark.parametrize("kind", ["epsilon", "v", "flow", "shifted flow"])
@pytest.mark.parametrize(
    ("sigma", "target"), [("posterior", "x0"), ("one", "x0"), ("one", "latent")]
)
def test_every_kind_follows_the_equations(folders, kind, sigma, target):
    """Inheritance, guidance and window on, one image at a time, in float64."""
    prior = load_prior(folders(kind), device="cpu")
    prior = for_classes(prior, NAMES)
    config = RecoveryConfig(
        num_inference_steps=8,
        guidance_scale=2.0,
        guidance_factor=0.05,
        guidance_sigma=sigma,
        guidance_target=target,
        noise_timestep=700,
        window=(650, 200),
    )
    z_0, noise = noise_for(prior, 1, seed=1), noise_for(prior, 1, seed=2)
    found = last(recover_steps(z_0, torch.tensor([1]), prior, config, noise=noise))

    def network(z, place, label):
        t, z = torch.tensor([place], dtype=torch.float32), z.float()
        with torch.no_grad():
            if "flow" in kind:
                y = torch.tensor([label])
                return prior.transformer(z, timestep=t, class_labels=y).sample.double()
            words = prior.embeddings[label][None]
            return prior.transformer(z, t, words).sample.double()

    abar = DIT.double()
    start = place_of(kind, math.sqrt((1 - abar[700]) / abar[700]))
    if "flow" in kind:
        scheduler = diffusers.FlowMatchEulerDiscreteScheduler(
            shift=3.0 if "shifted" in kind else 1.0
        )
        scheduler.set_timesteps(8)
        grid = scheduler.timesteps.tolist()
    else:
        grid = [125 * k + 1 for k in range(7, -1, -1)]
    visited = [start, *(t for t in grid if t < start)]
    # SD's schedulers end at their first level: set_alpha_to_one=False
    ends = level_of(kind, 0) if kind in ("epsilon", "v") else (1.0, 0.0)
    alpha, level = level_of(kind, start)
    z, acted = alpha * z_0.double() + level * noise.double(), 0
    for k, place in enumerate(visited):
        alpha, level = level_of(kind, place)
        final = k == len(visited) - 1
        alpha_next, level_next = ends if final else level_of(kind, visited[k + 1])
        cond, uncond = network(z, place, 1), network(z, place, 3)
        out = uncond + 2.0 * (cond - uncond)
        if kind == "epsilon":
            eps, x_0 = out, (z - level * out) / alpha
        elif kind == "v":
            eps, x_0 = alpha * out + level * z, alpha * z - level * out
        else:
            eps, x_0 = z + alpha * out, z - level * out
        # a flow's latents, as large as a DDPM's of the same noise
        pulled = x_0 if target == "x0" else z / math.hypot(alpha, level)
        z = alpha_next * x_0 + level_next * eps
        t = dit_time(alpha, level) if k else 700.0
        if 650 >= t > 200:
            passed = (t - dit_time(alpha_next, level_next)) / 20
            # DDPM's posterior from t to t - 20, on DiT's schedule
            one, two = (
                level_of("flow", 0) if s < 0 else (math.cos(a), math.sin(a))
                for s in (t, t - 20)
                for a in [angle_at(s)]
            )
            beta = 1 - (one[0] / two[0]) ** 2
            posterior = math.sqrt((two[1] / one[1]) ** 2 * beta)
            pull = {"posterior": posterior, "one": 1.0}[sigma]
            share = 1 - (1 - 0.05 * pull) ** passed
            difference = pulled - z_0.double()
            z = z - share * math.hypot(alpha_next, level_next) * difference
            acted += 1
    assert acted >= 2
    assert worst(found.latents, z) < 1e-5 * max(1.0, z.abs().max())


def angle_at(timestep):
    angles, low = torch.arccos(DIT.double().sqrt()), math.floor(timestep)
    share = timestep - low
    return ((1 - share) * angles[low] + share * angles[min(low + 1, 999)]).item()


def test_settings_mean_noise_levels_on_any_schedule(tiny_prior):
    """A cosine schedule pulls where DiT's does: not at its own timesteps 816 to 510."""

    class Toy(DiTPrior):
        def guided(self, latents, timestep, class_labels, scale):
            return torch.zeros_like(latents)

    cosine = diffusers.DDIMScheduler(beta_schedule="squaredcos_cap_v2")
    toy = Toy(tiny_prior.transformer, tiny_prior.vae, cosine, ("a",) * 10)
    config = RecoveryConfig(inheritance=False, num_inference_steps=200)
    noise, label = noise_for(toy, 1), torch.tensor([0])
    steps = list(recover_steps(noise, label, toy, config, noise=noise))
    guided = {toy.place(s.timestep) for s in steps if s.guided}
    abar = cosine.alphas_cumprod
    inside = {t for t in range(0, 1000, 5) if DIT[816] <= abar[t] < DIT[510]}
    assert guided == inside
    assert min(inside) > 600  # where a cosine schedule has as much noise
    level = toy.place(700)
    assert abar[math.ceil(level)] < DIT[700] < abar[math.floor(level)]
    for timestep in (300, 700, 990):
        alpha, sigma = toy.signal_and_noise(timestep)
        theirs = tiny_prior.signal_and_noise(timestep)
        assert alpha.item() == pytest.approx(theirs[0].item(), abs=1e-6)
        assert (alpha / sigma).item() == pytest.approx((theirs[0] / theirs[1]).item())


def test_few_steps_leave_little_room_for_the_pull(folders):
    """What the page "Add a prior" says: none of one step pulls, three of eight do."""
    prior = load_prior(folders("turbo"), device="cpu")
    room = {}
    for count in (1, 2, 4, 8):
        visited = RecoveryConfig(num_inference_steps=count).timesteps(prior)
        phases = map(RecoveryConfig().phase, visited[:-1])  # the last one doesn't pull
        room[count] = [*phases].count("concrete")
    assert room == {1: 0, 2: 1, 4: 2, 8: 3}


def test_flow_on_the_fast_path_is_the_same(folders):
    prior = load_prior(folders("flow"), device="cpu")
    assert why_not_fast(prior) is None
    config = RecoveryConfig(num_inference_steps=6, guidance_factor=0.03)
    plain = recover(pictures(), prior, config, progress=False).images
    quick = recover(pictures(), FastPrior(prior), config, progress=False).images
    assert plain.std() > 0.02
    assert worst(quick, plain) < 1e-5


class Unguided(Wrapped):
    """Answers one question otherwise: at low noise it leaves guidance out."""

    def denoise(self, latents, timestep, class_labels, guidance_scale):
        scale = guidance_scale if timestep > 300 else 1.0
        return self.prior.denoise(latents, timestep, class_labels, scale)


def test_a_prior_around_any_kind_answers_what_it_wants(folders):
    for kind in ("flow", "v"):
        prior = load_prior(folders(kind), device="cpu")
        outer = for_classes(Unguided(prior), NAMES)
        prior = for_classes(prior, NAMES)
        assert outer.class_names == prior.class_names == NAMES
        assert outer.latent_shape == prior.latent_shape
        assert outer.timesteps(4) == prior.timesteps(4)
        z, labels = noise_for(prior, 3), torch.arange(3)
        for timestep, scale in {650: 3.0, 301: 3.0, 300: 1.0}.items():
            found = outer.denoise(z, timestep, labels, 3.0)
            expected = prior.denoise(z, timestep, labels, scale)
            assert all(map(torch.equal, found, expected))
            noise = outer.predict_noise(z, timestep, labels, 3.0)
            theirs = prior.predict_noise(z, timestep, labels, scale)
            assert torch.equal(noise, theirs)


# --- One prior, many sets


def test_two_sets_and_scales_at_once(folders):
    """What a set's classes are, and how strong guidance is, belongs to a call."""
    prior = load_prior(folders("epsilon"), device="cpu")
    sets = [pictures(names=names) for names in (NAMES, ("owl", "cow", "horse_fly"))]
    config = RecoveryConfig(num_inference_steps=4)
    configs = [replace(config, guidance_scale=scale) for scale in (1.5, 6.0)]
    jobs = [RecoveryJob(*job) for job in zip(sets, [prior] * 2, configs, strict=True)]
    for job, distilled, config in zip(jobs, sets, configs, strict=True):
        fresh = load_prior(folders("epsilon"), device="cpu")
        expected = recover(distilled, fresh, config, progress=False).images
        assert torch.equal(job.finish(job.refine(range(3)), (32, 32)), expected)
    noise, labels = noise_for(prior, 3), torch.arange(3)
    steps = [
        recover_steps(noise, labels, job.prior, job.config, noise=noise) for job in jobs
    ]
    turns = [*zip(*steps, strict=True)]
    for job, ours in zip(jobs, zip(*turns, strict=True), strict=True):
        alone = recover_steps(noise, labels, job.prior, job.config, noise=noise)
        assert torch.equal(ours[-1].latents, last(alone).latents)


# --- From the command line ----------------------------------------------------------


def hundred(tmp_path):
    """Write a set of 100 named classes, one image each."""
    names = tuple(f"kind_{index}" for index in range(100))
    path = tmp_path / "hundred.safetensors"
    pictures(100, size=16, names=names).save(path)
    return path


def test_a_hundred_classes_from_the_command_line(folders, cli, tmp_path, monkeypatch):
    """End to end with prompts; goes on after an interruption, and isn't fast."""
    source, out = hundred(tmp_path), tmp_path / "out.safetensors"
    command = (
        *("recover", source, "--prior", folders("epsilon"), "--device", "cpu"),
        *("--prior-set", "prompt=a satellite photo of {name}", "--batch-size", "25"),
        *("--set", "num_inference_steps=2"),
    )
    real, calls = TextPrior.decode, []

    def stop(self, latents):
        calls.append(len(latents))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(self, latents)

    with monkeypatch.context() as patch:
        patch.setattr(TextPrior, "decode", stop)
        code, _, _ = cli(*command, "-o", out)
    assert code == 130
    assert len(os.listdir(tmp_path / "out.parts" / "set")) >= 2

    def count(self, latents):
        calls.append(len(latents))
        return real(self, latents)

    monkeypatch.setattr(TextPrior, "decode", count)
    code, _, error = cli(*command, "-o", out)
    # four batches and the one that was stopped; the look at what it owes takes fewer
    assert (code, calls.count(25)) == (0, 5), error
    assert "fast path" not in error  # nobody asked for it
    assert cli(*command, "-o", tmp_path / "whole.safetensors")[0] == 0
    result = DistilledSet.load(out)
    whole = DistilledSet.load(tmp_path / "whole.safetensors")
    assert torch.equal(result.images, whole.images)
    assert result.class_names[7] == "kind_7"
    assert result.images.std() > 0.02
    command = [
        c.replace("satellite", "holiday") if c == command[7] else c for c in command
    ]
    (tmp_path / "out.safetensors").unlink()
    cli(*command, "-o", out)
    assert not torch.equal(DistilledSet.load(out).images, whole.images)


def test_a_kept_recovery_knows_what_was_asked(folders, tmp_path):
    """The prompts of its classes, and what guidance leads away from."""
    short = RecoveryConfig(num_inference_steps=1)
    asked = [{}, {"prompt": "the {name}"}, {"negative_prompt": "blur"}, {}]
    others = [pictures(1)] * 3 + [pictures(1, names=("fox", "wolf"))]
    for count, (words, given) in enumerate(zip(asked, others, strict=True), 1):
        prior = load_prior(folders("epsilon"), device="cpu", **words)
        kept = kept_recovery(tmp_path / "kept", given, prior, short, 0)
        found = recover(given, prior, short, progress=False)
        assert torch.equal(kept.images, found.images)
        assert len([*(tmp_path / "kept").iterdir()]) == count


def test_another_size(folders):
    """Sizes are multiples of the VAE's factor; the UNet takes any."""
    prior = load_prior(folders("epsilon"), device="cpu", size=24)
    assert (prior.image_size, prior.latent_shape) == (24, (4, 12, 12))
    config = RecoveryConfig(num_inference_steps=1)
    images = recover(pictures(size=20), prior, config, progress=False).images
    assert images.shape == (3, 3, 20, 20)


def change(file, **values):
    def edit(folder):
        path = folder / file
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return edit


def without(part):
    return lambda folder: shutil.rmtree(folder / part)


SUPPORTED = "supported are DiT and SiT.*Stable Diffusion 1.x and 2.x"
BAD = {
    "SDXL": (
        change("unet/config.json", addition_embed_type="text_time"),
        {},
        f"unet has addition_embed_type 'text_time'; {SUPPORTED}",
    ),
    "a consistency model": (
        change("unet/config.json", time_cond_proj_dim=256),
        {},
        f"unet has time_cond_proj_dim 256; {SUPPORTED}",
    ),
    "another unet": (
        change("unet/config.json", _class_name="UNet3DConditionModel"),
        {},
        f"unet is a UNet3DConditionModel, expected a UNet2D.*{SUPPORTED}",
    ),
    "another encoder": (
        change("text_encoder/config.json", architectures=["T5EncoderModel"]),
        {},
        f"text_encoder is a T5EncoderModel, expected a CLIPTextModel; {SUPPORTED}",
    ),
    "no encoder": (
        without("text_encoder"),
        {},
        "text_encoder.config.json: no such file",
    ),
    "no tokenizer": (without("tokenizer"), {}, "tokenizer.*: no such file"),
    "sample prediction": (
        change("scheduler/scheduler_config.json", prediction_type="sample"),
        {},
        "prediction_type 'sample'",
    ),
    "fewer layers than weights": (
        change("text_encoder/config.json", num_hidden_layers=1),
        {},
        r"text_encoder has no place for the weights .*layers\.1\.",
    ),
    "half a size": (
        change("unet/config.json", sample_size=1.5),
        {},
        r"sample_size of the unet is 1\.5; expected an integer",
    ),
    "a norm in words": (
        change("unet/config.json", norm_eps="s"),
        {},
        "norm_eps is 's'",
    ),
    "a scale in words": (
        change("vae/config.json", scaling_factor="ten"),
        {},
        "scaling_factor of the vae is 'ten'",
    ),
    "prompts in words": (
        change("tokenizer/tokenizer_config.json", model_max_length="long"),
        {},
        "(model_max_length is 'long'|can't be loaded)",
    ),
    "no room for a word": (
        change("tokenizer/tokenizer_config.json", model_max_length=2),
        {},
        "model_max_length is 2; expected",
    ),
    "no place for the name": (lambda _: None, {"prompt": "a cat"}, r"prompt.*{name}"),
    "no string": (lambda _: None, {"negative_prompt": 3}, "negative_prompt is of type"),
    "a size": (
        lambda _: None,
        {"size": 15},
        ": size is 15; expected a multiple of 2",
    ),
    "no option": (lambda _: None, {"words": "a"}, "option of load_prior is 'words'"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_folders_and_words_are_named(folders, tmp_path, name):
    damage, words, message = BAD[name]
    folder = shutil.copytree(folders("epsilon"), tmp_path / "prior")
    damage(folder)
    with pytest.raises(InputError, match=message) as caught:
        load_prior(folder, device="cpu", **words)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [None, 10**9, 40.0])
def test_prompts_are_as_long_as_the_encoder_takes(folders, tmp_path, value):
    """Real folders don't say, or any number: 77 for Stable Diffusion's encoder."""
    folder = shutil.copytree(folders("epsilon"), tmp_path / "prior")
    path = folder / "tokenizer/tokenizer_config.json"
    config = json.loads(path.read_text())
    config.pop("model_max_length")
    path.write_text(
        json.dumps(config if value is None else config | {"model_max_length": value})
    )
    names = ("cat", "owl " * 50)
    found, expected = (
        for_classes(load_prior(f, device="cpu"), names).embeddings
        for f in (folder, folders("epsilon"))
    )
    assert found.shape == (3, 40, 16)
    assert torch.equal(found, expected)


def test_without_transformers(folders, monkeypatch):
    """The extra is named."""
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'diver-lite\[text\]'"):
        load_prior(folders("epsilon"), device="cpu")


def test_classes_without_names(folders):
    prior = load_prior(folders("epsilon"), device="cpu")
    nameless = pictures(names=("class 0", "class 1", "class 2"))
    with pytest.raises(InputError, match=r"have no names.*--dataset"):
        recover(nameless, prior, progress=False)


def test_words_for_a_prior_of_numbers(tiny_prior_folder):
    with pytest.raises(InputError, match="prompt is for priors told in words"):
        load_prior(tiny_prior_folder, device="cpu", prompt="a {name}")


def test_a_noise_level_that_the_schedule_lacks(folders):
    """Stable Diffusion's noisiest timestep is 727 of DiT's."""
    prior = load_prior(folders("epsilon"), device="cpu")
    for name, config in {
        "noise_timestep": RecoveryConfig(noise_timestep=900),
        "start": RecoveryConfig(start=990),
    }.items():
        with pytest.raises(
            InputError, match=rf"{name}: timestep is 9\d0; expected a noise level"
        ):
            recover(pictures(size=16), prior, config, progress=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_dynamic_shifting": True}, "use_dynamic_shifting True"),
        ({"invert_sigmas": True}, "invert_sigmas True"),
        ({"shift": 0}, "shift is 0"),
        ({"num_train_timesteps": 1}, "num_train_timesteps is 1"),
    ],
)
def test_flows_that_do_not_fit(folders, tmp_path, changes, message):
    folder = shutil.copytree(folders("flow"), tmp_path / "prior")
    change("scheduler/scheduler_config.json", **changes)(folder)
    with pytest.raises(InputError, match=message):
        load_prior(folder, device="cpu")
