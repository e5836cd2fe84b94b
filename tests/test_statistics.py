"""What a table of trainings says: differences, intervals, verdicts, and its files."""

import csv
import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import bootstrap

from diver_lite.errors import InputError
from diver_lite.statistics import (
    compare,
    is_difference,
    paired_difference,
    summarise,
    to_latex,
    to_markdown,
    verdict,
    write_table,
)


def table_of(differences, judges=("ViT", "ResNet18"), base=0.5):
    """Build a table in which set "b" beats "a" by `differences` (seed, judge)."""
    rows = []
    for seed, row in enumerate(differences):
        for judge, difference in zip(judges, row, strict=True):
            for name, value in {"a": base, "b": base + difference}.items():
                rows.append((name, judge, True, seed, value, 0.0))
        rows += [(name, "ConvNet", False, seed, 0.9, 0.0) for name in "ab"]
    columns = ["set", "judge", "unseen", "seed", "accuracy", "seconds"]
    return pd.DataFrame(rows, columns=columns)


def test_the_paired_difference_agrees_with_scipy():
    """Mean and percentile interval over seeds, judges averaged first."""
    differences = np.random.default_rng(3).normal(0.03, 0.02, (8, 2))
    mean, low, high = paired_difference(table_of(differences), "b", "a")
    per_seed = differences.mean(axis=1)
    expected = bootstrap(
        (per_seed,),
        np.mean,
        n_resamples=20_000,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert mean == pytest.approx(per_seed.mean())
    assert low == pytest.approx(expected.low, abs=5e-4)
    assert high == pytest.approx(expected.high, abs=5e-4)
    assert low < mean < high
    reverse = paired_difference(table_of(differences), "a", "b")
    assert reverse[0] == pytest.approx(-mean)


def test_paired_differences_worked_out_by_hand():
    """Two seeds: the interval ends at the two means; the proxy never counts."""
    found = paired_difference(table_of([[0.1, 0.3], [-0.1, 0.1]]), "b", "a")
    assert found == pytest.approx((0.1, 0.0, 0.2))
    assert paired_difference(table_of([[0.04, 0.0]]), "b", "a") == pytest.approx(
        (0.02, 0.02, 0.02)
    )


def test_a_comparison_is_the_difference_in_points_and_its_verdict():
    """By hand: each of five seeds gains 2 points; the columns come in this order."""
    found = compare(table_of([[0.01, 0.03]] * 5), "b", "a", "vs_a")
    assert [*found] == ["vs_a", "low", "high", "verdict"]
    assert found == pytest.approx({"vs_a": 2, "low": 2, "high": 2, "verdict": "better"})


def test_failed_trainings_drop_their_seed():
    """A pair without a partner doesn't bias the difference."""
    table = table_of([[0.1, 0.3], [0.5, 0.5], [0.1, 0.1]])
    lost = (table["set"] == "b") & (table["seed"] == 1) & (table["judge"] == "ViT")
    table.loc[lost, "accuracy"] = float("nan")
    mean, low, high = paired_difference(table, "b", "a")
    assert (mean, low, high) == pytest.approx((0.15, 0.1, 0.2))
    table.loc[table["set"] == "b", "accuracy"] = float("nan")
    assert all(math.isnan(v) for v in paired_difference(table, "b", "a"))


def test_the_summary_shows_proxy_and_unseen_apart():
    """One row per set, percent with spread, unseen mean, difference to the baseline."""
    summary = summarise(table_of([[0.1, 0.3], [-0.1, 0.1]]), "a")
    assert list(summary.index) == ["a", "b"]
    columns = ["ViT", "ResNet18", "ConvNet", "unseen", "vs a", "verdict"]
    assert list(summary.columns) == columns
    assert summary.loc["b", "ViT"] == "50.0 ± 14.1"
    assert summary.loc["b", "ConvNet"] == "90.0 ± 0.0"
    assert summary.loc["b", "unseen"] == "60.0"
    assert summary.loc["b", "vs a"] == "+10.0 [+0.0, +20.0]"
    with pytest.raises(InputError, match=r"baseline 'c'.*\['a', 'b'\]"):
        summarise(table_of([[0.1, 0.3]]), "c")


@pytest.mark.parametrize(
    ("differences", "words"),
    [
        ([0.02, 0.03, 0.01, 0.02, 0.04], "better"),
        ([-0.02, -0.03, -0.01, -0.02, -0.04], "worse"),
        ([0.02, -0.03, 0.01, -0.02, 0.04], "no difference"),
        ([0.0] * 5, "no difference"),
        ([0.02, 0.03, 0.01, 0.02], "too few seeds"),
    ],
)
def test_verdicts(differences, words):
    """An interval that contains zero is no difference; four seeds are no claim."""
    table = table_of([[d, d] for d in differences])
    assert verdict(table, "b", "a") == words
    assert summarise(table, "a").loc["b", "verdict"] == words
    assert summarise(table, "a").loc["a", "verdict"] == "-"


def test_an_interval_decides():
    """Zero inside, or at the edge, or no interval at all: no difference."""
    assert is_difference((0.2, 0.1, 0.3))
    assert is_difference((-0.2, -0.3, -0.1))
    assert not is_difference((0.1, 0.0, 0.2))
    assert not is_difference((0.1, -0.1, 0.3))
    assert not is_difference((math.nan,) * 3)


def test_tables_without_pairs():
    """Unknown sets are named; a table of the proxy alone has no unseen mean."""
    table = table_of([[0.1, 0.3]])
    with pytest.raises(InputError, match=r"set 'c' is not in .*\['a', 'b'\]"):
        paired_difference(table, "c", "a")
    proxy = table[~table["unseen"]]
    assert all(math.isnan(value) for value in paired_difference(proxy, "b", "a"))
    row = summarise(proxy, "a").loc["b"]
    assert row.tolist() == ["90.0", "-", "-", "too few seeds"]


def test_one_failed_judge_does_not_weigh_on_the_unseen_mean():
    """The unseen mean is one of judges, whatever number of trainings each has."""
    table = table_of([[0.1, 0.3], [0.1, 0.3]])  # 60 and 80 %
    lost = (table["set"] == "b") & (table["seed"] == 1) & (table["judge"] == "ViT")
    table.loc[lost, "accuracy"] = float("nan")
    summary = summarise(table, "a")
    assert summary.loc["b", "unseen"] == "70.0"
    assert summary.loc["b", "ViT"] == "60.0"  # one training has no spread


def test_tables_as_files(tmp_path):
    """CSV reads back, Markdown and LaTeX escape what means something to them."""
    summary = summarise(table_of([[0.1, 0.3], [-0.1, 0.1]]), "a")
    summary = summary.rename({"b": "b|c_1 & 50 %"})
    rows = list(csv.reader(write_table(summary, tmp_path / "t.csv").open()))
    assert rows[0] == ["set", *summary.columns]
    assert rows[2] == ["b|c_1 & 50 %", *summary.iloc[1]]
    text = write_table(summary, tmp_path / "t.md").read_text()
    assert text == to_markdown(summary)
    lines = text.splitlines()
    assert lines[1] == "| --- |" + " ---: |" * len(summary.columns)
    assert lines[3].startswith(r"| b\|c_1 & 50 % | 50.0 ± 14.1 |")
    text = write_table(summary, tmp_path / "t.tex").read_text()
    assert text == to_latex(summary)
    assert r"b|c\_1 \& 50 \% & 50.0 $\pm$ 14.1 &" in text
    assert text.startswith("\\begin{tabular}{lrrrrrr}\n\\toprule\nset & ViT &")
    assert text.endswith("\\bottomrule\n\\end{tabular}\n")
    with pytest.raises(InputError, match=r"suffix is '\.xls'.*'\.tex'"):
        write_table(summary, tmp_path / "t.xls")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["t.csv", "t.md", "t.tex"]
