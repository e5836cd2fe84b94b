"""Draw the figure of the page "What we found" out of results/.

Run: python scripts/draw_findings.py

The picture records the files it was drawn from, with their SHA-256, so that a test
notices a picture that is older than the numbers.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from diver_lite.book.figures import METHOD_COLORS, set_theme

ROOT = Path(__file__).parents[1]
OUT = ROOT / "book" / "_static" / "findings.png"
PANELS = {
    # title -> (file of unseen networks, file of the proxy, row's name -> variant)
    "Garments: four sets, one picture per class": (
        "study_fashion-mnist_ipc1_five-draws.csv",
        "study_fashion-mnist_ipc1.csv",
        {
            "Stage I, as distilled": "Stage I",
            "pixels clipped": "clip only",
            "through the VAE": "VAE only",
            "DIVER": "DIVER",
            "samples of the prior": "raw prior",
            "random real pictures": "random real",
        },
    ),
    "Photographs: three sets, one picture per class": (
        "study_cifar10_ipc1.csv",
        "study_cifar10_ipc1.csv",
        {
            "Stage I, as distilled": "Stage I",
            "through the VAE": "VAE only",
            "DIVER, tuned": "DIVER tuned",
            "samples of the prior, tuned": "raw prior tuned",
            "random real pictures": "random real",
        },
    ),
}
COLORS = METHOD_COLORS | {
    "clip only": "#de8f05",
    "DIVER tuned": METHOD_COLORS["DIVER"],
    "raw prior tuned": METHOD_COLORS["raw prior"],
}


def values(file: str, variant: str, column: str) -> pd.Series:
    """Return a variant's accuracy in percent, one number per set."""
    table = pd.read_csv(ROOT / "results" / file)
    return table.loc[table["variant"] == variant, column]


def sources() -> dict[str, str]:
    """Return the files drawn from, and the SHA-256 of each."""
    names = sorted({name for panel in PANELS.values() for name in panel[:2]})
    files = {name: (ROOT / "results" / name).read_bytes() for name in names}
    return {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}


def main() -> None:
    set_theme()
    fig, axes = plt.subplots(
        2, 1, figsize=(8, 5.6), height_ratios=[6, 5], layout="constrained", sharex=True
    )
    for ax, (title, (unseen, proxy, rows)) in zip(axes, PANELS.items(), strict=True):
        for y, variant in enumerate(rows.values()):
            color = COLORS[variant]
            for file, column, marker, name in (
                (unseen, "unseen", "o", "unseen networks"),
                (proxy, "ConvNet", "s", "the proxy's kind (ConvNet)"),
            ):
                found = values(file, variant, column)
                face = color if marker == "o" else "white"
                look = {"marker": marker, "edgecolor": color, "facecolor": face}
                ax.scatter(found, [y] * len(found), s=18, alpha=0.5, **look)
                ax.scatter(found.mean(), y, s=120, linewidth=2, label=name, **look)
                ax.annotate(
                    f"{found.mean():.0f}", (found.mean(), y), (0, -15),
                    textcoords="offset points", ha="center", fontsize="x-small",
                )  # fmt: skip
        ax.axvline(10, color="0.6", linestyle=":", linewidth=1)
        ax.set_yticks(range(len(rows)), rows)
        ax.set(xlim=(0, 80), ylim=(len(rows) - 0.4, -0.6))
        ax.set_title(title, loc="left", fontsize="medium")
    axes[0].annotate("guessing", (10.5, -0.4), fontsize="x-small", color="0.4")
    handles, labels = axes[0].get_legend_handles_labels()
    last = [handles[-2], handles[-1]]  # all rows have these two
    axes[1].legend(last, labels[-2:], fontsize="small", loc="center right")
    axes[1].set_xlabel("accuracy on 1,000 real test pictures (%)")
    metadata = {"Source": json.dumps(sources())}
    fig.savefig(OUT, dpi=130, metadata=metadata, bbox_inches="tight")
    print(f"Wrote {OUT.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
