"""The benchmark of recovery runs on any machine, and counts what it says it counts."""

import json
import runpy
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "scripts" / "benchmark_recovery.py"


@pytest.fixture
def script():
    return runpy.run_path(str(SCRIPT))


def run(script, monkeypatch, tmp_path, *arguments):
    out = tmp_path / "result.json"
    given = [str(a) for a in (*arguments, "--device", "cpu", "--out", out)]
    monkeypatch.setattr("sys.argv", ["benchmark_recovery.py", *given])
    script["main"]()
    return json.loads(out.read_text())


def test_a_small_prior_on_the_cpu(
    script, tiny_prior_folder, monkeypatch, tmp_path, capsys
):
    """One row per way, batch and dtype, ratios that fit the times, and a profile."""
    result = run(
        *(script, monkeypatch, tmp_path, "--prior", tiny_prior_folder),
        *("--batches", 1, 2, "--steps", 2, "--repeats", 1, "--profile"),
    )
    rows = result["measured"]
    ways = ["stock", "sampler plain", "sampler fast", "DIVER plain", "DIVER fast"]
    assert [(r["batch"], r["way"]) for r in rows] == [
        (b, w) for b in (1, 2) for w in ways
    ]
    for row in rows:
        (stock,) = (
            r for r in rows if (r["batch"], r["way"]) == (row["batch"], "stock")
        )
        ratio = row["s_per_image"] / stock["s_per_image"]
        assert row["over_stock"] == pytest.approx(ratio, rel=0.01)
        assert (row["over_sampler"] is None) == ("DIVER" not in row["way"])
        assert row["peak_gib"] > 0 or row["peak_gib"] != row["peak_gib"]
    assert sum(part["share"] for part in result["profile_float32"]) <= 1.001
    assert {"device", "versions"} <= set(result["provenance"])
    assert "aten::addmm" in capsys.readouterr().out


def test_the_plain_loop_is_the_sampler(script, tiny_prior):
    """What is called stock makes the images that `recover` makes with all parts off."""
    args = type("Args", (), {"rounds": 1, "steps": 3, "compile": False})
    ways = script["build_ways"](tiny_prior, 2, args)
    stock = script["stock_loop"](tiny_prior, torch.arange(2), 3)
    for name in ("sampler plain", "sampler fast"):
        found = ways[name]().images
        assert torch.allclose(found, torch.as_tensor(stock), atol=1e-4)
    assert not torch.allclose(ways["DIVER fast"]().images, found, atol=1e-3)


def test_the_large_model_is_a_dit_xl(script):
    """Its size is DiT-XL/2's in diffusers: 750 M, of which 32 M are label tables."""
    args = type("Args", (), {"model": "dit-xl-2", "layers": 28})
    prior = script["build_prior"](args, torch.device("meta"), torch.float32)
    of_labels = sum(
        module.weight.numel()
        for module in prior.transformer.modules()
        if isinstance(module, torch.nn.Embedding)
    )
    total = sum(p.numel() for p in prior.transformer.parameters())
    assert 715e6 < total - of_labels < 720e6
    assert prior.latent_shape == (4, 32, 32)
    assert prior.image_size == 256
    assert sum(p.numel() for p in prior.vae.parameters()) == 83_653_863


def test_rounding_is_measured_against_plain_float32(
    tiny_prior_folder, monkeypatch, tmp_path
):
    """Zero for itself, tiny for the fast path, larger with fewer bits."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    rounding = runpy.run_path(str(SCRIPT.parent / "measure_rounding.py"))
    prior = ("--prior", tiny_prior_folder)
    rows = run(rounding, monkeypatch, tmp_path, *prior)["errors"]
    noise = {(r["dtype"], r["path"]): r["noise at 500"] for r in rows}
    images = {(r["dtype"], r["path"]): r["decoded images"] for r in rows}
    assert noise["float32", "plain"] == images["float32", "plain"] == 0
    assert 0 < noise["float32", "fast"] < 1e-5
    for path in ("plain", "fast"):
        assert 1e-5 < noise["float16", path] < noise["bfloat16", path] < 0.05
    assert images["bfloat16", "fast"] > 0
