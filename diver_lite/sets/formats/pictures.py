"""SRe2L, CDA, G-VBSM, Minimax, IGD, MGD3, D4M, RDED, and ours: class folders.

A folder for each class, named `new{class:03d}` (SRe2L, CDA, G-VBSM), by WordNet id
(Minimax, IGD, MGD3), by number (D4M) or by class name; in it PNG or JPEG files, or one
.pt an image (some of RDED's), normalised with mean and std of the data set. Beside them
may lie a labels.csv or metadata.jsonl, as `save_image_folder` and `convert` write them.
"""

from __future__ import annotations

import torch

from diver_lite.checks import ensure
from diver_lite.sets.contents import innermost, runs, stacked
from diver_lite.sets.distilled import DistilledSet
from diver_lite.sets.folder import (
    ONE_EACH,
    class_folders,
    folder_labels,
    image_files,
    natural,
    open_images,
    stored_soft_labels,
)
from diver_lite.sets.formats.job import Job


def read_image_folder(job: Job) -> DistilledSet:
    """Read class folders of images: SRe2L, CDA, G-VBSM, Minimax, IGD, MGD3, D4M, ours.

    Undone: 8 or 16 bits to [0, 1]; of tensors, one .pt an image as some of RDED's, mean
    and std of the data set. SRe2L's relabelling (FKD) is tied to its own
    training loop and stays where it is.
    """
    job.expect(job.path.is_dir(), "found a file", "a folder")
    job.paths = [innermost(job.path)]
    if job.record.pop("dataset_from", None):  # too weak a hint to name classes by
        job.dataset = None
    inside = sorted(class_folders(job.path), key=natural)
    files = {f.name: sorted(image_files(f), key=natural) for f in inside}
    tensors = not any(files.values()) and not any(runs(f) for f in inside)
    if tensors:
        files = {f.name: sorted(f.glob("*.pt"), key=natural) for f in inside}
    folders = [name for name, images in files.items() if images]
    ensure(
        len(folders) > 0,
        f"found {len(files)} folders and no images directly in them; {ONE_EACH}",
    )
    job.expect(
        tensors or "normalisation" not in job.options,
        "normalisation= was given",
        "none of pictures",
    )
    if len(folders) < len(files):  # FKD labels, for example
        job.record["folders_left_out"] = [name for name in files if name not in folders]
    numbers, names, told_by = folder_labels(job.path, folders, job.dataset)
    job.record["labels_from"] = told_by
    order = sorted(zip(numbers, folders, strict=True))
    paths = [path for _, folder in order for path in files[folder]]
    labels = torch.tensor([label for label, folder in order for _ in files[folder]])
    images = job.undo(stacked(paths), "dc") if tensors else open_images(paths)
    return job.finish(images, labels, names, stored_soft_labels(job.path, paths))
