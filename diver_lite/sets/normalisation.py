"""How published pixels were normalised: undoing it, and how well that fits.

A file doesn't say whether its pixels were normalised, whitened or neither. `measure`
and its companions turn the pictures themselves into evidence; `formats` reads by it.

The thresholds stand between what was measured on 10 released sets of CIFAR-10,
CIFAR-100 and ImageFruit (DC, DSA, DM, MTT, DATM, K-means), the sets that ship, and
200 to 1,000 draws of 10 and 100 real images; each comment gives both sides.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from diver_lite.checks import ensure, floats, require
from diver_lite.sets.names import SUBSETS, TABLES
from diver_lite.sets.stored import one_channel

Statistics = tuple[Sequence[float], Sequence[float]]  # mean and std, per channel
Fit = dict[str, float]
# By family of repositories; ImageNet's subsets have its numbers.
STATISTICS: dict[str, dict[str, Statistics]] = TABLES["normalisation"]
RAW_OUTPUT: Statistics = ((0.5,), (0.5,))  # undone, [-1, 1] becomes [0, 1]


# Stored values that need no undoing. Normalised, black is at -0.4 (MNIST) .. -2.4.
UNIT_RANGE = (-0.05, 1.05)
# Contrast. Read rightly: 10 real images >= .72 (garments; CIFAR-10 .91), distilled
# >= .97. Denormalised though in [0, 1]: <= .76.
_PALE = 0.8
# Contrast. Normalised still: 2.4 .. 26, but wild sets read rightly: 2 .. 6.6, so the
# offset has to agree.
_GLARING = 2.0
# An offset below says nothing (DM's are so wild that any mean fits). Above, a reading
# whose own is below .8 of it fits better: wrong ones have 1.2 .. 200 of it, right ones
# .03 .. .73.
_OFFSET = 0.15
_CLOSER = 0.8
# Whitened: waves .001 .. .13 and std .37 .. 1.46 as stored (10 real images: .18). Else
# waves .22 .. .69, or DM's .01 .. .03 with std 3.35 .. 6.6. (Garments: .06 .. .32
# whitened, .57 .. .69 not: some of them go unnoticed.)
_WAVES = 0.16
_LOUD = 2.0
# Off a multiple of 1/255: real pictures, after mean and std in float32, 6e-8; with
# another data set's numbers half a step.
_EIGHT_BIT = 1e-5
# Share of colour in the std: photographs .24 .. .41, garments from a decoder .01
_COLOURS = 0.15
# The jump at the edge of tiles against those around: in tiles of photographs 2 .. 5
# across and down, in tiles of garments, which have margins, 0; in whole pictures, a
# single one at worst, .4 .. 1.5.
_SEAM = 1.6
_MARGIN = 0.4
# Correlation of finest detail: a whitened set with its own inverse .99 (.67 .. .95
# where few images fitted it, or where it was normalised before); with another from the
# same initial images <= .39, else <= .01.
SAME_DETAIL = 0.5
# The same of all detail: a copy on another scale, which proves no whitening
_RESCALED = 0.999
# The same between entries of a file: repetitions <= .05, the same initial images in
# other methods' hands <= .32; snapshots .86 .. .99, two that are half a run apart .24.
SNAPSHOT = 0.5
SNAPSHOT_IF_NUMBERED = 0.15  # the file's name ends in an iteration
_ENOUGH_IMAGES = 10  # fewer tell nothing
_ENOUGH_PIXELS = 16


def denormalise(images: Tensor, statistics: Statistics) -> Tensor:
    """Return `images * std + mean`, (N, C, H, W) float32.

    Source: every repository's `transforms.Normalize`, inverted.
    """
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in statistics)
    return images.float() * std + mean


def normalise(images: Tensor, statistics: Statistics) -> Tensor:
    """Return `(images - mean) / std`, (N, C, H, W) float32, as `denormalise` undoes."""
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in statistics)
    return (images.float() - mean) / std


def invert_zca(
    images: Tensor, reference: Tensor, before: Statistics | None = None
) -> Tensor:
    """Undo x -> (x - mean) U (S + 0.1)^-1/2 U^T, with U S U^T `reference`'s covariance.

    Args:
        images: (N, C, H, W), whitened.
        reference: (M, C, H, W) in [0, 1], M > 1; else `InputError`.
        before: mean and std with which all was normalised before it was whitened.

    Source: kornia.enhance.ZCAWhitening(eps=0.1), as MTT and DATM call it; two forks of
    them normalise first.
    """
    _check_reference(images, reference)
    if before is not None:
        reference = normalise(reference, before)
    mean = reference.flatten(1).mean(dim=0, dtype=torch.float64)
    covariance = _covariance(reference, lambda flat: flat - mean)
    inverse = _root(covariance * len(reference) / (len(reference) - 1), 0.1)
    read = (images.flatten(1).double() @ inverse + mean).view_as(images).float()
    return read if before is None else denormalise(read, before)


def invert_kip(images: Tensor, reference: Tensor, unit_norm: bool) -> Tensor:
    """Undo KIP's whitening x -> u(standardised x) U (S + 0.1 tr(S) / d)^-1/2 U^T.

    Args:
        images, reference: as of `invert_zca`; each channel is standardised by the
            reference's mean and std.
        unit_norm: u removes each image's mean and makes its norm 1, as KIP does. Both
            are lost: the images get mean 0 and the reference's average norm instead,
            so brightness and contrast of single images are not recovered. Else u does
            nothing, as in RFAD.

    Source: google-research/kip, `zca_reg=0.1`; yolky/RFAD, `get_zca_matrix`.
    """
    _check_reference(images, reference)
    mean = reference.mean((0, 2, 3)).view(-1, 1, 1)
    std = reference.std((0, 2, 3)).view(-1, 1, 1)
    norms: list[Tensor] = []

    def standardised(flat: Tensor) -> Tensor:
        flat = ((flat.view(-1, *images.shape[1:]) - mean) / std).flatten(1)
        if unit_norm:
            flat = flat - flat.mean(dim=1, keepdim=True)
            norms.append(flat.norm(dim=1, keepdim=True).clamp(min=1e-6))
            flat = flat / norms[-1]
        return flat

    covariance = _covariance(reference, standardised)
    inverse = _root(covariance, 0.1 * covariance.trace() / len(covariance))
    flat = images.flatten(1).double() @ inverse
    if unit_norm:
        flat = F.normalize(flat) * torch.cat(norms).mean()
    return (flat.view_as(images) * std + mean).float()


def as_stored_there(reference: Any, images: Tensor) -> Any:
    """Return real images (M, C, H, W) as a set stores them, where only that differs.

    Grey ones have one channel there, and 28 pixels where `real` pads them to 32.
    Source: ours.
    """
    if not isinstance(reference, Tensor) or reference.ndim != 4:
        return reference
    if images.shape[1] == 1 and reference.shape[1] == 3:
        reference = one_channel(reference)
    inner = reference[..., 2:-2, 2:-2]
    if inner.shape[-2:] != images.shape[-2:]:
        return reference
    in_margin = inner.count_nonzero() < reference.count_nonzero()
    return reference if in_margin else inner.contiguous()


def _check_reference(images: Tensor, reference: Any) -> None:
    floats(reference, "zca_reference", ("M", *images.shape[1:]))
    require(
        len(reference) > 1 and in_unit_range(reference),
        "zca_reference",
        reference,
        "the real training images, values in [0, 1]",
    )


def _covariance(images: Tensor, prepare: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the mean outer product (D, D) of prepared rows, in float64."""
    total = torch.zeros(2 * [images[0].numel()], dtype=torch.float64)
    for part in images.split(4096):  # in parts: all of CIFAR-10 in float64 is 1.2 GB
        rows = prepare(part.flatten(1).double())
        total.addmm_(rows.T, rows)
    return total / len(images)


def _root(covariance: Tensor, eps: float | Tensor) -> Tensor:
    """Return the inverse of whitening: the root of covariance + eps, (D, D)."""
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * (values.clamp(min=0) + eps).sqrt()) @ vectors.T


# --- Evidence ----------------------------------------------------------------------


def measure(images: Tensor, statistics: Statistics | None) -> Fit:
    """Say in numbers how much images look like pictures of a data set.

    Args:
        images: (N, C, H, W), as read: black 0, white 1.
        statistics: the data set's own mean and std, or None if it is unknown.

    Returns:
        `outside`: share of values outside [0, 1]; `far_outside`: outside [-1, 2];
        with statistics also `contrast`: std in units of the data set's, averaged over
        channels, and `offset`: distance of a channel's mean from the data set's in
        units of the channel's own std, of the channel that is furthest off.
        Source: ours.
    """
    found = {
        "outside": ((images < 0) | (images > 1)).float().mean().item(),
        "far_outside": ((images < -1) | (images > 2)).float().mean().item(),
    }
    if statistics is not None:
        mean, std = (torch.tensor(values) for values in statistics)
        own = images.std((0, 2, 3), correction=0)  # (C,)
        distance = (images.mean((0, 2, 3)) - mean).abs()
        found["contrast"] = (own / std).mean().item()
        found["offset"] = (distance / own.clamp(min=1e-6)).max().item()
    return {name: round(value, 3) for name, value in found.items()}


def slow_shares(images: Tensor) -> Fit:
    """Return what whitening takes away: the share of slow changes in the variance.

    Returns:
        `brightness`: differences in brightness between images; `waves`: changes
        within images over 16 pixels or more.

    Source: ours; natural images have most of their variance there.
    """
    images = images[:: math.ceil(len(images) / 1000)].float()  # a thousand are enough
    images = images - images.mean((0, 2, 3), keepdim=True)
    level = images.mean((2, 3), keepdim=True)
    power = torch.fft.fft2(images - level).abs().square().sum((0, 1))  # (H, W)
    rows, columns = (torch.fft.fftfreq(size) for size in power.shape)  # per pixel
    slow = rows[:, None] ** 2 + columns**2 <= (1 / 16) ** 2
    brightness = level.square().mean() / images.square().mean().clamp(min=1e-12)
    waves = power[slow].sum() / power.sum().clamp(min=1e-12)
    return {"waves": round(waves.item(), 3), "brightness": round(brightness.item(), 3)}


def same_detail(first: Tensor, second: Tensor) -> float:
    """Correlate the finest detail, which no reading changes, of two sets of images.

    Args:
        first, second: (N, C, H, W).

    Returns:
        -1 .. 1, of differences between neighbours in both directions at once: near 1
        if both are the same pictures, whitened or not; near 0 for other pictures of
        the same classes, which have large shapes in common, but no detail; 0 for
        pictures of another shape.
        Source: ours.
    """
    if first.shape != second.shape:
        return 0.0
    fine = [x.float().diff(dim=-1).diff(dim=-2).flatten() for x in (first, second)]
    return F.cosine_similarity(*fine, dim=0, eps=1e-12).item()


def proves_whitening(images: Tensor, copy: Tensor) -> bool:
    """Tell whether a copy shows the same pictures, and not on another scale alone.

    Args:
        images, copy: (N, C, H, W), as stored, and what may be they without whitening.

    Source: ours; see `SAME_DETAIL`.
    """
    if same_detail(images, copy) < SAME_DETAIL:
        return False
    first, second = (
        (each.float() - each.float().mean((0, 2, 3), keepdim=True)).flatten()
        for each in (images, copy)
    )
    return F.cosine_similarity(first, second, dim=0).item() < _RESCALED


def in_unit_range(images: Tensor) -> bool:
    """Tell whether all values lie in [0, 1], give or take what clamping leaves.

    Source: ours: normalised sets have negative values, for black or dark colours.
    """
    low, high = UNIT_RANGE
    return bool(((images >= low) & (images <= high)).all())


def looks_whitened(images: Tensor) -> bool | None:
    """Tell whether images have no slow waves and aren't loud; None: too few to tell."""
    if len(images) < _ENOUGH_IMAGES or min(images.shape[-2:]) < _ENOUGH_PIXELS:
        return None
    return slow_shares(images)["waves"] < _WAVES and images.std().item() < _LOUD


def is_eight_bit(images: Tensor) -> bool:
    """Tell whether all values are multiples of 1/255, as those of real pictures.

    Source: ours: with another mean or std undone they aren't, so it tells these.
    """
    nearest = (images * 255).round() / 255
    off = (images - nearest).abs().max().item()
    return in_unit_range(images) and off < _EIGHT_BIT


def has_colours(images: Tensor) -> bool:
    """Tell whether channels differ by more than a decoder's rounding would make them.

    Source: ours; see `_COLOURS`.
    """
    images = images.float()
    colour = images - images.mean(dim=1, keepdim=True)
    return colour.std().item() > _COLOURS * images.std().item()


def tiles_per_side(images: Tensor) -> int:
    """Return 2 or 3 if each of the images is a square of as many tiles, else 1.

    Tiles have nothing to do with each other: at their edges there is a jump, or margin
    meets margin. Source: ours; NCFM's and IDC's layouts.
    """
    images = images[:: math.ceil(len(images) / 1000)].float()
    for factor in (2, 3):
        if min(images.shape[-2:]) < 2 * factor:
            break
        seams = _seams(images, factor)
        if min(seams) > _SEAM or max(seams) < _MARGIN:
            return factor
    return 1


def _seams(images: Tensor, factor: int) -> list[float]:
    """Return the mean jump at each edge between tiles, against the nine around it."""
    found = []
    for axis in (-1, -2):  # across, down
        jumps = images.diff(dim=axis).abs().movedim(axis, 0).flatten(1).mean(dim=1)
        jumps = jumps + 1e-6  # plain pictures have none
        around = F.avg_pool1d(jumps[None], 9, 1, padding=4, count_include_pad=False)[0]
        step = math.ceil(images.shape[axis] / factor)
        found += (jumps / around)[step - 1 :: step].tolist()
    return found


def fits_better(other: Fit, here: Fit) -> bool:
    """Tell whether another reading's means are clearly nearer than those of this one.

    Both are what `measure` gives. Source: ours; see `_OFFSET`.
    """
    return here["offset"] > _OFFSET and other["offset"] < _CLOSER * here["offset"]


def better_neighbour(count: int, before: Fit, here: Fit, after: Fit) -> str | None:
    """Say which reading fits better: "before", "after" or (None) neither.

    All are what `measure` gives: `here` of the images as they were read, the others
    with one undoing of mean and std less and more. Fewer than 10 images tell nothing.
    """
    enough = count >= _ENOUGH_IMAGES
    if enough and here["contrast"] < _PALE and fits_better(before, here):
        return "before"
    if enough and here["contrast"] > _GLARING and fits_better(after, here):
        return "after"
    return None


# --- Undoing -----------------------------------------------------------------------


def known_statistics(dataset: str, family: str, advice: str = "") -> Statistics:
    """Return the mean and std with which a family of repositories stores a data set.

    Raises `InputError`, with some advice, where none are known. Source: `names.TABLES`.
    """
    table = STATISTICS[family]
    name = family_name(dataset)
    ensure(
        name in table,
        f"data set {dataset!r}: no mean and std are known for this format (known: "
        f"{[*table]} and ImageNet subsets){advice}",
    )
    return table[name]


def family_name(dataset: str | None) -> str:
    """Return the name under which the tables have a data set's numbers."""
    return "imagenet" if dataset in SUBSETS else dataset or ""
