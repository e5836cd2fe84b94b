"""DSA against what its published code draws, and does with it.

Written from the published algorithm, with literal strengths: what was drawn is read
off pictures whose every pixel says where it came from.
"""

import math

import pytest
import torch

from diver_lite.judge.augment import FAMILIES, cutmix, dsa, resized_crops

DRAWS = 4_000


def probe(size=32):
    """Return (1, 3, size, size): column + 1, row + 1, and 1 where there is a pixel."""
    axis = torch.arange(size) + 1.0
    ones = torch.ones(size, size)
    return torch.stack([ones * axis, ones * axis[:, None], ones])[None]


def drawn(family, image, count=DRAWS, seed=0):
    """Augment `count` copies of an image, each with parameters of its own."""
    generator = torch.Generator().manual_seed(seed)
    return dsa(image.repeat(count, 1, 1, 1), generator, families=(family,))


def assert_uniform(values, low, high):
    """Check the range and every quantile (Kolmogorov-Smirnov, at one in a thousand)."""
    values = values.double().sort().values
    assert values[0] >= low - 1e-4
    assert values[-1] <= high + 1e-4
    share = (values - low) / (high - low)
    expected = (torch.arange(len(values)) + 0.5) / len(values)
    assert (share - expected).abs().max() < 1.95 / len(values) ** 0.5


def assert_each_equally_often(values, wanted):
    """Check that exactly these whole numbers occur, within 5 sigma equally often."""
    counts = torch.tensor([int((values == value).sum()) for value in wanted])
    assert counts.sum() == len(values)
    share = 1 / len(wanted)
    sigma = (len(values) * share * (1 - share)) ** 0.5
    assert (counts - len(values) * share).abs().max() < 5 * sigma


def assert_independent(a, b):
    correlation = torch.corrcoef(torch.stack([a, b]).double())[0, 1]
    assert abs(correlation) < 5 / len(a) ** 0.5


def test_the_families():
    """Six, as in "color_crop_cutout_flip_scale_rotate", and drawn equally often."""
    assert FAMILIES == ("color", "crop", "cutout", "flip", "scale", "rotate")
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, 3, 8, 8, generator=generator) + 1  # no zeros but those added
    found = torch.empty(1_200)
    for index in range(len(found)):
        state = generator.get_state()
        result = dsa(image, generator)
        after = generator.get_state()
        for label, family in enumerate(FAMILIES):
            generator.set_state(state)
            if torch.equal(dsa(image, generator, families=(family,) * 6), result):
                found[index] = label
        generator.set_state(after)
    assert_each_equally_often(found, range(6))


def test_flip():
    """Every other image is mirrored left to right, all its rows and channels alike."""
    image = probe()
    results = drawn("flip", image)
    mirrored = (results == image.flip(-1)).flatten(1).all(1)
    assert ((results == image).flatten(1).all(1) ^ mirrored).all()
    assert_each_equally_often(mirrored.int(), (0, 1))


@pytest.mark.parametrize(("size", "limit"), [(32, 4), (28, 4), (64, 8)])
def test_crop(size, limit):
    """Shifts by whole pixels, an eighth of the size at most, all equally often."""
    image = probe(size)
    results = drawn("crop", image)
    centre = size // 2
    shift = results[:, :2, centre, centre] - (centre + 1)
    assert (shift - shift.round()).abs().max() < 1e-3
    shift = shift.round().int()
    for axis in shift.T:
        assert_each_equally_often(axis, range(-limit, limit + 1))
    assert_independent(*shift.T)
    padded = torch.nn.functional.pad(image[0], (limit,) * 4)  # with zeros
    for result, (x, y) in zip(results[:100], shift.tolist(), strict=False):
        rows = slice(limit + y, limit + y + size)
        columns = slice(limit + x, limit + x + size)
        assert (result - padded[:, rows, columns]).abs().max() < 1e-2


@pytest.mark.parametrize(("size", "cut"), [(32, 16), (28, 14), (33, 17)])
def test_cutout(size, cut):
    """A square of half the size is zero; its middle may lie on any pixel."""
    image = probe(size)
    results = drawn("cutout", image)
    hidden = results[:, 2] == 0
    assert torch.equal(results, torch.where(hidden[:, None], 0, image))
    middles = []
    for axis in (1, 2):
        lines = hidden.any(axis)  # (DRAWS, size)
        first = lines.int().argmax(1)
        length = lines.sum(1)
        middle = torch.where(first > 0, first + cut // 2, length + cut // 2 - cut)
        expected = torch.zeros_like(lines)
        for row, position in zip(expected, middle.tolist(), strict=True):
            start = position - cut // 2
            row[max(0, start) : start + cut] = True
        assert torch.equal(lines, expected)
        assert_each_equally_often(middle, range(size + (1 - cut % 2)))
        middles.append(middle)
    assert torch.equal(hidden.sum((1, 2)), hidden.any(1).sum(1) * hidden.any(2).sum(1))
    assert_independent(*middles)


def from_centre(results, row, column):
    """Return where pixels of these rows and columns came from, seen from the centre."""
    centre = (results.shape[-1] + 1) / 2  # in the numbers of `probe`
    return (results[:, :2, row, column] - centre).T


def test_scale():
    """Width and height by factors of their own, 1 / 1.2 to 1.2; zeros outside."""
    results = drawn("scale", probe())
    x, y = from_centre(results, 24, 26)
    factors = x / (26 - 15.5), y / (24 - 15.5)
    for factor in factors:
        assert_uniform(factor, 0.8333333, 1.2)
    assert_independent(*factors)
    other = from_centre(results, 5, 9)
    assert torch.allclose(other[0], factors[0] * (9 - 15.5), atol=1e-4)
    assert torch.allclose(other[1], factors[1] * (5 - 15.5), atol=1e-4)
    beyond = factors[0] > 1.1  # the edge pixel comes from more than a pixel outside
    assert beyond.sum() > 100
    assert results[beyond][:, :, 16, 0].abs().max() == 0


def test_rotate():
    """Around the centre by up to 15 degrees to either side; zeros outside."""
    results = drawn("rotate", probe())
    x, y = from_centre(results, 16, 26)
    place = torch.tensor([26 - 15.5, 16 - 15.5])
    angle = torch.atan2(y, x) - torch.atan2(place[1], place[0])
    assert_uniform(angle * 180 / math.pi, -15, 15)
    x, y = from_centre(results, 22, 12)
    cos, sin, before = angle.cos(), angle.sin(), (12 - 15.5, 22 - 15.5)
    assert torch.allclose(x, cos * before[0] - sin * before[1], atol=1e-4)
    assert torch.allclose(y, sin * before[0] + cos * before[1], atol=1e-4)
    turned = angle.abs() > 10 * math.pi / 180
    assert results[turned][:, :, 0, 0].abs().max() == 0


def test_colour():
    """Brightness by half at most, saturation 0 to 2, contrast 0.5 to 1.5, in turn."""
    image = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    results = drawn("color", image)
    grey, colour = image.mean(1, keepdim=True), image - image.mean(1, keepdim=True)
    mean = image.mean()
    brightness = results.mean((1, 2, 3)) - mean
    grey_after = results.mean(1, keepdim=True)
    dark = (grey - mean).argmin()
    spread = (grey_after - results.mean((1, 2, 3), keepdim=True)).flatten(1)[:, dark]
    contrast = spread / (grey - mean).flatten()[dark]
    most = colour.abs().argmax()
    found = (results - grey_after).flatten(1)[:, most] / colour.flatten()[most]
    saturation = found / contrast
    assert_uniform(brightness, -0.5, 0.5)
    assert_uniform(saturation, 0, 2)
    assert_uniform(contrast, 0.5, 1.5)
    assert_independent(brightness, saturation)
    assert_independent(brightness, contrast)
    assert_independent(saturation, contrast)
    b, s, c = (v.view(-1, 1, 1, 1) for v in (brightness, saturation, contrast))
    expected = image + b
    expected = (expected - expected.mean(1, keepdim=True)) * s + expected.mean(
        1, keepdim=True
    )
    mean = expected.mean((1, 2, 3), keepdim=True)
    assert torch.allclose(results, (expected - mean) * c + mean, atol=1e-4)


# --- Gradients, and one draw for all --------------------------------------------


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


# --- ImageNet's --------------------------------------------------------------------


def ramps(count=64, size=32):
    """Return images whose red rises to the right, whose green rises downwards."""
    axis = torch.linspace(0, 1, size)
    red, green = axis.expand(size, size), axis.view(-1, 1).expand(size, size)
    return torch.stack([red, green, red * 0]).expand(count, -1, -1, -1)


def test_crops_have_the_sizes_that_were_drawn():
    """A crop's width is how much red rises; areas, shapes, flips as torchvision's."""
    found = resized_crops(ramps(4000), torch.Generator().manual_seed(0))
    assert found.shape == (4000, 3, 32, 32)
    rise = found[:, 0, 16, 24] - found[:, 0, 16, 8]
    fall = found[:, 1, 24, 16] - found[:, 1, 8, 16]
    wide, high = (2 * x.abs() * 31 / 32 for x in (rise, fall))
    area = wide * high
    assert 0.07 < area.min() < 0.1 and 0.95 < area.max() < 1.03
    assert abs((rise < 0).float().mean() - 0.5) < 0.03
    assert (fall > 0).all()
    shape = (wide / high)[area < 0.5]  # larger ones are shortened
    assert 0.7 < shape.min() < 0.78 and 1.28 < shape.max() < 1.4
    assert abs(area[area < 0.5].mean() - (0.08 + 0.5) / 2) < 0.03  # uniform
    assert found.min() >= 0 and found.max() <= 1 + 1e-5


def test_a_crop_of_everything_is_the_image_or_its_mirror():
    images = torch.rand(20, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    found = resized_crops(
        images, torch.Generator().manual_seed(0), scale=(1, 1), ratio=(1, 1)
    )
    same = (found - images).abs().amax((1, 2, 3)) < 1e-5
    mirrored = (found - images.flip(-1)).abs().amax((1, 2, 3)) < 1e-5
    assert (same ^ mirrored).all() and 0 < same.sum() < 20


def test_labels_are_mixed_like_pixels():
    """Images of one grey each: the mean of a mixed one tells the share."""
    grey = torch.linspace(0, 1, 16)
    images = grey.view(-1, 1, 1, 1).expand(-1, 3, 32, 32)
    targets = torch.eye(16)
    generator = torch.Generator().manual_seed(0)
    shares = []
    for _ in range(200):
        mixed, labels = cutmix(images, targets, generator)
        assert labels.sum(1).allclose(torch.ones(16))
        assert mixed.mean((1, 2, 3)).allclose(labels @ grey, atol=1e-5)
        assert images.mean((1, 2, 3)).allclose(grey, atol=1e-5)  # not in place
        shares.append(1 - labels.diagonal().min().item())
    assert min(shares) < 0.05 and max(shares) > 0.7
