"""Whether a set copies the training images: the nearest of them to each image.

Source of all: ours; distances to neighbours are the usual test for memorised images,
e.g. Somepalli et al. 2023.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import torch
from scipy import stats
from sklearn.metrics import pairwise_distances_argmin
from torch import Tensor, nn

from bookkit.features import judge_features
from bookkit.latents import alike, image_rows
from diver_lite.checks import floats, integer, require
from diver_lite.judge.compare import CONFIDENCE
from diver_lite.sets.classes import in_order_of
from diver_lite.sets.distilled import DistilledSet

HELD_OUT = "held-out real"


def nearest_real(
    images: Tensor, real: Tensor, judge: nn.Module | None = None
) -> tuple[Tensor, Tensor]:
    """Find the nearest real image to each image, to see whether a set copies them.

    Args:
        images: (N, 3, H, W); clipped to [0, 1].
        real: (M, 3, H, W) training images, as `load_dataset` gives them.
        judge: compare its features (see `judge_features`) instead of pixels.

    Returns:
        L2 distances (N,) float32, exactly 0 for a copy, and indices into `real` (N,)
        int64.
    """
    floats(images, "images", ("N", *real.shape[1:]))

    def vectors(part: Tensor) -> Tensor:
        if judge is None:
            return part.clamp(0, 1).flatten(1)
        return judge_features(judge, part)

    # 50,000 images need no second copy: pixels as they are, features a part at a time
    among = real.flatten(1)
    if judge is not None:
        among = torch.cat([vectors(part) for part in real.split(1_000)])
    queries = vectors(images)
    index = pairwise_distances_argmin(queries.numpy(), among.numpy())
    nearest = torch.from_numpy(index)
    gaps = queries.double() - vectors(real[nearest]).double()
    return gaps.norm(dim=1).float(), nearest


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
        sets: name -> set; none of them called "held-out real".
        real: the training images, (images, labels, class names) of `load_dataset`.
        held_out: real images that nothing was trained on, some of each class.
        judge: compare its features instead of pixels.

    Returns:
        One row per image of `held_out` (named "held-out real") and of the sets: set,
        index, class, distance to the nearest training image, nearest (its index),
        nearest_class, and ratio: the distance in units of the mean distance of
        held-out images of that class. 0 is a copy, about 1 as new as a new photograph.
    """
    require(HELD_OUT not in sets, "a set's name", HELD_OUT, "another name")
    images, labels, class_names = real
    held_out = in_order_of(held_out, class_names, "held_out", "the training images")
    every = alike({HELD_OUT: held_out, **sets})
    missing = set(range(len(class_names))) - set(held_out.labels.tolist())
    names = [class_names[i] for i in sorted(missing)]
    require(not missing, "held_out: classes without images", names, "none")
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
    """Say per set of a table of `copying_distances` how near it comes to copying.

    Returns:
        One row per set: images, median_ratio, min_ratio, same_class (share whose
        nearest training image has their class), and share_near, the share of ratios
        below the 5 % quantile of held-out real images, with low and high, its 95 %
        Wilson interval: 5 % is what new images have.
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


def wilson(count: int, total: int) -> tuple[float, float]:
    """Return the 95 % Wilson score interval of a share, `count` of `total`.

    Raises `InputError`: a total below 1, a count not in 0 .. `total`. Source: Wilson
    1927.
    """
    integer(total, "total", 1, 2**63 - 1)
    integer(count, "count", 0, total)
    found = stats.binomtest(count, total).proportion_ci(CONFIDENCE, method="wilson")
    return float(found.low), float(found.high)
