"""Distilling and training a prior give what they gave: else raise their `RESULTS`.

Checkpoints and experts are gone on with as long as the number is the same. To store
results anew after raising it: `pytest tests/make/test_stored_sets.py --store-results`.
"""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import RECIPE
from stored_values import CALM, CHAOTIC, check_stored

from diver_lite.make import train_prior as priors
from diver_lite.make.distill import METHODS, RESULTS, distill
from diver_lite.priors.loading import load_prior

STORED = Path(__file__).with_name("stored_sets.json")
OPTIONS = {"ipc": 2, "steps": 2, "real_batch": 4, "device": "cpu", "progress": False}
OPTIONS |= {"outer_loops": 2, "inner_loops": 1, "num_experts": 1, "expert_epochs": 3}
OPTIONS |= {"max_start_epoch": 2, "syn_steps": 3, "syn_batch": 4, "lr": 10.0}


def data():
    """Return images of three classes, each with its own mean."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(3).repeat(12)
    images = torch.rand(36, 3, 32, 32, generator=generator) * 0.3
    images[torch.arange(36), labels] += 0.6
    return images, labels, ("a", "b", "c")


@pytest.fixture(autouse=True)
def float32(monkeypatch):
    """Train as machines do that have no matrix units of bfloat16."""
    monkeypatch.setattr(priors, "_cpu_has_bf16_matrix_units", lambda: False)


@pytest.mark.parametrize("method", METHODS)
def test_a_method_gives_what_it_gave(request, method, tmp_path):
    """Real images with DSA, and networks with their own chance."""
    options = OPTIONS | {"experts": tmp_path} if method == "mtt" else OPTIONS
    images = distill(data(), method, **options).images
    found = [round(v, 5) for v in images[3, 0, ::8, ::8].flatten().tolist()]
    share = CALM if method == "dm" else CHAOTIC
    check_stored(request, STORED, method, RESULTS, found, share=share)


@pytest.mark.parametrize("objective", ["noise", "flow"])
def test_a_prior_gives_what_it_gave(request, objective, tmp_path, monkeypatch):
    """Four steps of the VAE and of the DiT; too few to show what averages them."""
    optimise, decays = priors._optimise, {}

    def noted(model, stage, *arguments, decay, **options):
        decays[stage] = decay
        return optimise(model, stage, *arguments, decay=decay, **options)

    monkeypatch.setattr(priors, "_optimise", noted)
    monkeypatch.setattr(priors, "load_dataset", lambda *_, **__: data())
    recipe = replace(RECIPE, ema_decay=0.9999)
    options = {"recipe": recipe, "device": "cpu", "compile": False, "progress": False}
    priors.train_prior("fashion-mnist", tmp_path, **options, objective=objective)
    assert decays == {"vae": 0.999, "dit": 0.9999}
    prior = load_prior(tmp_path / "prior", device="cpu")
    latents = prior.encode(data()[0][:1, :1].expand(-1, 3, -1, -1))
    x_0, eps = prior.denoise(latents, 500, torch.tensor([1]), 1.5)
    found = [each[0, 0, 0, :4].tolist() for each in (latents, x_0, eps)]
    values = [round(v, 5) for each in found for v in each]
    check_stored(request, STORED, f"prior of {objective}", priors.RESULTS, values)


def test_an_optimisation_gives_what_it_gave(request, tmp_path):
    """Steps as long as the weights, where weight decay and averaging show."""
    model = torch.nn.Linear(2, 1)
    torch.nn.init.ones_(model.weight)  # the second has no gradient, and only decays
    torch.nn.init.zeros_(model.bias)
    x = torch.tensor([[1.0, 0.0]])
    priors._optimise(
        model, "vae", lambda _: (model(x) - 3).square().mean(),
        record={}, recipe=replace(RECIPE, vae_lr=300.0), folder=tmp_path, decay=0.2,
        deadline=math.inf, compile=False, progress=False, on_step=None,
    )  # fmt: skip
    values = [*model.weight[0].tolist(), model.bias.item()]
    found = [round(v, 5) for v in values]
    check_stored(request, STORED, "optimisation", priors.RESULTS, found)
