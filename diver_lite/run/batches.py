"""Work through images in batches that fit into memory.

`choose_batch_size` says what to try, `in_parts` halves a batch where that was too
hopeful, and both leave the images alone: every image has its own noise, so the split
into batches changes nothing but rounding.
"""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from diver_lite.checks import InputError
from diver_lite.priors.contract import Prior, device_of

CPU_BATCH = 5  # fits its caches, and shares ten pictures among two cores
LARGEST_BATCH = 64  # a DiT-XL/2 fills an H100 with it


def choose_batch_size(prior: Prior) -> int:
    """Choose how many images to refine at a time; `in_parts` halves what is too many.

    On the CPU 5. On CUDA 64 for a transformer, which takes a GiB or two for DiT-XL/2
    and as much again to decode; but 5 for a UNet, which needs far more.

    Source: ours.
    """
    network = getattr(prior, "transformer", None)
    is_transformer = hasattr(getattr(network, "config", None), "patch_size")
    if device_of(prior).type == "cuda" and is_transformer:
        return LARGEST_BATCH
    return CPU_BATCH


class Memory:
    """How many images fitted so far; the threads of a run share it.

    Args:
        release: frees what isn't needed, such as captured graphs, before less is tried.
    """

    def __init__(self, release: Callable[[], object] | None = None) -> None:
        self.fits = sys.maxsize
        self._release = release
        self._lock = threading.Lock()

    def ran_out(self, size: int) -> None:
        """Remember that `size` images were too many, and make room.

        Raises:
            InputError: it was a single one.
        """
        from accelerate.utils.memory import clear_device_cache  # takes a second

        if size == 1:
            raise InputError(
                "memory runs out even with batch_size 1; expected a device with more "
                "free memory, a smaller prior, or a dtype of 16 bits"
            )
        with self._lock:
            self.fits = min(self.fits, size // 2)
            if self._release:
                self._release()
            clear_device_cache(garbage_collection=True)


def in_parts(
    work: Callable[[range], Tensor], indices: range, memory: Memory | None = None
) -> Tensor:
    """Do work on consecutive indices, in smaller parts where memory runs out.

    Args:
        work: takes a range of indices and returns a tensor with one row for each.
        indices: start .. stop-1, at least one.
        memory: what fitted before, in other calls; it is told what didn't.

    Returns:
        The rows of all indices, in order.

    Raises:
        InputError: memory runs out even with one image.

    Source: ours; what counts as "out of memory" is accelerate's list.
    """
    memory = memory or Memory()
    parts = []
    while indices:
        part = indices[: memory.fits]
        try:
            parts.append(work(part))
            indices = indices[len(part) :]
            continue
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
        # outside of "except": the error would keep the failed part's tensors alive
        memory.ran_out(len(part))
        warnings.warn(
            f"memory ran out; going on from image {indices.start} with batch_size "
            f"{memory.fits}",
            stacklevel=2,
        )
    return torch.cat(parts)


def out_of_memory(error: BaseException | None) -> bool:
    """Say whether an error means that a smaller batch might work."""
    from accelerate.utils.memory import should_reduce_batch_size

    # while a graph is captured, another error follows it
    while isinstance(error, Exception):
        if isinstance(error, MemoryError) or should_reduce_batch_size(error):
            return True
        error = error.__context__
    return False
