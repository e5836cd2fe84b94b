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

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from scipy import stats

from diver_lite.checks import InputError, instance, one_of, printable, require
from diver_lite.files import atomic_path
from diver_lite.judge.networks import PROXY, is_ours, judge_name
from diver_lite.sets.names import to_cell

CLAIM_SEEDS = 5  # a verdict from fewer would rest on too little
CONFIDENCE = 0.95
POWER = 0.8
VERDICTS = ("better", "worse", "no difference")
GROUPS = ("proxy's kind", "unseen, BN", "unseen, no BN")
OWN_NORMS = ("BN", "GN", "IN", "LN", "none")  # what a judge of one's own can have

Difference = tuple[float, float, float]
Names = str | Sequence[str]  # one set, or several that are pooled


def group_of(judge: str) -> str:
    """Return the one of `GROUPS` that a judge of ours belongs to, or "diagnosis"."""
    base, norm = judge_name(judge)
    if norm == "AdaBN":
        return "diagnosis"
    return _group(base != PROXY, norm)


def groups_of(table: pd.DataFrame) -> dict[str, str]:
    """Return the group of each judge in a table, as `group_of`.

    Of one's own the table says what its name doesn't: "unseen" and "norm".
    """
    found = {}
    for judge, rows in table.groupby("judge", sort=False):
        first = rows.iloc[0]
        norm = first.get("norm")
        own = isinstance(judge, str) and not is_ours(judge)
        if own and norm in OWN_NORMS:
            found[judge] = _group(bool(first["unseen"]), norm)
        else:
            found[judge] = group_of(cast(str, judge))
    return found


def _group(unseen: bool, norm: str) -> str:
    if not unseen:
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
    others = [name for name in sets if name != baseline]
    judges = table["judge"].unique()
    belongs = groups_of(table)
    members = {g: [j for j in judges if belongs[j] == g] for g in GROUPS}
    groups = [group for group in GROUPS if members[group]]
    compared = {
        (name, group): compare(table, name, baseline, "points", group)
        for name in others
        for group in groups
    }
    stars = holm([row["p"] for row in compared.values()])
    for row, star in zip(compared.values(), stars, strict=True):
        row["star"] = star
    percent: Any = 100 * table["accuracy"]
    scores = percent.groupby([table["set"], table["judge"]])
    means = scores.mean().unstack("judge")  # sets x judges
    trainings = scores.size().unstack("judge")
    summary = (
        scores.agg(_mean_and_std).unstack("judge").reindex(index=sets, columns=judges)
    )
    for group in groups:
        if len(members[group]) > 1:
            several = trainings[members[group]].count(axis=1) > 1  # of its judges
            mean = means[members[group]].mean(axis=1)[several]
            summary[group] = mean.dropna().map("{:.1f}".format)
        rows = pd.Series({name: compared[name, group] for name in others}, dtype=object)
        summary[f"{group}: vs {baseline}"] = rows.map(_points)
        summary[f"{group}: verdict"] = rows.map(_marked)
    return summary.fillna("-").rename_axis(index=None, columns=None)


def blocks(summary: pd.DataFrame) -> list[pd.DataFrame]:
    """Return a summary's judges, and each of its groups, as tables."""
    judges = summary.loc[:, ~summary.columns.str.startswith(GROUPS)]
    groups = [summary.filter(regex=f"^{group}(: |$)") for group in GROUPS]
    return [judges, *(group for group in groups if not group.empty)]


def _mean_and_std(values: pd.Series) -> str:
    """Return "mean ± std" of what didn't fail; one training has no spread."""
    if not values.count():
        return "-"
    spread = f" ± {values.std():.1f}" if values.count() > 1 else ""
    return f"{values.mean():.1f}{spread}"


def _points(row: dict) -> str:
    """Return the difference of a comparison, with its interval if it has one."""
    if np.isnan(row["points"]):
        return "-"
    interval = " [{low:+.1f}, {high:+.1f}]".format(**row)
    return f"{row['points']:+.1f}" + ("" if np.isnan(row["low"]) else interval)


def _marked(row: dict) -> str:
    """Return a verdict with its star, or with what would have been seen."""
    words = row["verdict"]
    if words == "no difference":
        return f"{words} ({row['would_show']:.1f} would show)"
    return f"{words}*" if row["star"] and words in VERDICTS else words


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
    mean = np.full(values.shape[:-1], np.nan)
    half = mean
    if count > 0:
        mean = values.mean(axis=-1)
    if count > 1:
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
    tests = np.sort([p for p in p_values if not np.isnan(p)])
    failing = tests[tests > (1 - CONFIDENCE) / np.arange(len(tests), 0, -1)]
    first = min(failing, default=np.inf)  # neither it nor what is above rejects
    return [bool(p < first) for p in p_values]


def seed_differences(
    table: pd.DataFrame, name: Names, baseline: Names, group: str = "unseen"
) -> pd.Series:
    """Return name - baseline per complete seed, averaged over a group of judges.

    Of several sets, each with a baseline of its own, the average. The group is one of
    `GROUPS`, or "unseen" for both kinds of stranger.
    """
    names = _several(name)
    baselines = _several(baseline)
    require(len(names) == len(baselines), "baseline", baselines, f"{len(names)} sets")
    _check(table, name=names, baseline=baselines)
    one_of(group, "group", [*GROUPS, "unseen"])
    wanted = GROUPS[1:] if group == "unseen" else (group,)
    sets = [*dict.fromkeys([*names, *baselines])]
    belongs: Any = groups_of(table)
    rows = table["judge"].map(belongs).isin(wanted) & table["set"].isin(sets)
    mine: Any = table[rows]
    key = ["seed", "judge", "set"]
    if (twice := mine.duplicated(key)).any():
        row = mine.loc[twice, key].iloc[0].to_dict()
        raise InputError(f"table: more than one row is of {row}; expected one")
    wide = mine.set_index(key)["accuracy"].unstack("set").reindex(columns=sets)
    pairs = zip(names, baselines, strict=True)
    differences: Any = [(wide[a] - wide[b]).unstack("judge") for a, b in pairs]
    wide = pd.concat(differences, axis=1)  # seeds x (set, judge)
    return cast(pd.Series, wide.mean(axis=1, skipna=False).dropna())


def _several(names: Names) -> list[str]:
    return [names] if isinstance(names, str) else [*names]


def check_columns(table: pd.DataFrame, *columns: str) -> None:
    """Raise `InputError` unless a table has some columns."""
    instance(table, "table", pd.DataFrame)
    if missing := [column for column in columns if column not in table]:
        raise InputError(
            f"table: lacks the columns {missing}; expected {', '.join(columns)}"
        )


def _check(table: pd.DataFrame, *more: str, **sets: Names) -> list[str]:
    """Return the names of a table's sets, if those given (argument=name) are there."""
    check_columns(table, "set", "judge", "unseen", "seed", "accuracy", *more)
    found = table["set"].unique().tolist()
    for argument, names in sets.items():
        for name in _several(names):
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
    return compare(table, name, baseline, "points", group)["verdict"]


def _verdict(seeds: int, draws: int, difference: Difference) -> str:
    if seeds < CLAIM_SEEDS:
        return "too few seeds"
    if draws < seeds:
        return f"{draws} draw{'s' * (draws > 1)} for {seeds} seeds"
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
    _check(table, "draw")
    by_seed = 100 * seed_differences(table, name, baseline, group)
    seeds = by_seed.index.tolist()
    values = by_seed.to_numpy()
    mean, low, high = map(float, t_interval(values))
    sets = [*_several(name), *_several(baseline)]
    rows: Any = table[table["set"].isin(sets) & table["seed"].isin(seeds)]
    drawn = rows[rows["draw"].notna() & (rows["draw"] != "")]
    counts = drawn.groupby("set")["draw"].nunique()  # of the sets that are random
    draws = min(counts.tolist(), default=len(seeds))
    return {
        column: mean,
        "low": low,
        "high": high,
        "verdict": _verdict(len(seeds), draws, (mean, low, high)),
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
    found = tally(verdicts)
    words = " ".join(map(str, verdicts))
    notes = []
    if found["comparisons"] > 1:
        notes.append(
            f"{found['comparisons']} comparisons, {found['differences']} called better "
            f"or worse; if nothing differed, about {found['by_chance']:.1f} would be, "
            "by chance. A star survives Holm's correction at 5 %."
        )
    if "would show" in words:
        notes.append(
            "Beside 'no difference' stands the difference in points that a table like "
            "this shows in four of five cases."
        )
    if "draw" in words:
        notes.append(
            "Fewer draws (of noise or images) than seeds: the interval covers how "
            "judges start, not what another draw would give; no verdict."
        )
    return "\n".join(notes)


def write_table(summary: pd.DataFrame, path: str | Path) -> Path:
    """Write what `summarise` returns as .csv, .md or .tex.

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
    one_of(path.suffix, f"table {path}: the suffix", [*WRITERS])


def _csv(summary: pd.DataFrame) -> str:
    return summary.rename(to_cell).to_csv(index_label="set", lineterminator="\n")


def _markdown(summary: pd.DataFrame) -> str:
    """Return GitHub's Markdown, numbers aligned to the right."""
    lines = [["set", *summary.columns], ["---", *["---:"] * len(summary.columns)]]
    return markdown([*lines, *([name, *row] for name, *row in summary.itertuples())])


def markdown(lines: Iterable[Sequence[object]]) -> str:
    """Return a table of GitHub's Markdown: its head, its alignment, and its rows."""
    # a line or a bar in a name would end the row or the cell
    plain = ([printable(str(cell)) for cell in line] for line in lines)
    cells = ([cell.replace("|", r"\|") for cell in line] for line in plain)
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


# What isn't text to LaTeX, one character for one
_TEX = str.maketrans(
    {
        **{character: rf"\{character}" for character in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "±": r"$\pm$",
        "*": "$^*$",
        "<": "$<$",
        ">": "$>$",
    }
)


def to_latex(rows: Sequence[Sequence], columns: str) -> str:
    r"""Return rows, the first a heading, as a `tabular` for \input in a paper.

    Columns are LaTeX's, such as "lrr". It needs the package booktabs.
    """

    def row(cells: Iterable) -> str:
        plain = (printable(str(cell)).translate(_TEX) for cell in cells)
        # a minus sign, of numbers and at the ends of intervals
        signed = (re.sub(r"(?<![\w.])-(?=\d)", "$-$", cell) for cell in plain)
        # a bracket there would belong to the end of the line before
        return re.sub(r"^\[", "{}[", " & ".join(signed)) + r" \\"

    head, *body = map(row, rows)
    lines = [
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        head,
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def _latex(summary: pd.DataFrame) -> str:
    rows = [["set", *summary.columns], *summary.itertuples()]
    return to_latex(rows, "l" + "r" * len(summary.columns))


WRITERS = {".csv": _csv, ".md": _markdown, ".tex": _latex}
