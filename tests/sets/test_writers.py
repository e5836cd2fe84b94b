"""Sets written for other people's tools: what they find, and what comes back."""

import json
import re
from dataclasses import replace

import pytest
import torch
from published_files import CIFAR10

from diver_lite.checks import InputError
from diver_lite.sets.distilled import DistilledSet
from diver_lite.sets.load import load_distilled
from diver_lite.sets.names import class_names
from diver_lite.sets.stored import StoredImages
from diver_lite.sets.writers import PICTURES, TARGETS, as_published, convert

NAMES = class_names("cifar10")


def made(soft=False, low=-2.0, high=3.0, classes=NAMES, size=16):
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(20, 3, size, size, generator=generator) * (high - low) + low
    labels = torch.arange(10).repeat(2)  # not class-major
    logits = torch.randn(20, 10, generator=generator) if soft else None
    record = {"dataset": "cifar10", "lr": 0.02}
    return DistilledSet(images, labels, classes, logits, record)


def path_for(folder, to):
    return folder / f"written{TARGETS[to][1]}"


def back(path, to):
    options = {"dataset": "cifar10"}
    if to in ("mtt", "dd-ranking"):
        options["zca"] = False
    return load_distilled(path, format="mtt" if to == "mtt" else "auto", **options)


def class_major_of(distilled):
    return distilled[distilled.labels.argsort(stable=True)]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("to", ["dc", "mtt", "dd-ranking"])
def test_tensors_come_back(tmp_path, to):
    distilled = made(soft=to == "dd-ranking")
    assert convert(distilled, path_for(tmp_path, to), to) == []
    found, expected = back(path_for(tmp_path, to), to), class_major_of(distilled)
    assert (found.images - expected.images).abs().max() < 1e-6
    assert found.class_names == NAMES
    if to == "dd-ranking":
        assert torch.equal(found.soft_labels, expected.soft_labels)
        assert found.provenance["lr"] == pytest.approx(0.02)
    else:
        assert torch.equal(found.labels, torch.arange(10).repeat_interleave(2))


@pytest.mark.parametrize("to", ["folder", "hf"])
def test_pictures_come_back_in_8_bits(tmp_path, to):
    distilled = made(low=0.0, high=1.0, soft=to == "hf")
    distilled.images.mul_(255).round_().div_(255)
    assert convert(distilled, path_for(tmp_path, to), to) == []
    found, expected = back(path_for(tmp_path, to), to), class_major_of(distilled)
    assert (found.images - expected.images).abs().max() < 1e-6
    assert torch.equal(found.labels, expected.labels)
    assert found.class_names == NAMES
    if to == "hf":
        assert torch.equal(found.soft_labels, expected.soft_labels)
        assert found.provenance["soft_labels"] == "logits"


def test_what_each_tool_finds(tmp_path):
    """Keys, names, types and constants are those of the tools' own loaders."""
    distilled = class_major_of(made())
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in CIFAR10)
    normalised = (distilled.images - mean) / std
    convert(distilled, tmp_path / "x.pt", "dc")
    data = torch.load(tmp_path / "x.pt", weights_only=True)
    assert {*data} == {"data", "accs_all_exps"}
    assert data["data"][0][0].allclose(normalised)
    assert data["data"][0][1].dtype == torch.int64
    convert(distilled, tmp_path / "m", "mtt")
    convert(distilled, tmp_path / "d", "dd-ranking")
    for file in ("m/images_best.pt", "d/images.pt"):
        assert torch.load(tmp_path / file, weights_only=True).allclose(normalised)
    for file in ("m/labels_best.pt", "d/labels.pt"):
        labels = torch.load(tmp_path / file, weights_only=True)
        assert torch.equal(labels, distilled.labels)
    assert torch.load(tmp_path / "d/lr.pt", weights_only=True).shape == ()


FILES = {"images.pt", "labels.pt"}


@pytest.mark.parametrize("lr", ["abc", 1e30, True, [0.02]])
def test_a_step_size_that_is_none_is_left_out(tmp_path, lr):
    """Anybody may have written the record."""
    distilled = replace(made(), provenance={"dataset": "cifar10", "lr": lr})
    convert(distilled, tmp_path / "d", "dd-ranking")
    assert {p.name for p in (tmp_path / "d").glob("*.pt")} == FILES


def test_a_refined_set_has_no_step_size_of_its_own(tmp_path):
    """One sentence says so: whoever trains on it wonders where the file is."""
    record = {"dataset": "cifar10", "method": "DIVER", "source": made().provenance}
    refined = replace(made(), provenance=record)
    with pytest.warns(UserWarning, match=r"^no lr\.pt is written: the step size 0\.02"):
        convert(refined, tmp_path / "d", "dd-ranking")
    assert {p.name for p in (tmp_path / "d").glob("*.pt")} == FILES


def test_grey_sets_get_their_one_channel_back(tmp_path):
    names = class_names("fashion-mnist")
    grey = torch.rand(10, 1, 8, 8).expand(-1, 3, -1, -1)
    distilled = DistilledSet(grey, range(10), names, None, {"dataset": "fashion-mnist"})
    convert(distilled, tmp_path / "res_DM_FashionMNIST.pt", "dc")
    data = torch.load(tmp_path / "res_DM_FashionMNIST.pt", weights_only=True)
    assert data["data"][0][0].shape == (10, 1, 8, 8)
    found = load_distilled(tmp_path / "res_DM_FashionMNIST.pt")
    assert (found.images - grey).abs().max() < 1e-6
    with pytest.raises(InputError, match=r"'fashion-mnist': no mean and std"):
        convert(distilled, tmp_path / "m", "mtt")


def test_classes_stand_in_the_data_sets_own_order(tmp_path):
    """A tool that stores numbers takes them for the data set's."""
    distilled = made(classes=tuple(reversed(NAMES)))
    convert(distilled, tmp_path / "m", "mtt")
    labels = torch.load(tmp_path / "m/labels_best.pt", weights_only=True)
    images = torch.load(tmp_path / "m/images_best.pt", weights_only=True)
    assert torch.equal(labels, torch.arange(10).repeat_interleave(2))
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in CIFAR10)
    trucks = distilled.images[distilled.labels == 0]  # its names are reversed
    assert (images[-2:] * std + mean).allclose(trucks, atol=1e-6)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("to", "changes", "words"),
    [
        ("dc", {"soft": True}, "the soft labels"),
        ("mtt", {"soft": True}, "the soft labels"),
        ("folder", {"soft": True, "low": 0.0, "high": 1.0}, "the soft labels"),
        ("folder", {}, r"outside \[0, 1\] \(values -2..3\)"),
        ("hf", {"low": 0.0, "high": 1.1}, r"outside \[0, 1\]"),
    ],
)
def test_losses_are_refused_unless_asked_for(tmp_path, to, changes, words):
    path = path_for(tmp_path, to)
    with pytest.raises(InputError, match=rf"would lose .*{words}.*--lossy"):
        convert(made(**changes), path, to)
    assert not [*tmp_path.iterdir()]
    (lost,) = convert(made(**changes), path, to, lossy=True)
    assert re.search(words, lost)
    assert len(back(path, to)) == 20


def test_what_cannot_be_written(tmp_path):
    nameless = replace(made(), provenance={}, class_names=tuple("abcdefghij"))
    with pytest.raises(InputError, match=r"doesn't say which data set.*--dataset"):
        convert(nameless, tmp_path / "m", "mtt")
    strange = replace(made(), class_names=("a", *NAMES[1:]))
    with pytest.raises(InputError, match="'a' of the set is not among those of data"):
        convert(strange, tmp_path / "m", "mtt")
    for path, to in (("m.pt", "mtt"), ("m", "dc"), ("m.x", "hf")):
        with pytest.raises(
            InputError, match=f"format '{to}' is a f.*; expected the ending"
        ):
            convert(made(), tmp_path / path, to)
    with pytest.raises(InputError, match="to is 'kip'; expected one of"):
        convert(made(), tmp_path / "m", "kip")
    assert not [*tmp_path.iterdir()]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_numbered_classes_get_the_data_sets_names(tmp_path):
    numbered = tuple(f"class {i}" for i in range(10))
    convert(made(classes=numbered), tmp_path / "m", "mtt")
    assert back(tmp_path / "m", "mtt").class_names == NAMES


@pytest.mark.parametrize("soft", [False, True])
def test_hugging_faces_own_loader_opens_it(tmp_path, soft, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    datasets = pytest.importorskip("datasets")
    distilled = made(low=0.0, high=1.0, soft=soft)
    convert(distilled, tmp_path / "set", "hf")
    rows = datasets.load_dataset(
        str(tmp_path / "set"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert rows.features["label"].names == [*NAMES]
    assert sorted(rows["label"]) == sorted(distilled.labels.tolist())
    first = rows[0]
    match = distilled.images[distilled.labels == first["label"]]
    found = torch.tensor(list(first["image"].tobytes())).view(16, 16, 3) / 255
    assert (match - found.permute(2, 0, 1)).abs().amax((1, 2, 3)).min() < 0.003
    assert ("soft_labels" in rows.features) == soft


def test_the_card_says_where_it_comes_from(tmp_path):
    convert(made(low=0.0, high=1.0), tmp_path / "set", "hf")
    card = (tmp_path / "set/README.md").read_text()
    _, head, text = card.split("---\n", 2)
    names = json.loads(head)["configs"][0]["features"][1]["dtype"]["class_label"][
        "names"
    ]
    assert [*names.values()] == [*NAMES]
    assert '"dataset": "cifar10"' in text


def test_damaged_soft_labels_of_pictures(tmp_path):
    convert(made(low=0.0, high=1.0, soft=True), tmp_path / "set", "hf")
    table = tmp_path / "set/train/metadata.jsonl"
    lines = table.read_text().splitlines()
    table.write_text("\n".join(lines[1:]))
    with pytest.raises(InputError, match=r"metadata\.jsonl: picture .* no soft labels"):
        load_distilled(tmp_path / "set")
    table.write_text(lines[0][:30])
    with pytest.raises(InputError, match=r"metadata\.jsonl can't be read"):
        load_distilled(tmp_path / "set")


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("to", [*TARGETS])
def test_pixels_that_stay_in_their_files_are_read_in_parts(tmp_path, to):
    """As of a set in memory, but never more than a hundred images at once."""
    distilled = made(low=0.0, high=1.0, size=8)
    many = DistilledSet(
        distilled.images.repeat(15, 1, 1, 1),
        distilled.labels.repeat(15),
        NAMES,
        None,
        distilled.provenance,
    )
    asked = []

    def read(rows):
        asked.append(len(rows))
        return many.images[rows]

    large = replace(many, images=StoredImages(many.images.shape, read))
    as_published(large, to)
    assert asked == []  # whether it can be written at all
    convert(large, path_for(tmp_path, to), to)
    assert max(asked) <= 100
    once = {"folder": 2, "hf": 3}  # for their range, and for the name of their rows
    assert sum(asked) == 300 * once.get(to, 1)
    found = back(path_for(tmp_path, to), to)
    expected = class_major_of(many)
    assert torch.equal(found.labels, expected.labels)
    tolerance = 0.003 if to in PICTURES else 1e-6
    assert (found.images - expected.images).abs().max() < tolerance


def test_new_rows_in_an_old_folder_are_served(tmp_path, monkeypatch):
    """Hugging Face's loader keeps a copy of the rows, by the names of the card."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    datasets = pytest.importorskip("datasets")
    distilled = made(low=0.0, high=1.0)
    darker = replace(distilled, images=distilled.images / 2)
    renamed = replace(distilled, class_names=NAMES[::-1])
    seen = []
    for each in (distilled[:10], distilled, darker, renamed):
        convert(each, tmp_path / "set", "hf", overwrite=True)
        rows = datasets.load_dataset(
            str(tmp_path / "set"), split="train", cache_dir=str(tmp_path / "cache")
        )
        first = rows.features["label"].names[0]
        seen.append(
            (len(rows), max(max(row.tobytes()) for row in rows["image"]), first)
        )
    assert [count for count, *_ in seen] == [10, 20, 20, 20]
    assert seen[1][1] > 250 and seen[2][1] < 130
    assert seen[3][2] == NAMES[-1]


def test_the_card_names_classes_in_any_script(tmp_path):
    yaml = pytest.importorskip("yaml")
    names = ("\U0001f602 laughing", "山", "a\nb", "\x1b[31mred", "\x7f", "\u2028", "é")
    images = torch.rand(len(names), 3, 8, 8)
    convert(DistilledSet(images, range(len(names)), names), tmp_path / "set", "hf")
    _, head, _ = (tmp_path / "set/README.md").read_text("utf-8").split("---\n", 2)
    label = yaml.safe_load(head)["configs"][0]["features"][1]["dtype"]["class_label"]
    assert tuple(label["names"].values()) == names
