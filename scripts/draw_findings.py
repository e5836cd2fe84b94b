"""Draw the figures of "What we found", "Results at a glance" and "The paper".

Run: python scripts/draw_findings.py [--pictures]

They are drawn out of results/. Each records the files it was drawn from, with their
SHA-256, so that a test notices a figure that is older than the numbers. With
--pictures the settings of the page on the paper are drawn too, as what they make of
two distilled pictures: that takes a minute.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import torch
from provenance import ROOT  # and bookkit
from torch import Tensor

# isort: split
from bookkit.figures import image_grid, set_theme

from diver_lite import RecoveryConfig, load_distilled, load_prior, recover

PICTURES = ROOT / "book" / "_static"
# title -> the study, and the row whose differences are drawn
STUDIES = {
    "Garments": ("recovery_fashion-mnist_ipc1-steps300", "DIVER 700"),
    "Photographs": (
        "recovery_cifar10_published-ipc1-steps300",
        "inheritance 700",
    ),
}
ROWS = {
    "as distilled (Stage I)": "Stage I",
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


RECOVERY = {title: study for title, (study, _) in STUDIES.items()}
CHOICES = {
    "Garments": "choices_fashion-mnist_dm-ipc1",
    "Photographs": "choices_cifar10_mtt_published-ipc1",
}
SOURCES = {"Photographs": "sources_cifar10_published-ipc1"}
# a figure of the page on the paper: its studies, and the rows it compares
QUESTIONS = {
    "vae": (RECOVERY, [("VAE", "Stage I"), ("DIVER 700", "VAE"),
                       ("inheritance 700", "VAE")]),
    "bias": (RECOVERY, [("DIVER 700", "prior"), ("inheritance 700", "prior")]),
    "sources": (SOURCES, [("own 700", "another class 700"),
                          ("own 700", "real of the class 700"),
                          ("own 700", "grey 700"), ("own 700", "prior")]),
    "pull": (RECOVERY, [("DIVER 700", "inheritance 700")]),
    "window": (CHOICES, [(f"window = {name}", "DIVER 700")
                         for name in ("early", "late", "full")]),
    "real": (RECOVERY, [(row, "random real") for row in
                        ("Stage I", "DIVER 700", "inheritance 700", "prior")]),
    "forks": (CHOICES, [(row, "DIVER 700") for row in (
        "start = published", "guidance_target = latent", "guidance_sigma = signal",
        "guidance_sigma = one", "window = late", "window = full",
        "clip_input = False")]),
}  # fmt: skip
SHOWN = {"fashion-mnist-dm-ipc1": "fashion-mnist", "cifar10-mtt-ipc1": "cifar10"}
COLOURS = {"proxy's kind": "0.4"}
COLOURS |= {group: color for group, _, color in JUDGES.values()}
LABELS = {group: label for group, label, _ in JUDGES.values()}
LABELS |= {"proxy's kind": "the proxy's kind"}


def store(fig: plt.Figure, name: str, files: Iterable[str]) -> None:
    """Save a picture that knows the files it was drawn from."""
    found = {file: (ROOT / "results" / file).read_bytes() for file in sorted({*files})}
    source = {file: hashlib.sha256(data).hexdigest() for file, data in found.items()}
    metadata = {"Source": json.dumps(source)}
    fig.savefig(PICTURES / name, dpi=130, metadata=metadata, bbox_inches="tight")
    print(f"Wrote book/_static/{name}")


def findings() -> plt.Figure:
    """Draw what one network learns from each treatment, by its normalisation."""
    fig, axes = plt.subplots(1, 2, figsize=(9, 6), layout="constrained", sharey=True)
    limits = ((5, 62), (8.5, 23))
    for ax, (title, study), limit in zip(axes, RECOVERY.items(), limits, strict=True):
        table = pd.read_csv(ROOT / "results" / f"{study}.csv")
        for judge, (_, label, color) in JUDGES.items():
            above = 8 if judge.endswith("-BN") else -16
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
        ax.annotate(
            "guessing", (10, len(ROWS) / 2), (-3, 0), textcoords="offset points",
            rotation=90, ha="right", va="center", fontsize="x-small", color="0.4",
        )  # fmt: skip
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
        table = pd.read_csv(comparisons(study))
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
            ax.set_title(f"{title}, {row}\n{label}", fontsize="small", loc="left")
        line[1].legend(fontsize="x-small", loc="upper left", bbox_to_anchor=(1, 1))
    return fig


def pictures() -> plt.Figure:
    """Draw what each reading of the paper makes of a garment and of a photograph."""
    rows = {
        "distilled": None,
        "our default": {},
        "1  start = published": {"start": "published"},
        "2  guidance_target = latent": {"guidance_target": "latent"},
        "3  guidance_sigma = one": {"guidance_sigma": "one"},
        "5  window = late": {"window": "late"},
        "5  window = full": {"window": "full"},
        "7  clip_input = False": {"clip_input": False},
        "the paper's settings": vars(RecoveryConfig.published()),
    }
    made: dict[str, list[Tensor]] = {name: [] for name in rows}
    for name, prior_name in SHOWN.items():
        distilled = load_distilled(name)[:4]  # the first classes, not the prettiest
        prior = load_prior(prior_name)
        scale = RecoveryConfig.recommended(prior).guidance_scale
        for row, changes in rows.items():
            images = distilled.images
            if changes is not None:
                config = RecoveryConfig(**({"guidance_scale": scale} | changes))
                images = recover(distilled, prior, config, seed=0).images
            made[row].append(images.expand(-1, 3, -1, -1))
    return image_grid({row: torch.cat(images) for row, images in made.items()})


def question(studies: dict[str, str], pairs: list[tuple[str, str]]) -> plt.Figure:
    """Draw a few pooled differences with their intervals, a panel per data set."""
    there = {t: s for t, s in studies.items() if comparisons(s).exists()}
    size = (3.2 * len(there) + 4, 0.42 * len(pairs) + 1.3)
    others = {other for _, other in pairs}
    rows = [f"{a} vs {b}" for a, b in pairs]
    if len(others) == 1:
        rows = [a for a, _ in pairs]
    fig, axes = plt.subplots(
        1, len(there), figsize=size, layout="constrained", sharey=True, squeeze=False
    )
    for ax, (title, study) in zip(axes[0], there.items(), strict=True):
        table = pd.read_csv(comparisons(study))
        pooled = "all, pooled"
        if pooled not in set(table["set"]):  # the study has one set
            pooled = table["set"].iloc[0]
        table = table[table["set"].isin((pooled, "-"))]
        groups = [group for group in COLOURS if group in set(table["judges"])]
        for number, group in enumerate(groups):
            mine = table[table["judges"] == group].set_index(["row", "against"])
            for y, pair in enumerate(pairs):
                if pair not in mine.index:
                    continue
                found = mine.loc[pair]
                ends = [
                    [found["points"] - found["low"]],
                    [found["high"] - found["points"]],
                ]
                at = y + 0.2 * (number - (len(groups) - 1) / 2)
                label = LABELS[group] if y == 0 else None
                ax.errorbar(
                    found["points"], at, xerr=ends, fmt="o", markersize=5,
                    color=COLOURS[group], label=label,
                )  # fmt: skip
        ax.axvline(0, color="0.3", linewidth=1)
        ax.set_yticks(range(len(pairs)), rows)
        ax.set(ylim=(len(pairs) - 0.5, -0.5), xlabel="points")
        if len(others) == 1:
            ax.set_xlabel(f"points against {min(others)}")
        ax.set_title(title, loc="left", fontsize="medium")
    handles, labels = axes[0][0].get_legend_handles_labels()
    fig.legend(handles, labels, fontsize="small", loc="outside right center")
    return fig


def comparisons(study: str) -> Path:
    return ROOT / "results" / f"{study}_comparisons.csv"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", action="store_true")
    args = parser.parse_args()
    set_theme()
    tables = RECOVERY.values()
    store(findings(), "findings.png", [f"{study}.csv" for study in RECOVERY.values()])
    store(forest(), "forest.png", [comparisons(study).name for study in tables])
    for name, (studies, pairs) in QUESTIONS.items():
        files = [
            path.name for path in map(comparisons, studies.values()) if path.exists()
        ]
        if files:
            store(question(studies, pairs), f"paper_{name}.png", files)
    if args.pictures:
        store(pictures(), "paper_settings.png", [])


if __name__ == "__main__":
    main()
