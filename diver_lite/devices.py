"""On how many threads to compute.

Threads of one small network meet at a barrier every few milliseconds. Where another
process holds a core, all wait there for its thread, so that two of them take longer
than one. So what can be split by pictures or by trainings is: each part computes on one
thread, and waits for nobody. What can't takes the cores that are free when it begins.
Source: ours; `scripts/measure_busy.py` shows the difference.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

BUSY = 50  # percent of a moment
MOMENT = 0.3  # seconds


def free_cores() -> int:
    """Return how many cores this process may use and nobody uses now, at least 1."""
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


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread of the CPU meanwhile, in threads that begin now, too."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
