"""Other people's numbers and lists, written a second time as literals.

Subsets from MTT's and GLaD's `Config` and NCFM's class files, normalisation from each
repository's `utils.py`, the noise schedule from DiT, the recipe from DC, DSA and MTT.
"""

import itertools
from dataclasses import asdict

import pytest
import torch
from published_files import class_major, close, normalise, pixels, save_dc, save_run
from torchvision.models import ResNet18_Weights

from diver_lite.judge.protocols import PROTOCOLS
from diver_lite.priors.loading import load_prior, shipped_priors
from diver_lite.recovery import WINDOWS
from diver_lite.sets.load import load_distilled
from diver_lite.sets.names import (
    SUBSETS,
    WORDNET_IDS,
    class_names,
    dataset_name,
    imagenet_indices,
)

# --- Classes ------------------------------------------------------------------------

INDICES = {
    "imagenette": (0, 217, 482, 491, 497, 566, 569, 571, 574, 701),
    "imagewoof": (193, 182, 258, 162, 155, 167, 159, 273, 207, 229),
    "imagemeow": (281, 282, 283, 284, 285, 291, 292, 290, 289, 287),
    "imagesquawk": (84, 130, 88, 144, 145, 22, 96, 9, 100, 89),
    "imagefruit": (953, 954, 949, 950, 951, 957, 952, 945, 943, 948),
    "imageyellow": (309, 986, 954, 951, 987, 779, 599, 291, 72, 11),
    "imagenet-a": (255, 376, 984, 364, 500, 986, 333, 576, 148, 135),
    "imagenet-b": (129, 916, 90, 275, 995, 874, 102, 259, 685, 139),
    "imagenet-c": (565, 94, 554, 535, 92, 392, 291, 136, 324, 11),
    "imagenet-d": (9, 258, 13, 262, 19, 339, 321, 24, 93, 322),
    "imagenet-e": (816, 96, 100, 145, 739, 713, 783, 76, 688, 326),
    "imageidc": (452, 64, 374, 236, 993, 176, 882, 904, 503, 74),
    "imagefruit-ncfm": (953, 954, 949, 950, 951, 957, 952, 945, 943, 956),
    "imageyellow-ncfm": (309, 986, 954, 951, 987, 779, 599, 291, 74, 11),
}
WORDNET = """
imagenette n01440764 n02102040 n02979186 n03000684 n03028079 n03394916 n03417042
  n03425413 n03445777 n03888257
imagewoof n02096294 n02093754 n02111889 n02088364 n02086240 n02089973 n02087394
  n02115641 n02099601 n02105641
imagemeow n02123045 n02123159 n02123394 n02123597 n02124075 n02129165 n02129604
  n02128925 n02128757 n02127052
imagesquawk n01806143 n02007558 n01818515 n02051845 n02056570 n01614925 n01843383
  n01518878 n01860187 n01819313
imagefruit n07753275 n07753592 n07745940 n07747607 n07749582 n07768694 n07753113
  n07720875 n07718472 n07742313
imageyellow n02206856 n12057211 n07753592 n07749582 n12144580 n04146614 n03530642
  n02129165 n01773157 n01531178
imagenet-a n02111129 n02489166 n11879895 n02457408 n03042490 n12057211 n02342885
  n03447447 n02071294 n02013706
imagenet-b n02006656 n06359193 n01820546 n02116738 n13044778 n04487081 n01872401
  n02112018 n03841143 n02025239
imagenet-c n03393912 n01833805 n03344393 n03208938 n01828970 n02606052 n02129165
  n02017213 n02280649 n01531178
imagenet-d n01518878 n02111889 n01534433 n02112706 n01592084 n02389026 n02276258
  n01622779 n01829413 n02277742
imagenet-e n04277352 n01843383 n01860187 n02056570 n03992509 n03924679 n04153751
  n01774750 n03857828 n02281787
imageidc n02869837 n01749939 n02488291 n02107142 n13037406 n02091831 n04517823
  n04589890 n03062245 n01773797
imagefruit-ncfm n07753275 n07753592 n07745940 n07747607 n07749582 n07768694 n07753113
  n07720875 n07718472 n07760859
imageyellow-ncfm n02206856 n12057211 n07753592 n07749582 n12144580 n04146614 n03530642
  n02129165 n01773797 n01531178
"""


def test_subsets():
    """Each class of each subset, in label order."""
    assert {name: imagenet_indices(name) for name in SUBSETS} == INDICES


def test_names_of_subsets_are_imagenets():
    """The name of every class is torchvision's for its index, but for one cockatoo."""
    imagenet = list(ResNet18_Weights.DEFAULT.meta["categories"])
    imagenet[89] = "cockatoo"
    for subset, indices in INDICES.items():
        assert class_names(subset) == tuple(imagenet[index] for index in indices)


def test_wordnet_ids():
    """The WordNet id of each class of each subset, in label order."""
    words, found = WORDNET.split(), []
    for subset, indices in INDICES.items():
        found += [subset, *(WORDNET_IDS[index] for index in indices)]
    assert found == words


@pytest.mark.parametrize(
    ("dataset", "names"),
    [
        ("mnist", "0 1 2 3 4 5 6 7 8 9"),
        ("svhn", "0 1 2 3 4 5 6 7 8 9"),
        ("cifar10", "airplane automobile bird cat deer dog frog horse ship truck"),
        (
            "fashion-mnist",
            "T-shirt Trouser Pullover Dress Coat Sandal Shirt Sneaker Bag Ankle_boot",
        ),
    ],
)
def test_small_data_sets(dataset, names):
    """Class names in label order."""
    wanted = tuple(name.replace("_", " ") for name in names.split())
    assert class_names(dataset) == wanted


def test_cifar100():
    """A hundred fine classes in alphabetical order; some at their known places."""
    names = class_names("cifar100")
    assert len(set(names)) == 100
    assert [*names] == sorted(names)
    places = {0: "apple", 1: "aquarium fish", 2: "baby", 23: "cloud", 36: "hamster"}
    places |= {47: "maple tree", 58: "pickup truck", 71: "sea", 99: "worm"}
    assert {place: names[place] for place in places} == places


SPELLINGS = {  # MTT's and PReDD's words, GLaD's Greek letters, and our names
    "imagenette": "imagenette imagenet-nette nette ImageNette",
    "imagewoof": "imagewoof imagenet-woof woof",
    "imagemeow": "imagemeow imagenet-cats cats imagenet-meow meow images-meow",
    "imagesquawk": "imagesquawk imagenet-birds birds imagenet-squawk squawk",
    "imagefruit": "imagefruit imagenet-fruits fruits imagenet-fruit",
    "imageyellow": "imageyellow imagenet-yellow yellow",
    "imageidc": "imageidc imagenet-10",
    "imagenet-a": "imagenet-a imagenet-alpha ImageNet_A",
    "imagenet-b": "imagenet-b imagenet-beta",
    "imagenet-c": "imagenet-c imagenet-gamma",
    "imagenet-d": "imagenet-d imagenet-delta",
    "imagenet-e": "imagenet-e imagenet-epsilon",
    "tiny-imagenet": "Tiny TinyImageNet",
    "fashion-mnist": "FashionMNIST",
    "imagenet": "ImageNet ILSVRC2012",
}


def test_spellings():
    """Each repository's words for a data set mean that one."""
    for dataset, words in SPELLINGS.items():
        assert {word: dataset_name(word) for word in words.split()} == dict.fromkeys(
            words.split(), dataset
        )


# --- Normalisation ------------------------------------------------------------------

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CIFAR10 = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
GLAD = ((0.4377, 0.4438, 0.4728), (0.229, 0.224, 0.225))
STATISTICS = {
    "dc": {
        "mnist": ((0.1307,), (0.3081,)),
        "fashion-mnist": ((0.2861,), (0.3530,)),
        "svhn": ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
        "cifar10": CIFAR10,
        "cifar100": ((0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762)),
        "tiny-imagenet": IMAGENET,
        "imagewoof": IMAGENET,
        "imagenet": IMAGENET,
    },
    "mtt": {
        "cifar10": CIFAR10,
        "cifar100": CIFAR10,
        "tiny-imagenet": IMAGENET,
        "imagewoof": IMAGENET,
        "imagenet": IMAGENET,
    },
    "glad": {"cifar10": CIFAR10, "cifar100": GLAD, "imagewoof": GLAD, "imagenet": GLAD},
}


@pytest.mark.parametrize(
    ("format", "dataset"),
    [(format, dataset) for format in STATISTICS for dataset in STATISTICS[format]],
)
def test_statistics_of_each_repository(tmp_path, format, dataset):
    """What each repository normalises with is undone, and recorded as literals."""
    mean, std = STATISTICS[format][dataset]
    images = pixels(channels=len(mean))
    stored = normalise(images, (mean, std))
    if format == "dc":
        path, options = save_dc(tmp_path / "set.pt", [[stored, class_major()]]), {}
    else:
        path = save_run(tmp_path, stored, class_major())
        options = {"zca": False} if format == "mtt" else {}
    loaded = load_distilled(path, format=format, dataset=dataset, **options)
    close(loaded, images.expand(-1, 3, -1, -1))
    undone = loaded.provenance["undone"]["normalisation"]
    assert (tuple(undone["mean"]), tuple(undone["std"])) == (mean, std)


# --- The noise schedule and its windows ---------------------------------------------


@pytest.mark.parametrize("name", [*shipped_priors(), "exported"])
def test_the_noise_schedule_is_dits(request, name):
    """Linear betas from 1e-4 to 0.02 over 1,000 timesteps; eps is what is predicted."""
    prior = (
        request.getfixturevalue("tiny_prior")
        if name == "exported"
        else load_prior(name, device="cpu")
    )
    scheduler = prior.scheduler
    betas = [1e-4 + t / 999 * (0.02 - 1e-4) for t in range(1000)]
    kept = [*itertools.accumulate((1 - beta for beta in betas), float.__mul__)]
    abar = scheduler.alphas_cumprod.double()
    assert torch.allclose(abar, torch.tensor(kept).double(), rtol=1e-3, atol=1e-6)
    ratio = (abar / (1 - abar)).sqrt()  # of signal to noise, at the window's ends
    assert (ratio[510].item(), ratio[816].item()) == pytest.approx((0.275, 0.034), 0.01)
    assert scheduler.final_alpha_cumprod == 1
    assert scheduler.config.prediction_type == "epsilon"


def test_windows():
    """Phases in training timesteps; the paper's is [40, 25] of 50 steps."""
    assert WINDOWS == {
        "published": (816, 510),
        "late": (400, -1),
        "early": (1000, 816),
        "full": (1000, -1),
        "none": (-1, -1),
    }


# --- Protocols ----------------------------------------------------------------------

DSA = ("color", "crop", "cutout", "flip", "scale", "rotate")
OURS = {
    "steps": 300,
    "batch_size": 128,
    "optimizer": "adamw",
    "lr": 1e-3,
    "weight_decay": 0.01,
    "augment": DSA,
    "crops": False,
    "cutmix": False,
    "statistics": (0.5, 0.25),
    "epochs": None,
    "schedule": "cosine",
    "labels": "hard",
    "judge_lr": {},
    "judge_norm": {},
    "learned_lr": False,
}
RECIPES = {
    "corrected": OURS,
    "quick": OURS | {"steps": 80, "lr": 2e-3},
    "real": OURS | {"steps": 4_000, "batch_size": 256, "augment": ("crop",)},
    "literature": {
        "steps": None,
        "batch_size": 256,
        "optimizer": "sgd",
        "lr": 0.01,
        "weight_decay": 5e-4,
        "augment": DSA,
        "crops": False,
        "cutmix": False,
        "statistics": None,
        "epochs": 1_000,
        "schedule": "step",
        "labels": "hard",
        "judge_lr": {"ViT": 1e-3},
        # the networks.py of DatasetCondensation and of MTT
        "judge_norm": {"ResNet18": "IN", "VGG11": "IN"},
        "learned_lr": True,
    },
    "imagenet": OURS
    | {
        "steps": None,
        "epochs": 300,
        "augment": (),
        "crops": True,
        "cutmix": True,
        "statistics": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        "labels": "soft",
    },
}


def test_protocols():
    """Each number of each protocol: tables that name one stay comparable."""
    assert {name: asdict(protocol) for name, protocol in PROTOCOLS.items()} == RECIPES
