"""Draw DIVER in the plane, from the code on the page "Add a prior".

Run: python scripts/draw_plane.py
Writes book/_static/plane_prior.webp; no number is made here.
"""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path

import matplotlib
import torch

from diver_lite.priors.schedule import draw_noise
from diver_lite.recovery import RecoveryConfig, recover_steps

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "book" / "add_a_prior.md"
COVER = ROOT / "book" / "_static" / "live" / "plane.json"


@functools.cache
def run_page() -> dict:
    """Run the page's Python, from top to bottom; return what it leaves."""
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.M | re.S)
    found: dict = {"__name__": "page"}
    exec(compile("\n".join(blocks), PAGE.name, "exec"), found)
    return found


def recover_points(config: RecoveryConfig, seed: int = 0) -> torch.Tensor:
    """Return where the points of the book's cover end: (points, draws, 2)."""
    cover = json.loads(COVER.read_text("utf-8"))
    prior = run_page()["Plane"](torch.tensor(cover["curves"]), cover["std"])
    draws = cover["draws"]
    points = torch.tensor(cover["points"]).repeat_interleave(draws, 0)[:, :, None, None]
    labels = torch.tensor(cover["classes"]).repeat_interleave(draws)
    noise = draw_noise(prior.latent_shape, range(len(points)), seed)
    *_, last = recover_steps(points, labels, prior, config, noise=noise)
    return last.latents.view(-1, draws, 2)


def main() -> None:
    page = run_page()
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), sharey=True, dpi=110)
    for axis, (title, path) in zip(axes, page["paths"].items(), strict=True):
        for centres in page["prior"].centres:
            axis.plot(*centres.T, lw=4, alpha=0.35)
        axis.plot(*path.unbind(-1), color="0.6", lw=0.6)
        axis.plot(*path[-1].T, "k.", ms=5)
        axis.plot(*page["z_0"].flatten(1).T, "rx", ms=8)
        axis.set(title=title, xlim=(-4, 4), ylim=(-3, 3), aspect="equal")
    figure.tight_layout()
    figure.savefig(ROOT / "book" / "_static" / "plane_prior.webp")


if __name__ == "__main__":
    main()
