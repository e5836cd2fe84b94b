"""The table of trainings: many at once, failures, resuming, and bad input."""

from dataclasses import replace
from importlib import metadata

import numpy as np
import pandas as pd
import pytest
import torch
from toy_sets import NAMES, toy, toy_set

from diver_lite.checks import InputError
from diver_lite.judge import record, training
from diver_lite.judge.answers import curves, unpacked
from diver_lite.judge.compare import summarise
from diver_lite.judge.protocols import PROTOCOLS
from diver_lite.judge.record import protocol_fingerprint
from diver_lite.judge.table import cross_architecture
from diver_lite.sets.distilled import DistilledSet

QUICK = {"steps": 2, "progress": False}


def test_the_table_has_a_row_per_training():
    """Sets x judges x seeds, with functions drawn anew for each seed."""
    drawn = []
    sets = {
        "fixed": toy_set(),
        "drawn": lambda seed: drawn.append(seed) or toy_set(seed=seed),
    }
    options = {"protocol": "quick", **QUICK}
    table = cross_architecture(
        sets, toy(seed=9), judges=("ConvNet", "ShuffleNetV2"), seeds=2, **options
    )
    assert list(table.columns) == [
        "set",
        "judge",
        "norm",
        "unseen",
        "seed",
        "draw",
        "accuracy",
        "loss",
        "curve",
        "right",
        "seconds",
        "error",
    ]
    assert len(table) == 2 * 2 * 2
    assert not table.duplicated(["set", "judge", "seed"]).any()
    assert table["accuracy"].between(0, 1).all()
    assert set(table[~table["unseen"]]["judge"]) == {"ConvNet"}
    assert set(table[["judge", "norm"]].apply(tuple, axis=1)) == {
        ("ConvNet", "IN"),
        ("ShuffleNetV2", "BN"),
    }
    assert drawn == [0, 1]
    one = cross_architecture(
        {"fixed": toy_set()}, toy(seed=9), judges=["ConvNet"], seeds=[1], **options
    )
    assert one["seed"].tolist() == [1]
    cell = table[(table["set"] == "fixed") & (table["judge"] == "ConvNet")]
    assert one["accuracy"][0] == cell[cell["seed"] == 1]["accuracy"].item()


class Stub(torch.nn.Module):
    """A network that guesses by its seed, in no time."""

    def __init__(self, seed):
        super().__init__()
        self.layer = torch.nn.Linear(3, 3, bias=False)
        torch.nn.init.normal_(
            self.layer.weight, generator=torch.Generator().manual_seed(seed)
        )

    def forward(self, x):
        return self.layer(x.mean((2, 3)))


@pytest.fixture
def trained(monkeypatch):
    """Replace training by stubs; return the list of (judge, seed) that were trained.

    A judge and seed in `trained.failing` fails; `trained.stop_at` many trainings later
    the user presses Ctrl-C.
    """

    class Trained(list):
        failing = frozenset()
        stop_at = None

    log = Trained()

    def stub(name, images, labels, *, seed, lr, **_):
        if len(log) == log.stop_at:
            raise KeyboardInterrupt
        log.append((name, seed, lr))
        if (name, seed) in log.failing:
            message = f"judge {name}, seed {seed}: the loss became NaN at step 120"
            raise FloatingPointError(message)
        return Stub(seed).eval()

    monkeypatch.setattr(training, "train_judge", stub)
    return log


def test_a_failed_training_marks_its_cell_alone(trained):
    """NaN where the loss exploded; all other cells stand, and so does the summary."""
    trained.failing = {("ViT", 1)}
    sets = {"a": toy_set(), "b": toy_set(seed=2)}
    table = cross_architecture(
        sets, toy(seed=9), judges=("ConvNet", "ViT"), seeds=3, **QUICK
    )
    failed = (table["judge"] == "ViT") & (table["seed"] == 1)
    assert table["accuracy"].isna().equals(failed)
    assert failed.sum() == 2
    words = "judge ViT, seed 1: the loss became NaN at step 120"
    assert set(table[failed]["error"]) == {words}
    assert set(table[~failed]["error"]) == {""}
    summary = summarise(table, "a")
    assert summary.loc["a", "unseen, no BN: vs a"] == "-"
    assert "nan" not in summary.loc["b"].to_string()


# --- Norms and rates ----------------------------------------------------------------


def test_the_literature_s_norms_and_rates(trained):
    """Plain names stand for its networks; a learned step size is the ConvNet's."""
    learned = toy_set(provenance={"learned_lr": 0.5})
    judges = ["ConvNet", "ConvNet-BN", "ViT", "ResNet18", "ResNet18-BN"]
    options = {"judges": judges, "seeds": 1, **QUICK}
    options["protocol"] = PROTOCOLS["literature"]
    table = cross_architecture({"a": toy_set(), "d": learned}, toy(), **options)
    assert [(name, lr) for name, _, lr in trained] == [
        ("ConvNet", 0.01),
        ("ConvNet", 0.5),
        ("ConvNet-BN", 0.01),
        ("ConvNet-BN", 0.01),
        ("ViT", 0.001),
        ("ViT", 0.001),
        ("ResNet18-IN", 0.01),
        ("ResNet18-IN", 0.01),
        ("ResNet18-BN", 0.01),
        ("ResNet18-BN", 0.01),
    ]
    assert table["norm"].tolist()[::2] == ["IN", "BN", "LN", "IN", "BN"]
    assert table["unseen"].tolist()[::2] == [False, False, True, True, True]


def test_one_network_under_two_names_is_there_twice(trained):
    """A plain name and the norm that it stands for."""
    with pytest.raises(InputError, match=r"found \['ViT-LN'\] more than once"):
        study(None, judges=["ViT", "ViT"])
    with pytest.raises(InputError, match=r"found \['ResNet18-BN'\] more than once"):
        study(None, judges=["ResNet18", "ResNet18-BN"])
    with pytest.raises(InputError, match=r"found \['ResNet18-IN'\] more than once"):
        study(None, judges=["ResNet18", "ResNet18-IN"], protocol="literature")
    assert not trained


# --- Draws --------------------------------------------------------------------------


def draws_of(table, name):
    """Return the draws of a set, one per seed."""
    mine = table[table["set"] == name].groupby("seed")["draw"]
    assert (mine.nunique() == 1).all()
    return mine.first().tolist()


@pytest.mark.parametrize("kept", [False, True])
def test_draws_are_recorded(trained, tmp_path, kept):
    """What is random itself: functions of the seed, and what provenance says."""
    recovered = {"method": "DIVER", "seed": 0, "source": {"format": "DC"}}
    sets = {
        "fixed": toy_set(),
        "drawn": lambda seed: toy_set(seed=seed),
        "in turns": lambda seed: toy_set(seed=seed % 2),
        "recovered": toy_set(provenance=recovered),
        "real": toy_set(seed=3, provenance={"method": "random real", "seed": 0}),
        "VAE only": toy_set(provenance={"method": "VAE only", "source": {}}),
        "clipped": toy_set(provenance={"method": "clip only", "source": recovered}),
        "read": toy_set(provenance={"format": "DC", "source": "res_DM.pt"}),
    }
    out = tmp_path / "cells.csv" if kept else None
    for _ in range(1 + kept):  # from its file, too
        table = study(out, sets=sets, seeds=5, judges=["ViT", "ConvNet"])
        for name in ("fixed", "VAE only", "read"):
            assert draws_of(table, name) == [""] * 5
        counts = {name: len(set(draws_of(table, name))) for name in sets}
        assert counts["drawn"] == 5
        assert counts["in turns"] == 2
        for name in ("recovered", "real", "clipped"):
            assert counts[name] == 1
            assert draws_of(table, name)[0] != ""
        words = summarise(table, "fixed")["unseen, no BN: verdict"]
        assert words["in turns"] == "2 draws for 5 seeds"
        assert words["recovered"] == words["clipped"] == "1 draw for 5 seeds"
        assert words["drawn"].startswith(("better", "worse", "no difference"))
        assert words["VAE only"] == "no difference (0.0 would show)"


def test_a_draw_is_what_it_is_now_known_to_be(trained, tmp_path):
    """A file's rows of the same pixels, once without and once with a record."""
    out = tmp_path / "cells.csv"
    study(out, sets={"a": toy_set()})
    record = {"method": "DIVER"}
    table = study(out, sets={"a": toy_set(provenance=record)}, seeds=3)
    assert len(set(draws_of(table, "a"))) == 1
    assert draws_of(table, "a")[0] != ""
    stored = pd.read_csv(out, keep_default_na=False)
    assert (stored["draw"] == stored["set_sha"]).all()


# --- Resuming -----------------------------------------------------------------------


def study(out, seeds=2, **changes):
    """Judge two sets, one of them drawn anew for each seed."""
    options = {
        "sets": {"a": toy_set(), "NA": lambda seed: toy_set(seed=10 + seed)},
        "test": toy(seed=9),
        "judges": ["ConvNet", "ViT", "ResNet18"],
        "seeds": seeds,
        "out": out,
        **QUICK,
    }
    return cross_architecture(**options | changes)


@pytest.mark.parametrize("stop_at", [0, 5, 11])
def test_an_interrupted_run_goes_on(tmp_path, trained, stop_at):
    """Finished cells are kept and not repeated; the table is that of one run."""
    trained.failing = {("ViT", 0)}
    whole = study(None)
    assert len(trained) == 12
    out = tmp_path / "deep" / "cells.csv"
    trained.clear()
    trained.stop_at = stop_at
    with pytest.raises(KeyboardInterrupt):
        study(out)
    kept = len(pd.read_csv(out)) if out.exists() else 0
    assert kept == stop_at
    assert [p.name for p in out.parent.glob("*")] == ["cells.csv"] * bool(kept)
    trained.stop_at = None
    trained.clear()
    table = study(out)
    assert len(trained) == 12 - kept
    pd.testing.assert_frame_equal(
        table.drop(columns="seconds"), whole.drop(columns="seconds")
    )
    trained.clear()
    again = study(out)
    assert not trained
    pd.testing.assert_frame_equal(again, table)
    assert (again["error"] != "").sum() == 2  # a seed that failed would fail again


def test_a_file_serves_more_than_one_run(tmp_path, trained):
    """New seeds, judges and sets are added; what is not asked for stays in the file."""
    out = tmp_path / "cells.csv"
    study(out, seeds=2, judges=["ConvNet"])
    seeds = np.array([1, 2])  # any integer type is the same seed
    table = study(out, seeds=seeds, judges=["ConvNet", "ViT"])
    assert len(trained) == 2 * 2 + 2 * 2 * 2 - 2
    assert sorted(set(table["seed"])) == [1, 2]
    assert len(pd.read_csv(out)) == len(trained)
    study(out, sets={"c": toy_set()}, judges=["ConvNet"])
    assert set(pd.read_csv(out, keep_default_na=False)["set"]) == {"a", "NA", "c"}


def test_a_file_of_something_else_is_refused(tmp_path, trained):
    """Another protocol, test or set of that name: one line, and the file as it was."""
    out = tmp_path / "cells.csv"
    study(out)
    trained.clear()
    content = out.read_bytes()
    soft = toy_set(soft_labels=torch.rand(24, 3))
    learned = toy_set(provenance={"learned_lr": 0.1})
    for changes, message in (
        ({"steps": 3}, "made with another protocol"),
        ({"protocol": "literature"}, "made with another protocol"),
        ({"test": toy(seed=8)}, "made with other test images"),
        ({"sets": {"a": toy_set(seed=3)}}, "rows of set 'a' are of another set"),
        ({"sets": {"a": soft}}, "rows of set 'a' are of another set"),
        ({"sets": {"a": learned}}, "rows of set 'a' are of another set"),
        ({"sets": {"NA": lambda seed: toy_set(seed=seed)}}, "rows of set 'NA' are"),
    ):
        with pytest.raises(InputError, match=message):
            study(out, **changes)
        assert out.read_bytes() == content
    assert not trained
    renamed = toy_set(provenance={"note": "the same pixels"})
    study(out, sets={"a": renamed})  # provenance alone changes no training
    assert not trained


def test_files_that_are_no_tables_of_trainings(tmp_path, trained):
    """A folder, another table, a picture, a damaged number: named, and left alone."""
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(InputError, match=r"/folder can't be read .*; expected a table"):
        study(folder)
    out = tmp_path / "cells.csv"
    for content, message in (
        (b"", "expected a table of trainings"),
        (b"set,accuracy\na,0.5\n", r"lacks the columns \['judge'"),
        (b"\x89PNG\x00\xff\xfe", "expected a table of trainings"),
    ):
        out.write_bytes(content)
        with pytest.raises(InputError, match=message):
            study(out)
        assert out.read_bytes() == content
    out.unlink()
    study(out, seeds=1, judges=["ConvNet"])
    table = pd.read_csv(out, keep_default_na=False).astype(str)
    table.assign(accuracy="high").to_csv(out, index=False)
    with pytest.raises(InputError, match="expected a table of trainings"):
        study(out)


# --- Bad input ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"judges": ["VGG19"]}, r"judge is 'VGG19'; expected one of"),
        ({"judges": []}, r"judges is \[\]; expected at least one"),
        ({"judges": ["ResNet18-XN"]}, r"judge ResNet18-XN: the norm is 'XN'; expec"),
        ({"judges": ["AlexNet-GN"]}, r"AlexNet has no norm, and no other can take"),
        ({"judges": ["ViT-AdaBN"]}, r"but ViT has layer normalisation, and no other"),
        ({"n_jobs": 0}, r"n_jobs is 0; expected an integer in 1"),
        ({"seeds": 0}, r"seeds is 0; expected an integer in 1"),
        ({"seeds": [1, 2, 1]}, r"seeds: found \[1\] more than once"),
        ({"seeds": [-1]}, r"seeds: one of them is -1"),
        ({"seeds": [0.5]}, r"seeds: one of them is 0.5"),
        ({"sets": {}}, r"sets is \[\]; expected at least one"),
        ({"protocol": "slow"}, r"protocol is 'slow'; expected one of"),
        ({"steps": 0}, r"steps is 0"),
        ({"device": "tpu9"}, r"device 'tpu9' is unknown"),
        (
            {"test": (torch.rand(0, 3, 32, 32), torch.zeros(0))},
            r"test: images is .* \(0, 3, 32, 32\)",
        ),
        (
            {"test": (toy()[0], toy()[1][:-1])},
            r"test: labels is .* \(23,\); .* \(24,\)",
        ),
        ({"test": (torch.rand(3, 3, 32, 30), torch.arange(3))}, r"expected square"),
        ({"test": (toy()[0], toy()[1] * 0)}, r"classes is 1; expected two or more"),
        ({"test": toy(size=28), "sets": {"s": toy_set(size=28)}}, r"ViT: image size"),
        ({"test": toy(size=64)}, r"set 'a': shape of an image is \(3, 32, 32\); "),
        ({"test": (torch.rand(3, 1, 32, 32), torch.arange(3))}, r"test images, \(1,"),
        (
            {"test": (toy()[0], toy()[1] + 1)},
            r"test labels are 1 \.\. 3; expected 0 \.\. 2",
        ),
        (
            {"test": (*toy()[:2], NAMES[:2])},
            r"test: labels are 0 \.\. 2; expected 0 \.\. 1",
        ),
        ({"test": (toy()[0], toy()[1] - 1)}, r"test: labels are -1 \.\. 1; expected"),
    ],
)
def test_bad_input_ends_before_any_training(trained, changes, message):
    """Each is refused in one line that names it."""
    with pytest.raises(InputError, match=message):
        study(None, **changes)
    assert not trained


def test_classes_without_images(trained):
    """They are named, before anything is trained."""
    images, labels, names = toy()
    few = DistilledSet(images[labels != 1], labels[labels != 1], names)
    with pytest.raises(InputError, match=r"set 'few': no image of 'bright'; exp"):
        study(None, sets={"whole": toy_set(), "few": few})
    assert not trained


def test_another_version_of_the_code_is_another_protocol(trained, tmp_path):
    """Trainings that the code of today wouldn't give again are not mixed with its."""
    out = tmp_path / "t.csv"
    study(out, seeds=1, judges=["ConvNet"])
    table = pd.read_csv(out, dtype=str, keep_default_na=False)
    older = replace(PROTOCOLS["corrected"], steps=QUICK["steps"])
    assert {*table["protocol_sha"]} == {protocol_fingerprint(older)}
    table.assign(protocol_sha="0123456789abcdef").to_csv(out, index=False)
    with pytest.raises(InputError, match="another version of diver_lite or torch"):
        study(out)


@pytest.mark.parametrize("what", ["torch", "torchvision", "RESULTS"])
def test_a_protocol_is_followed_by_code(monkeypatch, what):
    """Another number that it declares, or another version, is another protocol."""
    protocol, version = PROTOCOLS["corrected"], metadata.version
    before = protocol_fingerprint(protocol)
    if what == "RESULTS":
        monkeypatch.setattr(record, "RESULTS", 99)
    else:
        found = {what: "99"}
        monkeypatch.setattr(
            metadata, "version", lambda name: found.get(name) or version(name)
        )
    assert protocol_fingerprint(protocol) != before


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("accuracy", "7.3", r"line 3: accuracy is 7\.3; expected an accuracy in 0"),
        ("accuracy", "-1", r"line 3: accuracy is -1\.0"),
        ("accuracy", "inf", r"line 3: accuracy is inf"),
        ("accuracy", "", r"line 3: accuracy is nan"),
        ("error", "the loss became NaN", r"line 3: accuracy is 0\."),
        ("curve", "64:high", r"line 3: curve is '64:high'"),
        ("right", "24:AA", r"line 3: right is"),
        ("right", "24:AAA=", r"line 3: right is"),  # answers to 16 images
        ("seed", "0", r"line 3: seed is 0; expected one row for each"),
    ],
)
def test_a_row_that_no_training_wrote_is_refused(
    trained, tmp_path, column, value, message
):
    """With its line: it would count as done."""
    out = tmp_path / "t.csv"
    study(out, seeds=2, judges=["ConvNet"], sets={"a": toy_set()})
    table = pd.read_csv(out, dtype=str, keep_default_na=False)
    table.loc[1, column] = value
    table.to_csv(out, index=False)
    content = out.read_bytes()
    with pytest.raises(InputError, match=message):
        study(out)
    assert out.read_bytes() == content


def test_trainings_tell_how_they_went(tmp_path):
    """Looks on the way, and which test images were right, change no result."""
    test = toy(seed=9)
    out = tmp_path / "t.csv"
    # a judge with batch norm, which must train on in training mode
    options = {"judges": ["ShuffleNetV2"], "seeds": 1, "steps": 5, "progress": False}
    table = cross_architecture({"a": toy_set()}, test, looks=[2, 4], out=out, **options)
    found = curves(table)
    assert found["step"].tolist() == [2, 4]
    assert found["accuracy"].between(0, 1).all()
    assert (found["loss"] > 0).all()
    right = unpacked(table["right"][0])
    assert len(right) == len(test[1])
    assert right.float().mean().item() == pytest.approx(table["accuracy"][0])
    without = cross_architecture({"a": toy_set()}, test, looks=[], **options)
    assert without["curve"][0] == ""
    assert without["accuracy"][0] == table["accuracy"][0]
    assert without["loss"][0] == table["loss"][0]
    assert without["right"][0] == table["right"][0]
    again = cross_architecture({"a": toy_set()}, test, out=out, **options)
    assert again["curve"][0] == table["curve"][0]
