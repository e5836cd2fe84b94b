"""Every published format, on files written as its repository writes them."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from published_files import (
    CIFAR10,
    GLAD,
    IMAGENET,
    canvases,
    class_major,
    close,
    kornia_whitening,
    normalise,
    pixels,
    save_dc,
    save_run,
    write_images,
)

from diver_lite.checks import InputError
from diver_lite.sets.load import load_distilled
from diver_lite.sets.names import SUBSETS, class_names

CIFAR100 = ([0.5071, 0.4866, 0.4409], [0.2673, 0.2564, 0.2762])
SVHN = ([0.4377, 0.4438, 0.4728], [0.198, 0.201, 0.197])
RELEASED = Path(__file__).parents[3] / "shared/data/released/dm_imagefruit_ipc1.pt"


# --- DC, DSA, DM -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written_as", "dataset", "statistics", "channels"),
    [
        ("MNIST", "mnist", ([0.1307], [0.3081]), 1),
        ("FashionMNIST", "fashion-mnist", ([0.2861], [0.3530]), 1),
        ("SVHN", "svhn", SVHN, 3),
        ("CIFAR10", "cifar10", CIFAR10, 3),
        ("TinyImageNet", "tiny-imagenet", IMAGENET, 3),
        ("imagenet-fruits", "imagefruit", IMAGENET, 3),
    ],
)
def test_dc_from_its_file_name(tmp_path, written_as, dataset, statistics, channels):
    images = pixels(channels=channels)
    stored = [normalise(images, statistics), class_major()]
    path = save_dc(tmp_path / f"res_DM_{written_as}_ConvNet_2ipc.pt", [stored])
    loaded = load_distilled(path)
    close(loaded, images.expand(-1, 3, -1, -1))
    assert torch.equal(loaded.labels, class_major())
    assert loaded.class_names == class_names(dataset)
    record = loaded.provenance
    assert record["format"] == "dc" and record["dataset"] == dataset
    assert record["source"] == path.name and path.name in record["dataset_from"]
    assert record["undone"]["normalisation"]["mean"] == statistics[0]
    assert ("grey" in record["undone"]) == (channels == 1)


def test_dc_cifar100_has_statistics_of_its_own(tmp_path):
    images, labels = pixels(100), class_major(100, 1)
    path = save_dc(tmp_path / "set.pt", [[normalise(images, CIFAR100), labels]])
    close(load_distilled(path, dataset="CIFAR100"), images)


def test_dc_holds_several_experiments(tmp_path):
    sets = [pixels(seed=seed) for seed in range(5)]
    stored = [[normalise(images, CIFAR10), class_major()] for images in sets]
    path = save_dc(tmp_path / "res_DC_CIFAR10_ConvNet_2ipc.pt", stored)
    close(load_distilled(path), sets[0])
    chosen = load_distilled(path, experiment=3)
    close(chosen, sets[3])
    assert chosen.provenance["experiment"] == 3
    assert chosen.provenance["experiments"] == 5
    with pytest.raises(InputError, match=r"experiment is 5; .* in 0 \.\. 4"):
        load_distilled(path, experiment=5)


def test_dm_of_predd_is_not_its_output(tmp_path):
    images = pixels(10).clamp(0, 1)  # within +-3 as stored, as decoder output is
    content = {"data": [[normalise(images, IMAGENET), class_major(10, 1)]], "res": 128}
    folder = tmp_path / "dm" / "imagenet-fruits"
    folder.mkdir(parents=True)
    torch.save(content, folder / "res_128_DM_imagenet-fruits_ConvNet_10ipc.pt")
    torch.save(content, folder / "images_best.pt")
    named = load_distilled(folder / "res_128_DM_imagenet-fruits_ConvNet_10ipc.pt")
    close(named, images)
    with pytest.raises(InputError, match=r"fits several formats.*'dc'.*'predd'"):
        load_distilled(folder / "images_best.pt")
    told = load_distilled(folder / "images_best.pt", format="dc")
    close(told, images)
    assert told.provenance["dataset_from"] == "name 'imagenet-fruits'"


def test_statistics_can_be_given(tmp_path):
    images, statistics = pixels(), ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6])
    path = save_dc(
        tmp_path / "set.pt", [[normalise(images, statistics), class_major()]]
    )
    loaded = load_distilled(path, normalisation=statistics)
    close(loaded, images)
    assert loaded.class_names[3] == "class 3"
    with pytest.raises(InputError, match=r"normalisation: found.*per channel"):
        load_distilled(path, normalisation=0.5)
    with pytest.raises(InputError, match=r"3 channel.*2 means"):
        load_distilled(path, normalisation=([0.1, 0.2], [0.4, 0.5]))


@pytest.mark.skipif(not RELEASED.is_file(), reason="the released file isn't here")
@pytest.mark.parametrize("arguments", [{}, {"dataset": "imagefruit"}])
def test_a_file_that_others_released(arguments):
    loaded = load_distilled(RELEASED, **arguments)
    assert loaded.images.shape == (10, 3, 128, 128)
    assert loaded.labels.tolist() == list(range(10)) and loaded.ipc == 1
    assert loaded.class_names[:2] == ("pineapple", "banana")
    assert loaded.images.min().item() == pytest.approx(-4.45, abs=0.01)
    assert loaded.images.max().item() == pytest.approx(4.77, abs=0.01)
    outside = (loaded.images < 0) | (loaded.images > 1)
    assert outside.float().mean().item() == pytest.approx(0.46, abs=0.005)


# --- MTT, DATM, GLaD ---------------------------------------------------------------


def test_mtt_folder_and_file(tmp_path):
    images = pixels(100)
    run = tmp_path / "CIFAR100" / "run"
    path = save_run(run, normalise(images, CIFAR10), class_major(100, 1))
    save_run(run, torch.zeros(100, 3, 8, 8), class_major(100, 1), name="500")
    for source in (run, path):
        loaded = load_distilled(source, format="mtt", zca=False)
        close(loaded, images)  # with CIFAR-10's statistics, as MTT does
        assert torch.equal(loaded.labels, class_major(100, 1))
        assert loaded.provenance["dataset"] == "cifar100"
        assert loaded.provenance["lr"] is None


def test_mtt_does_not_whiten_imagenet_subsets_by_default(tmp_path):
    images = pixels()
    path = save_run(tmp_path, normalise(images, IMAGENET), class_major(), "1000")
    loaded = load_distilled(path, dataset="imagesquawk")
    assert loaded.provenance["format"] == "mtt"
    assert loaded.provenance["zca_assumed"] is False
    close(loaded, images)


def test_split_files_are_concatenated(tmp_path):
    images, labels = pixels(200), class_major(200, 1)
    parts = [
        save_run(
            tmp_path, normalise(images[i : i + 40], IMAGENET), labels[i : i + 40], i
        )
        for i in range(0, 200, 40)
    ]
    arguments = {"format": "mtt", "dataset": "tiny", "zca": False}
    loaded = load_distilled(parts, **arguments)
    close(loaded, images)
    assert torch.equal(loaded.labels, labels) and loaded.ipc == 1
    with pytest.raises(InputError, match=r"found 5 files.*no images_best"):
        load_distilled(tmp_path, **arguments)
    with pytest.raises(InputError, match="'ncfm' expects one"):
        load_distilled(parts, format="ncfm")


def test_datm_keeps_logits_and_learning_rate(tmp_path):
    images, logits = pixels(), torch.randn(20, 10) + 5 * torch.eye(10)[class_major()]
    logits[3] = -torch.arange(10.0)  # an image of class 1 that prefers class 0
    path = save_run(tmp_path / "Normal", normalise(images, IMAGENET), logits, lr=0.025)
    loaded = load_distilled(path, dataset="imagenette")
    close(loaded, images)
    assert loaded.provenance["format"] == "datm"
    assert loaded.provenance["soft_labels"] == "logits"
    assert loaded.provenance["lr"] == pytest.approx(0.025)
    assert torch.equal(loaded.soft_labels, logits)
    assert torch.equal(loaded.labels, logits.argmax(1))
    assert loaded.provenance["argmax_not_class_major"] == int(
        (logits.argmax(1) != class_major()).sum()
    )


@pytest.mark.parametrize("format", ["mtt", "datm", "dd-ranking"])
def test_whitening_is_undone_with_the_training_images(tmp_path, format):
    images, reference = pixels(), torch.rand(300, 3, 8, 8)
    labels = 3 * torch.eye(10)[class_major()] if format == "datm" else class_major()
    white = kornia_whitening(reference, images)
    name = None if format == "dd-ranking" else "best"
    path = save_run(tmp_path, white, labels, name)
    loaded = load_distilled(
        path, format=format, dataset="cifar10", zca_reference=reference
    )
    close(loaded, images)
    assert "300 reference images" in loaded.provenance["undone"]["zca"]
    assert "normalisation" not in loaded.provenance["undone"]


def test_whitening_is_undone_with_the_writers_own_copy(tmp_path):
    images = pixels()
    white = kornia_whitening(torch.rand(300, 3, 8, 8), images)
    path = save_run(tmp_path, white, class_major(), "500")
    torch.save(images, tmp_path / "images_zca_500.pt")
    for source in (path, tmp_path / "images_zca_500.pt"):
        loaded = load_distilled(source, dataset="cifar10", zca=True)
        close(loaded, images)
        assert "images_zca" in loaded.provenance["undone"]["zca"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "ZCA-whitened.*pass zca=True or zca=False"),
        ({"zca": True}, r"images_zca_best\.pt is absent.*zca_reference="),
        ({"zca_reference": torch.rand(9, 3, 4, 4)}, r"\(9, 3, 4, 4\).*\(M, 3, 8, 8\)"),
        ({"zca": False, "zca_reference": torch.rand(9, 3, 8, 8)}, "pass one of them"),
    ],
)
@pytest.mark.parametrize("dataset", ["cifar10", "cifar100", "tiny-imagenet"])
def test_whitening_must_be_told(tmp_path, dataset, arguments, message):
    path = save_run(tmp_path, pixels(), class_major())
    with pytest.raises(InputError, match=message) as caught:
        load_distilled(path, format="mtt", dataset=dataset, **arguments)
    assert str(path) in str(caught.value)


def test_hard_and_soft_labels_are_not_mixed_up(tmp_path):
    hard = save_run(tmp_path / "hard", pixels(), class_major())
    soft = save_run(tmp_path / "soft", pixels(), torch.randn(20, 10))
    with pytest.raises(InputError, match="'datm' expects float logits"):
        load_distilled(hard, format="datm", dataset="imagefruit")
    with pytest.raises(InputError, match="'mtt' expects integers"):
        load_distilled(soft, format="mtt", dataset="imagefruit")


@pytest.mark.parametrize(
    ("dataset", "space", "statistics"),
    [
        ("imagenet-fruits", None, GLAD),
        ("imagenet-a", "wp", GLAD),
        ("imagenet-a", "p", IMAGENET),
        ("cifar10", "wp", CIFAR10),
        ("cifar100", "wp", GLAD),
        ("cifar100", "p", CIFAR10),
    ],
)
def test_glad_uses_its_own_mean(tmp_path, dataset, space, statistics):
    images = pixels()
    path = save_run(tmp_path, normalise(images, statistics), class_major(), "00500")
    loaded = load_distilled(path, dataset=dataset, space=space)
    assert loaded.provenance["format"] == "glad"
    assert loaded.provenance["space"] == (space or "wp")
    close(loaded, images)


# --- NCFM, PReDD, DD-Ranking -------------------------------------------------------


def test_ncfm_tiles_become_images(tmp_path):
    canvas, labels = canvases(), class_major(10, 1)
    torch.save([canvas, labels], tmp_path / "data_20000.pt")
    loaded = load_distilled(tmp_path / "data_20000.pt", dataset="imagemeow")
    assert loaded.provenance["format"] == "ncfm"
    assert loaded.images.shape == (40, 3, 8, 8) and loaded.ipc == 4
    assert torch.equal(loaded.labels, class_major(10, 4))
    for image in range(10):
        for tile, (row, column) in enumerate([(0, 0), (0, 4), (4, 0), (4, 4)]):
            part = canvas[image : image + 1, :, row : row + 4, column : column + 4]
            expected = F.interpolate(part, size=(8, 8), mode="bilinear")
            assert torch.equal(loaded.images[4 * image + tile], expected[0])
    assert loaded.provenance["undone"]["tiles"]["factor"] == 2


def test_ncfm_canvas_other_factors_and_odd_sizes(tmp_path):
    canvas = torch.rand(10, 3, 7, 7)
    torch.save([canvas, class_major(10, 1)], tmp_path / "data_1.pt")
    whole = load_distilled(tmp_path / "data_1.pt", factor=1)
    close(whole, canvas)
    assert whole.provenance["undone"] == {}
    third = load_distilled(tmp_path / "data_1.pt", factor=3)
    assert third.images.shape == (90, 3, 7, 7)
    padded = F.pad(canvas, (0, 2, 0, 2), value=0.5)  # NCFM pads with grey
    expected = F.interpolate(padded[:1, :, 6:, 6:], size=(7, 7), mode="bilinear")
    assert torch.equal(third.images[8], expected[0])
    with pytest.raises(InputError, match=r"factor \(tiles per side\) is 0"):
        load_distilled(tmp_path / "data_1.pt", factor=0)


def test_ncfm_has_another_tenth_fruit(tmp_path):
    torch.save([canvases(), class_major(10, 1)], tmp_path / "data.pt")
    loaded = load_distilled(tmp_path / "data.pt", dataset="imagefruit")
    assert loaded.class_names[9] == "custard apple"
    assert loaded.provenance["dataset"] == "imagefruit-ncfm"


def test_ncfm_refuses_normalised_values(tmp_path):
    torch.save([pixels(10), class_major(10, 1)], tmp_path / "data.pt")
    with pytest.raises(InputError, match=r"'ncfm' expects \[0, 1\]"):
        load_distilled(tmp_path / "data.pt")


def test_predd_output_is_shifted_to_the_unit_range(tmp_path):
    images = torch.rand(10, 3, 16, 16) * 1.1
    content = {"data": [[images * 2 - 1, class_major(10, 1)]], "res": 256}
    folder = tmp_path / "imagenet-yellow"
    folder.mkdir()
    torch.save(content, folder / "imagenet_distill_256_256.pt")
    loaded = load_distilled(folder / "imagenet_distill_256_256.pt")
    close(loaded, images)
    assert loaded.provenance["format"] == "predd"
    assert loaded.class_names == class_names("imageyellow")
    assert "range" in loaded.provenance["undone"]


def test_predd_refuses_normalised_values(tmp_path):
    content = {"data": [[20 * pixels(10), class_major(10, 1)]], "res": 128}
    torch.save(content, tmp_path / "images_best.pt")
    with pytest.raises(InputError, match=r"found values up to.*format 'dc'"):
        load_distilled(tmp_path / "images_best.pt", format="predd")


@pytest.mark.parametrize("kind", ["hard", "probabilities", "logits", "none"])
def test_dd_ranking_folder(tmp_path, kind):
    images, logits = pixels(), 4 * torch.eye(10)[class_major()] - 1
    torch.save(normalise(images, CIFAR10), tmp_path / "images.pt")
    torch.save(torch.tensor(0.01), tmp_path / "lr.pt")
    labels = {"hard": class_major(), "probabilities": logits.softmax(1).half()}
    if kind != "none":
        torch.save(labels.get(kind, logits), tmp_path / "labels.pt")
    loaded = load_distilled(tmp_path, dataset="cifar10", zca=False)
    close(loaded, images)
    assert loaded.provenance["format"] == "dd-ranking"
    assert loaded.provenance["lr"] == pytest.approx(0.01)
    assert torch.equal(loaded.labels, class_major())
    soft = kind in ("probabilities", "logits")
    assert loaded.provenance.get("soft_labels") == (kind if soft else None)
    assert (loaded.soft_labels is not None) == soft


def test_soft_labels_below_zero_are_logits(tmp_path):
    """Rows that sum to one are no probabilities if some are negative."""
    logits = 2 * torch.eye(10)[class_major()] - 0.1
    assert torch.allclose(logits.sum(1), torch.ones(20))
    torch.save(normalise(pixels(), CIFAR10), tmp_path / "images.pt")
    torch.save(logits, tmp_path / "labels.pt")
    loaded = load_distilled(tmp_path, dataset="cifar10", zca=False)
    assert loaded.provenance["soft_labels"] == "logits"


# --- Image folders -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("folders", "labels", "names"),
    [
        (["new000", "new001", "new010"], [0, 1, 10], {0: "new000", 2: "class 2"}),
        (["10", "2"], [10, 2], {10: "10", 2: "2"}),
        (["n02124075", "n01440764"], [1, 0], {0: "n01440764", 1: "n02124075"}),
        (["dog", "cat"], [1, 0], {0: "cat", 1: "dog"}),
        (["cifar10_dog", "cifar10_cat"], [1, 0], {0: "cifar10_cat"}),
    ],
)
def test_image_folder_labels(tmp_path, folders, labels, names):
    loaded = load_distilled(write_images(tmp_path, folders))
    value = {round(x[0, 0, 0].item() * 255): i for i, x in enumerate(loaded.images)}
    for position, label in enumerate(labels):
        for image in (2 * position, 2 * position + 1):
            assert loaded.labels[value[image]] == label
    for index, name in names.items():
        assert loaded.class_names[index] == name
    assert loaded.provenance["format"] == "image-folder"
    assert loaded.provenance["labels_from"]


def test_wordnet_ids_take_the_labels_of_their_subset(tmp_path):
    # Sorted ids are in the order of ImageNet's indices: lynx (287) before lion (291).
    ids = [f"n{2120000 + i:08d}" for i in range(10)]
    loaded = load_distilled(write_images(tmp_path, ids, 1), dataset="imagemeow")
    ranks = {
        index: rank for rank, (index, _) in enumerate(sorted(SUBSETS["imagemeow"]))
    }
    for label, (index, _) in enumerate(SUBSETS["imagemeow"]):
        assert loaded.images[label].mul(255).round()[0, 0, 0] == ranks[index]
    assert loaded.labels.tolist() == list(range(10))
    assert loaded.class_names == class_names("imagemeow")


def test_imagenet_indices_and_class_names_as_folders(tmp_path):
    indices = [str(index) for index, _ in SUBSETS["imagefruit"]]
    loaded = load_distilled(
        write_images(tmp_path / "a", indices, 1), dataset="imagefruit"
    )
    assert [round(v) for v in (loaded.images[:, 0, 0, 0] * 255).tolist()] == [
        *range(10)
    ]
    named = write_images(tmp_path / "b", ["Trouser", "T-shirt"], 1)
    loaded = load_distilled(named, dataset="fashion-mnist")
    assert loaded.labels.tolist() == [0, 1]
    assert loaded.images[0].max() > 0  # T-shirt was written second
    with pytest.raises(InputError, match=r"2 class folders.*class names of 'cifar10'"):
        load_distilled(named, dataset="cifar10")


def test_images_come_in_natural_order_from_any_class_size(tmp_path):
    write_images(tmp_path, ["a"], 11)
    write_images(tmp_path, ["b"], 1, suffix="jpg")
    (tmp_path / "FKD_cutmix").mkdir()
    (tmp_path / "FKD_cutmix" / "batch_0.tar").write_bytes(b"labels")
    (tmp_path / ".hidden").mkdir()
    loaded = load_distilled(tmp_path)
    values = (loaded.images[:11, 0, 0, 0] * 255).round().int().tolist()
    assert values == list(range(11))
    assert len(loaded) == 12 and loaded.ipc is None
    assert loaded.provenance["folders_left_out"] == ["FKD_cutmix"]


def test_grey_images_become_three_channels(tmp_path):
    (tmp_path / "a").mkdir()
    Image.new("L", (4, 4), 51).save(tmp_path / "a" / "0.png")
    loaded = load_distilled(tmp_path)
    assert torch.allclose(loaded.images, torch.full((1, 3, 4, 4), 0.2))


def test_colours_and_sides_stay_where_they_were(tmp_path):
    """Red, green, blue; left and right; top and bottom: as the picture has them."""
    array = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    (tmp_path / "a").mkdir()
    Image.fromarray(array).save(tmp_path / "a" / "0.png")
    found = load_distilled(tmp_path).images[0] * 255
    assert torch.equal(found.round(), torch.from_numpy(array).permute(2, 0, 1).float())


@pytest.mark.parametrize(
    ("magic", "largest", "read"),
    [("P6", 15, True), ("P6", 255, True), ("P3", 255, True), ("P6", 256, False),
     ("P6", 65_535, False), ("P3", 1_023, False), ("P5", 1_023, False),
     ("P2", 65_535, False)],
)  # fmt: skip
def test_portable_maps_of_more_than_8_bits(tmp_path, magic, largest, read):
    """Pillow cuts colours to 8 bits without a word."""
    values = np.linspace(0, largest, 12 if magic in ("P3", "P6") else 4)
    values = values.round().astype(np.uint8 if largest < 256 else ">u2")
    body = values.tobytes()
    if magic in ("P2", "P3"):
        body = " ".join(map(str, values.tolist())).encode()
    (tmp_path / "a").mkdir()
    file = tmp_path / "a/0.ppm"
    file.write_bytes(f"{magic}\n2 2\n{largest}\n".encode() + body)
    if not read:
        with pytest.raises(InputError, match=r"0\.ppm: .*expected 8 bits a channel"):
            load_distilled(tmp_path)
        return
    found = load_distilled(tmp_path).images[0].permute(1, 2, 0).flatten()
    wanted = torch.from_numpy(values / largest).float()
    assert torch.allclose(found, wanted, atol=1 / 255)


def mixed_sizes(root):
    write_images(root, ["a"], 1)
    write_images(root, ["b"], 1, size=(8, 9))


def corrupt_image(root):
    write_images(root, ["a"], 1)
    (root / "a" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")


def truncated_image(root):
    (root / "a").mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8)
    Image.fromarray(noise).save(root / "a" / "1.png")
    content = (root / "a" / "1.png").read_bytes()
    (root / "a" / "1.png").write_bytes(content[:800])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (mixed_sizes, r"0\.png is 9x8, .*0\.png is 8x8"),
        (corrupt_image, r"1\.png can't be read"),
        (truncated_image, r"1\.png can't be read"),
        (lambda root: None, "neither images.*nor class folders"),
        (lambda root: (root / "a").mkdir(), "'a' is empty"),
        (lambda root: write_images(root, ["x/a", "y/a"]), "no images directly"),
    ],
)
def test_bad_image_folders(tmp_path, build, message):
    build(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=message) as caught:
        load_distilled(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


# --- Files that are refused --------------------------------------------------------


class Malicious:
    """Touch a file when unpickled by a reader that runs what it reads."""

    def __init__(self, sentinel):
        self.sentinel = sentinel

    def __reduce__(self):
        return os.system, (f"touch '{self.sentinel}'",)


@pytest.mark.parametrize("writer", ["zip", "legacy", "pickle 2", "pickle 4"])
@pytest.mark.parametrize("format", ["auto", "dc", "ncfm", "mtt"])
def test_code_in_a_file_is_named_and_not_run(tmp_path, writer, format):
    sentinel, path = tmp_path / "executed", tmp_path / "images_best.pt"
    content = {"data": [[torch.zeros(1, 3, 2, 2), Malicious(sentinel)]]}
    if writer.startswith("pickle"):
        path.write_bytes(pickle.dumps(Malicious(sentinel), protocol=int(writer[-1])))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=writer == "zip")
    with pytest.raises(InputError, match=r"code \((posix|nt)\.system\).*not executed"):
        load_distilled(path, format=format)
    assert not sentinel.exists()
    pickle.loads(pickle.dumps(Malicious(sentinel)))  # the file would have worked
    assert sentinel.exists()


class Harmless:
    """Stand for what a user's own files hold."""


def test_what_a_user_calls_safe_is_so_afterwards_but_not_here(tmp_path):
    """Our own list was taken from the user's; and a set builds nothing of theirs."""
    ours = type(np.dtype(np.float64))  # numbers beside a set are made of it
    stored = [[pixels(size=32), class_major()]]
    path = save_dc(tmp_path / "res_DC_CIFAR10.pt", stored)
    torch.save([Harmless(), class_major()], tmp_path / "own.pt")
    with torch.serialization.safe_globals([Harmless, ours]):
        theirs = {*torch.serialization.get_safe_globals()}
        load_distilled(path)
        assert {*torch.serialization.get_safe_globals()} == theirs
        torch.load(tmp_path / "own.pt", weights_only=True)
        with pytest.raises(InputError, match=r"code \(\S*Harmless\), which was not"):
            load_distilled(tmp_path / "own.pt")
        assert {*torch.serialization.get_safe_globals()} == theirs


def test_code_in_the_labels_is_not_run_either(tmp_path):
    sentinel = tmp_path / "executed"
    path = save_run(tmp_path, pixels(), class_major())
    torch.save(Malicious(sentinel), tmp_path / "labels_best.pt")
    with pytest.raises(InputError, match=r"labels_best\.pt.*code.*not executed"):
        load_distilled(path, format="mtt", dataset="imagefruit")
    assert not sentinel.exists()


def truncated(path):
    save_dc(path, [[pixels(), class_major()]])
    path.write_bytes(path.read_bytes()[:2000])


def truncated_legacy(path):
    torch.save([pixels(), class_major()], path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[:600])


def numpy_archive(path):
    with path.open("wb") as stream:
        np.savez(stream, a=np.zeros(3))


def saver(content):
    return lambda path: torch.save(content, path)


def dc_with(images=None, labels=None):
    images = pixels() if images is None else images
    labels = class_major() if labels is None else labels
    return saver({"data": [[images, labels]], "accs_all_exps": {}})


BAD_FILES = {
    "empty": (lambda path: path.write_bytes(b""), {}, r"empty \(0 bytes\)"),
    "truncated": (truncated, {}, "truncated"),
    "truncated legacy": (truncated_legacy, {}, "damaged"),
    "text": (lambda path: path.write_text("hello"), {}, "not a torch file.*hello"),
    "lfs": (
        lambda path: path.write_text("version https://git-lfs.github.com/spec/v1"),
        {},
        "Git LFS pointer",
    ),
    "numpy": (numpy_archive, {}, "damaged"),
    "missing": (lambda path: None, {}, "no such file or folder"),
    "wrong format name": (dc_with(), {"format": "dm"}, "format is 'dm'.*'auto'"),
    "unknown data set": (dc_with(), {"dataset": "cifar11"}, "'cifar11' is unknown"),
    "needs a data set": (dc_with(), {"dataset": None}, "pass dataset="),
    "no statistics": (
        saver(pixels()),
        {"format": "mtt", "dataset": "svhn"},
        r"labels.*no such file",
    ),
    "foreign option": (dc_with(), {"factor": 2}, "factor= has no meaning.*'dc'.*ncfm"),
    "nan": (dc_with(torch.full((20, 3, 2, 2), torch.nan)), {}, "240 NaN"),
    "inf": (dc_with(torch.full((20, 3, 2, 2), torch.inf)), {}, "240 NaN or infinite"),
    "channels": (dc_with(torch.zeros(20, 4, 2, 2)), {}, r"\(20, 4, 2, 2\)"),
    "grey as colour": (dc_with(pixels(channels=1)), {}, r"1 channel\(s\).*3 means"),
    "bytes": (dc_with(torch.zeros(20, 3, 2, 2).byte()), {}, "uint8"),
    "label range": (
        dc_with(labels=class_major() + 1),
        {},
        r"labels are 1 \.\. 10; expected 0 \.\. 9",
    ),
    "label length": (
        dc_with(labels=class_major()[:7]),
        {},
        r"\(7,\); expected an integer tensor \(20,\)",
    ),
    "no labels": (dc_with(labels=[0, 1]), {}, "labels is of type list"),
    "zero images": (
        dc_with(torch.zeros(0, 3, 2, 2), torch.zeros(0).long()),
        {},
        r"\(0, 3, 2, 2\)\)?; expected",
    ),
    "no numbers": (
        saver([torch.rand(2, 3, 4, 4), torch.full((2,), torch.nan)]),
        {"dataset": None},
        r"labels is torch\.float32 \(2,\); expected an integer tensor",
    ),
    "zero labels": (
        dc_with(labels=torch.zeros(0)),
        {},
        r"\(0,\); expected an integer",
    ),
    "no sets": (saver({"data": [], "accs_all_exps": {}}), {}, "empty 'data'"),
    "no pair": (saver({"data": [[1]], "accs_all_exps": {}}), {}, "images, labels"),
    "state dict": (saver({"conv.weight": torch.zeros(1)}), {}, "conv.weight.*formats"),
    "a number": (saver(3), {}, "a int, which no known format"),
    "list as dc": (saver([pixels(), class_major()]), {"format": "dc"}, "a list of 2"),
    "dict as ncfm": (dc_with(), {"format": "ncfm"}, "dict.*images, labels"),
    "file as folder": (dc_with(), {"format": "image-folder"}, "expects a folder"),
}


@pytest.mark.parametrize(
    ("write", "arguments", "message"), BAD_FILES.values(), ids=BAD_FILES
)
def test_bad_files(tmp_path, write, arguments, message):
    path = tmp_path / "images_x.pt"
    write(path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=message) as caught:
        load_distilled(path, **({"dataset": "cifar10"} | arguments))
    assert "\n" not in str(caught.value) and caught.type is InputError
    if not message.startswith(("format is", "'cifar11'")):
        assert str(tmp_path) in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_scripts_are_refused(tmp_path):
    path = tmp_path / "images.pt"
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), path)
    with pytest.raises(InputError, match="expected tensors"):
        load_distilled(path)


@pytest.mark.parametrize("name", ["best", "20000"])
def test_hard_labels_without_a_telling_name_are_decided_by_evidence(tmp_path, name):
    """MTT's and GLaD's writers leave files alike; the means that they take differ."""
    large = F.interpolate(torch.randn(200, 3, 4, 4), size=64, mode="bilinear")
    like = 0.2 * large + torch.tensor(IMAGENET[0]).view(3, 1, 1)
    for statistics, found, other in ((IMAGENET, "mtt", "glad"), (GLAD, "glad", "mtt")):
        stored = normalise(like, statistics)
        path = save_run(tmp_path / found, stored, class_major(ipc=20), name)
        for source in (path, path.parent) if name == "best" else (path,):
            words = f"taken for '{found}'.*format='{other}'"
            with pytest.warns(UserWarning, match=words):
                loaded = load_distilled(source, dataset="imagefruit")
            close(loaded, like)
            assert loaded.provenance["format"] == found
            assert len(loaded.provenance["doubts"]) == 1


def test_hard_labels_of_an_unknown_data_set_are_ambiguous(tmp_path):
    path = save_run(tmp_path, pixels(), class_major())
    with pytest.raises(InputError, match=r"fits several.*'mtt' is.*'glad' is"):
        load_distilled(path)


@pytest.mark.parametrize("whole", [True, False])
def test_dc_benchs_names_and_labels(tmp_path, whole):
    """The data set's name stands far up, the files' last; labels are floats."""
    folder = tmp_path / "CIFAR10" / "a" / "b" / "IPC2"
    folder.mkdir(parents=True)
    images, labels = pixels(size=16), class_major().float()
    torch.save(normalise(images, CIFAR10), folder / "X_IPC2_images.pt")
    torch.save(labels if whole else labels + 0.5, folder / "X_IPC2_labels.pt")
    for source in (folder, folder / "X_IPC2_images.pt"):
        if not whole:
            with pytest.raises(InputError, match=r"labels is .*float32"):
                load_distilled(source, format="mtt", zca=False)
            continue
        loaded = load_distilled(source, format="mtt", zca=False)
        close(loaded, images)
        assert torch.equal(loaded.labels, class_major())
        assert loaded.provenance["dataset"] == "cifar10"


def test_statistics_that_nobody_has_are_refused(tmp_path):
    path = save_run(tmp_path, pixels(), class_major())
    with pytest.raises(
        InputError, match=r"'svhn': no mean and std.*normalisation=svhn"
    ):
        load_distilled(path, format="mtt", dataset="svhn")


def test_split_files_must_agree(tmp_path):
    parts = [
        save_run(tmp_path, pixels(10, size=size), class_major(10, 1), size)
        for size in (8, 9)
    ]
    with pytest.raises(InputError, match="differ in shape"):
        load_distilled(parts, format="mtt", dataset="imagefruit")
    with pytest.raises(InputError, match="at least one file"):
        load_distilled([])


def test_folders_where_a_file_is_expected(tmp_path):
    with pytest.raises(InputError, match="found a folder; format 'dc' expects a file"):
        load_distilled(tmp_path, format="dc")


def test_dd_ranking_without_labels_needs_whole_classes(tmp_path):
    torch.save(pixels(13), tmp_path / "images.pt")
    with pytest.raises(InputError, match=r"found 13 images.*multiple of the 10"):
        load_distilled(tmp_path, dataset="cifar10", zca=False)
    with pytest.raises(InputError, match="pass dataset="):
        load_distilled(tmp_path)
