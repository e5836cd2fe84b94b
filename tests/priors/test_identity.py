"""Which prior is it? Whatever computes counts, and nothing else."""

import os
import subprocess
import sys
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from diver_lite.named_code import load_named
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


OF_DIFFUSERS = {
    "a setting": lambda p: p.vae.register_to_config(scaling_factor=9.0),
    "a kind": lambda p: setattr(p.vae.decoder, "conv_act", nn.GELU()),
    "a weight": lambda p: p.vae.decoder.conv_out.bias.data.add_(1),
}


@pytest.mark.parametrize("name", OF_DIFFUSERS)
def test_whatever_computes_in_a_network_of_diffusers_counts(tiny_prior, name):
    """Settings, and layers without weights; not where it came from."""
    other = deepcopy(tiny_prior)
    other.vae.register_to_config(_name_or_path="elsewhere")
    assert identity(other) == identity(tiny_prior)
    OF_DIFFUSERS[name](other)
    assert identity(other) != identity(tiny_prior)


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


SCALE = 2.0


def scaled(x):
    return SCALE * x


class Global:
    """A class whose code looks up a function, which looks up a number."""

    def denoise(self, x):
        return [scaled(each) for each in x]


class PassesOn:
    """A wrapper that hands on every name, and doubles one answer."""

    def __init__(self, prior):
        self.prior = prior

    def __getattr__(self, name):
        if name == "prior":
            raise AttributeError(name)
        return getattr(self.prior, name)


def test_what_code_looks_up_counts(monkeypatch):
    """Also from inside a comprehension, and one function further."""
    before = identity(Own(more=Global()))
    assert identity(Own(more=Global())) == before
    with monkeypatch.context() as patch:
        patch.setitem(globals(), "SCALE", 3.0)
        assert identity(Own(more=Global())) != before
    monkeypatch.setitem(globals(), "scaled", triple)
    assert identity(Own(more=Global())) != before


def test_a_wrapper_is_not_what_it_holds():
    """Although it hands on the fingerprint; which still speaks for what is held."""
    held = Own(fingerprint="v1")
    assert PassesOn(held).fingerprint == "v1"
    assert identity(PassesOn(held)) != identity(held)
    assert identity(PassesOn(held)) == identity(PassesOn(Own(fingerprint="v1")))
    assert identity(PassesOn(held)) != identity(PassesOn(Own(fingerprint="v2")))


MORE = {
    "partial": (partial(max, 1), partial(max, 2), partial(min, 1)),
    "object array": (np.array([1, "a"], object), np.array([1, "b"], object)),
    "dtype": (torch.zeros(2), torch.zeros(2, dtype=torch.int32)),
    "array of texts": (np.array(["a"]), np.array(["b"]), np.array(["a", "b"])),
    "shape of an array": (np.zeros((2, 3)), np.zeros((3, 2)), np.zeros(6)),
    "bound method": (Scaled(1).forward, Scaled(2).forward),
    "the same again": ([double, triple, double], [double, triple, triple]),
}


@pytest.mark.parametrize("name", MORE)
def test_more_parts_that_are_told_apart(name):
    found = [identity(Own(more=each)) for each in MORE[name]]
    assert len({*found}) == len(found)


FILE = """
from pathlib import Path

LIMIT = 1


def scaled(x):
    return 2 * x


def decorated(kind):
    kind.denoise = lambda self, x: scaled(x)
    return kind


@decorated
class Mine:
    def encode(self, x):
        return min(x, LIMIT)


class Told:
    fingerprint = "v1"


def place():
    return Path(__file__).parent
"""


@pytest.fixture
def mine(tmp_path):
    """Return a function that writes a file, and returns what is called so in it."""

    def load(name, text=FILE, folder="."):
        file = tmp_path / folder / "mine.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        return load_named(f"{file}:{name}", "prior")

    return load


def test_a_named_file_is_known_as_it_ran(mine, tmp_path):
    """Not as it reads now; and wherever it lies."""
    first = mine("Mine")()
    before = identity(first)
    other = mine("Mine", "\n" * 5 + FILE.replace("2 * x", "3 * x"))()
    assert identity(first) == before != identity(other)
    (tmp_path / "mine.py").unlink()
    assert identity(mine("Mine", folder="there")()) == identity(first) == before
    assert mine("place", folder="there")() == tmp_path / "there"


def test_of_a_named_file_what_computes_counts(mine):
    """A comment, or a function that the prior never asks, is no other prior."""
    before = identity(mine("Mine")())
    more = FILE + "\n\ndef network():\n    return 5  # of a judge\n"
    assert identity(mine("Mine", more)()) == before
    assert identity(mine("Told", more)()) == identity(mine("Told")())
    changes = {"LIMIT = 1": "LIMIT = 2", "2 * x": "3 * x", "min(": "max("}
    for old, new in {**changes, "@decorated\n": ""}.items():
        assert identity(mine("Mine", FILE.replace(old, new))()) != before
    told = FILE.replace("v1", "v2")
    assert identity(mine("Told", told)()) != identity(mine("Told")())


def test_a_set_has_no_order():
    """Texts are hashed differently in each process."""
    code = (
        "from test_identity import Own, identity; "
        "print(identity(Own(more=frozenset('abcdefgh'))))"
    )
    here = os.environ.get("PYTHONHASHSEED")
    elsewhere = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent,
        env=os.environ | {"PYTHONHASHSEED": "2" if here == "1" else "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    found = identity(Own(more=frozenset("abcdefgh")))
    assert elsewhere.stdout.strip() == found
