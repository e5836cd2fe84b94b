"""DC, DSA and DM, and what PReDD and DIVER write: a dict whose 'data' lists pairs.

Each pair is [images, labels]: floats (N, C, H, W) in class-major order, integers (N,).
It is a repetition of the experiment or, as one file of DC's forks has them, a snapshot
of one run after so many iterations; the accuracies beside belong to the last.

- dc: `res_{method}_{data set}_{network}_{ipc}ipc.pt`, with 'accs_all_exps'. Pixels are
  normalised with mean and std of the data set, and were never clipped.
- predd: `imagenet_distill_256_256.pt`, with 'res'. Pixels are what the VAE's decoder
  gave, about [-1, 1]. (PReDD's dm_base.py writes a dc file with 'res'.)
"""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from torch import Tensor

from diver_lite.checks import integer
from diver_lite.sets.contents import describe, pair
from diver_lite.sets.distilled import DistilledSet
from diver_lite.sets.formats.job import Job
from diver_lite.sets.normalisation import (
    RAW_OUTPUT,
    SNAPSHOT,
    SNAPSHOT_IF_NUMBERED,
    denormalise,
    in_unit_range,
    same_detail,
)

SCORES = ("accs_all_exps", "acc_all_exps")  # beside the 'data' of DC and its forks
DECODED = 3  # raw decoder output stays within about 2, normalised sets reach 5 .. 35


def read_dc(job: Job) -> DistilledSet:
    """Read VICO-UoE/DatasetCondensation (DC, DSA, DM) and PReDD's dm_base.py.

    Undone: mean and std of the data set; a single grey channel.
    """
    images, labels = _chosen_entry(job)
    job.expect(labels.ndim == 1, f"labels: found {describe(labels)}", "integers (N,)")
    return job.finish(job.undo(images, "dc"), labels)


def read_predd(job: Job) -> DistilledSet:
    """Read what PReDD and DIVER write: the VAE decoder's output as it is.

    Undone: the decoder's range, x -> (x + 1) / 2.
    """
    images, labels = _chosen_entry(job)
    largest = images.abs().max().item()
    job.expect(
        largest <= DECODED,
        f"found values up to {largest:.1f}",
        "about [-1, 1] (normalised images with a 'res' are format 'dc')",
    )
    if in_unit_range(images):  # a decoder's blacks are at -1
        job.doubt("all values lie in [0, 1] instead of [-1, 1]: read as stored")
        return job.finish(job.as_stored(images), labels)
    job.undone["range"] = "[-1, 1] to [0, 1]"
    images = denormalise(images, RAW_OUTPUT)
    job.judge(images, "decoder output in [-1, 1]")
    return job.finish(images, labels)


def entries(job: Job) -> list[Any]:
    """Return what 'data' lists."""
    payload = job.payload
    data = payload.get("data") if isinstance(payload, dict) else None
    job.expect(
        isinstance(data, list | tuple),
        f"found {describe(payload)}",
        "a dict whose 'data' lists [images, labels]",
    )
    entries = [*(data or ())]
    job.expect(entries != [], "found an empty 'data'", "[images, labels] in it")
    if len(entries) == 2 and all(isinstance(part, Tensor) for part in entries):
        return [entries]  # one pair, and no list of it
    return entries


def _chosen_entry(job: Job) -> tuple[Tensor, Tensor]:
    """Return images and labels of the entry that was asked for, or that counts."""
    data = entries(job)
    last = len(data) - 1
    snapshots = last > 0 and _are_snapshots(data, job.path)
    default = last if snapshots else 0
    chosen = job.options.get("experiment", default)
    chosen = integer(chosen, "experiment", 0, last)
    job.record |= {"experiment": chosen, "experiments": len(data)}
    if last > 0:
        job.record["entries_are"] = "snapshots" if snapshots else "repetitions"
    if snapshots and "experiment" not in job.options:
        scored = any(job.payload.get(name) for name in SCORES)
        belong = ", to which the stored accuracies belong" if scored else ""
        job.doubt(
            f"'data' lists {len(data)} snapshots of one run: the last, {last}, was "
            f"taken{belong}; experiment= (--read experiment=0) chooses another"
        )
    return pair(data[chosen])


def _are_snapshots(data: list[Any], path: Path) -> bool:
    """Tell snapshots, which have detail in common, from repetitions."""
    sets = [pair(entry)[0] for entry in data]
    likeness = median(same_detail(*neighbours) for neighbours in pairwise(sets))
    numbered_file = re.search(r"_\d+\.pt$", path.name)
    return likeness > (SNAPSHOT_IF_NUMBERED if numbered_file else SNAPSHOT)
