"""MTT, DATM, EDF, GLaD and DD-Ranking: images in one file, labels in that beside it.

`images_{iteration}.pt` or `images_best.pt`, and `labels_...pt` of the same ending: bare
tensors, (N, C, H, W) and one label or K logits for each. Large sets are split.

- mtt: integers for labels. Pixels are normalised with mean and std of the data set, or
  ZCA-whitened without, and the file doesn't say which. `images_zca_{iteration}.pt` is
  the writer's own copy with the whitening undone, though perhaps of another run. The
  learning rate was learned, and never saved.
- datm: float logits for labels, to which the trainer applies a softmax; `lr_*.pt`.
- glad: iterations of five digits. Pixels are normalised with GLaD's own mean (that of
  SVHN) in space "wp", with the data set's in space "p".
- dd-ranking: a folder with images.pt, lr.pt and perhaps labels.pt; without labels the
  order is class-major.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from diver_lite.checks import InputError, ensure, one_of, require
from diver_lite.sets.contents import (
    IMAGES,
    best,
    describe,
    is_both,
    joined,
    learned_lr,
    load_any,
    partner,
    pixels,
    with_labels,
)
from diver_lite.sets.distilled import DistilledSet
from diver_lite.sets.formats.job import Job, class_major
from diver_lite.sets.names import SUBSETS, class_names
from diver_lite.sets.normalisation import (
    SAME_DETAIL,
    in_unit_range,
    looks_whitened,
    proves_whitening,
    same_detail,
    slow_shares,
)

_LABELS = {  # format -> axes, and what they hold
    "mtt": (1, "integers ('datm' has logits)"),
    "datm": (2, "float logits (N, K) ('mtt' has integers)"),
}
_SPACES = {"wp": "glad", "p": "mtt"}  # of GLaD's -> whose mean and std
_WITH_FILES = ("mnist", "fashion-mnist", "cifar10")  # see `real.load_dataset`
_OFTEN_WHITENED = ("cifar10", "cifar100", "tiny-imagenet")


def read_trajectory(job: Job) -> DistilledSet:
    """Read GeorgeCazenavette/mtt-distillation, and NUS-HPC-AI-Lab/DATM and EDF.

    The latter have logits for labels: their trainers apply a softmax to them. Undone:
    mean and std of the data set, or ZCA whitening.
    """
    images, labels = trajectory(job)
    ndim, expected = _LABELS[job.format]
    job.expect(labels.ndim == ndim, f"labels: found {describe(labels)}", expected)
    job.record["lr"] = None  # MTT's was learned, but never saved
    if job.format == "datm":  # whose trainer applies a softmax, whatever it is
        job.record |= {"lr": learned_lr(job.path), "soft_labels": "logits"}
    return job.finish(_undo_zca_or_mean(job, images), labels)


def read_dd_ranking(job: Job) -> DistilledSet:
    """Read NUS-HPC-AI-Lab/DD-Ranking's folder; without labels.pt: class-major.

    Undone: mean and std of the data set, or ZCA whitening.
    """
    if job.path.is_dir():
        job.paths = [job.path / "images.pt"]
    named = IMAGES.search(job.path.stem)
    if (named and partner(job.path, "labels").is_file()) or is_both(job.payload):
        images, labels = trajectory(job)
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
        labels = class_major(len(images), classes)
        job.record["labels_from"] = "class-major order"
    job.record["lr"] = learned_lr(job.path)
    return job.finish(_undo_zca_or_mean(job, images), labels)


def read_glad(job: Job) -> DistilledSet:
    """Read GeorgeCazenavette/glad.

    Undone: GLaD's own mean and std (space "wp"), or the data set's (space "p").
    """
    space = one_of(job.options.get("space", "wp"), "space", (*_SPACES,))
    job.record["space"] = space
    images, labels = trajectory(job)
    return job.finish(job.undo(images, _SPACES[space]), labels)


def trajectory(job: Job) -> tuple[Tensor, Tensor]:
    """Read images_*.pt with its labels_*.pt, or several of them one after another."""
    if job.path.is_dir():
        job.paths = [best(job.path)]
    images, labels = zip(*map(with_labels, job.paths), strict=True)
    return joined(images, "images"), joined(labels, "labels")


# --- Mean and std, or whitening: the file itself can't tell -----------------------


def _undo_zca_or_mean(job: Job, images: Tensor) -> Tensor:
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


def _undo_mean(job: Job, images: Tensor, told: bool) -> Tensor:
    """Undo mean and std; ask, unless `told`, where pixels look whitened."""
    if not told:
        job.record["zca_assumed"] = False
        if job.exact(images) is None and not in_unit_range(images):
            _ask_whether_whitened(job, looks_whitened(images))
    return job.undo(images, "mtt")


def _ask_whether_whitened(job: Job, looks: bool | None) -> None:
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


def _copies(job: Job, given: bool = False) -> list[Path]:
    """Return where the writer's copies without whitening lie; or, if given, theirs."""
    return [partner(path, "images" if given else "images_zca") for path in job.paths]


def _pixels_of(paths: Sequence[Path]) -> Tensor:
    return joined([pixels(load_any(path)) for path in paths], "images")


def _copy_decides(job: Job, images: Tensor) -> bool:
    """Tell whether the same pictures lie beside these with whitening undone."""
    if not all(IMAGES.search(path.stem) for path in job.paths):
        return False
    copies = _copies(job)
    whole = all(path.is_file() for path in copies)
    return whole and proves_whitening(images, _pixels_of(copies))


def _writers_copy(job: Job, images: Tensor, given: bool) -> Tensor:
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
