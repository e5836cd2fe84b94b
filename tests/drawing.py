"""What the tests of figures share; importing it selects a backend without windows."""

import io

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def no_figure_stays_open():
    plt.close("all")
    yield
    assert not plt.get_fignums(), "a figure left open is shown twice in a notebook"


def rendered(fig):
    """Render a figure to pixels (H,W,3): errors of drawing show up only then."""
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png")
    return np.asarray(Image.open(buffer).convert("RGB"))
