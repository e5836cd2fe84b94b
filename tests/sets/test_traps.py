"""Files of other people that look like something else: read rightly, or doubted."""

import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from published_files import (
    CIFAR10,
    IMAGENET,
    canvases,
    class_major,
    close,
    normalise,
    pixels,
    save_dc,
    save_run,
    write_images,
)

from diver_lite.checks import InputError
from diver_lite.sets.distilled import DistilledSet
from diver_lite.sets.load import load_distilled
from diver_lite.sets.names import class_names, dataset_in
from diver_lite.sets.normalisation import (
    has_colours,
    is_eight_bit,
    looks_whitened,
    tiles_per_side,
)
from diver_lite.sets.writers import convert

FILES = Path(__file__).parents[3] / "shared/data/released"
CIFAR100 = ([0.5071, 0.4866, 0.4409], [0.2673, 0.2564, 0.2762])
DC = "res_DC_CIFAR10_ConvNet_1ipc.pt"


def ten():
    """Return ten pictures of CIFAR-10, one per class, in [0, 1]."""
    return load_distilled("cifar10-mtt-ipc1").images.clamp(0, 1)


def told(source, *words, **arguments):
    """Read a set that draws one warning for each text, in this order."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loaded = load_distilled(source, **arguments)
    found = [str(warning.message) for warning in caught]
    assert len(found) == len(words), found
    for message, text in zip(found, words, strict=True):
        assert text in message and "\n" not in message
    return loaded


# --- Whitening ---------------------------------------------------------------------


def edges(level):
    """Return pictures without slow waves, which differ in brightness nevertheless."""
    rows = (torch.arange(32) % 4 < 2).float() * 2 - 1
    sign = torch.tensor([-1.0, 1.0]).repeat(10).view(20, 1, 1, 1)
    return rows.expand(20, 3, 32, 32) + level * sign


def test_edges_are_whitened_however_bright():
    """MTT's sets of one picture per class have brightness .05 and .11."""
    assert looks_whitened(edges(0.35)) is True
    assert looks_whitened(1.9 * edges(0.1)) is True  # std 1.91
    assert looks_whitened(2.0 * edges(0.1)) is False  # std 2.01: DM's are louder


def test_whitened_sets_of_one_picture_per_class(tmp_path):
    path = save_run(tmp_path, edges(0.35), class_major(), "best")
    with pytest.raises(InputError, match="these look whitened; pass the real"):
        load_distilled(path, dataset="cifar10")


@pytest.mark.parametrize("folder", ["ZCA", "CIFAR10_ZCA", "cifar10-zca-ipc1"])
def test_a_path_that_calls_pixels_whitened(tmp_path, folder):
    stored = normalise(ten(), CIFAR10)
    path = save_run(tmp_path / folder / "run", stored, class_major(10, 1), "5000")
    with pytest.raises(InputError, match="path calls the pixels ZCA-whitened; pass"):
        load_distilled(path, dataset="cifar10")
    close(load_distilled(path, dataset="cifar10", zca=False), ten())


@pytest.mark.parametrize("folder", ["CIFAR10_NO_ZCA", "nozca", "without zca"])
def test_a_path_that_calls_pixels_not_whitened(tmp_path, folder):
    """MTT and DATM name their folders so; then nothing is in doubt."""
    stored = normalise(ten(), CIFAR10)
    path = save_run(tmp_path / folder, stored, class_major(10, 1), "5000")
    close(told(path, dataset="cifar10"), ten())


# --- Tiles -------------------------------------------------------------------------


def test_lists_of_whole_pictures_stay_whole(tmp_path):
    """A fork of IDC writes them; cut into 2 x 2 they were quarters."""
    torch.save([ten(), class_major(10, 1)], tmp_path / "data_best.pt")
    words = "edge of a tile, so they are read whole; factor=2 ("
    loaded = told(tmp_path / "data_best.pt", words, dataset="cifar10")
    close(loaded, ten())
    assert loaded.provenance["undone"] == {}
    cut = told(tmp_path / "data_best.pt", dataset="cifar10", factor=2)
    assert len(cut) == 40


@pytest.mark.parametrize("factor", [2, 3])
def test_the_edges_of_tiles_are_seen(tmp_path, factor):
    """IDC stores ImageNet's subsets as 3 x 3."""
    canvas = canvases(size=48, factor=factor)
    torch.save([canvas, class_major(10, 1)], tmp_path / "data.pt")
    loaded = load_distilled(tmp_path / "data.pt", dataset="imagemeow")
    assert len(loaded) == 10 * factor**2
    assert loaded.provenance["undone"]["tiles"]["factor"] == factor


def test_tiles_by_hand():
    """Jumps, margins, and what has neither."""
    assert tiles_per_side(canvases()) == 2
    margins = F.pad(torch.rand(40, 3, 12, 12), (2, 2, 2, 2)).view(10, 2, 2, 3, 16, 16)
    margins = margins.permute(0, 3, 1, 4, 2, 5).reshape(10, 3, 32, 32)
    assert tiles_per_side(margins) == 2
    halves = torch.rand(10, 3, 1, 1) + torch.zeros(10, 3, 32, 32)
    halves[..., 16:] = 1 - halves[..., 16:]  # across only
    for whole in (halves, torch.zeros(10, 3, 32, 32), torch.rand(10, 3, 32, 32)):
        assert tiles_per_side(whole) == 1
    for small in (1, 2, 3):
        assert tiles_per_side(torch.rand(1, 3, small, small)) == 1


# --- Mean and std ------------------------------------------------------------------


NAMELESS = "'tiny-imagenet' names no class here"


def eight_bit(count):
    generator = torch.Generator().manual_seed(2)
    size = (count, 3, 32, 32)
    return torch.randint(0, 256, size, generator=generator) / 255


def test_real_pictures_tell_their_constants(tmp_path):
    """DC-BENCH stores CIFAR-100's K-means set with that data set's own numbers."""
    images = eight_bit(100)
    path = save_run(tmp_path, normalise(images, CIFAR100), class_major(100, 1).float())
    loaded = told(path, dataset="cifar100")
    close(loaded, images)
    record = loaded.provenance
    assert record["undone"]["normalisation"]["mean"] == CIFAR100[0]
    assert record["assumed"].startswith("mean and std; 8-bit values")
    distilled = save_run(
        tmp_path / "mtt", normalise(ten(), CIFAR10), class_major(10, 1)
    )
    found = load_distilled(distilled, dataset="cifar10").provenance
    assert found["assumed"] == "mean and std"


def test_eight_bits_by_hand():
    assert is_eight_bit(torch.arange(256).view(1, 1, 16, 16) / 255)
    assert not is_eight_bit(torch.arange(256).view(1, 1, 16, 16) / 250)
    assert not is_eight_bit(torch.full((1, 1, 1, 1), 0.5))
    assert not is_eight_bit(torch.full((1, 1, 1, 1), 2.0))


def test_tiny_imagenet_as_mtt_stores_it(tmp_path):
    """GLaD has no numbers for it, which is no reason to refuse; our export is one."""
    labels = class_major(200, 1)
    images = F.interpolate(torch.rand(200, 3, 4, 4), size=64, mode="bilinear") * 1.1
    record = {"dataset": "tiny-imagenet"}
    mine = DistilledSet(images, labels, class_names("tiny-imagenet"), None, record)
    convert(mine, tmp_path / "tiny", "mtt")
    words = ("often ZCA-whitened; these don't look so", NAMELESS)
    loaded = told(tmp_path / "tiny", *words, dataset="tiny")
    close(loaded, images)
    assert loaded.provenance["format"] == "mtt"


def test_predds_own_name_for_a_set_of_dm(tmp_path):
    """Decoder output stays within 2 or so; a set of DM doesn't."""
    images = pixels(10, size=64)
    content = {"data": [[normalise(images, IMAGENET), class_major(10, 1)]], "res": 64}
    torch.save(content, tmp_path / "images_best.pt")
    loaded = load_distilled(tmp_path / "images_best.pt", dataset="imagefruit")
    close(loaded, images)
    assert loaded.provenance["format"] == "dc"


@pytest.mark.parametrize("name", ["PathMNIST", "blood-mnist", "MedMNIST"])
def test_medmnist_is_not_mnist(tmp_path, name):
    path = save_dc(
        tmp_path / f"res_DM_{name}_ConvNet_1ipc.pt",
        [[3 * pixels(9, size=28), class_major(9, 1)]],
    )
    with pytest.raises(
        InputError, match=r"normalisation='none' .*sets of MedMNIST are"
    ):
        load_distilled(path)
    loaded = load_distilled(path, normalisation="none")
    close(loaded, 3 * pixels(9, size=28))
    assert loaded.provenance["assumed"] == "stored as they are"


def test_names_of_relatives():
    for name in ("med_mnist", "PathMNIST", "organ-a-mnist", "OrganAMNIST", "EMNIST"):
        assert dataset_in(f"res_DM_{name}_ConvNet") is None
    assert dataset_in("res_DM_MNIST_ConvNet") == "mnist"
    assert dataset_in("res_DM_Fashion-MNIST_ConvNet") == "fashion-mnist"


# --- Names that contradict the file ------------------------------------------------


def test_a_file_that_is_called_otherwise(tmp_path):
    """CIFAR-10's set as MNIST: the name and the colours speak against it."""
    path = save_dc(tmp_path / DC, [[normalise(ten(), CIFAR10), class_major(10, 1)]])
    words = (
        f"taken for 'mnist', but the name {DC!r} says 'cifar10'; its pixels have "
        "colours (expected grey)"
    )
    # and read with the wrong constants, its pixels look like another scale, too
    loaded = told(path, words, "which looks like -1 .. 1", dataset="mnist")
    assert words in loaded.provenance["doubts"][0]
    told(path)
    told(path, dataset="cifar10")


def test_a_subset_that_is_called_otherwise(tmp_path):
    images = pixels(10, size=128)
    stored = [[normalise(images, IMAGENET), class_major(10, 1)]]
    path = save_dc(tmp_path / "res_DM_imagenet-fruits_ConvNet_1ipc.pt", stored)
    told(path, "taken for 'imagewoof', but the name", dataset="imagewoof")
    told(path, dataset="imagefruit")


@pytest.mark.parametrize(
    ("dataset", "size", "classes", "words"),
    [
        ("cifar10", 28, 10, ["images have 28 pixels a side (expected 32)"]),
        ("imagefruit", 32, 10, ["32 pixels a side (expected 64 to 1024)"]),
        ("cifar100", 32, 10, ["it has 10 classes (expected 100)"]),
        (
            *("tiny-imagenet", 32, 10),
            ["(expected 64); it has 10 classes (expected 200)", NAMELESS],
        ),
        ("svhn", 32, 10, []),
    ],
)
def test_size_and_number_of_classes(tmp_path, dataset, size, classes, words):
    stored = [[pixels(10, size), class_major(classes, 1)]]
    told(save_dc(tmp_path / "set.pt", stored), *words, dataset=dataset)


def test_more_classes_than_there_are(tmp_path):
    stored = [[pixels(100, 32), class_major(100, 1)]]
    path = save_dc(tmp_path / "set.pt", stored)
    with pytest.raises(InputError, match=r"labels are 0 \.\. 99; expected 0 \.\. 9"):
        load_distilled(path, dataset="cifar10")


def test_colours_by_hand():
    grey = torch.rand(10, 1, 8, 8).expand(-1, 3, -1, -1)
    assert not has_colours(grey)
    assert not has_colours(grey + 0.01 * torch.rand(10, 3, 8, 8))
    assert has_colours(torch.rand(10, 3, 8, 8))


# --- Layouts -----------------------------------------------------------------------


def test_a_dict_of_images_and_labels(tmp_path):
    path = tmp_path / "cifar10_dsa.pt"
    torch.save({"images": ten(), "labels": class_major(10, 1)}, path)
    close(told(path, "all values lie in [0, 1]"), ten())
    stored = normalise(ten(), CIFAR10)
    torch.save({"images": stored, "labels": class_major(10, 1)}, path)
    loaded = told(path, "these don't look so")
    close(loaded, ten())
    assert loaded.provenance["format"] == "mtt"
    torch.save({"images": stored, "labels": torch.eye(10).softmax(1)}, path)
    loaded = told(path, "these don't look so")
    close(loaded, ten())
    assert loaded.provenance["soft_labels"] == "probabilities"


def test_a_dict_whose_labels_do_not_fit(tmp_path):
    path = tmp_path / "a.pt"
    torch.save({"images": ten(), "labels": class_major(7, 1)}, path)
    with pytest.raises(InputError, match=r"a\.pt: labels is .*\(10,\)"):
        load_distilled(path)
    torch.save({"images": ten(), "labels": "cat"}, path)
    with pytest.raises(InputError, match=r"a\.pt: labels is of type str"):
        load_distilled(path)


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("10images.pt", "10label.pt"),
        ("image.pt", "label.pt"),
        ("a-images.pt", "a-labels.pt"),
    ],
)
def test_pairs_under_other_names(tmp_path, images, labels):
    folder = tmp_path / "CIFAR10" / "Kmeans"
    folder.mkdir(parents=True)
    torch.save(normalise(eight_bit(10), CIFAR10), folder / images)
    torch.save(class_major(10, 1), folder / labels)
    for source in (folder / images, folder):
        loaded = told(source)
        close(loaded, eight_bit(10))
        assert loaded.class_names == class_names("cifar10")


def write_tensors(root, folders, images):
    for folder, image in zip(folders, images, strict=True):
        (root / folder).mkdir(parents=True)
        torch.save(image, root / folder / f"class{folder}_id00000.pt")
    return root


def test_a_tensor_file_an_image(tmp_path):
    folders = [f"{i:05d}" for i in range(10)]
    root = write_tensors(tmp_path / "unit", folders, ten())
    close(told(root, "all values lie in [0, 1]", dataset="cifar10"), ten())
    stored = normalise(ten(), CIFAR10)
    root = write_tensors(tmp_path / "normalised", folders, stored[:, None])
    loaded = told(root, dataset="cifar10")
    close(loaded, ten())
    assert loaded.labels.tolist() == list(range(10))
    with pytest.raises(InputError, match="mean and std of a data set that neither"):
        load_distilled(root)
    close(told(root, "nothing names", normalisation=CIFAR10), ten())


def test_tensor_files_that_are_no_images(tmp_path):
    root = write_tensors(tmp_path / "sets", "01", [ten(), ten()])
    with pytest.raises(InputError, match=r"id00000\.pt: picture is .*one a file"):
        load_distilled(root)
    for ipc in (1, 10):  # a run in each folder: the folders are no classes
        save_run(tmp_path / "runs" / f"IPC{ipc}", ten(), class_major(10, 1))
    with pytest.raises(InputError, match="2 folders and no images directly in them"):
        load_distilled(tmp_path / "runs")
    folder = write_images(tmp_path / "pictures", ["cat"])
    with pytest.raises(InputError, match=r"normalisation= was given; .* none of"):
        load_distilled(folder, normalisation=CIFAR10)


@pytest.mark.parametrize("name", ["ckpt.msgpack", "ckpt", "ckpt.pt"])
def test_msgpack_is_told_by_its_bytes(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x82\xadema_average" + bytes(50))
    with pytest.raises(InputError, match=r"ckpt.*: the file is msgpack .*npz"):
        load_distilled(tmp_path / name)


@pytest.mark.parametrize("kind", [tuple, list])
def test_one_pair_instead_of_a_list_of_pairs(tmp_path, kind):
    stored = kind([normalise(ten(), CIFAR10), class_major(10, 1)])
    torch.save({"data": stored, "acc_all_exps": {"ConvNet": [0.3]}}, tmp_path / "a.pt")
    loaded = told(tmp_path / "a.pt", dataset="cifar10")
    close(loaded, ten())
    assert loaded.provenance["experiments"] == 1
    torch.save({"data": kind()}, tmp_path / "a.pt")
    with pytest.raises(InputError, match="found an empty 'data'"):
        load_distilled(tmp_path / "a.pt", dataset="cifar10")


def test_all_that_a_dict_holds(tmp_path):
    """Soft labels, names and the learning rate lie beside images and labels."""
    soft = torch.eye(10).softmax(1)
    names = [f"thing {letter}" for letter in "abcdefghij"]
    content = {"images": ten(), "labels": class_major(10, 1), "lr": torch.tensor(0.1)}
    content |= {"soft_labels": soft, "class_names": names}
    torch.save(content, tmp_path / "a.pt")
    loaded = told(tmp_path / "a.pt", "all values lie in [0, 1]")
    assert torch.equal(loaded.soft_labels, soft)
    assert loaded.class_names == tuple(names)
    assert loaded.provenance["soft_labels"] == "probabilities"
    assert loaded.provenance["lr"] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"class_names": "abc"}, "class_names is of type str"),
        ({"class_names": ["a"]}, r"labels are 0 \.\. 9; expected 0 \.\. 0"),
        ({"soft_labels": torch.arange(10)}, r"soft_labels is .* floats \(N, K\)"),
        ({"soft_labels": torch.rand(9, 10)}, r"labels is .*\(10, K\)"),
        ({"lr": "fast"}, "lr is 'fast'"),
    ],
)
def test_a_dict_of_what_does_not_fit(tmp_path, more, words):
    content = {"images": ten(), "labels": class_major(10, 1)} | more
    torch.save(content, tmp_path / "a.pt")
    with (
        warnings.catch_warnings(action="ignore"),
        pytest.raises(InputError, match=rf"a\.pt: {words}"),
    ):
        load_distilled(tmp_path / "a.pt")


@pytest.mark.parametrize("suffix", ["npy", "npz", "pt"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC", "NHW"])
@pytest.mark.parametrize("soft", [True, False])
def test_arrays_of_anybody(tmp_path, suffix, layout, soft):
    """Hard labels, or pixels in [0, 1]: neither KIP nor RFAD stores them."""
    pictures = ten() if layout != "NHW" else ten()[:, :1]
    array = pictures.movedim(1, -1) if layout == "NHWC" else pictures
    array = array[:, 0] if layout == "NHW" else array
    labels = torch.eye(10) if soft else class_major(10, 1)
    path = tmp_path / f"images.{suffix}"
    if suffix == "npz":
        np.savez(path, images=array.numpy(), labels=labels.numpy())
    elif suffix == "npy":
        np.save(path, array.numpy())
        np.save(tmp_path / "labels.npy", labels.numpy())
    else:
        torch.save(array.contiguous(), path)
        torch.save(labels, tmp_path / "labels.pt")
    with warnings.catch_warnings(action="ignore"):
        for source in (path, tmp_path) if suffix != "npz" else (path,):
            loaded = load_distilled(source, dataset="cifar10")
            close(loaded, pictures.expand(-1, 3, -1, -1))
            assert torch.equal(loaded.labels, class_major(10, 1))
            assert (loaded.soft_labels is not None) == soft


def test_bytes_are_told_how_to_become_floats(tmp_path):
    np.save(tmp_path / "images.npy", np.zeros((10, 8, 8, 3), np.uint8))
    np.save(tmp_path / "labels.npy", np.arange(10))
    with pytest.raises(InputError, match=r"uint8.*divide the bytes by 255"):
        load_distilled(tmp_path)


def test_a_picture_a_file_is_told_where_it_belongs(tmp_path):
    """RDED's, in one heap."""
    torch.save(ten()[0], tmp_path / "class00000_id00000.pt")
    for source in (tmp_path, tmp_path / "class00000_id00000.pt"):
        with pytest.raises(InputError, match="has a folder of them for each class"):
            load_distilled(source, dataset="cifar10")
    torch.save(ten()[0, 0], tmp_path / "class00000_id00000.pt")
    (tmp_path / "set/0").mkdir(parents=True)
    (tmp_path / "class00000_id00000.pt").rename(tmp_path / "set/0/a.pt")
    loaded = told(tmp_path / "set", "all values lie", "nothing names")
    assert torch.equal(loaded.images[0, 2], ten()[0, 0])


def own(tmp_path, names=(), **record):
    names = names or [f"class {i}" for i in range(10)]
    made = DistilledSet(ten(), class_major(10, 1), tuple(names), None, record)
    return made.save(tmp_path / "mine.safetensors", overwrite=True)


def test_the_data_set_of_our_own_file_can_be_told(tmp_path):
    """Messages prescribe it, and it did nothing."""
    loaded = load_distilled(own(tmp_path, method="x"), dataset="cifar10")
    assert loaded.class_names == class_names("cifar10")
    assert loaded.provenance == {"method": "x", "dataset": "cifar10"}
    backwards = load_distilled(
        own(tmp_path, class_names("cifar10")[::-1]), dataset="cifar10"
    )
    assert backwards.labels.tolist() == [*range(9, -1, -1)]
    with pytest.raises(InputError, match="class 'thing 0' of the set is not among"):
        load_distilled(
            own(tmp_path, [f"thing {i}" for i in range(10)]), dataset="cifar10"
        )
    for record in ({"dataset": "cifar10"}, {"source": {"data": "cifar10"}}):
        file = own(tmp_path, class_names("cifar10"), **record)
        assert load_distilled(file, dataset="cifar10").provenance == record
        with pytest.raises(InputError, match=r"'svhn' was asked for, but .*cifar10"):
            load_distilled(file, dataset="svhn")


def test_why_values_were_refused(tmp_path):
    """Rounded to 0.00..1.00 they looked as if they were right."""
    images = ten()
    images[0, 0, 0, 0] = -0.0512
    torch.save([images, class_major(10, 1)], tmp_path / "a.pt")
    with pytest.raises(InputError, match=r"values -0\.0512 \.\. 1; .*\[0, 1\]"):
        load_distilled(tmp_path / "a.pt", format="ncfm")


def test_what_would_be_lost_is_said_as_it_is(tmp_path):
    """A hundredth less than nothing was "-0.00"."""
    images = ten()
    images[0, 0, 0, 0] = -0.0041
    made = DistilledSet(images, class_major(10, 1), class_names("cifar10"))
    with pytest.raises(InputError, match=r"outside \[0, 1\] \(values -0\.0041\.\.1\)"):
        convert(made, tmp_path / "out", "folder")


@pytest.mark.parametrize("word", ["False", "false", "FALSE"])
def test_yes_and_no_on_the_command_line(tmp_path, cli, word):
    path = save_run(tmp_path / "ZCA", normalise(ten(), CIFAR10), class_major(10, 1))
    how = ("--read", "format=mtt", "--dataset", "cifar10", "--read", f"zca={word}")
    code, out, err = cli("show", path, *how)
    assert code == 0, err
    assert "format mtt" in out


# --- Classes without names ---------------------------------------------------------


def test_numbered_folders_suggest_a_data_set(tmp_path):
    """D4M's archive: a folder cifar100, a hundred numbers in it."""
    write_images(tmp_path / "in", map(str, range(100)), count=1, size=(32, 32))
    (tmp_path / "cifar100").mkdir()
    archive = shutil.make_archive(
        str(tmp_path / "cifar100" / "IPC1"), "zip", tmp_path / "in"
    )
    words = (
        "IPC1.zip: nothing names the 100 classes; pass dataset='cifar100' (--dataset "
        "cifar100) if they are its"
    )
    assert told(archive, words).class_names[0] == "0"
    assert told(archive, dataset="cifar100").class_names[0] == "apple"
    told(tmp_path / "in", words.partition(": ")[2])  # one data set has a hundred
    write_images(tmp_path / "few", "0123456789", count=1)
    told(tmp_path / "few", "pass dataset= (--dataset) if they are a known data set's")
    write_images(tmp_path / "named", ["0_cat", "1_dog"], count=1)
    told(tmp_path / "named")


def test_the_data_set_of_an_archive(tmp_path):
    """The archive's own name tells it, and so do names inside."""
    for outer, inner in (("CIFAR10", "run"), ("run", "CIFAR10")):
        save_run(
            tmp_path / outer / inner, normalise(ten(), CIFAR10), class_major(10, 1)
        )
        archive = shutil.make_archive(str(tmp_path / outer), "zip", tmp_path / outer)
        loaded = load_distilled(archive, format="mtt", zca=False)
        assert loaded.provenance["dataset_from"] in (
            "name 'CIFAR10'",
            "name 'CIFAR10.zip'",
        )
        close(loaded, ten())


# --- Every file that others released -----------------------------------------------

WHITENED = "pass the real training images as zca_reference="
MTT = ("may be MTT's or GLaD's: taken for 'mtt'", "these don't look so and are read")
# file or folder -> images, what they were taken for, contrast, and warnings; or
# what it is refused with
RELEASED = {
    "dcbench/DC/CIFAR10/IPC1/res_DC_CIFAR10_ConvNet_1ipc.pt": (10, "mean", 1.15),
    "dcbench/DSA/CIFAR10/IPC1/res_DSA_CIFAR10_ConvNet_1ipc.pt": (10, "mean", 1.28),
    "dcbench/DM/CIFAR10/IPC1/res_DM_CIFAR10_ConvNet_1ipc.pt": (10, "mean", 6.61),
    "dm_imagefruit_ipc1.pt": (10, "mean", 3.18),
    "dcbench/TM/CIFAR10/IPC1": (10, "mean", 3.43, *MTT),
    "dcbench/TM/CIFAR10/IPC10": (100, "mean", 1.71, *MTT),
    "dcbench/TM/CIFAR100/IPC1": (100, "mean", 3.19, *MTT),
    "dcbench/Kmeans/CIFAR10/IPC10": (100, "mean and std; 8-bit values then", 1.37),
    "dcbench/Kmeans/CIFAR100/IPC1": (100, "mean and std; 8-bit values then", 1.01),
    "dcbench/TrajectoryMatching/CIFAR10/IPC10/ZCA": WHITENED,
    "dcbench_more/CIFAR10/IPC1/ZCA": WHITENED,
    "dcbench_more/CIFAR10/IPC1/ZCA/images_zca_5000.pt": (
        *(10, "ZCA whitening, undone by the writer", 4.96),
        "images_5000.pt is of another run",
    ),
    "dcbench_more/CIFAR100/IPC1": f"these look whitened; {WHITENED}",
    "ddranking/DATM/distilled/CIFAR10_ZCA/IPC10": WHITENED,
    "dcbench/KIP/CIFAR10/IPC10": "the pixels are whitened; " + WHITENED,
    "ddranking/D4M/resized_data/cifar100/IPC1.zip": (
        *(100, None, None),
        "IPC1.zip/IPC1: nothing names the 100 classes; pass dataset='cifar100'",
    ),
    "third/mtt_cifar10_ipc10_zca_with_twin": (
        *(100, "ZCA whitening, undone by the writer", 26.29),
    ),
    "third/datm_mnist_ipc1_zca": (
        "the path calls the pixels ZCA-whitened; pass the real training images as "
        "zca_reference= (--read zca_reference=mnist)"
    ),
    "untiled/data_best.pt": (
        *(100, "stored in [0, 1]", None),
        *("so they are read whole; factor=2", "nothing names the 10 classes"),
    ),
}


@pytest.mark.skipif(not FILES.is_dir(), reason="the files aren't here")
@pytest.mark.parametrize("file", RELEASED)
def test_every_released_file(file):
    if isinstance(expected := RELEASED[file], str):
        with pytest.raises(InputError) as caught:
            load_distilled(FILES / file)
        assert file in str(caught.value) and expected in str(caught.value)
        return
    count, assumed, contrast, *words = expected
    loaded = told(FILES / file, *words)
    record = loaded.provenance
    assert len(loaded) == count
    assert str(record.get("assumed")).startswith(str(assumed))
    found = record.get("fit", {}).get("contrast")
    assert found == (contrast and pytest.approx(contrast, abs=0.01))
