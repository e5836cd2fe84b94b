"""Draw the before/after picture of the README and the introduction.

Run: python scripts/make_before_after.py
"""

from diver_lite import load_distilled, load_prior, recover
from diver_lite.book.figures import image_grid, set_theme, squeeze

distilled = load_distilled("fashion-mnist-dm-ipc1")
recovered = recover(distilled, load_prior("fashion-mnist", device="cpu"))
rows = {
    "distilled, squeezed": squeeze(distilled.images),
    "distilled, cut off": distilled.images,
    "DIVER": recovered.images,
}
set_theme()
figure = image_grid(rows, distilled.class_names)
figure.savefig("book/_static/before_after.png", dpi=110, bbox_inches="tight")
