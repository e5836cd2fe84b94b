"""Soft labels from a teacher, and the protocol that learns from them."""

from dataclasses import replace

import pytest
import torch
from torchvision.models import resnet18
from toy_sets import score, toy, toy_set

from diver_lite.checks import InputError
from diver_lite.judge.protocols import PROTOCOLS
from diver_lite.judge.relabel import load_teacher, relabel, teacher_classes
from diver_lite.sets.distilled import DistilledSet
from diver_lite.sets.names import class_names, imagenet_indices


class Brightness(torch.nn.Module):
    """A teacher that tells dark from bright and red, from normalised pixels."""

    def __init__(self, outputs=3):
        super().__init__()
        self.outputs, self.seen = outputs, []

    def forward(self, x):
        self.seen.append(x)
        mean, std = PROTOCOLS["imagenet"].statistics
        x = x * torch.tensor(std).view(3, 1, 1) + torch.tensor(mean).view(3, 1, 1)
        red, green = x[:, 0].mean((1, 2)), x[:, 1].mean((1, 2))
        logits = torch.stack([1 - red - green, green, red - green - 0.1], dim=1) * 8
        return torch.cat([logits, logits.new_zeros(len(x), self.outputs - 3)], dim=1)


def test_logits_become_soft_labels():
    distilled, teacher = toy_set(count=3), Brightness()
    soft = relabel(distilled, teacher, size=48, batch_size=4, device="cpu")
    assert [tuple(x.shape) for x in teacher.seen] == [(4, 3, 48, 48)] * 2 + [
        (1, 3, 48, 48)
    ]
    assert torch.equal(soft.soft_labels.argmax(1), distilled.labels)
    assert torch.equal(soft.labels, distilled.labels)
    assert soft.provenance["agreement"] == 1.0
    assert soft.provenance["soft_labels"] == "logits"
    one = relabel(distilled, Brightness(), size=48, batch_size=1, device="cpu")
    assert one.soft_labels.allclose(soft.soft_labels, atol=1e-5)


@pytest.mark.filterwarnings("ignore:the teacher names")
def test_outputs_of_a_larger_teacher_are_chosen():
    distilled = toy_set(count=2)
    wide = relabel(distilled, Brightness(9), classes=[2, 1, 0], size=32, device="cpu")
    plain = relabel(distilled, Brightness(), size=32, device="cpu")
    assert torch.equal(wide.soft_labels, plain.soft_labels.flip(1))


def test_a_teacher_in_another_order_is_doubted():
    with pytest.warns(UserWarning, match="names the set's own class for 0%"):
        relabel(
            toy_set(count=2), Brightness(), classes=[1, 2, 0], size=32, device="cpu"
        )


@pytest.mark.parametrize(
    ("teacher", "options", "words"),
    [
        (Brightness(5), {}, "5 outputs; the set has 3 classes"),
        (Brightness(), {"classes": [0, 1, 3]}, r"classes are 0 \.\. 3"),
        (Brightness(), {"classes": [0, 1]}, "classes is"),
        (Brightness(), {"size": 0}, "size is 0"),
        (torch.nn.Conv2d(4, 3, 1), {}, "fails on images of 32 pixels"),
        ("resnet18", {}, "teacher is of type str"),
    ],
)
def test_teachers_that_do_not_fit(teacher, options, words):
    with pytest.raises(InputError, match=words):
        relabel(toy_set(count=2), teacher, **({"size": 32, "device": "cpu"} | options))


def save_weights(path, classes=3, **more):
    state = resnet18(num_classes=classes).state_dict() | more
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, path)
    return path


def test_weights_say_how_many_classes(tmp_path):
    teacher, outputs = load_teacher("resnet18", save_weights(tmp_path / "a.pth", 7))
    assert outputs == 7
    assert teacher(torch.zeros(2, 3, 32, 32)).shape == (2, 7)


def test_weights_that_do_not_fit(tmp_path):
    path = save_weights(tmp_path / "a.pth")
    with pytest.raises(InputError, match=r"a\.pth: the weights don't fit resnet34"):
        load_teacher("resnet34", path)
    with pytest.raises(InputError, match="teacher is 'resnet'; expected one of"):
        load_teacher("resnet", path)
    with pytest.raises(InputError, match=r"b\.pth: no such file"):
        load_teacher("resnet18", tmp_path / "b.pth")
    torch.save([1, 2], tmp_path / "c.pth")
    with pytest.raises(InputError, match=r"c\.pth: expected the state dict"):
        load_teacher("resnet18", tmp_path / "c.pth")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"fc.bias": torch.zeros(1).expand(2**50)}, "don't fit resnet18"),
        (
            {
                "fc.weight": torch.zeros(1).expand(2**40, 512),
                "fc.bias": torch.zeros(1).expand(2**40),
            },
            "teacher fails on images of 32 pixels",
        ),
        ({"conv1.weight": torch.zeros(64, 3, 7, 7).to_sparse()}, "teacher fails on"),
        ({"conv1.weight": torch.zeros(64, 3, 7, 7).cfloat()}, "teacher fails on"),
        ({"fc.bias": "three"}, "don't fit resnet18"),
    ],
)
def test_weights_that_the_file_does_not_hold(tmp_path, change, words):
    """Whatever a file claims, no memory is taken for it, and a line says so."""
    torch.save(resnet18(num_classes=3).state_dict() | change, tmp_path / "a.pth")
    with pytest.raises(InputError, match=words):
        teacher, _ = load_teacher("resnet18", tmp_path / "a.pth")
        relabel(toy_set(count=2), teacher, size=32, device="cpu")


def test_no_room_is_taken_for_what_does_not_fit(tmp_path, monkeypatch):
    """A bias of millions of rows names as many classes, whose weights aren't there."""
    path = save_weights(tmp_path / "a.pth", **{"fc.bias": torch.zeros(1_000)})
    devices = []
    monkeypatch.setattr(
        torch.nn.init, "kaiming_uniform_", lambda x, **_: devices.append(x.device.type)
    )
    with pytest.raises(InputError, match=r"don't fit resnet18 .*\[1000, 512\]"):
        load_teacher("resnet18", path)
    assert {*devices} == {"meta"}


def test_classes_are_found_by_name():
    names = class_names("imagefruit")
    mixed = DistilledSet(torch.zeros(10, 3, 8, 8), range(10), names[::-1])
    order = teacher_classes(mixed, 1000, "imagefruit")
    assert order == [*imagenet_indices("imagefruit")][::-1]
    cifar = class_names("cifar10")
    record = {"dataset": "cifar10"}
    mixed = DistilledSet(torch.zeros(10, 3, 8, 8), range(10), cifar[::-1], None, record)
    assert teacher_classes(mixed, 10) == [*range(10)][::-1]
    assert teacher_classes(toy_set(), 3) is None
    with pytest.raises(InputError, match="5 outputs, the set 3 classes"):
        teacher_classes(toy_set(), 5)


def test_the_protocol_learns_them(tmp_path):
    """A network learns what a teacher says, not what the labels say."""
    distilled = toy_set(count=8)
    wrong = DistilledSet(
        distilled.images, distilled.labels.roll(8), distilled.class_names, None, {}
    )
    with pytest.warns(UserWarning, match="no more than by chance"):
        soft = relabel(wrong, Brightness(), size=32, device="cpu")
    images, labels, names = toy(seed=1)
    recipe = replace(PROTOCOLS["imagenet"], epochs=40)
    found = score("ConvNet", soft, (images, labels, names), protocol=recipe)
    assert found > 0.9


@pytest.mark.filterwarnings("ignore:the teacher names")
def test_on_the_command_line(cli, tmp_path):
    toy_set(count=2).save("set.safetensors")
    save_weights(tmp_path / "teacher.pth")
    command = ("relabel", "set.safetensors", "-o", "soft.safetensors", "--teacher")
    options = ("--weights", "teacher.pth", "--size", 32, "--device", "cpu")
    code, out, _ = cli(*command, "resnet18", *options)
    assert code == 0 and "the teacher agrees with" in out
    found = DistilledSet.load("soft.safetensors")
    assert found.soft_labels.shape == (6, 3)
    assert found.provenance["teacher"] == "resnet18"
    code, out, err = cli(*command, "resnet18", *options)
    assert code == 2 and "soft.safetensors exists already" in err
    save_weights(tmp_path / "four.pth", 4)
    options = ("--weights", "four.pth", "--overwrite")
    code, out, err = cli(*command, "resnet18", *options)
    assert code == 2 and "the teacher has 4 outputs, the set 3 classes" in err
