"""Draw the before/after picture of the README and the introduction.

Run: python scripts/make_before_after.py
"""

import io

from PIL import Image
from provenance import ROOT  # and bookkit

# isort: split
from bookkit.figures import image_grid, set_theme

from diver_lite import RecoveryConfig, load_distilled, load_prior, recover
from diver_lite.demo import COLOR_CONFIG, COLOR_SET

OUT = ROOT / "book/_static/before_after.png"
SCALE = 1.0  # inches per picture: on a page a hundred pixels
SETS = {  # of all classes, so that nobody chose the prettiest
    COLOR_SET: ("cifar10", COLOR_CONFIG),
    "fashion-mnist-dm-ipc1": ("fashion-mnist", RecoveryConfig()),
}

set_theme()
pictures = []
for name, (prior, config) in SETS.items():
    distilled = load_distilled(name)
    recovered = recover(distilled, load_prior(prior, device="cpu"), config)
    rows = {"distilled": distilled.images, "DIVER": recovered.images}
    titles = [distilled.class_names[label] for label in distilled.labels]
    buffer = io.BytesIO()
    image_grid(rows, titles, scale=SCALE).savefig(buffer, dpi=110)
    pictures.append(Image.open(buffer).convert("RGB"))

width, height = max(p.width for p in pictures), sum(p.height for p in pictures)
cover = Image.new("RGB", (width, height), "white")
for number, picture in enumerate(pictures):
    cover.paste(picture, (0, number * pictures[0].height))
cover.save(OUT, optimize=True)
print(f"Wrote {OUT}")
