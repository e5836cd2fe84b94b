"""Draw the before/after picture of the README and the introduction.

Run: python scripts/make_before_after.py
"""

import io

from PIL import Image
from provenance import ROOT  # and bookkit

# isort: split
from bookkit.figures import image_grid, set_theme

from diver_lite import load_distilled, load_prior, recover
from diver_lite.demo import recovered_photographs

OUT = ROOT / "book/_static/before_after.png"
SCALE = 1.5  # inches per picture: on a page 150 pixels and more

set_theme()
garments = load_distilled("fashion-mnist-dm-ipc1")[[0, 1, 5, 8, 9]]
prior = load_prior("fashion-mnist", device="cpu")
pictures = []
for before, after in (
    recovered_photographs("cpu"),
    [garments, recover(garments, prior)],
):
    rows = {"distilled": before.images, "DIVER": after.images}
    titles = [before.class_names[label] for label in before.labels]
    buffer = io.BytesIO()
    image_grid(rows, titles, scale=SCALE).savefig(buffer, dpi=110)
    pictures.append(Image.open(buffer).convert("RGB"))

width, height = max(p.width for p in pictures), sum(p.height for p in pictures)
cover = Image.new("RGB", (width, height), "white")
for number, picture in enumerate(pictures):
    cover.paste(picture, (0, number * pictures[0].height))
cover.save(OUT, optimize=True)
print(f"Wrote {OUT}")
