"""What somebody sent you: a set in words, and on one sheet."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageDraw, ImageFont

from diver_lite.checks import integer, printable
from diver_lite.sets.stored import StoredImages, as_picture, known, label_kind, records

if TYPE_CHECKING:
    from diver_lite.sets.distilled import DistilledSet

_SETTINGS = ("prior", "ipc", "seed", "data")  # of who made a set, worth a word
_INK = (40, 40, 40)
_GAP = 4  # pixels between pictures
_LINE = 16  # pixels for a line of text


def contact_sheet(
    distilled: DistilledSet,
    *,
    classes: int = 10,
    rows: int = 5,
    side: int = 96,
    most: int = 512,
) -> Image.Image:
    """Draw a set, a column for each class, values clipped to [0, 1].

    Args:
        distilled: the set.
        classes: draw so many at most, the first ones that the set has images of.
        rows: images of each class, at most.
        side: height of a picture in pixels, at least; enlarged without smoothing.
        most: height and width of a picture at most, but not below `side`.

    Source: ours.
    """
    classes = integer(classes, "classes", 1)
    rows = integer(rows, "rows", 1)
    side = integer(side, "side", 1, 2**12)
    columns = {
        label: (distilled.labels == label).nonzero().flatten()[:rows].tolist()
        for label in distilled.labels.unique().tolist()[:classes]
    }
    height, width = distilled.images.shape[-2:]
    scale = min(-(-side // height), max(most, side) / max(height, width))
    smoothing = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.BOX
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    wide, high = (pixels + _GAP for pixels in size)
    tallest = max(map(len, columns.values()))
    sheet = Image.new(
        "RGB", (len(columns) * wide + _GAP, tallest * high + _LINE + _GAP), "white"
    )
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(11)
    for column, (label, index) in enumerate(columns.items()):
        left = column * wide + _GAP
        # a letter is a pixel wide at least: no more of a name can fit
        name = printable(distilled.class_names[label][: size[0] + 2])
        shorter = (f"{name[:end]}…" for end in range(len(name) - 2, 0, -1))
        texts = (t for t in (name, *shorter, "") if draw.textlength(t, font) <= size[0])
        draw.text((left, 1), next(texts), _INK, font)
        for row, i in enumerate(index):
            picture = as_picture(distilled.images[i]).resize(size, smoothing)
            sheet.paste(picture, (left, row * high + _LINE + _GAP))
    return sheet


def in_words(distilled: DistilledSet) -> Iterator[tuple[str, str]]:
    """Yield what is known of a set, (topic, text): contents, reading, fit, doubts.

    Source: ours; `load_distilled` and the makers of sets keep the record.
    """
    record = known(distilled.provenance)
    names = distilled.class_names
    present, counts = distilled.labels.unique(return_counts=True)
    ipc = "not equally many"
    if len(counts.unique()) == 1:
        ipc = f"{counts[0].item()} each"
    some = [names[label] for label in present.tolist()]
    of = f"{len(some)}"
    if len(some) < len(names):
        of += f" of {len(names)}"
    height, width = distilled.images.shape[-2:]
    yield "images", f"{len(distilled)} of {width}x{height} pixels"
    more = ", ..." if len(some) > 5 else ""
    yield "classes", f"{of}, {ipc}: {', '.join(some[:5])}{more}"
    if isinstance(images := distilled.images, StoredImages):
        yield "values", "in their files"  # to read all may take long
    else:
        outside = ((images < 0) | (images > 1)).float().mean().item()
        low, high = (value.item() for value in images.aminmax())
        yield "values", f"{low:.2f} .. {high:.2f}, {outside:.1%} outside [0, 1]"
    if distilled.soft_labels is not None:
        text = f"{label_kind(record) or 'as stored'}, {len(names)} an image"
        if strange := record.get("argmax_not_class_major"):
            text += "; the largest names another class than the order for "
            text += f"{strange} images"
        yield "soft labels", text
    yield from _reading(record)
    for made in records(record):
        if text := made.get("method"):
            settings = [f"{key} {made[key]}" for key in _SETTINGS if key in made]
            if settings:
                text += f" ({', '.join(settings)})"
            yield "made by", text


def as_html(distilled: DistilledSet) -> str:
    """Return what a notebook shows of a set: five classes, and the words.

    It needs neither kernel nor network. Source: ours.
    """
    buffer = io.BytesIO()
    sheet = contact_sheet(distilled, classes=5, rows=2, most=192)
    sheet.save(buffer, "PNG", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode()
    style = "style='text-align:left'"
    rows = "".join(
        f"<tr><th {style}>{topic}</th><td {style}>{html.escape(text)}</td></tr>"
        for topic, text in in_words(distilled)
    )
    present = distilled.labels.unique().tolist()[:5]
    names = ", ".join(distilled.class_names[label] for label in present)
    names = html.escape(names, quote=True)
    return (
        f"<figure style='margin:0'><img alt='Images of {names}' style='max-width:100%'"
        f" src='data:image/png;base64,{data}'><table>{rows}</table></figure>"
    )


def _reading(record: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield how a published file was read."""
    if found := record.get("format"):
        dataset = record.get("dataset") or "unknown"
        told = f", by {record['dataset_from']}" if "dataset_from" in record else ""
        yield "read as", f"format {found}; data set {dataset}{told}"
    if "experiment" in record and "experiments" in record:
        yield "entry", f"{record['experiment']} of 0 .. {record['experiments'] - 1}"
    if "assumed" in record:
        yield "assumed", str(record["assumed"])
    for what, how in record.get("undone", {}).items():
        yield "undone", f"{what}: {how}"
    fit = known(record.get("fit", {}))
    if {"contrast", "offset", "far_outside"} <= {*fit}:
        text = (
            "contrast {contrast:.2f} (real images: 1), mean {offset:.2f} std away (0), "
            "{far_outside:.1%} outside [-1, 2]"
        )
        yield "fit", text.format_map(fit)
    for doubt in record.get("doubts", ()):
        yield "doubt", str(doubt)
