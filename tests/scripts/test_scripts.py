"""The scripts behind results/, on a generated CIFAR-10: that they run, and say so.

Real numbers need real data and hours; here everything is tiny.
"""

import io
import json
import runpy
import subprocess
import sys
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import provenance
import pytest
import recompute
import torch
from bookkit.studies import stored_table
from PIL import Image

import diver_lite
from diver_lite.advice.rows import kept_recovery
from diver_lite.checks import InputError
from diver_lite.judge import table as evaluate
from diver_lite.make import distill
from diver_lite.make.train_prior import train_prior
from diver_lite.recovery import RecoveryConfig
from diver_lite.sets.distilled import DistilledSet
from diver_lite.sets.load import list_shipped
from diver_lite.sets.real import CIFAR10_CLASSES

SCRIPTS = Path(__file__).parents[2] / "scripts"
SOURCE = "CIFAR-10 (JPEG re-encoding)"


def jpeg(label, rng):
    """Return a 32x32 JPEG file whose colour tells the class."""
    pixels = rng.integers(0, 40, (32, 32, 3)) + np.array([label * 20, 90, 180 - label])
    stream = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(stream, "JPEG")
    return np.frombuffer(stream.getvalue(), np.uint8)


@pytest.fixture(scope="module")
def work(tmp_path_factory, recipe):
    """Return a folder with a fake packed CIFAR-10, a prior and a distilled set."""
    folder, rng, parts = tmp_path_factory.mktemp("colour"), np.random.default_rng(0), {}
    for subset, count in {"train": 40, "test": 3}.items():
        labels = np.repeat(np.arange(10), count)
        files = [jpeg(label, rng) for label in labels]
        parts[f"{subset}_blob"] = np.concatenate(files)
        parts[f"{subset}_offs"] = np.cumsum([0, *map(len, files)])
        parts[f"{subset}_y"] = labels
    np.savez(folder / "cifar10_jpeg.npz", **parts)
    (folder / "results").mkdir()
    options = {"heads": 1, "head_dim": 16, "layers": 2, "vae_channels": (16, 32)}
    options |= {"vae_steps": 3, "vae_batch": 8, "dit_steps": 3, "dit_batch": 8}
    train_prior(
        "cifar10", folder / "prior", data_root=folder, device="cpu", compile=False,
        progress=False, **options,
    )  # fmt: skip
    return folder


# where, what, and with which arguments, so that a script takes seconds
SHORTER = (
    (distill, "distill", {"steps": 1, "real_batch": 4, "compile": False}),
    (evaluate, "cross_architecture", {"steps": 2}),
)


def shortened(real, forced):
    """Return a function that takes `forced` whatever it is called with."""
    return lambda *arguments, **options: real(*arguments, **(options | forced))


@pytest.fixture
def run(work, monkeypatch):
    """Return a function that runs a script in the folder, as its command does."""
    monkeypatch.chdir(work)
    monkeypatch.setattr(RecoveryConfig, "timesteps", lambda *_: [700, 300])
    for module, name, forced in SHORTER:
        short = shortened(getattr(module, name), forced)
        monkeypatch.setattr(module, name, short)
        monkeypatch.setattr(diver_lite, name, short)  # which keeps what it once gave

    def command(script, *arguments):
        common = ["--dataset", "cifar10", "--data-root", "."]
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments), *common])
        runpy.run_path(str(SCRIPTS / script), run_name="__main__")

    return command


def result(work, stem):
    return json.loads((work / "results" / f"{stem}.json").read_text())


def test_a_colour_prior_knows_its_data(work):
    """Which files it was trained on stands in its record, and the loss curve."""
    info = json.loads((work / "prior/prior/diver_lite.json").read_text())
    assert info["trained_on"] == f"{SOURCE}, fit split"
    assert info["recipe"]["flip"] is True
    assert [len(info["losses"][part]) for part in ("vae", "dit")] == [3, 3]


PRIOR = ("--prior", "prior/prior")
SETS = ("--sets-folder", "runs/stage1")


def test_questions_are_answered(work, run):
    """Of a set made before: rows, comparisons and a record, for each question."""
    run("distill_sets.py", "dm-real-ipc1")
    short = ("--sets", "dm-real", "--judges", "ConvNet", "--seeds", "5:7", "--images",
             20, "--jobs", 1, *PRIOR, *SETS)  # fmt: skip
    asked = {
        "recovery": ("Stage I", "DIVER 700"),
        "sources": ("own 700", "another class 700"),
        "choices": ("DIVER 700", "window = late"),
        "settings": ("noise 0", "noise 300, pull 0.1"),
    }
    for question, rows in asked.items():
        run("answer.py", question, "--rows", *rows, *short)
        table = pd.read_csv(work / f"results/{question}_cifar10_ipc1_trainings.csv")
        assert {name.rpartition(": ")[2] for name in table["set"]} == {*rows}
        record = result(work, f"{question}_cifar10_ipc1")
        assert (record["data"], record["images"]) == (SOURCE, 20)
    recompute.main([])
    compared = pd.read_csv(work / "results/comparisons.csv").groupby("study")
    sources = compared.get_group("sources_cifar10_ipc1")
    assert [*sources["verdict"]] == ["too few seeds"]
    norms = ("ConvNet", "ConvNet-BN")
    run("answer.py", "recovery", "--rows", "Stage I", "DIVER 700", *short,
        "--judges", *norms, "--each-judge")  # fmt: skip
    recompute.main([])
    compared = pd.read_csv(work / "results/comparisons.csv").groupby("study")
    recovery = compared.get_group("recovery_cifar10_ipc1")
    assert [*recovery["judges"]] == [*norms]


JUDGE = ("--judge-steps", 2, "--judge-batch", 8, "--judges", "ConvNet")


def test_the_colour_measurements(work, run):
    """What is measured without training on a set: metrics and copying."""
    run("distill_sets.py", "dm-real-ipc1")
    name = "cifar10-dm-real-ipc1"
    run("measure_copying.py", name, "--held-out", 3, *JUDGE, *PRIOR, *SETS)
    table = stored_table("copying_cifar10")
    assert set(table["space"]) == {"pixels", "ConvNet features"}
    assert "recovered dm-real-ipc1" in set(table["set"])
    copying = result(work, "copying_cifar10")
    assert copying["data"] == SOURCE
    assert len(copying["ratios"]["pixels"]["held-out real"]) == 30
    assert len(copying["ratios"]["pixels"]["recovered held-out real"]) == 30
    # nothing in the training images is nearer than the nearest of them
    made_from = copying["ratios_to_own_source"]["recovered training real"]
    nearest = copying["ratios"]["pixels"]["recovered training real"]
    assert all(a >= b - 1e-3 for a, b in zip(made_from, nearest, strict=True))
    run("measure_metrics.py", name, "--floors", 2, "--held-out", 2, *JUDGE,
        *PRIOR, *SETS)  # fmt: skip
    table = stored_table("metrics_cifar10")
    assert {"VAE", "inheritance 700", "DIVER 700", "prior"} <= set(table["variant"])
    assert (table["kid"] != table["kid"].round(4)).all(), "small, but not 0"
    assert result(work, "metrics_cifar10")["data"] == SOURCE
    assert {*stored_table("metrics_cifar10", "plane")} >= {"x", "y", "stage"}


def test_the_colour_prior_is_measured(work, run):
    """On the test split, except for the choice of a guidance scale."""
    run("measure_prior.py", "--judge-steps", 2, "--unseen", "ConvNet",
        "--unseen-steps", 2, "--seeds", 1, *PRIOR)  # fmt: skip
    assert result(work, "prior_cifar10")["data"] == SOURCE


def test_classes_are_those_of_cifar10(work):
    index = json.loads((work / "prior/prior/model_index.json").read_text())
    assert tuple(index["id2label"].values()) == CIFAR10_CLASSES


def in_a_repository(folder, *changes):
    """Make a repository with one commit, change files, and ask for its commit."""

    def git(*command):
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *who, *command], cwd=folder, check=True)

    for path in ("diver_lite/a.py", "scripts/b.py", "results/c.csv"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text("1")
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "first")
    for path in changes:
        (folder / path).write_text("2")
    return provenance._commit()


@pytest.mark.parametrize(
    ("changes", "dirty"),
    [
        ((), False),
        (("results/c.csv",), False),  # a run that goes on has written there
        (("diver_lite/a.py",), True),
        (("scripts/new.py",), True),
    ],
)
def test_code_that_no_commit_holds_is_not_measured(
    tmp_path, monkeypatch, changes, dirty
):
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    found = in_a_repository(tmp_path, *changes)
    assert found.endswith("-dirty") == dirty
    assert len(found.removesuffix("-dirty")) >= 7
    monkeypatch.setattr(provenance, "COMMIT", found)
    if dirty:
        with pytest.raises(SystemExit, match=r"differs from commit .*commit it, then"):
            provenance.begin()
    else:
        provenance.begin()


def test_without_git_the_commit_is_unknown(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    assert provenance._commit() == "unknown"


def test_every_script_that_stores_results_asks_first():
    """`write_result` without `begin` would stamp a commit that can't make it again."""
    storing = [p for p in SCRIPTS.glob("*.py") if "write_result(" in p.read_text()]
    assert len(storing) > 10
    for script in storing:
        assert "begin()" in script.read_text(), script.name


def test_a_set_of_a_folder_comes_before_one_that_ships(tmp_path):
    """Sets that were just distilled, and shipped ones, are found by their names."""
    name = list_shipped()[0]
    shipped = provenance.find_distilled(name)
    assert torch.equal(provenance.find_distilled(name, tmp_path).images, shipped.images)
    mine = DistilledSet(shipped.images / 2, shipped.labels, shipped.class_names)
    for new in (name, "cifar10-dm-ipc1"):
        mine.save(tmp_path / f"{new}.safetensors")
        assert torch.equal(provenance.find_distilled(new, tmp_path).images, mine.images)
    path = tmp_path / "cifar10-dm-ipc1.safetensors"
    assert torch.equal(provenance.find_distilled(str(path)).images, mine.images)
    with pytest.raises(InputError, match=r"'cifar10-x' does not ship.*cifar10-dm-ipc1"):
        provenance.find_distilled("cifar10-x", tmp_path)


def test_a_kept_recovery_is_taken_for_no_other(tmp_path, tiny_prior, monkeypatch):
    """The prior, any setting, the images, the seed and the code are in its name."""
    monkeypatch.setattr(RecoveryConfig, "timesteps", lambda *_: [700, 300])
    config, prior = RecoveryConfig(), tiny_prior
    shape = (2, 3, prior.image_size, prior.image_size)
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    source = DistilledSet(images, [0, 1], prior.class_names)
    work = tmp_path / "work"

    def kept(distilled=source, prior=prior, config=config, seed=0):
        return kept_recovery(work, distilled, prior, config, seed)

    first = kept()
    with monkeypatch.context() as patch:
        patch.setattr(
            "diver_lite.advice.rows.recover", None
        )  # nothing is recovered twice
        assert torch.equal(kept().images, first.images)
    other = deepcopy(prior)
    with torch.no_grad():
        next(other.transformer.parameters()).mul_(1.01)
    darker = DistilledSet(images * 0.9, [0, 1], prior.class_names)
    kept(prior=other)
    kept(config=replace(config, guidance_factor=0.2))
    kept(seed=1)
    kept(distilled=darker)
    monkeypatch.setattr("diver_lite.run.to_file.RESULTS", 99)  # other code
    kept()
    assert len([*work.iterdir()]) == 6


def test_a_record_names_no_folder_of_one_machine():
    settings = {
        "data_root": Path("/home/somebody/data/cifar"),
        "seed": 3,
        "out": Path("x"),
    }
    record = provenance.provenance(settings)["settings"]
    assert record == {"data_root": "cifar", "seed": 3, "out": "x"}
    assert provenance.provenance({"data_root": None})["settings"] == {"data_root": None}
    lists = {"sets": ["/tmp/a.pt", "dm"], "scale": [1.5, 3], "data_root": "."}
    expected = {"sets": ["a.pt", "dm"], "scale": [1.5, 3], "data_root": "."}
    assert provenance.provenance(lists)["settings"] == expected
