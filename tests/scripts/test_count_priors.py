"""Counts on shapes alone: the published sizes, and the stored table is what counts."""

import json
from pathlib import Path

import pytest
import torch
from count_priors import PRIORS, build_sd15, operations

ROOT = Path(__file__).parents[2]


def stored():
    path = ROOT / "results/counted_priors.json"
    return {row["prior"]: row for row in json.loads(path.read_text())["counted"]}


def test_the_stored_table_has_every_prior():
    """DiT and SiT are one network; a guided step of DiT-XL/2 is 2 x 237 GFLOP."""
    rows = stored()
    assert {*rows} == {*PRIORS}
    same = ("million_weights", "gib_batch_1", "gib_batch_8", "tflop_per_step")
    first, second = rows["DiT-XL/2"], rows["SiT-XL/2"]
    assert [first[name] for name in same] == [second[name] for name in same]
    assert first["tflop_per_step"] == pytest.approx(2 * 0.237, rel=0.05)
    for row in rows.values():
        image = 50 * row["tflop_per_step"] + row["tflop_per_vae"]
        assert row["tflop_per_image"] == pytest.approx(image, rel=0.01)


def test_stable_diffusion_is_what_is_counted():
    """The UNet has the published 860 million weights, and the file today's count."""
    prior = build_sd15().to(dtype=torch.bfloat16)
    weights = sum(w.numel() for w in prior.transformer.parameters())
    assert round(weights / 1e6) == 860
    found = operations(prior)["tflop_per_step"]
    row = stored()["Stable Diffusion 1.5"]
    assert found == pytest.approx(row["tflop_per_step"], rel=0.01)
    assert row["image_size"] == 512
