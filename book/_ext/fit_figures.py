"""Sphinx extension: figures that fit a dark page and a phone, and one title a page.

A chart is drawn black on white. For dark pages each figure gets a second version, in
which light and dark change places and hues stay; the photographs in it are evidence and
keep their pixels. A figure NAME.png of book/_static that has a NAME.phone.png beside it
shows that one on a phone. All this is done to built pages, so that a figure is drawn
once, and stored once.
"""

from __future__ import annotations

import itertools
import re
import statistics
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

PAGE = 18  # of 255: the theme's dark page
TEXT = 237  # what black becomes there
PAPER = 250  # of 255: from here on a pixel is paper
INK = 200  # JPEG smears around a photograph: from here on it may be paper, too
SIDE = 30  # pixels; letters, marks and cells of a table are smaller than photographs
FEW = 3  # photographs; one square alone, or two, are panels of a chart
PHONE = "(max-width: 600px)"  # as in diver.css
IMAGE = re.compile(r'<img\b[^>]*?\bsrc="((?:\.\./)*)_images/([^"]+)"[^>]*?>')
PRINTED = re.compile(r'(?s)(<div id="jb-print-docs-body"[^>]*>\s*)<h1>.*?</h1>')


def photographs(pixels: np.ndarray) -> list[tuple[slice, slice]]:
    """Find the photographs in a figure: squares of one size that are hardly white.

    pixels: (H,W,3) uint8. Some are found by the place that a grid has for them, since
    one with a white sky is no square of ink.
    """
    paper = pixels.min(-1)
    labelled, _ = ndimage.label(paper < INK)
    found = []
    for box in ndimage.find_objects(labelled):
        height, width = (one.stop - one.start for one in box)
        square = min(height, width) >= SIDE and abs(height - width) <= 0.06 * height
        if square and (paper[box] >= PAPER).mean() <= 0.5:
            found.append(box)
    if len(found) < FEW:
        return []
    side = statistics.median_low(rows.stop - rows.start for rows, _ in found)
    alike = [box for box in found if abs(box[0].stop - box[0].start - side) <= 4]
    lines = [joined([box[axis].start for box in alike]) for axis in (0, 1)]
    steps = [step for axis in lines for step in np.diff(axis) if step < 2 * side]
    step = min(steps, default=max(paper.shape))
    top, left = (places(*each, step) for each in zip(lines, paper.shape, strict=True))
    for row, column in itertools.product(top, left):
        box = (slice(row, row + side), slice(column, column + side))
        free = not any(overlap(box, other) for other in alike)
        if free and (paper[box] < PAPER).mean() > 0.3:  # no gap, and no text beside
            found.append(box)
    return [trimmed(paper, box) for box in found]


def overlap(box: tuple[slice, slice], other: tuple[slice, slice]) -> bool:
    pairs = zip(box, other, strict=True)
    return all(a.start < b.stop and b.start < a.stop for a, b in pairs)


def trimmed(paper: np.ndarray, box: tuple[slice, slice]) -> tuple[slice, slice]:
    """Take from a box the one or two lines at its rim that are paper."""
    rows, columns = box
    for _ in range(2):
        top, bottom = (
            is_paper(paper[row, columns]) for row in (rows.start, rows.stop - 1)
        )
        left, right = (
            is_paper(paper[rows, c]) for c in (columns.start, columns.stop - 1)
        )
        rows = slice(rows.start + top, rows.stop - bottom)
        columns = slice(columns.start + left, columns.stop - right)
    return rows, columns


def is_paper(line: np.ndarray) -> bool:
    return bool((line >= INK).mean() > 0.9)


def joined(starts: list[int]) -> list[int]:
    """Return where the lines of a grid start; JPEG moves each square a little."""
    starts = sorted(starts)
    cuts = np.flatnonzero(np.diff(starts) > SIDE // 2) + 1
    return [int(np.median(line)) for line in np.split(starts, cuts)]


def places(starts: list[int], size: int, step: int) -> list[int]:
    """Add to the lines of a grid those between them and beyond, within the size."""
    filled = [starts[0]]
    for start in starts[1:]:
        missing = round((start - filled[-1]) / step)
        filled += np.linspace(filled[-1], start, max(missing, 1) + 1)[1:].tolist()
    before = np.arange(filled[0] - step, -1, -step)
    after = np.arange(filled[-1] + step, size - 0.9 * step, step)
    return [round(start) for start in (*before, *filled, *after)]


def on_dark(pixels: np.ndarray) -> np.ndarray:
    """Turn a figure (H,W,3), uint8, dark around its photographs; hues stay."""
    values = pixels.astype(float)
    # of the lightness of HLS: the mean of the largest and the smallest channel
    flipped = values + 255 - values.max(-1, keepdims=True)
    flipped -= values.min(-1, keepdims=True)
    dark = PAGE + flipped * (TEXT - PAGE) / 255
    for box in photographs(pixels):
        dark[box] = pixels[box]
    return dark.round().astype(np.uint8)


def is_on_paper(pixels: np.ndarray) -> bool:
    """Tell whether a figure has a white rim; a photograph alone has none."""
    rim = [pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]
    return bool((np.concatenate(rim).min(-1) >= PAPER).mean() > 0.9)


def darkened(path: Path) -> Path | None:
    """Write the dark version of a figure beside it; None if it stands on no paper."""
    target = path.with_name(f"{path.stem}.dark.webp")
    if not target.exists():
        image = Image.open(path).convert("RGBA")
        sheet = Image.new("RGBA", image.size, "white")
        pixels = np.asarray(Image.alpha_composite(sheet, image).convert("RGB"))
        if not is_on_paper(pixels):
            return None
        lossless = path.suffix == ".png"
        Image.fromarray(on_dark(pixels)).save(target, lossless=lossless, quality=90)
    return target


def fitted(html: str, folder: Path) -> str:
    """Return a built page whose figures have their versions; folder: of the book."""

    def versions(place: re.Match) -> str:
        up, name = place.groups()
        path = folder / "_images" / name
        phone = folder / "_static" / f"{path.stem}.phone.png"
        dark = darkened(path)
        if dark is None:
            return place[0]
        light = source(place[0], None, phone, up, "only-light")
        return light + source(place[0], dark, phone, up, "only-dark")

    return IMAGE.sub(versions, PRINTED.sub(r"\1", html))


def source(tag: str, dark: Path | None, phone: Path, up: str, theme: str) -> str:
    """Return the HTML of a figure in one theme, for wide and for narrow screens."""
    if not phone.exists():
        tag = tag.replace("<img", f'<img class="{theme}"')
    if dark is not None:  # loaded when it is shown; the light one is for paper, too
        tag = tag.replace("<img", '<img loading="lazy"')
        tag = re.sub(r'_images/[^"]+"', f'_images/{dark.name}"', tag)
    if not phone.exists():
        return tag
    narrow = darkened(phone) if dark is not None else phone
    shown = f'<source media="{PHONE}" srcset="{up}_static/{narrow.name}">'
    return f'<picture class="{theme}">{shown}{tag}</picture>'


def finish(app, exception) -> None:
    if exception is None and app.builder.format == "html":
        folder = Path(app.outdir)
        # the lists of names have a second title of the theme's, too
        for name in sorted({*app.env.found_docs, "genindex", "py-modindex"}):
            path = folder / f"{name}.html"
            if path.exists():
                path.write_text(fitted(path.read_text("utf-8"), folder), "utf-8")


def setup(app):
    app.connect("build-finished", finish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
