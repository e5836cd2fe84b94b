"""Folders of pictures, one for each class: read, named, and written."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFile
from torch import Tensor

from diver_lite.checks import InputError, ensure, naming
from diver_lite.files import atomic_path
from diver_lite.sets import stored
from diver_lite.sets.distilled import DistilledSet
from diver_lite.sets.names import (
    SUBSETS,
    WORDNET_IDS,
    class_names,
    from_cell,
    imagenet_indices,
    numbered,
    slug,
    to_cell,
)
from diver_lite.sets.stored import StoredImages

ONE_EACH = "expected one sub-folder per class with images in it"
# Pillow would run Ghostscript for others.
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")


def class_folders(place: Path) -> list[Path]:
    """Return the folders in a folder, but hidden ones, sorted by name."""
    return sorted(f for f in place.iterdir() if f.is_dir() and f.name[0] != ".")


def image_files(folder: Path, pattern: str = "*") -> list[Path]:
    """Return the images in a class folder, or of "**/*" in all of it, none hidden.

    They are sorted by folder and name. Raises `InputError`: the folder is empty.
    """
    inside = [file for file in folder.glob(pattern) if file.name[0] != "."]
    ensure(bool(inside), f"class folder {folder.name!r} is empty; {ONE_EACH}")
    known = {
        s for s, format in Image.registered_extensions().items() if format in _FORMATS
    }
    return sorted(
        (file for file in inside if file.suffix.lower() in known),
        key=lambda file: (str(file.parent), file.name),
    )


def natural(name: Path | str) -> list[tuple[int, str]]:
    """Return a key by which 2.png comes before 10.png."""
    parts = re.split(r"(\d+)", Path(name).name)
    return [(int(p), "") if p.isdecimal() else (-1, p) for p in parts]


# --- Labels ------------------------------------------------------------------------


def match_folders(folders: Sequence[str], subset: str) -> dict[str, int]:
    """Return which folders hold a subset's classes, and the label of each.

    Folders are named by WordNet id, by class name, by label and name as
    `save_image_folder` does, or by ImageNet index, all in one way; others are left out.
    The subset is one of `SUBSETS`, or "imagenet" for all 1000. Where no way of naming
    finds every class, an `InputError` says which way found most.

    Source: ours; the 1000 WordNet ids are in the order of ImageNet's indices.
    """
    names = class_names(subset)
    indices = imagenet_indices(subset)
    ids = sorted(f for f in folders if re.fullmatch(r"n\d{8}", f))
    if subset != "imagenet":
        ids = [WORDNET_IDS[index] for index in indices]
    ways = {
        "WordNet ids": ids,
        "class names": names,
        "labels and names": [f"{i:03d}_{name}" for i, name in enumerate(names)],
        "ImageNet indices": [str(index) for index in indices],
    }
    matches = {way: _named_after(wanted, folders) for way, wanted in ways.items()}
    for found in matches.values():
        if len(set(found.values())) == len(found) == len(names):
            return found
    way = max(matches, key=lambda way: len(matches[way]))
    found = matches[way].values()
    lacking = [
        f" (no {name!r}, for example)"
        for i, name in enumerate(ways[way])
        if i not in found
    ]
    raise InputError(
        f"{len(folders)} class folders, of which {len(found)} are classes of "
        f"{subset!r} by {way}; expected {len(names)}, each once{''.join(lacking[:1])}"
    )


def folder_labels(
    root: Path, folders: Sequence[str], dataset: str | None
) -> tuple[list[int], Sequence[str], str]:
    """Turn the names of a set's folders into labels; classes may be missing.

    Tried in this order: a data set's class names; integers in the names (labels, or a
    subset's ImageNet indices); the order of the names. WordNet ids sort like ImageNet's
    indices, so as many of them as a subset has classes tell each label.

    Args:
        root: where the folders are, and maybe the labels.csv of `save_image_folder`.
        folders: their names, sorted.
        dataset: a canonical name, or None. `InputError` if the folders have others.

    Returns:
        A label for each folder; class names, () for the data set's; what told them.
    """
    known = class_names(dataset) if dataset else ()
    indices = [index for index, _ in SUBSETS.get(dataset or "", ())]
    found = _named_after(known, folders)
    if len(found) == len(folders):
        return [*found.values()], (), "class names"
    matches = [re.fullmatch(r"[A-Za-z]*[-_]?(\d{1,5})([-_ ].*)?", f) for f in folders]
    numbers = [int(match[1]) for match in matches if match]
    if len(set(numbers)) == len(folders):
        if indices and max(numbers) >= len(indices) and set(numbers) <= set(indices):
            labels = [indices.index(number) for number in numbers]
            return labels, (), "ImageNet indices in folder names"
        names = known or _names_in_table(
            root / "labels.csv", dict(zip(numbers, folders, strict=True))
        )
        return numbers, names, "numbers in folder names"
    if not dataset:
        return list(range(len(folders))), folders, "sorted folder names"
    ids = [folder for folder in folders if re.fullmatch(r"n\d{8}", folder)]
    ensure(
        len(ids) == len(folders) == len(known),
        f"found {len(folders)} class folders ({folders[0]!r}, ...), not numbers or "
        f"class names of {dataset!r}; expected those, or its {len(known)} WordNet ids",
    )
    labels = [indices.index(i) for i in sorted(indices)] or list(range(len(known)))
    return labels, (), "sorted folder names"


def _named_after(names: Sequence[str], folders: Sequence[str]) -> dict[str, int]:
    """Return the label of each folder that has a class's name, in whatever spelling."""
    labels = {_letters(name): label for label, name in enumerate(names)}
    return {f: labels[_letters(f)] for f in folders if _letters(f) in labels}


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _names_in_table(table: Path, folders: Mapping[int, str]) -> list[str]:
    """Return names by label: those of folders, or in labels.csv, if there is one."""
    names = [folders.get(i, name) for i, name in enumerate(numbered(max(folders) + 1))]
    if not os.path.lexists(table):
        return names
    with (
        naming(table, "a table of classes"),
        table.open(newline="", encoding="utf-8") as stream,
    ):
        for row in csv.DictReader(stream):
            label = row.get("label") or ""
            name = from_cell(row.get("class_name") or "")
            if name and label.isdecimal() and int(label) < len(names):
                names[int(label)] = name
    return names


# --- Pixels ------------------------------------------------------------------------


def read_images(
    files: Sequence[Path], transform: Callable | None = None, advice: str = ""
) -> Tensor:
    """Return image files of one size as (N, 3, H, W) float32 in [0, 1].

    Args:
        files: `InputError` names the first that can't be read, holds several pictures,
            or more bits a channel than 8 (16 in a PNG).
        transform: what is done to each image, a (3, H, W) tensor, uint8 or float32.
        advice: what to do about images that differ in size.
    """
    images = torch.empty(0)
    for index, file in enumerate(files):
        with naming(file, "a picture"):
            pixels = _decoded(file)
        if transform:
            pixels = transform(pixels)
        if index == 0:
            images = torch.empty(len(files), *pixels.shape)
        found, first = (f"{s[-1]}x{s[-2]}" for s in (pixels.shape, images.shape))
        ensure(
            pixels.shape == images.shape[1:],
            f"images differ in size: {file} is {found}, {files[0]} is {first}; "
            f"expected one size{advice}",
        )
        if pixels.dtype == torch.uint8:
            pixels = pixels / 255
        images[index] = pixels
    return images


def open_images(files: Sequence[Path]) -> Tensor | StoredImages:
    """Return image files as `read_images` does; more than a GiB is read when needed."""
    shape = (len(files), *read_images(files[:1]).shape[1:])
    if 4 * math.prod(shape) <= stored.LARGE:
        return read_images(files)
    return StoredImages(shape, partial(_rows, files))


def _rows(files: Sequence[Path], rows: Sequence[int]) -> Tensor:
    return read_images([files[row] for row in rows])


def _decoded(file: Path) -> Tensor:
    """Return (3, H, W): uint8, or float32 in [0, 1] where the file has 16 bits."""
    with warnings.catch_warnings(
        action="error", category=Image.DecompressionBombWarning
    ):
        image = Image.open(file, formats=_FORMATS)
    with image:
        frames = getattr(image, "n_frames", 1)
        ensure(
            frames == 1 or image.format == "MPO",  # a camera's JPEG with its preview
            f"{frames} pictures in one file; expected one",
        )
        bits16 = any(";16" in str(tile) for tile in image.tile)
        if bits16 and image.format == "PNG":  # convert() would cut them to 8
            from torchvision.io import ImageReadMode, decode_image

            return decode_image(str(file), ImageReadMode.RGB).float() / 65535
        largest = _largest(image)
        ensure(
            largest < 256 and not bits16 and not image.mode.startswith(("I", "F")),
            f"mode {image.mode} of more than 8 bits; expected 8 bits a channel, or a "
            "PNG",
        )
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def _largest(image: ImageFile.ImageFile) -> int:
    """Return the largest value of a portable map, which Pillow would cut; else 0."""
    arguments = [tile.args for tile in image.tile if isinstance(tile.args, tuple)]
    maps = [args for args in arguments if image.format == "PPM" and len(args) > 1]
    return max((args[1] for args in maps), default=0)


# --- Written -----------------------------------------------------------------------


def save_image_folder(
    distilled: DistilledSet, folder: str | Path, overwrite: bool = False
) -> Path:
    """Write PNG files in class folders, and labels.csv.

    Values are clipped to [0, 1] and rounded to 8 bits, so this loses what lies outside;
    `DistilledSet.save` doesn't. Image i becomes `{class:03d}_{name}/{i:04d}.png`.

    Raises:
        InputError: the folder exists already or can't be written.

    Source: ours.
    """
    with atomic_path(folder, overwrite=overwrite) as temporary:
        write_pictures(distilled, temporary)
    return Path(folder)


def write_pictures(distilled: DistilledSet, folder: Path) -> list[str]:
    """Fill a new folder, one picture at a time; return their names in it."""
    folder.mkdir()
    rows = []
    for i, label in enumerate(distilled.labels.tolist()):
        name = distilled.class_names[label]
        file = Path(f"{label:03d}_{slug(name)}", f"{i:04d}.png")
        (folder / file.parent).mkdir(exist_ok=True)
        stored.as_picture(distilled.images[i]).save(folder / file)
        rows.append((file.as_posix(), label, to_cell(name)))
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerows([("file", "label", "class_name"), *rows])
    return [file for file, *_ in rows]


def stored_soft_labels(folder: Path, files: Sequence[Path]) -> Tensor | None:
    """Return soft labels (N, K) from a metadata.jsonl beside pictures, if it has some.

    Raises `InputError`: a damaged file, or pictures without.
    """
    table = folder / "metadata.jsonl"
    if not table.exists():
        return None
    with naming(table, "a line of JSON per picture"):
        lines = filter(str.strip, table.read_text("utf-8").split("\n"))
        rows = [json.loads(line) for line in lines]
        found = {r["file_name"]: r["soft_labels"] for r in rows if "soft_labels" in r}
        if not found:
            return None
        names = [file.relative_to(folder).as_posix() for file in files]
        absent = ", ".join(repr(name) for name in names if name not in found)
        ensure(not absent, f"picture {absent[:80]} has no soft labels, others have")
        return torch.tensor([found[name] for name in names], dtype=torch.float32)
