"""The command line as people know it, also where a part is missing."""

import re
import subprocess
import sys
from dataclasses import fields

import pandas as pd
import pytest
import torch
from PIL import Image

from diver_lite import cli as commands
from diver_lite.checks import InputError
from diver_lite.files import exclusive
from diver_lite.judge.compare import write_table
from diver_lite.judge.protocols import Protocol
from diver_lite.make.distill import DistillConfig
from diver_lite.make.train_prior import PriorRecipe
from diver_lite.recovery import RecoveryConfig
from diver_lite.run.to_file import recover_to
from diver_lite.sets.classes import in_order_of
from diver_lite.sets.distilled import DistilledSet
from diver_lite.sets.formats import FORMATS
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

    def soon(text):
        measured.append(len(text))
        assert len(measured) < 1000

    monkeypatch.setattr(
        ImageDraw.ImageDraw,
        "textlength",
        lambda draw, text, font: soon(text) or measure(draw, text, font),
    )
    images = torch.full((2, 3, 8, 8), 0.5)
    names = ("i" * 1_000_000, "x" * 1_000_000)
    contact_sheet(DistilledSet(images, torch.arange(2), names))
    assert max(measured) < 200
    assert len(measured) < 400


def test_pixels_too_large_for_float32_are_refused():
    images = torch.full((1, 3, 8, 8), 1e39, dtype=torch.float64)
    with pytest.raises(InputError, match="images hold 192 NaN or infinite values"):
        DistilledSet(images, torch.tensor([0]), ("a",))


BYTES = "a\udcff"  # how Python reads a file's name that isn't UTF-8


@pytest.mark.parametrize(
    ("command", "named"),
    [
        (("convert", "SET", f"{BYTES}.safetensors", "--to", "diver-lite"), "output"),
        (("show", "SET", "-o", f"{BYTES}.png"), "output"),
        (("show", "FOLDER"), "class_names"),
        (
            *[("judge", f"{BYTES}=SET", "--judges", "ConvNet", "--set", "steps=1")],
            "sets: a name",
        ),
        (("recover", "SET", "-o", "r.safetensors", "--device", "mps"), "device 'mps'"),
        (("recover", "SET", "-o", "r.safetensors", "--device", "xla"), "device 'xla'"),
        (
            ("recover", "SET", "-o", "r.safetensors", "--set", f"seed={'-' * 5000}1"),
            "seed",
        ),
    ],
)
def test_odd_words_get_a_sentence(cli, tmp_path, monkeypatch, command, named):
    monkeypatch.chdir(tmp_path)
    picture = tmp_path / "folder" / "b" / "1.png"
    for name in ("b", BYTES):
        folder = tmp_path / "folder" / name
        folder.mkdir(parents=True)
        Image.new("RGB", (32, 32), (9, 99, 9)).save(folder / picture.name)
    there = {"SET": "fashion-mnist-dm-ipc1", "FOLDER": "folder"}
    words = [there.get(word, word.replace("SET", there["SET"])) for word in command]
    code, *said = cli(*words)
    text = "".join(said)
    assert code == 2, text
    assert named in text
    assert "Traceback" not in text


def test_a_line_in_a_set_s_name_ends_no_row(tmp_path):
    summary = pd.DataFrame({"ConvNet": ["10.0"]}, index=["two\nlines | and a bar"])
    text = write_table(summary, tmp_path / "table.md").read_text()
    assert len(text.splitlines()) == 3
    assert text.splitlines()[2].count("|") == 4  # one of them is escaped


def test_two_sets_without_names_are_doubted(tmp_path):
    names = tuple(f"class {k}" for k in range(3))
    images = torch.rand(3, 3, 8, 8)
    first, second = (DistilledSet(images, torch.arange(3), names) for _ in "ab")
    with pytest.warns(UserWarning, match="have no names; taken to be in order"):
        in_order_of(first, second.class_names)


@pytest.mark.parametrize("statistics", [(0.5, (0.2, 0.2, 0.2)), (0.5, 0.0), 0.5, "x"])
def test_statistics_of_a_protocol_are_checked(statistics):
    with pytest.raises(InputError, match="statistics"):
        Protocol(statistics=statistics)


def test_a_file_and_its_folder_are_one_output(tmp_path, tiny_prior, tiny_set):
    """`a` and `a.safetensors` have one working folder: one of two runs is refused."""
    lock = tmp_path / ".a.parts.lock"
    with (
        exclusive(tmp_path / "a", lock),
        pytest.raises(InputError, match="is being written by another process"),
    ):
        recover_to(tmp_path / "a.safetensors", tiny_set, tiny_prior)


@pytest.mark.parametrize(
    ("command", "config"),
    [
        ("recover", RecoveryConfig),
        ("distill", DistillConfig),
        ("judge", Protocol),
        ("train-prior", PriorRecipe),
    ],
)
def test_help_names_every_setting(cli, command, config):
    words = {*re.findall(r"\w+", cli(command, "--help")[1])}
    assert {field.name for field in fields(config)} <= words


def test_help_of_recover_has_the_defaults_and_the_formats(cli):
    said = " ".join(cli("recover", "--help")[1].split())
    for name, value in vars(RecoveryConfig()).items():
        assert re.search(rf"--set {name}={value} ", said), name
    listed = said.partition("Formats: ")[2]
    assert {*FORMATS} <= {*re.findall(r"[\w-]+", listed.replace("- ", "-"))}


@pytest.mark.parametrize(
    ("command", "option", "instead"),
    [
        (command, option, instead)
        for command, options in commands.REMOVED.items()
        for option, instead in options.items()
    ],
)
def test_an_option_of_an_older_version_says_what_to_write(
    cli, command, option, instead
):
    for words in ((option, "value"), (f"{option}=value",)):
        code, out, err = cli(command, *words)
        assert (code, out) == (2, "")
        assert err == (
            f"diver-lite: error: {option} is an option of older versions; write "
            f"{instead}\n"
        )
    known = cli(command, "--help")[1]
    assert option not in known.split()
    new, _, field = instead.partition(" ")
    assert new in known.split()
    assert field.partition("=")[0] in re.findall(r"\w+", known)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--set", "noise_timestep=0.7"), "--set noise_timestep is 0.7; expected"),
        (("--set=noise_timestep=0.7",), "--set noise_timestep is 0.7; expected"),
        (("--batch-size", "0"), "--batch-size is 0; expected"),
        (("--read", "format=zip"), "--read format is 'zip'; expected"),
        (("--device", "abacus"), "--device 'abacus' is unknown"),
        (("--dataset", "cifar11"), "--dataset 'cifar11' is unknown"),
    ],
)
def test_an_error_uses_the_words_that_were_typed(cli, words, said):
    code, _, err = cli(
        "recover", "fashion-mnist-dm-ipc1", "-o", "out.safetensors", *words
    )
    assert code == 2
    assert err.startswith(f"diver-lite: error: {said}")


@pytest.mark.parametrize("quiet", ["-q", "--quiet"])
def test_quiet_writes_and_says_nothing(cli, tmp_path, tiny_prior_folder, quiet):
    words = ("recover", "fashion-mnist-dm-ipc1", "--prior", tiny_prior_folder)
    few = ("--set", "num_inference_steps=2", "--set", "inheritance=False")
    few += ("--set", "guidance_factor=0", "--device", "cpu")
    code, out, err = cli(*words, *few, "-o", "loud.safetensors")
    assert code == 0
    assert "wrote" in out
    assert "recover" in err  # the bar
    assert cli(*words, *few, "-o", "out.safetensors", quiet) == (0, "", "")
    assert cli(quiet, *words, *few, "-o", "again.safetensors") == (0, "", "")
    assert (tmp_path / "again.safetensors").is_file()


def test_a_path_in_an_error_is_no_option(cli, tmp_path):
    """Its first folder may be called as an argument is."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out/set.pt").write_text("hello")
    code, _, error = cli("show", "out/set.pt")
    assert code == 2
    assert "error: out/set.pt: " in error


def test_real_pictures_that_cannot_be_read_are_told(tmp_path):
    """Advice without the row of real ones says why it has none."""
    place = tmp_path / "train/a"
    place.mkdir(parents=True)
    (place / "1.jpg").write_bytes(b"no picture")
    with pytest.warns(UserWarning, match=r"no row of random real pictures: .*1\.jpg"):
        assert commands._real_data(str(tmp_path), None, None, 32) is None
