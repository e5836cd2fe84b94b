"""Write a set as a folder of pictures, for any other tool."""

from __future__ import annotations

import csv
from pathlib import Path

import torch
from PIL import Image

from diver_lite.distilled import DistilledSet
from diver_lite.files import atomic_path, slug


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


def write_pictures(distilled: DistilledSet, folder: Path) -> None:
    """Fill a new folder, one picture at a time."""
    folder.mkdir()
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(("file", "label", "class_name"))
        for i, label in enumerate(distilled.labels.tolist()):
            name = distilled.class_names[label]
            file = Path(f"{label:03d}_{slug(name)}", f"{i:04d}.png")
            (folder / file.parent).mkdir(exist_ok=True)
            pixels = (distilled.images[i].clamp(0, 1) * 255).round().to(torch.uint8)
            Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(folder / file)
            table.writerow((file.as_posix(), label, name))
