"""Recompute the means and comparisons of results/ from the stored training runs.

Run: python scripts/recompute.py [--check]

Nothing is trained: whoever changes how training runs are compared (`judge.compare`)
runs this, and commits what changed. A file that says the same already stays as it is;
in the others the provenance says that they were recomputed, by which commit. --check
writes nothing, and fails if there is something to write.
"""

from __future__ import annotations

import argparse
import datetime
import json
from pathlib import Path

import pandas as pd
from answer import COMPARISONS, comparisons_of, summary_of
from provenance import COMMIT, begin

from diver_lite.files import atomic_path
from diver_lite.judge.compare import tally

RESULTS = Path("results")
WHAT = "means and comparisons, from the stored training runs"


def runs_of(stem: str) -> pd.DataFrame:
    """Return a table of training runs, as `cross_architecture` does."""
    table = pd.read_csv(RESULTS / f"{stem}_trainings.csv", keep_default_na=False)
    return table.assign(accuracy=pd.to_numeric(table["accuracy"]))


def to_csv(table: pd.DataFrame) -> str:
    return table.to_csv(index=False, lineterminator="\n")


def answer(stem: str, record: dict) -> dict[str, str]:
    """Return the new texts of what answer.py wrote: name of the file -> text."""
    question = stem.partition("_")[0]
    table = runs_of(stem)
    sets = record["provenance"]["settings"]["sets"]
    each = record["provenance"]["settings"].get("each_judge", False)
    found = comparisons_of(table, sets, COMPARISONS[question], each)
    record["verdicts"] = tally(found["verdict"])
    return {
        f"{stem}.csv": to_csv(summary_of(table)),
        f"{stem}_comparisons.csv": to_csv(found),
    }


def stale() -> dict[Path, str]:
    """Return path -> new text of every file that says something else."""
    found: dict[Path, str] = {}
    for path in sorted(RESULTS.glob("*.json")):
        record = json.loads(path.read_text())
        kind = path.stem.partition("_")[0]
        if kind not in COMPARISONS:
            continue
        texts = answer(path.stem, record)
        changed = {RESULTS / name: text for name, text in texts.items()}
        changed = {p: t for p, t in changed.items() if p.read_text() != t}
        if changed:
            record["provenance"]["recomputed"] = {
                "what": WHAT,
                "commit": COMMIT,
                "date": datetime.date.today().isoformat(),
            }
            found |= changed | {path: json.dumps(record, indent=1) + "\n"}
    return found


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args(arguments)
    found = stale()
    if args.check and found:
        raise SystemExit(f"not as recomputed: {', '.join(map(str, found))}")
    if found:
        begin()  # refuses code that no commit holds
    for path, text in found.items():
        with atomic_path(path, overwrite=True) as temporary:
            temporary.write_text(text)
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
