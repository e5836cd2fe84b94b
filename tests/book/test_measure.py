import numpy as np
import pandas as pd
import pytest
import torch
from bookkit import features as module
from bookkit.copying import (
    HELD_OUT,
    copying_distances,
    copying_summary,
    nearest_real,
    wilson,
)
from bookkit.features import (
    class_agreement,
    embed_2d,
    find_failures,
    frechet_distance,
    judge_features,
    kernel_distance,
    real_judge,
)
from bookkit.latents import (
    latent_distances,
    latent_vectors,
    layout_correlation,
    source_distances,
)
from safetensors.torch import save_file
from scipy.linalg import sqrtm
from torch import nn
from toy_sets import reordered

from diver_lite.checks import InputError
from diver_lite.judge.networks import build_judge
from diver_lite.judge.protocols import Protocol
from diver_lite.judge.training import predict
from diver_lite.make.baselines import random_real
from diver_lite.sets.distilled import DistilledSet
from diver_lite.sets.real import FASHION_MNIST_CLASSES, load_dataset


@pytest.fixture(scope="module")
def sample():
    return load_dataset("fashion-mnist", "sample")


@pytest.fixture(scope="module")
def real_sets(sample):
    """Two sets of 20 different real images, class-major."""
    first, second = (random_real(sample, 2, seed) for seed in (0, 1))
    assert not torch.equal(first.images, second.images)
    return first, second


class Constant(nn.Module):
    """A judge that sees the same class everywhere, with a given confidence."""

    def __init__(self, label, classes=10, margin=4.0):
        super().__init__()
        self.last = nn.Linear(1, classes)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)
        with torch.no_grad():
            self.last.bias[label] = margin

    def forward(self, x):
        return self.last(x.mean((1, 2, 3))[:, None])


class Brightness(Constant):
    """A judge that sees class 1 in bright images, class 0 in dark ones."""

    def forward(self, x):
        bright = x.mean((1, 2, 3)) > 0
        logits = torch.zeros(len(x), 10)
        logits[torch.arange(len(x)), bright.long()] = 5.0
        return logits


def flat_set(values, labels, names=FASHION_MNIST_CLASSES, size=32):
    """A set of images of one value each."""
    images = torch.tensor(values).view(-1, 1, 1, 1).expand(-1, 3, size, size)
    return DistilledSet(images.clone(), torch.tensor(labels), names)


def gaussians(n, dimension, seed, scale=1.0, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(dimension, dimension, generator=generator)
    return torch.randn(n, dimension, generator=generator) @ mix * scale + shift


# ---------------------------------------------------------------- latents


def test_latent_distances_match_the_definition(real_sets, tiny_prior):
    sets = dict(zip(["a", "b"], real_sets, strict=True))
    table = latent_distances(sets, tiny_prior)
    latents = [latent_vectors(s.images, tiny_prior).double().numpy() for s in real_sets]
    labels = [s.labels.tolist() for s in real_sets]
    for a, b in ((0, 0), (0, 1), (1, 1)):
        expected = {"same class": [], "other class": []}
        for i, x in enumerate(latents[a]):
            for j, y in enumerate(latents[b]):
                if a == b and i == j:
                    continue
                same = labels[a][i] == labels[b][j]
                cosine = 1 - x @ y / np.linalg.norm(x) / np.linalg.norm(y)
                expected["same class" if same else "other class"].append(
                    (cosine, np.linalg.norm(x - y))
                )
        for relation, values in expected.items():
            row = table[
                (table["set_a"] == "ab"[a])
                & (table["set_b"] == "ab"[b])
                & (table["relation"] == relation)
            ].iloc[0]
            assert row["pairs"] == len(values)
            found = row[["cosine_distance", "l2_distance"]].to_numpy(float)
            assert found == pytest.approx(np.mean(values, 0), rel=1e-5)


def test_latent_distances_do_not_depend_on_the_order_of_sets(real_sets, tiny_prior):
    a, b = real_sets
    there = latent_distances({"a": a, "b": b}, tiny_prior)
    back = latent_distances({"b": b, "a": a}, tiny_prior)
    values = ["pairs", "cosine_distance", "l2_distance"]
    assert there.loc[2:3, values].to_numpy() == pytest.approx(
        back.loc[2:3, values].to_numpy()
    )


def test_one_image_per_class_has_no_pair_within_itself(sample, tiny_prior):
    table = latent_distances({"a": random_real(sample, 1, 0)}, tiny_prior)
    same = table[table["relation"] == "same class"].iloc[0]
    assert same["pairs"] == 0
    assert np.isnan(same["l2_distance"])


def test_a_set_is_at_no_distance_from_its_own_source(real_sets, tiny_prior):
    source, _ = real_sets
    table = source_distances(source, source, tiny_prior)
    assert table["l2_distance"].abs().max() == 0
    assert table["cosine_distance"].abs().max() < 1e-6
    assert table["layout"].min() > 1 - 1e-6
    assert (table["rank"] == 0).all()
    assert list(table["class"]) == [n for n in FASHION_MNIST_CLASSES for _ in range(2)]


def test_swapped_images_rank_behind_the_other_source(real_sets, tiny_prior):
    source, _ = real_sets
    swapped = source[torch.arange(20).view(10, 2).flip(1).flatten()]
    table = source_distances(swapped, source, tiny_prior)
    assert (table["rank"] == 1).all()
    assert table["l2_distance"].min() > 0


def test_values_outside_the_visible_range_are_clipped(tiny_set, tiny_prior):
    clipped = DistilledSet(
        tiny_set.images.clamp(0, 1), tiny_set.labels, tiny_set.class_names
    )
    table = source_distances(tiny_set, clipped, tiny_prior)
    assert table["l2_distance"].abs().max() == 0


def test_layout_correlation_against_numpy():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(2, 5, 3, 32, 32, generator=generator)
    cells = [x.numpy().reshape(5, 3, 8, 4, 8, 4).mean((3, 5)) for x in (a, b)]
    expected = [
        np.corrcoef(x.ravel(), y.ravel())[0, 1] for x, y in zip(*cells, strict=True)
    ]
    found = layout_correlation(a, b)
    assert found.numpy() == pytest.approx(expected, abs=1e-5)
    assert layout_correlation(a, 1 - a).numpy() == pytest.approx([-1] * 5)


def test_layout_ignores_fine_patterns_and_constant_images():
    board = torch.arange(32) % 2
    checks = ((board[:, None] + board) % 2).float().expand(1, 3, 32, 32)
    ramp = torch.linspace(0, 1, 32).expand(1, 3, 32, 32)
    noisy = (ramp * 0.5 + checks * 0.5).clamp(0, 1)
    assert layout_correlation(noisy, ramp).item() == pytest.approx(1, abs=1e-5)
    assert layout_correlation(checks, ramp).item() == 0
    assert layout_correlation(torch.full_like(ramp, 0.3), ramp).item() == 0


# ---------------------------------------------------------------- judge


@pytest.mark.parametrize("label", [0, 7])
def test_a_constant_judge_agrees_with_one_class(real_sets, label):
    agreement = class_agreement(real_sets[0], Constant(label))
    assert agreement["agrees"].mean() == pytest.approx(0.1)
    name = FASHION_MNIST_CLASSES[label]
    assert set(agreement["predicted"]) == {name}
    sure = np.exp(4) / (np.exp(4) + 9)
    confidence = (2 * sure + 18 * (1 - sure) / 9) / 20
    assert agreement["confidence"].mean() == pytest.approx(confidence, rel=1e-5)


def test_agreement_judges_the_clipped_image():
    # mean -9.5 unclipped, 0.5 + 0.04 clipped: bright for a judge of mean 0.5
    images = torch.full((1, 3, 32, 32), -20.0)
    images[..., :18] = 1.0
    distilled = DistilledSet(images, torch.tensor([1]), FASHION_MNIST_CLASSES)
    assert class_agreement(distilled, Brightness(0))["agrees"].all()


def test_agreement_refuses_a_judge_of_other_classes(real_sets):
    with pytest.raises(InputError, match="the judge's classes is 7; expected 10"):
        class_agreement(real_sets[0], Constant(0, classes=7))
    judge = Constant(0)
    judge.class_names = ["tie", *FASHION_MNIST_CLASSES[1:]]
    with pytest.raises(InputError, match="'T-shirt' of the set is not among"):
        class_agreement(real_sets[0], judge)


def test_a_judge_s_classes_are_found_by_name(real_sets):
    """Listed in another order, by the set or by the judge, they are the same."""
    judge = Constant(7)
    judge.class_names = FASHION_MNIST_CLASSES[::-1]
    agreement = class_agreement(real_sets[0], judge)
    assert set(agreement["predicted"]) == {FASHION_MNIST_CLASSES[2]}
    assert agreement["agrees"].mean() == pytest.approx(0.1)
    expected = agreement.set_index("index")
    again = class_agreement(reordered(real_sets[0]), judge)
    pd.testing.assert_frame_equal(again.set_index("index"), expected)


def test_sets_are_compared_by_the_names_of_their_classes(tiny_prior, real_sets):
    """Another order of classes changes no distance."""
    first, second = real_sets[:2]
    pair = {"a": first, "b": second}
    mixed = {"a": first, "b": reordered(second)}
    for call in (
        lambda sets: latent_distances(sets, tiny_prior),
        lambda sets: source_distances(*sets.values(), tiny_prior),
    ):
        pd.testing.assert_frame_equal(call(mixed), call(pair))


QUICK = Protocol(steps=3, batch_size=8, augment=())


def test_real_judge_is_kept_and_loaded(sample, tmp_path, monkeypatch):
    path = tmp_path / "judge.safetensors"
    images, labels, names = sample
    dataset = (images[:50], labels[:50], names)
    trained = real_judge(dataset, path, protocol=QUICK)
    monkeypatch.setattr(module, "train_judge", None)  # would fail if called
    loaded = real_judge(dataset, path, protocol=QUICK)
    assert not loaded.training
    assert loaded.class_names == trained.class_names == names
    for key, value in trained.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[key]), key


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seed": 1}, "seed is 0 there and 1 here"),
        ({"name": "ShuffleNetV2"}, "judge is 'ConvNet' there"),
        ({"names": FASHION_MNIST_CLASSES[::-1]}, "class_names"),
    ],
    ids=["seed", "name", "order of classes"],
)
def test_real_judge_refuses_a_file_made_in_another_way(
    sample, tmp_path, changes, named
):
    path = tmp_path / "judge.safetensors"
    images, labels, names = sample
    dataset = (images[:50], labels[:50], names)
    real_judge(dataset, path, protocol=QUICK)
    changes = dict(changes)
    dataset = (*dataset[:2], changes.pop("names", names))
    with pytest.raises(InputError, match=named):
        real_judge(dataset, path, protocol=QUICK, **changes)


def test_real_judge_refuses_other_files(sample, tmp_path):
    path = tmp_path / "judge.safetensors"
    path.write_text("no weights")
    with pytest.raises(InputError, match=r"judge\.safetensors can't be read"):
        real_judge(sample, path, protocol=QUICK)
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(InputError, match=r"judge\.safetensors: it has no record"):
        real_judge(sample, path, protocol=QUICK)


def test_features_are_what_the_last_layer_reads(real_sets):
    images = real_sets[0].images
    judge = build_judge("ShuffleNetV2", 10, 32, seed=0).eval()
    features = judge_features(judge, images)
    assert features.shape == (20, 1024)
    logits = predict(judge, images, "real")
    assert torch.allclose(judge.fc(features), logits, atol=1e-5)


def test_convnet_features_are_averaged_over_cells(real_sets):
    images = real_sets[0].images
    judge = build_judge("ConvNet", 10, 32, seed=0).eval()
    features = judge_features(judge, images)
    maps = judge.features[:-1]((images - 0.5) / 0.25)  # before Flatten
    assert features.shape == (20, 128)
    assert torch.allclose(features, maps.mean((2, 3)), atol=1e-5)


def test_features_are_those_of_the_visible_image(tiny_set):
    """A judge reads values outside [0, 1] as 0 and 1, as everybody sees them."""
    judge = build_judge("ConvNet", 10, 32, seed=0).eval()
    found = judge_features(judge, tiny_set.images)
    assert torch.equal(found, judge_features(judge, tiny_set.images.clamp(0, 1)))


# ---------------------------------------------------------------- distributions


def test_frechet_distance_of_known_gaussians():
    # axis-aligned data with exact moments: +-s in each axis, one axis at a time
    def corners(stds, mean):
        points = torch.diag(torch.tensor(stds, dtype=torch.float64))
        points = torch.cat([points, -points])
        n = len(points)
        return points * ((n - 1) / 2) ** 0.5 + torch.tensor(mean)

    a = corners([1.0, 2.0, 3.0], [0.0, 0.0, 0.0])
    b = corners([2.0, 2.0, 0.5], [1.0, -1.0, 0.5])
    expected = (1 + 1 + 0.25) + (1 - 2) ** 2 + (2 - 2) ** 2 + (3 - 0.5) ** 2
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("na", "nb"), [(60, 40), (60, 5), (4, 5), (2, 60)])
def test_frechet_distance_against_scipy(na, nb):
    # fewer images than the 8 dimensions, too: covariances without full rank
    a, b = gaussians(na, 8, 0), gaussians(nb, 8, 1, scale=0.5, shift=0.3)
    x, y = a.double().numpy(), b.double().numpy()
    cov = [np.cov(x, rowvar=False), np.cov(y, rowvar=False)]
    # sqrtm of a singular matrix is inexact: root the symmetric form instead
    values, vectors = np.linalg.eigh(cov[0])
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ cov[1] @ root).clip(0)).sum()
    if min(na, nb) > 8:
        assert np.trace(sqrtm(cov[0] @ cov[1])).real == pytest.approx(cross)
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum()
    expected += np.trace(cov[0]) + np.trace(cov[1]) - 2 * cross
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("n", [3, 50])
def test_frechet_distance_is_zero_for_itself_and_symmetric(n):
    a, b = gaussians(n, 6, 0), gaussians(n + 2, 6, 1, shift=1.0)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    there, back = frechet_distance(a, b), frechet_distance(b, a)
    assert there == pytest.approx(back, rel=1e-9)
    assert there > 1


def test_few_images_bias_the_frechet_distance_but_not_the_kernel_distance():
    mix = gaussians(6, 6, 0)
    draws = torch.Generator().manual_seed(1)

    def values(distance, n, repeats=100):
        """Compare n images with 60 of the same distribution, drawn anew each time."""
        samples = torch.randn((repeats, n + 60, 6), generator=draws) @ mix
        found = [distance(x[:n], x[n:]) for x in samples]
        return np.mean(found), np.std(found) / repeats**0.5

    few, _ = values(frechet_distance, 5)
    many, _ = values(frechet_distance, 60)
    assert few > 3 * many
    for n in (5, 60):
        mean, error = values(kernel_distance, n)
        assert abs(mean) < 4 * error


def test_kernel_distance_matches_the_definition():
    a, b = gaussians(7, 3, 0), gaussians(5, 3, 1, shift=0.5)
    x, y = a.double().numpy(), b.double().numpy()

    def mean(u, v, same):
        values = [
            (p @ q / 3 + 1) ** 3
            for i, p in enumerate(u)
            for j, q in enumerate(v)
            if not (same and i == j)
        ]
        return np.mean(values)

    expected = mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False)
    assert kernel_distance(a, b) == pytest.approx(expected, rel=1e-9)
    assert kernel_distance(b, a) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance])
@pytest.mark.parametrize(
    ("a", "b", "named"),
    [
        (torch.zeros(1, 4), torch.zeros(5, 4), r"is \(1, 5\).*at least 2"),
        (torch.zeros(5, 4), torch.zeros(5), "features b"),
        (
            torch.zeros(5, 4),
            torch.zeros(5, 3),
            r"features b is .*\(5, 3\); expected.*\(n, 4\)",
        ),
    ],
)
def test_distances_refuse_too_few_images_and_other_dimensions(distance, a, b, named):
    with pytest.raises(InputError, match=named):
        distance(a, b)


# ---------------------------------------------------------------- t-SNE, neighbours


def test_embed_2d_is_tidy_and_repeats_itself(real_sets):
    stages = dict(zip(["real", "DIVER"], real_sets, strict=True))
    judge = build_judge("ConvNet", 10, 32, seed=0).eval()
    table = embed_2d(stages, judge, seed=3)
    assert list(table["stage"]) == ["real"] * 20 + ["DIVER"] * 20
    assert list(table["index"]) == [*range(20), *range(20)]
    assert set(table["class"]) == set(FASHION_MNIST_CLASSES)
    assert np.isfinite(table[["x", "y"]].to_numpy()).all()
    again = embed_2d(stages, judge, seed=3)
    pd.testing.assert_frame_equal(table, again)


def test_embed_2d_keeps_near_images_near(real_sets):
    first, _ = real_sets
    copy = DistilledSet(first.images.clone(), first.labels, first.class_names)
    judge = build_judge("ConvNet", 10, 32, seed=0).eval()
    table = embed_2d({"a": first, "b": copy}, judge)
    places = table[["x", "y"]].to_numpy()
    spread = np.linalg.norm(places - places.mean(0), axis=1).mean()
    apart = np.linalg.norm(places[:20] - places[20:], axis=1)
    assert np.median(apart) < spread / 5


def test_embed_2d_refuses_few_images(real_sets):
    with pytest.raises(InputError, match="is 4; expected at least 5"):
        embed_2d({"a": real_sets[0][:4]}, Constant(0))


def test_nearest_real_finds_what_brute_force_finds(sample):
    images = load_dataset("fashion-mnist", "test")[0][:6]
    real = sample[0][:100]
    distances, indices = nearest_real(images, real)
    a, b = (x.flatten(1).double().numpy() for x in (images, real))
    every = np.linalg.norm(a[:, None] - b[None], axis=2)
    assert (indices.numpy() == every.argmin(1)).all()
    assert distances.numpy() == pytest.approx(every.min(1), rel=1e-6)


def test_a_copy_is_at_distance_zero(sample):
    real = sample[0][:60]
    distances, indices = nearest_real(real[10:13], real)
    assert indices.tolist() == [10, 11, 12]
    assert (distances == 0).all()


def test_nearest_real_in_the_features_of_a_judge(sample):
    """Distances are those between the features themselves."""
    judge, real = build_judge("ConvNet", 10, 32, seed=0).eval(), sample[0][:40]
    images = sample[0][100:103]
    distances, indices = nearest_real(images, real, judge)
    a, b = (judge_features(judge, x).double() for x in (images, real))
    expected = (a[:, None] - b[None]).norm(dim=-1).min(1)
    assert torch.equal(indices, expected.indices)
    assert torch.allclose(distances, expected.values.float(), rtol=1e-4)


def test_copies_are_told_from_new_images(sample):
    """Copies are at 0, slightly changed copies near it, new images about at 1."""
    real, labels, names = sample
    new = torch.arange(len(labels)) % 2 == 0  # half of the images are trained on
    fit = (real[~new], labels[~new], names)
    held_out = random_real((real[new], labels[new], names), 10, 0)
    other = random_real((real[new], labels[new], names), 10, 1)
    copies = random_real(fit, 2, 0)
    noise = torch.randn(copies.images.shape, generator=torch.manual_seed(0))
    noisy = DistilledSet(copies.images + 0.01 * noise, copies.labels, names)
    sets = {"new": other, "copies": copies, "noisy copies": noisy}
    table = copying_distances(sets, fit, held_out)
    assert [*dict.fromkeys(table["set"])] == ["held-out real", *sets]
    ratios = table.groupby("set")["ratio"]
    per_class = table[table["set"] == "held-out real"].groupby("class")["ratio"].mean()
    assert per_class.to_numpy() == pytest.approx(1, abs=1e-6)
    assert ratios.mean()["new"] == pytest.approx(1, abs=0.1)
    assert (ratios.get_group("copies") == 0).all()
    assert 0 < ratios.get_group("noisy copies").max() < 0.5
    near = table[table["set"] == "noisy copies"]["nearest"].tolist()
    assert torch.equal(fit[0][near], copies.images)

    summary = copying_summary(table).set_index("set")
    assert summary.loc["held-out real", "share_near"] == pytest.approx(0.05, abs=0.011)
    assert summary.loc["copies", "share_near"] == 1
    assert summary.loc["copies", "same_class"] == 1
    assert summary.loc["copies", "low"] < summary.loc["copies", "high"] <= 1
    assert summary.loc["new", "low"] < 0.05 < summary.loc["new", "high"]
    assert summary["images"].tolist() == [100, 100, 20, 20]


def test_copying_needs_held_out_images_of_each_class(sample):
    """Classes without a unit, other classes and a taken name are refused."""
    some, names = random_real(sample, 1, 0), sample[2]
    with pytest.raises(InputError, match=r"without images is \['Ankle boot"):
        copying_distances({"a": some}, sample, some[:9])
    with pytest.raises(InputError, match="name is 'held-out real'; expected another"):
        copying_distances({HELD_OUT: some}, sample, some)
    renamed = DistilledSet(some.images, some.labels, ["tie", *names[1:]])
    with pytest.raises(InputError, match="'tie' of set 'a' is not among"):
        copying_distances({"a": renamed}, sample, some)
    with pytest.raises(InputError, match="'tie' of held_out is not among"):
        copying_distances({}, sample, renamed)


def test_nearest_real_refuses_other_sizes(sample):
    with pytest.raises(InputError, match=r"\(2, 3, 28, 28\)"):
        nearest_real(torch.zeros(2, 3, 28, 28), sample[0][:10])


# ---------------------------------------------------------------- failures


def test_failures_are_found(tiny_prior):
    # all are labelled "Trouser" (1), which `Brightness` sees in bright images
    ramp = torch.linspace(0.6, 1, 32).expand(4, 3, 32, 32)
    names = FASHION_MNIST_CLASSES
    labels = torch.ones(4, dtype=torch.long)
    before, after, drawn = ramp.clone(), ramp.clone(), ramp.clone()
    before[1] -= 0.6  # dark, then bright: the class is gained
    after[2] -= 0.6  # bright, then dark: the class is lost
    after[3] = after[3].flip(-1)  # mirrored: the layout is lost ...
    drawn[0] = drawn[0].mT.clone()  # ... as it is in the first raw image
    source, recovered, raw = (
        DistilledSet(x, labels, names) for x in (before, after, drawn)
    )
    table = find_failures(source, recovered, raw, Brightness(0), tiny_prior)
    assert list(table["class_gained"]) == [False, True, False, False]
    assert list(table["class_lost"]) == [False, False, True, False]
    assert list(table["layout_lost"]) == [False, False, False, True]
    assert table["predicted_after"][2] == names[0]
    assert table["layout"].to_numpy() == pytest.approx([1, 1, 1, -1], abs=1e-5)
    assert table["layout_raw"].to_numpy() == pytest.approx([0, 1, 1, 1], abs=1e-5)
    # 0 equals its source, 1 equals the raw image but not its source
    assert table["to_source"][0] == 0
    assert table["to_raw"][1] == 0
    assert list(table["nearer_raw"][:2]) == [False, True]


# ---------------------------------------------------------------- mismatching sets

GOOD = flat_set([0.1, 0.2], [0, 1])
OTHER_CLASSES = flat_set([0.1, 0.2], [0, 1], names=["cat", "dog"])
OTHER_SIZE = flat_set([0.1, 0.2], [0, 1], size=28)
OTHER_LABELS = flat_set([0.1, 0.2], [1, 0])
LONGER = flat_set([0.1, 0.2, 0.3], [0, 1, 2])


@pytest.mark.parametrize(
    ("other", "named"),
    [(OTHER_CLASSES, "is not among those of"), (OTHER_SIZE, r"\(3, 28, 28\)")],
    ids=["classes", "size"],
)
def test_sets_that_differ_are_refused(tiny_prior, other, named):
    sets = {"good": GOOD, "odd": other}
    for call in (
        lambda: latent_distances(sets, tiny_prior),
        lambda: embed_2d(sets, Constant(0)),
        lambda: source_distances(GOOD, other, tiny_prior),
        lambda: find_failures(GOOD, GOOD, other, Constant(0), tiny_prior),
    ):
        with pytest.raises(InputError, match=named):
            call()


@pytest.mark.parametrize("other", [OTHER_LABELS, LONGER], ids=["labels", "length"])
def test_sets_that_are_no_pair_are_refused(tiny_prior, other):
    with pytest.raises(InputError, match="same labels in the same order"):
        source_distances(other, GOOD, tiny_prior)
    with pytest.raises(InputError, match="same labels in the same order"):
        find_failures(GOOD, other, GOOD, Constant(0), tiny_prior)


def test_no_sets_are_refused(tiny_prior):
    with pytest.raises(InputError, match=r"sets is \{\}"):
        latent_distances({}, tiny_prior)


def test_layout_refuses_other_shapes():
    with pytest.raises(InputError, match="equal shapes"):
        layout_correlation(torch.zeros(1, 3, 8, 8), torch.zeros(2, 3, 8, 8))
    with pytest.raises(InputError, match="8 x 8"):
        layout_correlation(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4))


def test_wilson_intervals():
    """Literal numbers, as of Newcombe 1998, table I; and what is no share."""
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0, 0.1611), abs=5e-5)
    assert wilson(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)
    for count, total in ((-1, 5), (6, 5), (0, 0)):
        with pytest.raises(InputError, match=r"(count|total) is -?\d; expected an int"):
            wilson(count, total)
