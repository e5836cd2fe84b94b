"""Whatever is thrown at the public functions, only `InputError` comes out.

Each argument in turn gets values of every kind but the right one; most calls fail, and
those that happen to be right may succeed.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from diver_lite.checks import InputError
from diver_lite.judge.compare import summarise
from diver_lite.judge.protocols import Protocol
from diver_lite.judge.table import cross_architecture
from diver_lite.make.baselines import random_real
from diver_lite.make.distill import distill
from diver_lite.priors.check import check_prior
from diver_lite.priors.loading import load_prior
from diver_lite.recovery import (
    RecoveryConfig,
    guide,
    inherit,
    recover,
    recover_steps,
)
from diver_lite.run.to_file import recover_to
from diver_lite.sets.distilled import DistilledSet
from diver_lite.sets.load import load_distilled
from diver_lite.sets.real import load_dataset

SHAPES = ((), (0,), (1,), (3,), (2, 3), (2, 3, 4, 4), (0, 3, 4, 4), (1, 4, 2, 2))
DTYPES = (
    torch.float32, torch.float64, torch.float16, torch.int64, torch.int32, torch.uint8,
    torch.bool, torch.complex64,
)  # fmt: skip
ODD_TENSORS = (
    torch.full((2, 3, 4, 4), float("nan")),
    torch.full((2, 3, 4, 4), float("inf")),
    torch.tensor([-1, 10**9]),
    torch.zeros(2, 3, 4, 4, device="meta"),
    torch.zeros(2, 2).to_sparse(),
)
tensors = st.one_of(
    st.builds(
        lambda shape, dtype: torch.ones(shape, dtype=dtype),
        st.sampled_from(SHAPES),
        st.sampled_from(DTYPES),
    ),
    st.sampled_from(ODD_TENSORS),
)
atoms = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([10**30, -(10**30), 2**63]),
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from(["", "a", "\0", "x" * 5000, "ConvNet", "fashion-mnist", "../.."]),
    st.sampled_from([b"a", 1j, object(), Path("\0"), Path("nowhere"), np.float32(2)]),
    st.sampled_from([int, len, np.zeros(3), np.array("a")]),
)
nonsense = st.one_of(
    atoms,
    tensors,
    st.lists(atoms, max_size=3),
    st.tuples(atoms, atoms),
    st.dictionaries(st.sampled_from("ab"), atoms, max_size=2),
)
often = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],  # the first that fails says enough
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
IMAGES = torch.rand(10, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def only_input_errors(function, arguments, name, value):
    """Call a function with one argument replaced."""
    try:
        result = function(**arguments | {name: value})
        if hasattr(result, "__next__"):
            next(result)
    except InputError as error:
        assert "\n" not in str(error).strip()
        assert len(str(error)) < 2_000


def each(function, arguments):
    """Return the cases (function, arguments, name), one for each argument."""
    return [
        pytest.param(function, arguments, name, id=f"{function.__name__}-{name}")
        for name in arguments
    ]


def real_set():
    return DistilledSet(IMAGES, torch.arange(10), tuple("abcdefghij"))


LATENTS = torch.ones(2, 4, 3, 3)
PLAIN = [
    *each(RecoveryConfig, vars(RecoveryConfig())),
    *each(Protocol, {k: v for k, v in vars(Protocol()).items() if k != "judge_lr"}),
    *each(
        DistilledSet,
        {
            "images": IMAGES[:2],
            "labels": torch.tensor([0, 1]),
            "class_names": ("a", "b"),
            "soft_labels": None,
            "provenance": {},
        },
    ),
    *each(inherit, {"latents": LATENTS, "noise": LATENTS, "alpha": 0.6, "sigma": 0.8}),
    *each(
        guide,
        {"latents": LATENTS, "difference": LATENTS, "sigma": 0.1, "gamma": 0.1},
    ),
    *each(load_distilled, {"source": "fashion-mnist-dm-ipc1", "format": "auto"}),
    *each(load_dataset, {"name": "fashion-mnist", "split": "nowhere", "root": None}),
    *each(load_prior, {"name": "nowhere", "device": "cpu", "dtype": None}),
    *each(
        random_real,
        {
            "dataset": (IMAGES, torch.arange(10), tuple("abcdefghij")),
            "ipc": 1,
            "seed": 0,
        },
    ),
]


@pytest.mark.parametrize(("function", "arguments", "name"), PLAIN)
def test_only_input_errors_come_out(function, arguments, name):
    @often
    @given(nonsense)
    def throw(value):
        only_input_errors(function, arguments, name, value)

    throw()


JUDGED = {
    "sets": {"a": real_set()},
    "test": (IMAGES, torch.arange(10), tuple("abcdefghij")),
    "judges": ["ConvNet"],
    "seeds": 1,
    "protocol": "quick",
    "steps": 1,
    "out": None,
    "n_jobs": 1,
    "device": "cpu",
}
DISTILLED = {
    "dataset": (IMAGES, torch.arange(10), tuple("abcdefghij")),
    "method": "dm",
    "ipc": 1,
    "seed": 0,
    "device": "cpu",
    "steps": 1,
}
QUIETLY = {"progress": False, "real_batch": 2}  # what is right must not take long


@pytest.mark.parametrize("name", JUDGED)
def test_judging_nonsense(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # "a" is a fine name for a file
    row = {"accuracy": 0.5, "error": "", "seconds": 0.0}
    monkeypatch.setattr("diver_lite.judge.table.judge_one", lambda *_: row)

    @often
    @given(nonsense)
    def throw(value):
        only_input_errors(cross_architecture, JUDGED | {"progress": False}, name, value)

    throw()


@pytest.mark.parametrize("name", [*DISTILLED][:-1])  # ever so many steps are fine
def test_distilling_nonsense(name):
    @often
    @given(nonsense)
    def throw(value):
        only_input_errors(distill, DISTILLED | QUIETLY, name, value)

    throw()


@pytest.mark.parametrize(
    "name", ["distilled", "prior", "config", "seed", "noise", "class_map", "batch_size"]
)
def test_recovering_nonsense(name, tiny_prior, tiny_set):
    few = RecoveryConfig(num_inference_steps=1)
    good = {"distilled": tiny_set[:1], "prior": tiny_prior, "config": few, "seed": 0}
    good |= {"noise": None, "class_map": None, "batch_size": None, "progress": False}

    @often
    @given(nonsense)
    def throw(value):
        only_input_errors(recover, good, name, value)

    throw()


@pytest.mark.parametrize(
    "name",
    [
        "out", "distilled", "prior", "config", "seed", "noise", "class_map",
        "batch_size", "size", "images",
    ],
)  # fmt: skip
def test_recovering_to_a_file(name, tiny_prior, tiny_set, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # "a" is a fine name for a file
    few = RecoveryConfig(num_inference_steps=1)
    good = {"out": "o.safetensors", "distilled": tiny_set[:1], "prior": tiny_prior}
    good |= {"config": few, "overwrite": True, "progress": False}

    @often
    @given(nonsense)
    def throw(value):
        only_input_errors(recover_to, good, name, value)

    throw()


@often
@given(nonsense)
def test_checking_nonsense(value):
    only_input_errors(check_prior, {}, "prior", value)


@pytest.mark.parametrize(
    "name", ["latents", "class_labels", "prior", "config", "noise"]
)
def test_steps_of_nonsense(name, tiny_prior):
    latents = torch.zeros(1, *tiny_prior.latent_shape)
    good = {"latents": latents, "class_labels": torch.tensor([0])}
    good |= {"prior": tiny_prior, "config": RecoveryConfig(), "noise": latents}

    @often
    @given(nonsense)
    def throw(value):
        only_input_errors(recover_steps, good, name, value)

    throw()


@pytest.mark.parametrize(
    ("method", "name"),
    [
        ("encode", "images"),
        ("decode", "latents"),
        ("predict_noise", "latents"),
        ("predict_noise", "timestep"),
        ("predict_noise", "class_labels"),
        ("predict_noise", "guidance_scale"),
    ],
)
def test_asking_a_prior_nonsense(method, name, tiny_prior):
    size, latents = tiny_prior.image_size, torch.zeros(1, *tiny_prior.latent_shape)
    good = {
        "encode": {"images": torch.zeros(1, 3, size, size)},
        "decode": {"latents": latents},
        "predict_noise": {
            "latents": latents,
            "timestep": 5,
            "class_labels": torch.tensor([0]),
            "guidance_scale": 1.5,
        },
    }[method]

    @often
    @given(nonsense)
    def throw(value):
        only_input_errors(getattr(tiny_prior, method), good, name, value)

    throw()


@often
@given(nonsense)
def test_summarising_nonsense(value):
    only_input_errors(summarise, {"table": None, "baseline": "a"}, "table", value)
