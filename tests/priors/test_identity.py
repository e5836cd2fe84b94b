"""Which prior is it? Whatever computes counts, and nothing else."""

from copy import deepcopy
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from diver_lite.priors.contract import Wrapped
from diver_lite.priors.fast import FastPrior
from diver_lite.priors.identity import Unidentified, identity


class Own:
    """A prior of one's own, as far as its identity goes."""

    def __init__(self, **parts):
        self.network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
        for parameter in self.network.parameters():
            nn.init.constant_(parameter, 0.5)
        self.scale = 1.5
        self.table = np.arange(6.0)
        self.weights = {"first": torch.ones(2), "rest": [torch.zeros(1)]}
        vars(self).update(parts)


class Scaled(nn.Module):
    """A module with a plain attribute."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor


class Louder(Wrapped):
    """A wrapper with a setting."""

    def __init__(self, prior, factor):
        super().__init__(prior)
        self.factor = factor


def double(x):
    return 2 * x


def triple(x):
    return 3 * x


def times(factor):
    return lambda x: factor * x


def keyword(factor):
    def scaled(x, *, by=factor):
        return by * x

    return scaled


def changed(change):
    prior = Own()
    change(prior)
    return prior


CHANGES = {
    "a weight": lambda p: p.network[0].weight.data.mul_(2),
    "a buffer": lambda p: p.network[1].running_mean.add_(1),
    "training mode": lambda p: p.network.eval(),
    "a plain attribute": lambda p: vars(p).update(scale=2.5),
    "an array": lambda p: p.table.__setitem__(2, 9.0),
    "a tensor in a dict": lambda p: p.weights["first"].add_(1),
    "a tensor in a list": lambda p: p.weights["rest"][0].add_(1),
    "another dtype": lambda p: p.network.double(),
    "a further part": lambda p: vars(p).update(more=Scaled(1)),
    "a hook": lambda p: p.network.register_forward_hook(triple),
}


@pytest.mark.parametrize("name", CHANGES)
def test_whatever_computes_counts(name):
    """Half of a run by one prior and half by another would be one output."""
    assert identity(Own()) == identity(Own())
    assert identity(changed(CHANGES[name])) != identity(Own())


def test_parts_that_are_told_apart():
    """By settings, source and what a function brings along."""
    found = [
        identity(Own(more=more))
        for more in (
            *(Scaled(1), Scaled(2), double, triple, times(2), times(3)),
            *(partial(double, 1), partial(double, 2), torch.relu, torch.tanh),
            *(keyword(1), keyword(2)),
            *((1, 2), [2, 1], {"a": 1}, {"b": 1}, Scaled, Own, np.float32(2)),
        )
    ]
    assert len({*found}) == len(found)


def test_a_wrapper_s_own_attributes_count(tiny_prior):
    """Its class, its settings, and the prior that it holds."""
    other = deepcopy(tiny_prior)
    other.transformer.proj_out_2.bias.data.add_(1)
    patched = replace(tiny_prior)
    patched.denoise = times(2)
    priors = [tiny_prior, other, Louder(tiny_prior, 1), Louder(tiny_prior, 2)]
    priors += [Louder(other, 1), Wrapped(tiny_prior), FastPrior(tiny_prior), patched]
    assert len({identity(prior) for prior in priors}) == len(priors)
    again = FastPrior(deepcopy(tiny_prior))
    again.timesteps(4)  # what it prepares for a walk is no part of it
    assert identity(again) == identity(FastPrior(tiny_prior))


def test_a_prior_may_tell_itself():
    """A text, as attribute or method, stands for all."""
    told = Own(fingerprint="v1", scale=object())
    assert identity(told) == identity(Own(fingerprint=lambda: "v1"))
    assert identity(told) != identity(Own(fingerprint="v2"))
    for nothing in ("", 5, lambda: None):
        with pytest.raises(Unidentified, match="not a text"):
            identity(Own(fingerprint=nothing))


@pytest.mark.parametrize(
    "part", [object(), torch.Generator(), iter([1]), eval("lambda x: x"), np]
)
def test_what_nobody_can_tell(part):
    """It is named."""
    with pytest.raises(Unidentified, match="more"):
        identity(Own(more=part))


def test_a_circle_ends():
    prior = Own()
    prior.itself = prior
    assert identity(prior) != identity(Own())
