"""A set shows itself: what is on the sheet, and what is said below it."""

import base64
import io
import re

import numpy as np
import pytest
import torch
from PIL import Image

from diver_lite.checks import InputError
from diver_lite.distilled import DistilledSet
from diver_lite.sets.sheet import CAPTION, GAP, contact_sheet, facts


def three_classes(**changes):
    """Two black, two white, two red images of 4 x 4 pixels; red leaves the range."""
    colors = torch.tensor([[0.0, 0, 0], [1, 1, 1], [1.5, -0.5, 0]])
    images = colors[[0, 0, 1, 1, 2, 2]].view(6, 3, 1, 1).expand(6, 3, 4, 4)
    about = {"format": "test", "method": "<dm>", "source": {"file": "x.pt"}}
    names = ("night", "a name longer than the picture is wide", "fire")
    settings = {"labels": torch.tensor([0, 0, 1, 1, 2, 2]), "class_names": names}
    settings |= {"images": images, "provenance": about}
    return DistilledSet(**settings | changes)


def middle(sheet, column, row=0, side=96):
    x, y = GAP + column * (side + GAP), GAP + row * (side + GAP + CAPTION)
    return tuple(np.asarray(sheet)[y + side // 2, x + side // 2])


def test_one_image_of_each_class_with_its_name():
    sheet = contact_sheet(three_classes())
    assert [middle(sheet, i) for i in range(3)] == [
        (0, 0, 0),
        (255, 255, 255),
        (255, 0, 0),
    ]
    below = np.asarray(sheet)[GAP + 97 :, : GAP + 96]
    assert below.min() < 100, "no name below the picture"
    between = np.asarray(sheet)[:, GAP + 2 * 96 + GAP : 2 * (GAP + 96) + GAP]
    assert between[GAP + 96 :].min() == 255, "a long name leaves its column"


def test_more_of_each_and_fewer_classes():
    sheet = contact_sheet(three_classes(), classes=2, per_class=2, columns=2, side=32)
    assert sheet.size == (GAP + 2 * (32 + GAP), GAP + 2 * (32 + GAP + CAPTION))
    corners = [middle(sheet, c, r, 32) for r in (0, 1) for c in (0, 1)]
    assert corners == [(0, 0, 0)] * 2 + [(255, 255, 255)] * 2


@pytest.mark.parametrize("name", ["classes", "per_class", "columns"])
def test_numbers_out_of_range_are_named(name):
    with pytest.raises(InputError, match=f"^{name} is 0"):
        contact_sheet(three_classes(), **{name: 0})
    with pytest.raises(InputError, match=r"^side is 8; expected .* 16 "):
        contact_sheet(three_classes(), side=8)


def test_facts():
    said = facts(three_classes())
    assert said["images"] == "6 of 4 x 4 pixels"
    assert said["classes"] == "3, 2 each"
    assert said["values"] == "-0.50 to 1.50, 22% of them no colour"
    assert said["provenance"] == "format test; method <dm>; from file x.pt"
    uneven = three_classes(labels=torch.tensor([0, 0, 0, 1, 2, 2]), provenance={})
    assert facts(uneven)["classes"] == "3, not equally many each"
    assert facts(uneven)["provenance"] == "not recorded"


def test_pixels_that_stay_in_their_files_are_not_all_read(tmp_path):
    made = three_classes()
    made.save_index(tmp_path, rows=6)
    three_classes().save(tmp_path / "000000.safetensors")
    there = DistilledSet.load(tmp_path)
    assert facts(there)["values"] == "in their files"
    assert middle(contact_sheet(there), 2) == (255, 0, 0)


def test_a_notebook_shows_the_sheet_and_the_facts():
    shown = three_classes()._repr_html_()
    data = re.search(r"data:image/png;base64,([\w+/=]+)", shown)[1]
    picture = Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")
    assert picture.tobytes() == contact_sheet(three_classes()).tobytes()
    assert "alt='Distilled images, one per class: night, a name" in shown
    assert "method &lt;dm&gt;" in shown
    assert len(shown) < 60_000
