"""Draw the figures of "What we found", "Results at a glance" and "The paper".

Run: python scripts/draw_findings.py [--pictures]

They are drawn out of results/, each wide and, as NAME.phone.png, for a phone. Each
records the studies it was drawn from, with the SHA-256 of their numbers, so that a test
notices a figure that is older than these. With
--pictures the settings of the page on the paper are drawn too, as what they make of
two distilled pictures: that takes a minute.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from collections.abc import Callable, Iterable
from functools import partial
from textwrap import fill

import matplotlib.pyplot as plt
import torch
from matplotlib.text import Text
from provenance import ROOT  # and bookkit
from torch import Tensor

# isort: split
from bookkit.figures import METHOD_COLORS, image_grid, set_theme
from bookkit.studies import stored_comparisons, stored_means

from diver_lite import RecoveryConfig, load_distilled, load_prior, recover
from diver_lite.judge.protocols import get_protocol

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
    "inheritance from 700": "inheritance 700",
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
# as letters the orange is too light: they have a contrast of 4.5 and more to white
WORDS = {"#0173b2": "#0173b2", "#de8f05": "#9a5b00"}
CURVES = {  # row of a table -> colour
    "Stage I": METHOD_COLORS["Stage I"],
    "inheritance 700": METHOD_COLORS["SI matched"],
    "prior": METHOD_COLORS["raw prior"],
}
PHONE_WIDTH = 3.6  # inches; a phone of 390 pixels shows it on 358
PHONE_FONT = 8.5  # points

RECOVERY = {title: study for title, (study, _) in STUDIES.items()}
CHOICES = {"Garments": "choices_fashion-mnist_dm-ipc1"}
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


def store(draw: Callable[..., plt.Figure], name: str, studies: Iterable[str]) -> None:
    """Save a picture, wide and for a phone, that knows what it was drawn from."""
    source = {study: digest(study) for study in sorted({*studies})}
    metadata = {"Source": json.dumps(source)}
    fig = draw()
    fig.savefig(
        PICTURES / f"{name}.png", dpi=130, metadata=metadata, bbox_inches="tight"
    )
    fig = for_phone(draw(phone=True))
    fig.savefig(PICTURES / f"{name}.phone.png", dpi=200, metadata=metadata)
    print(f"Wrote book/_static/{name}.png and {name}.phone.png")


def digest(study: str) -> str:
    """Return the SHA-256 of a study's means and comparisons."""
    tables = stored_means(study), stored_comparisons(study)
    text = "".join(table.to_csv(index=False) for table in tables)
    return hashlib.sha256(text.encode()).hexdigest()


def for_phone(fig: plt.Figure) -> plt.Figure:
    """Give all words of a figure the size that a phone shows as 11 pixels and more."""
    for text in fig.findobj(Text):
        text.set_fontsize(PHONE_FONT)
    return fig


def panels(
    lines: int, columns: int, size: tuple[float, float], phone: bool, **shared
) -> tuple[plt.Figure, list[plt.Axes]]:
    """Return a figure's panels, line by line; on a phone one stands below the other.

    size: in inches, of the wide figure.
    """
    if phone:
        size = (PHONE_WIDTH, size[1] * columns)
        lines, columns = lines * columns, 1
    fig, axes = plt.subplots(
        lines, columns, figsize=size, layout="constrained", squeeze=False, **shared
    )
    plt.close(fig)  # it can be drawn all the same
    return fig, [*axes.flat]


def rows_on(ax: plt.Axes, names: Iterable[str], phone: bool) -> None:
    """Name the rows of a panel, from top to bottom; on a phone in short lines."""
    names = [fill(name, 17) if phone else name for name in names]
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.4, -0.6)


def known(row: str) -> str:
    """Return what the pages call a row of a table."""
    return "samples of the prior" if row == "prior" else row


def findings(phone: bool = False) -> plt.Figure:
    """Draw what one network learns from each treatment, by its normalisation."""
    fig, axes = panels(1, 2, (9, 6 if not phone else 4.4), phone, sharey=True)
    limits = ((5, 62), (8.5, 23))
    for ax, (title, study), limit in zip(axes, RECOVERY.items(), limits, strict=True):
        table = stored_means(study)
        for judge, (_, label, color) in JUDGES.items():
            above = 8 if judge.endswith("-BN") else -16
            for y, row in enumerate(ROWS.values()):
                found = table.loc[table["row"] == row, judge]
                mean = found.mean()
                ax.scatter(found, [y] * len(found), s=14, alpha=0.5, color=color)
                ax.scatter(mean, y, s=90, color=color, label=label if y == 0 else None)
                ax.annotate(
                    f"{mean:.0f}", (mean, y), (0, above), textcoords="offset points",
                    ha="center", fontsize="x-small", color=WORDS[color],
                )  # fmt: skip
        ax.axvline(10, color="0.6", linestyle=":", linewidth=1)
        ax.annotate(
            "guessing", (10, len(ROWS) / 2), (-3, 0), textcoords="offset points",
            rotation=90, ha="right", va="center", fontsize="x-small", color="0.4",
        )  # fmt: skip
        rows_on(ax, ROWS, phone)
        ax.set(xlim=limit, xlabel="accuracy on test pictures (%)")
        ax.set_title(title, loc="left", fontsize="medium")
    handles, labels = axes[0].get_legend_handles_labels()
    names = [f"ShuffleNetV2 {label}" for label in labels]
    below = {"loc": "outside lower center", "ncols": 1 if phone else 2}
    fig.legend(handles, names, fontsize="small", **below)
    return fig


def forest(phone: bool = False) -> plt.Figure:
    """Draw a row's difference to others, with its interval, by set and norm."""
    share = {"sharex": False if phone else "row", "sharey": True}
    fig, axes = panels(2, 2, (9, 7 if not phone else 5), phone, **share)
    for title, (study, row) in STUDIES.items():
        table = stored_comparisons(study)
        table = table[(table["row"] == row) & table["against"].isin(AGAINST)]
        sets = [name for name in table["set"].unique() if name != "all, pooled"]
        for group, label, _ in JUDGES.values():
            ax = axes.pop(0)
            mine = table[table["judges"] == group]
            for number, name in enumerate([*sets, "all, pooled"]):
                part = mine[mine["set"] == name].set_index("against").loc[AGAINST]
                y = [k + 0.15 * (number - len(sets) / 2) for k in range(len(AGAINST))]
                ends = [part["points"] - part["low"], part["high"] - part["points"]]
                color = "black" if name == "all, pooled" else f"C{number}"
                style = {"fmt": "o", "markersize": 5, "color": color}
                ax.errorbar(part["points"], y, xerr=ends, label=name, **style)
            ax.axvline(0, color="0.3", linewidth=1)
            rows_on(ax, [f"vs {known(name)}" for name in AGAINST], phone)
            ax.set(xlabel="points")
            ax.set_title(f"{title}, {row}\n{label}", fontsize="small", loc="left")
        right = {"loc": "upper left", "bbox_to_anchor": (1, 1), "fontsize": "x-small"}
        below = {"loc": "upper right", "bbox_to_anchor": (1, -0.35), "ncols": 2}
        ax.legend(**(below if phone else right))
    return fig


def curves(phone: bool = False) -> plt.Figure:
    """Draw what a network learns from a set, and without it, over training steps."""
    sets = {"dsa_published": "DSA's photographs", "mtt_published": "MTT's photographs"}
    tables = {steps: stored_means(study) for steps, study in lengths().items()}
    fig, axes = panels(2, 2, (9, 6.5 if not phone else 5), phone, sharey=True)
    for name, title in sets.items():
        for judge, (_, label, _) in JUDGES.items():
            ax = axes.pop(0)
            for row, color in CURVES.items():
                points, aside = {}, 1.05 ** (len(ax.containers) - 1)
                for steps, table in tables.items():
                    of = table["set"].isin([name, "-"])  # all sets share the prior
                    (found,) = table[of & (table["row"] == row)].to_dict("records")
                    points[steps] = found[judge], found[f"{judge} std"]
                mean, spread = zip(*points.values(), strict=True)
                style = {"marker": "o", "color": color, "label": known(row)}
                ax.errorbar([n * aside for n in points], mean, yerr=spread, **style)
            ax.axhline(10, color="0.6", linestyle=":", linewidth=1)
            ax.set(xscale="log", xlabel="training steps", ylabel="accuracy (%)")
            ax.set_xticks([*tables], [f"{steps:,}" for steps in tables])
            ax.minorticks_off()
            ax.set_title(f"{title}, {label}", fontsize="small", loc="left")
    handles, labels = ax.get_legend_handles_labels()
    below = {"loc": "outside lower center", "ncols": 1 if phone else 3}
    fig.legend(handles, labels, fontsize="small", **below)
    return fig


def lengths() -> dict[int, str]:
    """Return the studies of the published photographs, by the steps of a training."""
    found = {}
    for path in ROOT.glob("results/recovery_cifar10_published-ipc1*.json"):
        if re.fullmatch(r"recovery_cifar10_published-ipc1(-steps\d+)?", path.stem):
            record = json.loads(path.read_text("utf-8"))
            settings = record["provenance"]["settings"]
            protocol = get_protocol(settings["protocol"])
            found[settings.get("steps") or protocol.steps] = path.stem
    return dict(sorted(found.items()))


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


def question(
    studies: dict[str, str], pairs: list[tuple[str, str]], phone: bool = False
) -> plt.Figure:
    """Draw a few pooled differences with their intervals, a panel per data set."""
    size = (3.2 * len(studies) + 4, 0.42 * len(pairs) + 1.3)
    others = {other for _, other in pairs}
    rows = [f"{known(a)} vs {known(b)}" for a, b in pairs]
    if len(others) == 1:
        rows = [known(a) for a, _ in pairs]
    fig, axes = panels(1, len(studies), size, phone, sharey=True)
    for ax, (title, study) in zip(axes, studies.items(), strict=True):
        table = stored_comparisons(study)
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
        rows_on(ax, rows, phone)
        ax.set(xlabel="points")
        if len(others) == 1:
            ax.set_xlabel(f"points against {known(min(others))}")
        ax.set_title(title, loc="left", fontsize="medium")
    handles, labels = axes[0].get_legend_handles_labels()
    where = "outside lower center" if phone else "outside right center"
    fig.legend(handles, labels, fontsize="small", loc=where)
    return fig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", action="store_true")
    args = parser.parse_args()
    set_theme()
    store(findings, "findings", RECOVERY.values())
    store(forest, "forest", RECOVERY.values())
    store(curves, "curves", lengths().values())
    for name, (studies, pairs) in QUESTIONS.items():
        store(partial(question, studies, pairs), f"paper_{name}", studies.values())
    if args.pictures:
        fig = pictures()
        fig.savefig(PICTURES / "paper_settings.png", dpi=130, bbox_inches="tight")
        print("Wrote book/_static/paper_settings.png")


if __name__ == "__main__":
    main()
