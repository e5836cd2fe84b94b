"""Draw the book's cover: one distilled picture on its way through DIVER.

Run: python scripts/draw_cover.py
Writes book/_static/cover.png and cover.phone.png; the ship was chosen, the noise not.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from provenance import ROOT  # and bookkit

# isort: split
from bookkit.figures import set_theme

from diver_lite import RecoveryConfig, load_distilled, load_prior
from diver_lite.priors.schedule import draw_noise
from diver_lite.recovery import inherit, recover_steps

SHIP = 8  # a class of CIFAR-10
NAMES = ["distilled", "latent", "noisy latent", "on the way", "clean latent"]
NAMES += ["recovered"]
MOVES = ["encode", "add noise", "denoise", "denoise", "decode"]
GAP = 0.82  # between two pictures, of a picture's side: room for an arrow and its word
# lines, width in inches, size of type in points
SHAPES = {"cover": (1, 9.0, 9.5), "cover.phone": (2, 3.6, 8.5)}


def pictures() -> list[np.ndarray]:
    """Return what each move makes of the ship: (H,W,3), and latents as a mosaic."""
    ship = load_distilled("cifar10-dsa-ipc1")[SHIP : SHIP + 1]
    prior = load_prior("cifar10", device="cpu")
    config = RecoveryConfig.recommended(prior)
    start = prior.encode(ship.images.clamp(0, 1))  # (1,C,h,w)
    noise = draw_noise(prior.latent_shape, [SHIP], 0)
    noisy = inherit(start, noise, *prior.signal_and_noise(config.noise_timestep))
    steps = [*recover_steps(start, ship.labels, prior, config, noise=noise)]
    middle, end = steps[len(steps) // 2].latents, steps[-1].latents
    latents = [mosaic(each) for each in (start, noisy, middle, end)]
    return [pixels(ship.images), *latents, pixels(prior.decode(end))]


def pixels(images: torch.Tensor) -> np.ndarray:
    return images[0].clamp(0, 1).permute(1, 2, 0).numpy()


def mosaic(latents: torch.Tensor) -> np.ndarray:
    """Show the first four channels in a square, red above zero and blue below."""
    rows = latents[0, :4].unflatten(0, (2, 2))  # (2,2,h,w)
    values = rows.permute(0, 2, 1, 3).flatten(2).flatten(0, 1)
    return plt.colormaps["RdBu_r"](values.numpy() / 5 + 0.5)[..., :3]


def draw(made: list[np.ndarray], lines: int, width: float, size: float) -> plt.Figure:
    """Draw the pictures in so many lines, with an arrow from each to the next."""
    columns = len(made) // lines
    right = columns + GAP * (columns - 1 + (lines > 1))
    height = 1.35 * lines
    fig = plt.figure(figsize=(width, width * height / right))
    ax = fig.add_axes((0, 0, 1, 1))
    for number, (picture, name) in enumerate(zip(made, NAMES, strict=True)):
        line, column = divmod(number, columns)
        # a line that goes on begins with its arrow
        x, y = column * (1 + GAP) + GAP * (line > 0), 1.35 * line
        ax.imshow(picture, extent=(x, x + 1, y + 1, y), interpolation="nearest")
        ax.text(x + 0.5, y + 1.04, name, ha="center", va="top", fontsize=size)
        if number:
            middle = x - GAP / 2
            arrow = {"arrowstyle": "->", "lw": 1.4, "color": "0.2"}
            ax.annotate("", (x - 0.08, y + 0.55), (x - GAP + 0.08, y + 0.55),
                        arrowprops=arrow)  # fmt: skip
            ax.text(middle, y + 0.48, MOVES[number - 1].replace(" ", "\n"),
                    ha="center", fontsize=size)  # fmt: skip
    ax.set(xlim=(-0.02, right + 0.02), ylim=(height, -0.02), aspect="equal")
    ax.axis("off")
    plt.close(fig)
    return fig


def main() -> None:
    set_theme()
    made = pictures()
    for name, shape in SHAPES.items():
        draw(made, *shape).savefig(ROOT / f"book/_static/{name}.png", dpi=160)
        print(f"Wrote book/_static/{name}.png")


if __name__ == "__main__":
    main()
