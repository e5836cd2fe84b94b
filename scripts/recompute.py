"""Recompute the intervals and verdicts of results/ from the stored trainings.

Run: python scripts/recompute.py [--check] [--since COMMIT]

Nothing is trained: whoever changes how trainings are compared (`judge.compare`) runs
this, and commits what changed. A file that says the same already stays as it is; in the
others the provenance says that they were recomputed, by which commit.
--check writes nothing, and fails if there is something to write.
--since lists the verdicts that are others than at that commit, as a Markdown table.

Trainings that were stored before tables recorded draws get that column from the names
of their rows.
"""

from __future__ import annotations

import argparse
import datetime
import io
import json
import subprocess
from pathlib import Path

import pandas as pd
from provenance import COMMIT, begin
from study import SHARED

from diver_lite.files import atomic_path
from diver_lite.judge.compare import compare, is_difference, paired_difference, tally

RESULTS = Path("results")
WHAT = "intervals and verdicts, from the stored trainings"
FIXED = ("Stage I", "clip only", "VAE only")  # no draw of noise, no choice of images
KEYS = ("set", "row", "against", "setting", "shortcut")


def read(text: str | Path) -> pd.DataFrame:
    """Read a CSV file, or its text, with every cell as it is written."""
    source = text if isinstance(text, Path) else io.StringIO(text)
    return pd.read_csv(source, dtype=str, keep_default_na=False)


def trainings(path: Path) -> pd.DataFrame:
    """Return a table of trainings, as `cross_architecture` does."""
    table = read(with_draws(path))
    return table.assign(
        unseen=table["unseen"] == "True",
        seed=table["seed"].astype(int),
        accuracy=pd.to_numeric(table["accuracy"]),
    )


def with_draws(path: Path) -> str:
    """Return the text of a file of trainings, with its column "draw"."""
    table = read(path)
    if "draw" not in table:
        fixed = table["set"].str.rpartition(": ")[2].isin(FIXED)
        if path.name.startswith("stage1"):
            fixed[:] = True
        draw = table["set_sha"].where(~fixed, "")
        table.insert(table.columns.get_loc("seed") + 1, "draw", draw)
    return to_csv(table)


def to_csv(table: pd.DataFrame) -> str:
    return table.to_csv(index=False, lineterminator="\n")


def replaced(
    summary: pd.DataFrame, table: pd.DataFrame, pairs: list, column: str
) -> pd.DataFrame:
    """Return a summary whose difference, interval and verdict are computed anew.

    Args:
        summary: one row per comparison.
        table: of trainings.
        pairs: for each row its two sets; a set with itself leaves the row without.
        column: name of the difference.
    """
    rows = [compare(table, *p, column) if p[0] != p[1] else {} for p in pairs]
    found = pd.DataFrame(rows, index=summary.index).round(2)
    columns = [name for name in found if name in summary]  # older files have no p
    return summary.assign(**found[columns])


def tables() -> dict[Path, str]:
    """Return path -> text for all files of results/ that hold comparisons."""
    found = {path: with_draws(path) for path in sorted(RESULTS.glob("*_trainings.csv"))}
    for path in sorted(RESULTS.glob("study_*_comparisons.csv")):
        stem = path.stem.removesuffix("_comparisons")
        summary = read(path)
        pairs = [
            [p if p in SHARED else f"{row.set}: {p}" for p in (row.row, row.against)]
            for row in summary.itertuples()
        ]
        found |= both(path, stem, summary, pairs, "points")
    for kind, base in (("sweep", "default"), ("shortcuts", "base")):
        for path in sorted(RESULTS.glob(f"{kind}_*_trainings.csv")):
            path = path.with_name(path.name.replace("_trainings", ""))
            summary = read(path)
            pairs = [(name, base) for name in summary.iloc[:, 0]]
            found |= both(path, path.stem, summary, pairs, f"vs_{base}")
    for path in sorted(RESULTS.glob("default_*.json")):
        found |= first_sweep(path)
    for path in sorted(RESULTS.glob("prior_*.json")):
        found |= prior(path)
    return found


def both(
    path: Path, stem: str, summary: pd.DataFrame, pairs: list, column: str
) -> dict[Path, str]:
    """Return a table's new text, and that of its record."""
    table = trainings(RESULTS / f"{stem}_trainings.csv")
    text = to_csv(fresh := replaced(summary, table, pairs, column))
    return {path: text} | record(
        RESULTS / f"{stem}.json",
        {"verdicts": tally(fresh["verdict"])},
        changed=text != to_csv(summary),
    )


def first_sweep(path: Path) -> dict[Path, str]:
    """Return the new texts of the first sweep, whose script is gone: no verdicts."""
    table = pd.DataFrame(json.loads(path.read_text())["trainings"])
    summary = read(path.with_suffix(".csv"))
    columns = ["vs_random_real", "low", "high"]
    found = [paired_difference(table, n, "random real") for n in summary["setting"]]
    fresh = pd.DataFrame(found, columns=columns, index=summary.index).round(4)
    text = to_csv(summary.assign(**fresh))
    changed = text != to_csv(summary)
    return {path.with_suffix(".csv"): text} | record(path, {}, changed=changed)


def prior(path: Path) -> dict[Path, str]:
    """Return the new text of what measure_prior.py wrote."""
    content = json.loads(path.read_text())
    scales = content["guidance_scales"]
    old = json.dumps(scales)
    for scale, entry in scales.items():
        table = pd.DataFrame(entry.get("trainings") or content["trainings"])
        names = {"raw prior", f"raw prior {scale}"} & set(table["set"])
        difference = paired_difference(table, names.pop(), "random real")
        entry["paired_difference_and_interval"] = list(difference)
    changed = json.dumps(scales) != old
    return record(path, {"guidance_scales": scales}, changed=changed)


def record(path: Path, facts: dict, *, changed: bool) -> dict[Path, str]:
    """Return the text of a .json with new facts, and what happened to its numbers."""
    content = json.loads(path.read_text()) | facts
    if changed:
        content["provenance"]["recomputed"] = {
            "what": WHAT,
            "commit": COMMIT,
            "date": datetime.date.today().isoformat(),
        }
    return {path: json.dumps(content, indent=1) + "\n"}


def words(text: str, path: Path) -> dict[tuple, tuple[str, str]]:
    """Return comparison -> interval and verdict, of a file's text."""
    if path.suffix == ".json":
        rows = {
            (f"raw prior {scale}", "random real"): [
                100 * v for v in entry["paired_difference_and_interval"]
            ]
            for scale, entry in json.loads(text).get("guidance_scales", {}).items()
        }
        return {k: (shown(*v), word(*v)) for k, v in rows.items()}
    table = read(text)
    if "low" not in table or "seed" in table:
        return {}
    keys = [key for key in KEYS if key in table]
    mean = table.columns[table.columns.get_loc("low") - 1]
    rows = {}
    for row in table.to_dict("records"):
        try:
            interval = [float(row[column]) for column in (mean, "low", "high")]
        except ValueError:  # what the others are compared with
            continue
        if "verdict" not in row:  # fractions
            interval = [100 * value for value in interval]
        said = row.get("verdict") or word(*interval)
        rows[tuple(row[key] for key in keys)] = shown(*interval), said
    return rows


def shown(mean: float, low: float, high: float) -> str:
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"


def word(*interval: float) -> str:
    """Return the word for an interval that has no verdict of its own."""
    if not is_difference(interval):
        return "(contains 0)"
    return "(above 0)" if interval[0] > 0 else "(below 0)"


def flips(found: dict[Path, str], commit: str) -> list[tuple[str, ...]]:
    """Return file, comparison, interval and verdict, then and now, where it changed."""
    rows = []
    for path, text in found.items():
        now = words(text, path)
        if not now:
            continue
        shown = subprocess.run(
            ["git", "show", f"{commit}:./{path}"], capture_output=True, text=True
        )
        then = words(shown.stdout, path) if shown.returncode == 0 else {}
        rows += [
            (path.stem, ": ".join(key), *then[key], *now[key])
            for key in now
            if key in then and then[key][1] != now[key][1]
        ]
    return rows


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--since", metavar="COMMIT")
    args = parser.parse_args(arguments)
    found = tables()
    stale = [path for path, text in found.items() if path.read_text() != text]
    if args.check and stale:
        raise SystemExit(f"not as recomputed: {', '.join(map(str, stale))}")
    if stale:
        begin()  # refuses code that no commit holds
    for path in stale:
        with atomic_path(path, overwrite=True) as temporary:
            temporary.write_text(found[path])
        print(f"wrote {path}")
    if args.since:
        print("| file | comparison | then | verdict | now | verdict |")
        print("|---|---|---:|---|---:|---|")
        for row in flips(found, args.since):
            print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
