"""Stored verdicts: recomputed from their trainings, and how often they are false."""

import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import bootstrap

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
recompute = importlib.import_module("recompute")
simulate = importlib.import_module("simulate_verdicts")
sys.path.pop(0)


# --- Recomputed -----------------------------------------------------------------------


def test_stored_verdicts_follow_from_the_stored_trainings(monkeypatch):
    """All tables of results/ say what today's code says of their trainings."""
    monkeypatch.chdir(ROOT)
    recompute.main(["--check"])


STUDY = "study_cifar10_ipc1"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return a repository that holds one study, as it was before draws were kept."""
    (tmp_path / "results").mkdir()
    for name in ("_comparisons.csv", "_trainings.csv", ".json"):
        shutil.copy(ROOT / f"results/{STUDY}{name}", tmp_path / "results")
    monkeypatch.chdir(tmp_path)
    path = Path(f"results/{STUDY}_trainings.csv")
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    table.drop(columns="draw").to_csv(path, index=False)
    path = Path(f"results/{STUDY}_comparisons.csv")
    table = pd.read_csv(path)
    table.assign(low=1, high=2, verdict="better").to_csv(path, index=False)
    path = Path(f"results/{STUDY}.json")
    content = json.loads(path.read_text())
    content["provenance"].pop("recomputed", None)
    path.write_text(json.dumps(content))
    for command in ("init -q", "add .", "-c user.name=a -c user.email=a commit -qm a"):
        subprocess.run(["git", *command.split()], check=True)
    return tmp_path / "results"


def test_old_files_are_brought_up_to_date(folder, capsys):
    """Draws by the rows' names; intervals, verdicts, and a record of what was done."""
    with pytest.raises(SystemExit, match=rf"not as recomputed: .*{STUDY}_comparisons"):
        recompute.main(["--check"])
    recompute.main(["--since", "HEAD"])
    for name in (f"{STUDY}_comparisons.csv", f"{STUDY}_trainings.csv"):
        assert (folder / name).read_bytes() == (ROOT / "results" / name).read_bytes()
    trainings = pd.read_csv(folder / f"{STUDY}_trainings.csv", keep_default_na=False)
    fixed = trainings["set"].str.endswith(("Stage I", "VAE only"))
    assert (trainings["draw"] == trainings["set_sha"].where(~fixed, "")).all()
    assert [*trainings][3:5] == ["seed", "draw"]
    content = json.loads((folder / f"{STUDY}.json").read_text())
    assert content["provenance"]["recomputed"]["what"].startswith("intervals and verd")
    old = json.loads((ROOT / f"results/{STUDY}.json").read_text())["provenance"]
    assert content["provenance"]["commit"] == old["commit"]  # that of the trainings
    comparisons = pd.read_csv(folder / f"{STUDY}_comparisons.csv")
    assert content["verdicts"]["comparisons"] == len(comparisons)
    out = capsys.readouterr().out
    changed = (comparisons["verdict"] != "better").sum()
    assert out.count(f"| {STUDY}_comparisons | ") == changed
    row = comparisons[comparisons["verdict"] == "no difference"].iloc[0]
    assert f"| {row['set']}: {row['row']}: {row['against']} | " in out
    assert "| better | " in out
    before = {path: path.read_bytes() for path in folder.iterdir()}
    recompute.main([])  # nothing is left to do
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


# --- Simulated ------------------------------------------------------------------------


def test_the_stored_simulation():
    """False verdicts: 5 % by the t interval, more by bootstrap or with few draws."""
    table = pd.read_csv(ROOT / "results/false_verdicts.csv")
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
    for path in (ROOT / "results").glob("shortcuts_*_trainings.csv"):
        shutil.copy(path, tmp_path / "results")
    monkeypatch.chdir(tmp_path)
    simulate.main(["--runs", "100"])
    table = pd.read_csv("results/false_verdicts.csv")
    assert len(table) == 3 * (4 + 2 * 2) * 2
    assert not table.duplicated([*table.columns[:5]]).any()
    stored = simulate.stored_differences(Path("results"))
    assert len(stored) == 28 * 15
    for what, values in simulate.cases(20_000, stored, np.random.default_rng(1)):
        share = what.get("draw_share", 0)
        assert values.mean() == pytest.approx(0, abs=0.05)
        if what["differences"] in ("normal", "skewed"):
            assert values.var() == pytest.approx(1, abs=0.05)
        pairs = np.corrcoef(values.T)[0]
        alike = np.arange(1, what["seeds"]) % what["draws"] == 0
        assert pairs[1:] == pytest.approx(np.where(alike, share, 0), abs=0.05)
