"""The explorer of the chapter on distilled data, driven without a browser."""

import pytest
import torch
from ipywidgets import Output

from diver_lite import explore
from diver_lite.errors import InputError


@pytest.fixture
def sets():
    ramp = torch.linspace(-1, 3, 64).view(1, 1, 8, 8)
    return {"flat": torch.full((1, 1, 8, 8), 0.5), "ramp": ramp}


def test_sliders_choose_the_images_and_what_is_black_and_white(drawn, sets):
    name, shown, output = explore.explore_pixel_range(sets).children
    assert isinstance(output, Output)
    assert (shown.min, shown.max) == (-1, 3)
    rows, title = drawn[-1]  # the last set, cut off where a screen would
    torch.testing.assert_close(rows["ramp"], sets["ramp"])
    below = (sets["ramp"] < 0).float().mean()
    above = (sets["ramp"] > 1).float().mean()
    assert title == f"below black {below:.0%}, above white {above:.0%}"

    shown.value = (-1, 3)
    rows, title = drawn[-1]
    torch.testing.assert_close(rows["ramp"], (sets["ramp"] + 1) / 4)
    assert title == "below black 0%, above white 0%"

    name.value = "flat"
    assert list(drawn[-1][0]) == ["flat"]


def test_an_empty_range_divides_by_no_zero(drawn, sets):
    _, shown, _ = explore.explore_pixel_range(sets).children
    shown.value = (0.5, 0.5)
    assert torch.isfinite(drawn[-1][0]["ramp"]).all()


def test_ordinary_images_get_the_visible_range(drawn):
    _, shown, _ = explore.explore_pixel_range({"grey": torch.rand(1, 3, 8, 8)}).children
    assert (shown.min, shown.max) == (0, 1)


def test_no_sets():
    with pytest.raises(InputError, match="sets is empty"):
        explore.explore_pixel_range({})
