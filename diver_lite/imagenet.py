"""Class indices and names: the ImageNet subsets, and the small data sets."""

from __future__ import annotations

import re

from diver_lite.data import CIFAR10_CLASSES, FASHION_MNIST_CLASSES
from diver_lite.errors import InputError


def _subset(table: str) -> tuple[tuple[int, str], ...]:
    rows = (row.strip().split(" ", 1) for row in table.split(","))
    return tuple((int(index), name) for index, name in rows)


# name -> ((ImageNet-1k index, class name), ...); the position is the subset's label.
# Source: MTT and GLaD utils.py:Config, NCFM imagenet_subset/class*.txt. GLaD calls
# its subsets A to E alpha to epsilon. NCFM has another fruit and another spider.
SUBSETS: dict[str, tuple[tuple[int, str], ...]] = {
    "imagenette": _subset(
        "0 tench, 217 English springer, 482 cassette player, 491 chain saw, "
        "497 church, 566 French horn, 569 garbage truck, 571 gas pump, "
        "574 golf ball, 701 parachute"
    ),
    "imagewoof": _subset(
        "193 Australian terrier, 182 Border terrier, 258 Samoyed, 162 beagle, "
        "155 Shih-Tzu, 167 English foxhound, 159 Rhodesian ridgeback, 273 dingo, "
        "207 golden retriever, 229 Old English sheepdog"
    ),
    "imagemeow": _subset(
        "281 tabby, 282 tiger cat, 283 Persian cat, 284 Siamese cat, "
        "285 Egyptian cat, 291 lion, 292 tiger, 290 jaguar, 289 snow leopard, "
        "287 lynx"
    ),
    "imagesquawk": _subset(
        "84 peacock, 130 flamingo, 88 macaw, 144 pelican, 145 king penguin, "
        "22 bald eagle, 96 toucan, 9 ostrich, 100 black swan, 89 cockatoo"
    ),
    "imagefruit": _subset(
        "953 pineapple, 954 banana, 949 strawberry, 950 orange, 951 lemon, "
        "957 pomegranate, 952 fig, 945 bell pepper, 943 cucumber, 948 Granny Smith"
    ),
    "imageyellow": _subset(
        "309 bee, 986 yellow lady's slipper, 954 banana, 951 lemon, 987 corn, "
        "779 school bus, 599 honeycomb, 291 lion, "
        "72 black and gold garden spider, 11 goldfinch"
    ),
    "imagenet-a": _subset(
        "255 Leonberg, 376 proboscis monkey, 984 rapeseed, 364 three-toed sloth, "
        "500 cliff dwelling, 986 yellow lady's slipper, 333 hamster, 576 gondola, "
        "148 killer whale, 135 limpkin"
    ),
    "imagenet-b": _subset(
        "129 spoonbill, 916 web site, 90 lorikeet, 275 African hunting dog, "
        "995 earthstar, 874 trolleybus, 102 echidna, 259 Pomeranian, "
        "685 odometer, 139 ruddy turnstone"
    ),
    "imagenet-c": _subset(
        "565 freight car, 94 hummingbird, 554 fireboat, 535 disk brake, "
        "92 bee eater, 392 rock beauty, 291 lion, 136 European gallinule, "
        "324 cabbage butterfly, 11 goldfinch"
    ),
    "imagenet-d": _subset(
        "9 ostrich, 258 Samoyed, 13 junco, 262 Brabancon griffon, 19 chickadee, "
        "339 sorrel, 321 admiral, 24 great grey owl, 93 hornbill, 322 ringlet"
    ),
    "imagenet-e": _subset(
        "816 spindle, 96 toucan, 100 black swan, 145 king penguin, "
        "739 potter's wheel, 713 photocopier, 783 screw, 76 tarantula, "
        "688 oscilloscope, 326 lycaenid"
    ),
    "imageidc": _subset(
        "452 bonnet, 64 green mamba, 374 langur, 236 Doberman, 993 gyromitra, "
        "176 Saluki, 882 vacuum, 904 window screen, 503 cocktail shaker, "
        "74 garden spider"
    ),
}
SUBSETS["imagefruit-ncfm"] = (*SUBSETS["imagefruit"][:9], (956, "custard apple"))
SUBSETS["imageyellow-ncfm"] = (
    *SUBSETS["imageyellow"][:8],
    (74, "garden spider"),
    SUBSETS["imageyellow"][9],
)

_NUM_CLASSES = dict.fromkeys(("mnist", "fashion-mnist", "svhn", "cifar10"), 10)
_NUM_CLASSES |= {"cifar100": 100, "tiny-imagenet": 200, "imagenet": 1000}
_NUM_CLASSES |= dict.fromkeys(SUBSETS, 10)
DATASETS = tuple(_NUM_CLASSES)
# Other spellings in circulation; hyphens, underscores, blanks and case don't matter.
_SPELLINGS = {
    "tiny-imagenet": "tiny",
    "fashion-mnist": "fmnist",
    "imagenet": "imagenet-1k ilsvrc2012",
    "imagenette": "imagenet-nette nette",
    "imagewoof": "imagenet-woof woof",
    "imagemeow": "imagenet-cats imagenet-meow images-meow cats meow",
    "imagesquawk": "imagenet-birds imagenet-squawk birds squawk",
    "imagefruit": "imagenet-fruits imagenet-fruit imagefruits fruits",
    "imageyellow": "imagenet-yellow yellow",
    "imageidc": "imagenet-idc imagenet-10",
    "imagenet-a": "imagenet-alpha",
    "imagenet-b": "imagenet-beta",
    "imagenet-c": "imagenet-gamma",
    "imagenet-d": "imagenet-delta",
    "imagenet-e": "imagenet-epsilon",
}
ALIASES = {
    alias: name for name, spelled in _SPELLINGS.items() for alias in spelled.split()
}
_CIFAR100 = """apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl
boy bridge bus butterfly camel can castle caterpillar cattle chair chimpanzee clock
cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish forest fox
girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man
maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree
pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road
rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip
turtle wardrobe whale willow_tree wolf woman worm"""


def _key(name: str) -> str:
    return re.sub(r"[-_ ]", "", name.lower())


_KEYS = {_key(name): name for name in DATASETS} | {
    _key(alias): name for alias, name in ALIASES.items()
}
# What may be read out of a file name: no bare words ("yellow", "tiny"), and not plain
# "imagenet", which in practice stands for any of its subsets.
_NAMES = sorted(
    (
        re.escape(name).replace(r"\-", "[-_ ]?").replace("cifar", "cifar-?")
        for name in {*DATASETS, *ALIASES} - {"imagenet", "imagenet-10"}
        if re.search("image|cifar|mnist|svhn", name)
    ),
    key=len,
    reverse=True,
)
_IN_NAME = re.compile(rf"(?<![a-z0-9])({'|'.join(_NAMES)})(?![a-z0-9])")


def dataset_name(name: str) -> str:
    """Return the canonical name of a data set, whatever its spelling.

    Raises:
        InputError: the name is none of `DATASETS` and none of their aliases.

    Source: ours: every repository spells these names in its own way.
    """
    try:
        return _KEYS[_key(name)]
    except KeyError:
        raise InputError(
            f"dataset {name!r} is unknown; expected one of {', '.join(DATASETS)}"
        ) from None


def dataset_in(text: str) -> str | None:
    """Return the data set that a file or folder name mentions, if exactly one."""
    found = {_KEYS[_key(match)] for match in _IN_NAME.findall(text.lower())}
    return found.pop() if len(found) == 1 else None


def class_names(dataset: str) -> tuple[str, ...]:
    """Return the names of a data set's classes, in label order.

    Args:
        dataset: a canonical name from `DATASETS`.

    Source: the subset table above; torchvision's list for all of ImageNet; Tiny
    ImageNet's classes are numbered, as its files name them by WordNet id only.
    """
    if dataset in SUBSETS:
        return tuple(name for _, name in SUBSETS[dataset])
    if dataset == "imagenet":
        from torchvision.models import ResNet18_Weights

        return tuple(ResNet18_Weights.DEFAULT.meta["categories"])
    named = {
        "fashion-mnist": FASHION_MNIST_CLASSES,
        "cifar10": CIFAR10_CLASSES,
        "cifar100": tuple(name.replace("_", " ") for name in _CIFAR100.split()),
        "mnist": tuple("0123456789"),
        "svhn": tuple("0123456789"),
    }
    return named.get(dataset) or numbered(_NUM_CLASSES[dataset])


def numbered(count: int) -> tuple[str, ...]:
    """Return stand-in names for classes that nobody has named."""
    return tuple(f"class {index}" for index in range(count))
