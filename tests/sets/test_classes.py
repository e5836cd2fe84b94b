"""Sets, priors and test images are joined by the names of their classes."""

import copy
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from bookkit import explore
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from toy_sets import reordered, toy, toy_set

from diver_lite import cli as commands
from diver_lite.checks import InputError
from diver_lite.judge import training
from diver_lite.judge.protocols import Protocol
from diver_lite.judge.table import cross_architecture
from diver_lite.make.baselines import clip_only, random_real, vae_only
from diver_lite.priors import loading as priors
from diver_lite.priors.dit import DiTPrior
from diver_lite.recovery import RecoveryConfig, recover
from diver_lite.sets import real as data
from diver_lite.sets.classes import in_order_of, join, origin, prior_classes
from diver_lite.sets.distilled import DistilledSet
from diver_lite.sets.load import list_shipped, load_distilled
from diver_lite.sets.names import (
    CIFAR10_CLASSES,
    FASHION_MNIST_CLASSES,
    class_names,
    imagenet_indices,
    numbered,
)

QUICK = RecoveryConfig(num_inference_steps=2)
DIGITS = tuple("0123456789")
few_examples = settings(
    deadline=None,
    max_examples=6,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
orders = st.permutations(range(10))


def blank(names, **options):
    """Return a set of one grey image per class."""
    images = torch.full((len(names), 3, 8, 8), 0.5)
    return DistilledSet(images, torch.arange(len(names)), tuple(names), **options)


# --- Two lists of names -------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "others", "expected"),
    [
        ("abc", "abc", [0, 1, 2]),
        ("abc", "cab", [1, 2, 0]),
        ("ca", "abcd", [2, 0]),
        (["aquarium_fish", "Ray"], ["ray", "aquarium fish"], [1, 0]),
        (["T-shirt"], ["t shirt", "shirt"], [0]),
        (["Cardigan", "cardigan"], ["cardigan", "Cardigan"], [1, 0]),
        (["crane", "maillot", "crane"], ["crane", "maillot", "crane"], [0, 1, 2]),
        (["maillot"], ["crane", "maillot", "crane"], [1]),
        (DIGITS, DIGITS[::-1], list(range(10))[::-1]),
    ],
)
def test_names_are_found_in_any_order(names, others, expected, recwarn):
    assert join(names, others, "the set", "the prior") == expected
    assert not recwarn.list


@pytest.mark.parametrize(
    "others", ["xyz", DIGITS[:3], ["new000", "new001", "new002"], numbered(3)]
)
def test_placeholders_stand_for_numbers(others):
    """As many classes, in order, and a word about it; on either side."""
    for names in ((numbered(3), others), (others, numbered(3))):
        with pytest.warns(UserWarning, match="have no names; taken to be in order"):
            assert join(*names, "the set", "the prior") == [0, 1, 2]


BOTH = r"\(the set: .*; the prior: .*\); do this"


@pytest.mark.parametrize(
    ("names", "others", "message"),
    [
        ("abx", "abc", "class 'x' of the set is not among those of the prior"),
        ("abcd", "abc", "class 'd' of the set is not among"),
        (DIGITS, CIFAR10_CLASSES, "class '0' of the set is not among"),
        (CIFAR10_CLASSES, DIGITS, "class 'airplane' of the set is not among"),
        ([f"{i:03d}" for i in range(10)], CIFAR10_CLASSES, "class '000' of the set"),
        (["new0", "new1"], "ab", "class 'new0' of the set is not among"),
        (["class 0", "class 2"], "ab", "class 'class 0' of the set is not among"),
        (["class 1", "class 0"], "ab", "class 'class 1' of the set is not among"),
        ("aba", "abc", "'a' is there more than once among those of the set"),
        ("abc", "abca", "'a' is there more than once among those of the prior"),
        ("ab", "aAbB", None),
        (["A", "a"], "ab", "'a' is there more than once among those of the set"),
        ("b", ["B", "B "], "'b' is there more than once among those of the prior"),
        (numbered(2), "abc", "classes of the set have no names, and can't be taken"),
        ("abc", numbered(4), "classes of the prior have no names, and can't be"),
        (numbered(3), numbered(4), "classes of the set have no names, and can't be"),
        (numbered(11), sorted(map(str, range(11))), "classes of the set have no na"),
        (sorted(map(str, range(11))), numbered(11), "classes of the prior have no "),
    ],
)
def test_what_cannot_be_joined_is_named(names, others, message):
    """The class, both sides, and what to do."""
    if message is None:
        assert join(names, others, "the set", "the prior") == [0, 2]
        return
    with pytest.raises(InputError, match=f"{message}.*{BOTH}"):
        join(names, others, "the set", "the prior", "do this")


def test_long_lists_are_cut():
    with pytest.raises(InputError) as error:
        join("x", class_names("imagenet"), "the set", "the prior")
    assert "'tench', 'goldfish', 'great white shark', ..., 1000 in all" in str(
        error.value
    )
    assert len(str(error.value)) < 400


@few_examples
@given(orders, orders)
def test_any_two_orders(first, second):
    names = [CIFAR10_CLASSES[i] for i in first]
    others = [CIFAR10_CLASSES[i] for i in second]
    found = join(names, others, "the set", "the prior")
    assert [others[i] for i in found] == names
    soft = torch.rand(10, 10)
    distilled = blank(names, soft_labels=soft)
    joined = in_order_of(distilled, others)
    assert joined.class_names == tuple(others)
    assert [others[i] for i in joined.labels] == names
    for old, name in enumerate(names):
        assert torch.equal(joined.soft_labels[:, others.index(name)], soft[:, old])
    assert in_order_of(distilled, names) is distilled


# --- A set and a prior --------------------------------------------------------------


def with_classes(prior, order=None, names=None):
    """Return a prior that lists its classes in another order, or calls them so."""
    transformer = copy.deepcopy(prior.transformer)
    order = list(range(10)) if order is None else list(order)
    for module in transformer.modules():
        if isinstance(module, torch.nn.Embedding):
            module.weight.data[:10] = module.weight.data[order]
    names = names or [prior.class_names[old] for old in order]
    return DiTPrior(transformer, prior.vae, prior.scheduler, tuple(names), prior.info)


@few_examples
@given(orders, orders)
def test_recovery_does_not_depend_on_the_order_of_classes(
    tiny_prior, tiny_set, first, second
):
    """Of the set's, nor of the prior's: the same images, bit by bit."""
    expected = recover(tiny_set, tiny_prior, QUICK, progress=False)
    found = recover(
        reordered(tiny_set, first),
        with_classes(tiny_prior, second),
        QUICK,
        progress=False,
    )
    assert torch.equal(found.images, expected.images)
    pictured = [found.class_names[label] for label in found.labels]
    assert pictured == [expected.class_names[label] for label in expected.labels]


def test_classes_without_names_and_maps(tiny_prior):
    """A prior or set without names is in order; a map needs no name at all."""
    nameless = with_classes(tiny_prior, names=numbered(10))
    garments, digits = blank(FASHION_MNIST_CLASSES), blank(DIGITS)
    with pytest.warns(UserWarning, match="classes of the prior have no names"):
        assert prior_classes(garments, nameless).tolist() == list(range(10))
    with pytest.raises(InputError, match=r"class '0' of the set.*--class-map"):
        prior_classes(digits, tiny_prior)
    twice = blank(["Bag", "Bag"])
    with pytest.raises(InputError, match=r"'Bag' is there more than once.*of the set"):
        prior_classes(twice, tiny_prior)
    for table in ([8, 0], torch.tensor([8, 0]), range(8, -1, -8)):
        assert prior_classes(twice, tiny_prior, table).tolist() == [8, 0]
    for table in ("ab", [0.5, 1], 7, [True, False], [[1], [2]], [None, 1]):
        with pytest.raises(InputError, match=r"class_map is .*; expected .*integer"):
            prior_classes(twice, tiny_prior, table)


def test_maps_by_index_or_name(tiny_prior):
    """A mapping says which class each value is of, in any order; a set says nothing."""
    three = blank(["cat", "dog", "owl"])
    for table in (
        {2: 0, 0: 9, 1: 8},
        {"owl": 0, "cat": 9, "dog": 8},
        {np.int64(1): 8, 0: 9, 2: np.int8(0)},
    ):
        assert prior_classes(three, tiny_prior, table).tolist() == [9, 8, 0]
    for table in (
        {9, 8, 0}, frozenset([9, 8, 0]), {0: 9, 1: 8}, {0: 9, 1: 8, 3: 0}, {},
        {0: 9, 1: 8, 2: 0, 3: 1}, {"cat": 9, "dog": 8, 2: 0}, {0: 9, 1: 8, 2: "owl"},
        {0: 9, 1: 8, 2: 10}, {"0": 9, "1": 8, "2": 0},
    ):  # fmt: skip
        with pytest.raises(InputError, match=r"class_map (is|are) .*; expected"):
            prior_classes(three, tiny_prior, table)


def test_a_prior_with_a_repeated_name(tiny_prior):
    """Label 0 doesn't become 9: refused, unless both lists are the same."""
    names = (*FASHION_MNIST_CLASSES[:9], FASHION_MNIST_CLASSES[0])
    prior = with_classes(tiny_prior, names=names)
    with pytest.raises(InputError, match=r"'T-shirt' is there more than once.*prior"):
        prior_classes(blank(names[:9]), prior)
    assert prior_classes(blank(names[1:9]), prior).tolist() == list(range(1, 9))
    assert prior_classes(blank(names), prior).tolist() == list(range(10))


def folders(root, names):
    for i, name in enumerate(names):
        (root / name).mkdir(parents=True)
        Image.new("RGB", (8, 8), (20 * i,) * 3).save(root / name / "0.png")
    return root


@pytest.mark.parametrize("way", ["{:03d}", "new{:03d}", "{}", "class_{}"])
def test_numbers_of_class_folders_are_no_names(tmp_path, tiny_prior, way):
    """SRe2L's, D4M's folders: named with dataset=, else refused with that word."""
    root = folders(tmp_path / "set", [way.format(i) for i in range(10)])
    named = load_distilled(root, dataset="fashion-mnist")
    assert prior_classes(named, tiny_prior).tolist() == list(range(10))
    with pytest.raises(InputError, match=r"dataset= \(--dataset\)"):
        prior_classes(load_distilled(root), tiny_prior)


def test_class_folders_with_names_in_any_order(tmp_path, tiny_prior):
    root = folders(tmp_path / "set", FASHION_MNIST_CLASSES)
    found = prior_classes(load_distilled(root), tiny_prior)
    assert found.tolist() == [
        FASHION_MNIST_CLASSES.index(name) for name in sorted(FASHION_MNIST_CLASSES)
    ]


# --- Sets and test images -----------------------------------------------------------


class NearestMean(torch.nn.Module):
    """Classify by the nearest mean of the training images: no order, no chance."""

    def __init__(self, images, labels, num_classes):
        super().__init__()
        means = [images[labels == c].mean((0, 2, 3)) for c in range(num_classes)]
        self.means = torch.nn.Parameter(torch.stack(means))

    def forward(self, x):
        return -torch.cdist(x.mean((2, 3)), self.means)


@pytest.fixture
def nearest_mean(monkeypatch):
    def fit(name, images, labels, *, num_classes, **_):
        return NearestMean(images, labels, num_classes).eval()

    monkeypatch.setattr(training, "train_judge", fit)


def coloured(count, seed):
    """Return noisy images of ten colours that overlap a little, labels and names."""
    generator = torch.Generator().manual_seed(seed)
    colours = torch.rand(10, 3, 1, 1, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(10).repeat_interleave(count)
    noise = torch.randn(10 * count, 3, 1, 1, generator=generator)
    images = colours[labels] + 0.15 * noise.expand(-1, -1, 32, 32)
    return images, labels, CIFAR10_CLASSES


@few_examples
@given(orders, orders)
def test_accuracy_does_not_depend_on_the_order_of_classes(nearest_mean, first, second):
    """Of a set's, nor of the test images'."""
    train, test = DistilledSet(*coloured(4, 0)), DistilledSet(*coloured(20, 5))
    mixed = reordered(test, second)
    options = {"judges": ["ConvNet"], "seeds": 1, "progress": False}
    accuracy = [
        cross_architecture(
            {"one": a, "two": reordered(a, second)},
            (b.images, b.labels, b.class_names),
            **options,
        )["accuracy"].tolist()
        for a, b in ((train, test), (reordered(train, first), mixed))
    ]
    assert accuracy[0] == accuracy[1]
    assert accuracy[0][0] == accuracy[0][1]
    assert 0.3 < accuracy[0][0] < 1


def test_the_order_of_a_set_s_classes_changes_no_training(tmp_path, monkeypatch):
    """The very same training: soft labels, step size and fingerprints included."""
    soft = torch.rand(24, 3).softmax(1)
    train = toy_set(soft_labels=soft, provenance={"learned_lr": 0.02})
    protocol = Protocol(steps=2, batch_size=8, labels="soft", learned_lr=True)
    options = {"judges": ["ConvNet"], "seeds": 2, "progress": False}
    options |= {"protocol": protocol, "out": tmp_path / "cells.csv"}
    seen, fit = [], training.train_judge

    def spy(*arguments, **named):
        seen.append(arguments)
        return fit(*arguments, **named)

    monkeypatch.setattr(training, "train_judge", spy)
    first = cross_architecture({"a": train}, toy(seed=9), **options)
    mixed = reordered(train, [2, 0, 1])
    assert mixed.labels.tolist() != train.labels.tolist()
    again = cross_architecture({"a": mixed}, toy(seed=9), **options)
    assert len(seen) == 2  # kept ones are taken: the fingerprints agree
    pd.testing.assert_frame_equal(first, again)
    fresh = cross_architecture({"a": mixed}, toy(seed=9), **options | {"out": None})
    assert fresh["accuracy"].tolist() == first["accuracy"].tolist()
    for mine, theirs in zip(seen[2][1:3], seen[0][1:3], strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize(
    ("names", "test_names", "message"),
    [
        ("ab", "abc", "class 'c' of the test images is not among those of set 's'"),
        ("abc", "ab", "class 'c' of set 's' is not among those of the test images"),
        ("abc", "abd", "class 'c' of set 's' is not among those of the test images"),
        ("abb", "abc", "'b' is there more than once among those of set 's'"),
        ("abc", "aba", "more than once among those of|'b' of set 's'|'c' of set 's'"),
        ("012", "abc", "class '0' of set 's' is not among those of the test images"),
        (numbered(2), "abc", "classes of set 's' have no names, and can't be taken"),
    ],
)
def test_sets_and_test_images_of_other_classes(names, test_names, message):
    """Refused before anything is trained."""
    labels = torch.arange(len(names))
    train = DistilledSet(torch.rand(len(names), 3, 32, 32), labels, tuple(names))
    count = len(test_names)
    test = (torch.rand(count, 3, 32, 32), torch.arange(count), tuple(test_names))
    with pytest.raises(InputError, match=message):
        cross_architecture({"s": train}, test, progress=False)


def test_test_images_without_names(nearest_mean):
    """Their labels are in the sets' order, so the sets must agree on one."""
    options = {"judges": ["ConvNet"], "seeds": 2, "progress": False}
    test = toy(seed=9)[:2]
    same = {"a": toy_set(), "b": lambda seed: toy_set(seed=seed)}
    assert (cross_architecture(same, test, **options)["accuracy"] == 1).all()
    for other in (reordered(toy_set()), lambda _: reordered(toy_set())):
        with pytest.raises(InputError, match="set 'b': its classes are in another ord"):
            cross_architecture({"a": toy_set(), "b": other}, test, **options)
    renamed = replace(toy_set(), class_names=("dark", "bright", "blue"))
    with pytest.raises(InputError, match="'blue' of set 'b' is not among"):
        cross_architecture({"a": toy_set(), "b": renamed}, test, **options)


def test_explorers_join_the_sets(tiny_prior, tiny_set, monkeypatch):
    """The class that is chosen is the same one in every set."""
    drawn, image_grid = [], explore.image_grid
    monkeypatch.setattr(
        explore,
        "image_grid",
        lambda rows, *a, **k: drawn.append(rows) or image_grid(rows, *a, **k),
    )
    sets = {"a": tiny_set, "b": reordered(tiny_set)}
    box = explore.explore_before_after(sets, tiny_prior, {"quick": QUICK})
    menus = {child.description: child for child in box.children[:4]}
    menus["class"].value = 3
    menus["set"].value = "b"
    assert torch.equal(drawn[-1]["before"], tiny_set.images[tiny_set.labels == 3])


# --- What a set was distilled from --------------------------------------------------


def test_the_origin_of_what_ships():
    """With and without a record: sets of the first version have none."""
    for name in list_shipped():
        dataset = "cifar10" if name.startswith("cifar10") else "fashion-mnist"
        assert origin(load_distilled(name)) == dataset


@pytest.mark.parametrize(
    ("names", "provenance", "expected"),
    [
        ("ab", {"dataset": "CIFAR-10"}, "cifar10"),
        ("ab", {"data": "cifar10", "source": "CIFAR-10 (official files)"}, "cifar10"),
        ("ab", {"source": {"source": {"dataset": "svhn"}}}, "svhn"),
        ("ab", {"method": "DIVER", "source": {"data": "digits/"}}, "digits/"),
        ("ab", {"dataset": None, "source": "images_best.pt"}, None),
        ("ab", {}, None),
        (CIFAR10_CLASSES[::-1], {}, "cifar10"),
        (class_names("imagefruit-ncfm"), {}, "imagefruit-ncfm"),
        (DIGITS, {}, None),  # MNIST's or SVHN's
        (numbered(200), {}, None),
        (CIFAR10_CLASSES, {"dataset": "fashion-mnist"}, "fashion-mnist"),
    ],
)
def test_the_origin_is_in_the_record(names, provenance, expected):
    assert origin(blank(names, provenance=provenance)) == expected


def test_the_origin_outlives_refinement(tiny_prior, tiny_set, tmp_path):
    """DIVER, the VAE, clipping, and a file between them."""
    start = replace(tiny_set, provenance={"data": "elsewhere"})
    once = recover(start, tiny_prior, QUICK, progress=False)
    twice = recover(vae_only(once, tiny_prior), tiny_prior, QUICK, progress=False)
    for refined in (once, twice, clip_only(twice)):
        kept = DistilledSet.load(refined.save(tmp_path / "x.safetensors", True))
        assert origin(kept) == "elsewhere"


class Asked(Exception):
    """What a default was."""


def ask(name, *_, **__):
    raise Asked(name)


def save(name, names, provenance=None):
    blank(names, provenance=provenance or {}).save(name)
    return name


DEFAULTS = [
    ("cifar10-dsa-ipc1", "cifar10"),
    ("fashion-mnist-dm-ipc1", "fashion-mnist"),
    ("recovered", "cifar10"),
]


@pytest.mark.parametrize(("source", "expected"), DEFAULTS)
def test_prior_and_test_data_follow_the_set(cli, monkeypatch, source, expected):
    """Also of a set that was refined and saved."""
    if source == "recovered":
        record = {"method": "DIVER", "source": {"data": "cifar10"}}
        source = save("x.safetensors", CIFAR10_CLASSES, record)
    save("mine.safetensors", DIGITS)  # says nothing, so follows the others
    monkeypatch.setattr(priors, "load_prior", ask)
    monkeypatch.setattr(data, "load_dataset", ask)
    for command in (
        ["recover", source, "-o", "y.safetensors"],
        ["judge", source],
        ["judge", source, f"again={source}", "mine=mine.safetensors"],
    ):
        with pytest.raises(Asked, match=f"^{expected}$"):
            commands.main(command)


def test_the_judge_says_what_it_scored_on(cli):
    command = ("judge", "fashion-mnist-dm-ipc1", "--judges", "ConvNet", "--seeds", "1")
    code, out, err = cli(
        *command, "--set", "steps=1", "--test-images", 9, "--device", "cpu"
    )
    assert code == 0, err
    assert out.endswith("scored on Fashion-MNIST (official files)\n")


@pytest.mark.parametrize(
    ("names", "provenance", "arguments", "message"),
    [
        (
            DIGITS,
            {"dataset": "svhn"},
            (),
            "--prior is needed: INPUT distils svhn, and priors ship for cifar10",
        ),
        ("ab", {}, (), "--prior is needed: INPUT distils something unknown"),
        (DIGITS, {"dataset": "svhn"}, ("--prior", "cifar10"), "class '0' of the set"),
        (CIFAR10_CLASSES, {}, ("--prior", "fashion-mnist"), "class 'airplane' of the"),
        (numbered(9), {}, ("--prior", "cifar10"), "have no names, and can't be taken"),
        (
            class_names("imagefruit"),
            {},
            ("--dataset", "imagefruit"),
            "INPUT distils imagefruit,",
        ),
    ],
)
def test_priors_that_are_not_of_the_set(cli, names, provenance, arguments, message):
    save("set.safetensors", names, provenance)
    code, out, err = cli(
        *("recover", "set.safetensors", "-o", "out.safetensors", "--device", "cpu"),
        *arguments,
    )
    assert (code, out) == (2, "")
    assert message in err
    assert [path.name for path in Path().iterdir()] == ["set.safetensors"]


@pytest.mark.parametrize("known", [True, False])
def test_a_subset_is_found_by_name_if_the_prior_has_its_names(
    monkeypatch, tmp_path, known
):
    """DiT-XL/2 writes "tench, Tinca tinca"; another prior may sort its classes."""
    names = class_names("imagefruit")
    source = save(tmp_path / "set.safetensors", names[::-1])
    theirs = sorted(class_names("imagenet"))
    if not known:
        theirs = [f"{name}, and more" for name in class_names("imagenet")]

    class Known:
        class_names, info = tuple(theirs), {}
        latent_shape, image_size = (4, 32, 32), 256
        encode = decode = denoise = timesteps = signal_and_noise = print

    def run(out, distilled, prior, config, *, class_map, **_):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            raise Asked(prior_classes(distilled, prior, class_map).tolist())

    monkeypatch.setattr(priors, "load_prior", lambda *_, **__: Known())
    monkeypatch.setattr("diver_lite.run.to_file.recover_to", run)
    with pytest.raises(Asked) as asked:
        commands.main(
            [
                "recover",
                str(source),
                "-o",
                str(tmp_path / "out.safetensors"),
                "--prior",
                "theirs",
                "--dataset",
                "fruits",
            ]
        )
    expected = [theirs.index(name) for name in names] if known else None
    expected = expected or list(imagenet_indices("imagefruit"))
    assert asked.value.args[0] == expected[::-1]


def test_random_real_images_have_their_classes():
    """Drawn from a data set, named by it."""
    sample = data.load_dataset("fashion-mnist", "sample")
    assert origin(random_real(sample, 1, 0)) == "fashion-mnist"
