"""A prior encodes, decodes and predicts as promised, and broken ones are refused."""

import inspect
import json
import pickle
import shutil
from dataclasses import asdict
from pathlib import Path

import diffusers
import huggingface_hub
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from diver_lite import assets
from diver_lite.checks import InputError
from diver_lite.files import sha256
from diver_lite.make.train_prior import RECIPES
from diver_lite.priors.contract import fit_images, resize_images
from diver_lite.priors.dit import DiTPrior
from diver_lite.priors.loading import load_prior, resolve_device, shipped_priors
from diver_lite.recovery import RecoveryConfig, recover
from diver_lite.sets.real import FASHION_MNIST_CLASSES

DIT_WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"
LABELS = torch.tensor([1, 4, 4])


def images(count=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, 32, 32, generator=generator)


def latents(count=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 4, 16, 16, generator=generator)


@pytest.fixture
def folder(tiny_prior_folder, tmp_path):
    """Return a copy of the tiny prior that a test may damage."""
    return Path(shutil.copytree(tiny_prior_folder, tmp_path / "prior"))


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# --- What it says and does ----------------------------------------------------------


def test_properties(tiny_prior, tiny_learned_sigma_prior):
    """Sizes come from the folder's configs, names from its index."""
    assert tiny_prior.latent_shape == (4, 16, 16)
    assert tiny_prior.image_size == 32
    assert tiny_prior.num_classes == 10
    assert tiny_prior.class_names == FASHION_MNIST_CLASSES
    assert tiny_prior.device == torch.device("cpu")
    assert tiny_prior.dtype == torch.float32
    assert tiny_prior.info["name"] == "tiny"
    other = tiny_learned_sigma_prior
    assert other.latent_shape == (4, 16, 16)
    assert other.num_classes == len(other.class_names) == 1000
    assert other.class_names[7] == "class 7"
    assert other.info == {}


def test_networks_are_frozen(tiny_prior):
    """Nothing can be trained by accident, and dropout is off."""
    for module in (tiny_prior.transformer, tiny_prior.vae):
        assert not module.training
        assert not any(p.requires_grad for p in module.parameters())


def test_encode_and_decode(tiny_prior):
    """Scaled posterior means in, images in [0, 1] out, both float32."""
    x = images()
    z = tiny_prior.encode(x)
    assert z.shape == (3, 4, 16, 16)
    assert z.dtype == torch.float32
    mean = tiny_prior.vae.encode(2 * x - 1).latent_dist.mean
    assert torch.allclose(z, mean * tiny_prior.vae.config.scaling_factor, atol=1e-6)
    assert torch.equal(tiny_prior.encode(x), z)
    y = tiny_prior.decode(100 * z)  # far out, so that something must be clamped
    assert y.shape == x.shape
    assert y.dtype == torch.float32
    assert y.min() == 0
    assert y.max() == 1


def test_many_images_are_encoded_and_decoded_in_parts(tiny_prior):
    """Each as if it were alone, also where they are more than the VAE takes at once."""
    x = images(19)
    z = tiny_prior.encode(x)
    alone = torch.cat([tiny_prior.encode(one) for one in x.split(1)])
    assert torch.allclose(z, alone, atol=1e-5)
    alone = torch.cat([tiny_prior.decode(one) for one in z.split(1)])
    assert torch.allclose(tiny_prior.decode(z), alone, atol=1e-5)


def test_a_shifted_vae(folder):
    """Latents are shifted, then scaled, as diffusers' newer VAEs are; and back."""
    edit(folder / "vae/config.json", shift_factor=0.3)
    prior = load_prior(folder, device="cpu")
    mean = prior.vae.encode(2 * images() - 1).latent_dist.mean
    z = prior.encode(images())
    assert torch.allclose(z, (mean - 0.3) * 2.5, atol=1e-5)
    expected = (prior.vae.decode(mean).sample / 2 + 0.5).clamp(0, 1)
    assert torch.allclose(prior.decode(z), expected, atol=1e-4)


def test_a_vae_with_statistics_of_its_own(folder):
    """Each channel is normalised as diffusers' pipelines do it; and back."""
    mean, std = [0.1, -0.2, 0.3, 0.0], [0.5, 1.0, 2.0, 4.0]
    edit(folder / "vae/config.json", latents_mean=mean, latents_std=std)
    prior = load_prior(folder, device="cpu")
    raw = prior.vae.encode(2 * images() - 1).latent_dist.mean
    mean, std = (torch.tensor(values).view(1, 4, 1, 1) for values in (mean, std))
    z = prior.encode(images())
    assert torch.allclose(z, (raw - mean) * 2.5 / std, atol=1e-5)
    expected = (prior.vae.decode(raw).sample / 2 + 0.5).clamp(0, 1)
    assert torch.allclose(prior.decode(z), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("vae", {"shift_factor": "a"}, "shift_factor of the vae is 'a'"),
        ("vae", {"shift_factor": float("nan")}, "shift_factor of the vae is nan"),
        ("vae", {"shift_factor": [1.0]}, "shift_factor of the vae is"),
        ("vae", {"shift_factor": True}, "shift_factor of the vae is True"),
        ("vae", {"shift_factor": False}, "shift_factor of the vae is False"),
        ("vae", {"shift_factor": {}}, "shift_factor of the vae is {}"),
        ("vae", {"shift_factor": 1e30}, r"shift_factor of the vae is 1e\+30"),
        ("vae", {"scaling_factor": 0}, "scaling_factor of the vae is 0"),
        ("vae", {"scaling_factor": -1}, "scaling_factor of the vae is -1"),
        ("vae", {"scaling_factor": 1e-30}, "scaling_factor of the vae is 1e-30"),
        ("vae", {"latents_mean": [0.0] * 4}, "has latents_mean without latents_std"),
        ("vae", {"latents_std": [1.0] * 4}, "has latents_std without latents_mean"),
        (
            "vae",
            {"latents_mean": [0.0], "latents_std": [1.0]},
            r"latents_mean of the vae is \(0\.0,\); expected 4 numbers",
        ),
        (
            "vae",
            {"latents_mean": [0.0] * 4, "latents_std": [1.0, 1.0, 0.0, 1.0]},
            "a value in latents_std of the vae is 0.0; expected a finite number",
        ),
        (
            "vae",
            {"latents_mean": "abcd", "latents_std": [1.0] * 4},
            "latents_mean of the vae is 'abcd'; expected 4 numbers",
        ),
        (
            "vae",
            {"latents_mean": [0.0] * 4, "latents_std": [1.0] * 4, "shift_factor": 1},
            "has both shift_factor and latents_mean",
        ),
        ("transformer", {"sample_size": 0}, "sample_size of the transformer is 0"),
        (
            "transformer",
            {"sample_size": 17},
            "sample_size of the transformer is 17; expected a multiple of patch_size",
        ),
        ("transformer", {"patch_size": 0}, "patch_size of the transformer is 0"),
    ],
)
def test_odd_numbers_of_a_folder_are_named_as_it_loads(folder, part, changes, message):
    edit(folder / part / "config.json", **changes)
    with pytest.raises(InputError, match=message):
        load_prior(folder, device="cpu")


@pytest.mark.parametrize("part", ["transformer", "vae"])
@pytest.mark.parametrize("kind", [torch.int8, torch.int64, torch.bool, torch.complex64])
@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_weights_that_are_no_floats_are_refused(folder, part, kind, form):
    """diffusers would cast them: whole numbers, that is nearly nothing but 0."""
    path = folder / part / "diffusion_pytorch_model.safetensors"
    weights = {name: w.to(kind) for name, w in load_file(path).items()}
    path.unlink()
    if form == "bin":
        torch.save(weights, path.with_suffix(".bin"))
    else:
        save_file(weights, path)
    with pytest.raises(InputError, match=f"weights of the {part} .* expected floats"):
        load_prior(folder, device="cpu")


def test_a_prediction_type_of_null_is_the_default(folder):
    """Files of 2022 lack it, and diffusers writes null for what isn't set."""
    edit(folder / "scheduler/scheduler_config.json", prediction_type=None)
    assert load_prior(folder, device="cpu").prediction == "epsilon"


def test_guidance_is_linear_in_its_scale(tiny_prior):
    """Scale 1 is the conditional prediction, and eps_u + s (eps_c - eps_u) holds."""
    z = latents()

    def null_and_class(labels):
        with torch.no_grad():
            return tiny_prior.transformer(
                z, timestep=torch.tensor([400] * 3), class_labels=labels
            ).sample

    eps_c, eps_u = null_and_class(LABELS), null_and_class(torch.tensor([10] * 3))
    assert (eps_c - eps_u).abs().mean() > 0.05
    assert torch.allclose(tiny_prior.predict_noise(z, 400, LABELS, 1), eps_c, atol=1e-6)
    for scale in (1.0 + 1e-6, 2.0, 4.0):
        found = tiny_prior.predict_noise(z, 400, LABELS, scale)
        assert torch.allclose(found, eps_u + scale * (eps_c - eps_u), atol=1e-5)


@pytest.mark.parametrize("which", ["tiny_prior", "tiny_learned_sigma_prior"])
def test_the_null_class_is_the_one_after_the_last(request, which, monkeypatch):
    """Guidance asks for class num_classes; without guidance it is not asked for."""
    prior = request.getfixturevalue(which)
    asked, forward = [], prior.transformer.forward
    monkeypatch.setattr(
        prior.transformer,
        "forward",
        lambda x, **given: asked.append(given["class_labels"]) or forward(x, **given),
    )
    noise = prior.predict_noise(latents(), 500, LABELS, 2.0)
    assert noise.shape == (3, 4, 16, 16)  # and not the learned variance
    assert asked[0].tolist() == [1, 4, 4, *[prior.num_classes] * 3]
    prior.predict_noise(latents(), 500, LABELS, 1.0)
    assert asked[1].tolist() == [1, 4, 4]


def test_to_moves_both_networks(tiny_prior_folder):
    """A prior can run in bfloat16 and still speaks float32."""
    prior = load_prior(tiny_prior_folder, device="cpu", dtype=torch.bfloat16)
    assert prior.dtype == next(prior.vae.parameters()).dtype == torch.bfloat16
    z = prior.encode(images())
    noise = prior.predict_noise(z, 500, LABELS, 2.0)
    assert z.dtype == noise.dtype == prior.decode(z).dtype == torch.float32
    assert prior.to(dtype=torch.float32) is prior
    assert prior.dtype == next(prior.vae.parameters()).dtype == torch.float32


def test_loading_a_good_prior_says_nothing(tiny_prior_folder, capfd, caplog):
    """No warnings of libraries for a folder that is as it should be."""
    load_prior(tiny_prior_folder, device="cpu")
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []


def test_fit_images():
    """Small borders are padded and cropped exactly, all else is resized."""
    x = images()
    small = resize_images(x, (28, 28), "pad")
    assert torch.equal(small, x[..., 2:30, 2:30])
    assert torch.equal(resize_images(small, (32, 32), "pad")[..., 2:30, 2:30], small)
    assert resize_images(small, (32, 32), "pad")[..., :2, :].abs().max() == 0
    assert resize_images(x, (32, 32), "pad") is x
    for how in ("resize", "pad"):
        assert resize_images(x, (64, 64), how).shape == (3, 3, 64, 64)
    wide = torch.rand(1, 3, 32, 48)
    assert resize_images(wide, (32, 32), "pad").shape == (1, 3, 32, 32)
    flat = torch.full((1, 3, 128, 128), 0.25)
    assert torch.allclose(resize_images(flat, (32, 32)), torch.tensor(0.25))


def test_only_small_borders_are_padded(tiny_prior):
    """Up to 4 pixels in all, and only where a prior says so; the rest is resized."""
    white = torch.ones(1, 3, 32, 32)
    for size, border in {28: 0, 30: 0, 31: 1, 26: 1, 24: 1}.items():
        padded = resize_images(white[..., :size, :size], (32, 32), "pad")
        assert padded[0, 0, 0, 0] == border
    silent = DiTPrior(tiny_prior.transformer, tiny_prior.vae, tiny_prior.scheduler, ())
    assert tiny_prior.info["image_fit"] == "pad"
    assert fit_images(white[..., :28, :28], tiny_prior).min() == 0
    assert fit_images(white[..., :28, :28], silent).min() == 1


def test_images_are_made_smaller_without_aliasing():
    """Lines finer than a pixel become their mean, whichever columns they are in."""
    for first in range(4):
        lines = torch.zeros(1, 3, 128, 128)
        lines[..., first::4] = 1
        small = resize_images(lines, (32, 32))[..., 2:-2]
        assert (small - 0.25).abs().max() < 0.1


# --- The layout of DiT-XL/2 on the hub ----------------------------------------------


def test_the_hubs_own_layout_loads(tiny_learned_sigma_folder, tmp_path):
    """facebook/DiT-XL-2-256 calls its transformer by an older class name."""
    folder = Path(shutil.copytree(tiny_learned_sigma_folder, tmp_path / "prior"))
    edit(
        folder / "transformer/config.json",
        _class_name="Transformer2DModel",
        _diffusers_version="0.12.0.dev0",
        cross_attention_dim=None,
        num_vector_embeds=None,
        only_cross_attention=False,
        use_linear_projection=False,
    )
    names = {str(i): f"name {i}, other name {i}" for i in range(1000)}
    index = {"id2label": names, "transformer": ["diffusers", "Transformer2DModel"]}
    edit(folder / "model_index.json", **index)
    prior = load_prior(folder, device="cpu")
    expected = load_prior(tiny_learned_sigma_folder, device="cpu")
    assert type(prior.transformer).__name__ == "DiTTransformer2DModel"
    assert prior.class_names[3] == "name 3, other name 3"
    assert torch.equal(
        prior.predict_noise(latents(), 300, LABELS, 4.0),
        expected.predict_noise(latents(), 300, LABELS, 4.0),
    )


# --- What is refused ----------------------------------------------------------------


@pytest.mark.parametrize(
    "missing",
    [
        "model_index.json",
        "transformer/config.json",
        "vae/config.json",
        "scheduler/scheduler_config.json",
    ],
)
def test_a_missing_part_is_named(folder, missing):
    """The message names the file that lacks and the layout that is expected."""
    (folder / missing).unlink()
    with pytest.raises(InputError) as caught:
        load_prior(folder, device="cpu")
    message = str(caught.value)
    assert str(folder) in message
    assert f"{missing}: no such file" in message
    for part in ("model_index.json", "transformer/", "vae/", "scheduler/"):
        assert part in message


@pytest.mark.parametrize("part", ["transformer", "vae"])
def test_missing_weights(folder, part):
    """A folder with configs and no weights is refused with the folder's name."""
    (folder / part / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(InputError, match=r"can't be loaded.*diffusion_pytorch_model"):
        load_prior(folder, device="cpu")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\0"])
@pytest.mark.parametrize("file", ["model_index.json", "vae/config.json"])
def test_broken_json(folder, file, text):
    """Empty, truncated or otherwise strange JSON is named."""
    (folder / file).write_text(text)
    with pytest.raises(InputError, match="JSON") as caught:
        load_prior(folder, device="cpu")
    assert file in str(caught.value)


@pytest.mark.parametrize(
    ("part", "found"), [("transformer", "UNet2DModel"), ("vae", "VQModel")]
)
def test_another_architecture(folder, part, found):
    """A transformer or VAE of another class is named, with the expected one."""
    edit(folder / part / "config.json", _class_name=found)
    with pytest.raises(InputError, match=f"{part} is a {found}, expected a "):
        load_prior(folder, device="cpu")


# --- Schedulers ---------------------------------------------------------------------

# these stretch the schedule beyond its betas
STRETCHED = {"CogVideoXDDIMScheduler", "CogVideoXDPMScheduler"}
WITH_BETAS = {
    name
    for name in dir(diffusers)
    if name.endswith("Scheduler")
    and "beta_start" in inspect.signature(getattr(diffusers, name)).parameters
} - STRETCHED
WITHOUT = STRETCHED | {
    f"{name}Scheduler"
    for name in (
        *("FlowMatchHeunDiscrete", "EDMEuler", "IPNDM"),
        *("EDMDPMSolverMultistep", "ScoreSdeVe", "UnCLIP", "CMStochasticIterative"),
    )
}


def schedule(folder, name, **options):
    """Put one of diffusers' schedulers into a prior's folder, as diffusers saves it."""
    shutil.rmtree(folder / "scheduler")
    getattr(diffusers, name)(**options).save_pretrained(folder / "scheduler")
    edit(folder / "model_index.json", scheduler=["diffusers", name])
    return load_prior(folder, device="cpu")


def recovered(prior, distilled):
    config = RecoveryConfig(num_inference_steps=4)
    return recover(distilled[:2], prior, config, progress=False).images


def test_there_are_schedulers_to_look_at():
    """The names that users meet are among them."""
    names = ("DDPM", "EulerDiscrete", "DPMSolverMultistep", "PNDM", "UniPCMultistep")
    assert {f"{name}Scheduler" for name in names} <= WITH_BETAS
    assert not WITH_BETAS & WITHOUT


@pytest.mark.parametrize("name", sorted(WITH_BETAS))
def test_any_scheduler_of_betas_is_read(folder, tiny_prior, tiny_set, name):
    """What is in it are betas, and the images are those of the DDIM folder."""
    known = inspect.signature(getattr(diffusers, name)).parameters
    same = {k: v for k, v in tiny_prior.scheduler.config.items() if k in known}
    prior = schedule(folder, name, **same)
    assert type(prior.scheduler) is diffusers.DDIMScheduler
    assert torch.equal(recovered(prior, tiny_set), recovered(tiny_prior, tiny_set))


def test_what_a_scheduler_says_carries_over(folder, tiny_prior, tiny_set):
    """Other betas, another grid and another last step are other images."""
    plain = recovered(tiny_prior, tiny_set)
    ours = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
    for changes in (
        {"beta_end": 0.01},
        {"beta_schedule": "squaredcos_cap_v2"},
        {"trained_betas": torch.linspace(1e-4, 0.03, 1000).tolist()},
        {"timestep_spacing": "trailing"},
        {"steps_offset": 1},
        {"set_alpha_to_one": False},
    ):
        images = [
            recovered(schedule(folder, name, **ours | changes), tiny_set)
            for name in ("PNDMScheduler", "DDIMScheduler")
        ]
        if "set_alpha_to_one" in changes:
            assert torch.equal(images[0], images[1])
        assert not torch.equal(images[1], plain)
    euler = schedule(folder, "EulerDiscreteScheduler", **ours)  # its own spacing
    assert RecoveryConfig(num_inference_steps=4, inheritance=False).timesteps(
        euler
    ) == [999, 666, 333, 0]
    short = schedule(folder, "DDPMScheduler", **ours, num_train_timesteps=500)
    assert len(short.scheduler.alphas_cumprod) == 500


def test_no_class_is_looked_up_by_a_name_in_a_file(folder, tiny_prior, tiny_set):
    """Neither in the index nor in the scheduler's own file: both may lie."""
    edit(folder / "model_index.json", scheduler=["os", "NoSuchScheduler"])
    edit(folder / "scheduler/scheduler_config.json", _class_name="NorThis")
    prior = load_prior(folder, device="cpu")
    assert torch.equal(recovered(prior, tiny_set), recovered(tiny_prior, tiny_set))


@pytest.mark.parametrize("name", sorted(WITHOUT))
def test_a_schedule_of_something_else(folder, name):
    """Heun's steps, sigmas, stretched betas: refused, and the words say why."""
    with pytest.raises(InputError, match=rf"({name}, has |prediction_type).*expected"):
        schedule(folder, name)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        # a prior that predicts clean images would give garbage
        ({"prediction_type": "sample"}, r"prediction_type.*'sample'.*'epsilon'"),
        ({"prediction_type": "flow_prediction"}, r"flow_prediction'.*'epsilon'"),
        ({"use_flow_sigmas": True}, "use_flow_sigmas True; expected"),
        ({"snr_shift_scale": 3.0}, r"snr_shift_scale 3\.0; expected"),
        ({"beta_start": None}, "no beta_start; expected betas"),
        ({"beta_end": None}, "no beta_end"),
        ({"beta_schedule": None}, "no beta_schedule"),
        ({"num_train_timesteps": None}, "no num_train_timesteps"),
        ({"num_train_timesteps": 0}, "num_train_timesteps is 0; expected an integer"),
        ({"num_train_timesteps": "many"}, "num_train_timesteps is 'many'"),
        ({"beta_schedule": "sigmoid"}, "sigmoid is not implemented for.*DDIM"),
        ({"beta_start": "small"}, "str"),
        ({"beta_start": 5.0}, "between 1 and 0"),
        ({"beta_start": 0.0}, "between 1 and 0"),
        ({"beta_end": -0.02}, "between 1 and 0"),
        ({"beta_end": float("nan")}, "between 1 and 0"),
        ({"trained_betas": [0.1] * 7}, r"7 timesteps.*num_train_timesteps \(1000\)"),
        ({"trained_betas": [0.01] * 500 + [0.0] * 500}, "expected a fall"),
        ({"trained_betas": "many"}, "str"),
        # nothing is left of the image at the last timestep, and no noise tells it
        ({"rescale_betas_zero_snr": True}, r"to \[0\.0\].*between 1 and 0"),
        ({"timestep_spacing": "odd"}, "timestep_spacing is 'odd'; expected one of"),
        ({"steps_offset": 1000}, "steps_offset is 1000"),
        ({"steps_offset": -1}, "steps_offset is -1"),
        ({"steps_offset": 0.5}, r"steps_offset is 0\.5; expected an integer"),
    ],
)
def test_a_scheduler_that_does_not_fit(folder, changes, words):
    """The message says what is wrong, in one line, with the folder."""
    edit(folder / "scheduler/scheduler_config.json", **changes)
    with pytest.raises(InputError, match=words) as caught:
        load_prior(folder, device="cpu")
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_steps_that_an_offset_leads_out_of_the_schedule(folder):
    """1000 steps of an offset of 1 would begin at T = 1000."""
    edit(folder / "scheduler/scheduler_config.json", steps_offset=1)
    prior = load_prior(folder, device="cpu")
    assert RecoveryConfig(num_inference_steps=500).timesteps(prior)[-1] == 1
    with pytest.raises(InputError, match=r"num_inference_steps is 1000.*offset"):
        RecoveryConfig(num_inference_steps=1000).timesteps(prior)


# --- Damage -------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [0, 5, 0.5, 0.999])
def test_truncated_weights(folder, keep):
    """A download that stopped early is refused."""
    content = (folder / DIT_WEIGHTS).read_bytes()
    keep = int(keep * len(content)) if isinstance(keep, float) else keep
    (folder / DIT_WEIGHTS).write_bytes(content[:keep])
    with pytest.raises(InputError, match="can't be loaded") as caught:
        load_prior(folder, device="cpu")
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_weights_that_lack_a_tensor(folder):
    """diffusers would fill the gap with random numbers; we refuse."""
    weights = load_file(folder / DIT_WEIGHTS)
    del weights["proj_out_2.weight"]
    save_file(weights, folder / DIT_WEIGHTS, {"format": "pt"})
    with pytest.raises(InputError, match=r"proj_out_2\.weight"):
        load_prior(folder, device="cpu")


def test_weights_of_another_shape(folder):
    """Weights that don't fit the config are refused."""
    edit(folder / "transformer/config.json", num_embeds_ada_norm=12)
    with pytest.raises(InputError, match="can't be loaded"):
        load_prior(folder, device="cpu")


def test_a_vae_of_other_channels(folder):
    """VAE and transformer must agree about the latents."""
    from diffusers import AutoencoderKL

    shutil.rmtree(folder / "vae")
    AutoencoderKL(latent_channels=8, norm_num_groups=16).save_pretrained(folder / "vae")
    with pytest.raises(InputError, match=r"8 latent channels.*expects 4"):
        load_prior(folder, device="cpu")


def test_pickled_weights_run_no_code(folder, tmp_path):
    """Old folders hold pickles; a malicious one is refused and not executed."""
    proof = tmp_path / "executed"

    class Attack:
        def __reduce__(self):
            return (Path.touch, (proof,))

    (folder / DIT_WEIGHTS).unlink()
    path = folder / "transformer/diffusion_pytorch_model.bin"
    path.write_bytes(pickle.dumps({"weight": Attack()}))
    with pytest.raises(InputError, match="can't be loaded"):
        load_prior(folder, device="cpu")
    assert not proof.exists()


@pytest.mark.parametrize("name", ["no-such-prior", "./nowhere/prior", "a/b/c"])
def test_an_unknown_name(name):
    """Neither shipped nor a folder nor a hub id: all three are explained."""
    with pytest.raises(InputError, match="shipped") as caught:
        load_prior(name, device="cpu")
    assert repr(name) in str(caught.value)
    assert "folder" in str(caught.value)


def test_a_hub_id_without_a_network(monkeypatch):
    """The message says which files to put where, and what ships."""

    def no_network(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", no_network)
    with pytest.raises(InputError, match="could not be fetched") as caught:
        load_prior("facebook/DiT-XL-2-256", device="cpu")
    message = str(caught.value)
    for part in ("facebook/DiT-XL-2-256", "model_index.json", "transformer/", "vae/"):
        assert part in message
    for name in shipped_priors():
        assert name in message
    assert "\n" not in message


def test_a_hub_id_is_fetched_without_the_rest_of_its_repository(
    tiny_prior_folder, monkeypatch
):
    """Only the parts that are needed are asked for, and then loaded."""
    asked = {}

    def from_disk(name, **options):
        asked[name] = options["allow_patterns"]
        return str(tiny_prior_folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", from_disk)
    assert load_prior("owner/name", device="cpu").num_classes == 10
    assert set(asked["owner/name"]) == {
        "model_index.json",
        "transformer/*",
        "vae/*",
        "scheduler/*",
        "unet/*",
        "text_encoder/*",
        "tokenizer/*",
    }


def test_devices():
    """cpu is there, nonsense isn't."""
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device(None).type in ("cpu", "cuda")
    with pytest.raises(InputError, match=r"'abacus'.*expected cpu"):
        resolve_device("abacus")


def test_a_gpu_beyond_those_that_are_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(InputError, match=r"'cuda:2' was asked for.* are 0 to 1"):
        resolve_device("cuda:2")


def test_a_folder_with_a_shipped_prior_s_name(tiny_prior_folder, tmp_path, monkeypatch):
    """Which of the two is loaded is said, and how to load the other."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_prior_folder, "fashion-mnist")
    with pytest.warns(
        UserWarning, match=r"the shipped one is loaded.*\./fashion-mnist"
    ):
        shipped = load_prior("fashion-mnist")
    own = load_prior("./fashion-mnist")
    widths = [prior.transformer.inner_dim for prior in (shipped, own)]
    assert widths == [192, 16]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_cuda(tiny_prior_folder):
    """Asking for a GPU that isn't there says what to do."""
    with pytest.raises(InputError, match=r"cuda.*--device cpu"):
        load_prior(tiny_prior_folder, device="cuda")


# --- Shipped files ------------------------------------------------------------------


def ship(tiny_prior_folder, root):
    """Lay out the tiny prior as one that ships, with its sums."""
    target = root / "priors/fashion-mnist"
    shutil.copytree(tiny_prior_folder, target)
    files = sorted(p for p in target.rglob("*") if p.is_file())
    lines = [f"{sha256(p)}  {p.relative_to(root).as_posix()}\n" for p in files]
    (root / "SHA256SUMS").write_text("".join(lines))
    return target


def test_a_shipped_prior_loads_by_name(tiny_prior_folder, tmp_path, monkeypatch):
    """A name finds the files below the assets, wherever the program runs."""
    ship(tiny_prior_folder, tmp_path)
    monkeypatch.setattr(assets, "ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    assert shipped_priors() == ["fashion-mnist"]
    assert load_prior("fashion-mnist", device="cpu").info["name"] == "tiny"


@pytest.mark.parametrize("name", ["cifar10", "fashion-mnist"])
def test_priors_that_ship_are_what_their_recipes_make(name):
    """They load, say how they were made, and the command to make them is still true."""
    prior = load_prior(name, device="cpu")
    assert (prior.image_size, prior.num_classes) == (32, 10)
    assert "fit split" in prior.info["trained_on"]
    assert prior.info["trained_with"]
    recipe = json.loads(json.dumps(asdict(RECIPES[name])))
    assert prior.info["recipe"].items() <= recipe.items()


@pytest.mark.parametrize(
    "file", ["scheduler/scheduler_config.json", "diver_lite.json", DIT_WEIGHTS]
)
def test_one_flipped_bit_is_noticed(tiny_prior_folder, tmp_path, monkeypatch, file):
    """A damaged shipped file is refused by its checksum, whatever file it is."""
    path = ship(tiny_prior_folder, tmp_path) / file
    content = bytearray(path.read_bytes())
    content[np.random.default_rng(0).integers(len(content))] ^= 1
    path.write_bytes(content)
    monkeypatch.setattr(assets, "ROOT", tmp_path)
    with pytest.raises(InputError, match=r"corrupted: expected sha256") as caught:
        load_prior("fashion-mnist", device="cpu")
    assert file in str(caught.value)
