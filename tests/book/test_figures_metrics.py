import matplotlib
import numpy as np
import pandas as pd
import pytest
from bookkit import figures
from drawing import no_figure_stays_open, rendered  # noqa: F401

from diver_lite.checks import InputError


def plane(stages=("real", "Stage I", "VAE only", "DIVER"), classes=("a", "b")):
    rng = np.random.default_rng(0)
    rows = [
        {"x": x, "y": y, "stage": stage, "class": name}
        for stage in stages
        for name in classes
        for x, y in rng.normal(size=(3, 2))
    ]
    return pd.DataFrame(rows)


def test_scatter_has_a_panel_per_stage_with_all_images():
    table = plane()
    fig = figures.embedding_scatter(table)
    shown = [ax for ax in fig.axes if ax.get_visible()]
    assert [ax.get_title() for ax in shown] == [
        "real (6)", "Stage I (6)", "VAE only (6)", "DIVER (6)",
    ]  # fmt: skip
    for ax, stage in zip(shown, dict.fromkeys(table["stage"]), strict=True):
        others, mine = ax.collections
        assert len(others.get_offsets()) == 18
        expected = table.loc[table["stage"] == stage, ["x", "y"]].to_numpy()
        assert np.asarray(mine.get_offsets()) == pytest.approx(expected)
    assert rendered(fig).std() > 0


def test_scatter_gives_a_class_one_colour_in_all_panels():
    fig = figures.embedding_scatter(plane())
    colors = [ax.collections[1].get_facecolors() for ax in fig.axes[:4]]
    assert all((c == colors[0]).all() for c in colors)
    assert len(np.unique(colors[0], axis=0)) == 2
    (legend,) = fig.legends
    assert [text.get_text() for text in legend.get_texts()] == ["a", "b"]
    assert [
        matplotlib.colors.to_rgba(h.get_color()) for h in legend.legend_handles
    ] == [
        tuple(colors[0][0]),
        tuple(colors[0][3]),
    ]


def test_scatter_takes_many_classes_and_one_stage():
    names = [f"class {i}" for i in range(14)]
    fig = figures.embedding_scatter(plane(["real"], names))
    colors = fig.axes[0].collections[1].get_facecolors()
    assert len(np.unique(colors, axis=0)) == 14
    rendered(fig)


def test_figures_refuse_tables_of_other_columns():
    with pytest.raises(InputError, match="lacks the columns \\['stage'\\]"):
        figures.embedding_scatter(plane().drop(columns="stage"))
    with pytest.raises(InputError, match="number of rows is 0"):
        figures.embedding_scatter(plane().head(0))


def ratios():
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "space": ["pixels"] * 30 + ["features"] * 30,
            "set": (["held-out real"] * 20 + ["DIVER"] * 10) * 2,
            "ratio": rng.uniform(0.2, 1.5, 60),
        }
    )


def test_copying_plot_has_a_panel_per_space_and_a_curve_per_set():
    """Curves reach 1, keep the method's colour, and say how many images they show."""
    fig = figures.copying_plot(ratios(), colors={"held-out real": "#000000"})
    first, second = fig.axes
    assert [ax.get_title() for ax in fig.axes] == ["pixels", "features"]
    curves = first.get_lines()[:2]
    assert [c.get_label() for c in curves] == ["held-out real (20)", "DIVER (10)"]
    assert [c.get_color() for c in curves] == [
        "#000000",
        figures.METHOD_COLORS["DIVER"],
    ]
    for curve in (*curves, *second.get_lines()[:2]):
        x, y = curve.get_data()
        assert (np.diff(x) >= 0).all()
        assert y[-1] == 1
    assert rendered(fig).std() > 0
    with pytest.raises(InputError, match="ratio"):
        figures.copying_plot(ratios().drop(columns="ratio"))
