"""Whether a set copies the training images: the nearest of them to each image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from diver_lite.checks import InputError, floats
from diver_lite.distilled import DistilledSet
from diver_lite.judge.compare import wilson
from diver_lite.measure.features import judge_features
from diver_lite.measure.latents import alike, image_rows
from diver_lite.sets.classes import in_order_of

HELD_OUT = "held-out real"
CHUNK = 1_000  # real images at a time, so that 50,000 of them need no second copy


def nearest_real(
    images: Tensor, real: Tensor, judge: nn.Module | None = None
) -> tuple[Tensor, Tensor]:
    """Find the nearest real image to each image, to see whether a set copies them.

    Args:
        images: (N, 3, H, W); clipped to [0, 1].
        real: (M, 3, H, W) training images, as `load_dataset` gives them.
        judge: compare its features (see `judge_features`) instead of pixels.

    Returns:
        L2 distances (N,) float32, and indices into `real` (N,) int64.

    Raises:
        InputError: images of different size.

    Source: ours.
    """
    floats(images, "images", ("N", *real.shape[1:]))

    def vectors(part: Tensor) -> Tensor:
        if judge is not None:
            return judge_features(judge, part).double()
        return part.clamp(0, 1).flatten(1).double()

    queries = vectors(images)
    distances = torch.full((len(images),), torch.inf, dtype=torch.float64)
    nearest = torch.zeros(len(images), dtype=torch.long)
    for start in range(0, len(real), CHUNK):
        part = vectors(real[start : start + CHUNK])
        # the expansion of (a - b)^2 is one matrix product; in float64 its rounding
        # can't change an order that float32 pixels distinguish
        found = torch.cdist(queries, part, compute_mode="use_mm_for_euclid_dist")
        lowest, column = found.min(1)
        nearest = torch.where(lowest < distances, start + column, nearest)
        distances = lowest.minimum(distances)
    # the winners again by plain differences, so that an exact copy is at exactly 0
    distances = (queries - vectors(real[nearest])).norm(dim=1)
    return distances.float(), nearest


def copying_distances(
    sets: Mapping[str, DistilledSet],
    real: tuple,
    held_out: DistilledSet,
    *,
    judge: nn.Module | None = None,
) -> pd.DataFrame:
    """Measure whether images are nearer to the training images than new ones are.

    A smooth picture lies nearer to everything than a detailed one, so add two controls:
    held-out images through the VAE, which copy nothing, and training images through it,
    which have to be found.

    Args:
        sets: name -> set; all with the classes and image size of the training images.
        real: the training images, (images, labels, class names) of `load_dataset`.
        held_out: real images that nothing was trained on, some of each class.
        judge: compare its features instead of pixels.

    Returns:
        One row per image of `held_out` (named "held-out real") and of the sets: set,
        index, class, distance to the nearest training image, nearest (its index),
        nearest_class, and ratio: the distance in units of the mean distance of
        held-out images of that class. 0 is a copy, about 1 as new as a new photograph.

    Raises:
        InputError: sets that differ in classes or image size, a class of which
            `held_out` has no image, or a set that is called "held-out real".

    Source: ours; distances to neighbours are the usual test for memorised images, e.g.
    Somepalli et al. 2023; the controls: ours.
    """
    if HELD_OUT in sets:
        raise InputError(f"a set is called {HELD_OUT!r}; expected another name")
    images, labels, class_names = real
    held_out = in_order_of(held_out, class_names, "held_out", "the training images")
    every = alike({HELD_OUT: held_out, **sets})
    if missing := set(range(len(class_names))) - set(held_out.labels.tolist()):
        raise InputError(
            f"held_out has no images of {[class_names[i] for i in sorted(missing)]}; "
            "expected some of every class"
        )
    images_of_all = torch.cat([s.images for s in every.values()])
    distances, nearest = nearest_real(images_of_all, images, judge)
    table = image_rows(every).assign(
        distance=distances.numpy(),
        nearest=nearest.numpy(),
        nearest_class=[class_names[i] for i in labels[nearest].tolist()],
    )
    usual: Any = table[table["set"] == HELD_OUT].groupby("class")["distance"].mean()
    return table.assign(ratio=table["distance"] / table["class"].map(usual))


def copying_summary(table: pd.DataFrame) -> pd.DataFrame:
    """Say per set how near it comes to the training images.

    Args:
        table: as `copying_distances` returns it.

    Returns:
        One row per set: images, median_ratio, min_ratio, same_class (share whose
        nearest training image has their class), and share_near, the share of ratios
        below the 5 % quantile of held-out real images, with low and high, its 95 %
        Wilson interval: 5 % is what new images have.

    Source: ours.
    """
    bound = table.loc[table["set"] == HELD_OUT, "ratio"].quantile(0.05)
    verdicts = table.assign(
        near=table["ratio"] < bound, same=table["nearest_class"] == table["class"]
    )
    sets: Any = verdicts.groupby("set", sort=False)
    summary = sets.agg(
        images=("ratio", "size"),
        median_ratio=("ratio", "median"),
        min_ratio=("ratio", "min"),
        same_class=("same", "mean"),
        share_near=("near", "mean"),
    )
    near = zip(sets["near"].sum(), summary["images"], strict=True)
    summary[["low", "high"]] = [wilson(count, total) for count, total in near]
    return summary.reset_index()
