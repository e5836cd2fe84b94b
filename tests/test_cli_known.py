"""The command line as people know it, also where a part is missing."""

import subprocess
import sys

import pytest
import torch

from diver_lite.checks import InputError
from diver_lite.sets.distilled import DistilledSet
from diver_lite.sets.sheet import contact_sheet

WITHOUT = """
import sys
from importlib import metadata
sys.modules["diffusers"] = None
found = metadata.version
def version(name):
    if name == "diffusers":
        raise metadata.PackageNotFoundError(name)
    return found(name)
metadata.version = version
from diver_lite.cli import main
main(["check"])
"""


def test_check_says_what_is_missing():
    """It is the command for the case that the rest can't be imported."""
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    said = done.stdout.decode()
    assert "missing; install it with: pip install diffusers" in said
    assert "cifar10, fashion-mnist" in said


@pytest.mark.parametrize("command", [(), ("recover",), ("check",)])
def test_a_short_option_asks_for_help(cli, command):
    assert cli(*command, "-h") == cli(*command, "--help")


def test_the_version_says_which_priors_are_there(cli):
    assert "cifar10, fashion-mnist" in cli("--version")[1]


def test_a_name_of_a_million_letters_is_drawn_soon(monkeypatch):
    """Only so much of a name is measured as could fit."""
    from PIL import ImageDraw

    measured = []
    measure = ImageDraw.ImageDraw.textlength
    monkeypatch.setattr(
        ImageDraw.ImageDraw,
        "textlength",
        lambda draw, text, font: measured.append(text) or measure(draw, text, font),
    )
    images = torch.full((2, 3, 8, 8), 0.5)
    names = ("i" * 1_000_000, "x" * 1_000_000)
    contact_sheet(DistilledSet(images, torch.arange(2), names))
    assert max(map(len, measured)) < 200
    assert len(measured) < 400


def test_pixels_too_large_for_float32_are_refused():
    images = torch.full((1, 3, 8, 8), 1e39, dtype=torch.float64)
    with pytest.raises(InputError, match="images hold 192 NaN or infinite values"):
        DistilledSet(images, torch.tensor([0]), ("a",))
