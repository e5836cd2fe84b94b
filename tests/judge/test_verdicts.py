"""Stored verdicts: recomputed from their trainings, and how often they are false."""

import importlib
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from bookkit.studies import stored_table
from scipy.stats import bootstrap

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
recompute = importlib.import_module("recompute")
simulate = importlib.import_module("simulate_verdicts")
sys.path.pop(0)


# --- Recomputed -----------------------------------------------------------------------


def test_stored_verdicts_follow_from_the_stored_trainings(monkeypatch):
    """All rows of comparisons.csv are what today's code says of the trainings."""
    monkeypatch.chdir(ROOT)
    recompute.main(["--check"])


STEM = "sources_cifar10_published-ipc1"


def test_old_comparisons_are_brought_up_to_date(tmp_path, monkeypatch):
    """The rows as they are stored come back, and the trainings stay as they are."""
    (tmp_path / "results").mkdir()
    for end in (".json", "_trainings.csv"):
        shutil.copy(ROOT / f"results/{STEM}{end}", tmp_path / "results")
    stored = pd.read_csv(ROOT / "results/comparisons.csv")
    stored = stored[stored["study"] == STEM].reset_index(drop=True)
    monkeypatch.chdir(tmp_path)
    path = Path("results/comparisons.csv")
    stored.assign(low=1, high=2, verdict="better").to_csv(path, index=False)
    with pytest.raises(SystemExit, match=r"not as recomputed: .*comparisons"):
        recompute.main(["--check"])
    recompute.main([])
    pd.testing.assert_frame_equal(pd.read_csv(path), stored)
    for end in (".json", "_trainings.csv"):
        name = f"results/{STEM}{end}"
        assert Path(name).read_bytes() == (ROOT / name).read_bytes()
    recompute.main(["--check"])  # nothing is left to do


def test_a_study_that_still_runs_is_not_compared(tmp_path, monkeypatch):
    (tmp_path / "results").mkdir()
    shutil.copy(ROOT / f"results/{STEM}_trainings.csv", tmp_path / "results")
    monkeypatch.chdir(tmp_path)
    assert list(recompute.recomputed()) == []


def test_what_seen_pictures_gain_is_compared_with_what_unseen_ones_gain():
    stages = ("Stage I, seen", "Stage I, unseen")
    better = ("inheritance, seen", "inheritance, unseen")
    score = dict.fromkeys(stages, 0.2) | dict(zip(better, (0.5, 0.4), strict=True))
    names = {f"dm 1: {row}": value for row, value in score.items()}
    about = {"judge": "ShuffleNetV2-BN", "unseen": True, "draw": ""}
    table = pd.DataFrame(
        {"set": name, "seed": seed, "accuracy": value + 0.01 * seed} | about
        for name, value in (names | {"samples": 0.1}).items()
        for seed in range(5)
    )
    found = recompute.compared("seen", table, {"sets": ["dm 1"]})
    points = found.set_index(["row", "against"])["points"]
    assert points["inheritance, seen", "Stage I, seen"] == pytest.approx(30)
    gains = points["gain of inheritance, seen", "gain of inheritance, unseen"]
    assert gains == pytest.approx(10)
    assert points["inheritance, unseen", "samples"] == pytest.approx(30)


# --- Simulated ------------------------------------------------------------------------


def test_the_stored_simulation():
    """False verdicts: 5 % by the t interval, more by bootstrap or with few draws."""
    table = stored_table("false_verdicts")
    assert set(table["seeds"]) == {5, 10, 15}
    t, boot = (table[table["interval"] == i] for i in ("t", "percentile bootstrap"))
    fair = t[t["draws"] == t["seeds"]].set_index(["differences", "seeds"])["share"]
    for seeds in (5, 10, 15):
        assert fair["normal", seeds] == pytest.approx(0.05, abs=0.005)
        assert fair["stored", seeds] == pytest.approx(0.05, abs=0.01)
        assert fair["heavy-tailed", seeds] < 0.05
    assert (boot[boot["seeds"] == 5]["share"] > 0.12).all()
    assert (boot["share"].to_numpy() > t["share"].to_numpy()).all()
    few = t[t["draws"] < t["seeds"]]
    assert set(few["draws"]) == {1, 2}
    assert (few["share"] > 0.07).all()
    one, two = (few[few["draws"] == draws]["share"].to_numpy() for draws in (1, 2))
    assert (one > two).all()


def test_the_bootstrap_is_the_usual_one():
    """Its interval is scipy's."""
    values = np.random.default_rng(3).normal(size=(1, 8))
    mean, low, high = simulate.bootstrap_interval(values, 20_000)
    expected = bootstrap(
        (values[0],),
        np.mean,
        n_resamples=20_000,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert mean[0] == values.mean()
    assert low[0] == pytest.approx(expected.low, abs=0.02)
    assert high[0] == pytest.approx(expected.high, abs=0.02)


def test_the_simulation_runs(tmp_path, monkeypatch):
    """A row per case and interval, from a folder of its own; draws share what is so."""
    (tmp_path / "results").mkdir()
    for path in (ROOT / "results").glob("choices_*_trainings.csv"):
        shutil.copy(path, tmp_path / "results")
    monkeypatch.chdir(tmp_path)
    simulate.main(["--runs", "100"])
    table = stored_table("false_verdicts")
    assert len(table) == 3 * (4 + 2 * 2) * 2
    assert not table.duplicated([*table.columns[:5]]).any()
    stored = simulate.stored_differences(Path("results"))
    assert len(stored) == 15 * 10
    for what, values in simulate.cases(20_000, stored, np.random.default_rng(1)):
        share = what.get("draw_share", 0)
        assert values.mean() == pytest.approx(0, abs=0.05)
        if what["differences"] in ("normal", "skewed"):
            assert values.var() == pytest.approx(1, abs=0.05)
        pairs = np.corrcoef(values.T)[0]
        alike = np.arange(1, what["seeds"]) % what["draws"] == 0
        assert pairs[1:] == pytest.approx(np.where(alike, share, 0), abs=0.05)
