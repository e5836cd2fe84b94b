"""Work through many images in batches that fit into memory.

`choose_batch_size` looks at the free memory, `run_batches` halves the batch where that
was too hopeful, and both leave the images alone: every image has its own noise, so the
split into batches changes nothing but rounding.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from diver_lite.checks import InputError
from diver_lite.prior import VAE_BATCH, Prior

CPU_BATCH = 10  # fits its caches
LARGEST_BATCH = 64  # a DiT-XL/2 fills an H100 with it


def choose_batch_size(prior: Prior, free_bytes: int | None = None) -> int:
    """Choose how many images to refine at a time.

    On the CPU 10. On CUDA as many as four fifths of the free memory hold, 64 at most,
    by an estimate: an image has two rows (classifier-free guidance) of tokens, and at
    its widest point a block holds about 16 times the hidden size for each; one decoded
    image holds about 8 times the VAE's first layer. `run_batches` halves what turns out
    too large.

    Args:
        prior: the prior, on its device.
        free_bytes: default: what the device says is free.

    Returns:
        1 .. 64.

    Source: ours.
    """
    if prior.device.type != "cuda" and free_bytes is None:
        return CPU_BATCH
    if free_bytes is None:
        free_bytes = torch.cuda.mem_get_info(prior.device)[0]
        reserved = torch.cuda.memory_reserved(prior.device)
        free_bytes += reserved - torch.cuda.memory_allocated(prior.device)
    config = prior.transformer.config
    tokens = (config.sample_size // config.patch_size) ** 2
    width = config.num_attention_heads * config.attention_head_dim
    of_image = 2 * tokens * 16 * width * prior.dtype.itemsize
    first = prior.vae.config.block_out_channels[0]
    of_decoder = prior.image_size**2 * 8 * first * prior.vae.dtype.itemsize
    usable = 0.8 * free_bytes - VAE_BATCH * of_decoder
    return int(min(LARGEST_BATCH, max(1, usable // of_image)))


def run_batches(
    work: Callable[[range], Tensor], indices: range, batch_size: int
) -> Iterator[Tensor]:
    """Do work on consecutive indices in batches, smaller ones where memory runs out.

    On CUDA a batch's result is collected after the next batch was launched, so that the
    GPU never waits for the CPU to store results. (Decoding fills the GPU like denoising
    does, so a second stream would gain nothing.)

    Args:
        work: takes a range of indices and returns a tensor with one row for each.
        indices: start .. stop-1.
        batch_size: how many to hand over at a time.

    Yields:
        Results on the CPU, in order; together they have a row for each index.

    Raises:
        InputError: memory runs out even with one image.

    Source: ours; what counts as "out of memory" is accelerate's list.
    """
    start, waiting = indices.start, None
    while start < indices.stop:
        result = None
        stop = min(start + batch_size, indices.stop)
        try:
            result = _to_cpu(work(range(start, stop)))
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
        # outside of "except": the error would keep the failed batch's tensors alive
        if waiting is not None:
            yield _collect(waiting)
        waiting = result
        if result is not None:
            start = stop
            continue
        from accelerate.utils.memory import clear_device_cache  # takes a second

        batch_size = (stop - start) // 2
        if batch_size == 0:
            raise InputError(
                "memory runs out even with batch_size 1; expected a device with more "
                "free memory, a smaller prior, or a dtype of 16 bits"
            )
        clear_device_cache(garbage_collection=True)
        warnings.warn(
            f"memory ran out; going on from image {start} with batch_size {batch_size}",
            stacklevel=2,
        )
    if waiting is not None:
        yield _collect(waiting)


def out_of_memory(error: BaseException | None) -> bool:
    """Say whether an error means that a smaller batch might work."""
    from accelerate.utils.memory import should_reduce_batch_size

    # while a graph is captured, another error follows it
    while isinstance(error, Exception):
        named = isinstance(error, torch.cuda.OutOfMemoryError | MemoryError)
        if named or should_reduce_batch_size(error):
            return True
        error = error.__context__
    return False


def _to_cpu(result: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
    """Start copying a result to the CPU; return it and what to wait for."""
    if result.device.type != "cuda":
        return result, None
    pinned = torch.empty(result.shape, dtype=result.dtype, pin_memory=True)
    pinned.copy_(result, non_blocking=True)
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(result.device))
    return pinned, event


def _collect(waiting: tuple[Tensor, torch.cuda.Event | None]) -> Tensor:
    result, event = waiting
    if event is None:
        return result
    event.synchronize()
    return result.clone()  # pinned memory is scarce
