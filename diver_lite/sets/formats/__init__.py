"""How each published method stores its distilled images: one file a family.

Each begins with what its formats hold, and says which repository it follows and what it
undoes; nothing that a file leaves open is guessed. `detect` tells the formats apart.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from diver_lite.checks import ensure
from diver_lite.sets.distilled import DistilledSet
from diver_lite.sets.formats.dc import read_dc, read_predd
from diver_lite.sets.formats.detect import FORMATS, detect
from diver_lite.sets.formats.job import Job
from diver_lite.sets.formats.kip import read_numpy
from diver_lite.sets.formats.mtt import read_dd_ranking, read_glad, read_trajectory
from diver_lite.sets.formats.ncfm import read_ncfm
from diver_lite.sets.formats.own import is_ours, read_own
from diver_lite.sets.formats.pictures import read_image_folder

__all__ = ["FORMATS", "read"]

_SPLIT = ("mtt", "datm", "glad")  # sets in several files are known of these
_ZCA = ("normalisation", "zca", "zca_reference")
_NUMPY = ("normalisation", "zca_reference")
# format -> its reader, and the arguments of `load_distilled` that have a meaning for it
_READERS: dict[str, tuple[Callable[[Job], DistilledSet], tuple[str, ...]]] = {
    "diver-lite": (read_own, ()),
    "dc": (read_dc, ("experiment", "normalisation")),
    "mtt": (read_trajectory, _ZCA),
    "datm": (read_trajectory, _ZCA),
    "glad": (read_glad, ("space", "normalisation")),
    "ncfm": (read_ncfm, ("factor",)),
    "kip": (read_numpy, _NUMPY),
    "rfad": (read_numpy, _NUMPY),
    "image-folder": (read_image_folder, ("normalisation",)),
    "dd-ranking": (read_dd_ranking, _ZCA),
    "predd": (read_predd, ("experiment",)),
}


def read(
    paths: list[Path],
    place: Path,
    format: str,
    dataset: str | None,
    options: dict[str, Any],
    **record: Any,
) -> DistilledSet:
    """Read published files, and undo and raise what `load_distilled` describes.

    Its arguments are checked already; `options` are those of the format, by name. Of
    files out of an archive `place` is where they were in there. The record is what the
    set's provenance shall have in any case.
    Source: the repositories named at each reader.
    """
    job = Job(paths, dataset, format, options, place, record)
    if format == "auto":
        job.format = detect(job)
    elif format != "diver-lite":
        ensure(
            not any(map(is_ours, paths)),
            f"format {format!r} was asked for, but this is a set of diver-lite's own, "
            "of which nothing is to be undone; leave format out",
        )
    reader, allowed = _READERS[job.format]
    for name in options:
        fitting = [f for f, (_, names) in _READERS.items() if name in names]
        ensure(
            name in allowed,
            f"{name}= has no meaning for format {job.format!r}; it is for "
            f"{', '.join(fitting)}",
        )
    job.expect(
        len(paths) == 1 or job.format in _SPLIT, f"found {len(paths)} files", "one"
    )
    return reader(job)
