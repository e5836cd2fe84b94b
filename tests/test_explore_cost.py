"""The live explorer of the chapter on GPUs, driven without a browser."""

import matplotlib

matplotlib.use("Agg")

import pytest

from diver_lite import explore
from diver_lite.errors import InputError
from diver_lite.explore import explore_cost, wall_seconds
from diver_lite.figures import duration, duration_bars


@pytest.fixture
def shown(monkeypatch):
    """Collect what the explorer draws: times and title of each figure."""
    drawn = []

    def record(seconds, *, title=None):
        drawn.append((dict(seconds), title))
        return duration_bars(seconds, title=title)

    monkeypatch.setattr(explore, "duration_bars", record)
    return drawn


def test_sliders_multiply(shown):
    box = explore_cost({"slow": 1.8, "fast": 0.05})
    assert shown[-1] == (
        {"slow": 90_000, "fast": 2_500},
        "50,000 images, 50 steps, 1 GPU",
    )
    images, steps, gpus, _ = box.children
    gpus.value, steps.value = 8, 25
    times, title = shown[-1]
    assert times["slow"] == pytest.approx(90_000 / 16)
    assert title == "50,000 images, 25 steps, 8 GPUs"
    images.value = 10  # two images for the busiest GPU
    assert shown[-1][0]["slow"] == pytest.approx(1.8)


def test_whole_images_are_shared_out():
    assert wall_seconds(2.0, 10, 50, 4) == 6.0
    assert wall_seconds(2.0, 10, 50, 100) == 2.0
    assert wall_seconds(2.0, 10, 100, 1) == 40.0


@pytest.mark.parametrize("seconds", [{}, {"a": 0.0}, {"a": float("nan")}])
def test_no_times_to_show(seconds):
    with pytest.raises(InputError, match="seconds"):
        explore_cost(seconds)


def test_bars_say_their_times():
    figure = duration_bars({"a": 0.3, "b": 90_000}, title="two")
    texts = {text.get_text() for text in figure.axes[0].texts}
    assert texts == {"0.3 s", "25 h"}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.03, "0.03 s"),
        (75, "75 s"),
        (120, "2 min"),
        (5_400, "1.5 h"),
        (129_600, "1.5 days"),
    ],
)
def test_units_of_time(seconds, text):
    assert duration(seconds) == text
