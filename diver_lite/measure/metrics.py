"""What a recovery did to a set, in numbers that need no training on the set itself.

Distances between latents, the verdict of a judge that was trained on real data, the
distance of distributions in that judge's features, neighbours among the training
images, and the cases where the prior overruled the distilled image.

Every function takes sets as they are and clips their pixels to [0, 1] first, because
neither the VAE nor a judge trained on real images has met other values.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import combinations_with_replacement
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from diver_lite.checks import InputError, first_line
from diver_lite.distilled import DistilledSet
from diver_lite.files import atomic_path
from diver_lite.judge.compare import wilson
from diver_lite.judge.networks import PROXY, ConvNet, build_judge
from diver_lite.judge.protocols import Protocol, get_protocol
from diver_lite.judge.record import images_fingerprint, protocol_fingerprint
from diver_lite.judge.training import fit_judge, predict
from diver_lite.prior import Prior
from diver_lite.sets.classes import in_order_of

HELD_OUT = "held-out real"

# ---------------------------------------------------------------- latents


def latent_vectors(images: Tensor, prior: Prior) -> Tensor:
    """Encode images into flat latents.

    Args:
        images: (N, 3, H, W); clipped to [0, 1] and brought to the prior's size.
        prior: its VAE encodes them (posterior mode).

    Returns:
        (N, C*h*w) float32 on the CPU, about unit variance for real images.

    Source: ours.
    """
    parts = (
        prior.encode(prior.fit_images(part.clamp(0, 1))).flatten(1).cpu()
        for part in images.split(100)
    )
    return torch.cat([*parts])


def latent_distances(sets: Mapping[str, DistilledSet], prior: Prior) -> pd.DataFrame:
    """Measure how far sets lie apart in the prior's latent space.

    Pass sets of several Stage-I methods, the same sets after recovery, and real images:
    if recovery filters noise, sets of different methods come closer to each other
    *and* to real images; if it swaps one bias for another, only to each other. Read
    "same class" beside "other class": sets that lose all variety come closer in both.

    Recover the methods with different seeds. Under one seed, image i of every method
    gets the same noise, and the sets look alike for that reason alone. Between a set
    and its own refined version, an image and its source are one of the pairs; see
    `source_distances` for these alone.

    Args:
        sets: name -> set; all with the same classes and image size.
        prior: its VAE gives the latents.

    Returns:
        One row per pair of sets (each also with itself, without pairs of an image with
        itself) and relation: set_a, set_b, relation ("same class", "other class"),
        pairs, and the mean over those pairs of images of cosine_distance = 1 - cosine
        and l2_distance. NaN where there is no such pair.

    Raises:
        InputError: no sets, or sets that differ in classes or image size.

    Source: ours; the question is a reviewer's of the paper.
    """
    sets = _alike(sets)
    latents = {name: latent_vectors(s.images, prior) for name, s in sets.items()}
    rows = []
    for a, b in combinations_with_replacement(sets, 2):
        same = sets[a].labels[:, None] == sets[b].labels[None]  # (Na, Nb)
        other = ~same
        if a == b:
            same = same & ~torch.eye(len(same), dtype=torch.bool)
        cosine, l2 = _cosine_and_l2(latents[a], latents[b])
        for relation, pairs in {"same class": same, "other class": other}.items():
            rows.append(
                {
                    "set_a": a,
                    "set_b": b,
                    "relation": relation,
                    "pairs": int(pairs.sum()),
                    "cosine_distance": cosine[pairs].mean().item(),
                    "l2_distance": l2[pairs].mean().item(),
                }
            )
    return pd.DataFrame(rows)


def source_distances(
    recovered: DistilledSet, source: DistilledSet, prior: Prior
) -> pd.DataFrame:
    """Measure how much of its own source each image keeps.

    Args:
        recovered: image i was made from image i of `source`.
        source: the set before.
        prior: its VAE gives the latents.

    Returns:
        One row per image: index, class, cosine_distance and l2_distance of the latents,
        layout (see `layout_correlation`), and rank: how many other sources of the same
        class lie strictly nearer. Rank 0 means that the image still tells its own
        source from the others; by chance it has it once in IPC times.

    Raises:
        InputError: the sets differ in length, labels, classes or image size.

    Source: ours.
    """
    recovered, source = _paired(recovered=recovered, source=source)
    after = latent_vectors(recovered.images, prior)
    before = latent_vectors(source.images, prior)
    cosine, l2 = _cosine_and_l2(after, before)
    own = l2.diagonal()
    same = source.labels[:, None] == source.labels[None]
    return pd.DataFrame(
        {
            "index": np.arange(len(source)),
            "class": _names(source),
            "cosine_distance": cosine.diagonal().numpy(),
            "l2_distance": own.numpy(),
            "layout": layout_correlation(recovered.images, source.images).numpy(),
            "rank": ((l2 < own[:, None]) & same).sum(1).numpy(),
        }
    )


def layout_correlation(a: Tensor, b: Tensor, size: int = 8) -> Tensor:
    """Correlate the coarse layouts of image i of `a` and image i of `b`.

    Args:
        a, b: (N, C, H, W), H and W at least `size`; clipped to [0, 1].
        size: both are averaged over a grid of size x size cells first, so that fine
            patterns, which recovery is meant to remove, don't count.

    Returns:
        (N,) Pearson correlation in [-1, 1]; 0 where an image is constant.

    Raises:
        InputError: different shapes, or images smaller than the grid.

    Source: ours.
    """
    if a.shape != b.shape or min(a.shape[-2:]) < size:
        raise InputError(
            f"images are {tuple(a.shape)} and {tuple(b.shape)}; expected equal shapes "
            f"of at least {size} x {size} pixels"
        )
    cells = []
    for images in (a, b):
        pooled = F.adaptive_avg_pool2d(images.clamp(0, 1).double(), size).flatten(1)
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


# ---------------------------------------------------------------- a judge of real data


def real_judge(
    dataset: tuple,
    path: str | Path | None = None,
    *,
    name: str = PROXY,
    seed: int = 0,
    protocol: str | Protocol = "real",
    progress: bool = False,
) -> nn.Module:
    """Train a judge on real images, or load it if that was done before.

    Args:
        dataset: images (N, 3, H, W) in [0, 1], labels (N,), class names, as
            `load_dataset` gives them.
        path: keep the weights there, as .safetensors, and load them next time.
        name: a key of `JUDGES`. The default is the network that Stage I distils on, so
            it may flatter Stage I: ask a second one too.
        seed: fixes everything that is random.
        protocol: a name or a `Protocol`.
        progress: show a progress bar.

    Raises:
        InputError: `path` holds a judge that was trained in another way, or no judge.

    Source: ours.
    """
    images, labels, class_names = dataset
    protocol = get_protocol(protocol)
    made = {
        "judge": name,
        "images": len(images),
        "classes": len(class_names),
        "class_names": list(class_names),
        "seed": seed,
        **json.loads(json.dumps(asdict(protocol))),
    }
    if path is not None:  # digests of the images, and of protocol and code
        made["data"] = images_fingerprint(images, labels)
        made["training"] = protocol_fingerprint(protocol)
    if path is not None and Path(path).exists():
        return _load_judge(Path(path), made, images.shape[-1])
    judge = fit_judge(
        name,
        images,
        labels,
        num_classes=len(class_names),
        seed=seed,
        protocol=protocol,
        progress=progress,
    )
    if path is not None:
        weights = {k: v.contiguous() for k, v in judge.state_dict().items()}
        # a run beside this one may have been faster, with the same result
        with atomic_path(path, overwrite=True) as temporary:
            save_file(weights, temporary, {"made": json.dumps(made)})
    judge.class_names = tuple(class_names)
    return judge


def _load_judge(path: Path, wanted: dict, image_size: int) -> nn.Module:
    try:
        with safe_open(path, "pt") as file:
            found = json.loads((file.metadata() or {})["made"])
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise InputError(
            f"judge file {path} can't be read ({first_line(error)}); delete it or "
            "choose another path"
        ) from None
    for key, value in wanted.items():
        if value != found.get(key):
            raise InputError(
                f"judge file {path} was made with {key} {found.get(key)!r}, expected "
                f"{value!r}; delete it or choose another path"
            )
    judge = build_judge(wanted["judge"], wanted["classes"], image_size, wanted["seed"])
    judge.load_state_dict(weights)
    judge.class_names = tuple(wanted["class_names"])
    return judge.eval()


@dataclass(frozen=True)
class Agreement:
    """What a judge of real data says about a set.

    Attributes:
        table: one row per image: index, class (intended), predicted, agrees, and
            confidence, the probability that the judge gives the intended class.
    """

    table: pd.DataFrame

    @property
    def share(self) -> float:
        """Share of images that the judge gives their intended class, in [0, 1]."""
        return float(self.table["agrees"].mean())

    @property
    def confidence(self) -> float:
        """Mean probability of the intended class, in [0, 1]."""
        return float(self.table["confidence"].mean())


def class_agreement(
    distilled: DistilledSet, judge: nn.Module, protocol: str | Protocol = "real"
) -> Agreement:
    """Ask a judge of real data whether the images show their intended class.

    Args:
        distilled: the set; clipped to [0, 1].
        judge: gives one logit per class of the set. The classes of a `real_judge` are
            found by name, another judge's are taken to be in the set's order.
        protocol: with which the judge was trained; its statistics normalise the images.

    Raises:
        InputError: the judge knows other classes.

    Source: ours. Agreement is about the label only: an image may be right and unlike
    its source, see `source_distances`.
    """
    names = getattr(judge, "class_names", distilled.class_names)
    distilled = in_order_of(distilled, names, theirs="the judge")
    names = distilled.class_names
    probabilities = predict(judge, distilled.images.clamp(0, 1), protocol).softmax(1)
    if probabilities.shape[1] != len(names):
        raise InputError(
            f"the judge knows {probabilities.shape[1]} classes, the set has "
            f"{len(names)}"
        )
    predicted = probabilities.argmax(1)
    table = pd.DataFrame(
        {
            "index": np.arange(len(distilled)),
            "class": _names(distilled),
            "predicted": [names[i] for i in predicted.tolist()],
            "agrees": (predicted == distilled.labels).numpy(),
            "confidence": probabilities.gather(1, distilled.labels[:, None])[:, 0],
        }
    )
    return Agreement(table)


# ---------------------------------------------------------------- distributions


def judge_features(
    judge: nn.Module, images: Tensor, protocol: str | Protocol = "real"
) -> Tensor:
    """Return what a judge's last linear layer reads, in a small dimension.

    Args:
        judge: a network that ends in a linear layer; all of `JUDGES` do.
        images: (N, 3, H, W); clipped to [0, 1].
        protocol: with which the judge was trained; its statistics normalise the images.

    Returns:
        (N, D) float32. A `ConvNet` ends in maps of 4 x 4 cells, which are averaged:
        D = 128. ShuffleNetV2: 1024, MobileNetV2: 1280, ResNet18: 512.

    Source: as FID reads Inception's last pooling layer, Heusel et al. 2017.
    """
    last = [module for module in judge.modules() if isinstance(module, nn.Linear)][-1]
    seen: list[Tensor] = []
    hook = last.register_forward_pre_hook(lambda _, args: seen.append(args[0].cpu()))
    try:
        predict(judge, images.clamp(0, 1), protocol)
    finally:
        hook.remove()
    features = torch.cat(seen)
    if isinstance(judge, ConvNet):  # (N, width * cells) -> (N, width)
        width = judge.features[0].out_channels
        features = features.unflatten(1, (width, -1)).mean(-1)
    return features


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Return the Frechet distance between Gaussians fitted to two sets of features.

    |mean_a - mean_b|^2 + Tr(C_a + C_b - 2 (C_a C_b)^(1/2)). With C = X'X for centred
    features X / sqrt(n - 1), the last trace is the sum of the singular values of
    X_a X_b', which needs no matrix root and no regularisation when n <= D.

    Few images bias it upwards: the covariance of n <= D images leaves out directions
    that the population has. Compare only sets of equal n, and beside the value of n
    real images; or use `kernel_distance`, which has no such bias.

    Args:
        a, b: (n, D) features; each n at least 2.

    Returns:
        The distance, >= 0; 0 for equal means and covariances.

    Raises:
        InputError: fewer than 2 images, or features of different dimension.

    Source: Frechet distance of Gaussians, Dowson and Landau 1982; in features, Heusel
    et al. 2017 (FID); the form for small n: ours.
    """
    a, b = _check_features(a, b)
    means = [x.mean(0) for x in (a, b)]
    roots = []
    for x, mean in zip((a, b), means, strict=True):
        root = (x - mean) / (len(x) - 1) ** 0.5  # root' root is the covariance
        # many images: the triangular factor is a root of the same covariance
        roots.append(torch.linalg.qr(root, "r").R if len(x) > x.shape[1] else root)
    cross = torch.linalg.svdvals(roots[0] @ roots[1].T).sum()
    traces = sum(root.square().sum() for root in roots)
    squared = (means[0] - means[1]).square().sum()
    return max(0.0, float(squared + traces - 2 * cross))


def kernel_distance(a: Tensor, b: Tensor) -> float:
    """Return the unbiased squared maximum mean discrepancy of two sets of features.

    The kernel is the cubic polynomial (x'y / D + 1)^3. The estimate has no bias at any
    n, so that sets of 10 and of 100 images can be compared; it is negative now and then
    when both come from one distribution.

    Args:
        a, b: (n, D) features; each n at least 2.

    Raises:
        InputError: fewer than 2 images, or features of different dimension.

    Source: Gretton et al. 2012, eq. 3; the kernel: Binkowski et al. 2018 (KID).
    """
    a, b = _check_features(a, b)

    def kernel(x, y):
        return (x @ y.T / x.shape[1] + 1) ** 3

    within = 0.0
    for x in (a, b):
        values = kernel(x, x)
        within += (values.sum() - values.trace()) / (len(x) * (len(x) - 1))
    return float(within - 2 * kernel(a, b).mean())


def _check_features(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    for name, x in {"a": a, "b": b}.items():
        if x.ndim != 2 or len(x) < 2:
            raise InputError(
                f"features {name} have shape {tuple(x.shape)}; expected (n, D) with at "
                "least 2 images"
            )
    if a.shape[1] != b.shape[1]:
        raise InputError(
            f"features have {a.shape[1]} and {b.shape[1]} dimensions; expected the same"
        )
    return a.double(), b.double()


# ---------------------------------------------------------------- pictures of sets


def embed_2d(
    sets: Mapping[str, DistilledSet],
    *,
    judge: nn.Module | None = None,
    prior: Prior | None = None,
    perplexity: float = 30.0,
    seed: int = 0,
) -> pd.DataFrame:
    """Lay all images of several sets out in one plane with t-SNE.

    Neighbourhoods mean something in such a plane; distances between far points and
    sizes of clusters do not. Use `latent_distances` for those.

    Args:
        sets: stage ("real", "Stage I", "VAE only", "DIVER", ...) -> set; all with the
            same classes and image size.
        judge: use its features (see `judge_features`); pass this or `prior`.
        prior: use its VAE's latents.
        perplexity: about how many neighbours count, > 0; lowered to (n - 1) / 3 where
            there are few images.
        seed: of t-SNE; the same seed on the same machine gives the same plane.

    Returns:
        One row per image: x, y, stage, class, index, space ("judge's features" or
        "VAE latents").

    Raises:
        InputError: sets that differ, fewer than 5 images, or both or neither of `judge`
            and `prior`.

    Source: van der Maaten and Hinton 2008, scikit-learn's implementation, after PCA to
    at most 50 dimensions.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    sets = _alike(sets)
    if (judge is None) == (prior is None):
        raise InputError("pass either judge or prior: the space to embed")
    if not perplexity > 0:
        raise InputError(f"perplexity is {perplexity!r}; expected a number > 0")
    count = sum(len(s) for s in sets.values())
    if count < 5:
        raise InputError(f"the sets hold {count} images; expected at least 5")
    vectors = torch.cat(
        [
            judge_features(judge, s.images)
            if prior is None
            else latent_vectors(s.images, prior)
            for s in sets.values()
        ]
    ).numpy()
    components = min(50, *vectors.shape)
    vectors = PCA(components, svd_solver="full", random_state=seed).fit_transform(
        vectors
    )
    plane = TSNE(
        perplexity=min(perplexity, (count - 1) / 3), init="pca", random_state=seed
    ).fit_transform(vectors)
    return pd.DataFrame(
        {
            "x": plane[:, 0],
            "y": plane[:, 1],
            "stage": [stage for stage, s in sets.items() for _ in range(len(s))],
            "class": [name for s in sets.values() for name in _names(s)],
            "index": [index for s in sets.values() for index in range(len(s))],
            "space": "VAE latents" if judge is None else "judge's features",
        }
    )


def nearest_real(
    images: Tensor,
    real: Tensor,
    k: int = 1,
    *,
    prior: Prior | None = None,
    judge: nn.Module | None = None,
    chunk: int = 1_000,
) -> tuple[Tensor, Tensor]:
    """Find the nearest real images, to see whether a set copies them.

    Compare the distances with those of real test images: a set copies if it lies
    nearer to the training images than new real images do.

    Args:
        images: (N, 3, H, W); clipped to [0, 1].
        real: (M, 3, H, W) training images, as `load_dataset` gives them.
        k: how many neighbours, 1 .. M.
        prior: compare latents of its VAE instead of pixels.
        judge: compare its features (see `judge_features`) instead of pixels.
        chunk: real images at a time, so that 50,000 of them need no second copy.

    Returns:
        L2 distances (N, k), nearest first, and indices into `real` (N, k) int64.

    Raises:
        InputError: images of different size, k out of range, or both `prior` and
            `judge`.

    Source: ours.
    """
    if prior is not None and judge is not None:
        raise InputError("pass prior or judge, not both: one space at a time")
    if images.ndim != 4 or images.shape[1:] != real.shape[1:]:
        raise InputError(
            f"images are {tuple(images.shape[1:])} each, the real ones "
            f"{tuple(real.shape[1:])}; bring both to one size"
        )
    if not 1 <= k <= len(real):
        raise InputError(f"k is {k}; expected 1 .. {len(real)}, the real images")

    def vectors(part: Tensor) -> Tensor:
        if judge is not None:
            return judge_features(judge, part).double()
        if prior is not None:
            return latent_vectors(part, prior).double()
        return part.clamp(0, 1).flatten(1).double()

    queries = vectors(images)
    distances = torch.full((len(images), 0), torch.inf, dtype=torch.float64)
    indices = torch.zeros((len(images), 0), dtype=torch.long)
    for start in range(0, len(real), chunk):
        part = vectors(real[start : start + chunk])
        # the expansion of (a - b)^2 is one matrix product; in float64 its rounding
        # can't change an order that float32 pixels distinguish
        found = torch.cdist(
            queries, part, compute_mode="use_mm_for_euclid_dist"
        )  # (N, chunk)
        distances = torch.cat([distances, found], 1)
        numbers = torch.arange(start, start + len(part)).expand(len(images), -1)
        indices = torch.cat([indices, numbers], 1)
        distances, order = distances.topk(min(k, distances.shape[1]), largest=False)
        indices = indices.gather(1, order)
    # the winners again by plain differences, so that an exact copy is at exactly 0
    for column in range(k):
        winners = vectors(real[indices[:, column]])
        distances[:, column] = (queries - winners).norm(dim=1)
    return distances.float(), indices


def copying_distances(
    sets: Mapping[str, DistilledSet],
    real: tuple,
    held_out: DistilledSet,
    *,
    judge: nn.Module | None = None,
) -> pd.DataFrame:
    """Measure whether images are nearer to the training images than new ones are.

    A smooth picture lies nearer to everything than a detailed one, so put two controls
    among the sets: held-out images through the VAE, which copy nothing and are as
    smooth, and training images through it, which are copies and have to be found.

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
    every = _alike({HELD_OUT: held_out, **sets})
    if missing := set(range(len(class_names))) - set(held_out.labels.tolist()):
        raise InputError(
            f"held_out has no images of {[class_names[i] for i in sorted(missing)]}; "
            "expected some of every class"
        )
    distances, nearest = nearest_real(
        torch.cat([s.images for s in every.values()]), images, judge=judge
    )
    table = pd.DataFrame(
        {
            "set": [name for name, s in every.items() for _ in range(len(s))],
            "index": [i for s in every.values() for i in range(len(s))],
            "class": [name for s in every.values() for name in _names(s)],
            "distance": distances[:, 0].numpy(),
            "nearest": nearest[:, 0].numpy(),
            "nearest_class": [class_names[i] for i in labels[nearest[:, 0]].tolist()],
        }
    )
    usual = table[table["set"] == HELD_OUT].groupby("class")["distance"].mean()
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
    rows = []
    for name, mine in table.groupby("set", sort=False):
        near = int((mine["ratio"] < bound).sum())
        low, high = wilson(near, len(mine))
        rows.append(
            {
                "set": name,
                "images": len(mine),
                "median_ratio": mine["ratio"].median(),
                "min_ratio": mine["ratio"].min(),
                "same_class": (mine["nearest_class"] == mine["class"]).mean(),
                "share_near": near / len(mine),
                "low": low,
                "high": high,
            }
        )
    return pd.DataFrame(rows)


# ---------------------------------------------------------------- failures


def find_failures(
    source: DistilledSet,
    recovered: DistilledSet,
    raw: DistilledSet,
    judge: nn.Module,
    prior: Prior,
) -> pd.DataFrame:
    """Find the images in which the prior overruled the distilled image.

    What counts as losing the content is relative to `raw`: images of one class share
    most of their layout, so an absolute bound would hardly ever be crossed.

    Args:
        source: the distilled set.
        recovered: the set that `recover` made of it.
        raw: what `raw_prior` makes of the same labels, noise (seed) and guidance scale:
            what the prior draws if it is not shown the distilled image.
        judge: trained on real data, see `real_judge`.
        prior: its VAE gives the latents.

    Returns:
        One row per image: index, class, predicted_before, predicted_after (by the
        judge), confidence_after, to_source and to_raw (L2 distance of latents), layout
        and layout_raw (`layout_correlation` of recovered and of raw with the source),
        and the verdicts class_lost (the judge agreed with the label before and does
        not after), class_gained (the reverse), nearer_raw (to_raw < to_source) and
        layout_lost (layout < layout_raw; half of all images if nothing is kept).

    Raises:
        InputError: the three sets differ in length, labels, classes or image size.

    Source: ours.
    """
    source, recovered, raw = _paired(source=source, recovered=recovered, raw=raw)
    before = class_agreement(source, judge).table
    after = class_agreement(recovered, judge).table
    latents = [latent_vectors(s.images, prior) for s in (recovered, source, raw)]
    to_source, to_raw = ((latents[0] - x).norm(dim=1).numpy() for x in latents[1:])
    layout, layout_raw = (
        layout_correlation(s.images, source.images).numpy() for s in (recovered, raw)
    )
    return pd.DataFrame(
        {
            "index": before["index"],
            "class": before["class"],
            "predicted_before": before["predicted"],
            "predicted_after": after["predicted"],
            "confidence_after": after["confidence"],
            "to_source": to_source,
            "to_raw": to_raw,
            "layout": layout,
            "layout_raw": layout_raw,
            "class_lost": before["agrees"] & ~after["agrees"],
            "class_gained": ~before["agrees"] & after["agrees"],
            "nearer_raw": to_raw < to_source,
            "layout_lost": layout < layout_raw,
        }
    )


# ---------------------------------------------------------------- checks


def _names(distilled: DistilledSet) -> list[str]:
    return [distilled.class_names[label] for label in distilled.labels.tolist()]


def _alike(sets: Mapping[str, DistilledSet]) -> dict[str, DistilledSet]:
    """Return sets with their classes in one order; refuse what can't be compared."""
    if not sets:
        raise InputError("sets is empty; expected at least one set")
    (first_name, first), *others = sets.items()
    joined = {first_name: first}
    for name, other in others:
        joined[name] = in_order_of(
            other, first.class_names, f"set {name!r}", f"set {first_name!r}"
        )
        if other.images.shape[1:] != first.images.shape[1:]:
            raise InputError(
                f"sets {first_name!r} and {name!r} have images of "
                f"{tuple(first.images.shape[1:])} and {tuple(other.images.shape[1:])}; "
                "bring both to one size"
            )
    return joined


def _paired(**sets: DistilledSet) -> tuple[DistilledSet, ...]:
    """Return sets as `_alike` does; refuse those whose images i are no pair."""
    sets = _alike(sets)
    (first_name, first), *others = sets.items()
    for name, other in others:
        if len(other) != len(first) or not torch.equal(other.labels, first.labels):
            raise InputError(
                f"sets {first_name!r} ({len(first)} images) and {name!r} "
                f"({len(other)}) don't have the same labels in the same order; "
                "expected image i of one to be made from image i of the other"
            )
    return tuple(sets.values())
