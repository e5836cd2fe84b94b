"""What a table of trainings says: means, paired differences, verdicts, files.

Accuracies are compared seed by seed: judges of one seed start from the same weights,
so their difference says more than the difference of two means. Source of all: ours,
where no other is named. A table that isn't of `cross_architecture`, lacks a set that is
named, or has a training twice, ends in `InputError`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from diver_lite.checks import InputError, instance, integer, require
from diver_lite.files import atomic_path
from diver_lite.sets.names import to_cell

CLAIM_SEEDS = 5  # a verdict from fewer would rest on too little
CONFIDENCE = 0.95
VERDICTS = ("better", "worse", "no difference")

Difference = tuple[float, float, float]


def summarise(table: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """Summarise a table of `cross_architecture`, one row per set.

    Columns: per judge "mean ± std" in percent over seeds; "unseen": the mean over
    unseen judges; "vs <baseline>": the paired difference of that mean in points with
    its 95 % t interval over the seeds; "verdict": what that says, in words.
    """
    sets = _check(table, baseline=baseline)
    percent: Any = table.assign(accuracy=100 * table["accuracy"])
    rows = {}
    for name in sets:
        mine = percent[percent["set"] == name]
        row = {
            judge: _mean_and_std(mine[mine["judge"] == judge]["accuracy"].dropna())
            for judge in table["judge"].unique()
        }
        unseen = mine[mine["unseen"]].groupby("judge")["accuracy"].mean().mean()
        row["unseen"] = "-" if np.isnan(unseen) else f"{unseen:.1f}"
        row |= {f"vs {baseline}": "-", "verdict": "-"}
        if name != baseline:
            row[f"vs {baseline}"] = _points(paired_difference(table, name, baseline))
            row["verdict"] = verdict(table, name, baseline)
        rows[name] = row
    return pd.DataFrame.from_dict(rows, orient="index")


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


def _points(difference: Difference) -> str:
    mean, low, high = (100 * value for value in difference)
    if np.isnan(mean):
        return "-"
    return f"{mean:+.1f}" + ("" if np.isnan(low) else f" [{low:+.1f}, {high:+.1f}]")


def paired_difference(table: pd.DataFrame, name: str, baseline: str) -> Difference:
    """Return mean and 95 % t interval of name - baseline on unseen judges.

    A pair is two trainings with the same judge and seed. The judges are a fixed panel
    and are averaged first; the interval is over the seeds. Failed trainings (NaN)
    drop their seed. One pair has no interval (NaN); without any all three are NaN.

    Source: paired t interval, Student 1908. A percentile bootstrap over 5 seeds is too
    narrow: `scripts/simulate_verdicts.py`.
    """
    differences = seed_differences(table, name, baseline).to_numpy()
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


def seed_differences(table: pd.DataFrame, name: str, baseline: str) -> pd.Series:
    """Return name - baseline per complete seed, averaged over unseen judges."""
    _check(table, name=name, baseline=baseline)
    unseen: Any = table[table["unseen"] & table["set"].isin([name, baseline])]
    if unseen.empty:
        return pd.Series(dtype=float)
    key = ["seed", "judge", "set"]
    if (twice := unseen.duplicated(key)).any():
        row = unseen.loc[twice, key].iloc[0].to_dict()
        raise InputError(f"table: more than one row is of {row}; expected one")
    wide = unseen.set_index(key)["accuracy"].unstack("set")
    wide = wide.reindex(columns=[name, baseline])
    difference = (wide[name] - wide[baseline]).unstack("judge")  # seeds x judges
    return difference.mean(axis=1, skipna=False).dropna()


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


def verdict(table: pd.DataFrame, name: str, baseline: str) -> str:
    """Say in words how a set does against a baseline on unseen judges.

    "better" or "worse" where the 95 % interval excludes zero, else "no difference". No
    verdict, but the reason, "too few seeds", below 5; and, such as "2 draws for 5
    seeds", where a set that is random itself (noise, chosen images) was drawn less
    often than judges were trained: such pairs aren't independent, and the interval
    covers how judges start, not what another draw would give. For what happens without
    see `scripts/simulate_verdicts.py`.
    """
    _check(table, "draw")
    by_seed = seed_differences(table, name, baseline)
    seeds = by_seed.index.tolist()
    if len(seeds) < CLAIM_SEEDS:
        return "too few seeds"
    rows: Any = table[table["set"].isin([name, baseline]) & table["seed"].isin(seeds)]
    drawn = rows[rows["draw"].notna() & (rows["draw"] != "")]
    counts = drawn.groupby("set")["draw"].nunique()  # of the sets that are random
    draws = min(counts.tolist(), default=len(seeds))
    if draws < len(seeds):
        return f"{draws} draw{'s' * (draws > 1)} for {len(seeds)} seeds"
    difference = paired_difference(table, name, baseline)
    if not is_difference(difference):
        return "no difference"
    return "better" if difference[0] > 0 else "worse"


def compare(table: pd.DataFrame, name: str, baseline: str, column: str) -> dict:
    """Return a paired difference as a row of a table of results.

    It has `column`: the difference on unseen judges in points; "low", "high": its 95 %
    t interval; "verdict": what that says, in words.
    """
    points = [100 * value for value in paired_difference(table, name, baseline)]
    row = dict(zip((column, "low", "high"), points, strict=True))
    return row | {"verdict": verdict(table, name, baseline)}


def tally(verdicts: Iterable[str]) -> dict[str, float]:
    """Count verdicts that were made at once, and how many chance alone would make.

    Of "comparisons" with a verdict, "differences" are called better or worse, and
    "by_chance" would be if nothing differed, as one in twenty 95 % intervals misses
    what it is about; comparisons of too few seeds or draws are "without_verdict".
    """
    words = [word for word in verdicts if isinstance(word, str) and word != "-"]
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
            "by chance."
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
