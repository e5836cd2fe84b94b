"""Undo what was done to published pixels, judge the outcome, and keep a record of both.

The thresholds stand between what was measured on released sets, see `normalisation`.
"""

from __future__ import annotations

import math
import re
import warnings
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from diver_lite.checks import InputError, describe, ensure
from diver_lite.sets.names import dataset_in, dataset_name
from diver_lite.sets.normalisation import (
    STATISTICS,
    UNIT_RANGE,
    Fit,
    Statistics,
    as_stored_there,
    better_neighbour,
    denormalise,
    family_name,
    fits_better,
    in_unit_range,
    invert_kip,
    invert_zca,
    is_eight_bit,
    known_statistics,
    looks_whitened,
    measure,
    slow_shares,
)

# Its sets are stored as they are: the numbers in their maker's code draw pictures only.
_MEDMNIST = re.compile(
    r"(med|path|chest|derma|oct|pneumonia|retina|breast|blood|tissue|organ[-_ ]?[acs])"
    r"[-_ ]?mnist"
)
# How std grows when inverted: whitened .8 .. 1.2 times, others 2.0 (DM) .. 5.5 times.
_GROWTH = 1.6
# Outside [0, 1]: rightly inverted up to .73, explosions .88 .. 1.
_EXPLODED = 0.8
# How std changes when whitening alone is inverted: whitened alone .66 .. 1.2 times,
# normalised before .45 .. .60 times.
_SHRUNK = 0.63


@dataclass
class Undoing:
    """Undo what was done to pixels, judge the outcome, and keep a record of both."""

    paths: list[Path]  # the files that the pixels come from
    dataset: str | None  # its canonical name
    format: str  # a key of `formats.FORMATS`
    options: dict[str, Any]  # arguments that the caller of `load_distilled` gave
    place: Path  # of the first file; in an archive, if it came out of one
    # what the provenance shall say: "assumed", "fit", "doubts", ...
    record: dict[str, Any] = field(default_factory=dict)
    undone: dict[str, Any] = field(default_factory=dict)  # every change to the pixels

    def __post_init__(self) -> None:
        place = self.place.absolute()
        self.names = [folder.name for folder in (place, *place.parents)]
        # the data set that the path names, and the name that does
        found = ((dataset_in(name), name) for name in self.names)
        self.named, self.naming = next((n for n in found if n[0]), (None, ""))
        if self.dataset is None and self.named:
            self.dataset = self.named
            self.record["dataset_from"] = f"name {self.naming!r}"

    @property
    def path(self) -> Path:
        return self.paths[0]

    def doubt(self, message: str) -> None:
        """Warn, and keep what was said in the record."""
        self.record.setdefault("doubts", []).append(message)
        warnings.warn(f"{self.place}: {message}", stacklevel=2)

    @property
    def told(self) -> Statistics | None:
        """The mean and std that the caller gave as normalisation=, if any."""
        given = self.options.get("normalisation")
        if given is None or (isinstance(given, str) and given == "none"):
            return None
        return _checked(given)

    def judge(
        self, images: Tensor, assumed: str, used: Statistics | None = None
    ) -> Fit:
        """Record what pixels were taken for, and how well that fits; return the fit."""
        fit = measure(images, self.own() or used)
        self.record |= {"assumed": assumed, "fit": fit}
        return fit

    def own(self, family: str = "dc") -> Statistics | None:
        """Return mean and std of the data set in a family; DC has each one's own."""
        return STATISTICS[family].get(family_name(self.dataset))

    def exact(self, images: Tensor) -> Statistics | None:
        """Return the data set's own mean and std if they give 8-bit values."""
        own = self.own()  # a hundred of the images are enough
        return own if own and is_eight_bit(denormalise(images[:100], own)) else None

    def better_family(self, images: Tensor) -> str | None:
        """Say whose mean and std fit hard-labelled images, "mtt" or (clearly) "glad".

        None where that is no question: they are told, GLaD has none, or nobody's do.
        """
        own, mtt, glad = (self.own(family) for family in ("dc", "mtt", "glad"))
        told = "normalisation" in self.options or in_unit_range(images)
        settled = told or looks_whitened(images) or self.exact(images)
        if settled or own is None or mtt is None or glad is None:
            return None
        as_mtt, as_glad = (measure(denormalise(images, s), own) for s in (mtt, glad))
        return "glad" if fits_better(as_glad, as_mtt) else "mtt"

    def as_stored(self, images: Tensor, assumed: str = "") -> Tensor:
        """Return the images as they are, and warn if they seem to be normalised."""
        images = images.float()
        stored = "stored in [0, 1]" if in_unit_range(images) else "stored as they are"
        self._weigh(images, images, None, assumed or stored, "read as stored")
        return images

    def undo(self, images: Tensor, family: str) -> Tensor:
        """Return `images * std + mean` with the statistics that `family` uses.

        What is in [0, 1] already stays as it is, unless normalisation= was given.
        """
        if (told := self.told) is not None:
            return self.denormalised(images, told)
        if "normalisation" in self.options:  # "none"
            return self.as_stored(images)
        if in_unit_range(images):
            self.doubt(
                "all values lie in [0, 1], so no mean and std were applied: read as "
                "stored (normalisation=(mean, std) undoes them nevertheless)"
            )
            return self.as_stored(images)
        low, high = images.aminmax()
        ensure(
            bool(low < UNIT_RANGE[0] or high <= 2),
            f"found values {low:.2f}..{high:.2f}, none negative: neither normalised "
            "nor in [0, 1]; expected one of them (8-bit values must be divided by 255)",
        )
        if exact := self.exact(images):
            return self.denormalised(
                images, exact, "mean and std; 8-bit values then, as of real pictures"
            )
        ensure(
            self.dataset is not None,
            "pixels are normalised with the mean and std of a data set that neither "
            f"file nor name tells; pass dataset= (one of {[*STATISTICS[family]]} or "
            "an ImageNet subset), normalisation=(mean, std), or normalisation='none' "
            f"to read them as stored{self._relative()}",
        )
        advice = "; pass normalisation=(mean, std)"
        if self.own() is not None:
            name = family_name(self.dataset)
            advice += f", or its usual ones: --read normalisation={name}"
        known = known_statistics(self.dataset or "", family, advice)
        return self.denormalised(images, known)

    def _relative(self) -> str:
        """Return what is known of a data set that the path names, and we don't know."""
        named = any(_MEDMNIST.search(name.lower()) for name in self.names)
        return ", as all known sets of MedMNIST are" if named else ""

    def denormalised(
        self, images: Tensor, used: Statistics, assumed: str = "mean and std"
    ) -> Tensor:
        """Return `images * std + mean`, which is recorded and judged."""
        mean, std = used
        ensure(
            len(mean) == len(std) and len(mean) in (1, images.shape[1]),
            f"found images with {images.shape[1]} channel(s), but dataset "
            f"{self.dataset!r} with {len(mean)} means and {len(std)} stds",
        )
        self.undone["normalisation"] = {"mean": list(mean), "std": list(std)}
        read = denormalise(images, used)
        self._weigh(images, read, used, assumed, "mean and std were undone")
        return read

    def _weigh(
        self,
        stored: Tensor,
        read: Tensor,
        used: Statistics | None,
        assumed: str,
        done: str,
    ) -> None:
        """Judge pixels; warn if they fit better as stored, or undone once more.

        Whoever gave the numbers knows better.
        """
        fit = self.judge(read, assumed, used)
        own = self.own() or used
        if own is None or "normalisation" in self.options:
            return
        before = measure(stored, own)
        after = measure(denormalise(read, used or own), own)
        better = better_neighbour(len(read), before, fit, after)
        if better == "before":
            self.doubt(
                f"{done}, but the pixels look as if they had never been applied: "
                f"{_fits(fit)}, as stored {_fits(before)}; normalisation='none' reads "
                "them as stored"
            )
        if better == "after":
            self.doubt(
                f"{done}, but the pixels look normalised still: {_fits(fit)}; undoing "
                f"mean and std gives {_fits(after)}"
            )

    def undo_whitening(self, images: Tensor, reference: Any) -> Tensor:
        """Invert the whitening; refuse what explodes because it wasn't whitened so."""
        before = self.told
        known = (
            "ZCA",
            partial(invert_zca, before=before),
            "leave it out and pass zca=False (--read zca=False)",
        )
        name, invert, advice = _WHITENINGS.get(self.format, known)
        read = invert(images, as_stored_there(reference, images))
        growth = (read.std() / images.float().std()).item()
        assumed = f"{name} whitening"
        if before is not None:
            assumed += " of normalised pixels"
            mean, std = before
            self.undone["normalisation"] = {"mean": list(mean), "std": list(std)}
        fit = self.judge(read, assumed)
        fit |= slow_shares(images)
        self.undone["zca"] = f"inverse of the fit to {len(reference)} reference images"
        found = (
            f"the pixels were not whitened as {self.format} would have done with "
            f"zca_reference: its inverse makes them {growth:.1f} times as large, and "
            f"{fit['outside']:.0%} lie outside [0, 1]"
        )
        if self.format == "kip":
            self.undone["norm"] = "each image's contrast is the average real one's"
        if name == "ZCA":
            fit["growth"] = round(growth, 2)
            ensure(
                growth <= _GROWTH or not in_unit_range(images),
                f"{found}; as stored all lie in it: pass normalisation='none'",
            )
        ensure(fit["outside"] <= _EXPLODED, f"{found}; {advice}")
        if name == "ZCA" and before is None and not self.options.get("zca"):
            self._doubt_whitening(growth, found, advice)
        return read

    def _doubt_whitening(self, growth: float, found: str, advice: str) -> None:
        """Warn of pixels that may not have been whitened, or normalised as well."""
        if growth > _GROWTH:
            self.doubt(f"{found}; if the colours are wrong, {advice}")
        if growth < _SHRUNK:
            self.doubt(
                f"undoing the whitening makes the pixels {growth:.2f} times as large, "
                "as where they were normalised before; if they look coarse, pass the "
                "mean and std of that as normalisation= as well (--read normalisation="
                f"{self.dataset or 'cifar10'})"
            )


_ANOTHER = "pass another reference, or normalisation='none' to read as stored"
# format -> the name of its whitening, the inverse, what to do where that explodes
_WHITENINGS = {
    "kip": ("KIP's", partial(invert_kip, unit_norm=True), _ANOTHER),
    "rfad": ("RFAD's", partial(invert_kip, unit_norm=False), _ANOTHER),
}


def _checked(given: Any) -> Statistics:
    """Return the normalisation= that somebody gave, or raise."""
    try:
        if isinstance(given, str):  # a data set's name
            return STATISTICS["dc"][family_name(dataset_name(given))]
        mean, std = (tuple(float(value) for value in part) for part in given)
        if all(map(math.isfinite, mean)) and all(0 < s < math.inf for s in std):
            return mean, std
    except (TypeError, ValueError, KeyError):  # `InputError` is a ValueError
        pass
    raise InputError(
        f"normalisation: found {describe(given)}; expected (mean, std), each with one "
        "number per channel and std above 0, the name of a data set, or 'none'"
    )


def _fits(fit: Fit) -> str:
    return f"contrast {fit['contrast']:.2f}, mean {fit['offset']:.2f} std away"
