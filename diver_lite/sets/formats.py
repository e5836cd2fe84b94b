"""How each published method stores its distilled images, and how to undo it.

One reader per format says which repository it follows and what it undoes; nothing that
a file leaves open is guessed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from diver_lite.checks import (
    InputError,
    ensure,
    instance,
    integer,
    number,
    one_of,
    require,
)
from diver_lite.sets.classes import as_subset, is_numbered, named_as
from diver_lite.sets.contents import (
    A_PICTURE_EACH,
    IMAGES,
    best,
    describe,
    innermost,
    is_both,
    joined,
    learned_lr,
    load_any,
    load_numpy,
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
    dataset_name,
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
    proves_whitening,
    same_detail,
    slow_shares,
    tiles_per_side,
)
from diver_lite.sets.stored import records, soft_kind

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
_ENDINGS = {".safetensors": "diver-lite"}
_INSIDE = {INDEX: "diver-lite", "images.pt": "dd-ranking"}
_ARRAYS = {".npy": "kip", ".npz": "rfad"}  # whitened, with soft labels
_SCORES = ("accs_all_exps", "acc_all_exps")  # beside the 'data' of DC and its forks
_WITH_FILES = ("mnist", "fashion-mnist", "cifar10")  # see `real.load_dataset`
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
        return load_any(self.path)

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
            and not is_numbered(class_names(name))
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
        alone = len(self.paths) == 1 and self.path.is_file()
        if alone and is_both(self.payload):
            names, soft = self._told_beside(self.payload, names, len(images))
        hard = labels.ndim == 1
        if not hard:
            ensure(soft is None, "labels and soft_labels are both soft; expected one")
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
            if is_numbered(names):
                self.doubt(
                    f"{self.dataset!r} names no class here, as its copies order them "
                    "in different ways: they are called 'class 0', 'class 1', ..., in "
                    "the file's own order"
                )
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

    def _told_beside(
        self, content: dict[str, Any], names: Sequence[str], count: int
    ) -> tuple[Sequence[str], Tensor | None]:
        """Return class names and soft labels, as far as a dict of images holds them."""
        soft = None
        if (told := content.get("class_names")) is not None:
            instance(told, "class_names", list | tuple)
            names = [*map(str, told)]
        if (told := content.get("soft_labels")) is not None:
            soft = targets(told, count)
            require(soft.ndim == 2, "soft_labels", soft, "floats (N, K)")
        if (told := content.get("lr")) is not None:
            if isinstance(told, Tensor):
                told = tensor(told, "lr").squeeze()
            self.record["lr"] = number(told, "lr", 0)
        return names, soft


def _class_major(count: int, num_classes: int) -> Tensor:
    return torch.arange(num_classes).repeat_interleave(count // num_classes)


# --- One reader per format ---------------------------------------------------------


def _read_own(job: _Job) -> DistilledSet:
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
    low, high = (value.item() for value in images.aminmax())
    job.expect(in_unit_range(images), f"found values {low:.4g} .. {high:.4g}", "[0, 1]")
    images = job.as_stored(images)
    factor = job.options.get("factor")
    if factor is None:
        factor = tiles_per_side(images)
        if factor == 1:
            job.doubt(
                "nothing in the pictures looks like the edge of a tile, so they are "
                "read whole; factor=2 (--read factor=2) cuts each into NCFM's 2 x 2 "
                "tiles"
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
    images, labels = pair([arrays["images"], arrays["labels"]])
    if labels.ndim == 2:  # they were fitted by squared errors, without a softmax
        job.record["soft_labels"] = "regression targets"
    if "normalisation" in job.options:
        job.expect(
            job.told is None, "normalisation=(mean, std) was given", "none but 'none'"
        )
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
    data = payload.get("data") if isinstance(payload, dict) else None
    job.expect(
        isinstance(data, list | tuple),
        f"found {describe(payload)}",
        "a dict whose 'data' lists [images, labels]",
    )
    entries = [*(data or ())]
    job.expect(entries != [], "found an empty 'data'", "[images, labels] in it")
    if len(entries) == 2 and all(isinstance(part, Tensor) for part in entries):
        return [entries]  # one pair, and no list of it
    return entries


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
        scored = any(job.payload.get(name) for name in _SCORES)
        belong = ", to which the stored accuracies belong" if scored else ""
        job.doubt(
            f"'data' lists {len(data)} snapshots of one run: the last, {last}, was "
            f"taken{belong}; experiment= (--read experiment=0) chooses another"
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
    """Undo whichever of the two was done, or both; the file itself can't tell."""
    zca = job.options.get("zca")
    reference = job.options.get("zca_reference")
    require(isinstance(zca, bool | None), "zca", zca, "True or False")
    told = "normalisation" in job.options
    whitened = bool(zca) or reference is not None
    ensure(
        not whitened or (zca is not False and (not told or job.told is not None)),
        "normalisation='none' and zca=False are for pixels that are not whitened, "
        "zca=True and zca_reference= for those that are; pass one of them",
    )
    if all(path.name.startswith("images_zca_") for path in job.paths):
        return _writers_copy(job, images, given=True)
    told = told or zca is False
    if reference is not None:
        read = job.undo_whitening(images, reference)
    elif zca or (not told and _copy_decides(job, images)):
        read = _writers_copy(job, images, given=False)
    else:
        read = _undo_mean(job, images, told)
    job.record["fit"] |= slow_shares(images)
    return read


def _undo_mean(job: _Job, images: Tensor, told: bool) -> Tensor:
    """Undo mean and std; ask, unless `told`, where pixels look whitened."""
    if not told:
        job.record["zca_assumed"] = False
        if job.exact(images) is None and not in_unit_range(images):
            _ask_whether_whitened(job, looks_whitened(images))
    return job.undo(images, "mtt")


def _ask_whether_whitened(job: _Job, looks: bool | None) -> None:
    """Raise if pixels are called whitened or look so, or if nothing tells."""
    dataset = job.dataset
    name = dataset if dataset in _WITH_FILES else "FOLDER"
    ask = (
        "pass the real training images as zca_reference= (--read zca_reference="
        f"{name}), or zca=True or zca=False (--read zca=False)"
    )
    often = f"{dataset} sets of this format are often ZCA-whitened"
    words = re.compile(r"(?<![a-z])(non?|without)?[-_ ]?zca(?![a-z])")
    found = [match for name in job.names if (match := words.search(name.lower()))]
    ensure(
        not found or bool(found[0][1]),  # "no ZCA"
        f"the path calls the pixels ZCA-whitened; {ask}",
    )
    if dataset in SUBSETS:
        return
    these = f"{often}, and these" if dataset in _OFTEN_WHITENED else "the pixels"
    ensure(not looks, f"{these} look whitened; {ask}")
    if dataset in _OFTEN_WHITENED and not found:
        ensure(
            looks is not None,
            f"{often}, which the file doesn't tell; pass zca=True or zca=False (--read "
            "zca=False)",
        )
        job.doubt(f"{often}; these don't look so and are read as normalised alone")


def _copies(job: _Job, given: bool = False) -> list[Path]:
    """Return where the writer's copies without whitening lie; or, if given, theirs."""
    return [partner(path, "images" if given else "images_zca") for path in job.paths]


def _pixels_of(paths: Sequence[Path]) -> Tensor:
    return joined([pixels(load_any(path)) for path in paths], "images")


def _copy_decides(job: _Job, images: Tensor) -> bool:
    """Tell whether the same pictures lie beside these with whitening undone."""
    if not all(IMAGES.search(path.stem) for path in job.paths):
        return False
    copies = _copies(job)
    whole = all(path.is_file() for path in copies)
    return whole and proves_whitening(images, _pixels_of(copies))


def _writers_copy(job: _Job, images: Tensor, given: bool) -> Tensor:
    """Return the writer's copy with whitening undone, images_zca_*.pt, as it is.

    It was `given`, with its labels beside images_*.pt, or it must lie beside those.
    """
    others = _copies(job, given)
    absent = ", ".join(path.name for path in others if not path.is_file())
    reference = "the real training images as zca_reference= (--read zca_reference=...)"
    ensure(
        given or not absent,
        f"zca=True, but its inverse-whitened copy {absent} is absent; pass "
        f"images_zca_{{iteration}}.pt itself, or {reference}",
    )
    job.undone["zca"] = "by the file's writer (images_zca_*.pt)"
    if not absent:
        other = _pixels_of(others)
        alike = same_detail(images, other)
        job.record["zca_detail"] = round(alike, 3)
        found = (
            f"{others[0].name} is of another run: its finest detail correlates "
            f"{alike:.2f} with this file's, 0.6 or more if they were of the same one"
        )
        ensure(
            given or alike >= SAME_DETAIL, f"zca=True, but {found}; pass {reference}"
        )
        if alike < SAME_DETAIL:
            job.doubt(f"{found}: the labels beside it may not be those of these images")
        if not given:
            images = other
            job.undone["zca"] = f"read from {', '.join(path.name for path in others)}"
    assumed = "ZCA whitening, undone by the writer"
    if job.told is not None:  # it was done before
        return job.denormalised(images, job.told, f"{assumed}, of normalised pixels")
    return job.as_stored(images, assumed)


# --- Detection ---------------------------------------------------------------------


def _detect(job: _Job) -> str:
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


def _detect_folder(job: _Job, folder: Path) -> str:
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


def _detect_entries(job: _Job) -> str:
    """Tell normalised sets from raw decoder output, in a dict with 'data'."""
    if job.path.name.startswith("imagenet_distill_"):
        return "predd"
    images, _ = pair(_entries(job)[0])
    if (
        re.match(r"res_(\d+_)?(DC|DSA|DM)_", job.path.name)
        or any(name in job.payload for name in _SCORES)
        or images.abs().max() > _DECODED
    ):
        return "dc"
    raise _ambiguous(describe(job.payload), "dc", "predd")


def _detect_trajectory(job: _Job, images: Path) -> str:
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
