"""How far images lie apart: in the prior's latent space, and in their coarse layout.

Every function of `measure` takes sets as they are and clips their pixels to [0, 1]
first, because neither the VAE nor a judge of real images has met other values. Classes
are matched by name. Sets that differ in classes or image size, and pairs that differ in
length or labels, end in `InputError`. Source of all: ours, where no other is named.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations_with_replacement

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from diver_lite.checks import InputError, require
from diver_lite.priors.contract import Prior, fit_images
from diver_lite.sets.classes import in_order_of
from diver_lite.sets.distilled import DistilledSet


def latent_vectors(images: Tensor, prior: Prior) -> Tensor:
    """Encode images (N, 3, H, W), clipped to [0, 1], at the prior's size.

    Returns:
        (N, C*h*w) float32 on the CPU, about unit variance for real images: the modes of
        the VAE's posterior.
    """
    parts = images.clamp(0, 1).split(100)
    return torch.cat(
        [prior.encode(fit_images(x, prior)).flatten(1).cpu() for x in parts]
    )


def latent_distances(sets: Mapping[str, DistilledSet], prior: Prior) -> pd.DataFrame:
    """Measure how far sets (name -> set) lie apart in the prior's latent space.

    If recovery filters noise, sets of several Stage-I methods come closer to each other
    *and* to real images; if it swaps one bias for another, only to each other. Sets
    that lose all variety come closer in "same class" and "other class" alike. Recover
    the methods with different seeds: the same noise alone makes sets look alike.

    Returns:
        One row per pair of sets (each also with itself) and relation: set_a, set_b,
        relation ("same class", "other class"), pairs of images, none with itself, and
        the means over them of cosine_distance = 1 - cosine and l2_distance; NaN where
        there are none.

    Source: ours; the question is a reviewer's of the paper.
    """
    sets = alike(sets)
    latents = {name: latent_vectors(s.images, prior) for name, s in sets.items()}
    rows = []
    for a, b in combinations_with_replacement(sets, 2):
        same = sets[a].labels[:, None] == sets[b].labels  # (Na, Nb)
        relations = {"same class": same, "other class": ~same}
        if a == b:
            same.fill_diagonal_(False)
        distances = _cosine_and_l2(latents[a], latents[b])
        for relation, pairs in relations.items():
            means = [distance[pairs].mean().item() for distance in distances]
            rows.append((a, b, relation, int(pairs.sum()), *means))
    columns = ["set_a", "set_b", "relation", "pairs", "cosine_distance", "l2_distance"]
    return pd.DataFrame(rows, columns=columns)


def source_distances(
    recovered: DistilledSet, source: DistilledSet, prior: Prior
) -> pd.DataFrame:
    """Measure how much image i of a recovered set keeps of image i of its source.

    Returns:
        One row per image: index, class, cosine_distance and l2_distance of the latents,
        layout (see `layout_correlation`), and rank: how many other sources of the same
        class lie strictly nearer. Rank 0 means that the image still tells its own
        source from the others; by chance it has it once in IPC times.
    """
    recovered, source = paired(recovered=recovered, source=source)
    latents = (latent_vectors(s.images, prior) for s in (recovered, source))
    cosine, l2 = _cosine_and_l2(*latents)
    own = l2.diagonal()
    same = source.labels[:, None] == source.labels
    return image_rows({"": source})[["index", "class"]].assign(
        cosine_distance=cosine.diagonal().numpy(),
        l2_distance=own.numpy(),
        layout=layout_correlation(recovered.images, source.images).numpy(),
        rank=((l2 < own[:, None]) & same).sum(1).numpy(),
    )


def layout_correlation(a: Tensor, b: Tensor) -> Tensor:
    """Correlate the coarse layouts of image i of `a` and image i of `b`.

    Both (N, C, H, W) are averaged over a grid of 8 x 8 cells first, so that fine
    patterns, which recovery is meant to remove, don't count. Smaller images, or two
    shapes, are an `InputError`.

    Returns:
        (N,) Pearson correlation in [-1, 1]; 0 where an image is constant.
    """
    if a.shape != b.shape or min(a.shape[-2:]) < 8:
        raise InputError(
            f"images are {tuple(a.shape)} and {tuple(b.shape)}; expected equal shapes "
            "of at least 8 x 8 pixels"
        )
    cells = []
    for images in (a, b):
        pooled = F.adaptive_avg_pool2d(images.clamp(0, 1).double(), 8).flatten(1)
        pooled = pooled - pooled.mean(1, keepdim=True)
        # means of equal values differ from them by rounding: no layout, not a tiny one
        pooled[pooled.abs().amax(1) < 1e-9] = 0
        cells.append(pooled)
    return F.cosine_similarity(*cells, dim=1).float()


def _cosine_and_l2(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return all cosine and L2 distances, both (Na, Nb) float64."""
    a, b = a.double(), b.double()
    cosine = 1 - F.normalize(a) @ F.normalize(b).T
    # differences, not the faster expansion of (a - b)^2: equal vectors are at 0
    l2 = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
    return cosine, l2


def alike(sets: Mapping[str, DistilledSet]) -> dict[str, DistilledSet]:
    """Return sets with their classes in one order; refuse what can't be compared."""
    require(len(sets) > 0, "sets", sets, "at least one name with a set")
    first_name, first = next(iter(sets.items()))
    theirs, joined = f"set {first_name!r}", {}
    for name, other in sets.items():
        joined[name] = in_order_of(other, first.class_names, f"set {name!r}", theirs)
        found, expected = (tuple(s.images.shape[1:]) for s in (other, first))
        what = f"size of the images of set {name!r}"
        require(found == expected, what, found, f"{expected}, as in {theirs}")
    return joined


def paired(**sets: DistilledSet) -> tuple[DistilledSet, ...]:
    """Return sets as `alike` does; refuse those whose images i are no pair."""
    (first_name, first), *others = (joined := alike(sets)).items()
    expected = f"the same labels in the same order as in set {first_name!r}: image i "
    expected += "of one is made from image i of the other"
    for name, other in others:
        same = torch.equal(other.labels, first.labels)
        require(same, f"labels of set {name!r}", other.labels, expected)
    return tuple(joined.values())


def image_rows(sets: Mapping[str, DistilledSet]) -> pd.DataFrame:
    """Return a row for each image of several sets: set, class, index."""
    rows = [
        (name, s.class_names[label], index)
        for name, s in sets.items()
        for index, label in enumerate(s.labels.tolist())
    ]
    return pd.DataFrame(rows, columns=["set", "class", "index"])
