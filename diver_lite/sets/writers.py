"""Write a set in the formats of other people's tools, and say what that would lose.

`load_distilled` reads each of them back, pixels within 1e-6 where they are stored as
floats. What a format has no place for is refused, unless the loss is asked for.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diver_lite import __version__
from diver_lite.checks import InputError, first_line, one_of
from diver_lite.distilled import DistilledSet
from diver_lite.files import atomic_path
from diver_lite.sets.classes import in_order_of, is_numbered, origin
from diver_lite.sets.folder import write_pictures
from diver_lite.sets.names import class_names, dataset_name
from diver_lite.sets.normalisation import Statistics, known_statistics

# name -> what it is, and the ending that its output's name must have ("": a folder)
TARGETS = {
    "dc": ("DatasetCondensation's dict (DC, DSA, DM), normalised", ".pt"),
    "mtt": ("MTT's images_best.pt and labels_best.pt, normalised", ""),
    "dd-ranking": ("DD-Ranking's images.pt and labels.pt, normalised", ""),
    "folder": ("PNG files in class folders, with labels.csv", ""),
    "hf": ("the same for Hugging Face's datasets, with a card", ""),
}
PICTURES = ("folder", "hf")


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
    ordered, lost = plan(distilled, to)
    if lost and not lossy:
        raise InputError(
            f"format {to!r} would lose {'; '.join(lost)}; pass lossy (--lossy) to "
            "write it nevertheless, or keep the .safetensors file"
        )
    with atomic_path(path, overwrite=overwrite) as temporary:
        if to in PICTURES:
            _write_pictures(ordered, temporary, card=to == "hf")
        else:
            _write_tensors(ordered, temporary, to)
    return lost


def check_target(path: str | Path, to: str) -> Path:
    """Return the output's path, or raise `InputError`: unknown format, wrong ending."""
    ending = TARGETS[one_of(to, "to", [*TARGETS])][1]
    path = Path(path)
    if path.suffix != ending:
        wanted = f"a name ending in {ending}" if ending else "a folder, without ending"
        raise InputError(f"output {path}: format {to!r} is {wanted}")
    return path


def plan(distilled: DistilledSet, to: str) -> tuple[DistilledSet, list[str]]:
    """Return a set as a format orders it, and what the format has no place for.

    Raises `InputError` where it can't be written at all: the data set isn't known.
    """
    lost = []
    if to not in PICTURES:
        distilled = _class_major(in_published_order(distilled))
        statistics_of(distilled.provenance["dataset"], to)
    if distilled.soft_labels is not None and to not in ("dd-ranking", "hf"):
        lost.append("the soft labels")
    low, high = distilled.images.min().item(), distilled.images.max().item()
    if to in PICTURES and (low < -0.002 or high > 1.002):  # half a step of 8 bits
        lost.append(f"what lies outside [0, 1] (values {low:.2f}..{high:.2f})")
    return distilled, lost


def statistics_of(dataset: str, to: str) -> Statistics:
    """Return the mean and std that a tool normalises a data set with, or raise."""
    return known_statistics(dataset, "dc" if to == "dc" else "mtt")


def in_published_order(distilled: DistilledSet) -> DistilledSet:
    """Return a set with its classes in the order of what it distils, which it must say.

    Tools that store numbers for labels take them to be in the data set's own order.
    """
    try:
        found = dataset_name(origin(distilled) or "")
    except InputError:
        raise InputError(
            "the set doesn't say which data set it distils, so neither the order of "
            "its classes nor mean and std are known; pass dataset= (--dataset)"
        ) from None
    names = class_names(found)
    if is_numbered(distilled.class_names) and len(distilled.class_names) == len(names):
        distilled = replace(distilled, class_names=names)
    try:
        ordered = in_order_of(distilled, names, theirs=f"data set {found!r}")
    except InputError as error:
        raise InputError(
            f"the classes have no place in the order of {found!r}: {first_line(error)}"
        ) from None
    return replace(ordered, provenance=ordered.provenance | {"dataset": found})


def _class_major(distilled: DistilledSet) -> DistilledSet:
    order = distilled.labels.argsort(stable=True)
    if bool((order.diff() > 0).all()):
        return distilled
    return distilled[order]


# --- Tensors -----------------------------------------------------------------------


def _write_tensors(distilled: DistilledSet, path: Path, to: str) -> None:
    mean, std = statistics_of(distilled.provenance["dataset"], to)
    shift, scale = (torch.tensor(v).view(1, -1, 1, 1) for v in (mean, std))
    images = distilled.images[:][:, : len(mean)]  # grey sets have one channel there
    images = ((images - shift) / scale).contiguous()
    labels: Tensor = distilled.labels
    if to == "dc":
        torch.save({"data": [[images, labels]], "accs_all_exps": {}}, path)
        return
    if to == "dd-ranking" and distilled.soft_labels is not None:
        labels = distilled.soft_labels
    end = "_best.pt" if to == "mtt" else ".pt"
    path.mkdir()
    torch.save(images, path / f"images{end}")
    torch.save(labels, path / f"labels{end}")
    if to == "dd-ranking" and (lr := distilled.provenance.get("lr")):
        torch.save(torch.tensor(lr), path / "lr.pt")


# --- Pictures ----------------------------------------------------------------------


def _write_pictures(distilled: DistilledSet, path: Path, card: bool) -> None:
    if not card:
        write_pictures(distilled, path)
        return
    path.mkdir()
    (path / "README.md").write_text(_card(distilled), "utf-8")
    files = write_pictures(distilled, path / "train")
    soft = distilled.soft_labels
    with (path / "train/metadata.jsonl").open("w", encoding="utf-8") as stream:
        for i, (file, label) in enumerate(zip(files, distilled.labels, strict=True)):
            row: dict[str, Any] = {"file_name": file, "label": int(label)}
            if soft is not None:
                row["soft_labels"] = soft[i].tolist()
            stream.write(json.dumps(row) + "\n")


def _card(distilled: DistilledSet) -> str:
    """Return a dataset card: the features that `load_dataset` uses, and where from.

    Source: Hugging Face's documentation of dataset cards.
    """
    features: list[dict] = [
        {"name": "image", "dtype": "image"},
        {"name": "label", "dtype": {"class_label": {"names": {}}}},
    ]
    names = {str(i): name for i, name in enumerate(distilled.class_names)}
    features[1]["dtype"]["class_label"]["names"] = names
    if distilled.soft_labels is not None:
        features.append({"name": "soft_labels", "sequence": "float32"})
    head = {
        "tags": ["dataset-distillation", "diver-lite"],
        "task_categories": ["image-classification"],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": "train", "path": "train/**"}],
                "features": features,
            }
        ],
    }
    record = json.dumps(distilled.provenance, indent=1)
    count, classes = len(distilled), len(distilled.class_names)
    shape = "x".join(map(str, distilled.images.shape[-2:]))
    return (  # JSON is YAML
        f"---\n{json.dumps(head, indent=1)}\n---\n\n# A distilled data set\n\n"
        f"{count} images of {shape} pixels in {classes} classes, made to train on "
        "instead of the whole data set. 8 bits a channel; labels are in "
        "`metadata.jsonl`.\n\n"
        "```python\nfrom datasets import load_dataset\n\n"
        'load_dataset("THIS FOLDER", split="train")\n```\n\n'
        f"## Where it comes from\n\nWritten by diver-lite {__version__}. What was "
        f"done, the last step first:\n\n```json\n{record}\n```\n"
    )
