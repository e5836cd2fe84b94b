"""One loader for every distilled set: shipped, or of any published format."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from diver_lite.assets import asset_path, list_assets
from diver_lite.checks import ensure, instance, naming, one_of, path, require
from diver_lite.sets.contents import is_archive, unpacked
from diver_lite.sets.distilled import DistilledSet
from diver_lite.sets.formats import FORMATS, read
from diver_lite.sets.names import dataset_name
from diver_lite.sets.normalisation import Statistics
from diver_lite.sets.stored import StoredImages

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
    normalisation: Statistics | str | None = None,
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
            for CIFAR and Tiny ImageNet with a warning; others need a reference, or the
            run's images_zca_*.pt beside them, which is then read.
        zca_reference: (M, 3, H, W) in [0, 1], the real training images the whitening
            was fitted on, of MNIST and Fashion-MNIST as `load_dataset` returns them.
            Without it a whitened set needs its run's images_zca_*.pt; kip and rfad
            always need it.
        factor: ncfm: tiles per side; 1 keeps the canvas. Default: what its seams show.
            With 2 image i becomes images 4i..4i+3: top left, top right, bottom left,
            bottom right, each upsampled bilinearly to the canvas's size.
        space: glad: "wp" (default, decoded by the GAN) or "p" (plain pixels).
        normalisation: (mean, std) to undo instead of the known ones of `dataset`, the
            name of the data set whose own they are, or "none" for pixels that are
            stored as they are. With zca or zca_reference: what was done before the
            whitening. What is told so isn't doubted.

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
    first = paths[0]
    with naming(first):
        if not is_archive(first):
            return read(paths, first, format, dataset, options)
        ensure(len(paths) == 1, f"found {len(paths)} sources; expected one archive")
        with unpacked(first) as (inside, place), naming(place):
            result = read([inside], place, format, dataset, options, source=first.name)
            ensure(  # they would be read from a folder that is gone by then
                not isinstance(result.images, StoredImages),
                "its pictures fill more than a GiB; unzip it, and pass the folder",
            )
        return result


def _find(source: str | Path | Sequence[str | Path]) -> list[Path]:
    if isinstance(source, str) and source in list_shipped():
        if Path(source).exists():
            warnings.warn(
                f"source {source!r}: the shipped set is read, though a file or folder "
                f"here has its name; write ./{source} for that",
                stacklevel=3,
            )
        return [asset_path(f"{_SHIPPED}{source}.safetensors")]
    files = [source] if isinstance(source, str | Path) else source
    instance(files, "source", list | tuple)
    require(len(files) > 0, "source", source, "at least one file")
    paths = [path(file, "source") for file in files]
    absent = [str(path) for path in paths if not path.exists()]
    ensure(
        not absent,
        f"source {', '.join(absent)!r}: no such file or folder, and not the name of a "
        f"shipped set (shipped: {', '.join(list_shipped()) or 'none'})",
    )
    return paths
