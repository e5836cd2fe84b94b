"""A set in words and as a picture: nothing of its record is lost on the way."""

import base64
import io
import re

import numpy as np
import pytest
import torch
from PIL import Image
from published_files import CIFAR10, class_major, normalise, pixels, save_dc
from toy_sets import toy_set

from diver_lite.checks import InputError
from diver_lite.sets.distilled import DistilledSet
from diver_lite.sets.load import load_distilled
from diver_lite.sets.sheet import contact_sheet, in_words


def test_each_picture_stands_under_its_class():
    """Three columns of two, eight pixels enlarged to sixteen."""
    images = torch.arange(9).view(9, 1, 1, 1).expand(9, 3, 8, 8) / 10
    labels = torch.tensor([2, 0, 1, 0, 1, 2, 0, 1, 2])
    sheet = contact_sheet(
        DistilledSet(images, labels, ("a", "b", "c")), rows=2, side=15
    )
    assert sheet.size == (3 * 20 + 4, 2 * 20 + 20)
    found = np.asarray(sheet)[:, :, 0]
    for column, pair in enumerate([(1, 3), (2, 4), (0, 5)]):
        for row, index in enumerate(pair):
            part = found[row * 20 + 20 :, column * 20 + 4 :][:16, :16]
            assert (part == round(index * 25.5)).all()


def test_few_of_many_classes():
    distilled = toy_set(count=3)
    assert contact_sheet(distilled, classes=2, rows=1, side=32).size == (2 * 36 + 4, 56)
    with pytest.raises(InputError, match="rows is 0"):
        contact_sheet(distilled, rows=0)


def test_a_long_name_ends_before_the_next_column():
    long = DistilledSet(torch.zeros(2, 3, 8, 8), [0, 1], ("l" * 300, "m"))
    ink = np.asarray(contact_sheet(long, side=32))[:15, 30:40]
    assert (ink[:, 6:8] == 255).all()


def test_the_words_tell_the_reading(tmp_path):
    data = [[normalise(pixels(seed=i), CIFAR10), class_major()] for i in range(3)]
    path = save_dc(tmp_path / "res_DC_CIFAR10_ConvNet_2ipc.pt", data)
    words = dict(in_words(load_distilled(path)))
    assert words["images"] == "20 of 8x8 pixels"
    assert words["classes"].startswith("10, 2 each: airplane, automobile")
    assert words["entry"] == "0 of 0 .. 2"
    assert words["read as"].startswith("format dc; data set cifar10, by name 'res_DC")
    assert "normalisation" in words["undone"] and "std away" in words["fit"]


def test_the_words_tell_doubts_and_makers():
    record = {"doubts": ["one", "two"], "method": "DIVER", "seed": 3}
    record["source"] = {"method": "MTT", "ipc": 1}
    soft = torch.eye(3)[toy_set().labels]
    found = [*in_words(toy_set(provenance=record, soft_labels=soft))]
    assert [text for topic, text in found if topic == "doubt"] == ["one", "two"]
    made = [text for topic, text in found if topic == "made by"]
    assert made == ["DIVER (seed 3)", "MTT (ipc 1)"]
    assert "soft labels" in dict(found)


def test_a_notebook_shows_the_sheet_and_the_words():
    """Escaped, and small enough for a page."""
    made = DistilledSet(
        torch.rand(12, 3, 8, 8),
        [*range(6)] * 2,
        tuple("abcdef"),
        None,
        {"method": "<x>"},
    )
    shown = made._repr_html_()
    data = re.search(r"data:image/png;base64,([\w+/=]+)", shown)[1]
    picture = Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")
    drawn = contact_sheet(made, classes=5, rows=2)
    assert picture.tobytes() == drawn.tobytes()
    assert "Images of a, b, c, d, e'" in shown
    assert "&lt;x&gt;" in shown and "12 of 8x8 pixels" in shown
    assert len(shown) < 60_000


def test_a_part_of_a_set_shows_the_classes_that_it_has():
    made = DistilledSet(torch.rand(6, 3, 8, 8), [*range(6)], tuple("abcdef"))
    part = made[[1, 4]]
    assert dict(in_words(part))["classes"] == "2 of 6, 1 each: b, e"
    assert contact_sheet(part).width < contact_sheet(made).width
    assert "Images of b, e'" in part._repr_html_()


def test_pixels_that_stay_in_their_files_are_not_all_read(tmp_path, monkeypatch):
    made = toy_set(count=3)
    made.save(tmp_path / "000000.safetensors")
    made.save_index(tmp_path, rows=len(made))
    there = DistilledSet.load(tmp_path)
    monkeypatch.delattr(type(there.images), "__torch_function__")
    assert dict(in_words(there))["values"] == "in their files"
    assert "data:image/png" in there._repr_html_()


def test_a_name_of_several_lines():
    strange = DistilledSet(torch.rand(2, 3, 8, 8), [0, 1], ("a\nb", "\x1b[2Jc\u202e"))
    assert contact_sheet(strange).size == (2 * 100 + 4, 100 + 20)
    assert "data:image/png" in strange._repr_html_()


def test_large_pictures_are_shrunk():
    """A notebook must carry them; a sheet shows them larger, but not at any size."""
    large = DistilledSet(torch.rand(2, 3, 1024, 2048), [0, 1], ("a", "b"))
    assert len(large._repr_html_()) < 200_000
    assert contact_sheet(large).size == (2 * 516 + 4, 260 + 20)
    assert contact_sheet(large, side=600).size == (2 * 604 + 4, 304 + 20)
    fine = torch.zeros(1, 3, 1024, 1024)
    fine[..., ::2] = 1  # one in two columns is white: grey from afar
    found = np.asarray(contact_sheet(DistilledSet(fine, [0], ("a",))))[20:-4, 4:-4]
    assert abs(found.astype(int) - 127).max() <= 1
