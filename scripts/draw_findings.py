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
from bookkit.figures import set_theme

PICTURES = ROOT / "book" / "_static"
# title -> the study, and the row whose differences are drawn
STUDIES = {
    "Garments": ("recovery_fashion-mnist_ipc1", "DIVER 700"),
    "Photographs": ("recovery_cifar10_published-ipc1", "inheritance 700"),
}
ROWS = {
    "Stage I, as distilled": "Stage I",
    "pixels clipped": "clip",
    "through the VAE": "VAE",
    "inheritance (t = 700)": "inheritance 700",
    "DIVER (the same, with the pull)": "DIVER 700",
    "DIVER, the paper's settings": "DIVER, the paper's settings",
    "samples of the prior": "prior",
    "random real pictures": "random real",
}
AGAINST = ["Stage I", "VAE", "prior", "random real"]
JUDGES = {  # column of a table, name of its group, label, colour
    "ShuffleNetV2-BN": ("unseen, BN", "with batch norm", "#0173b2"),
    "ShuffleNetV2-GN": ("unseen, no BN", "with group norm", "#de8f05"),
}


def store(fig: plt.Figure, name: str, files: Iterable[str]) -> None:
    """Save a picture that knows the files it was drawn from."""
    found = {file: (ROOT / "results" / file).read_bytes() for file in sorted({*files})}
    source = {file: hashlib.sha256(data).hexdigest() for file, data in found.items()}
    metadata = {"Source": json.dumps(source)}
    fig.savefig(PICTURES / name, dpi=130, metadata=metadata, bbox_inches="tight")
    print(f"Wrote book/_static/{name}")


def findings() -> plt.Figure:
    """Draw what one network learns from each treatment, by its normalisation."""
    fig, axes = plt.subplots(1, 2, figsize=(9, 4.4), layout="constrained", sharey=True)
    limits = ((5, 55), (8, 26))
    for ax, (title, (study, _)), limit in zip(
        axes, STUDIES.items(), limits, strict=True
    ):
        table = pd.read_csv(ROOT / "results" / f"{study}.csv")
        for judge, (_, label, color) in JUDGES.items():
            above = 7 if judge.endswith("-BN") else -16
            for y, row in enumerate(ROWS.values()):
                found = table.loc[table["row"] == row, judge]
                mean = found.mean()
                ax.scatter(found, [y] * len(found), s=14, alpha=0.5, color=color)
                ax.scatter(mean, y, s=90, color=color, label=label if y == 0 else None)
                ax.annotate(
                    f"{mean:.0f}", (mean, y), (0, above), textcoords="offset points",
                    ha="center", fontsize="x-small", color=color,
                )  # fmt: skip
        ax.axvline(10, color="0.6", linestyle=":", linewidth=1)
        ax.annotate("guessing", (10.2, -0.45), fontsize="x-small", color="0.4")
        ax.set_yticks(range(len(ROWS)), ROWS)
        ax.set(xlim=limit, ylim=(len(ROWS) - 0.4, -0.7))
        ax.set(xlabel="accuracy on real test pictures (%)")
        ax.set_title(title, loc="left", fontsize="medium")
    handles, labels = axes[0].get_legend_handles_labels()
    names = [f"ShuffleNetV2 {label}" for label in labels]
    fig.legend(handles, names, fontsize="small", loc="outside lower center", ncols=2)
    return fig


def forest() -> plt.Figure:
    """Draw a row's difference to others, with its interval, by set and norm."""
    fig, axes = plt.subplots(
        2, 2, figsize=(9, 7), layout="constrained", sharex="row", sharey=True
    )
    for line, (title, (study, row)) in zip(axes, STUDIES.items(), strict=True):
        table = pd.read_csv(ROOT / "results" / f"{study}_comparisons.csv")
        table = table[(table["row"] == row) & table["against"].isin(AGAINST)]
        sets = [name for name in table["set"].unique() if name != "all, pooled"]
        for ax, (group, label, _) in zip(line, JUDGES.values(), strict=True):
            mine = table[table["judges"] == group]
            for number, name in enumerate([*sets, "all, pooled"]):
                part = mine[mine["set"] == name].set_index("against").loc[AGAINST]
                y = [k + 0.15 * (number - len(sets) / 2) for k in range(len(AGAINST))]
                ends = [part["points"] - part["low"], part["high"] - part["points"]]
                color = "black" if name == "all, pooled" else f"C{number}"
                style = {"fmt": "o", "markersize": 5, "color": color}
                ax.errorbar(part["points"], y, xerr=ends, label=name, **style)
            ax.axvline(0, color="0.3", linewidth=1)
            ax.set_yticks(range(len(AGAINST)), [f"vs {name}" for name in AGAINST])
            ax.set(ylim=(len(AGAINST) - 0.5, -0.5), xlabel="points")
            ax.set_title(f"{title}, {row}, {label}", fontsize="small", loc="left")
        line[1].legend(fontsize="x-small", loc="upper right")
    return fig


def main() -> None:
    set_theme()
    tables = [study for study, _ in STUDIES.values()]
    store(findings(), "findings.png", [f"{study}.csv" for study in tables])
    store(forest(), "forest.png", [f"{study}_comparisons.csv" for study in tables])


if __name__ == "__main__":
    main()
