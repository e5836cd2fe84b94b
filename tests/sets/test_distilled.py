"""DistilledSet: what it accepts, and that files give back what went in."""

import csv
import json
import re
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from safetensors.torch import save_file

from diver_lite import assets
from diver_lite.checks import InputError
from diver_lite.files import sha256
from diver_lite.sets import distilled
from diver_lite.sets.distilled import DistilledSet
from diver_lite.sets.folder import save_image_folder
from diver_lite.sets.load import list_shipped, load_distilled
from diver_lite.sets.names import (
    ALIASES,
    DATASETS,
    SUBSETS,
    class_names,
    dataset_in,
    dataset_name,
)

NAMES = ("cat", "dog / wolf")


def small_set(**changes):
    """Return 4 images of 2 classes, with values outside [0, 1]."""
    generator = torch.Generator().manual_seed(0)
    values = {
        "images": torch.randn(4, 3, 5, 6, generator=generator) * 2,
        "labels": torch.tensor([0, 0, 1, 1]),
        "class_names": NAMES,
        "soft_labels": torch.randn(4, 2, generator=generator),
        "provenance": {"format": "dc", "lr": 0.1},
    }
    return DistilledSet(**(values | changes))


def same(first, second):
    assert torch.equal(
        first.images.contiguous().view(torch.int32),
        second.images.contiguous().view(torch.int32),
    )
    assert torch.equal(first.labels, second.labels)
    assert first.class_names == second.class_names
    assert first.provenance == second.provenance
    assert (first.soft_labels is None) == (second.soft_labels is None)
    if first.soft_labels is not None:
        assert torch.equal(first.soft_labels, second.soft_labels)


# --- The type ----------------------------------------------------------------------


def test_types_are_made_uniform():
    made = small_set(
        images=torch.rand(4, 3, 2, 2, dtype=torch.float64, requires_grad=True),
        labels=torch.tensor([0, 1, 0, 1], dtype=torch.int32),
        class_names=["a", "b"],
        soft_labels=torch.rand(4, 2, dtype=torch.float16),
        provenance={"mean": (0.5, 0.5)},
    )
    assert made.images.dtype == torch.float32 and not made.images.requires_grad
    assert made.labels.dtype == torch.int64
    assert made.class_names == ("a", "b")
    assert made.soft_labels.dtype == torch.float32
    assert made.provenance == {"mean": [0.5, 0.5]}


def test_values_outside_the_unit_range_stay():
    assert small_set().images.min() < 0 and small_set().images.max() > 1


def test_length_ipc_and_repr():
    made = small_set()
    assert len(made) == 4 and made.ipc == 2
    assert made[:3].ipc is None
    assert "4 images 3x5x6" in repr(made) and "ipc 2" in repr(made)
    assert len(repr(made)) < 120


def test_the_default_provenance_is_not_shared():
    first, second = (
        DistilledSet(torch.rand(1, 3, 2, 2), torch.tensor([0]), ("a",))
        for _ in range(2)
    )
    first.provenance["x"] = 1
    assert second.provenance == {}


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        (1, [1]),
        (-1, [3]),
        (slice(1, 3), [1, 2]),
        (slice(None, None, -1), [3, 2, 1, 0]),
        (torch.tensor([3, 0]), [3, 0]),
        (torch.tensor(2), [2]),
        ([2, 2], [2, 2]),
        (torch.tensor([True, False, False, True]), [0, 3]),
    ],
)
def test_indexing_gives_a_set(index, expected):
    made, part = small_set(), small_set()[index]
    assert torch.equal(part.images, made.images[expected])
    assert torch.equal(part.labels, made.labels[expected])
    assert torch.equal(part.soft_labels, made.soft_labels[expected])
    assert part.class_names == made.class_names


def test_a_set_can_be_looped_over():
    assert [part.labels.item() for part in small_set()] == [0, 0, 1, 1]
    with pytest.raises(IndexError):
        small_set()[4]
    with pytest.raises(InputError, match="no image"):
        small_set()[2:2]


REAL = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))
RELEASED = Path(__file__).parents[3] / "shared/data/released"


@pytest.mark.parametrize(
    ("images", "scale"),
    [
        (REAL * 255, r"0\.\d\d \.\. 25\d\.\d\d, which looks like 0 \.\. 255"),
        (REAL * 260 - 3, r"looks like 0 \.\. 255"),  # resized with overshoot
        (REAL * 2 - 1, r"looks like -1 \.\. 1; expected black at 0 and white at 1"),
        (REAL * 2.3 - 1.15, r"looks like -1 \.\. 1"),  # a decoder's raw output
        (1 - 2 * REAL**4, r"looks like -1 \.\. 1"),  # bright pictures
    ],
)
def test_pixels_on_another_scale_are_doubted(images, scale):
    with pytest.warns(UserWarning, match=scale) as caught:
        DistilledSet(images, [0] * 6, ("a",))
    assert caught[0].filename == __file__


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "images",
    [REAL, REAL.round(), REAL * 0, 0 * REAL + 1, REAL * 1.9 - 0.45, REAL * 9 - 4],
)
def test_other_pixels_are_not(images):
    DistilledSet(images, [0] * 6, ("a",))


@pytest.mark.filterwarnings("error:images hold")
def test_a_file_with_a_shipped_set_s_name(tmp_path, monkeypatch):
    """Which of the two is read is said, and how to read the other."""
    monkeypatch.chdir(tmp_path)
    name = list_shipped()[0]
    (tmp_path / name).write_text("mine")
    with pytest.warns(UserWarning, match=rf"the shipped set is read.*\./{name}"):
        load_distilled(name)
    with pytest.raises(InputError, match="not a torch file"):
        load_distilled(f"./{name}")


@pytest.mark.parametrize("name", list_shipped())
def test_no_image_that_ships_is_doubted(name):
    for part in load_distilled(name):
        part.with_images(part.images.clamp(0, 1), "clipped")


def _released():
    """Yield the images of each published file, read in any of several ways."""
    files = {p for p in RELEASED.rglob("*.pt") if not re.match("labels|lr", p.name)}
    for file in sorted(files):
        for how in ({}, {"zca": False}, {"dataset": "cifar10", "format": "mtt"}):
            with suppress(InputError):
                yield load_distilled(file, **how)
                break


@pytest.mark.skipif(not RELEASED.is_dir(), reason="needs published files")
@pytest.mark.filterwarnings("ignore::UserWarning", "error:images hold")
def test_no_published_image_is_doubted():
    assert sum(len([*found]) for found in _released()) > 500


def with_pixel(value):
    images = torch.zeros(4, 3, 2, 2)
    images[2, 1, 0, 1] = value
    return images


BAD_SETS = {
    "nan": (
        {"images": with_pixel(float("nan"))},
        "images hold 1 NaN or infinite.*row 2",
    ),
    "inf": (
        {"images": with_pixel(float("inf"))},
        "images hold 1 NaN or infinite.*row 2",
    ),
    "zero images": (
        {"images": torch.zeros(0, 3, 2, 2)},
        r"\(0, 3, 2, 2\).*\(N, 3, H, W\)",
    ),
    "grey": ({"images": torch.zeros(4, 1, 2, 2)}, r"\(4, 1, 2, 2\).*\(N, 3, H, W\)"),
    "four channels": ({"images": torch.zeros(4, 4, 2, 2)}, r"\(4, 4, 2, 2\)"),
    "three axes": ({"images": torch.zeros(3, 2, 2)}, r"\(3, 2, 2\)"),
    "bytes": ({"images": torch.zeros(4, 3, 2, 2, dtype=torch.uint8)}, "uint8"),
    "array": ({"images": np.zeros((4, 3, 2, 2))}, "ndarray"),
    "float labels": ({"labels": torch.zeros(4)}, "float32.*integer"),
    "label length": (
        {"labels": torch.tensor([0, 1])},
        r"labels is torch.int64 \(2,\).*\(4,\)",
    ),
    "label too large": (
        {"labels": torch.tensor([0, 0, 1, 2])},
        r"labels are 0 .. 2; expected 0 .. 1",
    ),
    "negative label": (
        {"labels": torch.tensor([0, 0, 1, -1])},
        r"labels are -1 .. 1; expected 0 .. 1",
    ),
    "no class names": (
        {"class_names": ()},
        r"class_names is \(\); expected one name per class",
    ),
    "one word": (
        {"class_names": "ab"},
        r"class_names is 'ab'; expected one name per class",
    ),
    "soft shape": ({"soft_labels": torch.rand(4, 3)}, r"\(4, 3\).*\(4, 2\)"),
    "soft integers": ({"soft_labels": torch.ones(4, 2).long()}, "int64"),
    "soft nan": ({"soft_labels": torch.full((4, 2), torch.nan)}, "NaN"),
    "provenance": ({"provenance": {"path": object()}}, "provenance.*JSON"),
}


@pytest.mark.parametrize(("changes", "message"), BAD_SETS.values(), ids=BAD_SETS)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(InputError, match=message) as caught:
        small_set(**changes)
    assert "\n" not in str(caught.value)


# --- Our own file ------------------------------------------------------------------

finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | finite,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
    ),
    max_leaves=6,
)


@st.composite
def sets(draw):
    classes, count = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    shape = (count, 3, draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    images = draw(arrays.arrays(np.float32, shape, elements=finite))
    labels = draw(arrays.arrays(np.int64, count, elements=st.integers(0, classes - 1)))
    soft = draw(
        st.none() | arrays.arrays(np.float32, (count, classes), elements=finite)
    )
    return DistilledSet(
        torch.from_numpy(images),
        torch.from_numpy(labels),
        draw(st.lists(st.text(), min_size=classes, max_size=classes)),
        None if soft is None else torch.from_numpy(soft),
        draw(st.dictionaries(st.text(), json_values, max_size=4)),
    )


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(made=sets())
def test_saving_and_loading_changes_no_bit(made, tmp_path):
    path = tmp_path / "set.safetensors"
    made.save(path, overwrite=True)
    same(DistilledSet.load(path), made)
    assert [file.name for file in tmp_path.iterdir()] == ["set.safetensors"]


def test_the_same_set_makes_the_same_file(tmp_path):
    first = small_set().save(tmp_path / "a.safetensors")
    second = small_set().save(tmp_path / "b.safetensors")
    assert sha256(first) == sha256(second)


def test_half_precision_is_rounded_once_and_recorded(tmp_path):
    made = small_set()
    path = made.save(tmp_path / "a.safetensors", dtype=torch.float16)
    loaded = DistilledSet.load(path)
    assert loaded.images.dtype == torch.float32
    assert torch.equal(loaded.images, made.images.half().float())
    assert loaded.provenance["stored_as"] == "float16"


def test_our_file_through_the_loader(tmp_path):
    made = small_set(provenance={"dataset": "cifar10"})
    path = made.save(tmp_path / "a.safetensors")
    same(load_distilled(path), made)
    same(load_distilled(str(path), format="diver-lite", dataset="CIFAR-10"), made)
    with pytest.raises(InputError, match=r"mnist.*'cifar10'"):
        load_distilled(path, dataset="mnist")
    with pytest.raises(
        InputError, match=r"factor= has no meaning for format 'diver-lite'"
    ):
        load_distilled(path, factor=2)


def not_ours(path):
    save_file({"images": torch.zeros(1, 3, 2, 2)}, path)


def from_the_future(path):
    tensors = {"images": torch.zeros(1, 3, 2, 2), "labels": torch.tensor([0])}
    header = {"format_version": 99, "class_names": ["a"], "provenance": {}}
    save_file(tensors, path, {"diver_lite": json.dumps(header)})


def without_header(path):
    tensors = {"images": torch.zeros(1, 3, 2, 2), "labels": torch.tensor([0])}
    save_file(tensors, path, {"diver_lite": "{}"})


def with_nan(path):
    tensors = {"images": torch.full((1, 3, 2, 2), torch.nan), "labels": torch.zeros(1)}
    header = {"format_version": 1, "class_names": ["a"], "provenance": {}}
    save_file(tensors, path, {"diver_lite": json.dumps(header)})


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: path.write_bytes(b""), "expected a whole"),
        (lambda path: path.write_bytes(b"\x00" * 100), "expected a whole"),
        (lambda path: None, "no such file"),
        (not_ours, "not a distilled set"),
        (from_the_future, "version 99 is newer"),
        (without_header, "damaged metadata.*format_version"),
        (with_nan, "12 NaN or infinite"),
    ],
)
def test_bad_safetensors_files(tmp_path, write, message):
    path = tmp_path / "bad.safetensors"
    write(path)
    for load in (DistilledSet.load, load_distilled):
        with pytest.raises(InputError, match=message) as caught:
            load(path)
        assert "bad.safetensors" in str(caught.value)


def test_a_truncated_file_is_refused(tmp_path):
    path = small_set().save(tmp_path / "a.safetensors")
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InputError, match="expected a whole"):
        load_distilled(path)


# --- Writing -----------------------------------------------------------------------


def test_image_folder_clips_rounds_and_labels(tmp_path):
    images = torch.tensor([-3.0, 0.0, 0.5, 0.999, 1.0, 9.0]).view(6, 1, 1, 1)
    made = DistilledSet(
        images.expand(6, 3, 2, 4), torch.tensor([1, 0, 1, 0, 0, 1]), NAMES
    )
    folder = save_image_folder(made, tmp_path / "png")
    written = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.png"))
    assert written == [
        "000_cat/0001.png",
        "000_cat/0003.png",
        "000_cat/0004.png",
        "001_dog-wolf/0000.png",
        "001_dog-wolf/0002.png",
        "001_dog-wolf/0005.png",
    ]
    with (folder / "labels.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert rows[0] == {
        "file": "001_dog-wolf/0000.png",
        "label": "1",
        "class_name": "dog / wolf",
    }
    pixels = [np.array(Image.open(folder / row["file"])) for row in rows]
    assert [p[0, 0, 0] for p in pixels] == [0, 0, 128, 255, 255, 255]
    assert pixels[0].shape == (2, 4, 3)


def test_image_folder_comes_back_with_its_names(tmp_path):
    made = small_set(images=torch.rand(4, 3, 4, 4), soft_labels=None)
    loaded = load_distilled(save_image_folder(made, tmp_path / "png"))
    assert loaded.class_names == NAMES
    assert torch.equal(loaded.labels, made.labels)
    assert (loaded.images - made.images).abs().max() <= 0.5 / 255 + 1e-6


WRITERS = [DistilledSet.save, save_image_folder]


@pytest.mark.parametrize("writer", WRITERS)
def test_existing_outputs_stay_unless_overwriting(tmp_path, writer):
    path = tmp_path / "out.safetensors"
    write = partial(writer, small_set())
    write(path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=r"out\.safetensors exists already"):
        write(path)
    assert sorted(tmp_path.rglob("*")) == before
    write(path, overwrite=True)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("writer", WRITERS)
def test_unwritable_outputs_leave_nothing_behind(tmp_path, writer):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="can't be written"):
        writer(small_set(), tmp_path / "file" / "out.safetensors")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_failure_while_writing_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(distilled, "save_file", fail)
    monkeypatch.setattr(Image.Image, "save", fail)
    for writer in WRITERS:
        with pytest.raises(OSError, match="disk full"):
            writer(small_set(), tmp_path / "out.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_wrong_endings_and_types_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"out\.pt.*\.safetensors"):
        small_set().save(tmp_path / "out.pt")
    with pytest.raises(InputError, match="bfloat16"):
        small_set().save(tmp_path / "out.safetensors", dtype=torch.bfloat16)
    big = small_set(images=torch.full((4, 3, 2, 2), 1e5))
    with pytest.raises(InputError, match="65504"):
        big.save(tmp_path / "out.safetensors", dtype=torch.float16)
    assert list(tmp_path.iterdir()) == []


# --- Shipped sets ------------------------------------------------------------------


def test_shipped_sets_are_found_by_name(tmp_path, monkeypatch):
    (tmp_path / "distilled").mkdir()
    path = small_set().save(tmp_path / "distilled" / "toy-dm-ipc2.safetensors")
    sums = f"{sha256(path)}  distilled/{path.name}\n{'0' * 64}  distilled/readme.txt\n"
    (tmp_path / "SHA256SUMS").write_text(sums)
    monkeypatch.setattr(assets, "ROOT", tmp_path)
    assert list_shipped() == ("toy-dm-ipc2",)
    same(load_distilled("toy-dm-ipc2"), small_set())
    with pytest.raises(InputError, match=r"'toy-dm-ipc1'.*shipped: toy-dm-ipc2\)"):
        load_distilled("toy-dm-ipc1")


def test_without_shipped_sets_the_error_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(assets, "ROOT", tmp_path)
    with pytest.raises(InputError, match=r"shipped: none\)"):
        load_distilled("fashion-mnist-dm-ipc1")


# --- Class names -------------------------------------------------------------------


def test_subsets_agree_with_imagenet():
    names = class_names("imagenet")
    assert len(names) == 1000
    # The literature calls this one by its short name.
    other = {"cockatoo": "sulphur-crested cockatoo"}
    for subset, classes in SUBSETS.items():
        assert len(classes) == len({index for index, _ in classes}) == 10, subset
        for index, name in classes:
            assert names[index] == other.get(name, name)


def test_ncfm_has_two_other_classes():
    for subset, label in (("imagefruit", 9), ("imageyellow", 8)):
        ours, theirs = SUBSETS[subset], SUBSETS[f"{subset}-ncfm"]
        assert [i for i in range(10) if ours[i] != theirs[i]] == [label]


@pytest.mark.parametrize("dataset", DATASETS)
def test_every_data_set_has_distinct_names(dataset):
    assert dataset_name(dataset) == dataset
    assert len(set(class_names(dataset))) == len(class_names(dataset)) or (
        dataset == "imagenet"  # two cranes and two maillots
    )


def test_spellings():
    assert dataset_name("CIFAR-100") == "cifar100"
    assert dataset_name("FashionMNIST") == "fashion-mnist"
    assert dataset_name("Tiny") == dataset_name("TinyImageNet") == "tiny-imagenet"
    assert dataset_name("imagenet-fruits") == dataset_name("Fruits") == "imagefruit"
    assert set(ALIASES.values()) <= set(DATASETS)
    with pytest.raises(InputError, match=r"'imagefrut' is unknown.*imagefruit"):
        dataset_name("imagefrut")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("res_DM_FashionMNIST_ConvNet_10ipc.pt", "fashion-mnist"),
        ("res_dm_fashion-mnist_convnet_10ipc.pt", "fashion-mnist"),
        ("res_DC_CIFAR10_ConvNet_1ipc.pt", "cifar10"),
        ("CIFAR10_0.pt", "cifar10"),
        ("res_DSA_CIFAR100_ConvNet_1ipc.pt", "cifar100"),
        ("res_128_DM_imagenet-fruits_ConvNet_10ipc.pt", "imagefruit"),
        ("imagenet-b", "imagenet-b"),
        ("cifar10_or_cifar100", None),
        ("imagenet_distill_256_256.pt", None),
        ("yellow", None),
        ("tiny", None),
    ],
)
def test_data_sets_in_file_names(text, expected):
    assert dataset_in(text) == expected
