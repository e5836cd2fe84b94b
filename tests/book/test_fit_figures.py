"""Figures on a dark page and on a phone: what can be read there, and what stays."""

from functools import partial

import draw_findings as draw
import numpy as np
import pytest
from bookkit import figures
from drawing import no_figure_stays_open, rendered  # noqa: F401
from fit_figures import PAGE, TEXT, fitted, on_dark
from matplotlib.colors import to_rgb
from matplotlib.text import Text
from PIL import Image
from torch import rand

DRAWN = {"findings": draw.findings, "forest": draw.forest, "curves": draw.curves}
DRAWN |= {n: partial(draw.question, *found) for n, found in draw.QUESTIONS.items()}
PHONE = 358  # pixels of a phone's 390 that a figure has
SCREEN = 890  # of a laptop's 1,366
BLACK = [TEXT] * 3


def luminance(color):
    """As the WCAG have it; color: of 255."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
              for c in np.asarray(color) / 255]  # fmt: skip
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def contrast(one, other):
    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("phone", [False, True], ids=["wide", "phone"])
@pytest.mark.parametrize("name", DRAWN)
def test_words_of_a_figure_can_be_read(name, phone):
    figures.set_theme()
    fig = DRAWN[name](phone=phone)
    if phone:
        fig = draw.for_phone(fig)
    rendered(fig)
    width, height = fig.get_size_inches()
    shown = PHONE if phone else min(SCREEN, width * 130)  # dpi
    for text in fig.findobj(Text):
        if not text.get_text().strip() or not text.get_visible():
            continue
        pixels = text.get_fontsize() / 72 * shown / width
        assert pixels >= 11, f"{text.get_text()}: {pixels:.1f} px"
        color = np.array(to_rgb(text.get_color())) * 255
        (dark,) = on_dark(color[None, None].round().astype(np.uint8))[0]
        assert contrast(color, [255] * 3) >= 4.5, text.get_text()
        assert contrast(dark, [PAGE] * 3) >= 4.5, text.get_text()
    if phone:
        box = fig.get_tightbbox()  # inches
        assert min(box.min) >= -0.01, "cut at the left or below"
        assert (box.max <= [width + 0.01, height + 0.01]).all(), "cut"


def test_curves_take_every_length_of_training():
    lengths = draw.lengths()
    assert [*lengths][:3] == [80, 300, 1000]
    for study in lengths.values():
        assert (draw.ROOT / "results" / f"{study}_trainings.csv").exists(), study


# ---------------------------------------------------------------- dark pages


def grid_figure(images):
    names = dict(zip("abc", images.split(2), strict=True))
    return rendered(figures.image_grid(names, ["one", "two"]))


def split_picture():
    """Like a trouser: a white middle parts the black."""
    picture = rand(3, 32, 32) * 0.2
    picture[:, :, 10:22] = 1.0
    return picture


def test_photographs_keep_their_pixels_on_a_dark_page():
    pictures = rand(6, 3, 32, 32) * 0.6
    pictures[3] = split_picture()
    light = grid_figure(pictures)
    dark = on_dark(light)
    ink = light.min(-1) < 200
    columns, rows = np.flatnonzero(ink.mean(0) > 0.5), np.flatnonzero(ink.mean(1) > 0.5)
    left, top = columns[0], rows[0]
    assert (
        dark[top:, left:][ink[top:, left:]] == light[top:, left:][ink[top:, left:]]
    ).all()
    assert (dark[top:, left:].min(-1) == 255).sum() > 500, "a white middle stays white"
    assert (dark[0] == PAGE).all(), "the paper is as dark as the page"
    assert dark[:, : left - 2].max() > 200, "names of rows are light"


def test_a_chart_changes_light_and_dark_and_keeps_its_hue():
    chart = np.full((100, 100, 3), 255, np.uint8)
    chart[20:80, 50] = 0  # an axis
    chart[50, 20:80] = [1, 115, 178]  # a curve, blue
    dark = on_dark(chart)
    assert (dark[0, 0] == PAGE).all()
    assert (dark[30, 50] == TEXT).all()
    red, green, blue = dark[50, 30]
    assert red < green < blue
    assert contrast(dark[50, 30], [PAGE] * 3) > 4.5


def test_a_built_page_has_a_figure_for_each_theme_and_screen(tmp_path):
    for folder in ("_images", "_static"):
        (tmp_path / folder).mkdir()
    chart = np.full((60, 90, 3), 255, np.uint8)
    chart[30] = 0
    chart[30, [0, -1]] = 255
    for name in ("_images/a.png", "_images/b.png", "_static/b.phone.png"):
        Image.fromarray(chart).save(tmp_path / name)
    Image.fromarray(255 - chart).save(tmp_path / "_images/photo.jpg")
    page = """<div id="jb-print-docs-body" class="onlyprint">
    <h1>Title</h1></div><h1>Title<a href="#t">#</a></h1>
    <img alt="A" src="../_images/a.png" /><img alt="B" src="../_images/b.png" />
    <img alt="P" src="../_images/photo.jpg" />"""
    html = fitted(page, tmp_path)
    assert html.count("<h1>") == 1
    assert '<img alt="P" src="../_images/photo.jpg" />' in html
    for theme, name in {"only-light": "a.png", "only-dark": "a.dark.webp"}.items():
        shown = f'class="{theme}" alt="A" src="../_images/{name}" />'
        assert html.count(shown) == 1
    assert '<picture class="only-light">' in html
    assert 'srcset="../_static/b.phone.png"' in html
    assert 'srcset="../_static/b.phone.dark.webp"' in html
    dark = np.asarray(Image.open(tmp_path / "_images/a.dark.webp"))
    assert (dark[0] == PAGE).all()
    assert (tmp_path / "_static/b.phone.dark.webp").exists()
