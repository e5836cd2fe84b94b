"""The explorer of the chapter on colour images, driven without a browser."""

import pytest
import torch
from ipywidgets import Output

from diver_lite import augment, explore
from diver_lite.errors import InputError


def test_sliders_change_brightness_saturation_and_contrast(drawn):
    images = torch.rand(2, 3, 8, 8, generator=torch.manual_seed(0))
    *sliders, output = explore.explore_colour(images).children
    assert isinstance(output, Output)
    assert [s.description for s in sliders] == ["brightness", "saturation", "contrast"]
    rows, title = drawn[-1]  # at first nothing is changed
    torch.testing.assert_close(rows["after"], images)
    assert title == "0% of the values outside [0, 1]"
    for slider, value in zip(sliders, (0.3, 2.0, 1.5), strict=True):
        slider.value = value
    rows, title = drawn[-1]
    expected = augment.shift_colour(images, 0.3, 2.0, 1.5)
    torch.testing.assert_close(rows["after"], expected)
    outside = ((expected < 0) | (expected > 1)).float().mean()
    assert title == f"{outside:.0%} of the values outside [0, 1]"
    assert outside > 0.1


def test_grey_images_are_refused():
    with pytest.raises(InputError, match="expected \\(N, 3, H, W\\)"):
        explore.explore_colour(torch.rand(2, 1, 8, 8))


def test_saturation_means_nothing_to_grey_images():
    """A third of DSA's family "color" is idle on grey images, three channels or not."""
    grey = torch.rand(2, 1, 8, 8).expand(-1, 3, -1, -1)
    for saturation in (0.0, 0.5, 2.0):
        torch.testing.assert_close(augment.shift_colour(grey, 0, saturation, 1), grey)
    colour = torch.rand(2, 3, 8, 8)
    changed = augment.shift_colour(colour, 0, 0.0, 1)
    torch.testing.assert_close(changed, colour.mean(1, True).expand(-1, 3, -1, -1))
