"""Store measured numbers together with everything needed to make them again.

A script calls `begin` first: it refuses to measure code that no commit holds. Sets,
shipped or just distilled, are found by `find_distilled`. Whoever imports this module
first can also import `bookkit`, which lies beside the chapters.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import torch

from diver_lite import DistilledSet
from diver_lite.advice.rows import versions
from diver_lite.checks import InputError
from diver_lite.files import atomic_path
from diver_lite.sets.load import list_shipped, load_distilled

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "notebooks"))  # where `bookkit` is
# what a measurement comes from
CODE = ("diver_lite", "scripts", "notebooks/bookkit", "pyproject.toml")
# set by on_gpu.py, whose GPU is somebody else's for half an hour
BORROWED = "DIVER_LITE_BORROWED_GPU"


def begin() -> float:
    """Return the time at which a measurement begins.

    Raises:
        SystemExit: the code differs from its commit, so the results' record would name
            a commit that can't make them again.

    Source: ours. Files in results/ may differ: a run that goes on has written some.
    """
    if COMMIT.endswith("-dirty"):
        raise SystemExit(
            f"{' or '.join(CODE)} differs from commit {COMMIT.removesuffix('-dirty')}; "
            "commit it, then measure"
        )
    return time.perf_counter()


def find_distilled(name: str, folder: str | Path | None = None) -> DistilledSet:
    """Load a set by its name from a folder, or else a shipped one.

    Args:
        name: such as "cifar10-dsa-ipc10"; or a path, which is read as it is.
        folder: where freshly distilled sets lie as NAME.safetensors; what lies there
            comes before what ships.

    Raises:
        InputError: neither in the folder nor shipped; the message lists both places.

    Source: ours.
    """
    if folder is not None:
        path = Path(folder) / f"{name}.safetensors"
        if path.exists():
            return load_distilled(path)
        if name not in list_shipped() and not Path(name).exists():
            found = ", ".join(sorted(p.stem for p in path.parent.glob("*.safetensors")))
            raise InputError(
                f"set {name!r} does not ship, and folder {folder} holds "
                f"{found or 'no .safetensors file'}; make it with "
                "scripts/distill_sets.py"
            )
    return load_distilled(name)


def provenance(settings: dict, *, started: float | None = None) -> dict:
    """Describe a run: commit, settings, device, wall time and package versions.

    Args:
        settings: what the run was asked to do; anything JSON can't hold is made text,
            and of an absolute path only the last name is kept.
        started: `time.perf_counter()` at its beginning.
    """
    device = platform.machine() + " CPU"
    if torch.cuda.is_available():
        device = torch.cuda.get_device_name()
        if os.environ.get(BORROWED):
            device += ", borrowed"
    seconds = None if started is None else round(time.perf_counter() - started, 1)
    return {
        "commit": COMMIT,
        "date": datetime.date.today().isoformat(),
        "settings": {k: _recorded(v) for k, v in settings.items()},
        "device": device,
        "threads": torch.get_num_threads(),
        "wall_seconds": seconds,
        "python": platform.python_version(),
        "versions": versions(),
    }


def write_csv(path: str | Path, table: pd.DataFrame) -> None:
    """Write a table as CSV without its index, replacing an older file whole."""
    with atomic_path(path, overwrite=True) as temporary:
        table.to_csv(temporary, index=False)


def write_result(
    path: str | Path, result: dict, settings: dict, *, started: float | None = None
) -> None:
    """Write `result` and its provenance as JSON, replacing an older file.

    A table becomes a list of its rows, null where it has no value.
    """
    content = {"provenance": provenance(settings, started=started), **result}
    with atomic_path(path, overwrite=True) as temporary:
        temporary.write_text(as_json(content))
    print(f"wrote {path}")


def as_json(content: dict) -> str:
    """Return JSON with a line for each row of a table, as a CSV has."""
    tables = {k: v for k, v in content.items() if isinstance(v, pd.DataFrame)}
    text = json.dumps(content | {name: f"table {name}" for name in tables}, indent=1)
    for name, table in tables.items():
        rows = table.astype(object).where(table.notna(), None).to_dict("records")
        listed = ",\n  ".join(map(json.dumps, rows))
        text = text.replace(f'"table {name}"', f"[\n  {listed}\n ]")
    return text + "\n"


def _recorded(value: object) -> object:
    if isinstance(value, list):
        return [_recorded(item) for item in value]
    if isinstance(value, str | Path) and Path(value).is_absolute():
        return Path(value).name  # the rest tells of one machine only
    plain = isinstance(value, bool | int | float | str | type(None))
    return value if plain else str(value)


def _commit() -> str:
    try:
        head, changed = (
            subprocess.run(
                ["git", *command], cwd=ROOT, capture_output=True, text=True
            ).stdout.strip()
            for command in (
                ["rev-parse", "--short", "HEAD"],
                ["status", "--porcelain", "--", *CODE],
            )
        )
    except OSError:  # no git here
        return "unknown"
    return (head or "unknown") + ("-dirty" if changed else "")


# asked when a run begins: a later commit isn't the one whose code it runs
COMMIT = _commit()
