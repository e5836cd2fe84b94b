"""What a table of trainings says: differences, intervals, verdicts, and its files."""

import csv
import math
import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from diver_lite.checks import InputError
from diver_lite.judge.compare import (
    blocks,
    compare,
    footnote,
    group_of,
    holm,
    is_difference,
    p_value,
    paired_difference,
    seed_differences,
    summarise,
    t_interval,
    tally,
    verdict,
    would_show,
    write_table,
)


def table_of(differences, judges=("ShuffleNetV2", "ResNet18"), base=0.5, draws=()):
    """Build a table in which set "b" beats "a" by `differences` (seed, judge).

    With `draws`, one for each seed, "b" is random itself.
    """
    rows = []
    for seed, row in enumerate(differences):
        drawn = {"a": "", "b": draws[seed] if draws else ""}
        for judge, difference in zip(judges, row, strict=True):
            for name, value in {"a": base, "b": base + difference}.items():
                rows.append((name, judge, True, seed, drawn[name], value, 0.0))
        rows += [(name, "ConvNet", False, seed, drawn[name], 0.9, 0.0) for name in "ab"]
    columns = ["set", "judge", "unseen", "seed", "draw", "accuracy", "seconds"]
    return pd.DataFrame(rows, columns=columns)


COMPARED = "unseen, BN: vs a"

# Half the width of a 95 % interval in standard errors: t's quantile .975, from a table
# in any textbook, for as many degrees of freedom as pairs less one
QUANTILES = {2: 12.7062, 3: 4.3027, 5: 2.7764, 10: 2.2622, 15: 2.1448}


def test_t_intervals_worked_out_by_hand():
    """Five differences of 1 .. 5 points: 3 ± 2.776 * sqrt(2.5 / 5)."""
    found = paired_difference(table_of([[d / 100] * 2 for d in range(1, 6)]), "b", "a")
    assert found == pytest.approx((0.03, 0.03 - 0.01963, 0.03 + 0.01963), abs=1e-5)
    for count, quantile in QUANTILES.items():
        values = np.arange(float(count))  # its variance is n (n + 1) / 12
        half = quantile * math.sqrt((count + 1) / 12)
        mean, low, high = t_interval(values)
        assert mean == (count - 1) / 2
        assert (low, high) == pytest.approx((mean - half, mean + half), abs=1e-3)


def test_the_paired_difference_agrees_with_scipy():
    """Its test of one sample, over the seeds, judges averaged first."""
    differences = np.random.default_rng(3).normal(0.03, 0.02, (8, 2))
    mean, low, high = paired_difference(table_of(differences), "b", "a")
    expected = stats.ttest_1samp(differences.mean(axis=1), 0).confidence_interval(0.95)
    assert mean == pytest.approx(differences.mean())
    assert (low, high) == pytest.approx((expected.low, expected.high))
    reverse = paired_difference(table_of(differences), "a", "b")
    assert reverse == pytest.approx((-mean, -high, -low))


def test_few_or_equal_differences():
    """The proxy never counts; one seed has no interval; zeros have one of no width."""
    found = paired_difference(table_of([[0.1, 0.3], [-0.1, 0.1]]), "b", "a")
    assert found == pytest.approx((0.1, 0.1 - 1.27062, 0.1 + 1.27062), abs=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mean, low, high = paired_difference(table_of([[0.04, 0.0]]), "b", "a")
        assert mean == pytest.approx(0.02)
        assert math.isnan(low)
        assert math.isnan(high)
        assert paired_difference(table_of([[0.0, 0.0]] * 5), "b", "a") == (0, 0, 0)


def test_false_verdicts_are_one_in_twenty():
    """Simulated for normal differences: 5 % within four standard errors."""
    rng = np.random.default_rng(1)
    for count in (5, 10, 15):
        _, low, high = t_interval(rng.normal(size=(10_000, count)))
        assert np.mean((low > 0) | (high < 0)) == pytest.approx(0.05, abs=0.009)


def test_a_comparison_is_the_difference_in_points_and_its_verdict():
    """By hand: each of five seeds gains 2 points; the columns come in this order."""
    found = compare(table_of([[0.01, 0.03]] * 5), "b", "a", "vs_a")
    assert [*found] == ["vs_a", "low", "high", "verdict", "p", "would_show"]
    assert found.pop("verdict") == "better"
    expected = {"vs_a": 2, "low": 2, "high": 2, "p": 0, "would_show": 0}
    assert found == pytest.approx(expected, abs=1e-9)


def test_failed_trainings_drop_their_seed():
    """A pair without a partner doesn't bias the difference."""
    table = table_of([[0.1, 0.3], [0.5, 0.5], [0.1, 0.1]])
    lost = (
        (table["set"] == "b")
        & (table["seed"] == 1)
        & (table["judge"] == "ShuffleNetV2")
    )
    table.loc[lost, "accuracy"] = float("nan")
    mean, low, high = paired_difference(table, "b", "a")
    assert (mean, low, high) == pytest.approx((0.15, 0.15 - 0.63531, 0.15 + 0.63531))
    table.loc[table["set"] == "b", "accuracy"] = float("nan")
    assert all(math.isnan(v) for v in paired_difference(table, "b", "a"))


def test_the_summary_shows_proxy_and_unseen_apart():
    """One row per set, percent with spread, unseen mean, difference to the baseline."""
    summary = summarise(table_of([[0.1, 0.3], [-0.1, 0.1]]), "a")
    assert list(summary.index) == ["a", "b"]
    assert list(summary.columns) == [
        "ShuffleNetV2",
        "ResNet18",
        "ConvNet",
        "proxy's kind: vs a",  # a group of one has no mean of its own
        "proxy's kind: verdict",
        "unseen, BN",
        "unseen, BN: vs a",
        "unseen, BN: verdict",
    ]
    assert summary.loc["b", "ShuffleNetV2"] == "50.0 ± 14.1"
    assert summary.loc["b", "ConvNet"] == "90.0 ± 0.0"
    assert summary.loc["b", "unseen, BN"] == "60.0"
    assert summary.loc["b", "unseen, BN: vs a"] == "+10.0 [-117.1, +137.1]"
    assert summarise(table_of([[0.1, 0.3]]), "a").loc["b", COMPARED] == "+20.0"
    with pytest.raises(InputError, match=r"baseline is 'c'.*\['a', 'b'\]"):
        summarise(table_of([[0.1, 0.3]]), "c")


@pytest.mark.parametrize(
    ("differences", "words"),
    [
        ([0.02, 0.03, 0.01, 0.02, 0.04], "better"),
        ([-0.02, -0.03, -0.01, -0.02, -0.04], "worse"),
        ([0.02, -0.03, 0.01, -0.02, 0.04], "no difference"),
        # zero outside of the bootstrap's interval, [0.002, 0.032], and of a normal one
        ([0.05, 0.01, 0.02, 0.02, -0.01], "no difference"),
        ([0.0] * 5, "no difference"),
        ([0.02, 0.03, 0.01, 0.02], "too few seeds"),
    ],
)
def test_verdicts(differences, words):
    """An interval that contains zero is no difference; four seeds are no claim."""
    table = table_of([[d, d] for d in differences])
    assert verdict(table, "b", "a") == words
    summary = summarise(table, "a")["unseen, BN: verdict"]
    assert summary["b"].removesuffix("*").partition(" (")[0] == words
    assert summary["a"] == "-"


@pytest.mark.parametrize(
    ("draws", "words"),
    [
        ("vwxyz", "better"),
        ("vvvvv", "1 draw for 5 seeds"),
        ("vwvwv", "2 draws for 5 seeds"),
        ("vwxyv", "4 draws for 5 seeds"),
    ],
)
def test_a_verdict_needs_as_many_draws_as_seeds(draws, words):
    """Either set may lack them; an interval stands all the same."""
    table = table_of([[d, d] for d in (0.02, 0.03, 0.01, 0.02, 0.04)], draws=draws)
    assert verdict(table, "b", "a") == words
    assert verdict(table, "a", "b") == words.replace("better", "worse")
    both = table.assign(draw=table["draw"].where(table["set"] == "b", table["seed"]))
    assert verdict(both.astype({"draw": str}), "b", "a") == words
    row = compare(table, "b", "a", "points")
    assert row["verdict"] == words
    assert row["low"] > 0
    read_back = table.assign(draw=table["draw"].replace("", float("nan")))
    assert verdict(read_back, "b", "a") == words


def test_only_complete_seeds_count_as_draws():
    """A sixth seed, whose training failed, adds no draw of its own."""
    table = table_of([[0.02, 0.02]] * 6, draws="vwxyyz")
    table.loc[(table["seed"] == 5) & (table["set"] == "b"), "accuracy"] = float("nan")
    assert verdict(table, "b", "a") == "4 draws for 5 seeds"


def test_verdicts_that_were_made_at_once():
    """One in twenty is made by chance; what has no verdict isn't one of them."""
    words = ["-", "better", "worse", *["no difference"] * 28, "1 draw for 5 seeds"]
    assert tally(words) == {
        "comparisons": 30,
        "differences": 2,
        "by_chance": 1.5,
        "without_verdict": 1,
    }
    first, second = footnote(words).splitlines()
    assert first.startswith("30 comparisons, 2 called better or worse; if nothing diff")
    assert "about 1.5 would be" in first
    assert "no verdict" in second
    assert footnote(["-", "better"]) == ""  # a single one is what it says
    assert footnote(["-", "too few seeds"]) == ""
    assert "no verdict" in footnote(["-", "2 draws for 5 seeds"])


def test_tables_of_something_else():
    """A table without trainings, or without their draws, is named as such."""
    table = table_of([[0.1, 0.3]] * 5)
    for call in (
        lambda t: summarise(t, "a"),
        lambda t: paired_difference(t, "b", "a"),
        lambda t: verdict(t, "b", "a"),
    ):
        with pytest.raises(InputError, match=r"lacks the columns \['judge', 'seed'\]"):
            call(table.drop(columns=["judge", "seed"]))
    with pytest.raises(InputError, match=r"lacks the columns \['draw'\]"):
        verdict(table.drop(columns="draw"), "b", "a")
    with pytest.raises(InputError, match=r"more than one row is of \{'seed': 0, 'judg"):
        paired_difference(pd.concat([table, table]), "b", "a")


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
    with pytest.raises(InputError, match=r"name is 'c'.*\['a', 'b'\]"):
        paired_difference(table, "c", "a")
    proxy = table[~table["unseen"]]
    assert all(math.isnan(value) for value in paired_difference(proxy, "b", "a"))
    row = summarise(proxy, "a").loc["b"]
    assert row.tolist() == ["90.0", "+0.0", "too few seeds"]


def test_one_failed_judge_does_not_weigh_on_the_unseen_mean():
    """The unseen mean is one of judges, whatever number of trainings each has."""
    table = table_of([[0.1, 0.3], [0.1, 0.3]])  # 60 and 80 %
    lost = (
        (table["set"] == "b")
        & (table["seed"] == 1)
        & (table["judge"] == "ShuffleNetV2")
    )
    table.loc[lost, "accuracy"] = float("nan")
    summary = summarise(table, "a")
    assert summary.loc["b", "unseen, BN"] == "70.0"
    assert summary.loc["b", "ShuffleNetV2"] == "60.0"  # one training has no spread


def test_a_set_with_one_judge_of_a_group_has_no_mean_of_it():
    """Beside means of two judges it would be one of something else."""
    table = table_of([[0.1, 0.3], [0.1, 0.3]])
    table = table[(table["set"] == "a") | (table["judge"] != "ResNet18")]
    summary = summarise(table, "a")["unseen, BN"]
    assert summary.to_dict() == {"a": "50.0", "b": "-"}


def test_tables_as_files(tmp_path):
    """CSV reads back, Markdown escapes what means something to it."""
    summary = summarise(table_of([[0.1, 0.3], [-0.1, 0.1]]), "a")
    summary = summary.rename({"b": "b|c_1 & 50 %"})
    rows = list(csv.reader(write_table(summary, tmp_path / "t.csv").open()))
    assert rows[0] == ["set", *summary.columns]
    assert rows[2] == ["b|c_1 & 50 %", *summary.iloc[1]]
    text = write_table(summary, tmp_path / "t.md").read_text()
    lines = text.splitlines()
    assert lines[1] == "| --- |" + " ---: |" * len(summary.columns)
    assert lines[3].startswith(r"| b\|c_1 & 50 % | 50.0 ± 14.1 |")
    with pytest.raises(InputError, match=r"suffix is '\.xls'.*'\.md'"):
        write_table(summary, tmp_path / "t.xls")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["t.csv", "t.md"]


def test_a_table_for_latex(tmp_path):
    """All that means something to LaTeX is escaped; signs are set as in formulas."""
    summary = pd.DataFrame(
        {"a_1": ["50.0 ± 1.4", "-"], "vs": ["-0.3 [-1.5, +0.9]", "better*"]},
        index=[r"50 % & \x{#}$~^", "[dm-2]"],
    )
    lines = write_table(summary, tmp_path / "t.tex").read_text().splitlines()
    assert lines == [
        r"\begin{tabular}{lrr}",
        r"\toprule",
        r"set & a\_1 & vs \\",
        r"\midrule",
        r"50 \% \& \textbackslash{}x\{\#\}\$\textasciitilde{}\textasciicircum{} & "
        r"50.0 $\pm$ 1.4 & $-$0.3 [$-$1.5, +0.9] \\",
        r"{}[dm-2] & - & better$^*$ \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


# --- Groups of judges, several sets, several comparisons ------------------------------


PANEL = ("ConvNet", "ConvNet-BN", "ResNet18", "ShuffleNetV2-GN", "AlexNet", "ViT")


def panel_of(gains, seeds=5):
    """Build a table in which set "b" beats "a" by a gain of its own with each judge."""
    rng = np.random.default_rng(0)
    rows = []
    for judge, gain in gains.items():
        for seed in range(seeds):
            low, high = 0.5 + 0.01 * rng.random(2)
            unseen = not judge.startswith("ConvNet")
            rows.append(("a", judge, unseen, seed, "", low))
            rows.append(("b", judge, unseen, seed, "", high + gain))
    columns = ["set", "judge", "unseen", "seed", "draw", "accuracy"]
    return pd.DataFrame(rows, columns=columns)


def test_groups_of_judges():
    """The proxy whatever its norm, strangers by theirs, the diagnosis in no group."""
    groups = {name: group_of(name) for name in (*PANEL, "ResNet18-AdaBN", "VGG11-IN")}
    assert groups == {
        "ConvNet": "proxy's kind",
        "ConvNet-BN": "proxy's kind",
        "ResNet18": "unseen, BN",
        "ShuffleNetV2-GN": "unseen, no BN",
        "AlexNet": "unseen, no BN",
        "ViT": "unseen, no BN",
        "ResNet18-AdaBN": "diagnosis",
        "VGG11-IN": "unseen, no BN",
    }


def test_strangers_with_and_without_batch_norm_are_told_apart():
    """One gains, the other loses; their mean would have said nothing."""
    gains = {"ConvNet": -0.1, "ResNet18": 0.2, "ShuffleNetV2-GN": -0.2}
    table = panel_of(gains | {"ResNet18-AdaBN": 0.4})
    found = {
        group: verdict(table, "b", "a", group)
        for group in ("proxy's kind", "unseen, BN", "unseen, no BN")
    }
    assert [*found.values()] == ["worse", "better", "worse"]
    assert abs(paired_difference(table, "b", "a", "unseen")[0]) < 0.01
    summary = summarise(table, "a").loc["b"]
    assert summary["unseen, no BN: verdict"] == "worse*"
    assert "ResNet18-AdaBN" in summary
    assert not [name for name in summary.index if "diagnosis" in name]
    whole = summarise(table, "a")
    assert [len(part.columns) for part in blocks(whole)] == [4, 2, 2, 2]
    verdicts = whole.filter(like=": verdict").stack().tolist()
    assert verdicts == ["-"] * 3 + ["worse*", "better*", "worse*"]
    assert tally(verdicts)["differences"] == 3
    with pytest.raises(InputError, match=r"group is 'strangers'; expected one of"):
        verdict(table, "b", "a", "strangers")


def test_several_sets_are_pooled_seed_by_seed():
    """The mean of two sets' differences, each with its own baseline."""
    table = table_of([[d, d] for d in (0.02, 0.03, 0.01, 0.02, 0.04)])
    more = table.assign(set=table["set"].map({"a": "c", "b": "d"}))
    more.loc[more["set"] == "d", "accuracy"] -= 0.04
    both = pd.concat([table, more])
    pooled = seed_differences(both, ["b", "d"], ["a", "c"])
    assert pooled.tolist() == pytest.approx([0.0, 0.01, -0.01, 0.0, 0.02])
    assert compare(both, ["b", "d"], ["a", "c"], "points")["points"] == pytest.approx(
        0.4
    )
    shared = seed_differences(both, ["b", "d"], ["a", "a"])
    assert shared.tolist() == pytest.approx(pooled.tolist())
    with pytest.raises(InputError, match=r"baseline is \['a'\]; expected 2 sets"):
        compare(both, ["b", "d"], ["a"], "points")


def test_p_values_are_scipy_s():
    """The t test of one sample; what has no spread is certain."""
    values = np.array([0.4, -0.1, 0.3, 0.2, 0.5])
    assert p_value(values) == pytest.approx(stats.ttest_1samp(values, 0).pvalue)
    assert p_value(np.array([0.1] * 5)) == 0
    assert p_value(np.zeros(5)) == 1
    assert math.isnan(p_value(np.array([0.1])))


def test_holm_worked_out_by_hand():
    """Holm 1979: the smallest against .05 / n, the next against .05 / (n - 1), ..."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == [True, False, False, True]
    assert holm([0.01, 0.02, 0.024, 0.012]) == [True] * 4
    assert holm([0.02, 0.04]) == [True, True]
    assert holm([0.026, 0.04]) == [False, False]
    assert holm([math.nan, 0.04]) == [False, True]
    assert holm([]) == []


def test_what_would_have_been_seen_is_seen_in_four_of_five_cases():
    """Simulated: a true difference of that size crosses zero in 80 % of tables."""
    rng = np.random.default_rng(2)
    for count in (5, 10):
        spread = would_show(rng.normal(size=200_000)) * math.sqrt(200_000 / count)
        quantiles = stats.t.ppf([0.975, 0.8], count - 1).sum()
        true = quantiles / math.sqrt(count)  # in deviations
        _, low, _ = t_interval(rng.normal(true, size=(20_000, count)))
        assert np.mean(low > 0) == pytest.approx(0.8, abs=0.03)
        assert spread == pytest.approx(2.8 / math.sqrt(count), rel=0.01)
    summary = summarise(
        table_of([[d, d] for d in (0.02, -0.03, 0.01, -0.02, 0.04)]), "a"
    )
    assert summary.loc["b", "unseen, BN: verdict"] == "no difference (4.8 would show)"
    assert "four of five cases" in footnote(summary["unseen, BN: verdict"])
