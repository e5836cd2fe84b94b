"""Count how much memory DiT-XL/2 takes, without a GPU and without running it.

Run: python scripts/count_memory.py [--batches 1 8 16] [--dtypes float32 bfloat16]

PyTorch's `meta` device runs a program on shapes alone. Here every tensor that a
recovery makes there is counted while it lives, in blocks of 512 bytes as CUDA's
allocator cuts them, and the largest sum is kept: weights included, and with fused
attention, which stores no matrix of weights. Not counted is what kernels take for
themselves while they run (workspaces of cuBLAS and cuDNN) and what the allocator holds
in reserve. How much that is, stock diffusers tells: results/baseline_gpu_stock.json has
its peaks as measured on an H100, and the table sets them beside its counts. No number
of the other ways is a measurement; `benchmark_recovery.py --memory` makes those.

Writes results/counted_memory_dit-xl-2.json.
"""

from __future__ import annotations

import argparse
import json
import weakref
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from benchmark_recovery import DTYPES, SCALE, build_dit_xl_2
from provenance import begin, write_result
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from diver_lite import DistilledSet, RecoveryConfig
from diver_lite.priors.dit import DiTPrior
from diver_lite.priors.fast import FastPrior
from diver_lite.recovery import RecoveryJob

BLOCK = 512  # bytes
BASELINE = Path("results/baseline_gpu_stock.json")


class LiveBytes(TorchDispatchMode):
    """Sum up the storages on `meta` that are alive; remember the largest sum."""

    def __init__(self) -> None:
        super().__init__()
        self.alive, self.now, self.peak = {}, 0, 0

    def add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata  # views share it
        if tensor.device.type == "meta" and key not in self.alive:
            self.alive[key] = -(-storage.nbytes() // BLOCK) * BLOCK
            self.now += self.alive[key]
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._free, key)

    def _free(self, key: int) -> None:
        self.now -= self.alive.pop(key)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.add(leaf)
        return result


class FusedAttention(TorchFunctionMode):
    """Let attention make its result and nothing else, as a fused kernel does."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.scaled_dot_product_attention:
            return torch.empty_like(args[0])
        return func(*args, **(kwargs or {}))


def stock(prior: DiTPrior, batch: int) -> None:
    """Do what fills memory in `DiTPipeline`: a guided prediction, and the decoding."""
    z = torch.empty(batch, *prior.latent_shape, dtype=prior.dtype, device="meta")
    labels = torch.zeros(batch, dtype=torch.int64)
    prior.predict_noise(z, 0, labels, SCALE)
    prior.vae.decode(z)


def diver(prior: DiTPrior, batch: int) -> None:
    """Refine one batch with the published settings."""
    size, names = prior.image_size, prior.class_names
    labels = torch.arange(batch)
    distilled = DistilledSet(torch.zeros(batch, 3, size, size), labels, names)
    RecoveryJob(distilled, prior, RecoveryConfig.published()).refine(range(batch))


WAYS: dict[str, Callable] = {
    "DiTPipeline": stock,
    "DIVER plain": diver,
    "DIVER fast": lambda prior, batch: diver(FastPrior(prior), batch),
}


def count(way: str, dtype: str, batch: int, layers: int = 28) -> float:
    """Return the largest sum of living tensors in GiB."""
    prior = build_dit_xl_2(torch.device("meta"), layers)
    prior.to(dtype=getattr(torch, dtype))
    counter = LiveBytes()
    for network in (prior.transformer, prior.vae):
        for tensor in (*network.parameters(), *network.buffers()):
            counter.add(tensor)
    with torch.no_grad(), counter, FusedAttention():
        WAYS[way](prior, batch)
    return counter.peak / 2**30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 16, 32, 64])
    parser.add_argument(
        "--dtypes", nargs="+", default=["float32", "bfloat16"], choices=DTYPES
    )
    parser.add_argument("--out", default="results/counted_memory_dit-xl-2.json")
    args = parser.parse_args()
    started = begin()
    measured = {
        (row["what"], row["dtype"], row["batch"]): row["peak_gib"]
        for row in json.loads(BASELINE.read_text())["timings"]
    }
    rows = [
        {
            "way": way,
            "dtype": dtype,
            "batch": batch,
            "counted_gib": round(count(way, dtype, batch), 2),
            "measured_gib": measured.get((way, dtype, batch)),
        }
        for dtype in args.dtypes
        for way in WAYS
        for batch in args.batches
    ]
    table = pd.DataFrame(rows)
    table["not_counted_gib"] = (table["measured_gib"] - table["counted_gib"]).round(2)
    print(table.to_string(index=False))
    rows = json.loads(table.to_json(orient="records"))
    write_result(
        args.out,
        {
            "data": "shapes alone",
            "what": "peak of living tensors on the meta device: counted, not measured",
            "measured_on": json.loads(BASELINE.read_text())["provenance"]["device"],
            "counted": rows,
        },
        vars(args),
        started=started,
    )


if __name__ == "__main__":
    main()
