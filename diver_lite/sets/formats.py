"""How each published method stores its distilled images, and how to undo it.

One reader per format says which repository it follows and what it undoes; nothing that
a file leaves open is guessed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from diver_lite.checks import InputError, ensure, integer, one_of, require
from diver_lite.sets.contents import (
    IMAGES,
    best,
    describe,
    innermost,
    is_both,
    joined,
    learned_lr,
    load_numpy,
    load_torch,
    pair,
    partner,
    pixels,
    runs,
    stacked,
    targets,
    tensor,
    with_labels,
)
from diver_lite.sets.distilled import INDEX, DistilledSet
from diver_lite.sets.folder import (
    ONE_EACH,
    class_folders,
    folder_labels,
    image_files,
    natural,
    open_images,
    stored_soft_labels,
)
from diver_lite.sets.names import (
    DATASETS,
    SUBSETS,
    TABLES,
    class_names,
    numbered,
)
from diver_lite.sets.normalisation import (
    RAW_OUTPUT,
    SAME_DETAIL,
    SNAPSHOT,
    SNAPSHOT_IF_NUMBERED,
    Undoing,
    denormalise,
    family_name,
    has_colours,
    in_unit_range,
    known_statistics,
    looks_whitened,
    same_detail,
    slow_shares,
    tiles_per_side,
)
from diver_lite.sets.stored import soft_kind

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
_SPLIT = ("mtt", "datm", "glad")
# what tells a format by itself: how a file's name ends, or a file in a folder
_ENDINGS = {".safetensors": "diver-lite", ".npy": "kip", ".npz": "rfad"}
_INSIDE = {INDEX: "diver-lite", "images.pt": "dd-ranking", "images.npy": "kip"}
_OFTEN_WHITENED = ("cifar10", "cifar100", "tiny-imagenet")
_DECODED = 3  # raw decoder output stays within about 2, normalised sets reach 5 .. 35


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
    job = _Job(paths, dataset, format, options, place, record)
    if format == "auto":
        job.format = _detect(job)
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


class _Job(Undoing):
    """What a reader works on: files and arguments in, the record of changes out."""

    @cached_property
    def payload(self) -> Any:
        self.expect(not self.path.is_dir(), "found a folder", "a file")
        return load_torch(self.path)

    def expect(self, condition: bool, found: str, expected: str) -> None:
        """Raise unless what was found is as the format has it."""
        ensure(condition, f"{found}; format {self.format!r} expects {expected}")

    def doubt_dataset(self, images: Any, labels: Tensor, hard: bool) -> None:
        """Warn of whatever speaks against the data set that the file is taken for."""
        dataset = self.dataset or ""
        named = self.named or dataset
        low, high = TABLES["sizes"][family_name(dataset)]
        sizes = " to ".join(str(size) for size in sorted({low, high}))
        size = min(images.shape[-2:])
        known = len(class_names(dataset))
        found = len(labels.unique())
        mean, _ = known_statistics(dataset, "dc")
        against = {
            f"the name {self.naming!r} says {named!r}": (
                named.removesuffix("-ncfm") != dataset.removesuffix("-ncfm")
            ),
            f"its images have {size} pixels a side (expected {sizes})": (
                not low <= size <= high
            ),
            f"it has {found} classes (expected {known})": hard and found < known,
            "its pixels have colours (expected grey)": (
                len(mean) == 1 and has_colours(images[:100])
            ),
        }
        if doubts := [doubt for doubt, holds in against.items() if holds]:
            self.doubt(f"taken for {dataset!r}, but {'; '.join(doubts)}")

    def doubt_names(self, count: int) -> None:
        """Warn of classes that have no names, and say what gives them some."""
        fits = [
            name
            for name in DATASETS
            if self.named in (None, name)
            and (name != "imagenet" or count == 1000)  # whose list costs seconds
            and len(class_names(name)) == count
        ]
        advice = "dataset= (--dataset) if they are a known data set's"
        if len(fits) == 1:
            advice = f"dataset={fits[0]!r} (--dataset {fits[0]}) if they are its"
        self.doubt(f"nothing names the {count} classes; pass {advice}")

    def finish(
        self,
        images: Any,
        labels: Tensor,
        names: Sequence[str] = (),
        soft: Tensor | None = None,
    ) -> DistilledSet:
        """Give images three channels, split hard from soft labels, add the record."""
        hard = labels.ndim == 1
        if not hard:
            soft = labels
            labels = soft.argmax(dim=1)
            if len(images) % soft.shape[1] == 0:  # does the order say another class?
                order = _class_major(len(images), soft.shape[1])
                self.record["argmax_not_class_major"] = int((labels != order).sum())
        if soft is not None:
            self.record.setdefault("soft_labels", soft_kind(soft))
        if images.shape[1] == 1:
            images = images.repeat(1, 3, 1, 1)
            self.undone["grey"] = "one channel repeated to three"
        if self.dataset:
            names = names or class_names(self.dataset)
            self.doubt_dataset(images, labels, hard)
        else:
            classes = int(labels.max()) + 1 if soft is None else soft.shape[1]
            names = names or numbered(classes)
            if all(re.fullmatch(r"[A-Za-z]*[-_ ]?\d+", name) for name in names):
                self.doubt_names(len(names))
        provenance = {
            "format": self.format,
            "source": ", ".join(path.name for path in self.paths),
            "dataset": self.dataset,
            "undone": self.undone,
            **self.record,
        }
        return DistilledSet(images, labels, tuple(names), soft, provenance)


def _class_major(count: int, num_classes: int) -> Tensor:
    return torch.arange(num_classes).repeat_interleave(count // num_classes)


# --- One reader per format ---------------------------------------------------------


def _read_own(job: _Job) -> DistilledSet:
    """Read our own file, or folder of files. Nothing is undone."""
    result = DistilledSet.load(job.path)
    told = result.provenance.get("dataset")
    guessed = "dataset_from" in job.record or job.dataset is None
    ensure(
        guessed or told in (None, job.dataset),
        f"dataset {job.dataset!r} was asked for, but the file says {told!r}",
    )
    return result


def _read_dc(job: _Job) -> DistilledSet:
    """Read VICO-UoE/DatasetCondensation (DC, DSA, DM) and PReDD's dm_base.py.

    Undone: mean and std of the data set; a single grey channel.
    """
    images, labels = _chosen_entry(job)
    job.expect(labels.ndim == 1, f"labels: found {describe(labels)}", "integers (N,)")
    return job.finish(job.undo(images, "dc"), labels)


_LABELS = {  # format -> axes, and what they hold
    "mtt": (1, "integers ('datm' has logits)"),
    "datm": (2, "float logits (N, K) ('mtt' has integers)"),
}


def _read_trajectory(job: _Job) -> DistilledSet:
    """Read GeorgeCazenavette/mtt-distillation, and NUS-HPC-AI-Lab/DATM and EDF.

    The latter have logits for labels: their trainers apply a softmax to them. Undone:
    mean and std of the data set, or ZCA whitening.
    """
    images, labels = _trajectory(job)
    ndim, expected = _LABELS[job.format]
    job.expect(labels.ndim == ndim, f"labels: found {describe(labels)}", expected)
    job.record["lr"] = None  # MTT's was learned, but never saved
    if job.format == "datm":  # whose trainer applies a softmax, whatever it is
        job.record |= {"lr": learned_lr(job.path), "soft_labels": "logits"}
    return job.finish(_undo_zca_or_mean(job, images), labels)


def _read_dd_ranking(job: _Job) -> DistilledSet:
    """Read NUS-HPC-AI-Lab/DD-Ranking's folder; without labels.pt: class-major.

    Undone: mean and std of the data set, or ZCA whitening.
    """
    if job.path.is_dir():
        job.paths = [job.path / "images.pt"]
    named = IMAGES.search(job.path.stem)
    if (named and partner(job.path, "labels").is_file()) or is_both(job.payload):
        images, labels = _trajectory(job)
    elif job.dataset is None:
        raise InputError("without labels.pt the classes are unknown; pass dataset=")
    else:
        images = pixels(job.payload)
        classes = len(class_names(job.dataset))
        ensure(
            len(images) % classes == 0,
            f"found {len(images)} images and no labels.pt; expected a multiple of the "
            f"{classes} classes of {job.dataset!r}, in class-major order",
        )
        labels = _class_major(len(images), classes)
        job.record["labels_from"] = "class-major order"
    job.record["lr"] = learned_lr(job.path)
    return job.finish(_undo_zca_or_mean(job, images), labels)


_SPACES = {"wp": "glad", "p": "mtt"}  # of GLaD's -> whose mean and std


def _read_glad(job: _Job) -> DistilledSet:
    """Read GeorgeCazenavette/glad.

    Undone: GLaD's own mean and std (space "wp"), or the data set's (space "p").
    """
    space = one_of(job.options.get("space", "wp"), "space", (*_SPACES,))
    job.record["space"] = space
    images, labels = _trajectory(job)
    return job.finish(job.undo(images, _SPACES[space]), labels)


def _read_ncfm(job: _Job) -> DistilledSet:
    """Read gszfwsb/NCFM, whose pixels are in [0, 1] already.

    Undone: `factor` x `factor` tiles per image become images of their own.
    """
    images, labels = pair(job.payload)
    low, high = images.aminmax()
    job.expect(in_unit_range(images), f"found values {low:.2f}..{high:.2f}", "[0, 1]")
    images = job.as_stored(images)
    factor = job.options.get("factor")
    if factor is None:
        factor = tiles_per_side(images)
        if factor == 1:
            job.doubt(
                "nothing in the pictures looks like the edge of a tile, so they are "
                "read whole; factor=2 cuts each into NCFM's 2 x 2 tiles"
            )
    factor = integer(factor, "factor (tiles per side)", 1, min(images.shape[-2:]))
    if factor > 1:
        images = _split_tiles(images, factor)
        labels = labels.repeat_interleave(factor**2, dim=0)
        job.undone["tiles"] = {"factor": factor, "order": "per image, row by row"}
    variant = f"{job.dataset}-ncfm"  # one class differs from the usual
    if variant in SUBSETS and (factor > 1 or "factor" in job.options):
        job.dataset = variant
    return job.finish(images, labels)


def _split_tiles(images: Tensor, factor: int) -> Tensor:
    """Return (N * factor^2, C, H, W): NCFM's decode_zoom, but image by image."""
    height, width = images.shape[-2:]
    padded = F.pad(images, (0, -width % factor, 0, -height % factor), value=0.5)
    grid = padded.unflatten(3, (factor, -1)).unflatten(2, (factor, -1))
    tiles = grid.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)  # row by row
    return F.interpolate(
        tiles, size=(height, width), mode="bilinear", align_corners=False
    )


def _read_predd(job: _Job) -> DistilledSet:
    """Read what PReDD and DIVER write: the VAE decoder's output as it is.

    Undone: the decoder's range, x -> (x + 1) / 2.
    """
    images, labels = _chosen_entry(job)
    largest = images.abs().max().item()
    job.expect(
        largest <= _DECODED,
        f"found values up to {largest:.1f}",
        "about [-1, 1] (normalised images with a 'res' are format 'dc')",
    )
    if in_unit_range(images):  # a decoder's blacks are at -1
        job.doubt("all values lie in [0, 1] instead of [-1, 1]: read as stored")
        return job.finish(job.as_stored(images), labels)
    job.undone["range"] = "[-1, 1] to [0, 1]"
    images = denormalise(images, RAW_OUTPUT)
    job.judge(images, "decoder output in [-1, 1]")
    return job.finish(images, labels)


def _read_numpy(job: _Job) -> DistilledSet:
    """Read KIP (google-research/kip, DC-BENCH) and yolky/RFAD.

    Undone: their whitening, given the real images. KIP also brings each image to mean 0
    and norm 1, and doesn't say what they were: all get the average real image's.
    """
    if job.path.is_dir():
        job.paths = [job.path / "images.npy"]
    arrays = load_numpy(job.path)
    job.expect(
        is_both(arrays), f"found arrays {[*arrays][:9]}", "'images' and 'labels'"
    )
    images = arrays["images"]
    if images.ndim == 4 and images.shape[-1] in (1, 3) and images.shape[1] > 3:
        images = images.permute(0, 3, 1, 2)  # stored as (N, H, W, C)
    images = pixels(images).float()
    labels = targets(arrays["labels"], len(images))
    if job.options.get("normalisation") == "none":
        return job.finish(job.as_stored(images), labels)
    ensure(
        "zca_reference" in job.options,
        "the pixels are whitened; pass the real training images as zca_reference= "
        "(--read zca_reference=cifar10, for example)",
    )
    return job.finish(job.undo_whitening(images, job.options["zca_reference"]), labels)


def _read_image_folder(job: _Job) -> DistilledSet:
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


_ZCA = ("normalisation", "zca", "zca_reference")
_NUMPY = ("normalisation", "zca_reference")
# format -> its reader, and the arguments of `load_distilled` that have a meaning for it
_READERS: dict[str, tuple[Callable[[_Job], DistilledSet], tuple[str, ...]]] = {
    "diver-lite": (_read_own, ()),
    "dc": (_read_dc, ("experiment", "normalisation")),
    "mtt": (_read_trajectory, _ZCA),
    "datm": (_read_trajectory, _ZCA),
    "glad": (_read_glad, ("space", "normalisation")),
    "ncfm": (_read_ncfm, ("factor",)),
    "kip": (_read_numpy, _NUMPY),
    "rfad": (_read_numpy, _NUMPY),
    "image-folder": (_read_image_folder, ("normalisation",)),
    "dd-ranking": (_read_dd_ranking, _ZCA),
    "predd": (_read_predd, ("experiment",)),
}


# --- Entries of a DatasetCondensation dict -----------------------------------------


def _entries(job: _Job) -> list[Any]:
    """Return what 'data' lists."""
    payload = job.payload
    known = isinstance(payload, dict) and isinstance(payload.get("data"), list)
    job.expect(
        known and payload["data"] != [],
        f"found {describe(payload)}",
        "a dict whose 'data' lists [images, labels]",
    )
    return payload["data"]


def _chosen_entry(job: _Job) -> tuple[Tensor, Tensor]:
    """Return images and labels of the entry that was asked for, or that counts."""
    data = _entries(job)
    last = len(data) - 1
    snapshots = last > 0 and _are_snapshots(data, job.path)
    default = last if snapshots else 0
    chosen = job.options.get("experiment", default)
    chosen = integer(chosen, "experiment", 0, last)
    job.record |= {"experiment": chosen, "experiments": len(data)}
    if last > 0:
        job.record["entries_are"] = "snapshots" if snapshots else "repetitions"
    if snapshots and "experiment" not in job.options:
        job.doubt(
            f"'data' lists {len(data)} snapshots of one run: the last, {last}, was "
            "taken, to which stored accuracies belong; experiment= chooses another"
        )
    return pair(data[chosen])


def _are_snapshots(data: list[Any], path: Path) -> bool:
    """Tell snapshots, which have detail in common, from repetitions."""
    sets = [pair(entry)[0] for entry in data]
    likeness = median(same_detail(*neighbours) for neighbours in pairwise(sets))
    numbered_file = re.search(r"_\d+\.pt$", path.name)
    return likeness > (SNAPSHOT_IF_NUMBERED if numbered_file else SNAPSHOT)


# --- Trajectories: images_*.pt with what lies beside -------------------------------


def _trajectory(job: _Job) -> tuple[Tensor, Tensor]:
    """Read images_*.pt with its labels_*.pt, or several of them one after another."""
    if job.path.is_dir():
        job.paths = [best(job.path)]
    images, labels = zip(*map(with_labels, job.paths), strict=True)
    return joined(images, "images"), joined(labels, "labels")


def _undo_zca_or_mean(job: _Job, images: Tensor) -> Tensor:
    """Undo whichever of the two was done; the file itself can't tell."""
    zca = job.options.get("zca")
    reference = job.options.get("zca_reference")
    require(isinstance(zca, bool | None), "zca", zca, "True or False")
    told = "normalisation" in job.options or zca is False
    ensure(
        not (told and (zca or reference is not None)),
        "normalisation= and zca=False are for pixels that are not whitened, zca=True "
        "and zca_reference= for those that are; pass one of them",
    )
    if all(path.name.startswith("images_zca_") for path in job.paths):
        return _writers_copy(job, images, given=True)
    if reference is not None:
        read = job.undo_whitening(images, reference)
    elif zca:
        read = _writers_copy(job, images, given=False)
    else:
        read = _undo_mean(job, images, told)
    job.record["fit"] |= slow_shares(images)
    return read


def _undo_mean(job: _Job, images: Tensor, told: bool) -> Tensor:
    """Undo mean and std; warn or, unless `told`, ask where pixels look whitened."""
    exact = job.exact(images) is not None
    looks = not exact and looks_whitened(images)
    if not told:
        job.record["zca_assumed"] = False
        if not exact and not in_unit_range(images):
            _ask_whether_whitened(job, looks)
    read = job.undo(images, "mtt")
    if looks and job.dataset not in SUBSETS and job.undone:
        job.doubt(
            "mean and std were undone, but the pixels look ZCA-whitened: only "
            f"{slow_shares(images)['waves']:.0%} of the variance is in slow waves; "
            "pass zca=True, or the real training images as zca_reference="
        )
    return read


def _ask_whether_whitened(job: _Job, looks: bool | None) -> None:
    """Raise if pixels are called whitened or look so, or if nothing tells."""
    ask = "pass the real training images as zca_reference=, or zca=True or zca=False"
    often = f"{job.dataset} sets of this format are often ZCA-whitened"
    words = re.compile(r"(?<![a-z])(non?|without)?[-_ ]?zca(?![a-z])")
    found = [match for name in job.names if (match := words.search(name.lower()))]
    ensure(
        not found or bool(found[0][1]),  # "no ZCA"
        f"the path calls the pixels ZCA-whitened; {ask}",
    )
    if job.dataset in _OFTEN_WHITENED:
        ensure(not looks, f"{often}, and these look whitened; {ask}")
        if not found:
            ensure(
                looks is not None,
                f"{often}, which the file doesn't tell; pass zca=True or zca=False",
            )
            job.doubt(f"{often}; these don't look so and are read as normalised alone")


def _writers_copy(job: _Job, images: Tensor, given: bool) -> Tensor:
    """Return the writer's copy with whitening undone, images_zca_*.pt, as it is.

    It was `given`, with its labels beside images_*.pt, or it must lie beside those.
    """
    kind = "images" if given else "images_zca"
    others = [partner(path, kind) for path in job.paths]
    absent = ", ".join(path.name for path in others if not path.is_file())
    reference = "the real training images as zca_reference="
    ensure(
        given or not absent,
        f"zca=True, but its inverse-whitened copy {absent} is absent; pass "
        f"images_zca_{{iteration}}.pt itself, or {reference}",
    )
    job.undone["zca"] = "by the file's writer (images_zca_*.pt)"
    if not absent:
        other = joined([pixels(load_torch(path)) for path in others], "images")
        alike = same_detail(images, other)
        job.record["zca_detail"] = round(alike, 3)
        found = (
            f"{others[0].name} is of another run: its finest detail correlates "
            f"{alike:.2f} with this file's, 0.99 if they were of the same one"
        )
        ensure(
            given or alike >= SAME_DETAIL, f"zca=True, but {found}; pass {reference}"
        )
        if alike < SAME_DETAIL:
            job.doubt(f"{found}: the labels beside it may not be those of these images")
        if not given:
            images = other
            job.undone["zca"] = f"read from {', '.join(path.name for path in others)}"
    return job.as_stored(images, "ZCA whitening, undone by the writer")


# --- Detection ---------------------------------------------------------------------


def _detect(job: _Job) -> str:
    """Name the format if only one fits; otherwise say which ones could."""
    path = job.path
    if path.is_dir():
        return _detect_folder(job, path)
    if path.suffix in _ENDINGS:
        return _ENDINGS[path.suffix]
    payload = job.payload
    if isinstance(payload, dict) and "data" in payload:
        return _detect_entries(job)
    if isinstance(payload, list | tuple) and len(payload) == 2:
        return "ncfm"
    if isinstance(payload, Tensor):
        return _detect_trajectory(job, path)
    ensure(
        is_both(payload),
        f"found {describe(payload)}, which no known format has; formats: {[*FORMATS]}",
    )
    labels = dict(payload)["labels"]
    soft = isinstance(labels, Tensor) and labels.ndim == 2
    return "dd-ranking" if soft else "mtt"


def _detect_folder(job: _Job, folder: Path) -> str:
    """Go by a file in a folder, or else by what there is most of."""
    if told := [name for name in _INSIDE if (folder / name).is_file()]:
        return _INSIDE[told[0]]
    if runs(folder):
        return _detect_trajectory(job, best(folder))
    strange = [file.name for file in folder.glob("*.*")] or ["nothing"]
    ensure(
        bool(class_folders(folder)),
        f"the folder holds neither images*.pt nor class folders, but {strange[0]}",
    )
    return "image-folder"


def _detect_entries(job: _Job) -> str:
    """Tell normalised sets from raw decoder output, in a dict with 'data'."""
    if job.path.name.startswith("imagenet_distill_"):
        return "predd"
    images, _ = pair(_entries(job)[0])
    if (
        re.match(r"res_(\d+_)?(DC|DSA|DM)_", job.path.name)
        or "accs_all_exps" in job.payload
        or images.abs().max() > _DECODED
    ):
        return "dc"
    raise _ambiguous(describe(job.payload), "dc", "predd")


def _detect_trajectory(job: _Job, images: Path) -> str:
    """Tell the formats of images_*.pt apart, by names, labels and pixels."""
    if images.name in _INSIDE:
        return _INSIDE[images.name]
    labels = tensor(load_torch(partner(images, "labels")), "labels")
    if labels.ndim == 2 and labels.is_floating_point():
        return "datm"
    if re.fullmatch(r"images_0\d{4}\.pt", images.name):
        return "glad"  # it pads iterations with zeros to five digits
    if re.fullmatch(r"images_(zca_.*|\d{1,4})\.pt", images.name):
        return "mtt"
    stored = pixels(load_torch(images))
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
