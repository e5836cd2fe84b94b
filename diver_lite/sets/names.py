"""Class indices and names: the ImageNet subsets, and the small data sets."""

from __future__ import annotations

import re
from collections.abc import Sequence

from diver_lite.checks import InputError

# ImageNet-1k index, WordNet id and name of each class of the subsets below.
# Source: timm's imagenet_synsets.txt, compared with torchvision's Imagenette.
_IMAGENET = """
0 n01440764 tench, 9 n01518878 ostrich, 11 n01531178 goldfinch, 13 n01534433 junco,
19 n01592084 chickadee, 22 n01614925 bald eagle, 24 n01622779 great grey owl,
64 n01749939 green mamba, 72 n01773157 black and gold garden spider,
74 n01773797 garden spider, 76 n01774750 tarantula, 84 n01806143 peacock,
88 n01818515 macaw, 89 n01819313 cockatoo, 90 n01820546 lorikeet,
92 n01828970 bee eater, 93 n01829413 hornbill, 94 n01833805 hummingbird,
96 n01843383 toucan, 100 n01860187 black swan, 102 n01872401 echidna,
129 n02006656 spoonbill, 130 n02007558 flamingo, 135 n02013706 limpkin,
136 n02017213 European gallinule, 139 n02025239 ruddy turnstone, 144 n02051845 pelican,
145 n02056570 king penguin, 148 n02071294 killer whale, 155 n02086240 Shih-Tzu,
159 n02087394 Rhodesian ridgeback, 162 n02088364 beagle, 167 n02089973 English foxhound,
176 n02091831 Saluki, 182 n02093754 Border terrier, 193 n02096294 Australian terrier,
207 n02099601 golden retriever, 217 n02102040 English springer,
229 n02105641 Old English sheepdog, 236 n02107142 Doberman, 255 n02111129 Leonberg,
258 n02111889 Samoyed, 259 n02112018 Pomeranian, 262 n02112706 Brabancon griffon,
273 n02115641 dingo, 275 n02116738 African hunting dog, 281 n02123045 tabby,
282 n02123159 tiger cat, 283 n02123394 Persian cat, 284 n02123597 Siamese cat,
285 n02124075 Egyptian cat, 287 n02127052 lynx, 289 n02128757 snow leopard,
290 n02128925 jaguar, 291 n02129165 lion, 292 n02129604 tiger, 309 n02206856 bee,
321 n02276258 admiral, 322 n02277742 ringlet, 324 n02280649 cabbage butterfly,
326 n02281787 lycaenid, 333 n02342885 hamster, 339 n02389026 sorrel,
364 n02457408 three-toed sloth, 374 n02488291 langur, 376 n02489166 proboscis monkey,
392 n02606052 rock beauty, 452 n02869837 bonnet, 482 n02979186 cassette player,
491 n03000684 chain saw, 497 n03028079 church, 500 n03042490 cliff dwelling,
503 n03062245 cocktail shaker, 535 n03208938 disk brake, 554 n03344393 fireboat,
565 n03393912 freight car, 566 n03394916 French horn, 569 n03417042 garbage truck,
571 n03425413 gas pump, 574 n03445777 golf ball, 576 n03447447 gondola,
599 n03530642 honeycomb, 685 n03841143 odometer, 688 n03857828 oscilloscope,
701 n03888257 parachute, 713 n03924679 photocopier, 739 n03992509 potter's wheel,
779 n04146614 school bus, 783 n04153751 screw, 816 n04277352 spindle,
874 n04487081 trolleybus, 882 n04517823 vacuum, 904 n04589890 window screen,
916 n06359193 web site, 943 n07718472 cucumber, 945 n07720875 bell pepper,
948 n07742313 Granny Smith, 949 n07745940 strawberry, 950 n07747607 orange,
951 n07749582 lemon, 952 n07753113 fig, 953 n07753275 pineapple, 954 n07753592 banana,
956 n07760859 custard apple, 957 n07768694 pomegranate, 984 n11879895 rapeseed,
986 n12057211 yellow lady's slipper, 987 n12144580 corn, 993 n13037406 gyromitra,
995 n13044778 earthstar
"""
_ROWS = [row.split(maxsplit=2) for row in " ".join(_IMAGENET.split()).split(", ")]
WORDNET_IDS = {int(index): wnid for index, wnid, _ in _ROWS}
_NAMES = {int(index): name for index, _, name in _ROWS}
# The ImageNet-1k indices of each subset; the position is the subset's label.
# Source: MTT and GLaD utils.py:Config, NCFM imagenet_subset/class*.txt. GLaD calls
# its subsets A to E alpha to epsilon. NCFM has another fruit and another spider.
_INDICES = {
    "imagenette": "0 217 482 491 497 566 569 571 574 701",
    "imagewoof": "193 182 258 162 155 167 159 273 207 229",
    "imagemeow": "281 282 283 284 285 291 292 290 289 287",
    "imagesquawk": "84 130 88 144 145 22 96 9 100 89",
    "imagefruit": "953 954 949 950 951 957 952 945 943 948",
    "imageyellow": "309 986 954 951 987 779 599 291 72 11",
    "imagenet-a": "255 376 984 364 500 986 333 576 148 135",
    "imagenet-b": "129 916 90 275 995 874 102 259 685 139",
    "imagenet-c": "565 94 554 535 92 392 291 136 324 11",
    "imagenet-d": "9 258 13 262 19 339 321 24 93 322",
    "imagenet-e": "816 96 100 145 739 713 783 76 688 326",
    "imageidc": "452 64 374 236 993 176 882 904 503 74",
    "imagefruit-ncfm": "953 954 949 950 951 957 952 945 943 956",
    "imageyellow-ncfm": "309 986 954 951 987 779 599 291 74 11",
}
# name -> ((ImageNet-1k index, class name), ...)
SUBSETS = {
    subset: tuple((int(index), _NAMES[int(index)]) for index in indices.split())
    for subset, indices in _INDICES.items()
}

_SMALL = """
mnist: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9
fashion-mnist: T-shirt, Trouser, Pullover, Dress, Coat, Sandal, Shirt, Sneaker, Bag,
  Ankle boot
svhn: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9
cifar10: airplane, automobile, bird, cat, deer, dog, frog, horse, ship, truck
cifar100: apple, aquarium fish, baby, bear, beaver, bed, bee, beetle, bicycle, bottle,
  bowl, boy, bridge, bus, butterfly, camel, can, castle, caterpillar, cattle, chair,
  chimpanzee, clock, cloud, cockroach, couch, crab, crocodile, cup, dinosaur, dolphin,
  elephant, flatfish, forest, fox, girl, hamster, house, kangaroo, keyboard, lamp,
  lawn mower, leopard, lion, lizard, lobster, man, maple tree, motorcycle, mountain,
  mouse, mushroom, oak tree, orange, orchid, otter, palm tree, pear, pickup truck,
  pine tree, plain, plate, poppy, porcupine, possum, rabbit, raccoon, ray, road,
  rocket, rose, sea, seal, shark, shrew, skunk, skyscraper, snail, snake, spider,
  squirrel, streetcar, sunflower, sweet pepper, table, tank, telephone, television,
  tiger, tractor, train, trout, tulip, turtle, wardrobe, whale, willow tree, wolf,
  woman, worm
"""
_LINES = (line.split(": ") for line in _SMALL.strip().replace("\n  ", " ").splitlines())
_CLASSES = {dataset: tuple(names.split(", ")) for dataset, names in _LINES}
FASHION_MNIST_CLASSES, CIFAR10_CLASSES = _CLASSES["fashion-mnist"], _CLASSES["cifar10"]
DATASETS = (*_CLASSES, "tiny-imagenet", "imagenet", *SUBSETS)
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


def _key(name: str) -> str:
    return re.sub(r"[-_ ]", "", str(name).lower())


_KEYS = {_key(name): name for name in DATASETS} | {
    _key(alias): name for alias, name in ALIASES.items()
}
# What may be read out of a file name: no bare words ("yellow", "tiny"), and not plain
# "imagenet", which in practice stands for any of its subsets.
_IN_NAMES = sorted(
    (
        re.escape(name).replace(r"\-", "[-_ ]?").replace("cifar", "cifar-?")
        for name in {*DATASETS, *ALIASES} - {"imagenet", "imagenet-10"}
        if re.search("image|cifar|mnist|svhn", name)
    ),
    key=len,
    reverse=True,
)
_IN_NAME = re.compile(rf"(?<![a-z0-9])({'|'.join(_IN_NAMES)})(?![a-z0-9])")


def dataset_name(name: str) -> str:
    """Return the canonical name of a data set, whatever its spelling.

    Raises:
        InputError: the name is none of `DATASETS` and none of their aliases.

    Source: ours: every repository spells these names in its own way.
    """
    found = _KEYS.get(_key(name))
    if found is None:
        raise InputError(
            f"dataset {name!r} is unknown; expected one of {', '.join(DATASETS)}"
        )
    return found


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
    return numbered(200) if dataset == "tiny-imagenet" else _CLASSES[dataset]


def imagenet_subset(name: str) -> str:
    """Return the canonical name of an ImageNet subset, or "imagenet" for all of it.

    Raises:
        InputError: the name is something else.
    """
    allowed = (*SUBSETS, "imagenet")
    found = _KEYS.get(_key(name))
    if found not in allowed:
        raise InputError(f"subset {name!r}: expected one of {', '.join(allowed)}")
    return found


def imagenet_indices(subset: str) -> tuple[int, ...]:
    """Return the ImageNet-1k index of each class of a subset, in label order.

    With them as `class_map`, `recover` refines a subset with a prior for ImageNet.

    Args:
        subset: a name from `SUBSETS`, or "imagenet" for all 1000.
    """
    if subset == "imagenet":
        return tuple(range(1000))
    return tuple(index for index, _ in SUBSETS[subset])


def match_folders(folders: Sequence[str], subset: str) -> dict[str, int]:
    """Return which folders hold a subset's classes, and the label of each.

    Folders are named by WordNet id, by class name, by label and name as
    `save_image_folder` does, or by ImageNet index, all in one way; others are left out.

    Args:
        folders: names of folders.
        subset: a name from `SUBSETS`, or "imagenet" for all 1000.

    Raises:
        InputError: no way of naming finds every class.

    Source: ours; the 1000 WordNet ids are in the order of ImageNet's indices.
    """
    names, indices = class_names(subset), imagenet_indices(subset)
    ids = sorted(f for f in folders if re.fullmatch(r"n\d{8}", f))
    if subset != "imagenet":
        ids = [WORDNET_IDS[index] for index in indices]
    ways = {
        "WordNet ids": ids,
        "class names": names,
        "labels and names": [f"{i:03d}_{name}" for i, name in enumerate(names)],
        "ImageNet indices": [str(index) for index in indices],
    }
    best: tuple[str, Sequence[str], list[int]] = ("", names, [])
    for way, wanted in ways.items():
        labels = {_letters(name): label for label, name in enumerate(wanted)}
        found = {f: labels[_letters(f)] for f in folders if _letters(f) in labels}
        if len(set(found.values())) == len(found) == len(names):
            return found
        if len(found) > len(best[2]):
            best = (f" by {way}", wanted, [*found.values()])
    way, wanted, labels = best
    lacking = [name for label, name in enumerate(wanted) if label not in labels]
    raise InputError(
        f"{len(folders)} class folders, of which {len(labels)} are classes of "
        f"{subset!r}{way}; expected {len(names)}, each once"
        + (f" (no {lacking[0]!r}, for example)" if lacking else "")
    )


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def numbered(count: int) -> tuple[str, ...]:
    """Return stand-in names for classes that nobody has named."""
    return tuple(f"class {index}" for index in range(count))
