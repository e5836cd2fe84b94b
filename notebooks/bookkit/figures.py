"""Figures of the book: image grids, bars, and sliders that work without a kernel.

Every function returns what it drew and leaves no figure open, so a notebook shows it
once, as the value of its cell. What can't be drawn, such as images of another shape or
a table that is empty or lacks a column, ends in `InputError`. Source of all: ours.
"""

from __future__ import annotations

import base64
import io
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import IPython.display
import jinja2
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from PIL import Image, ImageOps
from torch import Tensor

from diver_lite.checks import instance, require
from diver_lite.judge.compare import check_columns

# One colour per method in the whole book (seaborn's "colorblind" palette, by hand, so
# that leaving a method out of a figure does not recolour the others).
METHOD_COLORS: dict[str, str] = {
    "random real": "#949494",
    "held-out real": "#949494",
    "Stage I": "#d55e00",
    "VAE only": "#ca9161",
    "raw prior": "#56b4e9",
    "SI published": "#ece133",
    "SI matched": "#029e73",
    "SG only": "#cc78bc",
    "SI + SG": "#de8f05",
    "DIVER published": "#fbafe4",
    "DIVER": "#0173b2",
}


def set_theme() -> None:
    """Give every figure of the book the same look, and tables whole rows as text."""
    sns.set_theme(context="notebook", style="whitegrid", palette="colorblind")
    # a row stays on one line where a page shows no HTML
    pd.set_option("display.width", 160)


def method_colors(names: Iterable[str]) -> dict[str, str]:
    """Map each name to its colour in `METHOD_COLORS`, or to one of a second palette."""
    spare = itertools.cycle(sns.color_palette("dark").as_hex())
    return {n: METHOD_COLORS[n] if n in METHOD_COLORS else next(spare) for n in names}


def image_grid(
    rows: Mapping[str, Tensor],
    column_titles: Sequence[str] | None = None,
    *,
    nearest: bool = True,
    scale: float = 0.8,
    title: str | None = None,
) -> Figure:
    """Draw one row of images per entry, with the entry's name at its left.

    Args:
        rows: name -> images (N,3,H,W) or (N,1,H,W), float, [0,1] scale; values outside
            are clipped. Rows may differ in N and in resolution.
        column_titles: one title per column, above the first row.
        nearest: show hard pixels (right for 32x32), else smooth them (photographs).
        scale: side of one image in inches, > 0.
        title: title of the whole figure.
    """
    pixels = {}  # (N,H,W,3)
    for name, images in rows.items():
        shape = tuple(images.shape)
        fits = len(shape) == 4 and shape[1] in (1, 3)
        require(fits, f"shape of rows[{name!r}]", shape, "(N,3,H,W) or (N,1,H,W)")
        visible = images.detach().float().cpu().clamp(0, 1).expand(-1, 3, -1, -1)
        pixels[name] = visible.permute(0, 2, 3, 1).numpy()
    columns = max(map(len, pixels.values()), default=0)
    require(columns > 0, "rows", [*rows], "some rows, and an image")
    titles = list(column_titles or [])
    expected = f"at most {columns}, the number of columns"
    require(len(titles) <= columns, "column_titles", titles, expected)
    how = "nearest" if nearest else "antialiased"
    return _draw_grid(pixels, titles, scale, title=title, interpolation=how)


def as_jpeg(figure: Figure, quality: int = 85) -> IPython.display.Image:
    """Encode a grid of images as JPEG: PNG takes twice to three times the room.

    Plots are better as PNG; for grey images a quality (1 to 95) of 60 is enough.
    """
    data = encode_figure(figure, "jpeg", quality)
    return IPython.display.Image(data, format="jpeg")


def encode_figure(figure: Figure, format: str, quality: int = 85) -> bytes:
    """Encode a figure, cut tight as in notebooks, as "jpeg" or "webp"."""
    buffer, how = io.BytesIO(), {"quality": quality}
    look: dict[str, Any] = {"bbox_inches": "tight", "facecolor": "white"}
    figure.savefig(buffer, format=format, pil_kwargs=how, **look)
    return buffer.getvalue()


def squeeze(images: Tensor) -> Tensor:
    """Map the range of each image to [0, 1], so that nothing is cut off.

    Distilled pixels, (N,3,H,W) float, run far outside the visible range.
    """
    low, high = images.amin((1, 2, 3), True), images.amax((1, 2, 3), True)
    return (images - low) / (high - low).clamp(min=1e-12)


def latent_grid(
    rows: Mapping[str, Tensor],
    column_titles: Sequence[str] | None = None,
    *,
    limit: float | None = None,
    scale: float = 1.1,
) -> Figure:
    """Draw the channels of one latent per row, on a colour scale with 0 in the middle.

    Args:
        rows: name -> latent (C,h,w), float, in the prior's scaled units.
        column_titles: one title per channel; "channel 0", ... if left out.
        limit: value of the two ends of the colour scale, > 0; default: the largest
            absolute value of all rows.
        scale: side of one channel in inches, > 0.
    """
    require(len(rows) > 0, "rows", [], "at least one latent (C,h,w)")
    for name, latent in rows.items():
        shape = tuple(latent.shape)
        require(len(shape) == 3, f"shape of rows[{name!r}]", shape, "(C,h,w)")
    values = {n: latent.detach().float().cpu().numpy() for n, latent in rows.items()}
    limit = limit or max(float(np.abs(latent).max()) for latent in values.values())
    columns = max(len(latent) for latent in values.values())
    fig = _draw_grid(
        values,
        column_titles or [f"channel {c}" for c in range(columns)],
        scale,
        margin=0.7,  # of the colour scale
        interpolation="nearest",
        cmap="RdBu_r",
        vmin=-limit,
        vmax=limit,
    )
    (ax,) = fig.axes
    fig.colorbar(ax.images[0], ax=ax, fraction=0.03, pad=0.02)
    return fig


def accuracy_bars(table: pd.DataFrame) -> Figure:
    """Draw mean accuracy per judge and set, with the std over the seeds as error bars.

    Args:
        table: long form, one row per training run, with columns `set`, `judge`, `seed`
            and `accuracy` in [0, 1], as `cross_architecture` returns it; runs without
            an accuracy (NaN) are left out. Bars keep the order of the rows.

    Source: `sd` is pandas' sample standard deviation (n - 1).
    """
    _check_table(table, "set", "judge", "seed", "accuracy")
    highest: Any = table["accuracy"].max()
    require(not highest > 1, "table: an accuracy", highest, "one in [0, 1]")
    table = table.dropna(subset="accuracy").assign(accuracy=100 * table["accuracy"])
    sets = list(dict.fromkeys(table["set"]))
    judges = list(dict.fromkeys(table["judge"]))
    seeds: Any = table.groupby(["set", "judge"])["seed"].nunique()
    # Room for each bar, so that many sets widen the figure instead of thinning bars.
    width = min(12.0, max(4.5, 0.28 * len(sets) * len(judges) + 2.0))
    fig = _figure(width, 3.8)
    ax = fig.add_subplot()
    sns.barplot(
        table,
        x="judge",
        y="accuracy",
        hue="set",
        order=judges,
        hue_order=sets,
        palette=method_colors(sets),
        saturation=1,
        errorbar="sd",
        err_kws={"linewidth": 1.2},
        ax=ax,
    )
    ax.set(xlabel="", ylabel="test accuracy (%)")
    n = "-".join(str(n) for n in sorted({seeds.min(), seeds.max()}))
    right = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0), "frameon": False}
    ax.legend(title=f"mean ± std, n = {n}", **right)
    return fig


def duration_bars(seconds: Mapping[str, float], *, title: str | None = None) -> Figure:
    """Draw how long each way takes (name -> seconds > 0), on a logarithmic scale."""
    some = len(seconds) > 0 and all(0 < v < float("inf") for v in seconds.values())
    require(some, "seconds", seconds, "names with finite times > 0")
    fig = _figure(8, 0.42 * len(seconds) + 1.2)
    ax = fig.add_subplot(title=title)
    bars = ax.barh(list(seconds), list(seconds.values()), color=sns.color_palette()[0])
    ax.bar_label(bars, [duration(v) for v in seconds.values()], padding=4)
    ticks = {"1 s": 1, "1 min": 60, "1 h": 3600, "1 day": 86400, "1 month": 30 * 86400}
    ax.set(xscale="log", xlim=(0.1, 60 * 86400))
    ax.set_xticks([*ticks.values()], [*ticks])
    ax.minorticks_off()
    ax.invert_yaxis()
    return fig


def duration(seconds: float) -> str:
    """Write a time in the largest unit that leaves at least 1.5 of it."""
    units = {"days": 86400, "h": 3600, "min": 60, "s": 1}
    name = next((n for n, size in units.items() if seconds >= 1.5 * size), "s")
    value = seconds / units[name]
    return f"{value:.0f} {name}" if value >= 10 else f"{value:.2g} {name}"


def embedding_scatter(table: pd.DataFrame) -> Figure:
    """Draw a plane of images, one panel per stage, one colour per class.

    Grey dots are all other stages' images. Axes carry no ticks: t-SNE's units mean
    nothing. The table has columns `x`, `y`, `stage` and `class`, as `embed_2d` returns
    it; panels and colours keep the order of its rows.
    """
    _check_table(table, "x", "y", "stage", "class")
    stages = list(dict.fromkeys(table["stage"]))
    classes = list(dict.fromkeys(table["class"]))
    palette = "colorblind" if len(classes) <= 10 else "husl"  # the former has ten
    colors = dict(zip(classes, sns.color_palette(palette, len(classes)), strict=True))
    columns = 2 if len(stages) == 4 else min(3, len(stages))  # no panel alone
    rows = -(-len(stages) // columns)
    fig = _figure(2.9 * columns + 1.5, 2.9 * rows)
    axes = fig.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for ax in axes.flat[len(stages) :]:
        ax.set_visible(False)
    for ax, stage in zip(axes.flat, stages, strict=False):
        mine = table["stage"] == stage
        points, others = table[mine], table[~mine]
        size = float(np.clip(3_000 / len(points), 8, 40))  # few deserve large dots
        hues = [colors[name] for name in points["class"]]
        ax.scatter(others["x"], others["y"], s=5, color="0.87")
        ax.scatter(points["x"], points["y"], s=size, c=hues)
        ax.set(xticks=[], yticks=[])
        ax.set_title(f"{stage} ({len(points)})", fontsize="medium")
    handles = [
        plt.Line2D([], [], color=colors[name], label=name, marker="o", linestyle="")
        for name in classes
    ]
    fig.legend(handles=handles, loc="outside right center", frameon=False)
    return fig


def copying_plot(
    table: pd.DataFrame, *, colors: Mapping[str, str] | None = None
) -> Figure:
    """Draw, per set, which share of its images lies how near to a training image.

    Args:
        table: columns `space` (a panel each), `set` and `ratio`, the distance to the
            nearest training image, as `copying_distances` gives it.
        colors: colour per set; default: `method_colors`.

    Returns:
        Cumulative curves: the further left a curve rises, the nearer its images are;
        grey is what new real images have.
    """
    _check_table(table, "space", "set", "ratio")
    spaces, sets = ([*dict.fromkeys(table[key])] for key in ("space", "set"))
    colors = method_colors(sets) | dict(colors or {})
    fig = _figure(3.6 * len(spaces) + 2.4, 3.4)
    axes = fig.subplots(1, len(spaces), sharey=True, squeeze=False)[0]
    for ax, space in zip(axes, spaces, strict=True):
        for name in sets:
            mine = table[(table["space"] == space) & (table["set"] == name)]["ratio"]
            share = np.arange(1, len(mine) + 1) / len(mine)
            style = {"color": colors[name], "label": f"{name} ({len(mine)})"}
            ax.step(np.sort(mine), share, where="post", **style)
        ax.axvline(1, color="0.6", linewidth=0.8, zorder=0)
        ax.set(xlabel="distance (held-out real = 1)", xlim=(0, None), ylim=(0, 1))
        ax.set_title(space, fontsize="medium")
    axes[0].set_ylabel("share of images")
    handles, labels = axes[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside right center", frameon=False)
    return fig


def _check_table(table: pd.DataFrame, *columns: str) -> None:
    check_columns(table, *columns)
    require(len(table) > 0, "table: number of rows", 0, "at least one")


# The pages of this folder. All that they are given is escaped, in scripts by `tojson`.
PAGES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True
)


@dataclass(repr=False)
class FrameSlider:
    """Precomputed frames under a slider, as HTML that needs neither kernel nor network.

    In JupyterLab and in the built book the slider and the arrow keys change the frame;
    where scripts don't run (an untrusted notebook, paper) the first frame stands alone,
    without a dead control. `frame_slider` makes it.
    """

    sources: list[str]
    labels: list[str]
    alt: str
    caption: str | None = None

    def __repr__(self) -> str:
        return f"FrameSlider({len(self.sources)} frames: {self.alt})"

    def _repr_html_(self) -> str:
        return PAGES.get_template("slider.html").render(vars(self))


def frame_slider(
    frames: Sequence[Figure],
    labels: Sequence[str],
    *,
    alt: str,
    caption: str | None = None,
    quality: int = 85,
) -> FrameSlider:
    """Put precomputed frames under a slider that works in JupyterLab and offline HTML.

    Small frames grow by a whole factor until their shorter side has 256 pixels, with
    hard pixels: browsers would blur them.

    Args:
        frames: figures, all of one size.
        labels: one short text per frame, shown beside the slider.
        alt: what the pictures show, for readers who don't see them; not empty.
        caption: text below the slider.
        quality: of the WebP encoding, 1 to 100. PNG takes several times the room.
    """
    expected = f"{len(frames)}, one a frame, and at least one"
    fit = 0 < len(frames) == len(labels)
    require(fit, "number of labels", len(labels), expected)
    require(bool(alt.strip()), "alt", alt, "a sentence on what the pictures show")
    pictures = []
    for frame in frames:
        instance(frame, "frame", Figure)
        buffer = io.BytesIO()
        frame.savefig(buffer, format="png", facecolor="white")
        pictures.append(Image.open(buffer).convert("RGB"))
    sizes = sorted({picture.size for picture in pictures})
    require(len(sizes) == 1, "frames: sizes", sizes, "one size for all")
    factor, sources = max(1, -(-256 // min(sizes[0]))), []
    for picture in pictures:
        buffer, hard = io.BytesIO(), Image.Resampling.NEAREST
        picture = ImageOps.scale(picture, factor, hard)
        picture.save(buffer, format="WEBP", quality=quality, method=6)
        data = base64.b64encode(buffer.getvalue()).decode()
        sources.append("data:image/webp;base64," + data)
    return FrameSlider(sources, [str(label) for label in labels], alt, caption)


def _figure(width: float, height: float) -> Figure:
    """Make a figure of so many inches, and close it: it can be drawn on all the same.

    Without pyplot, notebooks would print its name instead of showing it.
    """
    fig = plt.figure(figsize=(width, height), layout="constrained")
    plt.close(fig)
    return fig


def _draw_grid(
    rows: Mapping[str, np.ndarray],
    column_titles: Sequence[str],
    scale: float,
    *,
    title: str | None = None,
    margin: float = 0.0,
    **look,
) -> Figure:
    """Draw pictures (N,H,W,...) per row on one axes whose unit is one picture."""
    # All share one axes: a hundred axes take seconds to draw, this does not.
    columns = max(len(pictures) for pictures in rows.values())
    label_width = 0.09 * max(len(name) for name in rows) + 0.3 + margin
    fig = _figure(columns * scale + label_width, len(rows) * scale + 0.4)
    ax = fig.add_subplot(title=title)
    for row, pictures in enumerate(rows.values()):
        for column, pixels in enumerate(pictures):
            extent = (column, column + 0.94, row + 0.94, row)
            ax.imshow(pixels, extent=extent, **look)
    # the titles are tick labels; each imshow has changed the limits
    ax.set_yticks(np.arange(len(rows)) + 0.47, [*rows])
    ax.set_xticks(np.arange(len(column_titles)) + 0.47, column_titles)
    ax.set(xlim=(0, columns - 0.06), ylim=(len(rows) - 0.06, 0), aspect="equal")
    ax.xaxis.tick_top()
    ax.tick_params(length=0, labelsize="small")
    ax.grid(False)
    ax.spines[:].set_visible(False)
    return fig
