"""One loader for every distilled set: shipped, or of any published format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from torch import Tensor

from diver_lite.assets import asset_path, list_assets
from diver_lite.checks import InputError, instance, one_of, path, require
from diver_lite.sets.classes import in_order_of, is_numbered
from diver_lite.sets.distilled import INDEX, DistilledSet
from diver_lite.sets.formats import FORMATS, read
from diver_lite.sets.names import SUBSETS, class_names, dataset_name, imagenet_subset
from diver_lite.sets.normalisation import Statistics

_SHIPPED = "distilled/"
# the arguments of `load_distilled` that say how a published file is to be read
READ_OPTIONS = (
    "experiment", "zca", "zca_reference", "factor", "space", "normalisation",
)  # fmt: skip


def list_shipped() -> tuple[str, ...]:
    """Return the names of the distilled sets that ship with the package."""
    files = list_assets(_SHIPPED)
    return tuple(Path(file).stem for file in files if file.endswith(".safetensors"))


def load_distilled(
    source: str | Path | Sequence[str | Path],
    *,
    format: str = "auto",
    dataset: str | None = None,
    experiment: int | None = None,
    zca: bool | None = None,
    zca_reference: Tensor | None = None,
    factor: int | None = None,
    space: str | None = None,
    normalisation: Statistics | Literal["none"] | None = None,
) -> DistilledSet:
    """Read a distilled set, shipped or published, with its normalisation undone.

    No file says whether its pixels were normalised: the pictures that come out are
    compared with what the data set looks like, and with the other readings. Pixels
    that lie in [0, 1] are read as they are; other doubts are warned about.

    Args:
        source: the name of a shipped set (`list_shipped()`), a file, a folder or a
            .zip of one; for sets split over several images_*.pt, all of those files in
            order.
        format: a key of `FORMATS`; "auto" goes by names and contents, and warns where
            another format writes files alike.
        dataset: what was distilled ("cifar10", "imagefruit", ...): gives class names
            and the mean and std to undo. Default: what file or folder names say.
        experiment: dc, predd: which of the file's entries. Default: the first of
            repetitions, the last of snapshots, which have their detail in common.
        zca: mtt, datm, dd-ranking: whether pixels are ZCA-whitened. Files don't say. By
            default those that neither look nor are called so are read as normalised,
            for CIFAR and Tiny ImageNet with a warning; others need a reference.
        zca_reference: (M, 3, H, W) in [0, 1], the real training images the whitening
            was fitted on. Without it a whitened set needs its run's images_zca_*.pt;
            kip and rfad always need it.
        factor: ncfm: tiles per side; 1 keeps the canvas. Default: what its seams show.
            With 2 image i becomes images 4i..4i+3: top left, top right, bottom left,
            bottom right, each upsampled bilinearly to the canvas's size.
        space: glad: "wp" (default, decoded by the GAN) or "p" (plain pixels).
        normalisation: (mean, std) to undo instead of the known ones of `dataset`, or
            "none" for pixels that are stored as they are.

    Returns:
        The set; its `provenance` has every change to the pixels ("undone"), what they
        were taken for ("assumed"), how well that fits ("fit", see
        `normalisation.measure`), and what was warned about ("doubts").

    Raises:
        InputError: missing, damaged or ambiguous files, files that hold code (it is
            never run), arguments that are needed or don't belong to the format, pixels
            that are neither normalised nor in [0, 1], that were not whitened as
            `zca_reference` says, or whose images_zca_*.pt is of another run.

    Warns:
        UserWarning: another reading fits much better, a file leaves a choice open, its
            name or contents contradict `dataset`, or nothing names the classes.

    Source: the repositories named at each reader.
    """
    one_of(format, "format", ("auto", *FORMATS))
    paths = _find(source)
    if dataset is not None:
        dataset = dataset_name(dataset)
    given = {
        "experiment": experiment,
        "zca": zca,
        "zca_reference": zca_reference,
        "factor": factor,
        "space": space,
        "normalisation": normalisation,
    }
    options = {name: value for name, value in given.items() if value is not None}
    ours = paths[0].suffix == ".safetensors" or (paths[0] / INDEX).is_file()
    if format == "diver-lite" or (format == "auto" and ours):
        if options or len(paths) > 1:
            raise InputError(
                f"{paths[0]}: format 'diver-lite' is one file and has nothing to undo; "
                f"found {len(paths)} file(s) and {[*options]}"
            )
        stored = DistilledSet.load(paths[0])
        if dataset and stored.provenance.get("dataset") not in (None, dataset):
            raise InputError(
                f"{paths[0]}: dataset {dataset!r} was asked for, but the file says "
                f"{stored.provenance['dataset']!r}"
            )
        return stored
    return read(paths, format, dataset, options)


def as_subset(distilled: DistilledSet, subset: str) -> tuple[DistilledSet, str]:
    """Check that a set's classes are those of an ImageNet subset, and name them.

    Args:
        distilled: classes that have only numbers get the subset's names, classes in
            another order its order; `InputError` for other names or another number.
        subset: any spelling of an ImageNet subset, or "imagenet".

    Returns:
        The set, and the subset's canonical name: NCFM's variant if the set is NCFM's.
    """
    subset = imagenet_subset(subset)
    if distilled.provenance.get("dataset") == f"{subset}-ncfm":
        subset = f"{subset}-ncfm"
    names = class_names(subset)
    found = distilled.class_names
    if len(found) != len(names):
        raise InputError(
            f"the set has {len(found)} classes; subset {subset!r} has {len(names)}"
        )
    if is_numbered(found):
        return replace(distilled, class_names=names), subset
    if strange := [*(Counter(found) - Counter(names))]:
        lacking = [*(Counter(names) - Counter(found))]
        message = f"the set's classes are not those of subset {subset!r}: it has "
        message += f"{strange[0]!r} instead of {lacking[0]!r}"
        if fits := [name for name in SUBSETS if class_names(name) == found]:
            message += f"; they are those of {fits[0]!r}"
        raise InputError(message)
    return in_order_of(distilled, names, theirs=f"subset {subset!r}"), subset


def _find(source: str | Path | Sequence[str | Path]) -> list[Path]:
    if isinstance(source, str) and source in list_shipped():
        return [asset_path(f"{_SHIPPED}{source}.safetensors")]
    files = [source] if isinstance(source, str | Path) else source
    instance(files, "source", list | tuple)
    paths = [path(file, "source") for file in files]
    if absent := [str(path) for path in paths if not path.exists()]:
        raise InputError(
            f"source {absent[0]!r}: no such file or folder, and not the name of a "
            f"shipped set (shipped: {', '.join(list_shipped()) or 'none'})"
        )
    require(len(paths) > 0, "source", source, "at least one file")
    return paths
