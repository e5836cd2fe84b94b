"""Zip archives and NumPy files of strangers: KIP's, RFAD's, folders of pictures."""

import io
import re
import shutil
import stat
import tempfile
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from published_files import (
    class_major,
    kip_whitening,
    pixels,
    save_dc,
    save_run,
    write_images,
)

from diver_lite.checks import InputError
from diver_lite.files import read_torch
from diver_lite.judge.protocols import PROTOCOLS
from diver_lite.make.checkpoint import Training
from diver_lite.sets import stored
from diver_lite.sets.distilled import DistilledSet
from diver_lite.sets.load import load_distilled

REFERENCE = torch.rand(300, 3, 6, 6, generator=torch.Generator().manual_seed(5))
IMAGES = REFERENCE[:20] * 0.8 + 0.1
SOFT = (10 * torch.eye(10)[class_major()] - 3).numpy()


def save_kip(folder, layer_norm=True):
    np.save(folder / "images.npy", kip_whitening(REFERENCE, IMAGES, layer_norm))
    np.save(folder / "labels.npy", SOFT)
    return folder


def save_rfad(folder, **more):
    white = kip_whitening(REFERENCE, IMAGES, layer_norm=False)
    arrays = {"images": np.moveaxis(white, -1, 1), "labels": SOFT - 0.1, "k": 3.0}
    np.savez(folder / "best.npz", **(arrays | more))
    return folder / "best.npz"


def test_rfads_whitening_is_undone(tmp_path):
    loaded = load_distilled(
        save_rfad(tmp_path), zca_reference=REFERENCE, dataset="cifar10"
    )
    assert (loaded.images - IMAGES).abs().max() < 1e-4
    assert torch.equal(loaded.labels, class_major())
    record = loaded.provenance
    assert record["format"] == "rfad" and record["assumed"] == "RFAD's whitening"
    assert record["soft_labels"] == "regression targets"


def test_targets_of_a_regression_are_no_logits(tmp_path):
    """A softmax of KIP's would make a class of what is barely the largest."""
    for source in (save_kip(tmp_path), save_rfad(tmp_path)):
        loaded = load_distilled(source, normalisation="none", dataset="cifar10")
        assert loaded.provenance["soft_labels"] == "regression targets"
        soft = replace(PROTOCOLS["corrected"], labels="soft")
        with pytest.raises(InputError, match="probabilities, or logits that"):
            soft.targets(loaded)
    with pytest.raises(InputError, match=r"\(mean, std\) was given; .* 'none'"):
        load_distilled(source, normalisation="cifar10", dataset="cifar10")


def test_kips_whitening_is_undone_up_to_each_images_contrast(tmp_path):
    folder = save_kip(tmp_path)
    loaded = load_distilled(folder, zca_reference=REFERENCE, dataset="cifar10")
    mean = REFERENCE.mean((0, 2, 3)).view(-1, 1, 1)
    std = REFERENCE.std((0, 2, 3)).view(-1, 1, 1)
    found, wanted = ((x - mean) / std for x in (loaded.images, IMAGES))
    wanted = wanted - wanted.mean((1, 2, 3), keepdim=True)
    cosine = torch.cosine_similarity(found.flatten(1), wanted.flatten(1))
    assert cosine.min() > 0.9999
    real = ((REFERENCE - mean) / std).flatten(1)
    norm = (real - real.mean(1, keepdim=True)).norm(dim=1).mean()
    assert found.flatten(1).norm(dim=1).allclose(norm.expand(20), rtol=1e-3)
    assert "norm" in loaded.provenance["undone"]
    alone = load_distilled(
        folder / "images.npy", zca_reference=REFERENCE, dataset="cifar10"
    )
    assert torch.equal(alone.images, loaded.images)


@pytest.mark.parametrize("save", [save_kip, save_rfad])
def test_whitened_arrays_need_a_reference(tmp_path, save):
    source = save(tmp_path)
    with pytest.raises(InputError, match=r"whitened; pass .* zca_reference="):
        load_distilled(source, dataset="cifar10")
    stored = load_distilled(source, normalisation="none")
    assert stored.provenance["undone"] == {}


def test_arrays_that_were_not_whitened_explode(tmp_path):
    source = save_rfad(tmp_path, images=30 * np.moveaxis(IMAGES.numpy(), 1, -1))
    with pytest.raises(InputError, match=r"not whitened as rfad .* outside \[0, 1\]"):
        load_distilled(source, dataset="cifar10", zca_reference=REFERENCE)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"images": np.array([None, {}], object)}, "[Oo]bject arrays"),
        ({"images": np.array(["a"] * 20)}, "can't convert .* numpy.str_"),
        ({"labels": SOFT[:7]}, r"labels is .*\(7, 10\)"),
        ({"images": np.zeros((20, 6))}, r"images is .*\(20, 6\)"),
    ],
)
def test_damaged_arrays(tmp_path, change, words):
    with pytest.raises(InputError, match=words) as caught:
        load_distilled(save_rfad(tmp_path, **change), zca_reference=REFERENCE)
    assert "best.npz" in str(caught.value)


def test_arrays_under_other_names(tmp_path):
    np.savez(tmp_path / "best.npz", x_proto=np.zeros((2, 6, 6, 3)))
    with pytest.raises(InputError, match=r"found arrays \['x_proto'\].*'images'"):
        load_distilled(tmp_path / "best.npz")


def test_arrays_named_in_the_singular(tmp_path):
    save_kip(tmp_path)
    for kind in ("image", "label"):
        (tmp_path / f"{kind}s.npy").rename(tmp_path / f"{kind}.npy")
    loaded = load_distilled(tmp_path / "image.npy", normalisation="none")
    assert torch.equal(loaded.soft_labels, torch.from_numpy(SOFT))


def test_half_an_array(tmp_path):
    path = save_rfad(tmp_path)
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(
        InputError, match=r"best\.npz can't be read \(File is not a zip"
    ):
        load_distilled(path)
    file = save_kip(tmp_path) / "images.npy"
    file.write_bytes(file.read_bytes()[:900])
    with pytest.raises(InputError, match=r"images\.npy can't be read .*mmap"):
        load_distilled(file)


# --- Checksums of torch's archives --------------------------------------------------


def flipped(path, bit):
    """Write a copy of a file in which one bit is another."""
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    copy = path.with_name(f"flipped_{path.name}")
    copy.write_bytes(content)
    return copy


def test_a_flipped_bit_is_seen_or_changes_nothing(tmp_path):
    """Wherever it is: torch looks at no checksum, and leaves directories unfilled."""
    content = [torch.rand(2, 3, 4, 4), torch.tensor([4, 7])]
    path = tmp_path / "data.pt"
    torch.save(content, path)
    size = 8 * path.stat().st_size
    directory = 8 * path.read_bytes().index(b"PK\1\2")
    seen = 0
    for bit in (*range(0, directory, 11), *range(directory, size, 2)):
        try:
            found = read_torch(flipped(path, bit))
        except Exception:  # torch's own errors are as good: the file is refused
            seen += 1
            continue
        assert len(found) == 2, bit
        assert all(map(torch.equal, found, content)), bit
    assert seen > size / 100


@pytest.mark.parametrize("part", ["pixels", "label", "folder"])
def test_a_flipped_bit_in_a_set(tmp_path, part):
    """One in a label was another class, one in a pixel another colour."""
    images, labels = pixels(10, size=32), torch.arange(100, 110)
    path = save_run(tmp_path, images, labels)
    file = tmp_path / "labels_best.pt"
    wanted = labels.numpy().tobytes()
    if part == "pixels":
        path = file = save_dc(tmp_path / "set.pt", [[images, labels]])
        wanted = images.numpy().tobytes()
    bit = 8 * file.read_bytes().index(wanted) + 1
    if part == "folder":  # eight bytes before its name in the archive's directory
        bit = 8 * (file.read_bytes().rindex(b"labels_best/data/0") - 8) + 4
    flipped(file, bit).replace(file)
    form = "dc" if part == "pixels" else "mtt"
    with pytest.raises(InputError, match=rf"{file.name}: the file is damaged: "):
        load_distilled(path, normalisation="none", format=form)


def test_a_flipped_bit_in_a_checkpoint(tmp_path):
    path = tmp_path / "run.checkpoint"
    layer = torch.nn.Linear(8, 8)
    Training("run", 3, {"layer": layer}, path).save()
    Training("run", 3, {"layer": layer}, path)  # it would go on
    weights = layer.weight.detach().numpy().tobytes()
    bit = 8 * path.read_bytes().index(weights)
    flipped(path, bit).replace(path)
    with pytest.raises(InputError, match=r"run\.checkpoint .*damaged: .*anew"):
        Training("run", 3, {"layer": layer}, path)


# --- Archives ----------------------------------------------------------------------


def zipped(path, files, mode=0o644 | stat.S_IFREG):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            member = zipfile.ZipInfo(name)
            member.external_attr, member.compress_type = mode << 16, 8
            archive.writestr(member, data)
    return path


@pytest.mark.parametrize("inside", ["", "IPC2", "a/b"])
def test_a_zip_of_class_folders(tmp_path, inside):
    write_images(tmp_path / "in" / inside, ["cat", "dog"])
    archive = shutil.make_archive(str(tmp_path / "set"), "zip", tmp_path / "in")
    loaded = load_distilled(archive)
    assert loaded.class_names == ("cat", "dog") and loaded.labels.tolist() == [
        0,
        0,
        1,
        1,
    ]
    assert loaded.provenance["source"] == "set.zip"
    expected = load_distilled(tmp_path / "in")
    assert torch.equal(loaded.images, expected.images)


def test_a_zip_of_one_file(tmp_path):
    stream = io.BytesIO()
    torch.save({"data": [[pixels(), class_major()]], "accs_all_exps": {}}, stream)
    path = zipped(tmp_path / "a.zip", {"res_DC_CIFAR10.pt": stream.getvalue()})
    assert load_distilled(path, dataset="cifar10").provenance["format"] == "dc"


def save_own(folder):
    """Write one of our own files, and a .zip of it."""
    distilled = DistilledSet(IMAGES, class_major(), [f"c{i}" for i in range(10)])
    distilled.provenance = {"method": "DM"}
    file = distilled.save(folder / "mine.safetensors")
    with zipfile.ZipFile(folder / "mine.zip", "w") as archive:
        archive.write(file, file.name)
    return distilled, file, folder / "mine.zip"


def test_a_zip_of_our_own_file(tmp_path):
    """As the file itself, with names and record."""
    distilled, _, archive = save_own(tmp_path)
    loaded = load_distilled(archive)
    assert torch.equal(loaded.images, distilled.images)
    assert torch.equal(loaded.labels, distilled.labels)
    assert loaded.class_names == distilled.class_names
    assert loaded.provenance == {"method": "DM"}


def test_an_archive_is_no_part_of_a_set(tmp_path):
    _, file, archive = save_own(tmp_path)
    for others in ([archive], [file], [file, file]):
        words = rf"mine\.zip: found {1 + len(others)} sources; expected one archive$"
        with pytest.raises(InputError, match=words):
            load_distilled([archive, *others])


@pytest.mark.parametrize(
    "name",
    ["../cat/0.png", "cat/../../0.png", "/tmp/cat/0.png", "C:\\cat\\0.png",
     "..\\0.png", "\\\\server\\share\\0.png"],
)  # fmt: skip
def test_a_zip_that_leads_out_of_itself(tmp_path, name):
    inner = tmp_path / "inner"
    inner.mkdir()
    path = zipped(inner / "a.zip", {"cat/1.png": b"x", name: b"x"})
    if name not in zipfile.ZipFile(path).namelist():
        pytest.skip("this system's zip module changes the name as it writes")
    with pytest.raises(InputError, match=r"a\.zip: .*a path that leads out of it"):
        load_distilled(path)
    assert [p.name for p in tmp_path.rglob("*")] == ["inner", "a.zip"]


def test_a_zip_of_links(tmp_path):
    link = zipped(tmp_path / "a.zip", {"cat/0.png": b"/etc/passwd"}, stat.S_IFLNK)
    with pytest.raises(InputError, match="holds a link"):
        load_distilled(link)


def test_a_bomb_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(stored, "LARGE", 10**6)
    bomb = zipped(tmp_path / "a.zip", {"cat/0.png": bytes(10**6 + 1)})
    assert bomb.stat().st_size < 10_000
    with pytest.raises(InputError, match=r"would unpack to 1,000,001 bytes in 1 file"):
        load_distilled(bomb)
    path = save_rfad(tmp_path, images=np.zeros((20, 3, 200, 200)))
    with pytest.raises(InputError, match=r"best\.npz: the archive would unpack to"):
        load_distilled(path, zca_reference=REFERENCE)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "neither images"),
        ({"readme.txt": b"hello"}, "readme.txt: .*not a torch file"),
        ({"cat/0.png": b"no picture"}, r"cat/0\.png can't be read"),
    ],
)
def test_a_zip_of_nothing_useful(tmp_path, files, words):
    path = zipped(tmp_path / "a.zip", files)
    with pytest.raises(InputError, match=words) as caught:
        load_distilled(path)
    assert "a.zip" in str(caught.value)
    # the message speaks of what is in the archive, not of where it was unpacked
    assert "/tmp" not in str(caught.value).replace(str(tmp_path), "")


def test_half_a_zip(tmp_path):
    write_images(tmp_path / "in", ["cat", "dog"])
    archive = shutil.make_archive(str(tmp_path / "set"), "zip", tmp_path / "in")
    with open(archive, "r+b") as stream:
        stream.truncate(200)
    with pytest.raises(InputError, match=r"set\.zip can't be read \(File is not a zip"):
        load_distilled(archive)


def picture():
    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, "PNG")
    return stream.getvalue()


def test_a_zip_in_a_zip(tmp_path):
    inner = zipped(tmp_path / "in.zip", {"cat/0.png": picture()})
    outer = zipped(tmp_path / "a.zip", {"in.zip": inner.read_bytes()})
    with pytest.raises(InputError, match=r"a\.zip: an archive in an archive; unzip it"):
        load_distilled(outer)
    assert len(load_distilled(inner)) == 1


def test_pictures_of_an_archive_that_fill_the_memory(tmp_path, monkeypatch):
    """They would be read from a folder that is gone by then."""
    path = zipped(tmp_path / "a.zip", {f"cat/{i}.png": picture() for i in range(4)})
    monkeypatch.setattr(stored, "LARGE", 2_000)  # 4 x 3 x 8 x 8 floats are 3,072 bytes
    with pytest.raises(InputError, match=r"a\.zip: its pictures fill more than a GiB"):
        load_distilled(path)


def test_no_room_for_what_an_archive_holds(tmp_path, full_disk):
    """The folder for what is unpacked is said, not that of this archive therein."""
    path = zipped(tmp_path / "a.zip", {"cat/0.png": bytes(9_000)})
    room = re.escape(tempfile.gettempdir())
    words = rf"a\.zip: can't be unpacked to {room} \(File too large\)$"
    with full_disk(1_000), pytest.raises(InputError, match=words):
        load_distilled(path)
