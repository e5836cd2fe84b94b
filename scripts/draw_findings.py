"""Draw the figures of the pages "What we found" and "Results at a glance".

Run: python scripts/draw_findings.py

They are drawn out of results/. Each picture records the files it was drawn from, with
their SHA-256, so that a test notices a picture that is older than the numbers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

import matplotlib.pyplot as plt
import pandas as pd
from provenance import ROOT  # and bookkit

# isort: split
from bookkit.figures import METHOD_COLORS, set_theme

PICTURES = ROOT / "book" / "_static"
FOREST = {
    "Garments, five draws": "study_fashion-mnist_ipc1_five-draws_comparisons.csv",
    "Photographs": "study_cifar10_ipc1_comparisons.csv",
}
COMPARED = {
    "Garments, five draws": "DIVER",
    "Photographs": "DIVER tuned",
}
AGAINST = ["Stage I", "clip only", "VAE only", "SI matched", "raw prior"]
AGAINST += ["raw prior tuned", "random real"]
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


def store(fig: plt.Figure, name: str, files: Iterable[str]) -> None:
    """Save a picture that knows the files it was drawn from."""
    found = {file: (ROOT / "results" / file).read_bytes() for file in sorted({*files})}
    source = {file: hashlib.sha256(data).hexdigest() for file, data in found.items()}
    metadata = {"Source": json.dumps(source)}
    fig.savefig(PICTURES / name, dpi=130, metadata=metadata, bbox_inches="tight")
    print(f"Wrote book/_static/{name}")


def findings() -> plt.Figure:
    """Draw what networks learn from each treatment: unseen ones beside the proxy."""
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
    return fig


def forest() -> plt.Figure:
    """Draw DIVER's difference to everything else, with its interval, set by set."""
    fig, axes = plt.subplots(
        1, 2, figsize=(9, 5.2), layout="constrained", sharex=True, width_ratios=[1, 1]
    )
    colors = dict(zip(["dm", "dm-real", "dsa", "mtt"], plt.cm.Dark2.colors))  # noqa: B905
    for ax, (title, file) in zip(axes, FOREST.items(), strict=True):
        table = pd.read_csv(ROOT / "results" / file)
        table = table[table["row"] == COMPARED[title]]
        rows = [name for name in AGAINST if name in set(table["against"])]
        sets = [*table["set"].unique()]
        for number, name in enumerate(sets):
            mine = table[table["set"] == name].set_index("against").loc[rows]
            y = [k + 0.17 * (number - (len(sets) - 1) / 2) for k in range(len(rows))]
            ends = [mine["points"] - mine["low"], mine["high"] - mine["points"]]
            style = {"fmt": "o", "markersize": 5, "color": colors[name]}
            ax.errorbar(mine["points"], y, xerr=ends, label=name, **style)
        ax.axvline(0, color="0.3", linewidth=1)
        ax.set_yticks(range(len(rows)), [f"vs {name}" for name in rows])
        ax.set(ylim=(len(rows) - 0.5, -0.5), xlabel="points on unseen networks")
        ax.set_title(f"{title}: {COMPARED[title]}", fontsize="medium")
    axes[0].legend(fontsize="small", loc="lower right")
    return fig


def main() -> None:
    set_theme()
    store(findings(), "findings.png", [f for p in PANELS.values() for f in p[:2]])
    store(forest(), "forest.png", FOREST.values())


if __name__ == "__main__":
    main()
