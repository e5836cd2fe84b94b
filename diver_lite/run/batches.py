"""Work through images in batches that fit into memory.

`choose_batch_size` looks at the free memory, `in_parts` halves a batch where that was
too hopeful, and both leave the images alone: every image has its own noise, so the
split into batches changes nothing but rounding.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from diver_lite.checks import InputError
from diver_lite.priors.contract import Prior, device_of
from diver_lite.priors.dit import VAE_BATCH

CPU_BATCH = 5  # fits its caches, and shares ten pictures among two cores
LARGEST_BATCH = 64  # a DiT-XL/2 fills an H100 with it


def choose_batch_size(prior: Prior, free_bytes: int | None = None) -> int:
    """Choose how many images to refine at a time.

    On the CPU 5. On CUDA as many as four fifths of the free memory hold, 64 at most,
    by an estimate: an image has two rows (classifier-free guidance) of tokens, and at
    its widest point a block holds about 16 times the hidden size for each; one decoded
    image holds about 8 times the VAE's first layer. `in_parts` halves what turns out
    too large.

    Args:
        prior: the prior, on its device.
        free_bytes: default: what the device says is free.

    Returns:
        1 .. 64.

    Source: ours.
    """
    if free_bytes is None:
        device = device_of(prior)
        if device.type != "cuda":
            return CPU_BATCH
        reserved = torch.cuda.memory_reserved(device)
        unused = reserved - torch.cuda.memory_allocated(device)
        free_bytes = torch.cuda.mem_get_info(device)[0] + unused
    networks: Any = prior  # of diffusers
    config = networks.transformer.config
    if not hasattr(config, "patch_size"):  # a UNet, of which this says nothing
        return CPU_BATCH
    tokens = (config.sample_size // config.patch_size) ** 2
    width = config.num_attention_heads * config.attention_head_dim
    of_image = 2 * tokens * 16 * width * networks.dtype.itemsize
    first = networks.vae.config.block_out_channels[0]
    of_decoder = prior.image_size**2 * 8 * first * networks.vae.dtype.itemsize
    usable = 0.8 * free_bytes - VAE_BATCH * of_decoder
    return int(min(LARGEST_BATCH, max(1, usable // of_image)))


def in_parts(work: Callable[[range], Tensor], indices: range) -> Tensor:
    """Do work on consecutive indices, in smaller parts where memory runs out.

    Args:
        work: takes a range of indices and returns a tensor with one row for each.
        indices: start .. stop-1, at least one.

    Returns:
        The rows of all indices, in order.

    Raises:
        InputError: memory runs out even with one image.

    Source: ours; what counts as "out of memory" is accelerate's list.
    """
    parts = []
    size = len(indices)
    while indices:
        try:
            parts.append(work(indices[:size]))
            indices = indices[size:]
            continue
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
        # outside of "except": the error would keep the failed part's tensors alive
        from accelerate.utils.memory import clear_device_cache  # takes a second

        size = min(size, len(indices)) // 2
        if size == 0:
            raise InputError(
                "memory runs out even with batch_size 1; expected a device with more "
                "free memory, a smaller prior, or a dtype of 16 bits"
            )
        clear_device_cache(garbage_collection=True)
        where = f"going on from image {indices.start} with batch_size {size}"
        warnings.warn(f"memory ran out; {where}", stacklevel=2)
    return torch.cat(parts)


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
