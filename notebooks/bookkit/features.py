"""What a judge that was trained on real data sees in a set, and in what became of it.

Images are clipped to [0, 1], sets matched by their classes' names, and refused where
they differ, as `latents` says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from bookkit.latents import (
    alike,
    image_rows,
    latent_vectors,
    layout_correlation,
    paired,
)
from diver_lite.checks import floats, require
from diver_lite.files import fingerprint
from diver_lite.judge.networks import PROXY, ConvNet, build_judge
from diver_lite.judge.protocols import Protocol, get_protocol
from diver_lite.judge.record import protocol_fingerprint
from diver_lite.judge.training import predict, train_judge
from diver_lite.make.checkpoint import kept
from diver_lite.priors.contract import Prior
from diver_lite.priors.loading import resolve_device
from diver_lite.sets.classes import in_order_of
from diver_lite.sets.distilled import DistilledSet


def real_judge(
    dataset: tuple,
    path: str | Path,
    *,
    name: str = PROXY,
    seed: int = 0,
    protocol: str | Protocol = "real",
) -> nn.Module:
    """Train a judge on real images, or load it if that was done before.

    Args:
        dataset: (images (N, 3, H, W) in [0, 1], labels (N,), class names).
        path: where the weights are kept, as .safetensors; `InputError` if it holds
            none, or those of a judge that was trained in another way.
        name: a key of `JUDGES`. The default may flatter Stage I, which distils on that
            network: ask a second one too.
        seed: fixes everything that is random.
        protocol: a name or a `Protocol`.

    Source: ours.
    """
    images, labels, class_names = dataset
    protocol, classes = get_protocol(protocol), len(class_names)
    made = {
        "judge": name,
        "images": len(images),
        "classes": classes,
        "class_names": list(class_names),
        "seed": seed,
        **asdict(protocol),
        "data": fingerprint([images, labels]),
        "training": protocol_fingerprint(protocol),
    }

    def train() -> dict[str, Tensor]:
        judge = train_judge(
            name, images, labels, num_classes=classes, seed=seed, protocol=protocol
        )
        return {key: value.contiguous() for key, value in judge.state_dict().items()}

    weights = kept(Path(path), "made", made, train)
    judge: Any = build_judge(name, classes, images.shape[-1], seed)
    judge.load_state_dict(weights)
    judge.class_names, judge.protocol = tuple(class_names), protocol
    return judge.to(resolve_device(None)).eval()


def class_agreement(distilled: DistilledSet, judge: nn.Module) -> pd.DataFrame:
    """Ask a judge of real data whether the images show their intended class.

    The judge gives one logit per class of the set, else there is an `InputError`. A
    `real_judge` brings its classes and protocol; another's are taken to be in the set's
    order, and "real".

    Returns:
        One row per image: index, class (intended), predicted, agrees, and confidence,
        the probability in [0, 1] that the judge gives the intended class.

    Source: ours. Agreement is about the label only: an image may be right and unlike
    its source, see `source_distances`.
    """
    names = getattr(judge, "class_names", distilled.class_names)
    distilled = in_order_of(distilled, names, theirs="the judge")
    names = distilled.class_names
    probabilities = _ask(judge, distilled.images).softmax(1)
    known = probabilities.shape[1]
    require(known == len(names), "number of the judge's classes", known, len(names))
    predicted = probabilities.argmax(1)
    intended = probabilities.gather(1, distilled.labels[:, None])[:, 0]
    return image_rows({"": distilled})[["index", "class"]].assign(
        predicted=[names[i] for i in predicted.tolist()],
        agrees=(predicted == distilled.labels).numpy(),
        confidence=intended.numpy(),
    )


def find_failures(
    source: DistilledSet,
    recovered: DistilledSet,
    raw: DistilledSet,
    judge: nn.Module,
    prior: Prior,
) -> pd.DataFrame:
    """Find the images in which the prior overruled the distilled image.

    Losing the content is relative to `raw`: images of one class share most of their
    layout, so an absolute bound would hardly ever be crossed.

    Args:
        source: the distilled set.
        recovered: the set that `recover` made of it.
        raw: what `raw_prior` makes of the same labels, seed and guidance scale, without
            being shown the distilled image.
        judge: trained on real data, see `real_judge`.
        prior: its VAE gives the latents.

    Returns:
        One row per image: index, class, predicted_before, predicted_after (by the
        judge), confidence_after, to_source and to_raw (L2 distance of latents), layout
        and layout_raw (`layout_correlation` of recovered and of raw with the source),
        and the verdicts class_lost (the judge agreed with the label before and does
        not after), class_gained (the reverse), nearer_raw (to_raw < to_source) and
        layout_lost (layout < layout_raw; half of all images if nothing is kept).

    Source: ours.
    """
    source, recovered, raw = paired(source=source, recovered=recovered, raw=raw)
    before, after = (class_agreement(s, judge) for s in (source, recovered))
    z, *others = (latent_vectors(s.images, prior) for s in (recovered, source, raw))
    to_source, to_raw = ((z - other).norm(dim=1).numpy() for other in others)
    layout, layout_raw = (
        layout_correlation(s.images, source.images).numpy() for s in (recovered, raw)
    )
    return before[["index", "class"]].assign(
        predicted_before=before["predicted"],
        predicted_after=after["predicted"],
        confidence_after=after["confidence"],
        to_source=to_source,
        to_raw=to_raw,
        layout=layout,
        layout_raw=layout_raw,
        class_lost=before["agrees"] & ~after["agrees"],
        class_gained=~before["agrees"] & after["agrees"],
        nearer_raw=to_raw < to_source,
        layout_lost=layout < layout_raw,
    )


def judge_features(judge: nn.Module, images: Tensor) -> Tensor:
    """Return what the last linear layer of a judge reads of images (N, 3, H, W).

    Returns:
        (N, D) float32. A `ConvNet` ends in maps of 4 x 4 cells, which are averaged:
        D = 128. ShuffleNetV2: 1024, MobileNetV2: 1280, ResNet18: 512.

    Source: as FID reads Inception's last pooling layer, Heusel et al. 2017.
    """
    last = [module for module in judge.modules() if isinstance(module, nn.Linear)][-1]
    seen: list[Tensor] = []
    hook = last.register_forward_pre_hook(lambda _, args: seen.append(args[0].cpu()))
    try:
        _ask(judge, images)
    finally:
        hook.remove()
    features = torch.cat(seen)
    if isinstance(judge, ConvNet):  # (N, width * cells) -> (N, width)
        first: Any = judge.features[0]
        features = features.unflatten(1, (first.out_channels, -1)).mean(-1)
    return features


def _ask(judge: nn.Module, images: Tensor) -> Tensor:
    """Return logits (N, K) for visible images, normalised as in the training."""
    return predict(judge, images.clamp(0, 1), getattr(judge, "protocol", "real"))


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Return the Frechet distance between Gaussians fitted to two sets of features.

    |mean_a - mean_b|^2 + Tr(C_a + C_b - 2 (C_a C_b)^(1/2)) >= 0, of features (n, D),
    each n at least 2. With C = X'X for centred features X / sqrt(n - 1), the last trace
    is the sum of the singular values of X_a X_b', which needs no matrix root and no
    regularisation when n <= D.

    Few images bias it upwards, as they don't span all directions. Compare sets of equal
    n, beside the value of n real images; or use `kernel_distance`, which has no bias.

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

    The kernel is (x'y / D + 1)^3, features are (n, D), each n at least 2. Without bias
    at any n, sets of 10 and of 100 images can be compared; now and then it is negative
    for two of one distribution.

    Source: Gretton et al. 2012, eq. 3; the kernel: Binkowski et al. 2018 (KID).
    """
    from sklearn.metrics.pairwise import polynomial_kernel

    first, second = (x.numpy() for x in _check_features(a, b))
    within = 0.0
    for x in (first, second):
        values = polynomial_kernel(x)  # its defaults are KID's
        within += (values.sum() - values.trace()) / (len(x) * (len(x) - 1))
    return float(within - 2 * polynomial_kernel(first, second).mean())


def _check_features(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    floats(a, "features a", ("n", "D"))
    floats(b, "features b", ("n", a.shape[1]))
    images = len(a), len(b)
    require(min(images) >= 2, "number of images", images, "at least 2 each")
    return a.double(), b.double()


def embed_2d(
    sets: Mapping[str, DistilledSet], judge: nn.Module, *, seed: int = 0
) -> pd.DataFrame:
    """Lay all images of several sets out in one plane with t-SNE.

    Neighbourhoods mean something in it; far distances and sizes of clusters do not.

    Args:
        sets: stage ("real", "Stage I", "VAE only", "DIVER", ...) -> set; at least 5
            images in all.
        judge: its features are embedded, see `judge_features`.
        seed: of t-SNE; the same seed on the same machine gives the same plane.

    Returns:
        One row per image: x, y, stage, class, index.

    Source: van der Maaten and Hinton 2008, scikit-learn's implementation, after PCA to
    at most 50 dimensions; perplexity 30, or (n - 1) / 3 where there are few images.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    rows = image_rows(sets := alike(sets)).rename(columns={"set": "stage"})
    count = len(rows)
    require(count >= 5, "number of images", count, "at least 5")
    features = torch.cat([judge_features(judge, s.images) for s in sets.values()])
    pca = PCA(min(50, *features.shape), svd_solver="full", random_state=seed)
    tsne = TSNE(perplexity=min(30.0, (count - 1) / 3), init="pca", random_state=seed)
    plane = tsne.fit_transform(pca.fit_transform(features.numpy()))
    return pd.DataFrame(plane, columns=["x", "y"]).join(rows)
