"""Class indices and names: the ImageNet subsets, and the small data sets."""

from __future__ import annotations

import json
import re
from collections.abc import Collection

from diver_lite.assets import asset_path
from diver_lite.checks import describe, ensure


def numbered(count: int) -> tuple[str, ...]:
    """Return stand-in names for classes that nobody has named."""
    return tuple(f"class {index}" for index in range(count))


# Lists and numbers of other people, with their sources.
TABLES = json.loads(asset_path("datasets.json").read_text("utf-8"))
# ImageNet-1k index -> WordNet id, of each class of the subsets
WORDNET_IDS = {int(index): wnid for index, (wnid, _) in TABLES["imagenet"].items()}
# name -> ((ImageNet-1k index, class name), ...); the position is the subset's label
SUBSETS = {
    subset: tuple((index, TABLES["imagenet"][str(index)][1]) for index in indices)
    for subset, indices in TABLES["subsets"].items()
}
# subset, or all of ImageNet -> the index of each of its classes, in label order
_INDICES = TABLES["subsets"] | {"imagenet": range(1000)}
_CLASSES = {
    **{dataset: tuple(names) for dataset, names in TABLES["classes"].items()},
    "tiny-imagenet": numbered(200),  # its files name them by WordNet id only
}
FASHION_MNIST_CLASSES = _CLASSES["fashion-mnist"]
CIFAR10_CLASSES = _CLASSES["cifar10"]
DATASETS = (*_CLASSES, "imagenet", *SUBSETS)
# Other spellings in circulation; hyphens, underscores, blanks and case don't matter.
ALIASES = {
    alias: dataset
    for dataset, spellings in TABLES["spellings"].items()
    for alias in spellings
}


def _key(name: str) -> str:
    return re.sub(r"[-_ ]", "", str(name).lower())


_KEYS = {
    **{_key(name): name for name in DATASETS},
    **{_key(alias): name for alias, name in ALIASES.items()},
}
# What may be read out of a file name: no bare words ("yellow", "tiny"), and not plain
# "imagenet", which in practice stands for any of its subsets.
_IN_NAMES = sorted(
    (
        re.escape(name).replace(r"\-", "[-_ ]?").replace("cifar", "cifar-?")
        for name in {*DATASETS, *ALIASES, *TABLES["others"]}
        - {"imagenet", "imagenet-10"}
        if re.search("image|cifar|mnist|svhn", name)
    ),
    key=len,
    reverse=True,
)
_IN_NAME = re.compile(rf"(?<![a-z0-9])({'|'.join(_IN_NAMES)})(?![a-z0-9])")


def dataset_name(
    name: str, argument: str = "dataset", allowed: Collection[str] = DATASETS
) -> str:
    """Return the canonical name of a data set, whatever its spelling.

    Raises `InputError` if it is none of those allowed and none of their aliases.

    Source: ours: every repository spells these names in its own way.
    """
    found = usual_name(name)
    ensure(
        found in allowed,
        f"{argument} {describe(name)} is unknown; expected one of {', '.join(allowed)}",
    )
    return found


def usual_name(name: str) -> str:
    """Return the canonical name of a data set, or a name that is none as it is."""
    return _KEYS.get(_key(name), name)


def dataset_in(text: str) -> str | None:
    """Return the data set that a file or folder name mentions, if exactly one."""
    found = {_KEYS.get(_key(match)) for match in _IN_NAME.findall(text.lower())}
    return found.pop() if len(found) == 1 else None


def class_names(dataset: str) -> tuple[str, ...]:
    """Return the names of the classes of one of `DATASETS`, in label order.

    Source: `TABLES`; torchvision's list for all of ImageNet. Tiny ImageNet's are only
    numbered.
    """
    if dataset == "imagenet":
        from torchvision.models import ResNet18_Weights

        return tuple(ResNet18_Weights.DEFAULT.meta["categories"])
    return _CLASSES.get(dataset) or tuple(name for _, name in SUBSETS[dataset])


def is_imagenet(dataset: str) -> bool:
    """Return whether a data set's canonical name is ImageNet's, or a subset's of it."""
    return dataset in _INDICES


def imagenet_subset(name: str) -> str:
    """Return the canonical name of an ImageNet subset, or "imagenet" for all of it.

    Raises `InputError` for any other name.
    """
    return dataset_name(name, "subset", _INDICES)


def imagenet_indices(subset: str) -> tuple[int, ...]:
    """Return the ImageNet-1k index of each class of a subset, in label order.

    With them as `class_map`, `recover` refines a subset with a prior for ImageNet.
    The subset is one of `SUBSETS`, or "imagenet" for all 1000.
    """
    return tuple(_INDICES[subset])


def to_cell(text: str) -> str:
    """Return a text for a CSV, which no spreadsheet takes for a formula."""
    return re.sub(r"^(?='*[=+\-@\t\r])", "'", text)


def from_cell(cell: str) -> str:
    """Return what `to_cell` was given."""
    return re.sub(r"^'(?='*[=+\-@\t\r])", "", cell)


def slug(name: str) -> str:
    """Return a name as a folder can carry it."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "class"
