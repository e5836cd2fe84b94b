"""The live explorer of the chapter on inheritance, driven without a browser."""

import matplotlib

matplotlib.use("Agg")

import ipywidgets as widgets
import pytest
import torch
from conftest import control

from diver_lite import explore
from diver_lite.distilled import DistilledSet
from diver_lite.errors import InputError
from diver_lite.recovery import RecoveryConfig, draw_noise, inherit, recover

SI = RecoveryConfig(noise_timestep=500, guidance_factor=0.0)


@pytest.fixture
def box(drawn, tiny_set, tiny_prior):
    return explore.explore_noise_level(tiny_set[:2], tiny_prior)


def test_first_picture_is_the_package_s_own_result(box, drawn, tiny_set, tiny_prior):
    assert isinstance(box, widgets.VBox)
    rows, _ = drawn[-1]
    assert list(rows) == ["distilled", "noised latent", "recovered"]
    expected = recover(tiny_set[:2], tiny_prior, SI, progress=False).images
    assert torch.equal(rows["recovered"], expected)
    z_0 = tiny_prior.encode(tiny_set.images[:2].clamp(0, 1))
    (noise,) = draw_noise(tiny_prior.latent_shape, range(2), seed=0)
    z = inherit(z_0, noise, tiny_prior.scheduler.alphas_cumprod[500])
    assert torch.equal(rows["noised latent"], tiny_prior.decode(z))


def test_picture_follows_every_control(box, drawn):
    before, _ = drawn[-1]
    changes = {"noise timestep": 800, "start": "published", "seed": 3}
    for description, value in changes.items():
        control(box, description).value = value
        rows, _ = drawn[-1]
        assert not torch.equal(rows["recovered"], before["recovered"]), description
        assert torch.equal(rows["distilled"], before["distilled"])
        # where the reverse process starts changes nothing before it
        same = torch.equal(rows["noised latent"], before["noised latent"])
        assert same == (description == "start"), description
        before = rows


def test_title_says_what_is_told_and_what_is_there(box, drawn, tiny_prior):
    alphas_cumprod = tiny_prior.scheduler.alphas_cumprod
    there = f"{alphas_cumprod[500]:.2%} there (t = 500)"
    assert drawn[-1][1] == f"signal: {alphas_cumprod[500]:.2%} told (t = 500), {there}"
    control(box, "start").value = "published"
    assert drawn[-1][1] == f"signal: {alphas_cumprod[980]:.2%} told (t = 980), {there}"


def test_classes_the_prior_does_not_know(tiny_prior):
    strange = DistilledSet(torch.rand(1, 3, 32, 32), [0], ["unicorn"])
    with pytest.raises(InputError, match="unicorn"):
        explore.explore_noise_level(strange, tiny_prior)
