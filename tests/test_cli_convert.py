"""Other people's files, on the command line: read as told, and written for tools."""

import sys
import warnings
from pathlib import Path

import pytest
import torch
from PIL import Image
from published_files import (
    CIFAR10,
    class_major,
    kornia_whitening,
    normalise,
    pixels,
    save_dc,
    save_run,
)

from diver_lite.checks import InputError
from diver_lite.sets.distilled import DistilledSet
from diver_lite.sets.names import CIFAR10_CLASSES

pytestmark = pytest.mark.usefixtures("no_network")
REC = ("--set", "num_inference_steps=2", "--device", "cpu", "-o", "out.safetensors")


def refused(result, words):
    code, out, err = result
    assert (code, out) == (2, "")
    assert err.startswith("diver-lite: error: ") and len(err.splitlines()) == 1
    assert words in err


def save_two():
    """Write a file of two repetitions; the second is all black."""
    first = [normalise(pixels(), CIFAR10), class_major()]
    second = [normalise(torch.zeros(20, 3, 8, 8), CIFAR10), class_major()]
    return save_dc(Path("res_DC_CIFAR10_ConvNet_2ipc.pt"), [first, second])


def test_read_tells_how(cli):
    source = save_two()
    code, out, _ = cli("convert", source, "a.safetensors", "--to", "diver-lite")
    assert code == 0 and "wrote a.safetensors: DistilledSet(20 images" in out
    assert (DistilledSet.load("a.safetensors").images - pixels()).abs().max() < 1e-5
    choose = ("--read", "experiment=1")
    cli("convert", source, "b.safetensors", "--to", "diver-lite", *choose)
    assert DistilledSet.load("b.safetensors").images.abs().max() < 1e-6


def test_doubts_are_sentences(cli):
    """No path of our source, no line of code."""
    source = save_two()
    arguments = ("convert", source, "a.safetensors", "--to", "diver-lite")
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.showwarning = _print  # pytest keeps warnings from the terminal
        code, _, err = cli(*arguments, "--dataset", "svhn")
    (line,) = err.splitlines()
    assert code == 0 and line.startswith(f"diver-lite: warning: {source}: taken for")
    assert line.endswith("8 pixels a side (expected 32)")


def _print(message, category, file, number, *_):
    text = warnings.formatwarning(message, category, file, number)
    print(text, end="", file=sys.stderr)


@pytest.mark.filterwarnings("ignore::UserWarning")  # tiny pictures of noise
def test_whitened_sets_take_real_images_by_name(cli):
    """A folder of real images, or the name of a data set, is the reference."""
    real = (torch.rand(60, 3, 8, 8) * 255).round() / 255
    for i, image in enumerate(real):
        path = Path("real/train", CIFAR10_CLASSES[i % 10], f"{i:02d}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        array = (image * 255).byte().permute(1, 2, 0).numpy()
        Image.fromarray(array).save(path)
    images = real[:20]
    save_run(Path("CIFAR10/IPC2"), kornia_whitening(real, images), class_major())
    whitened = ("convert", "CIFAR10/IPC2", "a.safetensors", "--to", "diver-lite")
    how = ("--read", "format=mtt", "--read", "zca_reference=real")
    code, _, _ = cli(*whitened, *how)
    assert code == 0
    assert (DistilledSet.load("a.safetensors").images - images).abs().max() < 1e-3
    gone = ("--read", "format=mtt", "--read", "zca_reference=gone")
    refused(cli(*whitened, "--overwrite", *gone), "data 'gone' is unknown")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--to", "jpeg"), "--to is 'jpeg'; expected ['dc', 'mtt'"),
        (("--to", "dc"), "normalised; expected the ending '.pt'"),
        (("--to", "diver-lite"), "expected a name ending in .safetensors"),
        (("--to", "folder"), "would lose what lies outside [0, 1]"),
        (("--to", "mtt", "--read", "experiment"), "--read 'experiment': expected F"),
        (("--to", "mtt", "--read", "colour=1"), "with a field of ['format'"),
        (("--to", "mtt", "--read", "experiment=7"), "experiment is 7; expected"),
        (("--to", "mtt", "--read", "zca=True"), "zca= has no meaning for format 'dc'"),
    ],
)
def test_convert_refuses(cli, arguments, words):
    source = save_two()
    refused(cli("convert", source, "out", *arguments), words)
    assert {p.name for p in Path().iterdir()} == {source.name}


def test_convert_says_what_is_lost(cli):
    code, out, err = cli("convert", save_two(), "out", "--to", "folder", "--lossy")
    assert code == 0 and "wrote out" in out
    assert err.startswith("lost: what lies outside [0, 1]")
    assert len([*Path("out").glob("*/*.png")]) == 20
    refused(cli("convert", save_two(), "out", "--to", "mtt"), "out exists already")


def test_show(cli):
    source = save_two()
    code, out, err = cli("show", source, "-o", "sheet.png", "--rows", 1)
    assert (code, err) == (0, "")
    assert "read as      format dc; data set cifar10" in out
    assert Image.open("sheet.png").size == (10 * 100 + 4, 100 + 20)
    refused(cli("show", source, "-o", "sheet.png"), "sheet.png exists already")
    refused(cli("show", source, "-o", "sheet.jpg"), "expected a name ending in .png")
    refused(cli("show", source, "-o", "b.png", "--rows", 0), "rows is 0")
    assert {p.name for p in Path().iterdir()} == {source.name, "sheet.png"}


ESCAPES = "\x1b[2J\x1b]0;title\x07"


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_no_file_moves_the_cursor(cli):
    """Neither by its class names, nor by its record, nor by its name."""
    names = (f"a{ESCAPES}\nb", "\u202ec", "\x9b1A")
    record = {"format": f"{ESCAPES}", "doubts": [f"x\n{ESCAPES}"], "method": ESCAPES}
    strange = DistilledSet(torch.rand(3, 3, 8, 8), range(3), names, None, record)
    assert repr(strange).isprintable()
    path = strange.save(f"s{ESCAPES}.safetensors".replace("/", ""))
    code, out, err = cli("show", path, "-o", "sheet.png")
    assert (code, err) == (0, "") and r"\x1b[2J" in out
    assert sum(line.startswith("classes ") for line in out.splitlines()) == 1
    for text in (
        out,
        cli("convert", path, "out", "--to", "folder")[1],
        cli("convert", path, "out", "--to", "folder")[2],  # there is one already
        cli("convert", path, "b", "--to", "mtt")[2],
    ):
        assert text and text.replace("\n", "").isprintable()
    with pytest.raises(InputError) as caught:
        DistilledSet.load(f"{ESCAPES}.safetensors")
    assert str(caught.value).isprintable()
