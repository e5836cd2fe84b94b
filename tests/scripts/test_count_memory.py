"""Memory counted on shapes alone: the counter counts, and the stored table is its."""

import json
import runpy
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "scripts"))
        return runpy.run_path(str(ROOT / "scripts" / "count_memory.py"))


def test_tensors_count_while_they_live(script):
    """In blocks of 512 bytes, views and results in place for nothing."""
    counter = script["LiveBytes"]()
    weight = torch.empty(100, 10, device="meta")  # 4000 bytes, 8 blocks
    counter.add(weight)
    counter.add(weight.T)
    assert counter.now == 4096
    with counter:
        x = torch.empty(1, 100, device="meta")  # 400 bytes, one block
        y = x @ weight
        assert counter.now == counter.peak == 4096 + 2 * 512
        y.view(10).relu_()
        both = torch.cat([x, x])  # 800 bytes, two blocks
        assert counter.peak == 4096 + 4 * 512
        del both, y
        assert counter.now == 4096 + 512
        torch.empty(100)  # on the CPU
    assert counter.peak == 4096 + 4 * 512


def test_fused_attention_leaves_only_its_result(script):
    q = torch.empty(2, 4, 256, 8, device="meta")
    counter = script["LiveBytes"]()
    with counter, script["FusedAttention"]():
        out = torch.nn.functional.scaled_dot_product_attention(q, q, q)
    assert out.shape == q.shape
    assert counter.peak == q.nbytes


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_grows_with_the_batch(script, dtype, monkeypatch):
    """Stock decodes all images at once; DIVER eight at a time, so it hardly grows."""
    # one step in the window and one behind it take what all take
    monkeypatch.setattr(script["RecoveryConfig"], "timesteps", lambda *_: [700, 300])
    count = script["count"]

    def growth(way, few, many):
        counts = [count(way, dtype, batch, layers=1) for batch in (few, many)]
        return counts[1] - counts[0]

    per_image = 256 * 256 * 256 * getattr(torch, dtype).itemsize / 2**30
    assert growth("DiTPipeline", 8, 16) > 8 * 2 * per_image  # two feature maps
    assert growth("DIVER plain", 8, 16) < 8 * 0.1 * per_image
    assert growth("DIVER fast", 8, 16) < 8 * 0.1 * per_image


@pytest.mark.parametrize("way", ["DiTPipeline", "DIVER fast"])
def test_the_stored_table_is_what_is_counted(script, way, monkeypatch):
    """The committed file agrees with the code of today.

    Of the many steps only the first few are taken: they take what all take. Each layer
    adds its weights and nothing else, so two and one of them tell what 28 take.
    """
    fast = script["FastPrior"]
    predict_noise = fast.predict_noise

    def seldom(self, latents, timestep, *request):
        if timestep < 640:
            return torch.zeros_like(latents)
        return predict_noise(self, latents, timestep, *request)

    monkeypatch.setattr(fast, "predict_noise", seldom)
    stored = json.loads((ROOT / "results/counted_memory_dit-xl-2.json").read_text())
    (found,) = (
        row["counted_gib"]
        for row in stored["counted"]
        if (row["way"], row["dtype"], row["batch"]) == (way, "bfloat16", 8)
    )
    one, two = (script["count"](way, "bfloat16", 8, layers=n) for n in (1, 2))
    assert one + 27 * (two - one) == pytest.approx(found, abs=0.02)
