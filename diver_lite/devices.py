"""On how many threads to compute.

Threads of one small network meet at a barrier every few milliseconds. Where another
process holds a core, all wait there for its thread, so that two of them take longer
than one. So what can be split by pictures or by trainings is: each part computes on one
thread, and waits for nobody.
Source: ours; `scripts/measure_busy.py` shows the difference.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread of the CPU meanwhile, in threads that begin now, too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
