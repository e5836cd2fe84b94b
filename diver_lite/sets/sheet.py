"""How a distilled set shows itself: a contact sheet, as a picture and in notebooks.

It needs neither matplotlib nor a display. Source of all: ours.
"""

from __future__ import annotations

import base64
import html
import io
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageDraw, ImageFont
from torch.nn.functional import interpolate

from diver_lite.checks import integer
from diver_lite.sets.stored import StoredImages

if TYPE_CHECKING:
    from diver_lite.distilled import DistilledSet

CAPTION = 18  # pixels for a class's name
GAP = 6
HIDDEN = ("source", "sha256")  # of a provenance: in full it is `distilled.provenance`


def contact_sheet(
    distilled: DistilledSet,
    *,
    classes: int = 10,
    per_class: int = 1,
    columns: int = 5,
    side: int = 96,
) -> Image.Image:
    """Draw the first images of the first classes, with the classes' names.

    Args:
        distilled: its values are cut off at black and white.
        classes: how many classes at most, >= 1.
        per_class: how many images of each at most, >= 1.
        columns: how many images stand in a line, >= 1.
        side: of an image in pixels, >= 16. Small ones keep hard pixels.

    Raises `InputError`: a number out of its range.
    """
    counts = {"classes": classes, "per_class": per_class, "columns": columns}
    for name, value in counts.items():
        integer(value, name, 1)
    integer(side, "side", 16)
    present = distilled.labels.unique()[:classes]
    chosen = [
        int(index)
        for label in present
        for index in (distilled.labels == label).nonzero().flatten()[:per_class]
    ]
    pixels = distilled.images[chosen].float().clamp(0, 1)
    how = "nearest" if max(pixels.shape[2:]) <= side else "area"
    pixels = interpolate(pixels, (side, side), mode=how)
    pixels = (255 * pixels).round().byte().permute(0, 2, 3, 1).numpy()
    wide = min(columns, len(chosen))
    high, step = -(-len(chosen) // wide), side + GAP
    size = (wide * step + GAP, high * (step + CAPTION) + GAP)
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for place, index in enumerate(chosen):
        x, y = GAP + place % wide * step, GAP + place // wide * (step + CAPTION)
        sheet.paste(Image.fromarray(pixels[place]), (x, y))
        name = distilled.class_names[int(distilled.labels[index])]
        while name and draw.textlength(name, font) > side:
            name = name[:-1]
        draw.text((x, y + side + 1), name, "black", font)
    return sheet


def facts(distilled: DistilledSet) -> dict[str, str]:
    """Return what there is to say about a set: size, classes, range, provenance."""
    count, _, height, width = distilled.images.shape
    per_class = f"{distilled.ipc} each" if distilled.ipc else "not equally many each"
    said = {
        "images": f"{count:,} of {width} x {height} pixels",
        "classes": f"{len(distilled.class_names):,}, {per_class}",
        "values": "in their files",
    }
    if not isinstance(distilled.images, StoredImages):
        images = distilled.images
        outside = ((images < 0) | (images > 1)).float().mean().item()
        low, high = images.min().item(), images.max().item()
        said["values"] = f"{low:.2f} to {high:.2f}, {outside:.0%} of them no colour"
    if distilled.soft_labels is not None:
        said["soft labels"] = str(distilled.provenance.get("soft_labels", "yes"))
    record: Any = distilled.provenance
    made = [f"{k} {v}" for k, v in record.items() if _short(k, v)]
    while isinstance(record := record.get("source"), dict):
        made.append(
            "from " + ", ".join(f"{k} {v}" for k, v in record.items() if _short(k, v))
        )
    return said | {"provenance": "; ".join(made) or "not recorded"}


def _short(key: str, value: Any) -> bool:
    plain = isinstance(value, str | int | float) and len(str(value)) <= 60
    return plain and key not in HIDDEN


def as_html(distilled: DistilledSet) -> str:
    """Return the sheet and the facts as HTML that needs neither kernel nor network."""
    buffer = io.BytesIO()
    contact_sheet(distilled).save(buffer, "PNG", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode()
    rows = "".join(
        f"<tr><th style='text-align:left'>{name}</th>"
        f"<td style='text-align:left'>{html.escape(text)}</td></tr>"
        for name, text in facts(distilled).items()
    )
    names = html.escape(", ".join(distilled.class_names[:10]), quote=True)
    return (
        f"<figure style='margin:0'><img alt='Distilled images, one per class: {names}'"
        f" style='max-width:100%' src='data:image/png;base64,{data}'>"
        f"<figcaption><table>{rows}</table></figcaption></figure>"
    )
