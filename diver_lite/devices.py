"""Where to compute: as many threads as there are cores that nobody else uses."""

from __future__ import annotations

import os

BUSY = 50  # percent of a moment
MOMENT = 0.3  # seconds


def free_cores() -> int:
    """Return how many cores this process may use and nobody uses now, at least 1.

    Threads of one small network meet at a barrier every few milliseconds. Where another
    process holds a core, all wait there for its thread, so that two of them take longer
    than one. Source: ours; `scripts/measure_busy.py` shows the difference.
    """
    import psutil  # comes with accelerate

    used = psutil.cpu_percent(MOMENT, percpu=True)
    mine = range(len(used))
    if hasattr(os, "sched_getaffinity"):  # not on macOS, nor on Windows
        mine = os.sched_getaffinity(0)
    return max(1, sum(used[core] < BUSY for core in mine if core < len(used)))


def use_free_cores() -> None:
    """Let torch compute on the free cores, unless the user said on how many."""
    import torch

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(min(torch.get_num_threads(), free_cores()))
