"""NCFM and IDC: a list [images, labels] from torch.save, pixels in [0, 1].

NCFM's `data_{iteration}.pt`: nothing is normalised. With its factor of 2 each image is
a canvas of 2 x 2 tiles, each of them a picture of its class at half the size.
IDC's forks write decoded pictures, without tiles, into a list of the same form.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from diver_lite.checks import integer
from diver_lite.sets.contents import pair
from diver_lite.sets.distilled import DistilledSet
from diver_lite.sets.formats.job import Job
from diver_lite.sets.names import SUBSETS
from diver_lite.sets.normalisation import in_unit_range, tiles_per_side


def read_ncfm(job: Job) -> DistilledSet:
    """Read gszfwsb/NCFM, whose pixels are in [0, 1] already.

    Undone: `factor` x `factor` tiles per image become images of their own.
    """
    images, labels = pair(job.payload)
    low, high = (value.item() for value in images.aminmax())
    job.expect(in_unit_range(images), f"found values {low:.4g} .. {high:.4g}", "[0, 1]")
    images = job.as_stored(images)
    factor = job.options.get("factor")
    if factor is None:
        factor = tiles_per_side(images)
        if factor == 1:
            job.doubt(
                "nothing in the pictures looks like the edge of a tile, so they are "
                "read whole; factor=2 (--read factor=2) cuts each into NCFM's 2 x 2 "
                "tiles"
            )
    factor = integer(factor, "factor (tiles per side)", 1, min(images.shape[-2:]))
    if factor > 1:
        images = _split_tiles(images, factor)
        labels = labels.repeat_interleave(factor**2, dim=0)
        job.undone["tiles"] = {"factor": factor, "order": "per image, row by row"}
    variant = f"{job.dataset}-ncfm"  # one class differs from the usual
    if variant in SUBSETS and (factor > 1 or "factor" in job.options):
        job.dataset = variant
    return job.finish(images, labels)


def _split_tiles(images: Tensor, factor: int) -> Tensor:
    """Return (N * factor^2, C, H, W): NCFM's decode_zoom, but image by image."""
    height, width = images.shape[-2:]
    padded = F.pad(images, (0, -width % factor, 0, -height % factor), value=0.5)
    grid = padded.unflatten(3, (factor, -1)).unflatten(2, (factor, -1))
    tiles = grid.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)  # row by row
    return F.interpolate(
        tiles, size=(height, width), mode="bilinear", align_corners=False
    )
