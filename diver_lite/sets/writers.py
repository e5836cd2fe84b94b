"""Write a set in the formats of other people's tools, and say what that would lose.

`load_distilled` reads each of them back, pixels within 1e-6 where they are stored as
floats. What a format has no place for is refused, unless the loss is asked for.
"""

from __future__ import annotations

import json
import math
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diver_lite import __version__
from diver_lite.checks import ensure, one_of, printable
from diver_lite.files import atomic_path, fingerprint, save_torch
from diver_lite.sets.classes import named_as, origin
from diver_lite.sets.distilled import DistilledSet
from diver_lite.sets.folder import write_pictures
from diver_lite.sets.names import DATASETS
from diver_lite.sets.normalisation import Statistics, known_statistics
from diver_lite.sets.stored import records

# name -> what it is, and the ending that its output's name must have
TARGETS = {
    "dc": ("a file with DatasetCondensation's dict (DC, DSA, DM), normalised", ".pt"),
    "mtt": ("a folder of MTT's images_best.pt and labels_best.pt, normalised", ""),
    "dd-ranking": ("a folder of DD-Ranking's images.pt and labels.pt, normalised", ""),
    "folder": ("a folder of PNG files in class folders, with labels.csv", ""),
    "hf": ("a folder of them for Hugging Face's datasets, with a card", ""),
}
PICTURES = ("folder", "hf")
_ROWS = 100  # images in memory at once


def convert(
    distilled: DistilledSet,
    path: str | Path,
    to: str,
    *,
    lossy: bool = False,
    overwrite: bool = False,
) -> list[str]:
    """Write a set as another tool expects it, in that tool's own order of classes.

    Args:
        distilled: the set; for tools that normalise, one whose data set is known, and
            with it mean, std and the order of classes.
        path: a file or folder, see `TARGETS`.
        to: a key of `TARGETS`.
        lossy: write although something is lost.
        overwrite: replace an output of ours.

    Returns what is lost, in words; nothing without `lossy`. That pictures have 8 bits a
    channel isn't counted.

    Raises:
        InputError: what would be lost; a data set that isn't known; another ending; an
            output that exists.

    Source: the tools' own loaders; see the readers in `sets.formats`.
    """
    path = check_target(path, to)
    distilled = as_published(distilled, to)
    lost = what_is_lost(distilled, to)
    ensure(
        lossy or not lost,
        f"format {to!r} would lose {'; '.join(lost)}; pass lossy (--lossy) to write it "
        "nevertheless, or keep the .safetensors file",
    )
    with atomic_path(path, overwrite=overwrite) as temporary:
        if to in PICTURES:
            _write_pictures(distilled, temporary, card=to == "hf")
        else:
            _write_tensors(distilled, temporary, to)
    return lost


def check_target(path: str | Path, to: str) -> Path:
    """Return the output's path, or raise `InputError`: unknown format, wrong ending."""
    about, ending = TARGETS[one_of(to, "to", [*TARGETS])]
    path = Path(path)
    ensure(
        path.suffix == ending,
        f"output {path}: format {to!r} is {about}; expected the ending {ending!r}",
    )
    return path


def as_published(distilled: DistilledSet, to: str) -> DistilledSet:
    """Return a set with the classes as a format orders them; pixels aren't read.

    Raises `InputError` where it can't be written at all: the data set isn't known.
    """
    if to in PICTURES:
        return distilled
    ordered = in_published_order(distilled)
    statistics_of(ordered.provenance["dataset"], to)
    return ordered


def what_is_lost(distilled: DistilledSet, to: str) -> list[str]:
    """Return what a format has no place for, in words."""
    lost = []
    if distilled.soft_labels is not None and to not in ("dd-ranking", "hf"):
        lost.append("the soft labels")
    if to in PICTURES:
        parts = torch.arange(len(distilled)).split(_ROWS)
        ends = [distilled.images[rows].aminmax() for rows in parts]
        low = min(end.min.item() for end in ends)
        high = max(end.max.item() for end in ends)
        if low < -0.002 or high > 1.002:  # half a step of 8 bits
            lost.append(f"what lies outside [0, 1] (values {low:.4g}..{high:.4g})")
    return lost


def statistics_of(dataset: str, to: str) -> Statistics:
    """Return the mean and std that a tool normalises a data set with, or raise."""
    return known_statistics(dataset, "dc" if to == "dc" else "mtt")


def in_published_order(distilled: DistilledSet) -> DistilledSet:
    """Return a set with its classes in the order of what it distils, which it must say.

    Tools that store numbers for labels take them to be in the data set's own order.
    """
    found = origin(distilled) or ""
    ensure(
        found in DATASETS,
        "the set doesn't say which data set it distils, so neither the order of its "
        "classes nor mean and std are known; pass dataset= (--dataset)",
    )
    ordered = named_as(distilled, found)
    return replace(ordered, provenance=ordered.provenance | {"dataset": found})


# --- Tensors -----------------------------------------------------------------------


def _write_tensors(distilled: DistilledSet, path: Path, to: str) -> None:
    order = distilled.labels.argsort(stable=True)  # class-major
    images = _normalised(distilled, order, path.with_name("pixels"), to)
    labels = distilled.labels[order]
    if to == "dc":
        save_torch({"data": [[images, labels]], "accs_all_exps": {}}, path)
        return
    if to == "dd-ranking" and distilled.soft_labels is not None:
        labels = distilled.soft_labels[order]
    end = "_best.pt" if to == "mtt" else ".pt"
    path.mkdir()
    save_torch(images, path / f"images{end}")
    save_torch(labels, path / f"labels{end}")
    if to == "dd-ranking":
        _write_lr(distilled.provenance, path)


def _write_lr(provenance: dict, path: Path) -> None:
    """Write the step size that was learned with a set, or say that it isn't its own."""
    steps = [record.get("lr") for record in records(provenance)]
    if steps and steps[0]:
        save_torch(torch.tensor(steps[0]), path / "lr.pt")
    elif any(steps):
        warnings.warn(
            f"no lr.pt is written: the step size {next(filter(None, steps)):g} was "
            "learned with the set that this one was made from, whose images are others",
            stacklevel=4,
        )


def _normalised(
    distilled: DistilledSet, order: Tensor, scratch: Path, to: str
) -> Tensor:
    """Return normalised pixels (N, 1 or 3, H, W) in some order, left in a file."""
    mean, std = statistics_of(distilled.provenance["dataset"], to)
    shift, scale = (torch.tensor(v).view(1, -1, 1, 1) for v in (mean, std))
    shape = (len(order), len(mean), *distilled.images.shape[2:])
    with scratch.open("wb") as stream:  # not mapped: a full disk would end the process
        for rows in order.split(_ROWS):
            # grey sets have one channel there
            part = distilled.images[rows][:, : len(mean)]
            stream.write(((part - shift) / scale).contiguous().numpy().tobytes())
    return torch.from_file(str(scratch), size=math.prod(shape)).view(shape)


# --- Pictures ----------------------------------------------------------------------


def _write_pictures(distilled: DistilledSet, path: Path, card: bool) -> None:
    if not card:
        write_pictures(distilled, path)
        return
    path.mkdir()
    (path / "README.md").write_text(_card(distilled), "utf-8")
    files = write_pictures(distilled, path / "train")
    columns: dict[str, Any] = {"file_name": files, "label": distilled.labels.tolist()}
    if distilled.soft_labels is not None:
        columns["soft_labels"] = distilled.soft_labels
    with (path / "train/metadata.jsonl").open("w", encoding="utf-8") as stream:
        for values in zip(*columns.values(), strict=True):
            row = dict(zip(columns, values, strict=True))
            stream.write(json.dumps(row, default=Tensor.tolist) + "\n")


def _card(distilled: DistilledSet) -> str:
    """Return a dataset card: the features that `load_dataset` uses, and where from.

    Source: Hugging Face's documentation of dataset cards.
    """
    names = {str(i): name for i, name in enumerate(distilled.class_names)}
    features: list[dict] = [
        {"name": "image", "dtype": "image"},
        {"name": "label", "dtype": {"class_label": {"names": names}}},
    ]
    if distilled.soft_labels is not None:
        features.append({"name": "soft_labels", "sequence": "float32"})
    tensors = (distilled.images, distilled.labels, distilled.soft_labels)
    content = fingerprint(tensors, json.dumps(distilled.class_names))
    head = {
        "tags": ["dataset-distillation", "diver-lite"],
        "task_categories": ["image-classification"],
        "configs": [
            {
                # datasets caches rows by this name
                "config_name": f"set-{content}",
                "data_files": [{"split": "train", "path": "train/**"}],
                "features": features,
            }
        ],
    }
    # YAML is JSON, but for the pairs of escapes that JSON has for an emoji
    front = printable(json.dumps(head, indent=1, ensure_ascii=False), keep="\n")
    record = json.dumps(distilled.provenance, indent=1)
    shape = "x".join(map(str, distilled.images.shape[-2:]))
    return (
        f"---\n{front}\n---\n\n# A distilled data set\n\n"
        f"{len(distilled)} images of {shape} pixels in {len(names)} classes, made to "
        "train on instead of the whole data set. 8 bits a channel; labels are in "
        "`metadata.jsonl`.\n\n"
        "```python\nfrom datasets import load_dataset\n\n"
        'load_dataset("THIS FOLDER", split="train")\n```\n\n'
        f"## Where it comes from\n\nWritten by diver-lite {__version__}. What was "
        f"done, the last step first:\n\n```json\n{record}\n```\n"
    )
