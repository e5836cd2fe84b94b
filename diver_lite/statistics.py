"""What a table of trainings says: means, paired differences, verdicts, files.

Accuracies are compared seed by seed: judges of one seed start from the same weights,
so their difference says more than the difference of two means.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from diver_lite.errors import InputError
from diver_lite.files import atomic_path

CLAIM_SEEDS = 5  # with fewer, an interval is too narrow to call a difference
TABLE_SUFFIXES = (".csv", ".md", ".tex")

Difference = tuple[float, float, float]


def summarise(table: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """Summarise a table of `cross_architecture`, one row per set.

    Columns: per judge "mean ± std" in percent over seeds; "unseen": the mean over
    unseen judges; "vs <baseline>": the paired difference of that mean in points with
    its 95 % bootstrap interval over the seeds; "verdict": what that says, in words.

    Raises:
        InputError: `baseline` is not in the table.

    Source: ours: evaluation with paired seeds.
    """
    order = list(dict.fromkeys(table["set"]))
    if baseline not in order:
        raise InputError(f"baseline {baseline!r} is not a set; expected one of {order}")
    percent = table.assign(accuracy=100 * table["accuracy"])
    judges = dict.fromkeys(table["judge"])
    rows = {}
    for name in order:
        mine = percent[percent["set"] == name]
        accuracies = {j: mine[mine["judge"] == j]["accuracy"].dropna() for j in judges}
        row = {judge: _mean_and_std(values) for judge, values in accuracies.items()}
        unseen = mine[mine["unseen"]].groupby("judge")["accuracy"].mean().mean()
        row["unseen"] = "-" if np.isnan(unseen) else f"{unseen:.1f}"
        if name == baseline:
            row |= {f"vs {baseline}": "-", "verdict": "-"}
        else:
            row[f"vs {baseline}"] = _points(paired_difference(table, name, baseline))
            row["verdict"] = verdict(table, name, baseline)
        rows[name] = row
    return pd.DataFrame.from_dict(rows, orient="index")


def wilson(count: int, total: int) -> tuple[float, float]:
    """Return the 95 % Wilson score interval of a share.

    Args:
        count: how many of `total` have a property, 0 .. `total`.
        total: how many there are, >= 1.

    Source: Wilson 1927.
    """
    z, share = 1.96, count / total
    centre = share + z**2 / (2 * total)
    half = z * (share * (1 - share) / total + z**2 / (4 * total**2)) ** 0.5
    low, high = ((centre + sign * half) / (1 + z**2 / total) for sign in (-1, 1))
    return max(0.0, low), min(1.0, high)


def _mean_and_std(values: pd.Series) -> str:
    if len(values) < 2:  # one training has no spread
        return f"{values.iloc[0]:.1f}" if len(values) else "-"
    return f"{values.mean():.1f} ± {values.std():.1f}"


def _points(difference: Difference) -> str:
    mean, low, high = (100 * value for value in difference)
    return "-" if np.isnan(mean) else f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"


def paired_difference(
    table: pd.DataFrame, name: str, baseline: str, *, resamples: int = 10_000
) -> Difference:
    """Return mean and 95 % bootstrap interval of name - baseline on unseen judges.

    A pair is two trainings with the same judge and seed. The judges are a fixed panel
    and are averaged first; what is resampled are the seeds. Failed trainings (NaN)
    drop their seed. Without any pair all three numbers are NaN.

    Source: percentile bootstrap, Efron 1979.
    """
    per_seed = seed_differences(table, name, baseline)
    if len(per_seed) == 0:
        return float("nan"), float("nan"), float("nan")
    rng = np.random.default_rng(0)
    draws = rng.integers(len(per_seed), size=(resamples, len(per_seed)))
    low, high = np.percentile(per_seed[draws].mean(axis=1), [2.5, 97.5])
    return float(per_seed.mean()), float(low), float(high)


def seed_differences(table: pd.DataFrame, name: str, baseline: str) -> np.ndarray:
    """Return name - baseline per complete seed, averaged over unseen judges.

    Raises:
        InputError: one of the two sets is not in the table.
    """
    for which in (name, baseline):
        if which not in set(table["set"]):
            found = list(dict.fromkeys(table["set"]))
            raise InputError(f"set {which!r} is not in the table; it has {found}")
    unseen = table[table["unseen"] & table["set"].isin([name, baseline])]
    if unseen.empty:
        return np.empty(0)
    wide = unseen.pivot_table(
        index=["seed", "judge"], columns="set", values="accuracy", dropna=False
    )
    wide = wide.reindex(columns=[name, baseline])
    difference = (wide[name] - wide[baseline]).unstack("judge")  # seeds x judges
    return difference.mean(axis=1, skipna=False).dropna().to_numpy()


def is_difference(difference: Difference) -> bool:
    """Return whether an interval, as of `paired_difference`, excludes zero."""
    _, low, high = difference
    return bool(low > 0 or high < 0)


def verdict(table: pd.DataFrame, name: str, baseline: str) -> str:
    """Say in words how a set does against a baseline on unseen judges.

    Returns:
        "better" or "worse" where the 95 % interval excludes zero, else "no
        difference"; "too few seeds" below 5 seeds, whose intervals say too much.
    """
    seeds = len(seed_differences(table, name, baseline))
    if seeds < CLAIM_SEEDS:
        return "too few seeds"
    difference = paired_difference(table, name, baseline)
    if not is_difference(difference):
        return "no difference"
    return "better" if difference[0] > 0 else "worse"


def compare(table: pd.DataFrame, name: str, baseline: str, column: str) -> dict:
    """Return a paired difference as a row of a table of results.

    Returns:
        `column`: the difference on unseen judges in points; "low", "high": its 95 %
        bootstrap interval; "verdict": what that says, in words.

    Source: ours; see `paired_difference` and `verdict`.
    """
    points = [100 * value for value in paired_difference(table, name, baseline)]
    row = dict(zip((column, "low", "high"), points, strict=True))
    return row | {"verdict": verdict(table, name, baseline)}


def write_table(summary: pd.DataFrame, path: str | Path) -> Path:
    """Write a summary as .csv, .md (Markdown) or .tex (LaTeX with booktabs).

    Args:
        summary: what `summarise` returns.
        path: its suffix decides; an older file is replaced.

    Raises:
        InputError: another suffix, or the file can't be written.

    Source: ours.
    """
    path = Path(path)
    check_suffix(path)
    writers = {".md": to_markdown, ".tex": to_latex}
    text = writers.get(path.suffix, _to_csv)(summary)
    with atomic_path(path, overwrite=True) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def check_suffix(path: Path) -> None:
    """Raise `InputError` unless `write_table` knows what to write there."""
    if path.suffix not in TABLE_SUFFIXES:
        raise InputError(
            f"table {path}: the suffix is {path.suffix!r}; expected one of "
            f"{TABLE_SUFFIXES}"
        )


def _to_csv(summary: pd.DataFrame) -> str:
    return summary.to_csv(index_label="set", lineterminator="\n")


def to_markdown(summary: pd.DataFrame) -> str:
    """Return a table as GitHub's Markdown, numbers aligned to the right."""
    lines = [["set", *summary.columns], ["---", *["---:"] * len(summary.columns)]]
    lines += [[name, *row] for name, *row in summary.itertuples()]
    cells = ([str(cell).replace("|", r"\|") for cell in line] for line in lines)
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


def to_latex(summary: pd.DataFrame) -> str:
    """Return a table as LaTeX, for a document that uses booktabs."""
    special = {c: rf"\{c}" for c in "&%$#_{}"} | {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "±": r"$\pm$",
    }
    lines = [["set", *summary.columns]]
    lines += [[name, *row] for name, *row in summary.itertuples()]
    rows = [
        " & ".join(
            "".join(special.get(character, character) for character in str(cell))
            for cell in line
        )
        + r" \\"
        for line in lines
    ]
    columns = "l" + "r" * len(summary.columns)
    return "\n".join(
        [
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            rows[0],
            r"\midrule",
            *rows[1:],
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )
