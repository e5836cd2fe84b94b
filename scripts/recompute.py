"""Recompute the comparisons of all studies of results/ from their stored trainings.

Run: python scripts/recompute.py [--check]

Writes results/comparisons.csv. Nothing is trained: whoever stores a study, or changes
how trainings are compared (`judge.compare`), runs this, and commits what changed.
--check writes nothing, and fails if there is something to write.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import mechanism
import pandas as pd
import seen
from answer import COMPARISONS, comparisons_of
from provenance import write_csv  # and bookkit

# isort: split
from bookkit.studies import read_trainings

RESULTS = Path("results")
COMPARED = RESULTS / "comparisons.csv"
COLUMNS = ["study", "judges", "row", "against", "set", "points", "low", "high",
           "verdict", "p", "would_show", "survives", "sets", "sets_low",
           "sets_high"]  # fmt: skip
KINDS = {*COMPARISONS, "mechanism", "seen"}


def compared(kind: str, table: pd.DataFrame, settings: dict) -> pd.DataFrame:
    """Return the comparisons of a study's trainings."""
    sets = settings["sets"]
    if kind == "mechanism":
        return mechanism.compared(table, sets)
    if kind == "seen":
        return seen.compared(table, sets)
    each = settings.get("each_judge", False)
    return comparisons_of(table, sets, COMPARISONS[kind], each)


def recomputed() -> Iterator[pd.DataFrame]:
    """Yield the comparisons of each finished study, in the order of their names."""
    for path in sorted(RESULTS.glob("*_trainings.csv")):
        name = path.stem.removesuffix("_trainings")
        record = RESULTS / f"{name}.json"
        kind = name.partition("_")[0]
        if kind in KINDS and record.exists():  # else it still runs
            settings = json.loads(record.read_text())["provenance"]["settings"]
            table = compared(kind, read_trainings(path), settings)
            yield table.assign(study=name)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args(arguments)
    table = pd.concat(recomputed()).reindex(columns=COLUMNS)
    text = table.to_csv(index=False, lineterminator="\n")
    if COMPARED.exists() and COMPARED.read_text() == text:
        return
    if args.check:
        raise SystemExit(f"not as recomputed: {COMPARED}")
    write_csv(COMPARED, table)
    print(f"wrote {COMPARED}")


if __name__ == "__main__":
    main()
