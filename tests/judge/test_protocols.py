"""Protocols: batches, schedules, step sizes, labels and normalisation."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torchvision import models
from toy_sets import score, toy, toy_set

from diver_lite.checks import InputError
from diver_lite.judge import training as fit
from diver_lite.judge.protocols import PROTOCOLS, Protocol, learned_lr, with_statistics
from diver_lite.judge.training import predict, train_judge
from diver_lite.sets.distilled import DistilledSet
from diver_lite.sets.names import class_names

LITERATURE = PROTOCOLS["literature"]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_literature_protocol():
    """Each number of the published recipe, on a set of 10 and of 500 images."""
    protocol = LITERATURE
    assert protocol.total_steps(10) == 1_000
    assert protocol.total_steps(500) == 2_000
    sizes = [len(b) for b in replace(protocol, epochs=2).batches(500, generator())]
    assert sizes == [256, 244, 256, 244]
    optimizer = fit._optimizer(torch.nn.Linear(1, 1), protocol, 0.01)
    assert isinstance(optimizer, torch.optim.SGD)
    group = optimizer.param_groups[0]
    assert (group["momentum"], group["weight_decay"]) == (0.9, 5e-4)
    assert [protocol.factor(s, 1_000) for s in (0, 499, 500, 999)] == [1, 1, 0.1, 0.1]
    assert protocol.peak_lr("ResNet18") == 0.01
    assert protocol.peak_lr("ViT") == 0.001
    assert len(protocol.augment) == 6


def test_epochs_visit_every_image_once():
    """Each pass is a permutation; each is another one."""
    protocol = Protocol(steps=None, epochs=3, batch_size=4)
    passes = torch.cat(list(protocol.batches(10, generator()))).view(3, 10)
    assert torch.equal(passes.sort(dim=1).values, torch.arange(10).expand(3, 10))
    assert not torch.equal(passes[0], passes[1])


def test_steps_visit_every_image_once_a_pass():
    """Batches of one size share no image within a pass; what is left comes again."""
    protocol = Protocol(steps=9, batch_size=4)
    for count, per_pass in ((12, 3), (14, 3), (4, 1), (3, 1)):
        batches = list(protocol.batches(count, generator()))
        assert [len(batch) for batch in batches] == [min(4, count)] * 9
        for first in range(0, 9, per_pass):
            seen = torch.cat(batches[first : first + per_pass])
            assert len(seen.unique()) == len(seen)
        assert torch.cat(batches).unique().tolist() == [*range(count)]


def test_the_cosine_schedule():
    """Linear warm-up over a tenth, then half a cosine down to nearly zero."""
    factors = [Protocol().factor(step, 1_000) for step in range(1_000)]
    assert factors[0] == pytest.approx(0.01)
    peak = max(range(1_000), key=factors.__getitem__)
    assert 95 <= peak <= 100
    assert factors[500] == pytest.approx(0.5 * (1 + math.cos(math.pi / 2)))
    assert factors[-1] < 1e-4
    assert all(
        a >= b for a, b in zip(factors[peak:], factors[peak + 1 :], strict=False)
    )


def test_the_optimiser_gets_the_scheduled_rate_and_a_new_momentum(monkeypatch):
    """With "step": the peak, then a tenth, where the momentum begins at zero."""
    seen = []
    real = torch.optim.SGD.step

    def step(self, *arguments):
        momentum = [s.get("momentum_buffer") for s in self.state.values()]
        seen.append((self.param_groups[0]["lr"], any(m is not None for m in momentum)))
        return real(self, *arguments)

    monkeypatch.setattr(torch.optim.SGD, "step", step)
    protocol = replace(LITERATURE, epochs=4, statistics=(0.5, 0.25), judge_lr={})
    train_judge("ConvNet", *toy(count=2)[:2], num_classes=3, protocol=protocol)
    assert seen == [
        (0.01, False),
        (0.01, True),
        (pytest.approx(0.001), False),
        (pytest.approx(0.001), True),
    ]


def test_train_and_test_images_are_normalised_alike(monkeypatch):
    """A judge meets one image as the same numbers, in training and in the test."""
    trained, tested = [], []
    monkeypatch.setattr(fit, "dsa", lambda x, *_, **__: trained.append(x) or x)
    build = fit.build_judge

    def spy(*arguments):
        network = build(*arguments)
        network.register_forward_pre_hook(
            lambda module, inputs: None if module.training else tested.append(inputs[0])
        )
        return network

    monkeypatch.setattr(fit, "build_judge", spy)
    images, labels, _ = toy(count=2)
    for statistics in ((0.5, 0.25), ((0.1, 0.2, 0.3), (0.2, 0.3, 0.4)), None):
        trained.clear()
        tested.clear()
        protocol = Protocol(steps=1, statistics=statistics)
        score("ConvNet", toy_set(count=2), (images, labels), protocol=protocol)
        (x,), (y,) = trained, tested
        assert torch.equal(x.flatten(1).sum(1).sort()[0], y.flatten(1).sum(1).sort()[0])
        mean, std = with_statistics(protocol, images).statistics
        mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (mean, std))
        torch.testing.assert_close(y, (images - mean) / std)
        if statistics is None:
            assert y.mean((0, 2, 3)).abs().max() < 1e-4
            assert (y.std((0, 2, 3)) - 1).abs().max() < 1e-4


def test_statistics_of_the_data():
    """Grey images give the same three; a protocol that has statistics keeps them."""
    images = toy()[0]
    assert with_statistics(Protocol(), images) == Protocol()
    grey = images[:, :1].expand(-1, 3, -1, -1)
    mean, std = with_statistics(LITERATURE, grey).statistics
    assert mean == (pytest.approx(images[:, 0].mean().item(), abs=1e-5),) * 3
    assert std == (pytest.approx(images[:, 0].std().item(), abs=1e-5),) * 3
    with pytest.raises(InputError, match=r"statistics is None"):
        predict(torch.nn.Linear(1, 1), images, "literature")


def test_soft_labels():
    """Probabilities or logits are learned where a set carries them, if asked for."""
    soft = torch.randn(24, 3, generator=generator())
    soft[torch.arange(24), toy()[1]] += 3
    logits = toy_set(soft_labels=soft, provenance={"soft_labels": "logits"})
    record = {"soft_labels": "probabilities"}
    same = toy_set(soft_labels=soft.softmax(1), provenance=record)
    protocol = Protocol(steps=4, labels="soft")
    assert torch.equal(protocol.targets(logits), soft.softmax(1))
    assert torch.equal(protocol.targets(same), protocol.targets(logits))
    assert torch.equal(protocol.targets(toy_set()), toy()[1])  # it carries none
    assert torch.equal(Protocol().targets(logits), toy()[1])
    refined = logits.with_images(logits.images / 2, "VAE only")
    twice = refined.with_images(logits.images / 3, "DIVER")
    assert torch.equal(protocol.targets(refined), soft.softmax(1))
    assert torch.equal(protocol.targets(twice), soft.softmax(1))
    unknown = toy_set(soft_labels=soft)
    with pytest.raises(InputError, match=r"soft_labels is .* expected probabilities"):
        protocol.targets(unknown)
    assert torch.equal(Protocol().targets(unknown), toy()[1])


def test_soft_labels_are_learned():
    """A network that learns smoothed labels ends near them, not near certainty."""
    images, labels, _ = toy(count=2)
    smooth = 0.7 * F.one_hot(labels, 3) + 0.1
    found = {}
    for kind, target in {"hard": labels, "soft": smooth}.items():
        network = train_judge(
            "ConvNet",
            images,
            target,
            num_classes=3,
            protocol=Protocol(steps=30, augment=()),
        )
        protocol = Protocol()
        found[kind] = predict(network, images, protocol).softmax(1).max(1)[0].mean()
    assert found["hard"] > 0.95
    assert found["soft"] == pytest.approx(0.8, abs=0.05)


def test_the_imagenet_protocol_learns_what_a_teacher_says():
    """Not what the labels say, although crops and rectangles are mixed."""
    images, labels, names = toy()
    logits = 8.0 * F.one_hot(labels, 3)
    wrong = DistilledSet(images, labels.roll(8), names)
    record = {"soft_labels": "logits"}
    soft = replace(wrong, soft_labels=logits, provenance=record)
    recipe = replace(PROTOCOLS["imagenet"], epochs=40)
    assert score("ConvNet", soft, toy(seed=1), protocol=recipe) > 0.9


def test_the_page_gives_a_set_soft_labels(tmp_path, monkeypatch):
    """Its code, with a network of random weights in place of the trained one."""
    page = (Path(__file__).parents[2] / "book/command_line.md").read_text("utf-8")
    page = page.partition("\n## Soft labels\n")[2]
    code = page.partition("```python\n")[2].partition("```")[0]
    monkeypatch.chdir(tmp_path)
    untrained = models.ResNet(models.resnet.BasicBlock, [1] * 4)
    monkeypatch.setattr(models, "resnet18", lambda weights: untrained)
    names = class_names("imagenet")
    DistilledSet(torch.rand(2, 3, 48, 48), [7, 900], names).save("refined.safetensors")
    exec(compile(code, "command_line.md", "exec"), {})
    soft = DistilledSet.load("soft.safetensors")
    assert soft.soft_labels.shape == (2, 1000)
    expected = soft.soft_labels.softmax(1)
    assert torch.equal(PROTOCOLS["imagenet"].targets(soft), expected)


def test_learned_step_sizes():
    """The proxy takes one, under a protocol that says so; a refined set has none."""
    ours = toy_set(provenance={"learned_lr": 0.03, "lr": 5.0})
    published = toy_set(provenance={"format": "mtt", "lr": 0.02})
    refined = toy_set(provenance={"method": "DIVER", "source": {"learned_lr": 0.03}})
    other = toy_set(provenance={"method": "DM", "lr": 1.0})
    found = [learned_lr(s) for s in (ours, published, refined, other)]
    assert found == [0.03, 0.02, None, None]
    assert LITERATURE.peak_lr("ConvNet", ours) == 0.03
    assert LITERATURE.peak_lr("ConvNet", other) == 0.01
    assert LITERATURE.peak_lr("ResNet18", ours) == 0.01
    assert Protocol().peak_lr("ConvNet", ours) == 1e-3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": "lion"}, r"optimizer is 'lion'.*'sgd'"),
        ({"schedule": "linear"}, r"schedule is 'linear'.*'step'"),
        ({"labels": "both"}, r"labels is 'both'.*'soft'"),
        ({"steps": 0}, r"steps is 0"),
        ({"epochs": 5}, r"steps is 300, epochs 5"),
        ({"steps": None}, r"steps is None, epochs None"),
        ({"batch_size": -1}, r"batch_size is -1"),
        ({"lr": 0.0}, r"lr is 0.0"),
        ({"augment": ("crop", "mixup")}, r"augment is 'mixup'"),
    ],
)
def test_bad_protocols(changes, message):
    """Every field that can't be is named."""
    with pytest.raises(InputError, match=message):
        Protocol(**changes)
