"""The live explorer of the chapter on semantic guidance, driven without a browser."""

import re

import matplotlib

matplotlib.use("Agg")

import ipywidgets as widgets
import pytest
import torch
from conftest import control

from diver_lite import explore
from diver_lite.distilled import DistilledSet
from diver_lite.errors import InputError
from diver_lite.recovery import CHOICES, RecoveryConfig, recover


@pytest.fixture
def box(drawn, tiny_set, tiny_prior):
    return explore.explore_guidance_factor(tiny_set[:2], tiny_prior)


def test_first_picture_is_the_package_s_own_result(box, drawn, tiny_set, tiny_prior):
    assert isinstance(box, widgets.VBox)
    rows, title = drawn[-1]
    assert list(rows) == ["distilled", "no pull", "pulled"]
    config = RecoveryConfig(window="full")
    expected = recover(tiny_set[:2], tiny_prior, config, progress=False).images
    assert torch.equal(rows["pulled"], expected)
    away = (expected - tiny_set.images[:2].clamp(0, 1)).abs().mean().item()
    assert f"{away:.3f} pulled" in title


def test_no_factor_is_no_pull(box, drawn):
    control(box, "guidance factor").value = 0
    rows, title = drawn[-1]
    assert torch.equal(rows["pulled"], rows["no pull"])
    pulled, without = re.findall(r"\d\.\d{3}", title)
    assert pulled == without


def test_the_pull_follows_every_control(box, drawn):
    first = drawn[-1][0]
    assert not torch.equal(first["pulled"], first["no pull"])
    changes = {
        "guidance factor": 0.8,
        "guidance target": "latent",
        "guidance sigma": "one",
    }
    before = first["pulled"]
    for description, value in changes.items():
        control(box, description).value = value
        rows, _ = drawn[-1]
        assert not torch.equal(rows["pulled"], before), description
        assert torch.equal(rows["no pull"], first["no pull"])
        before = rows["pulled"]


@pytest.mark.parametrize("field", ["guidance_target", "guidance_sigma"])
def test_every_reading_is_offered(box, field):
    options = control(box, field.replace("_", " ")).options
    assert tuple(options) == CHOICES[field]


def test_classes_the_prior_does_not_know(tiny_prior):
    strange = DistilledSet(torch.rand(1, 3, 32, 32), [0], ["unicorn"])
    with pytest.raises(InputError, match="unicorn"):
        explore.explore_guidance_factor(strange, tiny_prior)
