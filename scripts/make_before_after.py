"""Draw the before/after picture of the README and the introduction.

Run: python scripts/make_before_after.py
"""

import io
from dataclasses import replace

from PIL import Image
from provenance import ROOT  # and bookkit

# isort: split
from bookkit.figures import image_grid, set_theme

from diver_lite import RecoveryConfig, load_distilled, load_prior, recover

OUT = ROOT / "book/_static/before_after.png"
SCALE = 1.0  # inches per picture: on a page a hundred pixels
# all classes, so that nobody chose the prettiest, and what `recover` does by default
SETS = {"cifar10-dsa-ipc1": "cifar10", "fashion-mnist-dm-ipc1": "fashion-mnist"}

set_theme()
pictures = []
for name, dataset in SETS.items():
    distilled = load_distilled(name)
    prior = load_prior(dataset, device="cpu")
    config = RecoveryConfig.recommended(prior)
    recovered = recover(distilled, prior, config).images
    rows = {"distilled": distilled.images}
    if config.guidance_factor > 0:
        rows["DIVER"] = recovered
    else:  # no pull; the same noise without the picture shows what is the prior's
        rows["inheritance"] = recovered
        alone = replace(config, inheritance=False)
        rows["samples of\nthe prior"] = recover(distilled, prior, alone).images
    titles = [distilled.class_names[label] for label in distilled.labels]
    buffer = io.BytesIO()
    # cut at the pictures' right edge, by which the columns stand in line below
    tight = {"bbox_inches": "tight", "pad_inches": 0.03}
    image_grid(rows, titles, scale=SCALE).savefig(buffer, dpi=110, **tight)
    pictures.append(Image.open(buffer).convert("RGB"))

width, height = max(p.width for p in pictures), sum(p.height for p in pictures)
cover = Image.new("RGB", (width, height), "white")
top = 0
for picture in pictures:
    cover.paste(picture, (width - picture.width, top))
    top += picture.height
cover.save(OUT, optimize=True)
print(f"Wrote {OUT}")
