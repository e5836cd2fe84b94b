"""`diver-lite judge`: tables, resuming, and one line for every bad input."""

import csv
from functools import partial
from pathlib import Path

import pytest
import torch
from toy_sets import toy, toy_set

from diver_lite.judge import table as evaluate
from diver_lite.judge import training
from diver_lite.judge.protocols import PROTOCOLS
from diver_lite.sets import load
from diver_lite.sets.distilled import DistilledSet
from diver_lite.sets.real import FASHION_MNIST_CLASSES

FAST = ("--set", "steps=2", "--test-images", "50", "--device", "cpu")
ONE = ("--judges", "ConvNet", "--seeds", "1")


@pytest.fixture
def cli(cli):
    """Return a function that runs `diver-lite judge`: code, stdout, stderr."""
    return partial(cli, "judge")


@pytest.fixture
def sets(cli, tiny_set):
    """Write two sets of ten classes: a.safetensors and b.safetensors."""
    tiny_set.save("a.safetensors")
    other = DistilledSet(tiny_set.images.flip(3), tiny_set.labels, tiny_set.class_names)
    other.save("b.safetensors")


def test_the_table_and_its_files(cli, sets):
    """Sets get their names, -o a row per training, --table what is printed."""
    code, out, err = cli(
        *("a.safetensors", "mine=b.safetensors", "--judges", "ConvNet,ShuffleNetV2"),
        *("--seeds", "2", *FAST, "-o", "cells.csv", "--table", "table.md"),
        *("--baseline", "mine"),
    )
    assert code == 0, err
    assert "on 50 real images, mean ± std of 2 seeds, protocol corrected" in out
    assert "Norms: ConvNet IN, ShuffleNetV2 BN." in out
    lines = [" ".join(line.split()) for line in out.splitlines()]
    lines.index("ConvNet ShuffleNetV2")
    for group in ("proxy's kind", "unseen, BN"):
        start = lines.index(f"{group}: vs mine {group}: verdict")
        assert lines[start + 1].startswith("a ")
        assert lines[start + 1].endswith("too few seeds")
        assert lines[start + 2].startswith("mine ")
    rows = list(csv.DictReader(Path("cells.csv").read_text().splitlines()))
    found = {(row["set"], row["judge"], row["seed"]) for row in rows}
    assert len(found) == len(rows) == 2 * 2 * 2
    markdown = Path("table.md").read_text()
    assert "| set | ConvNet | ShuffleNetV2 | proxy's kind: vs mine |" in markdown


def test_an_interrupted_run_goes_on(cli, sets, monkeypatch):
    """Ctrl-C: exit code 130; the same command again repeats nothing."""
    real, calls = training.train_judge, []

    def interrupted(name, *arguments, **options):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(training, "train_judge", interrupted)
    command = ("a.safetensors", "b.safetensors", "--judges", "ConvNet", "--seeds", "2")
    code, out, err = cli(*command, *FAST, "-o", "cells.csv")
    assert (code, out) == (130, "")
    assert len(Path("cells.csv").read_text().splitlines()) == 1 + 2
    calls.clear()
    code, out, err = cli(*command, *FAST, "-o", "cells.csv")
    assert code == 0, err
    assert len(calls) == 2
    content = Path("cells.csv").read_text()
    again = cli(*command, *FAST, "-o", "cells.csv")
    assert (again[0], again[1]) == (0, out)
    assert Path("cells.csv").read_text() == content
    code, out, err = cli(*command, "--set", "steps=3", *FAST[2:], "-o", "cells.csv")
    assert (code, out) == (2, "")
    assert "cells.csv was made with another protocol" in err


def test_judges_and_shipped_sets(cli, monkeypatch):
    """Judges are named one by one; a shipped set goes by its name."""
    seen = {}

    def spy(sets, test, **options):
        seen.update(options, sets=sets, test=test)
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluate, "cross_architecture", spy)
    name = "fashion-mnist-dm-ipc1"
    assert cli(name, "--judges", "ConvNet, ViT")[0] == 130
    assert list(seen["sets"]) == [name]
    assert seen["judges"] == ["ConvNet", "ViT"]
    assert len(seen["test"][0]) == 10_000
    assert (seen["seeds"], seen["out"]) == (5, None)
    assert seen["protocol"] == PROTOCOLS["corrected"]
    cli(name, "--test-images", "20", "--jobs", "3", "--set", "labels=soft")
    assert seen["protocol"].labels == "soft"
    images, labels, names = seen["test"]
    assert (images.shape, labels.shape) == ((20, 3, 32, 32), (20,))
    assert len(names) == 10
    assert seen["n_jobs"] == 3


NET = """
from torch import nn

def small(num_classes, image_size, channels):
    layers = nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4, num_classes))
"""


def test_a_judge_of_one_s_own(cli, sets):
    """A file by its path; beside ours, in a group by its norm."""
    Path("nets.py").write_text(NET)
    command = ("a.safetensors", "b.safetensors", "--seeds", "1", *FAST)
    code, out, err = cli(*command, "--judges", "ConvNet, nets.py:small")
    assert code == 0, err
    assert "Norms: ConvNet IN, nets.py:small BN." in out
    assert "unseen, BN: vs a" in out
    help_text = " ".join(cli("--help")[1].split())
    assert "path/to/file.py:factory" in help_text


def test_a_draw_of_noise_per_seed(cli, tiny_set, monkeypatch):
    """One file of recovered images has no verdict, {seed} in a name gives one."""
    score = iter(range(10_000))  # each training beats those before

    def judge_one(*_):
        return {"accuracy": next(score) / 10_000, "error": "", "seconds": 0.0}

    real, loaded = load.load_distilled, []

    def load_one(source, **options):
        loaded.append(source)
        return real(source, **options)

    monkeypatch.setattr(evaluate, "judge_one", judge_one)
    monkeypatch.setattr(load, "load_distilled", load_one)
    tiny_set.save("a.safetensors")
    draws = [f"rec_{seed}.safetensors" for seed in range(5)]
    for seed in range(5):
        images = (tiny_set.images + 0.01 * seed).clamp(0, 1)
        record = {"method": "DIVER", "seed": seed}
        names = tiny_set.class_names
        recovered = DistilledSet(images, tiny_set.labels, names, provenance=record)
        recovered.save(draws[seed])
    command = ("a.safetensors", "one=rec_0.safetensors", "each=rec_{seed}.safetensors")
    code, out, err = cli(*command, "--judges", "ViT", *FAST)
    assert code == 0, err
    assert loaded == ["a.safetensors", draws[0], *draws]  # each once
    verdicts = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    assert verdicts["one"].endswith("  1 draw for 5 seeds")
    assert verdicts["each"].endswith("  better*")
    assert "[" in verdicts["one"]  # the interval stands
    assert "not what another draw would give; no verdict" in out
    code, out, err = cli(*command, "--judges", "ViT", "--seeds", "6", *FAST)
    assert code == 2
    assert "rec_5.safetensors" in err
    help_text = " ".join(cli("--help")[1].split())
    assert "{seed}" in help_text


def test_failed_trainings_are_reported(cli, sets, monkeypatch):
    """Their reason goes to stderr; the table stands."""
    error = FloatingPointError("judge ConvNet, seed 0: the loss became NaN at step 1")

    def broken(*_, **__):
        raise error

    monkeypatch.setattr(training, "train_judge", broken)
    code, out, err = cli("a.safetensors", *ONE, *FAST)
    assert code == 0
    assert "too few seeds" not in out  # the baseline alone
    assert f"failed: set a, {error}" in err


def toys():
    """Write sets that don't fit Fashion-MNIST."""
    toy_set().save("three.safetensors")
    names = FASHION_MNIST_CLASSES
    images, labels, _ = toy(size=64)
    DistilledSet(images, labels, names).save("large.safetensors")
    DistilledSet(images[..., :32, :32], labels, names).save("empty.safetensors")
    eleven = torch.arange(11)
    DistilledSet(torch.rand(11, 3, 32, 32), eleven, [*names, "10"]).save(
        "eleven.safetensors"
    )
    DistilledSet(
        torch.rand(10, 3, 32, 32),
        eleven[:10],
        [*"0123456789"],
        None,
        {"dataset": "svhn"},
    ).save("svhn.safetensors")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.pt"], "nowhere.pt"),
        (["a.safetensors", "sub=a.safetensors", "a.safetensors"], "set 'a' already"),
        (["a.safetensors", "--judges", "VGG19"], "judge is 'VGG19'; expected one of"),
        (
            ["a.safetensors", "--judges", "nets.py:small"],
            "judge 'nets.py:small': there is no file nets.py",
        ),
        (
            ["a.safetensors", "--judges", "nets_of_nobody:small"],
            "there is no module nets_of_nobody among what is installed",
        ),
        (["a.safetensors", "--judges", ","], "judge is ''; expected one of"),
        (["a.safetensors", "--seeds", "0"], "--seeds is 0; expected"),
        (["a.safetensors", "--protocol", "slow"], "protocol is 'slow'; exp"),
        (["a.safetensors", "--set", "steps=0"], "--set steps is 0"),
        (["a.safetensors", "--baseline", "b"], "--baseline is 'b'; expected one of"),
        (["a.safetensors", "--test-images", "0"], "--test-images is 0"),
        (["a.safetensors", "--test-images", "10001"], "expected 1 .. 10000"),
        (["a.safetensors", "--jobs", "0"], "--jobs is 0"),
        (
            ["a.safetensors", "--judges", "ResNet18-XN"],
            "judge ResNet18-XN: the norm is 'XN'; expected one of ['BN', 'GN', 'IN'",
        ),
        (["a.safetensors", "--judges", "AlexNet-AdaBN"], "but AlexNet has no norm, "),
        (["a.safetensors", "--data", "svhn"], "--data 'svhn' is unknown"),
        (["a.safetensors", "--device", "cuda:7"], "device 'cuda' was asked for"),
        (["a.safetensors", "-o", "out.txt"], "expected a name ending in .csv"),
        (["a.safetensors", "--table", "out.xls"], "suffix is '.xls'"),
        (["a.safetensors", "--read", "format=zip"], "format is 'zip'"),
        (["three.safetensors"], "--data is needed: the sets distil something unk"),
        (
            ["three.safetensors", "--data", "fashion-mnist"],
            "class 'T-shirt' of the test images is not among those of set 'three'",
        ),
        (["large.safetensors"], "set 'large': shape of an image is (3, 64, 64)"),
        (["empty.safetensors"], "set 'empty': no image of 'Dress', 'Coat'"),
        (
            ["eleven.safetensors", "--data", "fashion-mnist"],
            "class '10' of set 'eleven' is not among those of the test images",
        ),
        (
            ["fashion-mnist-dm-ipc1", "cifar10-dsa-ipc1"],
            "the sets distil different data, {'fashion-mnist-dm-ipc1': 'fashion-mnist'",
        ),
        (["svhn.safetensors"], "--data is needed: the sets distil svhn, and test"),
        (
            ["svhn.safetensors", "--data", "fashion-mnist"],
            "class '0' of set 'svhn' is not among those of the test images",
        ),
        (
            ["cifar10-dsa-ipc1", "--data-root", "."],
            "data root . holds none of ('cifar-10-batches-py', 'cifar10_jpeg.npz'",
        ),
        (["a.safetensors", "--dataset", "cifar11"], "dataset 'cifar11' is unknown"),
    ],
)
def test_bad_input(cli, sets, tmp_path, arguments, message):
    """Exit code 2, one line that names it, nothing written."""
    if torch.cuda.is_available() and "cuda:7" in arguments:
        pytest.skip("needs a machine without a GPU")
    toys()
    before = sorted(tmp_path.iterdir())
    code, out, err = cli(*arguments)
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith("diver-lite: error: ")
    assert message in err.splitlines()[-1]
    assert sorted(tmp_path.iterdir()) == before
