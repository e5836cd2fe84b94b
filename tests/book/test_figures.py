import base64
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
import seaborn as sns
import torch
from bookkit import figures
from drawing import no_figure_stays_open, rendered  # noqa: F401
from matplotlib.figure import Figure
from PIL import Image

from diver_lite.checks import InputError

METHODS = [
    "random real",
    "Stage I",
    "VAE only",
    "raw prior",
    "SI matched",
    "SI published",
    "SI + SG",
    "DIVER published",
    "DIVER",
    "SG only",
]


def accuracy_table(sets=("Stage I", "DIVER"), seeds=3):
    rows = [
        {
            "set": name,
            "judge": judge,
            "seed": seed,
            "accuracy": 0.40 + 0.05 * i + 0.01 * seed,
        }
        for i, name in enumerate(sets)
        for judge in ("ResNet18", "ViT")
        for seed in range(seeds)
    ]
    return pd.DataFrame(rows)


def test_each_method_has_its_own_colour():
    colors = dict(figures.METHOD_COLORS)
    # both are real images, and no figure shows the two
    assert colors.pop("held-out real") == colors["random real"]
    assert set(colors) == set(METHODS)
    assert len(set(colors.values())) == len(METHODS)
    assert set(colors.values()) == set(sns.color_palette("colorblind").as_hex())


def test_a_wide_table_keeps_its_rows_on_one_line_as_text():
    with pd.option_context("display.width", 80, "display.max_columns", 20):
        figures.set_theme()
        text = repr(pd.DataFrame({f"a rather long name {i}": [i] for i in range(6)}))
    assert len(text.splitlines()) == 2


def test_unknown_names_get_distinct_colours_and_leave_known_ones_alone():
    colors = figures.method_colors(["DM", "DIVER", "MTT"])
    assert colors["DIVER"] == figures.METHOD_COLORS["DIVER"]
    assert len(set(colors.values())) == 3


def test_image_grid_clips_and_labels():
    rows = {
        "distilled": torch.randn(4, 3, 8, 8) * 3,
        "DIVER": torch.rand(2, 3, 16, 16),  # fewer images, another resolution
        "grey": torch.rand(4, 1, 8, 8),
    }
    fig = figures.image_grid(rows, ["a", "b", "c", "d"], title="Rows")
    assert isinstance(fig, Figure)
    ax = fig.axes[0]
    assert [t.get_text() for t in ax.get_yticklabels()] == list(rows)
    assert [t.get_text() for t in ax.get_xticklabels()] == ["a", "b", "c", "d"]
    assert len(ax.images) == 10
    pixels = np.asarray(ax.images[0].get_array())
    assert pixels.min() >= 0 and pixels.max() <= 1
    assert rendered(fig).std() > 0


def test_image_grid_puts_images_where_their_row_and_column_are():
    red = torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    blue = torch.tensor([0.0, 0, 1]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    picture = rendered(figures.image_grid({"red": red, "blue": blue})).astype(int)
    is_red = (picture == [255, 0, 0]).all(-1).nonzero()[0]
    is_blue = (picture == [0, 0, 255]).all(-1).nonzero()[0]
    assert is_red.max() < is_blue.min()


@pytest.mark.parametrize(
    "rows", [{}, {"a": torch.rand(3, 8, 8)}, {"a": torch.rand(2, 4, 8, 8)}]
)
def test_image_grid_refuses_other_shapes(rows):
    with pytest.raises(InputError, match="rows"):
        figures.image_grid(rows)


def test_image_grid_refuses_more_titles_than_columns():
    with pytest.raises(InputError, match="column_titles"):
        figures.image_grid({"a": torch.rand(1, 3, 4, 4)}, ["x", "y"])


def test_latent_grid_is_symmetric_around_zero():
    fig = figures.latent_grid({"z": torch.randn(4, 8, 8), "noise": torch.ones(4, 8, 8)})
    ax = fig.axes[0]
    assert len(ax.images) == 8
    low, high = ax.images[0].get_clim()
    assert low == -high
    assert {image.get_clim() for image in ax.images} == {(low, high)}
    rendered(fig)


def test_latent_grid_refuses_a_batch():
    with pytest.raises(InputError, match=r"\(C,h,w\)"):
        figures.latent_grid({"z": torch.randn(2, 4, 8, 8)})


def test_accuracy_bars_draw_mean_and_std_in_the_colours_of_the_book():
    fig = figures.accuracy_bars(accuracy_table())
    ax = fig.axes[0]
    assert [round(bar.get_height(), 6) for bar in ax.containers[0]] == [41.0, 41.0]
    assert [round(bar.get_height(), 6) for bar in ax.containers[1]] == [46.0, 46.0]
    color = matplotlib.colors.to_hex(ax.containers[1][0].get_facecolor())
    assert color == figures.METHOD_COLORS["DIVER"]
    low, high = ax.lines[0].get_ydata()  # first error bar: 41 -+ 1
    assert (low, high) == pytest.approx((40.0, 42.0))
    assert "n = 3" in ax.get_legend().get_title().get_text()
    rendered(fig)


def test_accuracy_bars_leave_out_runs_without_accuracy():
    table = accuracy_table()
    table.loc[0, "accuracy"] = float("nan")
    fig = figures.accuracy_bars(table)
    assert fig.axes[0].containers[0][0].get_height() == pytest.approx(41.5)
    assert "n = 2-3" in fig.axes[0].get_legend().get_title().get_text()


def test_accuracy_bars_refuse_percent():
    table = accuracy_table().assign(accuracy=50.0)
    with pytest.raises(InputError, match="50"):
        figures.accuracy_bars(table)


def test_accuracy_bars_refuse_a_table_without_seeds():
    with pytest.raises(InputError, match="seed"):
        figures.accuracy_bars(accuracy_table().drop(columns="seed"))


def test_jpeg_is_smaller_and_shows_the_same():
    # smooth pictures with a little grain, as photographs are
    torch.manual_seed(0)
    ramp = torch.linspace(0.2, 0.8, 32).expand(10, 3, 32, 32)
    grain = [0.05 * torch.randn(10, 3, 32, 32) for _ in range(3)]
    grid = figures.image_grid({str(i): ramp + g for i, g in enumerate(grain)})
    jpeg = figures.as_jpeg(grid)
    shown = Image.open(io.BytesIO(jpeg.data))
    assert shown.format == "JPEG"
    assert " at 0x" not in repr(jpeg)  # an address in memory would change
    buffer = io.BytesIO()
    grid.savefig(buffer, format="png", facecolor="white", bbox_inches="tight")
    exact = Image.open(buffer).convert("RGB")
    assert shown.size == exact.size
    error = np.abs(np.asarray(shown, float) - np.asarray(exact, float)).mean()
    assert error < 8  # of 255; the grain is what JPEG is worst at
    assert len(jpeg.data) < 0.6 * len(buffer.getvalue())
    assert len(figures.as_jpeg(grid, quality=60).data) < 0.8 * len(jpeg.data)


def grey(value, size=1.0):
    figure = Figure(figsize=(size, size), dpi=100)
    figure.add_axes((0, 0, 1, 1), facecolor=(value, value, value))
    return figure


def test_slider_enlarges_small_frames_with_hard_pixels():
    noise = np.random.default_rng(0).random((100, 100))
    figure = Figure(figsize=(1, 1), dpi=100)
    figure.figimage(noise, cmap="gray")
    slider = figures.frame_slider([figure], ["one"], alt="Noise", quality=100)
    kind, data = slider.sources[0].split(",")
    assert kind == "data:image/webp;base64"
    picture = Image.open(io.BytesIO(base64.b64decode(data)))
    assert picture.size == (300, 300)
    drawn = rendered(figure)[..., 0].astype(int)
    found = np.asarray(picture.convert("L")).astype(int)
    assert abs(found[1::3, 1::3] - drawn).max() < 30


def make_slider(**changes):
    frames = [grey(value) for value in (0.0, 0.5, 1.0)]
    arguments = {"labels": ["dark", "grey", "<b>&light"], "alt": 'A "square"'}
    return figures.frame_slider(frames, **(arguments | changes))


def test_slider_shows_its_first_frame_without_scripts():
    page = make_slider(caption="Light < dark")._repr_html_()
    static = re.sub(r"<script>.*</script>", "", page, flags=re.DOTALL)
    assert static.count("data:image/webp") == 1
    assert 'alt="A &#34;square&#34;: dark"' in static
    assert "<input" not in static, "a control that no script moves is dead"
    assert "Light &lt; dark" in static
    assert "when this cell is run" in static, "why there is none, said by a hint"
    assert page.count("data:image/webp") == 4
    assert "3 frames" in repr(make_slider())


def test_slider_loads_nothing_and_escapes_labels():
    hostile = "<!--<script>", "</script><i>"  # each would swallow the page below
    page = make_slider(labels=["a", *hostile])._repr_html_()
    assert "://" not in page
    assert page.count("</script>") == 1
    assert "<!--" not in page
    (labels,) = re.findall(r"const labels = (.*);", page)
    assert json.loads(labels) == ["a", *hostile]


def test_slider_shown_again_is_the_same_page():
    """A notebook that is run again keeps its outputs byte for byte."""
    slider = make_slider()
    assert slider._repr_html_() == slider._repr_html_() == make_slider()._repr_html_()


@pytest.mark.parametrize(
    "changes", [{"labels": ["only one"]}, {"alt": " "}], ids=["labels", "alt"]
)
def test_slider_refuses(changes):
    with pytest.raises(InputError, match=next(iter(changes))):
        make_slider(**changes)


def test_slider_refuses_frames_of_different_sizes():
    with pytest.raises(InputError, match="sizes"):
        figures.frame_slider([grey(0), grey(0, 2)], ["a", "b"], alt="Squares")


def test_slider_takes_figures_alone():
    with pytest.raises(InputError, match="frame is of type Tensor"):
        figures.frame_slider([torch.zeros(3, 8, 8)], ["a"], alt="Squares")


def test_importing_figures_does_not_import_diffusers():
    code = "import sys, bookkit.figures; sys.exit('diffusers' in sys.modules)"
    chapters = Path(__file__).parents[2] / "notebooks"
    assert subprocess.run([sys.executable, "-c", code], cwd=chapters).returncode == 0
