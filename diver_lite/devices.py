"""On how many threads, and in which arithmetic, to compute.

Threads of one small network meet at a barrier every few milliseconds. Where another
process holds a core, all wait there for its thread, so that two of them take longer
than one. So what can be split by pictures or by trainings is: each part computes on one
thread, and waits for nobody. One thread also sums in the same order everywhere.
Source: ours; `scripts/measure_busy.py` shows the difference.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[int]:
    """Compute on one thread of the CPU meanwhile, in threads that begin now, too.

    Yields how many there were: so many parts may be computed side by side.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield before
    finally:
        torch.set_num_threads(before)


@contextmanager
def plain_torch(*, grad: bool, single: bool = True) -> Iterator[int]:
    """Compute as a torch that was just imported, whatever its caller has set.

    On one thread, in float32 of full precision, without autocast and default device;
    with gradients, or without. Without `single` on as many threads as there are, for
    what takes hours and can't be split. What the caller set is there again afterwards.
    Yields the number of the caller's threads.

    Source: ours: a result must not depend on what stands around the call.
    """
    with ExitStack() as stack:
        threads = torch.get_num_threads()
        if single:
            stack.enter_context(one_thread())
        stack.enter_context(_default_dtype(torch.float32))
        stack.enter_context(_full_precision())
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.set_grad_enabled(grad))
        yield threads


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def _full_precision() -> Iterator[None]:
    """Multiply float32 matrices in float32, not in TF32 or bfloat16."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
