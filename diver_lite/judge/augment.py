"""Differentiable Siamese augmentation (DSA).

One family of operations is drawn per batch. While distilling, real and synthetic
images get the same parameters ("siamese"); while training a judge, each image its own.
All random numbers come from a CPU generator, so they are the same on every device.

Source: Zhao and Bilen 2021, "Dataset condensation with differentiable siamese
augmentation", with its published strengths.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

FAMILIES = ("color", "crop", "cutout", "flip", "scale", "rotate")
CROP_PAD = 0.125  # of the image size
CUTOUT = 0.5
SCALE = 1.2
ROTATE = 15.0  # degrees
BRIGHTNESS, SATURATION, CONTRAST = 1.0, 2.0, 0.5


def dsa(
    images: Tensor,
    generator: torch.Generator,
    *,
    families: tuple[str, ...] = FAMILIES,
    siamese: bool = False,
) -> Tensor:
    """Augment a batch with one randomly drawn family of operations.

    Args:
        images: (B, C, H, W), normalised or not; padding is zero.
        generator: a CPU generator; with generators of one seed and `siamese=True`, two
            calls apply the same operation.
        families: which to draw from.
        siamese: one set of parameters for the whole batch instead of one per image.

    Returns (B, C, H, W), differentiable with respect to `images`.
    """
    family = families[int(torch.randint(len(families), (), generator=generator))]
    rows = 1 if siamese else len(images)
    size = images.shape[-1]

    def uniform(low: float, high: float) -> Tensor:
        draw = torch.rand(rows, 1, 1, 1, generator=generator)
        return (low + (high - low) * draw).to(images)

    def whole(low: int, high: int) -> Tensor:
        draw = torch.randint(low, high + 1, (rows, 1, 1, 1), generator=generator)
        return draw.to(images)

    if family == "color":
        brightness, saturation = uniform(-0.5, 0.5) * BRIGHTNESS, uniform(0, SATURATION)
        return shift_colour(images, brightness, saturation, CONTRAST + uniform(0, 1))
    if family == "flip":
        return torch.where(uniform(0, 1) < 0.5, images.flip(-1), images)
    if family == "cutout":
        side = int(size * CUTOUT + 0.5)  # its middle may lie on the border
        x, y = (whole(0, size - side % 2) for _ in "xy")
        axis = torch.arange(size, device=images.device, dtype=images.dtype)
        cut = _inside(x, axis.view(1, 1, 1, -1), side)
        cut = cut & _inside(y, axis.view(1, 1, -1, 1), side)
        return images * (~cut).to(images)
    one, zero = images.new_ones(rows, 1, 1, 1), images.new_zeros(rows, 1, 1, 1)
    if family == "crop":  # a shift in whole pixels
        limit = int(size * CROP_PAD + 0.5)
        right, down = (whole(-limit, limit) * 2 / size for _ in "xy")
        theta = [one, zero, right, zero, one, down]
    elif family == "scale":
        wide, high = (uniform(1 / SCALE, SCALE) for _ in "xy")
        theta = [wide, zero, zero, zero, high, zero]
    else:
        angle = uniform(-ROTATE, ROTATE) * math.pi / 180
        theta = [angle.cos(), -angle.sin(), zero, angle.sin(), angle.cos(), zero]
    matrix = torch.cat(theta, dim=1).view(rows, 2, 3).expand(len(images), 2, 3)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def shift_colour(
    images: Tensor,
    brightness: float | Tensor,
    saturation: float | Tensor,
    contrast: float | Tensor,
) -> Tensor:
    """Change brightness, then saturation, then contrast: DSA's family "color".

    Args:
        images: (B, C, H, W).
        brightness: is added; DSA draws from -0.5 .. 0.5.
        saturation: scales each pixel's distance to its own mean over the channels; 1
            changes nothing, 0 is grey, DSA draws from 0 .. 2.
        contrast: scales the distance to the image's mean; DSA draws from 0.5 .. 1.5.

    Returns (B, C, H, W), differentiable with respect to `images`. Source: DSA's code.
    """
    x = images + brightness
    grey = x.mean(1, keepdim=True)
    x = grey + (x - grey) * saturation
    mean = x.mean((1, 2, 3), keepdim=True)
    return mean + (x - mean) * contrast


def resized_crops(
    images: Tensor,
    generator: torch.Generator,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Tensor:
    """Crop each image at random, enlarge the crop to the image's size, flip half.

    Args:
        images: (B, C, H, W).
        generator: a CPU generator.
        scale: smallest and largest share of the area.
        ratio: narrowest and widest crop, width by height; uniform in its logarithm.

    Returns (B, C, H, W).

    Source: torchvision's RandomResizedCrop, per image; a crop that would not fit is
    shortened to the image instead of drawn anew.
    """
    count = len(images)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=generator)

    area, shape = uniform(*scale), uniform(*map(math.log, ratio)).exp()
    wide, high = (area * shape).sqrt().clamp(max=1), (area / shape).sqrt().clamp(max=1)
    right, down = (uniform(-1, 1) * (1 - size) for size in (wide, high))
    flip = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
    zero = torch.zeros(count)
    rows = [wide * flip, zero, right, zero, high, down]
    matrix = torch.stack(rows, dim=1).view(count, 2, 3).to(images)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def cutmix(
    images: Tensor, targets: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Paste one rectangle of every image into another of the batch, labels in part.

    Args:
        images: (B, C, H, W).
        targets: (B, K) probabilities.
        generator: a CPU generator; one rectangle and one order for the batch.

    Returns both, mixed: the share of a pasted image's label is that of its pixels.

    Source: Yun et al. 2019, "CutMix", with Beta(1, 1), which is uniform.
    """
    height, width = images.shape[-2:]
    side, x, y = torch.rand(3, generator=generator).tolist()
    order = torch.randperm(len(images), generator=generator).to(images.device)
    half = math.sqrt(side) / 2
    left, right = (round(min(max(x + d, 0), 1) * width) for d in (-half, half))
    top, bottom = (round(min(max(y + d, 0), 1) * height) for d in (-half, half))
    mixed = images.clone()
    mixed[..., top:bottom, left:right] = images[order][..., top:bottom, left:right]
    share = (right - left) * (bottom - top) / (height * width)
    return mixed, (1 - share) * targets + share * targets[order]


def _inside(middle: Tensor, pixels: Tensor, side: int) -> Tensor:
    first = middle - side // 2
    return (pixels >= first) & (pixels < first + side)
