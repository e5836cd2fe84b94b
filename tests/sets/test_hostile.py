"""Files from strangers: one line that names the file, and nothing else happens.

Every loader meets every kind of damage: bytes, tensors, numbers, JSON, pictures, pipes,
folders that may not be read. Each call must end in `InputError`, without debris,
without a storm of warnings, and without the memory that a file asks for.
"""

import gzip
import io
import itertools
import json
import os
import pickle
import shutil
import struct
import sys
import tempfile
import warnings
import zlib
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from cases import each
from PIL import Image
from published_files import class_major, save_dc, save_run
from safetensors.torch import save_file

from diver_lite import assets
from diver_lite.checks import InputError
from diver_lite.priors.loading import load_prior
from diver_lite.sets import contents, real
from diver_lite.sets.classes import as_subset, prior_classes
from diver_lite.sets.distilled import DistilledSet
from diver_lite.sets.load import load_distilled
from diver_lite.sets.real import CIFAR10_CLASSES, load_dataset

try:
    import resource
except ImportError:  # Windows
    resource = None

MEGABYTES = 200  # what a refusal may take at most, PyTorch's own laziness included


def tree(folder):
    """Return every path below a folder, with its size."""
    return {p: p.lstat().st_size for p in folder.rglob("*")}


def used():
    """Return the most memory that this process has had, in bytes."""
    if resource is None:
        return 0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def refused(folder, named, call):
    """See a call refused in one line that names the file, and nothing left behind."""
    before, memory = tree(folder), used()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with pytest.raises(InputError) as caught:
            call()
    message = str(caught.value)
    assert caught.type is InputError
    assert named in message
    assert "\n" not in message and len(message) < 700
    assert "weights_only" not in message  # PyTorch's advice to run what is in the file
    assert len(seen) <= 2, [str(warning.message) for warning in seen]
    assert used() - memory < MEGABYTES * 2**20
    assert tree(folder) == before


def pairs(files, damages, without=()):
    """Draw (file, damage) so that each of both, and each pair of kinds, occurs.

    Args:
        files, damages: kind -> names of that kind, which take turns.
        without: pairs that are harmless.
    """
    turns = {kind: itertools.cycle(names) for kind, names in files.items()}
    found = []
    for names in damages.values():
        for turn in range(max(len(names), len(files))):
            damage = [*names][turn % len(names)]
            kind = [*files][turn % len(files)]
            few = itertools.islice(turns[kind], len(files[kind]))
            harmful = (file for file in few if (file, damage) not in without)
            found += [(file, damage) for file in itertools.islice(harmful, 1)]
    every = [name for names in files.values() for name in names]
    all_damages = [name for names in damages.values() for name in names]
    for file in every:
        if file not in dict(found):
            left = [(file, d) for d in all_damages if (file, d) not in without]
            found.append(left[len(found) % len(left)])
    assert {file for file, _ in found} == {*every}
    assert {damage for _, damage in found} == {*all_damages}
    return found


def singly(names):
    """Let every name be a kind of its own."""
    return {name: (name,) for name in names}


def flat(kinds):
    return {name: make for table in kinds.values() for name, make in table.items()}


def test_pairs_lose_no_kind():
    """All names, all pairs of kinds, and nothing that is harmless."""
    files = {"a": ["a1", "a2", "a3", "a4"], "b": ["b1"], "c": ["c1", "c2"]}
    damages = {"x": ["x1"], "y": ["y1", "y2", "y3", "y4", "y5"]}
    found = pairs(files, damages, without={("a1", "x1")})
    assert ("a1", "x1") not in found
    assert {name for pair in found for name in pair} == {
        name for kinds in (files, damages) for names in kinds.values() for name in names
    }
    kinds = {(file[0], damage[0]) for file, damage in found}
    assert kinds == {(a, b) for a in files for b in damages}
    with pytest.raises(AssertionError):  # a damage that no file would show
        pairs({"a": ["a1"]}, singly(["x1", "x2"]), without={("a1", "x1")})


# --- Tensors ------------------------------------------------------------------------

IMAGES = torch.rand(20, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = class_major()


def some(dtype, shape=None):
    return torch.ones(shape or IMAGES.shape).to(dtype)


def holding(value):
    images = IMAGES.clone()
    images[-1, 1, 2, 3] = value
    return images


def nested():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a prototype, it says
        return torch.nested.nested_tensor([torch.ones(3, 8, 8), torch.ones(3, 4, 4)])


IMAGE_DAMAGE = {
    "layout": {
        "sparse": lambda: IMAGES.to_sparse(),
        "csr": lambda: IMAGES.flatten(1).to_sparse_csr(),
        "meta": lambda: IMAGES.to("meta"),
        "nested": nested,
        "quantised": lambda: torch.quantize_per_tensor(IMAGES, 0.1, 0, torch.quint8),
    },
    "type of numbers": {
        "float8": lambda: some(torch.float8_e4m3fn),
        "float8b": lambda: some(torch.float8_e5m2),
        "int8": lambda: some(torch.int8),
        "int32": lambda: some(torch.int32),
        "int64": lambda: some(torch.int64),
        "uint8": lambda: some(torch.uint8),
        "uint16": lambda: some(torch.uint16),
        "bool": lambda: some(torch.bool),
        "complex": lambda: some(torch.complex64),
    },
    "shape": {
        "scalar": lambda: torch.tensor(1.0),
        "flat": lambda: IMAGES[:, 0, 0, 0],
        "no batch": lambda: IMAGES[0],
        "five": lambda: IMAGES[None],
        "none": lambda: IMAGES[:0],
        "no rows": lambda: IMAGES[:, :, :0],
        "two channels": lambda: IMAGES[:, :2],
        "four channels": lambda: torch.cat([IMAGES, IMAGES[:, :1]], 1),
    },
    "values": {
        "nan": lambda: holding(torch.nan),
        "inf": lambda: holding(torch.inf),
    },
    "size": {
        "repeated": lambda: torch.zeros(1).expand(
            10**6, 3, 256, 256
        ),  # 786 GB in 1.8 kB
        "one pixel": lambda: torch.zeros(1).expand(20, 3, 10**5, 10**5),
    },
    "no tensor": {
        "list": lambda: [1.0, 2.0],
        "None": lambda: None,
        "text": lambda: "images",
        "dict": lambda: {"images": IMAGES},
    },
}
LABEL_DAMAGE = {
    "layout": {
        "sparse": lambda: LABELS.to_sparse(),
        "meta": lambda: LABELS.to("meta"),
        "nested": nested,
        "quantised": lambda: torch.quantize_per_tensor(
            IMAGES[:, 0, 0], 1, 0, torch.quint8
        ),
    },
    "type of numbers": {
        "float8": lambda: some(torch.float8_e4m3fn, (20, 10)),
        "float8 1": lambda: some(torch.float8_e4m3fn, (20,)),
        "uint16": lambda: LABELS.to(torch.uint16),
        "uint32": lambda: LABELS.to(torch.uint32),
        "uint64": lambda: LABELS.to(torch.uint64),
        "bool": lambda: LABELS.bool(),
        "complex": lambda: LABELS.to(torch.complex64),
        "complex 2": lambda: some(torch.complex64, (20, 10)),
    },
    "values": {
        "floats": lambda: LABELS + 0.5,
        "nan": lambda: torch.full((20,), torch.nan),
        "nan 2": lambda: torch.full((20, 10), torch.nan),
        "inf 2": lambda: torch.full((20, 10), torch.inf),
        "negative": lambda: LABELS - 1,
    },
    "shape": {
        "scalar": lambda: torch.tensor(3),
        "no classes": lambda: torch.zeros(20, 0),
        "none": lambda: LABELS[:0],
        "too few": lambda: LABELS[:19],
        "too many": lambda: class_major(21, 1),
        "too few 2": lambda: torch.rand(19, 10),
        "matrix": lambda: torch.ones(20, 10).long(),
        "cube": lambda: torch.rand(20, 10, 2),
    },
    "size": {
        "3e7": lambda: torch.full((20,), 3 * 10**7),
        "1e9": lambda: torch.full((20,), 10**9),
        "1e18": lambda: torch.full((20,), 10**18),
        "wide": lambda: torch.zeros(1).expand(20, 10**8),
        "too wide": lambda: torch.zeros(20, 100_001),
    },
    "no tensor": {
        "list": lambda: [0] * 20,
        "None": lambda: None,
        "text": lambda: "labels",
    },
}
BAD_IMAGES = flat(IMAGE_DAMAGE)
BAD_LABELS = flat(LABEL_DAMAGE)


LR = torch.tensor(0.1)


def save_format(folder, format, images=IMAGES, labels=..., lr=LR):
    """Write a set as one method's repository does; return arguments to load it."""
    if labels is ...:
        labels = 3.0 * torch.eye(10)[LABELS] if format == "datm" else LABELS
    path = folder / "images_x.pt"
    if format == "dc":
        save_dc(path, [[images, labels]])
    elif format == "predd":
        torch.save({"data": [[images, labels]], "res": 8}, path)
    elif format == "ncfm":
        torch.save([images, labels], path)
    else:
        path = save_run(folder, images, labels, None if format == "dd-ranking" else "x")
        torch.save(lr, folder / path.name.replace("images", "lr"))
    return {"source": path, "format": format, "dataset": "cifar10"}


FORMATS = ("dc", "mtt", "datm", "glad", "ncfm", "dd-ranking", "predd")


@pytest.mark.filterwarnings("ignore::UserWarning")
@each("format", FORMATS)
def test_the_undamaged_ones_are_read(tmp_path, format):
    """What follows would pass if nothing could be read at all."""
    assert len(load_distilled(**save_format(tmp_path, format))) in (20, 80)


@pytest.mark.filterwarnings("ignore:.*(prototype|beta state|deprecated)")
@each(("format", "damage"), pairs(singly(FORMATS), IMAGE_DAMAGE))
def test_images(tmp_path, format, damage):
    arguments = save_format(tmp_path, format, images=BAD_IMAGES[damage]())
    refused(tmp_path, arguments["source"].name, lambda: load_distilled(**arguments))


@pytest.mark.filterwarnings("ignore:.*(prototype|beta state|deprecated)")
@each(("format", "damage"), pairs(singly(FORMATS), LABEL_DAMAGE))
def test_labels(tmp_path, format, damage):
    arguments = save_format(tmp_path, format, labels=BAD_LABELS[damage]())
    refused(tmp_path, "s", lambda: load_distilled(**arguments))


@each("damage", ["3e7", "1e9", "1e18", "too wide"])
def test_labels_of_classes_without_names(tmp_path, damage):
    """A name would be made for each class."""
    path = save_format(tmp_path, "ncfm", labels=BAD_LABELS[damage]())["source"]
    refused(tmp_path, path.name, lambda: load_distilled(path, format="ncfm"))


@each(
    "lr", [None, "a", [], torch.zeros(2), torch.tensor(1j), torch.tensor(True),
           torch.tensor(torch.nan), torch.tensor(-1.0), torch.empty(1, device="meta")],
)  # fmt: skip
@each("format", ["datm", "dd-ranking"])
def test_step_sizes(tmp_path, format, lr):
    arguments = save_format(tmp_path, format, lr=lr)
    refused(tmp_path, "lr", lambda: load_distilled(**arguments))


DEEP = [[]]
for _ in range(200):  # more than PyTorch can write
    DEEP = [DEEP]
CONTENT = {
    "no container": {"None": None, "number": 3, "text": "x" * 10**6},
    "list": {
        "no list": [],
        "three": [IMAGES, LABELS, LABELS],
        "deep": DEEP,
        "tensor of text": [torch.tensor([1, 2]), "x"],
    },
    "keys": {
        "many keys": dict.fromkeys(range(1000)),
        "keys of tuples": {("a",): 1, None: 2},
    },
    "data": {
        "data of None": {"data": None},
        "data of text": {"data": "x"},
        "data of nothing": {"data": []},
        "data of numbers": {"data": [1, 2]},
        "data of singles": {"data": [[IMAGES]]},
        "data of dicts": {"data": {"images": IMAGES, "labels": LABELS}},
    },
}
PAYLOADS = flat(CONTENT)
CONTENTS = [
    *pairs(singly(["auto", *FORMATS]), CONTENT),
    *((format, name) for format in ("dc", "predd") for name in CONTENT["data"]),
]


@each(("format", "content"), dict.fromkeys(CONTENTS))
def test_contents_of_another_kind(tmp_path, format, content):
    path = tmp_path / "images_x.pt"
    torch.save(PAYLOADS[content], path)
    call = {"source": path, "format": format, "dataset": "cifar10"}
    refused(tmp_path, "images_x.pt", lambda: load_distilled(**call))


# --- Bytes --------------------------------------------------------------------------

NOISE = np.random.default_rng(0).bytes(5000)


def legacy(content):
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=False)
    return stream.getvalue()


class Attack:
    """Leave a mark when a pickle that holds it is run."""

    def __reduce__(self):
        return os.system, ("touch executed",)


BYTES = {
    "empty": lambda whole: b"",
    "one byte": lambda whole: whole[:1],
    "truncated": lambda whole: whole[: len(whole) // 2],
    "nearly whole": lambda whole: whole[:-30],
    "zeros": lambda whole: bytes(2000),
    "noise": lambda whole: NOISE,
    "flipped": lambda whole: whole[:15] + bytes(b ^ 255 for b in whole[15:]),
    "headless": lambda whole: whole[9:],
    "text": lambda whole: b"hello",
    "not UTF-8": lambda whole: b"\xff\xfe" * 200,
    "LFS": lambda whole: b"version https://git-lfs.github.com/spec/v1\noid sha256:0",
    "HTML": lambda whole: b"<!doctype html><html>404 Not Found</html>",
    "PK": lambda whole: b"PK\x03\x04" + NOISE,
    "pickle": lambda whole: pickle.dumps({"a": 1}, protocol=4),
    "code": lambda whole: pickle.dumps(Attack(), protocol=2),
    "code 4": lambda whole: pickle.dumps(Attack(), protocol=4),
    "deep": lambda whole: b"[" * 100_000,
    "gzip": lambda whole: gzip.compress(NOISE),
}


def idx(array):
    header = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return gzip.compress(header + array.astype(np.uint8).tobytes())


def png(mode="RGB", size=(8, 8), **options):
    stream = io.BytesIO()
    Image.new(mode, size).save(stream, "PNG", **options)
    return stream.getvalue()


def packed(**changes):
    """Return a CIFAR-10 of two JPEG files per class and part, with changes."""
    stream = io.BytesIO()
    Image.new("RGB", (32, 32)).save(stream, "JPEG")
    file = np.frombuffer(stream.getvalue(), np.uint8)
    arrays = {}
    for part in ("train", "test"):
        arrays[f"{part}_blob"] = np.tile(file, 20)
        arrays[f"{part}_offs"] = np.arange(21) * len(file)
        arrays[f"{part}_y"] = np.arange(20) // 2
    stream = io.BytesIO()
    np.savez(stream, **{k: v for k, v in (arrays | changes).items() if v is not None})
    return stream.getvalue()


@pytest.fixture(scope="module")
def good(tmp_path_factory, tiny_prior_folder):
    """Write one undamaged file or folder for each loader; return loader by name."""
    root = tmp_path_factory.mktemp("good")
    loaders = {}
    for format in ("dc", "mtt"):
        (root / format).mkdir()
        save_format(root / format, format)
        loaders[format, "images_x.pt"] = format
    loaders["mtt", "labels_x.pt"] = "mtt"
    (root / "own").mkdir()
    DistilledSet(IMAGES, LABELS, CIFAR10_CLASSES).save(root / "own/a.safetensors")
    (root / "folder/000_a").mkdir(parents=True)
    (root / "folder/000_a/0.png").write_bytes(png())
    (root / "folder/labels.csv").write_text("file,label,class_name\n000_a/0.png,0,a\n")
    (root / "real/test/a").mkdir(parents=True)
    (root / "real/test/a/0.png").write_bytes(png())
    (root / "garments").mkdir()
    pictures, labels = np.zeros((30, 28, 28)), np.arange(30) % 10
    (root / "garments/train-images-idx3-ubyte.gz").write_bytes(idx(pictures))
    (root / "garments/train-labels-idx1-ubyte.gz").write_bytes(idx(labels))
    (root / "cifar").mkdir()
    (root / "cifar/cifar10_jpeg.npz").write_bytes(packed())
    shutil.copytree(tiny_prior_folder, root / "prior")
    return root


CALLS = {
    "dc": lambda root: load_distilled(root / "images_x.pt", dataset="cifar10"),
    "mtt": lambda root: load_distilled(
        root / "images_x.pt", format="mtt", dataset="cifar10", zca=False
    ),
    "own": lambda root: load_distilled(root / "a.safetensors"),
    "folder": lambda root: load_distilled(root),
    "real": lambda root: load_dataset(str(root), "test"),
    "garments": lambda root: load_dataset("fashion-mnist", "train", root=root),
    "cifar": lambda root: load_dataset("cifar10", "train", root=root),
    "prior": lambda root: load_prior(root, device="cpu"),
}
WEIGHTS = "diffusion_pytorch_model.safetensors"
FILES = {  # kind -> file of that kind -> the loader that reads it
    "tensors": {
        "dc/images_x.pt": "dc",
        "mtt/images_x.pt": "mtt",
        "mtt/labels_x.pt": "mtt",
    },
    "our own": {"own/a.safetensors": "own"},
    "picture": {"folder/000_a/0.png": "folder", "real/test/a/0.png": "real"},
    "packed garments": {
        "garments/train-images-idx3-ubyte.gz": "garments",
        "garments/train-labels-idx1-ubyte.gz": "garments",
    },
    "packed photographs": {"cifar/cifar10_jpeg.npz": "cifar"},
    "JSON": {
        "prior/model_index.json": "prior",
        "prior/diver_lite.json": "prior",
        "prior/scheduler/scheduler_config.json": "prior",
        "prior/transformer/config.json": "prior",
        "prior/vae/config.json": "prior",
    },
    "weights": {
        f"prior/transformer/{WEIGHTS}": "prior",
        f"prior/vae/{WEIGHTS}": "prior",
    },
}
LOADERS = flat(FILES) | {"folder/labels.csv": "folder"}


@pytest.mark.filterwarnings("ignore::UserWarning")
@each("loader", CALLS)
def test_the_good_files_are_read(good, loader):
    CALLS[loader](good / loader)


@pytest.fixture
def copy(good, tmp_path, monkeypatch):
    """Return a function that copies what a loader reads, to be damaged.

    Each time into another folder, which holds nothing else.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(real, "_DEBIAN", tmp_path / "nowhere")
    folders = (tmp_path / f"copy {number}" for number in itertools.count())
    return lambda loader: Path(shutil.copytree(good / loader, next(folders) / loader))


@each(("file", "damage"), pairs(FILES, singly(BYTES)))
def test_damaged_bytes(copy, file, damage):
    loader = LOADERS[file]
    root = copy(loader)
    path = root.parent / file
    whole = path.read_bytes()
    damaged = BYTES[damage](whole)
    path.write_bytes(damaged)
    named = path.name if path.suffix != ".safetensors" or loader == "own" else "prior"
    refused(root.parent, named, lambda: CALLS[loader](root))
    assert not Path("executed").exists()


def pipe(path):
    os.mkfifo(path)


def loop(path):
    path.symlink_to(path)


OBSTACLES = {"pipe": pipe, "loop": loop, "folder": Path.mkdir}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes here")
@each(
    ("file", "obstacle"),
    pairs(FILES | {"table": ["folder/labels.csv"]}, singly(OBSTACLES)),
)
def test_what_is_no_regular_file(copy, file, obstacle):
    """A pipe would be waited for."""
    loader = LOADERS[file]
    root = copy(loader)
    path = root.parent / file
    path.unlink()
    OBSTACLES[obstacle](path)
    refused(root.parent, root.name, lambda: CALLS[loader](root))


@pytest.fixture
def nobody(good):
    """Give a copy of the good files that belongs to nobody in particular, and be so."""
    root = Path(tempfile.mkdtemp())
    shutil.copytree(good, root / "good")
    root.chmod(0o755)
    effective = os.geteuid() if hasattr(os, "geteuid") else None
    if effective == 0:
        os.seteuid(65534)
    yield root / "good"
    if effective == 0:
        os.seteuid(0)
    for path in [root, *root.rglob("*")]:
        path.chmod(0o755)
    shutil.rmtree(root)


def lock(path, locked):
    """Change what only the owner may change."""
    user = os.geteuid()
    if os.getuid() == 0:
        os.seteuid(0)
    path.chmod(0 if locked else 0o755)
    if os.getuid() == 0:
        os.seteuid(user)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no such permissions here")
@each(
    "place", [*LOADERS, "dc", "mtt", "own", "folder", "folder/000_a",
              "real", "real/test", "real/test/a", "garments", "cifar", "prior",
              "prior/vae", "prior/transformer", "prior/scheduler"],
)  # fmt: skip
def test_what_may_not_be_read(nobody, place):
    """PermissionError, wherever it comes from, is a line."""
    loader = place.partition("/")[0]
    lock(nobody / place, True)
    try:
        with pytest.raises(InputError) as caught:
            CALLS[loader](nobody / loader)
    finally:
        lock(nobody / place, False)
    assert "\n" not in str(caught.value)
    assert str(nobody.parent) in str(caught.value)


@each("length", [240, 250, 256, 5000])
@each("loader", CALLS)
def test_names_that_are_too_long(tmp_path, loader, length):
    """Of the file itself, or of one that is looked for beside it."""
    name = "images_" + "x" * (length - 10) + ".pt"
    if length < 256:
        torch.save(IMAGES, tmp_path / name)
    calls = {
        "dc": lambda: load_distilled(tmp_path / name, format="dc"),
        "mtt": lambda: load_distilled(
            tmp_path / name, format="mtt", dataset="cifar10", zca=True
        ),
        "own": lambda: load_distilled(str(tmp_path / name), format="diver-lite"),
        "folder": lambda: load_distilled(tmp_path / name, format="image-folder"),
        "real": lambda: load_dataset(str(tmp_path / name), "test"),
        "garments": lambda: load_dataset("fashion-mnist", "train", root=name),
        "cifar": lambda: load_dataset("cifar10", "train", root=str(tmp_path / name)),
        "prior": lambda: load_prior(str(tmp_path / name), device="cpu"),
    }
    with pytest.raises(InputError) as caught:
        calls[loader]()
    assert "\n" not in str(caught.value)


def test_a_large_file_of_junk(tmp_path):
    """3 GB that nobody wrote: a look at its beginning is enough."""
    path = tmp_path / "images_x.pt"
    for start in (b"", b"\x80\x04", b"PK\x03\x04", b"\x80\x02]q\x00"):
        with path.open("wb") as stream:
            stream.write(start)
            stream.truncate(3 * 10**9)
        refused(tmp_path, "images_x.pt", lambda: load_distilled(path))


def test_a_legacy_file_that_claims_to_be_large(tmp_path):
    """The number of bytes in an old file's header isn't what it holds."""
    content = legacy([torch.zeros(1000), LABELS])
    assert content.count(struct.pack("<q", 1000)) == 1
    path = tmp_path / "images_x.pt"
    for count in (10**6, 10**10, 10**15):
        path.write_bytes(
            content.replace(struct.pack("<q", 1000), struct.pack("<q", count))
        )
        refused(tmp_path, "images_x.pt", lambda: load_distilled(path))


# --- JSON: our own files, and priors ------------------------------------------------

JSON_VALUES = {
    "None": None,
    "text": "1",
    "number": 5,
    "float": 1.5,
    "huge": 10**30,
    "true": True,
    "list": [1],
    "lists": [["a"]],
    "dict": {"a": 1},
    "empty text": "",
    "nothing": [],
    "nan": float("nan"),
}
# what is right, or harmless
RIGHT = {
    ("format_version", "true"), ("class_names", "list"), ("class_names", "lists"),
    ("provenance", "dict"), ("id2label", "None"), ("id2label", "dict"),
    ("id2label", "empty text"), ("id2label", "nothing"), ("name", "text"),
    ("name", "empty text"), ("num_train_timesteps", "number"),
    ("num_attention_heads", "true"),
}  # fmt: skip


@each(
    ("field", "value"),
    pairs(
        singly(["format_version", "class_names", "provenance"]),
        singly(JSON_VALUES),
        RIGHT,
    ),
)
def test_metadata_of_our_own_files(tmp_path, field, value):
    header = {"format_version": 1, "class_names": ["a"], "provenance": {}}
    text = json.dumps(header | {field: JSON_VALUES[value]})
    tensors = {"images": torch.rand(2, 3, 4, 4), "labels": torch.tensor([0, 0])}
    path = tmp_path / "a.safetensors"
    save_file(tensors, path, {"diver_lite": text})
    refused(tmp_path, "a.safetensors", lambda: load_distilled(path))
    refused(tmp_path, "a.safetensors", lambda: DistilledSet.load(path))


@each(
    "text", ["", "{", "[]", "null", "5", '"x"', "[" * 10**5, '{"a":' * 10**5, "\0"],
)  # fmt: skip
def test_headers_that_are_none(tmp_path, text):
    tensors = {"images": torch.rand(2, 3, 4, 4), "labels": torch.tensor([0, 0])}
    path = tmp_path / "a.safetensors"
    save_file(tensors, path, {"diver_lite": text})
    refused(tmp_path, "a.safetensors", lambda: load_distilled(path))


STORABLE = ("float8", "int8", "int32", "int64", "uint8", "uint16", "bool", "complex",
            "scalar", "flat", "no batch", "five", "none", "no rows", "two channels",
            "four channels", "nan", "inf")  # fmt: skip
STORABLE_LABELS = ("uint16", "uint32", "uint64", "bool", "complex", "scalar", "floats",
                   "nan", "none", "too few", "too many", "matrix", "cube", "negative",
                   "3e7", "1e9", "1e18")  # fmt: skip


@each("damage", STORABLE)
def test_images_in_our_own_files(tmp_path, damage):
    header = {"format_version": 1, "class_names": [*"abcdefghij"], "provenance": {}}
    path = tmp_path / "a.safetensors"
    tensors = {"images": BAD_IMAGES[damage]().contiguous(), "labels": LABELS}
    save_file(tensors, path, {"diver_lite": json.dumps(header)})
    refused(tmp_path, "a.safetensors", lambda: load_distilled(path))


@each("damage", STORABLE_LABELS)
def test_labels_in_our_own_files(tmp_path, damage):
    header = {"format_version": 1, "class_names": [*"abcdefghij"], "provenance": {}}
    path = tmp_path / "a.safetensors"
    tensors = {"images": IMAGES, "labels": BAD_LABELS[damage]().contiguous()}
    save_file(tensors, path, {"diver_lite": json.dumps(header)})
    refused(tmp_path, "a.safetensors", lambda: load_distilled(path))


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


PLACES = {
    "id2label": "model_index.json",
    "name": "diver_lite.json",
    "image_fit": "diver_lite.json",
    "beta_start": "scheduler/scheduler_config.json",
    "num_train_timesteps": "scheduler/scheduler_config.json",
    "beta_schedule": "scheduler/scheduler_config.json",
    "_class_name": "vae/config.json",
    "num_layers": "transformer/config.json",
    "sample_size": "transformer/config.json",
    "num_attention_heads": "transformer/config.json",
    "num_embeds_ada_norm": "transformer/config.json",
    "block_out_channels": "vae/config.json",
    "latent_channels": "vae/config.json",
}


EXPECTED = {
    "mapping": ["id2label"],
    "text": ["name", "image_fit", "beta_schedule", "_class_name"],
    "number": ["beta_start"],
    "count of the schedule": ["num_train_timesteps"],
    "count of layers": ["num_layers", "num_attention_heads", "num_embeds_ada_norm"],
    "size": ["sample_size", "latent_channels"],
    "list": ["block_out_channels"],
}


@each(("field", "value"), pairs(EXPECTED, singly(JSON_VALUES), RIGHT))
def test_configs_of_priors(copy, field, value):
    root = copy("prior")
    edit(root / PLACES[field], **{field: JSON_VALUES[value]})
    refused(root.parent, "prior", lambda: load_prior(root, device="cpu"))


@each(
    ("file", "changes"),
    [
        ("transformer", {"num_layers": 10**7}),
        ("transformer", {"num_layers": 5000}),
        ("transformer", {"sample_size": 10**7}),
        ("transformer", {"sample_size": 10**5}),
        ("transformer", {"num_attention_heads": 10**5, "attention_head_dim": 10**5}),
        ("transformer", {"num_attention_heads": 10**4, "sample_size": 2048}),
        ("transformer", {"num_embeds_ada_norm": 10**9}),
        ("transformer", {"in_channels": 10**9}),
        ("vae", {"layers_per_block": 10**7}),
        ("vae", {"block_out_channels": [16] * 10**5}),
        ("vae", {"block_out_channels": [10**9]}),
        ("vae", {"down_block_types": ["DownEncoderBlock2D"] * 10**5}),
        ("scheduler", {"num_train_timesteps": 10**8}),
        ("scheduler", {"num_train_timesteps": 10**10}),
        ("scheduler", {"num_train_timesteps": 10**30}),
        ("scheduler", {"trained_betas": [0.1] * 10**6}),
    ],
)
def test_priors_that_ask_for_everything(copy, file, changes):
    root = copy("prior")
    name = "scheduler_config.json" if file == "scheduler" else "config.json"
    edit(root / file / name, **changes)
    refused(root.parent, "prior", lambda: load_prior(root, device="cpu"))


def test_large_json(copy):
    root = copy("prior")
    with (root / "model_index.json").open("wb") as stream:
        stream.truncate(3 * 10**9)
    refused(root.parent, "model_index.json", lambda: load_prior(root, device="cpu"))


# --- Code in a prior's folder -------------------------------------------------------

EVIL = """
import os
os.system("touch executed")
from diffusers import *
"""


@each(
    "named",
    [
        ["diffusers", "DiffusionPipeline"],
        ["diffusers", "AutoPipelineForText2Image"],
        ["transformers", "AutoModel"],
        ["os", "system"],
        ["evil", "Scheduler"],
        ["diffusers_modules.local.evil", "Scheduler"],
        "someone/on-a-hub",
        5,
    ],
)
@each("part", ["scheduler", "transformer"])
def test_no_code_of_a_prior_runs(copy, monkeypatch, part, named):
    """Whatever its index and its parts name, and whatever lies in them."""
    root = copy("prior")
    edit(root / "model_index.json", **{part: named})
    for place in (root, root / "scheduler", root / "transformer", root / "vae"):
        for file in ("evil.py", "pipeline.py", "scheduler.py", "__init__.py"):
            (place / file).write_text(EVIL)
        index = {"_class_name": ["evil", "Pipeline"], "scheduler": ["evil", "Evil"]}
        if place != root:
            (place / "model_index.json").write_text(json.dumps(index))
    (root / "scheduler/scheduler.bin").write_bytes(pickle.dumps(Attack()))
    config = root / "scheduler/scheduler_config.json"
    edit(config, _class_name=named, auto_map={"AutoModel": "evil.Evil"})
    run = []
    with monkeypatch.context() as patch:
        patch.setattr(os, "system", lambda *a: run.append(a))
        patch.setattr(
            diffusers.DiffusionPipeline,
            "from_pretrained",
            lambda *a, **k: run.append(a),
        )
        prior = load_prior(root, device="cpu")
    assert type(prior.scheduler) is diffusers.DDIMScheduler
    assert not run and not Path("executed").exists()
    assert "evil" not in sys.modules


@each("part", ["transformer", "vae"])
@each(
    "content",
    [
        {"_class_name": ["evil", "Model"]},
        {"_class_name": "DiffusionPipeline"},
        {"_class_name": {"a": 1}},
        {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}},
        {"quantization_config": {"quant_method": "torchao", "quant_type": "evil"}},
        {"quantization_config": 5},
    ],
)
def test_parts_that_name_another_class(copy, part, content):
    """Nor do they bring a library in by a quantisation that they claim."""
    root = copy("prior")
    (root / part / "evil.py").write_text(EVIL)
    edit(root / part / "config.json", **content)
    refused(root.parent, "prior", lambda: load_prior(root, device="cpu"))
    assert not Path("executed").exists()


@each("part", ["transformer", "vae"])
@each("protocol", [2, 4, "torch"])
def test_pickled_weights(copy, part, protocol):
    """Nothing runs, and PyTorch's advice to run it isn't passed on."""
    root = copy("prior")
    (root / part / WEIGHTS).unlink()
    path = root / part / "diffusion_pytorch_model.bin"
    if protocol == "torch":
        torch.save({"weight": Attack()}, path)
    else:
        path.write_bytes(pickle.dumps({"weight": Attack()}, protocol))
    refused(root.parent, "prior", lambda: load_prior(root, device="cpu"))
    assert not Path("executed").exists()


@each(
    "file",
    [
        "evil.py",
        "transformer/diffusion_pytorch_model.safetensors.index.json",
        "vae/diffusion_pytorch_model.bin",
        "vae/deep/er/x.safetensors",
    ],
)
def test_files_beside_a_prior_that_ships(copy, tmp_path, monkeypatch, file):
    """They would be read, and no sum is known of them."""
    root = tmp_path / "assets"
    copy("prior").rename(root.parent / "unused")
    shutil.copytree(root.parent / "unused", root / "priors/ours")
    files = sorted(p for p in root.rglob("*") if p.is_file())
    lines = [f"{assets.sha256(p)}  {p.relative_to(root).as_posix()}\n" for p in files]
    (root / "SHA256SUMS").write_text("".join(lines))
    monkeypatch.setattr(assets, "ROOT", root)
    load_prior("ours", device="cpu")
    (root / "priors/ours" / file).parent.mkdir(parents=True, exist_ok=True)
    (root / "priors/ours" / file).write_text("{}")
    refused(tmp_path, Path(file).name, lambda: load_prior("ours", device="cpu"))


# --- Class maps and names -----------------------------------------------------------


@each(
    "table",
    [[10**30] * 10, [10**9] * 10, [-1] * 10, ["1"] * 10, [1.0] * 10, [[0]] * 10, [0],
     [None] * 10, range(10**6), "0123456789", 5, {1: 2}, torch.zeros(10),
     torch.zeros(10, device="meta").long(), torch.arange(10).to_sparse()],
)  # fmt: skip
def test_class_maps(tmp_path, tiny_prior, table):
    distilled = DistilledSet(IMAGES, LABELS, CIFAR10_CLASSES)
    refused(tmp_path, "class_map", lambda: prior_classes(distilled, tiny_prior, table))


@each("name", ["", " ", "x" * 10**6, "cifar10\n", "\0"])
def test_names_of_data(tmp_path, name):
    """An empty name isn't none."""
    distilled = DistilledSet(IMAGES, LABELS, CIFAR10_CLASSES)
    path = distilled.save(tmp_path / "a.safetensors")
    refused(tmp_path, "dataset", lambda: load_distilled(path, dataset=name))
    refused(tmp_path, "subset", lambda: as_subset(distilled, name))
    (tmp_path / "test").mkdir()
    refused(
        tmp_path, "subset", lambda: load_dataset(str(tmp_path), "test", subset=name)
    )


# --- Pictures -----------------------------------------------------------------------


def chunk(kind, content):
    crc = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)


def raw_png(width, height, depth, colour, rows):
    """Return a PNG file with the given header and rows of bytes."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


def animated(format):
    stream = io.BytesIO()
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]
    frames[0].save(stream, format, save_all=True, append_images=frames[1:])
    return stream.getvalue()


def deep_tiff():
    """Return 8 x 8 pixels of 3 x 16 bits, which Pillow can't write."""
    facts = {
        256: 8,
        257: 8,
        258: 16,
        259: 1,
        262: 2,
        273: 200,
        277: 3,
        278: 8,
        279: 384,
    }
    entries = [struct.pack("<HHII", tag, 3, 1, value) for tag, value in facts.items()]
    entries[2] = struct.pack("<HHII", 258, 3, 3, 180)  # where the three depths stand
    start = (
        b"II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(entries) + bytes(4)
    )
    return start.ljust(180, b"\0") + struct.pack("<3H", 16, 16, 16) + bytes(14 + 384)


def saved(format, mode, value=7):
    stream = io.BytesIO()
    Image.new(mode, (8, 8), value).save(stream, format)
    return stream.getvalue()


PICTURES = {
    "animated.png": lambda: animated("PNG"),
    "animated.gif": lambda: animated("GIF"),
    "animated.webp": lambda: animated("WEBP"),
    "pages.tiff": lambda: animated("TIFF"),
    "huge.png": lambda: raw_png(10**5, 10**5, 8, 2, b""),
    "large.png": lambda: raw_png(12_000, 12_000, 1, 0, bytes(12_000 * 1501)),
    "short.png": lambda: raw_png(8, 8, 8, 2, b"\0" * 9),
    "nothing.png": lambda: raw_png(0, 0, 8, 2, b""),
    "depth.png": lambda: raw_png(8, 8, 3, 2, b"\0" * 200),
    "script.png": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n(x) run\n",
    "script.jpg": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n(x) run\n",
    "float.tiff": lambda: saved("TIFF", "F", 0.5),
    "int.tiff": lambda: saved("TIFF", "I"),
    "16 bits.tiff": lambda: saved("TIFF", "I;16"),
    "deep.tiff": deep_tiff,
    "svg.png": lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "zip.webp": lambda: b"PK\x03\x04",
    "cut.jpg": lambda: saved("JPEG", "L")[:-40],
    "cut.gif": lambda: saved("GIF", "L")[:20],
    "cut.bmp": lambda: saved("BMP", "L")[:100],
    "cut.tif": lambda: saved("TIFF", "L")[:60],
    "cut.ppm": lambda: saved("PPM", "RGB")[:30],
}


@each(("loader", "picture"), pairs({"any": ("folder", "real")}, singly(PICTURES)))
def test_pictures(copy, loader, picture):
    """Several in one file, more bits than are kept, sizes that nobody has, scripts."""
    root = copy(loader)
    place = next(root.rglob("*.png")).parent
    (place / picture).write_bytes(PICTURES[picture]())
    refused(root.parent, picture, lambda: CALLS[loader](root))


@each("loader", ["folder", "real"])
def test_no_picture_is_a_program(copy, monkeypatch, loader):
    """Pillow hands PostScript to Ghostscript, whatever the file's name says."""
    run = []
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *a, **k: run.append(a))
    root = copy(loader)
    next(root.rglob("*.png")).write_bytes(PICTURES["script.png"]())
    refused(root.parent, "0.png", lambda: CALLS[loader](root))
    assert not run


@each("format", ["GIF", "TIFF", "PPM", "BMP", "WEBP", "JPEG", "PNG"])
@each("loader", ["folder", "real"])
def test_no_picture_is_dropped(copy, loader, format):
    """Whatever its format, one more beside a PNG is one more image."""
    root = copy(loader)
    place = next(root.rglob("*.png")).parent
    (place / f"1.{format.lower()}").write_bytes(saved(format, "L"))
    found = CALLS[loader](root)
    images = found.images if loader == "folder" else found[0]
    assert torch.allclose(images[1], torch.tensor(7 / 255), atol=0.01)


@each("colour", [0, 2, 4, 6])
@each("loader", ["folder", "real"])
def test_sixteen_bits_are_kept(copy, loader, colour):
    """Grey or colour, with or without transparency."""
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[colour]
    values = np.random.default_rng(0).integers(0, 65536, (8, 8, channels))
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    root = copy(loader)
    path = next(root.rglob("*.png"))
    path.write_bytes(raw_png(8, 8, 16, colour, rows))
    found = CALLS[loader](root)
    images = found.images if loader == "folder" else found[0]
    shown = values[..., :3] if channels > 2 else values[..., :1].repeat(3, axis=2)
    expected = torch.from_numpy(shown).permute(2, 0, 1) / 65535
    assert torch.allclose(images[0], expected.float(), atol=1e-6)


TABLES = {
    "not UTF-8": b"file,label,class_name\nx,0,\xff\xfe\n",
    "UTF-16": "file,label,class_name\nx,0,a\n".encode("utf-16"),
    "huge field": b"file,label,class_name\nx,0," + b"a" * 200_000 + b"\n",
    "huge number": b"file,label,class_name\nx," + b"9" * 10_000 + b",a\n",
}


@each("table", TABLES)
def test_tables_of_labels(copy, table):
    root = copy("folder")
    (root / "labels.csv").write_bytes(TABLES[table])
    refused(root.parent, "labels.csv", lambda: load_distilled(root))


# --- Real data ----------------------------------------------------------------------

ARRAYS = {
    "images": {
        "labels": np.zeros(30), "flat": np.zeros((30, 784)), "no images": np.zeros(0),
        "none": np.zeros((0, 28, 28)), "colour": np.zeros((30, 28, 28, 3)),
        "small": np.zeros((30, 27, 28)), "large": np.zeros((30, 32, 32)),
        "fewer": np.zeros((29, 28, 28)), "scalar": np.zeros(()),
    },
    "labels": {
        "images": np.zeros((30, 28, 28)), "matrix": np.zeros((30, 10)),
        "cube": np.zeros((30, 1, 1)), "none": np.zeros(0), "fewer": np.zeros(29),
        "more": np.zeros(31), "unknown": np.full(30, 10), "255": np.full(30, 255),
    },
}  # fmt: skip


@each(("kind", "array"), [(kind, array) for kind in ARRAYS for array in ARRAYS[kind]])
def test_arrays_of_garments(copy, kind, array):
    root = copy("garments")
    path = next(root.glob(f"*{kind}*"))
    path.write_bytes(idx(ARRAYS[kind][array]))
    refused(root.parent, "idx", lambda: CALLS["garments"](root))


def test_a_bomb_of_garments(copy):
    root = copy("garments")
    path = next(root.glob("*images*"))
    header = b"\0\0\x08\x03" + struct.pack(">3I", 2**31 - 1, 28, 28)
    path.write_bytes(gzip.compress(header) + 12 * gzip.compress(bytes(2**25)))
    refused(root.parent, "idx", lambda: CALLS["garments"](root))


def jpeg(mode="RGB", size=(32, 32), format="JPEG"):
    stream = io.BytesIO()
    Image.new(mode, size).save(stream, format)
    return np.frombuffer(stream.getvalue(), np.uint8)


def files_of(file):
    return {"train_blob": np.tile(file, 20), "train_offs": np.arange(21) * len(file)}


PACKS = {
    "grey": files_of(jpeg("L")),
    "CMYK": files_of(jpeg("CMYK")),
    "small": files_of(jpeg(size=(31, 32))),
    "large": files_of(jpeg(size=(64, 64))),
    "script": files_of(np.frombuffer(b"%!PS-Adobe-3.0 EPSF-3.0\n", np.uint8)),
    "float offsets": {"train_offs": np.arange(21) * 1.0},
    "offsets beyond": {"train_offs": np.arange(21) * 10**9},
    "negative offsets": {"train_offs": -np.arange(21)},
    "two offsets": {"train_offs": np.arange(2)},
    "no offsets": {"train_offs": np.arange(0)},
    "matrix of offsets": {"train_offs": np.zeros((21, 2), int)},
    "empty blob": {"train_blob": np.zeros(0, np.uint8)},
    "float blob": {"train_blob": np.zeros(50)},
    "text": {"train_blob": np.array("x")},
    "objects": {"train_y": np.array([{}] * 20, object)},
    "float labels": {"train_y": np.arange(20) / 2},
    "uint64 labels": {"train_y": np.arange(20).astype(np.uint64)},
    "text labels": {"train_y": np.array(["a"] * 20)},
    "fewer labels": {"train_y": np.arange(19) // 2},
    "matrix of labels": {"train_y": np.zeros((20, 2), int)},
    "labels of 100": {"train_y": np.full(20, 100)},
    "negative labels": {"train_y": np.full(20, -1)},
    "no labels": {"train_y": None},
    "no blob": {"train_blob": None},
}


@each("pack", PACKS)
def test_packed_cifar10(copy, pack):
    root = copy("cifar")
    (root / "cifar10_jpeg.npz").write_bytes(packed(**PACKS[pack]))
    refused(root.parent, "cifar10_jpeg.npz", lambda: CALLS["cifar"](root))


@each("content", [*BYTES, "missing", "another set"])
def test_official_cifar10(tmp_path, monkeypatch, content):
    """Pickles, which torchvision opens only if their sums are the official ones."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    names = ["batches.meta", "test_batch", *(f"data_batch_{i}" for i in range(1, 6))]
    batch = {b"data": np.zeros((10, 3072), np.uint8), b"labels": [100] * 10}
    whole = pickle.dumps(batch)
    for name in names if content != "missing" else ():
        (folder / name).write_bytes(BYTES.get(content, lambda whole: whole)(whole))
    for split in ("train", "test"):
        refused(
            tmp_path,
            "cifar-10-batches-py",
            lambda split=split: load_dataset("cifar10", split, root=tmp_path),
        )
    assert not Path("executed").exists()


@each("size", [0, -1, 10**10, 2.5, "8", True, float("nan")])
def test_sizes_of_images(copy, size):
    root = copy("real")
    refused(
        root.parent,
        "image_size",
        lambda: load_dataset(str(root), "test", image_size=size),
    )


# --- What a prior is given ----------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*(prototype|beta state|deprecated)")
@each("damage", BAD_IMAGES)
def test_what_is_encoded(tmp_path, tiny_prior, monkeypatch, damage):
    monkeypatch.setattr(sys.modules[__name__], "IMAGES", torch.rand(2, 3, 32, 32))
    images = BAD_IMAGES[damage]()
    refused(tmp_path, "images", lambda: tiny_prior.encode(images))


@each("timestep", [-1, 1000, 999.5, "1", None, True, 10**30])
def test_timesteps(tmp_path, tiny_prior, timestep):
    latents, labels = torch.zeros(1, *tiny_prior.latent_shape), torch.tensor([0])
    refused(
        tmp_path,
        "timestep",
        lambda: tiny_prior.predict_noise(latents, timestep, labels, 2.0),
    )


def test_what_the_user_declared_safe_stays_so(tmp_path, monkeypatch):
    """Reading a set takes nothing away from torch's list, and leaves nothing there.

    What the user declared of ours, what is the user's alone, and what another thread
    declares meanwhile.
    """
    from numpy._core.multiarray import scalar

    path, load = tmp_path / "set.pt", torch.load
    torch.save({"images": torch.rand(10, 3, 32, 32), "labels": torch.arange(10)}, path)

    def meanwhile(*arguments, **options):
        torch.serialization.add_safe_globals([Fraction])
        return load(*arguments, **options)

    monkeypatch.setattr(torch, "load", meanwhile)
    with torch.serialization.safe_globals([scalar, Decimal]):
        before = torch.serialization.get_safe_globals()
        contents.load_torch(path)
        after = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(
        [each for each in before if each not in (scalar, Decimal)]
    )
    assert {*after} == {*before, Fraction}


def test_what_the_user_declared_safe_is_not_built(tmp_path):
    """A set holds tensors; other classes are for other files."""
    path = tmp_path / "set.pt"
    torch.save({"images": torch.rand(10, 3, 8, 8), "labels": Fraction(1, 2)}, path)
    with (
        torch.serialization.safe_globals([Fraction]),
        pytest.raises(InputError, match="holds code"),
    ):
        contents.load_torch(path)
