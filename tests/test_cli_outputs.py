"""What commands write: whole or not at all, by one run at a time, nothing lost."""

import csv
import errno
import os
import subprocess
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from safetensors import SafetensorError
from toy_sets import toy, toy_set

from diver_lite.checks import InputError
from diver_lite.files import exclusive
from diver_lite.judge import table as evaluate
from diver_lite.make import checkpoint
from diver_lite.make.distill import METHODS
from diver_lite.sets import distilled
from diver_lite.sets.distilled import DistilledSet
from diver_lite.sets.folder import save_image_folder
from diver_lite.sets.load import load_distilled
from diver_lite.sets.names import class_names, from_cell, to_cell

FULL = OSError(errno.ENOSPC, "No space left on device")
DISTILL = ("distill", "dm", "--data", "data", "--split", "train", "--set", "steps=3",
           "--set", "real_batch=2", "--device", "cpu", "-o",
           "out.safetensors")  # fmt: skip
JUDGE = ("judge", "a.safetensors", "--data", "data", "--judges", "ConvNet", "--seeds",
         "2", "--set", "steps=1", "--device", "cpu", "-o", "t.csv")  # fmt: skip
TRAIN = ("train-prior", "fashion-mnist", "--set", "dit_steps=1", "--set", "vae_steps=1",
         "--set", "dataset=data", "--set", "layers=1", "--set", "heads=1",
         "--device", "cpu", "-o", "work")  # fmt: skip


@pytest.fixture
def cli(cli):
    """Return a function that runs a command in a folder with data: code, out, err."""
    images, labels, names = toy(count=3)
    for split in ("train", "test"):
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            path = Path("data", split, names[label], f"{index}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = (image * 255).byte().permute(1, 2, 0).numpy()
            Image.fromarray(pixels).save(path)
    toy_set(count=1).save("a.safetensors")
    return cli


def names():
    return {p.name for p in Path().iterdir()} - {"data", "a.safetensors"}


def refused(result, words):
    code, out, err = result
    assert (code, out) == (2, "")
    line = err.splitlines()[-1]
    assert line.startswith("diver-lite: error: ")
    assert words in line
    assert "Traceback" not in err


# --- One run at a time --------------------------------------------------------------

HOLD = """
import sys, time
from diver_lite.files import exclusive
with exclusive(*sys.argv[1:]):
    print("held", flush=True)
    time.sleep(600)
"""
LOCKS = {
    DISTILL: (("out.safetensors",), {"out.safetensors"}),
    JUDGE: (("t.csv",), {"t.csv"}),
    TRAIN: (("work", "work/.lock"), {"work"}),
}


@pytest.mark.parametrize("command", LOCKS, ids=lambda c: c[0])
def test_a_second_run_is_refused_until_the_first_is_dead(cli, command):
    """By another process; kill -9 frees the output, and no lock remains."""
    lock, written = LOCKS[command]
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, *lock], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "held\n"
        before = names()
        refused(cli(*command), f"{lock[0]} is being written by another process")
        assert names() == before
    finally:
        holder.kill()
        holder.wait()
    code, _, err = cli(*command)
    assert code == 0, err
    assert names() == written
    assert not Path("work/.lock").exists()


@pytest.mark.parametrize(
    ("command", "at"),
    [
        (DISTILL, "diver_lite.sets.distilled.DistilledSet.save"),
        (JUDGE, "diver_lite.judge.record.Cells.add"),
        (TRAIN, "diver_lite.make.train_prior.export_prior"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_an_output_is_locked_to_the_end(cli, monkeypatch, command, at):
    tried = []

    def save(*_, **__):
        with pytest.raises(InputError, match="is being written by another process"):
            exclusive(*LOCKS[command][0]).__enter__()
        tried.append(at)
        raise KeyboardInterrupt

    monkeypatch.setattr(at, save)
    assert cli(*command)[0] == 130
    assert tried


# --- A full disk, and other surprises -----------------------------------------------


def failing(error):
    def fail(*_, **__):
        raise error

    return fail


@pytest.mark.parametrize("error", [FULL, SafetensorError("I/O error: no space left")])
def test_distill_keeps_its_checkpoint_until_the_result_is_saved(
    cli, monkeypatch, error
):
    """A disk that is full at the end costs nothing: the next run goes on."""
    assert cli(*DISTILL)[0] == 0
    whole = Path("out.safetensors").read_bytes()
    Path("out.safetensors").unlink()
    monkeypatch.setattr(checkpoint, "SECONDS", -1)
    with monkeypatch.context() as patch:
        patch.setattr(distilled, "save_file", failing(error))
        refused(cli(*DISTILL), "output out.safetensors can't be written (")
    assert names() == {"out.checkpoint"}
    monkeypatch.setitem(METHODS, "dm", failing(AssertionError("a step again")))
    assert cli(*DISTILL)[0] == 0
    assert Path("out.safetensors").read_bytes() == whole
    assert names() == {"out.safetensors"}


def test_a_disk_full_of_checkpoints(cli, monkeypatch, full_disk):
    """It is full before a file's first byte, or after some thousands."""
    monkeypatch.setattr(checkpoint, "SECONDS", -1)
    for size in (0, 5_000):
        with full_disk(size):
            refused(cli(*DISTILL), "out.checkpoint can't be written (File too large)")
        assert names() == set()
    with full_disk(0):
        refused(cli(*TRAIN), "work/vae.pt can't be written (File too large)")
    assert names() == set()


@pytest.mark.parametrize(
    ("to", "size"),
    [
        *product(["dc", "mtt", "dd-ranking", "folder", "hf"], [0, 1_000]),
        # the pixels alone are 12 * 3 * 64 * 64 * 4 = 589,824 bytes
        *product(["dc", "mtt", "dd-ranking"], [590_000]),
    ],
)
def test_convert_on_a_full_disk(cli, full_disk, to, size):
    """A file of a tool can't be written, early or late: nothing is left of it."""
    out = "out.pt" if to == "dc" else "out"
    big = toy_set(count=4, size=64, provenance={"dataset": "cifar10"})
    replace(big, class_names=class_names("cifar10")).save("big.safetensors")
    with full_disk(size):
        result = cli("convert", "big.safetensors", out, "--to", to)
    refused(result, f"output {out} can't be written (File too large)")
    assert names() == {"big.safetensors"}


@pytest.mark.parametrize("told", [False, True])
def test_what_appears_during_a_run_is_not_overwritten_unasked(cli, monkeypatch, told):
    original = METHODS["dm"]

    def step(task, synthetic):
        Path("out.safetensors").write_text("precious")
        yield from original(task, synthetic)

    monkeypatch.setitem(METHODS, "dm", step)
    monkeypatch.setattr(checkpoint, "SECONDS", -1)
    result = cli(*DISTILL, *["--overwrite"][:told])
    if told:
        assert result[0] == 0
        load_distilled("out.safetensors")
        return
    refused(result, "out.safetensors exists already")
    assert Path("out.safetensors").read_text() == "precious"
    assert names() == {"out.safetensors", "out.checkpoint"}


def test_judge_on_a_full_disk(cli, monkeypatch):
    """Before the first row, and at the table: the rows stay."""
    command = (*JUDGE, "--table", "s.md")
    with monkeypatch.context() as patch:
        patch.setattr(pd.DataFrame, "to_csv", failing(FULL))
        refused(cli(*command), "t.csv can't be written (No space left on device)")
    assert names() == set()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", failing(FULL))
        code, _, err = cli(*command)
        refused((code, "", err), "s.md can't be written (No space left on device)")
    assert names() == {"t.csv"}
    monkeypatch.setattr(evaluate, "judge_one", failing(AssertionError("trained again")))
    assert cli(*command)[0] == 0
    assert names() == {"t.csv", "s.md"}


def test_a_file_that_may_not_be_read(cli, monkeypatch):
    """Whatever the system refuses ends with a line."""
    read = failing(PermissionError(errno.EACCES, "Permission denied", "a.safetensors"))
    monkeypatch.setattr("diver_lite.sets.load.read", read)
    monkeypatch.setattr(DistilledSet, "load", read)
    refused(cli(*JUDGE), "Permission denied")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
@pytest.mark.parametrize(
    ("command", "name"), [(DISTILL, "out.checkpoint"), (JUDGE, "t.csv")]
)
def test_a_pipe_is_not_waited_for(cli, command, name):
    os.mkfifo(name)
    refused(cli(*command), "a regular file")
    assert names() == {name}


# --- No formulas --------------------------------------------------------------------


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "'=1", "''-", "\t=1"])
def test_cells_are_no_formulas(text):
    assert to_cell(text) == f"'{text}"
    assert from_cell(to_cell(text)) == text


@pytest.mark.parametrize("text", ["", "a", "a=1", "'", "'a", "1", "ü=", "\n=1"])
def test_other_cells_stay(text):
    assert to_cell(text) == from_cell(text) == text


def test_names_of_sets_reach_no_csv_as_formulas(cli, monkeypatch):
    """Neither the trainings nor the table; and the names are read back."""
    Path("a.safetensors").rename("=1+1.safetensors")
    given = ["=1+1.safetensors", "@b==1+1.safetensors", "'-c==1+1.safetensors"]
    command = ("judge", *given, *JUDGE[2:], "--table", "s.csv")
    code, out, err = cli(*command)
    assert code == 0, err
    for name in ("t.csv", "s.csv"):
        rows = list(csv.DictReader(Path(name).read_text().splitlines()))
        assert {row["set"] for row in rows} == {"'=1+1", "'@b", "''-c"}
    monkeypatch.setattr(evaluate, "judge_one", failing(AssertionError("trained again")))
    assert cli(*command)[:2] == (0, out)


def test_names_of_classes_reach_no_csv_as_formulas(tmp_path):
    images, labels, _ = toy(count=1)
    classes = ("=1+1", "plain", "'@c")
    save_image_folder(DistilledSet(images, labels, classes), tmp_path / "png")
    rows = csv.DictReader((tmp_path / "png/labels.csv").read_text().splitlines())
    assert [row["class_name"] for row in rows] == ["'=1+1", "plain", "''@c"]
    assert load_distilled(tmp_path / "png").class_names == classes
