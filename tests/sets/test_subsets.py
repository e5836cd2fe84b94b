"""ImageNet subsets from the command line: every format in, and judged on folders."""

import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from published_files import (
    GLAD,
    IMAGENET,
    canvases,
    class_major,
    normalise,
    pixels,
    save_dc,
    save_run,
    write_images,
)
from torchvision.datasets import Imagenette

from diver_lite.checks import InputError
from diver_lite.sets.classes import as_subset
from diver_lite.sets.distilled import DistilledSet
from diver_lite.sets.folder import match_folders
from diver_lite.sets.names import (
    SUBSETS,
    WORDNET_IDS,
    class_names,
    imagenet_indices,
)
from diver_lite.sets.real import load_dataset

RELEASED = Path(__file__).parents[3] / "shared/data/released/dm_imagefruit_ipc1.pt"
FRUIT = class_names("imagefruit")


@pytest.fixture
def recover(cli, tiny_learned_sigma_folder):
    """Return a function that recovers a source in two steps with 1000 classes."""

    def run(source, *arguments, prior=tiny_learned_sigma_folder):
        return cli(
            *("recover", source, "--prior", prior, "-o", "out.safetensors"),
            *("--set", "num_inference_steps=2", "--device", "cpu", *arguments),
        )

    return run


# --- From every format --------------------------------------------------------------


def write(format):
    """Write 20 images of ImageFruit as a method's repository does; return the path."""
    images, labels = pixels(), class_major()
    here = Path("written")
    if format == "dc":
        here.mkdir()
        return save_dc(here / "set.pt", [[normalise(images, IMAGENET), labels]])
    if format == "mtt":
        return save_run(here, normalise(images, IMAGENET), labels)
    if format == "datm":
        logits = 5 * torch.eye(10)[labels]
        return save_run(here, normalise(images, IMAGENET), logits, lr=0.01)
    if format == "glad":
        return save_run(here, normalise(images, GLAD), labels, name="00500")
    if format == "dd-ranking":
        save_run(here, normalise(images, IMAGENET), labels, name=None)
        return here
    if format == "image-folder":
        write_images(here, [WORDNET_IDS[i] for i in imagenet_indices("imagefruit")])
        return here
    here.mkdir()
    if format == "ncfm":
        path = here / "data_20000.pt"
        torch.save([canvases(), class_major(10, 1)], path)
    if format == "predd":
        path = here / "imagenet_distill_256_256.pt"
        torch.save({"data": [[images.clamp(0, 1) * 2 - 1, labels]], "res": 8}, path)
    if format == "diver-lite":
        path = here / "set.safetensors"
        DistilledSet(images, labels, [f"class {i}" for i in range(10)]).save(path)
    return path


@pytest.mark.parametrize(
    "format",
    [
        *("dc", "mtt", "datm", "glad", "dd-ranking", "image-folder", "ncfm", "predd"),
        "diver-lite",
    ],
)
def test_a_subset_of_every_format(cli, recover, format):
    """Classes get the subset's names and the prior's indices; sizes come back."""
    code, _, err = recover(
        write(format), "--read", f"format={format}", "--dataset", "imagefruit"
    )
    assert code == 0, err
    result = DistilledSet.load("out.safetensors")
    assert len(result) == (40 if format == "ncfm" else 20)
    assert result.images.shape[-2:] == (8, 8)
    assert result.provenance["source"].get("format", "diver-lite") == format
    subset = "imagefruit-ncfm" if format == "ncfm" else "imagefruit"
    assert result.class_names == class_names(subset)
    assert (result.soft_labels is not None) == (format == "datm")


@pytest.mark.skipif(not RELEASED.is_file(), reason="the released file isn't here")
def test_a_released_file(recover):
    """The command of the README, on what others published: 128 px in and out."""
    code, out, err = recover(RELEASED, "--dataset", "ImageNet-Fruits")
    assert code == 0, err
    assert "10 images 3x128x128, 10 classes, ipc 1" in out
    assert DistilledSet.load("out.safetensors").class_names == FRUIT


def test_a_subset_is_its_class_map(cli, recover):
    """--dataset does what --class-map with the ImageNet indices does."""
    source = write("dc")
    recover(source, "--dataset", "imagefruit")
    named = DistilledSet.load("out.safetensors")
    indices = ",".join(map(str, imagenet_indices("imagefruit")))
    options = ("--dataset", "imagefruit", "--class-map", indices, "--overwrite")
    assert recover(source, *options)[0] == 0
    mapped = DistilledSet.load("out.safetensors")
    assert torch.equal(named.images, mapped.images)
    wrong = ("--dataset", "imagefruit", "--class-map", "0,1,2,3,4,5,6,7,8,9")
    assert recover(source, *wrong, "--overwrite")[0] == 0
    assert not torch.equal(named.images, DistilledSet.load("out.safetensors").images)


def test_the_prior_s_size_can_be_kept(cli, recover):
    """--size gives results of that size; the prior's own loses nothing."""
    arguments = (write("dc"), "--dataset", "imagefruit", "--size")
    code, out, err = recover(*arguments, 32)
    assert code == 0, err
    assert "20 images 3x32x32" in out
    code, _, err = recover(*arguments, 0, "--overwrite")
    assert code == 2
    assert "size is 0; expected an integer in 1 .. 4096" in err


# --- Bad input ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (
            lambda: FRUIT,
            ("--dataset", "imagevegetable"),
            "dataset 'imagevegetable' is unknown; expected one of",
        ),
        (
            lambda: FRUIT,
            ("--dataset", "imagefruit", "--class-map", "1,2,3"),
            "--class-map is (1, 2, 3); expected 10 integers",
        ),
        (
            lambda: class_names("imagewoof"),
            ("--dataset", "imagefruit"),
            "'Australian terrier' of the set is not among those of subset 'imagefruit'",
        ),
        (
            lambda: class_names("imagefruit-ncfm"),
            ("--dataset", "imagefruit"),
            "); the set's classes are those of 'imagefruit-ncfm'",
        ),
        (
            lambda: ["class 0", "class 1", "class 2"],
            ("--dataset", "imagefruit"),
            "have no names, and can't be taken in order (subset 'imagefruit': "
            "'pineapple', 'banana', 'strawberry', ..., 10 in all; the set: 'class 0', "
            "'class 1', 'class 2')",
        ),
        (
            lambda: FRUIT,
            ("--dataset", "imagenet"),
            "'tench' of subset 'imagenet' is not among those of the set",
        ),
    ],
)
def test_sets_that_are_not_the_subset(cli, recover, make, arguments, message):
    """Other names, counts and spellings: one sentence, nothing written."""
    names = make()
    labels = torch.arange(20) % len(names)
    DistilledSet(pixels(), labels, names).save("set.safetensors")
    code, _, err = recover("set.safetensors", *arguments)
    assert code == 2
    assert message in err
    assert [p.name for p in Path().iterdir()] == ["set.safetensors"]


def test_labels_beyond_the_subset(cli, recover):
    """A set of 12 classes can't be one of 10."""
    images = normalise(pixels(24), IMAGENET)
    save_dc(Path("set.pt"), [[images, class_major(12)]])
    code, _, err = recover("set.pt", "--dataset", "imagefruit")
    assert code == 2
    assert "labels are 0 .. 11; expected 0 .. 9" in err


def test_a_prior_of_too_few_classes(cli, recover, tiny_prior_folder):
    """Fashion-MNIST's prior knows no fruit."""
    code, _, err = recover(
        write("dc"), "--dataset", "imagefruit", prior=tiny_prior_folder
    )
    assert code == 2
    assert "knows 10 classes; subset 'imagefruit' needs a prior of ImageNet's" in err


def test_as_subset_names_classes():
    """Numbered classes get names, reordered ones the order; the images stay."""
    bare = DistilledSet(pixels(10), torch.arange(10), [f"class {i}" for i in range(10)])
    named, subset = as_subset(bare, "Fruits")
    assert subset == "imagefruit"
    assert named.class_names == FRUIT
    assert torch.equal(named.images, bare.images)
    found, _ = as_subset(DistilledSet(bare.images, bare.labels, FRUIT[::-1]), "fruits")
    assert found.class_names == FRUIT
    assert found.labels.tolist() == list(range(10))[::-1]
    all_of_it = DistilledSet(pixels(10), torch.arange(10), class_names("imagenet"))
    assert as_subset(all_of_it, "imagenet-1k")[1] == "imagenet"


# --- Real images --------------------------------------------------------------------


def test_wordnet_ids_are_in_order_and_torchvision_s():
    """Every class of every subset has one; sorted, they follow the indices."""
    assert WORDNET_IDS.keys() == {i for rows in SUBSETS.values() for i, _ in rows}
    ids = [WORDNET_IDS[index] for index in sorted(WORDNET_IDS)]
    assert ids == sorted(set(ids))
    nette = {WORDNET_IDS[index]: name for index, name in SUBSETS["imagenette"]}
    theirs = {k: v[0] for k, v in Imagenette._WNID_TO_CLASS.items()}
    assert nette == theirs


WAYS = {
    "wnid": lambda label: WORDNET_IDS[imagenet_indices("imagewoof")[label]],
    "name": lambda label: class_names("imagewoof")[label],
    "slug": lambda label: class_names("imagewoof")[label].replace(" ", "_").lower(),
    "ours": lambda label: f"{label:03d}_{class_names('imagewoof')[label]}",
    "index": lambda label: str(imagenet_indices("imagewoof")[label]),
}


def class_folders(place, way, classes=10, size=12):
    """Write a picture per class, as bright as its label."""
    for label in range(classes):
        folder = place / WAYS[way](label)
        folder.mkdir(parents=True)
        Image.new("RGB", (size, size + 4), (label * 20,) * 3).save(folder / "x.JPEG")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("inside", ["", "test", "val", "imagenette2-160/val"])
def test_labels_are_the_subset_s(tmp_path, way, inside):
    """However folders are named and wherever they lie, labels are the subset's."""
    class_folders(tmp_path / inside, way)
    if inside.endswith(("test", "val")):
        (tmp_path / inside).with_name("train").mkdir()
    if way == "wnid":  # all of ImageNet may lie there
        Image.new("L", (3, 3)).save(tmp_path / inside / "note.png")
        (tmp_path / inside / "n01440764").mkdir()
    images, labels, names = load_dataset(
        str(tmp_path), "test", image_size=8, subset="woof"
    )
    assert images.shape == (10, 3, 8, 8)
    assert names == class_names("imagewoof")
    assert sorted(labels.tolist()) == list(range(10))
    assert torch.allclose(images[:, 0, 0, 0] * 255, labels * 20.0)


def test_all_of_imagenet_by_wordnet_id():
    """A thousand ids are ImageNet's, in its order; fewer are not."""
    folders = [f"n{10_000_000 + 7 * i}" for i in range(1000)]
    assert match_folders(folders[::-1], "imagenet")[folders[3]] == 3
    with pytest.raises(InputError, match="999 class folders, of which"):
        match_folders(folders[1:], "imagenet")


@pytest.mark.parametrize("way", ["wnid", "name"])
def test_a_class_that_is_missing_is_named(tmp_path, way):
    """Nine of ten classes are no test set."""
    class_folders(tmp_path / "val", way)
    shutil.rmtree(tmp_path / "val" / WAYS[way](3))
    with pytest.raises(InputError, match="9 class folders, of which 9 are") as error:
        load_dataset(str(tmp_path), "test", image_size=8, subset="imagewoof")
    assert WAYS[way](3) in str(error.value)
    assert str(tmp_path / "val") in str(error.value)


def test_folders_that_cannot_be_told_apart(tmp_path):
    """Two copies of Imagenette, a data set that is no folder, an unknown subset."""
    for name in ("imagenette2", "imagenette2-320"):
        class_folders(tmp_path / name / "val", "wnid")
    with pytest.raises(InputError, match="imagenette2, imagenette2-320; pass one"):
        load_dataset(str(tmp_path), "test", subset="imagewoof")
    with pytest.raises(InputError, match="'cifar10' is no folder"):
        load_dataset("cifar10", "test", subset="imagewoof")
    with pytest.raises(
        InputError, match="subset 'cifar10' is unknown; expected one of"
    ):
        load_dataset(str(tmp_path / "imagenette2"), "test", subset="cifar10")


def test_judging_a_subset(cli):
    """A set whose classes have only numbers is scored in the subset's label order."""
    class_folders(Path("root/val"), "wnid")
    numbers = [f"class {i}" for i in range(10)]
    images = pixels(10, size=32)
    DistilledSet(images, torch.arange(10), numbers).save("a.safetensors")
    DistilledSet(images, torch.arange(10), class_names("imagefruit-ncfm")).save(
        "b.safetensors"
    )
    options = ("--data", "root", "--judges", "ConvNet", "--seeds", "1")
    options += ("--set", "steps=2", "--device", "cpu")
    woof = ("--dataset", "imagewoof", *options)
    code, out, err = cli("judge", "a.safetensors", *woof)
    assert code == 0, err
    assert "on 10 real images" in out
    code, _, err = cli("judge", "b.safetensors", *woof)
    assert code == 2
    assert "the set's classes are those of 'imagefruit-ncfm'" in err
    of = {"dataset": "imagefruit-ncfm"}
    DistilledSet(images, torch.arange(10), numbers, None, of).save("c.safetensors")
    code, _, err = cli(
        "judge", "a.safetensors", "c.safetensors", "--dataset", "imagefruit", *options
    )
    assert code == 2
    assert (
        "the sets are of different subsets, {'a': 'imagefruit', 'c': 'imagefruit-ncfm'}"
        in err
    )
