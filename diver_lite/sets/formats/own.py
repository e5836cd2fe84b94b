"""Our own .safetensors file, or a folder of numbered ones with an index.

It holds pixels as they are, labels, class names, soft labels if there are any, and the
record of how the set was made (`DistilledSet.save`). Nothing is undone.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import safe_open

from diver_lite.checks import InputError, ensure, naming
from diver_lite.sets.classes import as_subset, named_as
from diver_lite.sets.distilled import INDEX, DistilledSet
from diver_lite.sets.formats.job import Job
from diver_lite.sets.names import SUBSETS, dataset_name
from diver_lite.sets.stored import WHOLE, records


def is_ours(path: Path) -> bool:
    """Return whether a file or folder says of itself that `DistilledSet` wrote it."""
    file = path / INDEX if path.is_dir() else path
    if file.suffix != ".safetensors" or not file.is_file():
        return False
    with naming(file, WHOLE), safe_open(file, "pt") as stored:
        return "diver_lite" in (stored.metadata() or {})


def read_own(job: Job) -> DistilledSet:
    """Read our own file, or folder of files. Nothing is undone."""
    result = DistilledSet.load(job.path)
    asked = job.dataset
    if asked is None or "dataset_from" in job.record:
        return result
    told = [
        name
        for record in records(result.provenance)
        for key in ("dataset", "data")
        if (name := _known(record.get(key))) is not None
    ]
    ensure(
        not told or told[0].removesuffix("-ncfm") == asked.removesuffix("-ncfm"),
        f"dataset {asked!r} was asked for, but the file says {told[:1]}",
    )
    if told:
        return result
    if asked == "imagenet" or asked in SUBSETS:
        result, asked = as_subset(result, asked)
    else:
        result = named_as(result, asked)
    return replace(result, provenance=result.provenance | {"dataset": asked})


def _known(name: Any) -> str | None:
    """Return a data set's canonical name, or None of what is none."""
    try:
        return dataset_name(name) if isinstance(name, str) else None
    except InputError:
        return None
