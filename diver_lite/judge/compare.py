"""What a table of trainings says: means, paired differences, verdicts, files.

Judges are told apart by who they are and how they normalise (`GROUPS`), as few and odd
images teach networks with batch norm something else. Sets are compared seed by seed,
each seed with a draw of its own. (That judges of one seed start from the same weights
buys nothing: over ten seeds the accuracies of two sets correlated by 0.05 to 0.22.)
Source of all: ours, where no other is named. A table that isn't of
`cross_architecture`, lacks a set that is named, or has a training twice, ends in
`InputError`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from scipy import stats

from diver_lite.checks import InputError, instance, integer, one_of, require
from diver_lite.files import atomic_path
from diver_lite.judge.networks import PROXY, judge_name
from diver_lite.sets.names import to_cell

CLAIM_SEEDS = 5  # a verdict from fewer would rest on too little
CONFIDENCE = 0.95
POWER = 0.8
VERDICTS = ("better", "worse", "no difference")
GROUPS = ("proxy's kind", "unseen, BN", "unseen, no BN")

Difference = tuple[float, float, float]
Names = str | Sequence[str]  # one set, or several that are pooled


def group_of(judge: str) -> str:
    """Return the one of `GROUPS` that a judge belongs to, or "diagnosis"."""
    base, norm = judge_name(judge)
    if norm == "AdaBN":
        return "diagnosis"
    if base == PROXY:
        return "proxy's kind"
    return "unseen, BN" if norm == "BN" else "unseen, no BN"


def summarise(table: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """Summarise a table of `cross_architecture`, one row per set.

    Columns: per judge "mean ± std" in percent over seeds. Then, for each of `GROUPS`
    that has judges, their mean if there are several; "<group>: vs <baseline>", its
    paired difference in points with a 95 % t interval over the seeds; and "<group>:
    verdict". A verdict with a star survives Holm's correction for all of the table;
    beside "no difference" stands what would have been seen with a power of 80 %.
    """
    sets = _check(table, baseline=baseline)
    percent: Any = table.assign(
        accuracy=100 * table["accuracy"], group=table["judge"].map(group_of)
    )
    groups = [group for group in GROUPS if (percent["group"] == group).any()]
    compared = {
        (name, group): compare(table, name, baseline, "points", group)
        for name in sets
        for group in groups
        if name != baseline
    }
    stars = holm([found["p"] for found in compared.values()])
    starred = dict(zip(compared, stars, strict=True))
    rows = {}
    for name in sets:
        mine = percent[percent["set"] == name]
        row = {
            judge: _mean_and_std(mine[mine["judge"] == judge]["accuracy"].dropna())
            for judge in table["judge"].unique()
        }
        for group in groups:
            members = mine[mine["group"] == group]
            means = members.groupby("judge")["accuracy"].mean()
            if len(means) > 1:
                row[group] = "-" if means.isna().all() else f"{means.mean():.1f}"
            points, words = "-", "-"
            if name != baseline:
                found = compared[name, group]
                points = _points([found[key] for key in ("points", "low", "high")])
                words = _words(found, starred[name, group])
            row[f"{group}: vs {baseline}"] = points
            row[f"{group}: verdict"] = words
        rows[name] = row
    return pd.DataFrame.from_dict(rows, orient="index")


def blocks(summary: pd.DataFrame) -> tuple[list[pd.DataFrame], list[str]]:
    """Return a summary's judges and each of its groups as tables, and all verdicts."""
    first = [c for c in summary if not str(c).startswith(GROUPS)]
    parts: list[Any] = [summary[first]]
    verdicts: list[str] = []
    for group in GROUPS:
        if f"{group}: verdict" in summary:
            mine = summary.filter(regex=f"^{group}(: |$)")
            parts.append(mine)
            verdicts += mine[f"{group}: verdict"].tolist()
    return parts, verdicts


def _words(found: dict, star: bool) -> str:
    """Return a verdict with its star, or with what would have been seen."""
    words = found["verdict"]
    if words == "no difference":
        return f"{words} ({found['would_show']:.1f} would show)"
    return f"{words}*" if star and words in VERDICTS else words


def wilson(count: int, total: int) -> tuple[float, float]:
    """Return the 95 % Wilson score interval of a share, `count` of `total`.

    Raises `InputError`: a total below 1, a count not in 0 .. `total`. Source: Wilson
    1927.
    """
    integer(total, "total", 1, 2**63 - 1)
    integer(count, "count", 0, total)
    found = stats.binomtest(count, total).proportion_ci(CONFIDENCE, method="wilson")
    return float(found.low), float(found.high)


def _mean_and_std(values: pd.Series) -> str:
    if len(values) < 2:  # one training has no spread
        return f"{values.iloc[0]:.1f}" if len(values) else "-"
    return f"{values.mean():.1f} ± {values.std():.1f}"


def _points(difference: Sequence[float]) -> str:
    mean, low, high = difference
    if np.isnan(mean):
        return "-"
    return f"{mean:+.1f}" + ("" if np.isnan(low) else f" [{low:+.1f}, {high:+.1f}]")


def paired_difference(
    table: pd.DataFrame, name: Names, baseline: Names, group: str = "unseen"
) -> Difference:
    """Return mean and 95 % t interval of name - baseline, for a group of judges.

    A pair is two trainings with the same judge and seed. The judges are a fixed panel
    and are averaged first, and so are several sets with their baselines (pooled); the
    interval is over the seeds. Failed trainings (NaN) drop their seed. One pair has no
    interval (NaN); without any all three are NaN.

    Source: paired t interval, Student 1908. A percentile bootstrap over 5 seeds is too
    narrow: `scripts/simulate_verdicts.py`.
    """
    differences = seed_differences(table, name, baseline, group).to_numpy()
    mean, low, high = map(float, t_interval(differences))
    return mean, low, high


def t_interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return mean and 95 % t interval of (..., N) values, independent and about normal.

    With N = 1 the interval is NaN, with N = 0 the mean, too. Source: Student 1908.
    """
    count = values.shape[-1]
    if count < 2:
        nothing = np.full(values.shape[:-1], np.nan)
        return (values[..., 0] if count else nothing), nothing, nothing
    mean = values.mean(axis=-1)
    quantile = stats.t.ppf((1 + CONFIDENCE) / 2, count - 1)
    half = quantile * stats.sem(values, axis=-1)
    return mean, mean - half, mean + half


def p_value(values: np.ndarray) -> float:
    """Return how often chance alone brings a mean so far from 0.

    NaN of fewer than 2 values. Source: t test of one sample, Student 1908.
    """
    if len(values) < 2:
        return float("nan")
    if np.ptp(values) < 1e-9:  # no spread but rounding: certain
        return float(abs(values[0]) < 1e-9)
    found: Any = stats.ttest_1samp(values, 0)
    return float(found.pvalue)


def would_show(values: np.ndarray) -> float:
    """Return the true difference that values of this spread would show, power 80 %.

    Source: the usual approximation, (t_.975 + t_.8) standard errors; NaN of fewer than
    2 values.
    """
    if len(values) < 2:
        return float("nan")
    quantiles = stats.t.ppf([(1 + CONFIDENCE) / 2, POWER], len(values) - 1)
    return float(quantiles.sum() * stats.sem(values))


def holm(p_values: Sequence[float]) -> list[bool]:
    """Say which of several tests reject at 5 % with all of them in view; NaN doesn't.

    Source: Holm 1979.
    """
    tests = [p for p in p_values if not np.isnan(p)]
    limit = 0.0  # the largest p that still rejects
    for index, p in enumerate(sorted(tests)):
        if p > (1 - CONFIDENCE) / (len(tests) - index):
            break
        limit = p
    return [bool(p <= limit) and bool(tests) for p in p_values]


def seed_differences(
    table: pd.DataFrame, name: Names, baseline: Names, group: str = "unseen"
) -> pd.Series:
    """Return name - baseline per complete seed, averaged over a group of judges.

    Of several sets, each with a baseline of its own, the average. The group is one of
    `GROUPS`, or "unseen" for both kinds of stranger.
    """
    pairs = _pairs(table, name, baseline)
    mine: Any = table[_members(table, group) & table["set"].isin(sum(pairs, ()))]
    if mine.empty:
        return pd.Series(dtype=float)
    key = ["seed", "judge", "set"]
    if (twice := mine.duplicated(key)).any():
        row = mine.loc[twice, key].iloc[0].to_dict()
        raise InputError(f"table: more than one row is of {row}; expected one")
    wide: Any = mine.set_index(key)["accuracy"].unstack("set")
    wide = wide.reindex(columns=[*dict.fromkeys(sum(pairs, ()))])
    differences: Any = [(wide[a] - wide[b]).unstack("judge") for a, b in pairs]
    wide = pd.concat(differences, axis=1)  # seeds x (set, judge)
    by_seed = wide.mean(axis=1, skipna=False)
    return cast(pd.Series, by_seed.dropna())


def _pairs(table: pd.DataFrame, name: Names, baseline: Names) -> list[tuple[str, str]]:
    """Return (set, baseline) of each comparison that is pooled, if a table has them."""
    names = [name] if isinstance(name, str) else [*name]
    baselines = [baseline] if isinstance(baseline, str) else [*baseline]
    require(len(names) == len(baselines), "baseline", baselines, f"{len(names)} sets")
    for one, other in zip(names, baselines, strict=True):
        _check(table, name=one, baseline=other)
    return [*zip(names, baselines, strict=True)]


def _members(table: pd.DataFrame, group: str) -> pd.Series:
    """Return which rows are of a group of judges."""
    one_of(group, "group", [*GROUPS, "unseen"])
    wanted = ("unseen, BN", "unseen, no BN") if group == "unseen" else (group,)
    return cast(pd.Series, table["judge"].map(group_of).isin(wanted))


def check_columns(table: pd.DataFrame, *columns: str) -> None:
    """Raise `InputError` unless a table has some columns."""
    instance(table, "table", pd.DataFrame)
    if missing := [column for column in columns if column not in table]:
        raise InputError(
            f"table: lacks the columns {missing}; expected {', '.join(columns)}"
        )


def _check(table: pd.DataFrame, *more: str, **sets: str) -> list[str]:
    """Return the names of a table's sets, if those given (argument=name) are there."""
    check_columns(table, "set", "judge", "unseen", "seed", "accuracy", *more)
    found = table["set"].unique().tolist()
    for argument, name in sets.items():
        require(name in found, argument, name, f"one of the sets {found}")
    return found


def is_difference(difference: Difference) -> bool:
    """Return whether an interval, as of `paired_difference`, excludes zero."""
    _, low, high = difference
    return bool(low > 0 or high < 0)


def verdict(
    table: pd.DataFrame, name: Names, baseline: Names, group: str = "unseen"
) -> str:
    """Say in words how a set, or several pooled, does against a baseline.

    "better" or "worse" where the 95 % interval excludes zero, else "no difference". No
    verdict, but the reason, "too few seeds", below 5; and, such as "2 draws for 5
    seeds", where a set that is random itself (noise, chosen images) was drawn less
    often than judges were trained: such pairs aren't independent, and the interval
    covers how judges start, not what another draw would give. For what happens without
    see `scripts/simulate_verdicts.py`.
    """
    _check(table, "draw")
    by_seed = seed_differences(table, name, baseline, group)
    seeds = by_seed.index.tolist()
    if len(seeds) < CLAIM_SEEDS:
        return "too few seeds"
    sets = sum(_pairs(table, name, baseline), ())
    rows: Any = table[table["set"].isin(sets) & table["seed"].isin(seeds)]
    drawn = rows[rows["draw"].notna() & (rows["draw"] != "")]
    counts = drawn.groupby("set")["draw"].nunique()  # of the sets that are random
    draws = min(counts.tolist(), default=len(seeds))
    if draws < len(seeds):
        return f"{draws} draw{'s' * (draws > 1)} for {len(seeds)} seeds"
    difference = paired_difference(table, name, baseline, group)
    if not is_difference(difference):
        return "no difference"
    return "better" if difference[0] > 0 else "worse"


def compare(
    table: pd.DataFrame,
    name: Names,
    baseline: Names,
    column: str,
    group: str = "unseen",
) -> dict:
    """Return a paired difference as a row of a table of results.

    It has `column`: the difference for a group of judges in points; "low", "high": its
    95 % t interval; "verdict": what that says, in words; "p": of the t test, for
    `holm`; "would_show": the difference in points that would have been seen.
    """
    values = 100 * seed_differences(table, name, baseline, group).to_numpy()
    mean, low, high = map(float, t_interval(values))
    return {
        column: mean,
        "low": low,
        "high": high,
        "verdict": verdict(table, name, baseline, group),
        "p": p_value(values),
        "would_show": would_show(values),
    }


def tally(verdicts: Iterable[str]) -> dict[str, float]:
    """Count verdicts that were made at once, and how many chance alone would make.

    Of "comparisons" with a verdict, "differences" are called better or worse, and
    "by_chance" would be if nothing differed, as one in twenty 95 % intervals misses
    what it is about; comparisons of too few seeds or draws are "without_verdict".
    """
    words = [word for word in verdicts if isinstance(word, str) and word != "-"]
    words = [word.removesuffix("*").partition(" (")[0] for word in words]
    count = sum(word in VERDICTS for word in words)
    return {
        "comparisons": count,
        "differences": sum(word in ("better", "worse") for word in words),
        "by_chance": round((1 - CONFIDENCE) * count, 2),
        "without_verdict": len(words) - count,
    }


def footnote(verdicts: Iterable[str]) -> str:
    """Return what must stand below a table with verdicts, "" if nothing must."""
    verdicts = list(verdicts)
    found, lines = tally(verdicts), []
    if found["comparisons"] > 1:
        lines.append(
            f"{found['comparisons']} comparisons, {found['differences']} called better "
            f"or worse; if nothing differed, about {found['by_chance']:.1f} would be, "
            "by chance. A star survives Holm's correction at 5 %."
        )
    if any("would show" in str(word) for word in verdicts):
        lines.append(
            "Beside 'no difference' stands the difference in points that a table like "
            "this shows in four of five cases."
        )
    if any("draw" in str(word) for word in verdicts):
        lines.append(
            "Fewer draws (of noise or images) than seeds: the interval covers how "
            "judges start, not what another draw would give; no verdict."
        )
    return "\n".join(lines)


def write_table(summary: pd.DataFrame, path: str | Path) -> Path:
    """Write what `summarise` returns as .csv, .md or .tex (LaTeX with booktabs).

    The suffix decides; an older file is replaced. Raises `InputError` for another
    suffix, or where the file can't be written.
    """
    path = Path(path)
    check_suffix(path)
    with atomic_path(path, overwrite=True) as temporary:
        temporary.write_text(WRITERS[path.suffix](summary), encoding="utf-8")
    return path


def check_suffix(path: Path) -> None:
    """Raise `InputError` unless `write_table` knows what to write there."""
    expected = f"one of {[*WRITERS]}"
    require(path.suffix in WRITERS, f"table {path}: the suffix", path.suffix, expected)


def _csv(summary: pd.DataFrame) -> str:
    return summary.rename(to_cell).to_csv(index_label="set", lineterminator="\n")


def _markdown(summary: pd.DataFrame) -> str:
    """Return GitHub's Markdown, numbers aligned to the right."""
    lines = [["set", *summary.columns], ["---", *["---:"] * len(summary.columns)]]
    lines += [[name, *row] for name, *row in summary.itertuples()]
    cells = ([str(cell).replace("|", r"\|") for cell in line] for line in lines)
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


def _latex(summary: pd.DataFrame) -> str:
    columns = "l" + "r" * len(summary.columns)
    table = summary.reset_index(names="set")
    text = table.to_latex(index=False, escape=True, column_format=columns)
    return text.replace("±", r"$\pm$")


WRITERS = {".csv": _csv, ".md": _markdown, ".tex": _latex}
