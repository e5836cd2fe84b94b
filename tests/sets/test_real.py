"""Real datasets: shapes, splits that stay apart, and files that are broken."""

import gzip
import io
import shutil

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from published_files import write_idx, write_mnist

from diver_lite.checks import InputError
from diver_lite.sets import real as data
from diver_lite.sets.real import (
    CIFAR10_CLASSES,
    FASHION_MNIST_CLASSES,
    describe_source,
    find_source,
    load_dataset,
    split_indices,
)
from diver_lite.sets.stored import one_channel

RNG = np.random.default_rng(0)


def check(images, labels, names, *, count, size, classes):
    assert images.shape == (count, 3, size, size)
    assert images.dtype == torch.float32
    assert 0 <= images.min() < images.max() <= 1
    assert labels.shape == (count,)
    assert labels.dtype == torch.int64
    assert sorted(labels.unique().tolist()) == list(range(classes))
    assert len(names) == classes


# --- What ships ---------------------------------------------------------------------


def test_the_packaged_test_split_is_the_official_one():
    """10,000 images, 1,000 per class, padded from 28 to 32 with zeros."""
    images, labels, names = load_dataset("fashion-mnist", "test")
    check(images, labels, names, count=10_000, size=32, classes=10)
    assert names == FASHION_MNIST_CLASSES
    assert labels[:5].tolist() == [9, 2, 1, 1, 6]  # as everybody knows them
    assert torch.bincount(labels).tolist() == [1000] * 10
    border = torch.ones(32, 32, dtype=torch.bool)
    border[2:30, 2:30] = False
    assert images[:, 0][:, border].max() == 0
    assert images.stride(1) == 0  # three channels, the memory of one
    assert images[:, 0].mean().item() == pytest.approx(0.2868 * (28 / 32) ** 2, 1e-3)


def test_the_packaged_sample_is_class_balanced():
    """1,000 training images, 100 of each class, none of them from the test split."""
    images, labels, names = load_dataset("fashion-mnist", "sample")
    check(images, labels, names, count=1_000, size=32, classes=10)
    assert torch.bincount(labels).tolist() == [100] * 10
    test = load_dataset("fashion-mnist", "test")[0]
    seen = {image.numpy().tobytes() for image in test[:, 0]}
    shared = sum(image.numpy().tobytes() in seen for image in images[:, 0])
    assert shared <= 2  # Fashion-MNIST itself repeats a few images


# --- Splits -------------------------------------------------------------------------


@pytest.mark.parametrize("per_class", [(6000,) * 10, (50, 1000, 3000)])
def test_splits_are_disjoint_balanced_and_complete(per_class):
    """fit and validation part the training split; sample lies in fit."""
    labels = torch.repeat_interleave(
        torch.arange(len(per_class)), torch.tensor(per_class)
    )
    labels = labels[torch.randperm(len(labels), generator=torch.manual_seed(0))]
    parts = {name: split_indices(labels, name) for name in data.SPLITS[2:]}
    fit, held = set(parts["fit"].tolist()), set(parts["validation"].tolist())
    assert fit.isdisjoint(held)
    assert fit | held == set(range(len(labels)))
    assert set(parts["sample"].tolist()) <= fit
    for indices in parts.values():
        assert torch.equal(indices, indices.sort().values)
        assert indices.dtype == torch.int64
    counted = {name: torch.bincount(labels[i]).tolist() for name, i in parts.items()}
    assert counted["validation"] == [min(500, n // 5) for n in per_class]
    assert counted["sample"] == [min(100, n - n // 5) for n in per_class]


def test_validation_is_the_end_of_each_class():
    """The last images of a class are held out, the first ones are the sample."""
    labels = torch.arange(2).repeat(1000)
    assert split_indices(labels, "validation").tolist() == list(range(1600, 2000))
    assert split_indices(labels, "sample").tolist() == list(range(200))


# --- IDX files ----------------------------------------------------------------------


@pytest.fixture
def root(tmp_path):
    """Write a small fake training split of Fashion-MNIST, 30 images per class."""
    pixels = RNG.integers(0, 256, (300, 28, 28), dtype=np.uint8)
    labels = (np.arange(300) % 10).astype(np.uint8)
    pixels[:, 0, 0] = labels * 25  # so that a label can be told from its image
    write_idx(tmp_path / "train-images-idx3-ubyte.gz", pixels)
    write_idx(tmp_path / "train-labels-idx1-ubyte.gz", labels)
    return tmp_path


@pytest.mark.parametrize("folder", ["MNIST/raw", "mnist", "."])
def test_mnist_is_found_where_a_name_tells_it(tmp_path, folder):
    """Its files are called as Fashion-MNIST's are."""
    digits = torch.rand(30, 1, 28, 28)
    home = tmp_path / "mnist_files"
    write_mnist(home / folder, digits, torch.arange(30) % 10)
    images, labels, names = load_dataset("mnist", "train", root=home)
    assert images.shape == (30, 3, 32, 32) and names == tuple("0123456789")
    assert torch.allclose(images[:, :1, 2:30, 2:30], digits, atol=1 / 500)
    assert labels.tolist() == [*range(10)] * 3
    assert describe_source("mnist", root=home) == "MNIST (official files)"


def test_garments_are_no_digits(root):
    with pytest.raises(InputError, match=r"none of .*split of mnist.*MNIST/raw"):
        load_dataset("mnist", "train", root=root)


@pytest.mark.parametrize("shape", [(7,), (5, 3, 4), (1, 1, 1)])
def test_idx_files_are_read(tmp_path, shape):
    array = RNG.integers(0, 256, shape, dtype=np.uint8)
    write_idx(tmp_path / "x.gz", array)
    assert np.array_equal(data._read_idx(tmp_path / "x.gz"), array)


def test_the_training_split_through_root(root, monkeypatch):
    """train, fit, validation and the environment variable, on a fake of 300 images."""
    images, labels, names = load_dataset("fashion-mnist", "train", root=root)
    check(images, labels, names, count=300, size=32, classes=10)
    assert torch.allclose(images[:, 0, 2, 2] * 255, labels * 25.0)
    parts = {}
    monkeypatch.setenv("DIVER_LITE_DATA", str(root))
    for split, count in {"fit": 240, "validation": 60}.items():
        x, y, names = load_dataset("fashion-mnist", split)
        check(x, y, names, count=count, size=32, classes=10)
        assert torch.allclose(x[:, 0, 2, 2] * 255, y * 25.0)
        assert x.stride(1) == 0
        parts[split] = {image.numpy().tobytes() for image in x[:, 0]}
    assert parts["fit"].isdisjoint(parts["validation"])


def test_unpacked_files_are_read_too(root):
    """Debian and some archives store the files without .gz."""
    expected = load_dataset("fashion-mnist", "train", root=root)
    for path in list(root.glob("*.gz")):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    found = load_dataset("fashion-mnist", "train", root=root)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])


@pytest.mark.parametrize("place", ["fashion-mnist", "FashionMNIST/raw"])
def test_files_one_folder_down(root, place):
    """root may be the folder above, as torchvision and others lay it out."""
    folder = root / place
    folder.mkdir(parents=True)
    for path in list(root.glob("*.gz")):
        path.rename(folder / path.name)
    assert find_source("fashion-mnist", root) == (folder, "official files")


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],  # a truncated gzip
        lambda content: b"not gzip at all",
        lambda content: gzip.compress(gzip.decompress(content)[:-1]),
        lambda content: gzip.compress(gzip.decompress(content) + b"\0"),
        lambda content: gzip.compress(b"\0\0\x0d\1" + gzip.decompress(content)[4:]),
        lambda content: gzip.compress(b"\0\0\x08"),
        lambda content: content[:-8] + b"\0" * 8,  # wrong checksum
        lambda content: content[:12] + b"\xff" * 20 + content[32:],  # damaged inside
    ],
)
@pytest.mark.parametrize("stem", ["images-idx3", "labels-idx1"])
def test_damaged_idx_files_are_named(root, damage, stem):
    """Truncated, empty, of another type: an InputError with the file's path."""
    path = root / f"train-{stem}-ubyte.gz"
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert path.read_bytes() != whole
    with pytest.raises(InputError, match=path.name):
        load_dataset("fashion-mnist", "train", root=root)


def test_images_and_labels_must_agree(root):
    """A labels file of another split doesn't pass."""
    write_idx(root / "train-labels-idx1-ubyte.gz", np.zeros(299, np.uint8))
    with pytest.raises(InputError, match=r"299.*300|300.*299"):
        load_dataset("fashion-mnist", "train", root=root)


# --- Not found ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["FashionMNIST", "Fashion-MNIST", "fashion_mnist"])
def test_names_as_people_spell_them(name):
    labels = load_dataset(name, "test")[1]
    assert torch.equal(labels, load_dataset("fashion-mnist", "test")[1])
    assert describe_source(name) == "Fashion-MNIST (official files)"


def test_unknown_names_and_splits(tmp_path):
    """Both messages name what was found and what would do."""
    with pytest.raises(InputError, match=r"'mnist-3d' is unknown.*'cifar10'"):
        load_dataset("mnist-3d", "test")
    with pytest.raises(InputError, match=r"split is 'dev'; .*'validation'"):
        load_dataset("fashion-mnist", "dev")


@pytest.mark.parametrize("name", ["fashion-mnist", "cifar10"])
def test_a_root_that_lacks_the_files(name, tmp_path, monkeypatch):
    """Nothing is downloaded behind the back of a root given explicitly."""
    monkeypatch.setattr(data, "_DEBIAN", tmp_path / "nowhere")
    with pytest.raises(InputError, match="holds none of") as caught:
        load_dataset(name, "train", root=tmp_path)
    assert str(tmp_path) in str(caught.value)
    with pytest.raises(InputError, match="is not a folder"):
        load_dataset(name, "train", root=tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "loader"), [("fashion-mnist", "FashionMNIST"), ("cifar10", "CIFAR10")]
)
def test_no_files_and_no_network(name, loader, tmp_path, monkeypatch):
    """The message says where the files may lie, and nothing stays behind."""

    def no_network(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.datasets, loader, no_network)
    monkeypatch.setattr(data, "_DEBIAN", tmp_path / "nowhere")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(InputError, match="could not be downloaded") as caught:
        load_dataset(name, "train")
    for part in (name, "DIVER_LITE_DATA", "--data-root"):
        assert part in str(caught.value)


def test_what_a_judge_needs_is_asked_for(tmp_path, no_network, monkeypatch):
    """The test split, in any layout, and where the files come from."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "cache"))
    words = (
        "the test split of cifar10", "'cifar-10-batches-py', 'cifar10_jpeg.npz', "
        "'test/airplane'", "https://www.cs.toronto.edu/~kriz/cifar-10-",
    )  # fmt: skip
    for options in ({}, {"root": tmp_path}):
        with pytest.raises(InputError) as caught:
            load_dataset("cifar10", "test", **options)
        assert all(part in str(caught.value) for part in words)
        assert "train" not in str(caught.value)
    with pytest.raises(InputError, match=r"'train/airplane'.*the train split"):
        load_dataset("cifar10", "fit", root=tmp_path)


def test_a_judge_needs_no_training_pictures(tmp_path):
    png_cifar(tmp_path, CIFAR10_CLASSES, 32)
    shutil.rmtree(tmp_path / "train")
    assert len(load_dataset("cifar10", "test", root=tmp_path)[0]) == 20
    found = describe_source("cifar10", root=tmp_path, split="test")
    assert found == "CIFAR-10 (image folder)"
    with pytest.raises(InputError, match="holds none of"):
        load_dataset("cifar10", "train", root=tmp_path)


# --- One channel ---------------------------------------------------------------------


def test_grey_is_known_by_its_pixels():
    """However they lie in memory; without a copy where one channel is stored."""
    one = torch.rand(2_500, 1, 4, 5)
    view = one.expand(-1, 3, -1, -1)
    assert one_channel(view).data_ptr() == one.data_ptr()
    for grey in (view, view.contiguous(), view.flip(3).flip(3), view[:, :2]):
        assert torch.equal(one_channel(grey), one)
        assert one_channel(grey).is_contiguous()
    coloured = view.clone()
    coloured[-1, 2, 3, 4] += 0.01
    assert one_channel(coloured) is coloured
    assert torch.equal(one_channel(one), one)


# --- CIFAR-10 as packed JPEG files --------------------------------------------------


def jpeg(colour):
    stream = io.BytesIO()
    Image.new("RGB", (32, 32), colour).save(stream, "JPEG", quality=95)
    return np.frombuffer(stream.getvalue(), np.uint8)


@pytest.fixture
def cifar(tmp_path):
    """Write a fake cifar10_jpeg.npz: 10 train and 2 test images per class, sorted."""
    parts = {}
    for subset, count in {"train": 10, "test": 2}.items():
        labels = np.repeat(np.arange(10), count)
        files = [jpeg((int(y) * 25, 0, 0)) for y in labels]
        ends = np.cumsum([len(f) for f in files])
        parts[f"{subset}_blob"] = np.concatenate(files)
        parts[f"{subset}_offs"] = np.concatenate([[0], ends])
        parts[f"{subset}_y"] = labels
    np.savez(tmp_path / "cifar10_jpeg.npz", **parts)
    return tmp_path


def test_packed_cifar10(cifar):
    """Images keep their labels, and the order carries no class."""
    for split, count in {"train": 100, "test": 20, "fit": 80, "validation": 20}.items():
        images, labels, names = load_dataset("cifar10", split, root=cifar)
        check(images, labels, names, count=count, size=32, classes=10)
        assert names == CIFAR10_CLASSES
        red = images[:, 0].mean((1, 2)) * 255
        assert torch.allclose(red, labels * 25.0, atol=3)
        assert not torch.equal(labels, labels.sort().values)


def test_results_can_say_which_files_they_come_from(cifar, tmp_path):
    """A re-encoding is never called CIFAR-10 alone."""
    assert describe_source("cifar10", root=cifar) == "CIFAR-10 (JPEG re-encoding)"
    (tmp_path / "official/cifar-10-batches-py").mkdir(parents=True)
    root = tmp_path / "official"
    assert describe_source("cifar10", root=root) == "CIFAR-10 (official files)"
    assert describe_source("fashion-mnist") == "Fashion-MNIST (official files)"
    assert describe_source(str(tmp_path)) == f"image folder {tmp_path.name}"


def png_cifar(root, classes, size):
    """Write 5 train and 2 test PNG files per class."""
    for split, count in {"train": 5, "test": 2}.items():
        for label, name in enumerate(classes):
            place = root / split / name
            place.mkdir(parents=True)
            for index in range(count):
                colour = (label * 25, 0, 255)
                Image.new("RGB", (size, size), colour).save(place / f"{index}.png")


def test_cifar10_as_an_image_folder(tmp_path):
    """PNG files in class folders serve as CIFAR-10, under its own name."""
    png_cifar(tmp_path, CIFAR10_CLASSES, 32)
    for split, count in {"train": 50, "test": 20, "fit": 40, "validation": 10}.items():
        images, labels, names = load_dataset("cifar10", split, root=tmp_path)
        check(images, labels, names, count=count, size=32, classes=10)
        assert names == CIFAR10_CLASSES
        assert torch.allclose(images[:, 0, 0, 0] * 255, labels * 25.0)
    assert describe_source("cifar10", root=tmp_path) == "CIFAR-10 (image folder)"


@pytest.mark.parametrize(
    ("classes", "size"), [(CIFAR10_CLASSES[:9], 32), (CIFAR10_CLASSES, 40)]
)
def test_a_folder_that_is_not_cifar10(tmp_path, classes, size):
    """Missing classes and other sizes are refused, with what was found."""
    png_cifar(tmp_path, classes, size)
    with pytest.raises(InputError, match=rf"of \({size}, {size}\) pixels; expected"):
        load_dataset("cifar10", "fit", root=tmp_path)


@pytest.mark.parametrize("keep", [0, 100, 0.5])
def test_a_damaged_pack_is_named(cifar, keep):
    """A truncated or empty .npz is an InputError with its path."""
    path = cifar / "cifar10_jpeg.npz"
    content = path.read_bytes()
    keep = int(keep * len(content)) if isinstance(keep, float) else keep
    path.write_bytes(content[:keep])
    with pytest.raises(InputError, match=r"cifar10_jpeg\.npz"):
        load_dataset("cifar10", "test", root=cifar)


def test_a_pack_without_the_right_keys(cifar):
    """Another .npz of that name is refused."""
    np.savez(cifar / "cifar10_jpeg.npz", pixels=np.zeros(3))
    with pytest.raises(InputError, match=r"cifar10_jpeg\.npz"):
        load_dataset("cifar10", "test", root=cifar)


# --- Folders of images --------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """Write train/ (5 per class) and test/ (2 per class) folders of 3 classes."""
    for split, count in {"train": 5, "test": 2}.items():
        for label, name in enumerate(("ant", "bee", "cat")):
            place = tmp_path / split / name
            place.mkdir(parents=True)
            for index in range(count):
                colour = (label * 100, index * 10, 0)
                Image.new("RGB", (40, 40), colour).save(place / f"{index}.png")
    return tmp_path


def test_an_image_folder(folder):
    """Sub-folders are classes; splits part them as those of any dataset."""
    for split, count in {"train": 15, "test": 6, "fit": 12, "validation": 3}.items():
        images, labels, names = load_dataset(str(folder), split)
        check(images, labels, names, count=count, size=40, classes=3)
        assert names == ("ant", "bee", "cat")
        assert torch.allclose(images[:, 0, 0, 0] * 255, labels * 100.0)


def test_image_size_resizes_and_crops(folder):
    """image_size makes differing images one size; without it they are refused."""
    Image.new("RGB", (64, 48), (255, 255, 255)).save(folder / "train/bee/9.png")
    with pytest.raises(InputError, match=r"9\.png is 64x48.*pass image_size"):
        load_dataset(str(folder), "train")
    images, labels, names = load_dataset(str(folder), "train", image_size=32)
    check(images, labels, names, count=16, size=32, classes=3)


def test_a_corrupt_image_is_named(folder):
    """Neither garbage nor a truncated file passes as an image."""
    path = folder / "test/ant/0.png"
    whole = path.read_bytes()
    for content in (b"", b"garbage", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"ant/0\.png can't be read"):
            load_dataset(str(folder), "test")


def test_sixteen_bits_are_kept(folder):
    """999 is neither clipped to 255 nor cut to 3."""
    Image.fromarray(np.full((40, 40), 999, np.uint16)).save(folder / "test/ant/0.png")
    for size in (None, 40):
        images = load_dataset(str(folder), "test", image_size=size)[0]
        assert torch.allclose(images[0], torch.tensor(999 / 65535))


def test_folders_without_classes_or_images(folder, tmp_path):
    """A folder lacking a split, classes or images says what is expected."""
    with pytest.raises(InputError, match="one sub-folder per class"):
        load_dataset(str(folder / "train"), "train")
    empty = tmp_path / "empty"
    (empty / "train/ant").mkdir(parents=True)
    with pytest.raises(InputError, match="one sub-folder per class"):
        load_dataset(str(empty), "train")
