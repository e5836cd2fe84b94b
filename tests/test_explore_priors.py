"""The live explorer of the chapter on other priors, driven without a browser."""

import matplotlib

matplotlib.use("Agg")

import pytest
import torch

from diver_lite import explore
from diver_lite.distilled import DistilledSet
from diver_lite.errors import InputError
from diver_lite.recovery import RecoveryConfig, recover


def test_one_row_per_prior(drawn, tiny_set, tiny_prior):
    reverse = list(range(9, -1, -1))
    box = explore.explore_priors(
        tiny_set[:2], {"one": tiny_prior, "two": tiny_prior}, {"two": reverse}
    )
    rows, title = drawn[-1]
    assert list(rows) == ["distilled", "one", "two"]
    assert title == "recovered from 500"
    config = RecoveryConfig(noise_timestep=500, guidance_factor=0.0)
    for name, class_map in {"one": None, "two": reverse}.items():
        expected = recover(
            tiny_set[:2], tiny_prior, config, class_map=class_map, progress=False
        )
        assert torch.equal(rows[name], expected.images)
    assert not torch.equal(rows["one"], rows["two"])
    level, scale, seed, _ = box.children
    for control, value in ((level, 800), (scale, 4), (seed, 3)):
        before = drawn[-1][0]["one"]
        control.value = value
        assert not torch.equal(drawn[-1][0]["one"], before)


def test_no_priors(tiny_set):
    with pytest.raises(InputError, match="priors is empty"):
        explore.explore_priors(tiny_set, {})


def test_classes_a_prior_does_not_know(tiny_prior):
    strange = DistilledSet(torch.rand(1, 3, 32, 32), [0], ["unicorn"])
    with pytest.raises(InputError, match="unicorn"):
        explore.explore_priors(strange, {"tiny": tiny_prior})
