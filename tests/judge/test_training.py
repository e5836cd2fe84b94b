"""Judges, their training one by one, and baselines."""

from dataclasses import replace

import pytest
import torch
from toy_sets import NAMES, score, toy, toy_set

from diver_lite.checks import InputError
from diver_lite.judge import training as fit
from diver_lite.judge.networks import JUDGES, PROXY, UNSEEN, ConvNet, build_judge
from diver_lite.judge.protocols import PROTOCOLS, Protocol
from diver_lite.judge.training import CHANNELS_LAST, predict, train_judge
from diver_lite.make.baselines import (
    clip_only,
    random_real,
    raw_prior,
    vae_only,
    variants,
)
from diver_lite.recovery import RecoveryConfig, recover
from diver_lite.sets.distilled import DistilledSet

BRIEF = Protocol(steps=3, batch_size=8)

# --- Networks -----------------------------------------------------------------------


@pytest.mark.parametrize("size", [32, 64, 224])  # a stem for each
@pytest.mark.parametrize("name", JUDGES)
def test_judges_take_images_of_all_sizes(name, size):
    """Every judge maps images of 32 to 224 pixels to finite, differing logits."""
    network = build_judge(name, 7, size, seed=0).eval()
    head = [m for m in network.modules() if isinstance(m, torch.nn.Linear)][-1]
    generator = torch.Generator().manual_seed(0)
    torch.nn.init.normal_(head.weight, generator=generator)  # ViT's begins with zeros
    with torch.no_grad():
        logits = network(torch.randn(2, 3, size, size, generator=generator))
    assert logits.shape == (2, 7)
    assert logits.isfinite().all()
    assert not torch.equal(logits[0], logits[1])


@pytest.mark.parametrize("name", JUDGES)
def test_nothing_in_a_judge_is_random_but_its_weights(name):
    """No dropout, no stochastic depth: two passes in training mode agree."""
    network = build_judge(name, 3, 32, seed=0).train()
    x = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    state = torch.get_rng_state()
    with torch.no_grad():
        assert torch.equal(network(x), network(x))
    assert torch.equal(torch.get_rng_state(), state)


def test_the_papers_five_judges():
    """The unseen five are judges, the proxy is none of them."""
    assert len(UNSEEN) == 5
    assert set(UNSEEN) <= set(JUDGES)
    assert PROXY in JUDGES
    assert PROXY not in UNSEEN
    assert {base for base, _ in CHANNELS_LAST} <= set(JUDGES)


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


def test_the_convnet_of_imagenet_tables_has_six_blocks():
    """224 and 256 pixels: depth 6; 28 pixels: 3, with a 3x3 map, as in DC."""
    for size, depth, side in ((224, 6, 3), (256, 6, 4), (28, 3, 3)):
        network = ConvNet(5, size, width=4)
        assert sum(isinstance(m, torch.nn.Conv2d) for m in network.modules()) == depth
        assert network.embed(torch.rand(1, 3, size, size)).shape == (1, 4 * side**2)


def test_bad_judges():
    """Unknown names are named, and sizes that a stem can't take."""
    with pytest.raises(InputError, match=r"'VGG19'; .*'ResNet18'"):
        build_judge("VGG19", 10, 32, seed=0)
    for name in set(JUDGES) - {"ConvNet"}:
        with pytest.raises(InputError, match=rf"{name}: image size is 28; .* 32"):
            build_judge(name, 10, 28, seed=0)
    with pytest.raises(InputError, match=r"ViT: image size is 36; .*multiple of 8"):
        build_judge("ViT", 10, 36, seed=0)
    with pytest.raises(InputError, match=r"ConvNet: image size is 4"):
        build_judge("ConvNet", 10, 4, seed=0)


# --- Training -----------------------------------------------------------------------


def test_a_judge_learns():
    """Training on a separable set beats chance by far on other images."""
    protocol = Protocol(steps=20, augment=("flip",))
    test, train = toy(seed=1), toy_set(count=2)
    accuracy = score("ConvNet", train, test, protocol=protocol)
    assert accuracy > 0.9
    shuffled = (test[0], (test[1] + 1) % 3)
    wrong = score("ConvNet", train, shuffled, protocol=protocol)
    assert wrong < 0.1  # accuracy is about labels, not about luck


@pytest.mark.parametrize("name", ["ConvNet", "ViT"])
def test_a_seed_fixes_a_training(name):
    """One seed gives one network, bit for bit; another seed another one.

    Of the other judges `test_many_at_once_equal_one_by_one` says so.
    """
    images, labels, _ = toy(count=2)
    options = {"num_classes": 3, "protocol": BRIEF}
    x = toy(count=2, seed=1)[0]
    first, again, other = (
        predict(train_judge(name, images, labels, seed=seed, **options), x, BRIEF)
        for seed in (0, 0, 1)
    )
    assert first.shape == (6, 3)
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


def test_a_seed_fixes_a_score():
    scores = {
        score("ConvNet", toy_set(count=2), toy(seed=1), seeds=[5], protocol=BRIEF)
        for _ in range(2)
    }
    assert len(scores) == 1


def test_training_leaves_the_global_generator_alone():
    """A judge trained in between changes nothing for others."""
    state = torch.get_rng_state()
    train_judge("ViT", *toy()[:2], num_classes=3, protocol=BRIEF)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_every_step_counts(optimizer, monkeypatch):
    """As many steps as asked for, on batches that visit every image equally often."""
    seen = []
    monkeypatch.setattr(fit, "dsa", lambda x, *_, **__: seen.append(x) or x)
    images, labels, _ = toy(count=4)
    protocol = Protocol(steps=6, batch_size=4, optimizer=optimizer)
    train_judge("ConvNet", images, labels, num_classes=3, protocol=protocol)
    assert [len(x) for x in seen] == [4] * 6
    epochs = torch.cat(seen).view(2, 12, -1).sum(-1).sort(dim=1).values
    assert torch.equal(*epochs)
    seen.clear()  # a set smaller than a batch is used whole
    train_judge(
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
    words = r"judge ConvNet, seed 4: the loss became NaN at step [12]$"
    with pytest.raises(FloatingPointError, match=words):
        train_judge("ConvNet", *toy()[:2], num_classes=3, seed=4, protocol=protocol)


def test_sets_and_tests_that_do_not_fit():
    """Other sizes, unknown classes and unknown protocols are refused."""
    with pytest.raises(InputError, match=r"\(3, 32, 32\).*\(3, 64, 64\)"):
        score("ConvNet", toy_set(), toy(size=64), protocol=BRIEF)
    images, labels, _ = toy()
    with pytest.raises(InputError, match=r"labels are 1 .. 3; expected 0 .. 2"):
        score("ConvNet", toy_set(), (images, labels + 1), protocol=BRIEF)
    with pytest.raises(InputError, match=r"'slow'; .*'corrected'"):
        score("ConvNet", toy_set(), toy(), protocol="slow")
    assert {"corrected", "quick"} <= set(PROTOCOLS)


def spoiled(images, value):
    images = images.clone()
    images[4, 1, 2, 3] = value
    return images


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (lambda x: spoiled(x, float("nan")), None, "images hold 1 NaN .* row 4"),
        (lambda x: spoiled(x, -float("inf")), None, "images hold 1 NaN .* row 4"),
        (lambda x: (x * 255).byte(), None, r"images is torch.uint8 \(24, 3"),
        (
            lambda x: x[:, :1],
            None,
            r"images is .* \(24, 1, 32, 32\); .* \(N, 3, H, W\)",
        ),
        (lambda x: x.numpy(), None, "images is of type ndarray"),
        (lambda x: x[:0], lambda y: y[:0], r"images is torch.float32 \(0, 3"),
        (lambda x: x[..., :30], None, r"\(24, 3, 32, 30\); expected square ones"),
        (None, lambda y: y - 1, r"labels are -1 \.\. 1; expected 0 \.\. 2"),
        (None, lambda y: y + 1, r"labels are 1 \.\. 3"),
        (None, lambda y: y.float(), "labels is torch.float32 .* integer tensor"),
        (None, lambda y: y[:5], r"labels is torch.int64 \(5,\)"),
        (None, lambda y: y.tolist(), "labels is of type list"),
        (None, lambda y: torch.rand(24, 4), r"labels is .* \(24, 3\)"),
        (None, lambda y: torch.full((24, 3), float("nan")), "labels hold 72 NaN"),
    ],
)
def test_what_nothing_can_be_learned_from(images, labels, message):
    x, y, _ = toy()
    x, y = images(x) if images else x, labels(y) if labels else y
    with pytest.raises(InputError, match=message):
        train_judge("ConvNet", x, y, num_classes=3, protocol=BRIEF)
    if images:
        with pytest.raises(InputError, match=message):
            predict(build_judge("ConvNet", 3, 32, seed=0), x)


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


def test_clip_only_changes_what_lies_outside(tiny_set):
    """Pixels in [0, 1] stay as they are, others become 0 or 1."""
    result = clip_only(tiny_set)
    inside = (tiny_set.images >= 0) & (tiny_set.images <= 1)
    assert torch.equal(result.images[inside], tiny_set.images[inside])
    assert set(result.images[~inside].tolist()) == {0.0, 1.0}


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
