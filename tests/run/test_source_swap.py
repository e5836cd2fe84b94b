"""Does a result owe more to the set or to the noise?"""

import math

import pytest
import torch

from diver_lite.recovery import RecoveryConfig
from diver_lite.run import source_swap
from diver_lite.sets.distilled import DistilledSet


def share(distilled, prior, **settings):
    config = RecoveryConfig(guidance_factor=0, **settings)
    return source_swap.share_of_set(distilled, prior, config)


def test_less_noise_leaves_more_of_the_set(tiny_set, tiny_prior):
    shares = [share(tiny_set, tiny_prior, noise_timestep=t) for t in (50, 500, 950)]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > 0.7
    assert shares[-1] < 0.3


def test_samples_of_the_prior_owe_nothing(tiny_set, tiny_prior):
    assert share(tiny_set, tiny_prior, inheritance=False) == 0


def test_of_one_picture_nothing_can_be_said(tiny_set, tiny_prior):
    assert math.isnan(share(tiny_set[[0]], tiny_prior))


def test_few_pictures_and_steps_are_enough(tiny_set, tiny_prior, monkeypatch):
    """So it is cheap for a large set, too; each picture keeps noise and label."""
    seen = []

    def recover(few, prior, config, *, noise, **_):
        seen.append((few, config.num_inference_steps, noise))
        return few

    monkeypatch.setattr(source_swap, "recover", recover)
    many = DistilledSet(
        torch.rand(95, 3, 8, 8), torch.arange(95) % 10, tiny_set.class_names
    )
    source_swap.share_of_set(many, tiny_prior, RecoveryConfig(), seed=3)
    (first, steps, noise), (swapped, _, same), (again, _, other) = seen
    assert len(first) == 10
    assert steps == 5
    assert torch.equal(first.images, many.images[::10])
    assert torch.equal(swapped.images, first.images.roll(1, 0))
    assert torch.equal(swapped.labels, first.labels)
    assert torch.equal(again.images, first.images)
    assert torch.equal(noise, same)
    assert not torch.equal(noise, other)


@pytest.mark.parametrize(("timestep", "warned"), [(50, False), (950, True)])
def test_recover_says_so(cli, tiny_set, tiny_prior_folder, timestep, warned):
    tiny_set.save("set.safetensors")
    code, _, err = cli(
        *("recover", "set.safetensors", "--prior", tiny_prior_folder, "-q"),
        *("--set", f"noise_timestep={timestep}", "--set", "num_inference_steps=4"),
        *("--set", "guidance_factor=0", "--device", "cpu", "-o", "out.safetensors"),
    )
    assert code == 0
    assert ("owes little to the set" in err) == warned
    assert DistilledSet.load("out.safetensors")
