"""Class indices and names: the ImageNet subsets, and the small data sets."""

from __future__ import annotations

import re
from collections.abc import Sequence

from diver_lite.checks import InputError


def _table(text: str) -> dict[str, tuple[str, ...]]:
    """Read lines of "name: entry, entry, ..."; indented ones continue."""
    lines = text.strip().replace("\n  ", " ").splitlines()
    pairs = (line.split(": ") for line in lines)
    return {name: tuple(entries.split(", ")) for name, entries in pairs}


# ImageNet-1k index and name of each class, in the order of the subset's labels.
# Source: MTT and GLaD utils.py:Config, NCFM imagenet_subset/class*.txt. GLaD calls
# its subsets A to E alpha to epsilon. NCFM has another fruit and another spider.
_SUBSETS = _table("""
imagenette: 0 tench, 217 English springer, 482 cassette player, 491 chain saw,
  497 church, 566 French horn, 569 garbage truck, 571 gas pump, 574 golf ball,
  701 parachute
imagewoof: 193 Australian terrier, 182 Border terrier, 258 Samoyed, 162 beagle,
  155 Shih-Tzu, 167 English foxhound, 159 Rhodesian ridgeback, 273 dingo,
  207 golden retriever, 229 Old English sheepdog
imagemeow: 281 tabby, 282 tiger cat, 283 Persian cat, 284 Siamese cat,
  285 Egyptian cat, 291 lion, 292 tiger, 290 jaguar, 289 snow leopard, 287 lynx
imagesquawk: 84 peacock, 130 flamingo, 88 macaw, 144 pelican, 145 king penguin,
  22 bald eagle, 96 toucan, 9 ostrich, 100 black swan, 89 cockatoo
imagefruit: 953 pineapple, 954 banana, 949 strawberry, 950 orange, 951 lemon,
  957 pomegranate, 952 fig, 945 bell pepper, 943 cucumber, 948 Granny Smith
imageyellow: 309 bee, 986 yellow lady's slipper, 954 banana, 951 lemon, 987 corn,
  779 school bus, 599 honeycomb, 291 lion, 72 black and gold garden spider,
  11 goldfinch
imagenet-a: 255 Leonberg, 376 proboscis monkey, 984 rapeseed, 364 three-toed sloth,
  500 cliff dwelling, 986 yellow lady's slipper, 333 hamster, 576 gondola,
  148 killer whale, 135 limpkin
imagenet-b: 129 spoonbill, 916 web site, 90 lorikeet, 275 African hunting dog,
  995 earthstar, 874 trolleybus, 102 echidna, 259 Pomeranian, 685 odometer,
  139 ruddy turnstone
imagenet-c: 565 freight car, 94 hummingbird, 554 fireboat, 535 disk brake,
  92 bee eater, 392 rock beauty, 291 lion, 136 European gallinule,
  324 cabbage butterfly, 11 goldfinch
imagenet-d: 9 ostrich, 258 Samoyed, 13 junco, 262 Brabancon griffon, 19 chickadee,
  339 sorrel, 321 admiral, 24 great grey owl, 93 hornbill, 322 ringlet
imagenet-e: 816 spindle, 96 toucan, 100 black swan, 145 king penguin,
  739 potter's wheel, 713 photocopier, 783 screw, 76 tarantula, 688 oscilloscope,
  326 lycaenid
imageidc: 452 bonnet, 64 green mamba, 374 langur, 236 Doberman, 993 gyromitra,
  176 Saluki, 882 vacuum, 904 window screen, 503 cocktail shaker, 74 garden spider
imagefruit-ncfm: 953 pineapple, 954 banana, 949 strawberry, 950 orange, 951 lemon,
  957 pomegranate, 952 fig, 945 bell pepper, 943 cucumber, 956 custard apple
imageyellow-ncfm: 309 bee, 986 yellow lady's slipper, 954 banana, 951 lemon, 987 corn,
  779 school bus, 599 honeycomb, 291 lion, 74 garden spider, 11 goldfinch
""")
SUBSETS = {
    subset: tuple((int(i), name) for i, name in (row.split(" ", 1) for row in rows))
    for subset, rows in _SUBSETS.items()
}

# ImageNet-1k index -> WordNet id of every class above; their order is the same.
# Source: timm's imagenet_synsets.txt, compared with torchvision's Imagenette.
_WORDNET_IDS = """\
0:n01440764 9:n01518878 11:n01531178 13:n01534433 19:n01592084 22:n01614925
24:n01622779 64:n01749939 72:n01773157 74:n01773797 76:n01774750 84:n01806143
88:n01818515 89:n01819313 90:n01820546 92:n01828970 93:n01829413 94:n01833805
96:n01843383 100:n01860187 102:n01872401 129:n02006656 130:n02007558 135:n02013706
136:n02017213 139:n02025239 144:n02051845 145:n02056570 148:n02071294 155:n02086240
159:n02087394 162:n02088364 167:n02089973 176:n02091831 182:n02093754 193:n02096294
207:n02099601 217:n02102040 229:n02105641 236:n02107142 255:n02111129 258:n02111889
259:n02112018 262:n02112706 273:n02115641 275:n02116738 281:n02123045 282:n02123159
283:n02123394 284:n02123597 285:n02124075 287:n02127052 289:n02128757 290:n02128925
291:n02129165 292:n02129604 309:n02206856 321:n02276258 322:n02277742 324:n02280649
326:n02281787 333:n02342885 339:n02389026 364:n02457408 374:n02488291 376:n02489166
392:n02606052 452:n02869837 482:n02979186 491:n03000684 497:n03028079 500:n03042490
503:n03062245 535:n03208938 554:n03344393 565:n03393912 566:n03394916 569:n03417042
571:n03425413 574:n03445777 576:n03447447 599:n03530642 685:n03841143 688:n03857828
701:n03888257 713:n03924679 739:n03992509 779:n04146614 783:n04153751 816:n04277352
874:n04487081 882:n04517823 904:n04589890 916:n06359193 943:n07718472 945:n07720875
948:n07742313 949:n07745940 950:n07747607 951:n07749582 952:n07753113 953:n07753275
954:n07753592 956:n07760859 957:n07768694 984:n11879895 986:n12057211 987:n12144580
993:n13037406 995:n13044778"""
WORDNET_IDS = {
    int(index): wnid
    for index, wnid in (pair.split(":") for pair in _WORDNET_IDS.split())
}

_CLASSES = _table("""
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
""")
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
    `to_image_folder` does, or by ImageNet index, all in one way; others are left out.

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
