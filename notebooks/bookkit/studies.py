"""Read the studies of results/: their trainings, means and comparisons.

A study is stored as its trainings, `NAME_trainings.csv`; means follow from them where
they are shown. Comparisons follow, too: `scripts/recompute.py` writes those of all
studies into one file, `comparisons.csv`. Other measurements have tables in `NAME.json`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from bookkit.setup import stored

COMPARISONS = "comparisons.csv"


def trainings_of(name: str) -> pd.DataFrame:
    """Return a study's trainings, one row each, as `cross_architecture` does."""
    return read_trainings(stored(f"{name}_trainings.csv"))


def read_trainings(path: Path) -> pd.DataFrame:
    """Return the trainings of a file; of one that failed the accuracy is missing."""
    table = pd.read_csv(path, keep_default_na=False)
    return table.assign(accuracy=pd.to_numeric(table["accuracy"]))


def stored_table(name: str, part: str = "table") -> pd.DataFrame:
    """Return a table of a measurement's record, `NAME.json`."""
    return pd.DataFrame(json.loads(stored(f"{name}.json").read_text("utf-8"))[part])


def stored_means(name: str) -> pd.DataFrame:
    """Return a study's means and deviations, as `summary_of` tells them."""
    return summary_of(trainings_of(name))


def stored_comparisons(name: str) -> pd.DataFrame:
    """Return a study's paired differences in points, with intervals and verdicts."""
    table = pd.read_csv(stored(COMPARISONS))
    mine: Any = table[table["study"] == name].drop(columns="study")
    return mine.dropna(axis="columns", how="all").reset_index(drop=True)


def summary_of(table: pd.DataFrame) -> pd.DataFrame:
    """Return one row per set and variant: mean and std per judge, in percent.

    table: of trainings, whose sets are called "SET: ROW", or "ROW" where all share it.
    """
    rows = []
    for full in dict.fromkeys(table["set"]):
        name, _, variant = full.rpartition(": ")
        mine = table[table["set"] == full]
        row: dict[Any, Any] = {"set": name or "-", "row": variant}
        for judge, group in mine.groupby("judge", sort=False)["accuracy"]:
            row[judge] = 100 * group.mean()
            row[f"{judge} std"] = 100 * group.std()
        rows.append(row)
    return pd.DataFrame(rows).round(4)
