"""The cases in which the prior overruled the distilled image."""

from __future__ import annotations

import pandas as pd
from torch import nn

from diver_lite.distilled import DistilledSet
from diver_lite.measure.features import class_agreement
from diver_lite.measure.latents import latent_vectors, layout_correlation, paired
from diver_lite.prior import Prior


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

    Raises:
        InputError: the three sets differ in length, labels, classes or image size.

    Source: ours.
    """
    source, recovered, raw = paired(source=source, recovered=recovered, raw=raw)
    before = class_agreement(source, judge)
    after = class_agreement(recovered, judge)
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
