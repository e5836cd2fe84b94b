"""Judges, their training, the table, its statistics, augmentation and baselines."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import bootstrap

from diver_lite import evaluate
from diver_lite.augment import FAMILIES, dsa
from diver_lite.baselines import random_real, raw_prior, vae_only, variants
from diver_lite.distilled import DistilledSet
from diver_lite.errors import InputError
from diver_lite.evaluate import (
    PROTOCOLS,
    Protocol,
    cross_architecture,
    fit_judge,
    paired_difference,
    predict,
    summarise,
    train_judge,
)
from diver_lite.judges import JUDGES, ConvNet, build_judge
from diver_lite.recovery import RecoveryConfig, recover

BRIEF = Protocol(steps=3, batch_size=8)
NAMES = ("dark", "bright", "red")


def toy(count=8, size=32, seed=0):
    """Return images (count per class) that any network can tell apart."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(3).repeat_interleave(count)
    images = 0.15 * torch.rand(3 * count, 3, size, size, generator=generator)
    images[labels == 1] += 0.8
    images[labels == 2, 0] += 0.8
    return images, labels, NAMES


def toy_set(**options):
    return DistilledSet(*toy(**options))


# --- Networks -----------------------------------------------------------------------


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("name", JUDGES)
def test_judges_take_small_images(name, size):
    """Every judge maps images of 32 and 64 pixels to finite, differing logits."""
    network = build_judge(name, 7, size, seed=0).eval()
    head = [m for m in network.modules() if isinstance(m, torch.nn.Linear)][-1]
    generator = torch.Generator().manual_seed(0)
    torch.nn.init.normal_(head.weight, generator=generator)  # ViT's begins with zeros
    with torch.no_grad():
        logits = network(torch.randn(2, 3, size, size, generator=generator))
    assert logits.shape == (2, 7)
    assert logits.isfinite().all()
    assert not torch.equal(logits[0], logits[1])


@pytest.mark.parametrize(("size", "depth"), [(32, 3), (64, 4), (128, 5)])
def test_the_depth_of_the_convnet_follows_the_image(size, depth):
    """3 blocks at 32, 4 at 64, 5 at 128: the last map is always 4x4."""
    network = ConvNet(5, size)
    assert sum(isinstance(m, torch.nn.Conv2d) for m in network.modules()) == depth
    x = torch.rand(1, 3, size, size)
    assert network.embed(x).shape == (1, 128 * 4 * 4)
    assert torch.equal(network(x), network.classifier(network.embed(x)))


def test_a_judge_is_its_seed():
    """Weights depend on the seed alone and leave the global generator alone."""
    state = torch.get_rng_state()
    first, same, other = (build_judge("ConvNet", 3, 32, seed=s) for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    pairs = zip(first.parameters(), same.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    weights = [n.features[0].weight for n in (first, other)]
    assert not torch.allclose(*weights)


def test_bad_judges():
    """Unknown names and sizes are named."""
    with pytest.raises(InputError, match=r"'VGG11' is unknown.*'ResNet18'"):
        build_judge("VGG11", 10, 32, seed=0)
    for size in (28, 16, 40):
        with pytest.raises(InputError, match=f"image size is {size}"):
            build_judge("ConvNet", 10, size, seed=0)


# --- Training -----------------------------------------------------------------------


def test_a_judge_learns():
    """Training on a separable set beats chance by far on other images."""
    protocol = Protocol(steps=30, batch_size=24, augment=("flip",))
    test = toy(seed=1)
    accuracy = train_judge("ConvNet", toy_set(), test, protocol=protocol)
    assert accuracy > 0.9
    shuffled = (test[0], (test[1] + 1) % 3)
    wrong = train_judge("ConvNet", toy_set(), shuffled, protocol=protocol)
    assert wrong < 0.1  # accuracy is about labels, not about luck


@pytest.mark.parametrize("name", ["ConvNet", "ViT", "MobileNetV2"])
def test_a_seed_fixes_a_training(name):
    """One seed gives one network, bit for bit; another seed another one."""
    images, labels, _ = toy()
    options = {"num_classes": 3, "protocol": BRIEF}
    x = toy(count=2, seed=1)[0]
    first, again, other = (
        predict(fit_judge(name, images, labels, seed=seed, **options), x, BRIEF)
        for seed in (0, 0, 1)
    )
    assert first.shape == (6, 3)
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)
    scores = {
        train_judge(name, toy_set(), toy(seed=1), seed=5, protocol=BRIEF)
        for _ in range(2)
    }
    assert len(scores) == 1


def test_training_leaves_the_global_generator_alone():
    """Dropout draws from a fork, so a judge in between changes nothing."""
    state = torch.get_rng_state()
    fit_judge("ViT", *toy()[:2], num_classes=3, protocol=BRIEF)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_every_step_counts(optimizer, monkeypatch):
    """As many steps as asked for, on batches that visit every image equally often."""
    seen = []
    monkeypatch.setattr(evaluate, "dsa", lambda x, *_, **__: seen.append(x) or x)
    images, labels, _ = toy(count=4)
    protocol = Protocol(steps=6, batch_size=4, optimizer=optimizer)
    fit_judge("ConvNet", images, labels, num_classes=3, protocol=protocol)
    assert [len(x) for x in seen] == [4] * 6
    epochs = torch.cat(seen).view(2, 12, -1).sum(-1).sort(dim=1).values
    assert torch.equal(*epochs)
    seen.clear()  # a set smaller than a batch is used whole
    fit_judge(
        "ConvNet",
        images,
        labels,
        num_classes=3,
        protocol=Protocol(steps=2, batch_size=100),
    )
    assert [len(x) for x in seen] == [12, 12]


def test_a_training_that_explodes_says_so():
    """A NaN loss is an error, never an accuracy."""
    protocol = Protocol(steps=5, optimizer="sgd", lr=1e30, augment=())
    with pytest.raises(FloatingPointError, match=r"ConvNet, seed 4"):
        fit_judge("ConvNet", *toy()[:2], num_classes=3, seed=4, protocol=protocol)


def test_sets_and_tests_that_do_not_fit():
    """Other sizes, unknown classes and unknown protocols are refused."""
    with pytest.raises(InputError, match=r"\(3, 32, 32\).*\(3, 64, 64\)"):
        train_judge("ConvNet", toy_set(), toy(size=64), protocol=BRIEF)
    images, labels, _ = toy()
    with pytest.raises(InputError, match=r"go up to 3.*3 classes"):
        train_judge("ConvNet", toy_set(), (images, labels + 1), protocol=BRIEF)
    with pytest.raises(InputError, match=r"'slow' is unknown.*'corrected'"):
        train_judge("ConvNet", toy_set(), toy(), protocol="slow")
    assert {"corrected", "quick"} <= set(PROTOCOLS)


# --- The table ----------------------------------------------------------------------


def test_the_table_has_a_row_per_training():
    """Sets x judges x seeds, with functions drawn anew for each seed."""
    drawn = []
    sets = {
        "fixed": toy_set(),
        "drawn": lambda seed: drawn.append(seed) or toy_set(seed=seed),
    }
    options = {"protocol": "quick", "steps": 2, "progress": False}
    table = cross_architecture(
        sets, toy(seed=9), judges=("ConvNet", "ShuffleNetV2"), seeds=2, **options
    )
    assert list(table.columns) == [
        "set",
        "judge",
        "unseen",
        "seed",
        "accuracy",
        "seconds",
    ]
    assert len(table) == 2 * 2 * 2
    assert not table.duplicated(["set", "judge", "seed"]).any()
    assert table["accuracy"].between(0, 1).all()
    assert set(table[~table["unseen"]]["judge"]) == {"ConvNet"}
    assert sorted(drawn) == [0, 0, 1, 1]
    one = cross_architecture(
        {"fixed": toy_set()}, toy(seed=9), judges=["ConvNet"], seeds=[1], **options
    )
    assert one["seed"].tolist() == [1]
    cell = table[(table["set"] == "fixed") & (table["judge"] == "ConvNet")]
    assert one["accuracy"][0] == cell[cell["seed"] == 1]["accuracy"].item()


def test_a_failed_training_marks_its_cell_alone(monkeypatch):
    """NaN where the loss exploded; all other cells stand, and so does the summary."""
    real = evaluate.fit_judge

    def sometimes(name, *arguments, seed=0, **options):
        if (name, seed) == ("ViT", 1):
            raise FloatingPointError("the loss became NaN")
        return real("ConvNet", *arguments, seed=seed, **options)

    monkeypatch.setattr(evaluate, "fit_judge", sometimes)
    sets = {"a": toy_set(), "b": toy_set(seed=2)}
    table = cross_architecture(
        sets, toy(seed=9), judges=("ConvNet", "ViT"), seeds=3, steps=2, progress=False
    )
    failed = (table["judge"] == "ViT") & (table["seed"] == 1)
    assert table["accuracy"].isna().equals(failed)
    assert failed.sum() == 2
    summary = summarise(table, "a")
    assert summary.loc["a", "vs a"] == "-"
    assert "nan" not in summary.loc["b"].to_string()


def table_of(differences, judges=("ViT", "ResNet18"), base=0.5):
    """Build a table in which set "b" beats "a" by `differences` (seed, judge)."""
    rows = []
    for seed, row in enumerate(differences):
        for judge, difference in zip(judges, row, strict=True):
            for name, value in {"a": base, "b": base + difference}.items():
                rows.append((name, judge, True, seed, value, 0.0))
        rows += [(name, "ConvNet", False, seed, 0.9, 0.0) for name in "ab"]
    columns = ["set", "judge", "unseen", "seed", "accuracy", "seconds"]
    return pd.DataFrame(rows, columns=columns)


def test_the_paired_difference_agrees_with_scipy():
    """Mean and percentile interval over seeds, judges averaged first."""
    differences = np.random.default_rng(3).normal(0.03, 0.02, (8, 2))
    mean, low, high = paired_difference(table_of(differences), "b", "a")
    per_seed = differences.mean(axis=1)
    expected = bootstrap(
        (per_seed,),
        np.mean,
        n_resamples=20_000,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert mean == pytest.approx(per_seed.mean())
    assert low == pytest.approx(expected.low, abs=5e-4)
    assert high == pytest.approx(expected.high, abs=5e-4)
    assert low < mean < high
    reverse = paired_difference(table_of(differences), "a", "b")
    assert reverse[0] == pytest.approx(-mean)


def test_paired_differences_worked_out_by_hand():
    """Two seeds: the interval ends at the two means; the proxy never counts."""
    found = paired_difference(table_of([[0.1, 0.3], [-0.1, 0.1]]), "b", "a")
    assert found == pytest.approx((0.1, 0.0, 0.2))
    assert paired_difference(table_of([[0.04, 0.0]]), "b", "a") == pytest.approx(
        (0.02, 0.02, 0.02)
    )


def test_failed_trainings_drop_their_seed():
    """A pair without a partner doesn't bias the difference."""
    table = table_of([[0.1, 0.3], [0.5, 0.5], [0.1, 0.1]])
    lost = (table["set"] == "b") & (table["seed"] == 1) & (table["judge"] == "ViT")
    table.loc[lost, "accuracy"] = float("nan")
    mean, low, high = paired_difference(table, "b", "a")
    assert (mean, low, high) == pytest.approx((0.15, 0.1, 0.2))
    table.loc[table["set"] == "b", "accuracy"] = float("nan")
    assert all(math.isnan(v) for v in paired_difference(table, "b", "a"))


def test_the_summary_shows_proxy_and_unseen_apart():
    """One row per set, percent with spread, unseen mean, difference to the baseline."""
    summary = summarise(table_of([[0.1, 0.3], [-0.1, 0.1]]), "a")
    assert list(summary.index) == ["a", "b"]
    assert list(summary.columns) == ["ViT", "ResNet18", "ConvNet", "unseen", "vs a"]
    assert summary.loc["b", "ViT"] == "50.0 ± 14.1"
    assert summary.loc["b", "ConvNet"] == "90.0 ± 0.0"
    assert summary.loc["b", "unseen"] == "60.0"
    assert summary.loc["b", "vs a"] == "+10.0 [+0.0, +20.0]"
    with pytest.raises(InputError, match=r"baseline 'c'.*\['a', 'b'\]"):
        summarise(table_of([[0.1, 0.3]]), "c")


# --- Augmentation -------------------------------------------------------------------


@pytest.mark.parametrize("siamese", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_augmentation_keeps_shapes_and_gradients(family, siamese):
    """Every family keeps the shape, changes pixels and passes gradients back."""
    x = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    x.requires_grad_(True)
    changed = 0
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        y = dsa(x, generator, families=(family,), siamese=siamese)
        assert y.shape == x.shape
        assert y.isfinite().all()
        changed += not torch.allclose(y, x, atol=1e-3)
        (gradient,) = torch.autograd.grad(y.square().sum(), x)
        assert gradient.isfinite().all()
        assert gradient.flatten(1).abs().sum(1).min() > 0
    assert changed >= 1


@pytest.mark.parametrize("family", FAMILIES)
def test_siamese_means_the_same_operation(family):
    """Two batches of any sizes, generators in one state: the same parameters."""
    x = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for seed in range(3):
        one, two, three = (torch.Generator().manual_seed(seed) for _ in range(3))
        small = dsa(x[:1], one, families=(family,), siamese=True)
        large = dsa(x, two, families=(family,), siamese=True)
        assert torch.allclose(small[0], large[0], atol=1e-6)
        assert torch.equal(one.get_state(), two.get_state())
        copies = dsa(x[:1].repeat(8, 1, 1, 1), three, families=(family,))
        own = (copies - copies[:1]).flatten(1).abs().amax(dim=1)
        assert own.max() > 1e-3  # otherwise, each image has its own parameters


def test_all_families_are_drawn():
    """The default draws from all six families."""
    x = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    results = [dsa(x, generator, siamese=True) for _ in range(60)]
    flips = sum(torch.equal(y, x.flip(-1)) for y in results)
    cut = sum(bool(((y == 0) & (x != 0)).any()) for y in results)
    assert flips >= 1
    assert cut >= 1
    assert flips + cut < 60


# --- Baselines ----------------------------------------------------------------------


def test_random_real_images_are_real_balanced_and_seeded():
    """ipc images of each class, class-major, all from the dataset, without repeats."""
    dataset = toy(count=9)
    drawn = random_real(dataset, 4, seed=1)
    assert drawn.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert drawn.class_names == NAMES
    real = {
        image.numpy().tobytes(): int(y) for image, y in zip(*dataset[:2], strict=True)
    }
    chosen = [image.numpy().tobytes() for image in drawn.images]
    assert [real[c] for c in chosen] == drawn.labels.tolist()
    assert len(set(chosen)) == 12
    assert torch.equal(drawn.images, random_real(dataset, 4, seed=1).images)
    assert not torch.equal(drawn.images, random_real(dataset, 4, seed=2).images)
    assert drawn.provenance == {"method": "random real", "ipc": 4, "seed": 1}
    with pytest.raises(InputError, match=r"ipc is 10, but class 'dark' has 9"):
        random_real(dataset, 10, seed=0)


def test_vae_only_is_the_round_trip(tiny_prior, tiny_set):
    """F(E(x)), clipped, with nothing in between, in the set's own size."""
    result = vae_only(tiny_set, tiny_prior)
    expected = tiny_prior.decode(tiny_prior.encode(tiny_set.images.clamp(0, 1)))
    assert torch.equal(result.images, expected)
    assert torch.equal(result.labels, tiny_set.labels)
    assert result.provenance["method"] == "VAE only"
    small = DistilledSet(
        tiny_set.images[..., 2:30, 2:30], tiny_set.labels, tiny_set.class_names
    )
    assert vae_only(small, tiny_prior).images.shape == (20, 3, 28, 28)


def test_the_variants_are_the_papers_ablation():
    """Each row switches what its name says, and keeps the sampler's settings."""
    config = RecoveryConfig(num_inference_steps=9, guidance_scale=3, window=(700, 100))
    rows = variants(config)
    assert list(rows) == [
        "raw prior",
        "SI published",
        "SI matched",
        "SG only",
        "SI + SG",
        "DIVER published",
        "DIVER",
    ]
    assert rows["DIVER"] == config
    assert {c.num_inference_steps for c in rows.values()} == {9}
    for name in ("raw prior", "SI published", "SI matched"):
        assert rows[name].guidance_factor == 0
        assert rows[name].inheritance == (name != "raw prior")
        assert rows[name].guidance_scale == 3
    assert (rows["SI published"].start, rows["SI matched"].start) == (
        "published",
        "matched",
    )
    assert rows["SG only"] == replace(config, inheritance=False)
    assert rows["SI + SG"] == replace(config, window="full")
    assert rows["DIVER published"] == RecoveryConfig.published(num_inference_steps=9)


def test_the_ablations_rows_of_the_default_differ(tiny_prior, tiny_set):
    """With the default settings no two rows are the same method under two names."""
    few = tiny_set[:2]
    images = {
        name: recover(few, tiny_prior, config, progress=False).images
        for name, config in variants(RecoveryConfig(num_inference_steps=10)).items()
    }
    for one in images:
        for two in images:
            same = torch.allclose(images[one], images[two], atol=1e-6)
            assert same == (one == two), (one, two)


def test_the_raw_prior_never_looks_at_the_images(tiny_prior, tiny_set):
    """Other pixels, the same labels and seed: the same samples."""
    config = RecoveryConfig(num_inference_steps=3)
    options = {"seed": 2, "progress": False}
    one = raw_prior(tiny_set, tiny_prior, config, **options)
    two = raw_prior(
        replace(tiny_set, images=tiny_set.images.flip(0)), tiny_prior, config, **options
    )
    assert torch.equal(one.images, two.images)
    assert one.images.std() > 0.02
