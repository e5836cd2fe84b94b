"""Store measured numbers together with everything needed to make them again."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import platform
import subprocess
import time
from pathlib import Path

import pandas as pd
import torch

from diver_lite.files import atomic_path


def provenance(settings: dict, *, started: float | None = None) -> dict:
    """Describe a run: commit, settings, device, wall time and package versions.

    Args:
        settings: what the run was asked to do; anything JSON can't hold is made text,
            and of an absolute path only the last name is kept.
        started: `time.perf_counter()` at its beginning.
    """
    gpu = torch.cuda.is_available()
    versions = {
        name: importlib.metadata.version(name)
        for name in ("torch", "torchvision", "diffusers", "numpy")
    }
    seconds = None if started is None else round(time.perf_counter() - started, 1)
    return {
        "commit": COMMIT,
        "date": datetime.date.today().isoformat(),
        "settings": {k: _recorded(v) for k, v in settings.items()},
        "device": torch.cuda.get_device_name() if gpu else platform.machine() + " CPU",
        "threads": torch.get_num_threads(),
        "wall_seconds": seconds,
        "python": platform.python_version(),
        "versions": versions,
    }


def write_csv(path: str | Path, table: pd.DataFrame) -> None:
    """Write a table as CSV without its index, replacing an older file whole."""
    with atomic_path(path, overwrite=True) as temporary:
        table.to_csv(temporary, index=False)


def write_result(
    path: str | Path, result: dict, settings: dict, *, started: float | None = None
) -> None:
    """Write `result` and its provenance as JSON, replacing an older file."""
    content = {"provenance": provenance(settings, started=started), **result}
    with atomic_path(path, overwrite=True) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")
    print(f"wrote {path}")


def _recorded(value: object) -> object:
    if isinstance(value, list):
        return [_recorded(item) for item in value]
    if isinstance(value, str | Path) and Path(value).is_absolute():
        return Path(value).name  # the rest tells of one machine only
    plain = isinstance(value, bool | int | float | str | type(None))
    return value if plain else str(value)


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    folder = Path(__file__).parent
    try:
        run = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    except OSError:  # no git here: an installed package
        return "unknown"
    return run.stdout.strip() or "unknown"


# asked when a run begins: a later commit isn't the one whose code it runs
COMMIT = _commit()
