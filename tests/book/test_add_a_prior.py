"""The prior on the page "Add a prior" is exact, and the page says what happens."""

import math
import re

import pytest
import torch
from draw_plane import PAGE, run_page

from diver_lite.recovery import RecoveryConfig, recover_steps


@pytest.fixture(scope="module")
def page():
    return run_page()


def ends(page, draws=200, **settings):
    """Return where each point of the page ends from so many draws: (5, draws, 2)."""
    z_0 = page["z_0"][::6].repeat_interleave(draws, 0)
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(z_0.shape, generator=generator)
    labels = torch.zeros(len(z_0), dtype=torch.long)
    config = RecoveryConfig(**settings)
    *_, step = recover_steps(z_0, labels, page["prior"], config, noise=noise)
    return step.latents.view(-1, draws, 2)


def to_curve(page, points):
    """Return the distance of points (..., 2) to their class's curve, and where."""
    curve = page["prior"].centres[0]
    distances = (points[..., None, :] - curve).norm(dim=-1).min(-1)
    return distances.values, curve[distances.indices]


def test_the_picture_shows_what_the_page_says(page):
    """On the curve always; nearest from little noise, nearer again with the pull."""
    points = page["z_0"][::6].view(-1, 2)
    feet = to_curve(page, points)[1][:, None]
    shown = {
        title: ends(
            page,
            noise_timestep=config.noise_timestep,
            guidance_factor=config.guidance_factor,
        )
        for title, config in page["runs"].items()
    }
    for found in shown.values():
        assert to_curve(page, found)[0].quantile(0.99) < 0.12
    away = [(x - feet).norm(dim=-1).mean().item() for x in shown.values()]
    apart = [x.std(1).mean().item() for x in shown.values()]
    assert away[0] < 0.95 * away[2] < 0.9 * away[1]
    assert apart[0] < apart[2] < apart[1]
    assert len(page["paths"]) == 3


def test_the_prediction_is_the_exact_posterior_mean(page):
    """E[z_0 | z] of the mixture, by summing over its Gaussians in float64."""
    prior, centres = page["prior"], page["prior"].centres[1].double()
    z = torch.randn(5, 2, 1, 1, generator=torch.Generator().manual_seed(3))
    labels = torch.ones(5, dtype=torch.long)
    for timestep in (20, 510, 816):
        abar = math.prod(
            1 - (1e-4 + (0.02 - 1e-4) * t / 999) for t in range(timestep + 1)
        )
        variance = abar * 0.04**2 + 1 - abar
        for each, (x_0, eps) in enumerate(
            zip(*prior.denoise(z, timestep, labels, 1.0), strict=True)
        ):
            point = z[each].double().view(2)
            offsets = point - math.sqrt(abar) * centres
            weights = torch.exp(-offsets.square().sum(1) / (2 * variance))
            gain = math.sqrt(abar) * 0.04**2 / variance
            means = centres + gain * offsets  # of each Gaussian's posterior
            expected = (weights[:, None] * means).sum(0) / weights.sum()
            assert (x_0.view(2) - expected).abs().max() < 1e-3 * expected.abs().max()
            again = math.sqrt(abar) * x_0 + math.sqrt(1 - abar) * eps
            assert (again - z[each]).abs().max() < 1e-5


def test_with_one_gaussian_the_end_is_known(page):
    """Along the exact path (z - alpha mean) / std_t never changes."""
    mean, std = torch.tensor([0.7, -0.4]), 0.5
    prior = page["Plane"](mean.view(1, 1, 2).expand(3, 1, 2), std)
    noise = torch.randn(4, 2, 1, 1, generator=torch.Generator().manual_seed(4))
    z_0, labels = torch.zeros_like(noise), torch.zeros(4, dtype=torch.long)
    alpha, sigma = (part.item() for part in prior.signal_and_noise(700))
    started = sigma * noise.view(4, 2)  # inherited from zero
    whitened = (started - alpha * mean) / math.sqrt((alpha * std) ** 2 + sigma**2)
    errors = []
    for steps in (50, 500):
        config = RecoveryConfig(num_inference_steps=steps, guidance_factor=0)
        *_, step = recover_steps(z_0, labels, prior, config, noise=noise)
        errors.append(
            (step.latents.view(4, 2) - mean - std * whitened).abs().max().item()
        )
    assert errors[0] < 0.1
    assert errors[1] < errors[0] / 5  # DDIM's error falls as its steps shorten


def test_the_page_runs_anywhere(tmp_path, monkeypatch):
    """Outside of the book, with public names alone."""
    text = PAGE.read_text("utf-8")
    blocks = re.findall(r"(?ms)^```python\n(.*?)^```", text)
    code = "\n".join(blocks)
    imported = re.findall(r"(?m)^(?:from|import) (diver_lite\S*)", code)
    assert {*imported} == {"diver_lite"}
    assert "diver_lite.priors" not in text
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    found = {}
    exec(compile(code, "page", "exec"), found)
    assert found["out"].is_file()
