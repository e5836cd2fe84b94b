"""Sets whose pixels stay in their files until somebody asks for them."""

import json
import pickle
import sys
from dataclasses import replace

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from diver_lite.checks import InputError, describe
from diver_lite.files import fingerprint
from diver_lite.judge.protocols import Protocol
from diver_lite.judge.table import cross_architecture
from diver_lite.sets import stored
from diver_lite.sets.distilled import DistilledSet
from diver_lite.sets.folder import save_image_folder
from diver_lite.sets.load import load_distilled
from diver_lite.sets.stored import StoredImages

ROWS = 3


@pytest.fixture
def images():
    return torch.randn(8, 3, 4, 5, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def whole(images):
    """Return a set of 8 images in memory."""
    labels, names = torch.arange(8) % 2, ("cat", "dog")
    return DistilledSet(images, labels, names, torch.rand(8, 2), {"lr": 0.1})


@pytest.fixture
def folder(whole, tmp_path):
    """Return the same set as a folder of three files: 3, 3 and 2 images."""
    folder = tmp_path / "numbered"
    folder.mkdir()
    for number, part in enumerate(whole.images.split(ROWS)):
        save_file({"images": part.clone()}, folder / f"{number:06d}.safetensors")
    whole.save_index(folder, ROWS)
    return folder


@pytest.fixture
def asked(monkeypatch):
    """Return a list of how many rows were read at a time."""
    counts, read = [], StoredImages.__getitem__

    def counted(self, index):
        rows = read(self, index)
        counts.append(len(rows) if rows.ndim == 4 else 1)
        return rows

    monkeypatch.setattr(StoredImages, "__getitem__", counted)
    return counts


def same(opened, whole):
    assert torch.equal(opened.images[:], whole.images)
    assert torch.equal(opened.labels, whole.labels)
    assert torch.equal(opened.soft_labels, whole.soft_labels)
    assert opened.class_names == whole.class_names
    assert opened.provenance == whole.provenance


def test_a_folder_opens_without_reading_pixels(folder, whole, asked):
    opened = DistilledSet.load(folder)
    assert isinstance(opened.images, StoredImages)
    assert len(opened) == 8
    assert "in their files" in repr(opened)
    assert opened.ipc == 4
    assert asked == []
    same(opened, whole)
    same(load_distilled(folder), whole)
    same(load_distilled(folder, format="diver-lite"), whole)


def test_what_is_known_of_all_rows_is_not_read(folder, images, asked):
    opened = DistilledSet.load(folder).images
    for fact in ("dtype", "device", "ndim", "shape"):
        assert getattr(opened, fact) == getattr(images, fact)
    describe(opened)  # as messages do
    assert asked == []


@pytest.mark.parametrize("format", ["mtt", "image-folder"])
def test_ours_is_read_as_nothing_else(folder, whole, tmp_path, format):
    """Of pixels that are as they are no normalisation is undone."""
    file = whole.save(tmp_path / "cifar10.safetensors")
    for source in (folder, file):
        words = f"{source.name}.*: format '{format}' was asked for, but this is a set"
        with pytest.raises(InputError, match=words):
            load_distilled(source, format=format, normalisation="cifar10")


@pytest.mark.skipif(sys.platform == "win32", reason="modes of POSIX")
def test_the_index_has_the_usual_mode(folder):
    """As the umask says: safetensors itself writes files of mode 0600."""
    (folder / "beside").touch()
    modes = {(folder / name).stat().st_mode for name in ("set.safetensors", "beside")}
    assert len(modes) == 1


def test_a_large_file_opens_without_reading_pixels(whole, tmp_path, monkeypatch, asked):
    path = whole.save(tmp_path / "large.safetensors")
    size = 4 * whole.images.numel()
    monkeypatch.setattr(stored, "LARGE", size)
    assert isinstance(DistilledSet.load(path).images, torch.Tensor)
    monkeypatch.setattr(stored, "LARGE", size - 1)
    opened = DistilledSet.load(path)
    assert isinstance(opened.images, StoredImages)
    assert asked == []
    same(opened, whole)


def test_a_large_folder_of_pictures(whole, tmp_path, monkeypatch, asked):
    """Its pictures are read when they are needed, and are those of a small one."""
    folder = save_image_folder(whole, tmp_path / "png")
    eager = load_distilled(folder)
    monkeypatch.setattr(stored, "LARGE", 4 * whole.images.numel() - 1)
    opened = load_distilled(folder)
    assert isinstance(opened.images, StoredImages)
    assert opened.provenance == eager.provenance
    assert asked == []
    assert torch.equal(opened.images[[7, 2]], eager.images[[7, 2]])
    sent = pickle.loads(pickle.dumps(opened))  # to a worker that is started anew
    assert torch.equal(sent.images[[7, 2]], eager.images[[7, 2]])
    Image.new("RGB", (9, 9)).save(folder / "000_cat" / "0002.png")
    with pytest.raises(InputError, match=r"\(1, 3, 9, 9\)"):
        opened.images[1]


@pytest.mark.parametrize(
    "index",
    [5, -1, slice(2, 7, 2), slice(3, 3), [7, 0, 3], torch.tensor([[1, 6], [6, 2]])],
)
def test_rows_are_those_of_the_tensor(folder, images, index):
    """One, some or many, across files and in any order."""
    assert torch.equal(DistilledSet.load(folder).images[index], images[index])


@pytest.mark.parametrize("index", [8, -9, [0, 8]])
def test_there_are_no_other_rows(folder, index):
    with pytest.raises(IndexError):
        DistilledSet.load(folder).images[index]


def test_some_images_make_a_set_in_memory(folder, whole):
    some = DistilledSet.load(folder)[[6, 1]]
    assert torch.equal(some.images, whole.images[[6, 1]])
    assert isinstance(some.images, torch.Tensor)


def test_whatever_a_tensor_can_do_reads_all(folder, images, asked):
    opened = DistilledSet.load(folder).images
    assert torch.equal(opened.clamp(0, 1), images.clamp(0, 1))
    assert torch.equal(torch.cat([opened, images]), torch.cat([images, images]))
    assert asked == [8, 8]
    with pytest.raises(AttributeError):
        _ = opened.no_such_thing


def test_the_fingerprint_is_the_tensors(folder, images, asked):
    """It reads the rows in parts."""
    more = images.repeat(40, 1, 1, 1)
    opened = StoredImages(more.shape, lambda rows: more[rows])
    assert fingerprint([opened]) == fingerprint([more])
    assert asked == [100, 100, 100, 20]


def test_judges_take_it(folder, whole):
    """As they take a set in memory, with which they reach the same accuracy."""
    pixels = torch.rand(8, 3, 32, 32)
    memory = replace(whole, images=pixels)
    opened = replace(memory, images=StoredImages(pixels.shape, lambda r: pixels[r]))
    test = (torch.rand(40, 3, 32, 32), torch.arange(40) % 2, whole.class_names)
    sets, few = {"stored": opened, "memory": memory}, Protocol(steps=3)
    table = cross_architecture(sets, test, judges=["ConvNet"], seeds=1, protocol=few)
    assert table["error"].eq("").all()
    assert table["accuracy"].nunique() == 1


def test_a_large_set_is_saved_as_one_file(folder, whole, tmp_path):
    path = DistilledSet.load(folder).save(tmp_path / "one.safetensors")
    same(DistilledSet.load(path), whole)


def test_another_process_can_have_it(folder, whole):
    """Pickled it is small, for a worker that is started anew opens the same files."""
    sent = pickle.dumps(DistilledSet.load(folder))
    assert len(sent) < 4_000
    same(pickle.loads(sent), whole)


# --- What is wrong with it -----------------------------------------------------------


def test_a_missing_file_is_named(folder):
    (folder / "000001.safetensors").unlink()
    with pytest.raises(InputError, match=r"000001\.safetensors.*expected a whole"):
        DistilledSet.load(folder).images[4]
    (folder / "000002.safetensors").unlink()
    with pytest.raises(InputError, match=r"000002\.safetensors"):
        DistilledSet.load(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda images: images.fill_(torch.nan), "NaN"),
        (lambda images: images.int(), "int32"),
        (lambda images: images.to(torch.complex64), "complex64"),
        (lambda images: images[..., 1:].contiguous(), r"\(1, 3, 4, 4\)"),
    ],
)
def test_pixels_are_checked_as_they_are_read(folder, damage, message):
    file = folder / "000001.safetensors"
    save_file({"images": damage(load_file(file)["images"])}, file)
    opened = DistilledSet.load(folder)
    opened.images[0]
    with pytest.raises(InputError, match=message):
        opened.images[4]


@pytest.mark.parametrize("rows", [None, 0, -1, 2, 4, 7, "3", 2.5, [3], 10**30])
def test_an_index_that_cannot_be_right(folder, rows):
    """Wrong types, and numbers that don't fit the files or the labels."""
    index = folder / "set.safetensors"
    tensors = load_file(index)
    header = {"format_version": 1, "class_names": ["cat", "dog"], "provenance": {}}
    save_file(tensors, index, {"diver_lite": json.dumps(header | {"rows": rows})})
    with pytest.raises(InputError, match=r"set\.safetensors|00000\d\.safetensors"):
        DistilledSet.load(folder)


def test_a_folder_without_index(tmp_path):
    with pytest.raises(InputError, match=r"set\.safetensors: no such file"):
        DistilledSet.load(tmp_path)


def test_a_folder_of_nothing(folder):
    index = folder / "set.safetensors"
    empty = {"labels": torch.zeros(0, dtype=torch.int64)}
    header = {"format_version": 1, "class_names": ["cat"], "provenance": {}, "rows": 3}
    save_file(empty, index, {"diver_lite": json.dumps(header)})
    with pytest.raises(
        InputError, match=r"set\.safetensors: labels is .*\[\].*one for"
    ):
        DistilledSet.load(folder)


def test_the_limit_is_a_gigabyte():
    assert stored.LARGE == 2**30


@pytest.mark.parametrize("lr", [1e30, -1e30, 10**400, float("inf"), float("nan"), True])
def test_numbers_beyond_reason_are_not_known(lr):
    """A float32 couldn't hold them, and nothing is a million billion billion."""
    assert stored.known({"lr": lr, "seed": 3}) == {"seed": 3}
    assert stored.known({"lr": 1e29}) == {"lr": 1e29}
