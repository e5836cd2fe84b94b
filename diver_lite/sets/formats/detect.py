"""Which published format a file has: by name, by what lies beside, by contents."""

from __future__ import annotations

import re
from pathlib import Path

from torch import Tensor

from diver_lite.checks import InputError, ensure
from diver_lite.sets.contents import (
    A_PICTURE_EACH,
    IMAGES,
    best,
    describe,
    is_both,
    load_any,
    load_numpy,
    pair,
    partner,
    pixels,
    runs,
    tensor,
)
from diver_lite.sets.distilled import INDEX
from diver_lite.sets.folder import class_folders
from diver_lite.sets.formats.dc import DECODED, SCORES, entries
from diver_lite.sets.formats.job import Job
from diver_lite.sets.normalisation import in_unit_range

FORMATS = {
    "diver-lite": "our own .safetensors file",
    "dc": "DC, DSA, DM: a dict of images normalised with mean and std",
    "mtt": "MTT: images_*.pt and labels_*.pt, normalised or ZCA-whitened",
    "datm": "DATM, EDF: as MTT, with logits for labels and lr_*.pt",
    "glad": "GLaD: as MTT, normalised with GLaD's own mean",
    "ncfm": "NCFM, IDC: a list [images, labels] in [0, 1], whole or in 2x2 tiles",
    "kip": "KIP: images.npy and labels.npy, whitened in KIP's way",
    "rfad": "RFAD: an .npz with images and labels, whitened in RFAD's way",
    "image-folder": "SRe2L, CDA, G-VBSM, Minimax, IGD, MGD3, D4M, RDED: class folders",
    "dd-ranking": "DD-Ranking: a folder with images.pt, labels.pt, lr.pt",
    "predd": "PReDD, DIVER: a dict of raw decoder output in about [-1, 1]",
}
# what tells a format by itself: how a file's name ends, or a file in a folder
_ENDINGS = {".safetensors": "diver-lite"}
_INSIDE = {INDEX: "diver-lite", "images.pt": "dd-ranking"}
_ARRAYS = {".npy": "kip", ".npz": "rfad"}  # whitened, with soft labels


def detect(job: Job) -> str:
    """Name the format if only one fits; otherwise say which ones could."""
    path = job.path
    if path.is_dir():
        return _detect_folder(job, path)
    if path.suffix in _ENDINGS:
        return _ENDINGS[path.suffix]
    if path.suffix in _ARRAYS:
        return _detect_arrays(path)
    payload = job.payload
    if isinstance(payload, dict) and "data" in payload:
        return _detect_entries(job)
    if isinstance(payload, list | tuple) and len(payload) == 2:
        return "ncfm"
    if isinstance(payload, Tensor):
        ensure(
            bool(IMAGES.search(path.stem)) or payload.ndim > 3,
            f"found {describe(payload)}, one picture; {A_PICTURE_EACH}",
        )
        return _detect_trajectory(job, path)
    ensure(
        is_both(payload),
        f"found {describe(payload)}, which no known format has; formats: {[*FORMATS]}",
    )
    labels = dict(payload)["labels"]
    soft = isinstance(labels, Tensor) and labels.ndim == 2
    return "dd-ranking" if soft else "mtt"


def _detect_arrays(path: Path) -> str:
    """Tell KIP's and RFAD's, whitened with soft labels, from anybody's arrays."""
    arrays = load_numpy(path)
    if not is_both(arrays):
        return _ARRAYS[path.suffix]  # whose reader says what it expects
    images, labels = pair([arrays["images"], arrays["labels"]])
    if labels.ndim == 1:
        return "mtt"
    return "dd-ranking" if in_unit_range(images) else _ARRAYS[path.suffix]


def _detect_folder(job: Job, folder: Path) -> str:
    """Go by a file in a folder, or else by what there is most of."""
    if (folder / "images.npy").is_file():
        job.paths = [folder / "images.npy"]
        return _detect_arrays(job.path)
    if told := [name for name in _INSIDE if (folder / name).is_file()]:
        return _INSIDE[told[0]]
    if runs(folder):
        return _detect_trajectory(job, best(folder))
    strange = [file.name for file in folder.glob("*.*")] or ["nothing"]
    advice = f"; {A_PICTURE_EACH}" if strange[0].endswith(".pt") else ""
    ensure(
        bool(class_folders(folder)),
        "the folder holds neither images*.pt nor class folders, but "
        f"{strange[0]}{advice}",
    )
    return "image-folder"


def _detect_entries(job: Job) -> str:
    """Tell normalised sets from raw decoder output, in a dict with 'data'."""
    if job.path.name.startswith("imagenet_distill_"):
        return "predd"
    images, _ = pair(entries(job)[0])
    if (
        re.match(r"res_(\d+_)?(DC|DSA|DM)_", job.path.name)
        or any(name in job.payload for name in SCORES)
        or images.abs().max() > DECODED
    ):
        return "dc"
    raise _ambiguous(describe(job.payload), "dc", "predd")


def _detect_trajectory(job: Job, images: Path) -> str:
    """Tell the formats of images_*.pt apart, by names, labels and pixels."""
    if images.name in _INSIDE:
        return _INSIDE[images.name]
    labels = tensor(load_any(partner(images, "labels")), "labels")
    if labels.ndim == 2 and labels.is_floating_point():
        return "datm"
    if re.fullmatch(r"images_0\d{4}\.pt", images.name):
        return "glad"  # it pads iterations with zeros to five digits
    if re.fullmatch(r"images_(zca_.*|\d{1,4})\.pt", images.name):
        return "mtt"
    stored = pixels(load_any(images))
    if job.dataset is None and not in_unit_range(stored):
        raise _ambiguous(f"{images.name} with hard labels", "mtt", "glad")
    found = job.better_family(stored)
    if found is None:
        return "mtt"
    job.doubt(
        f"{images.name} with hard labels may be MTT's or GLaD's: taken for {found!r}, "
        "as its mean and std fit; format='mtt' or format='glad' reads it as either"
    )
    return found


def _ambiguous(found: str, *formats: str) -> InputError:
    readings = "; ".join(f"{name!r} is {FORMATS[name]}" for name in formats)
    return InputError(f"{found} fits several formats; pass format= ({readings})")
