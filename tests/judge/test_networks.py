"""Judges' norms: what a suffix asks for, and what it leaves alone."""

import pytest
import torch
from torch import nn
from toy_sets import score, toy, toy_set

from diver_lite.checks import InputError
from diver_lite.judge.networks import JUDGES, NORMS, build_judge, judge_name
from diver_lite.judge.protocols import PROTOCOLS, Protocol
from diver_lite.judge.training import adapt_statistics, predict, train_judge

OWN = {  # as the networks' papers have it, and torchvision
    "ConvNet": "IN",
    "ResNet18": "BN",
    "ShuffleNetV2": "BN",
    "MobileNetV2": "BN",
    "EfficientNet-B0": "BN",
    "ViT": "LN",
    "VGG11": "BN",
    "AlexNet": "none",
}
SWAPPED = [name for name, norm in OWN.items() if norm not in ("LN", "none")]


def norms(network):
    """Return the kinds of normalisation over pixels in a network."""
    kinds = set()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            kinds.add("BN")
        elif isinstance(module, nn.GroupNorm):
            kinds.add("IN" if module.num_groups == module.num_channels else "GN")
    return kinds


def test_every_judge_says_its_norm():
    """Plain names keep what they were, a suffix changes it."""
    assert {name: judge_name(name).norm for name in JUDGES} == OWN
    for name, norm in OWN.items():
        found = norms(build_judge(name, 3, 32, seed=0))
        assert found == ({norm} if norm in ("BN", "IN") else set())
    assert judge_name("EfficientNet-B0-GN") == ("EfficientNet-B0", "GN")


@pytest.mark.parametrize("name", SWAPPED)
def test_a_suffix_swaps_every_norm_and_nothing_else(name):
    """Other weights are those of the plain judge; it still tells images apart."""
    theirs = build_judge(name, 3, 32, seed=1).state_dict()
    weights = [key for key in theirs if theirs[key].ndim > 1]
    assert weights
    for norm in NORMS:
        network = build_judge(f"{name}-{norm}", 3, 32, seed=1).train()
        # where 32 groups are as many as there are channels, GN is IN
        kind = "BN" if norm == "AdaBN" else norm
        assert norms(network) - {"IN"} == {kind} - {"IN"}
        mine = network.state_dict()
        assert all(torch.equal(mine[key], theirs[key]) for key in weights), norm
        logits = network(torch.rand(2, 3, 32, 32))
        assert logits.isfinite().all()
        assert logits.std(dim=0).max() > 0


def test_group_norm_has_32_groups_or_what_divides_the_channels():
    """Wu and He 2018; 24 channels have 8 groups of 3."""
    groups = {c: NORMS["GN"](c).num_groups for c in (24, 48, 64, 512)}
    assert groups == {24: 8, 48: 16, 64: 32, 512: 32}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ResNet18-XN", r"judge ResNet18-XN: the norm is 'XN'; expected one of"),
        ("ViT-GN", r"found norm GN, but ViT has layer normalisation"),
        ("AlexNet-AdaBN", r"found norm AdaBN, but AlexNet has no norm"),
        ("VGG19-GN", r"judge is 'VGG19-GN'; expected one of .*with a suffix"),
        (None, r"judge is None; expected one of"),
        (["ViT"], r"judge is \['ViT'\]; expected one of"),
    ],
)
def test_names_that_no_judge_has(name, message):
    """Unknown judges, unknown norms, and norms that a judge can't have."""
    with pytest.raises(InputError, match=message):
        judge_name(name)


def test_the_literature_gives_two_judges_instance_norm():
    """MTT's and DC's ResNet18 and VGG11; a suffix that is written out stands."""
    judge = PROTOCOLS["literature"].judge
    assert [judge(name) for name in ("ResNet18", "VGG11", "AlexNet", "ConvNet")] == [
        "ResNet18-IN",
        "VGG11-IN",
        "AlexNet",
        "ConvNet",
    ]
    assert judge("ResNet18-BN") == "ResNet18-BN"
    assert PROTOCOLS["corrected"].judge("ResNet18") == "ResNet18"
    with pytest.raises(InputError, match=r"judge_norm: that of ResNet18 is 'XN'"):
        Protocol(judge_norm={"ResNet18": "XN"})


def test_adapted_statistics_are_those_of_the_images_that_score():
    """AdaBN trains as BN and differs in running statistics alone."""
    protocol = Protocol(steps=3, augment=())
    train, test = toy(count=2), toy(seed=5, count=4)
    options = {"num_classes": 3, "protocol": protocol}
    first = train_judge("ShuffleNetV2", *train[:2], **options)
    second = train_judge("ShuffleNetV2-AdaBN", *train[:2], **options)
    weights = dict(second.named_parameters())
    for key, value in first.named_parameters():
        assert torch.equal(value, weights[key])
    before = predict(second, test[0], protocol)
    assert torch.equal(before, predict(first, test[0], protocol))
    adapt_statistics(second, test[0], protocol)
    assert not second.training
    assert not torch.allclose(predict(second, test[0], protocol), before)
    norm = next(m for m in second.modules() if isinstance(m, nn.BatchNorm2d))
    seen = []
    norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    predict(second, test[0], protocol)
    found = torch.cat(seen).mean((0, 2, 3))
    torch.testing.assert_close(norm.running_mean, found, rtol=1e-3, atol=1e-4)


def test_a_table_adapts_only_what_asks_for_it():
    """The diagnosis has a row of its own, and its accuracy is another one."""
    options = {"protocol": Protocol(steps=8, augment=())}
    train, test = toy_set(count=1), toy(seed=9, count=20)
    plain, adapted = (
        score(name, train, test, **options)
        for name in ("ShuffleNetV2-BN", "ShuffleNetV2-AdaBN")
    )
    assert plain == score("ShuffleNetV2", train, test, **options)
    assert adapted > plain + 0.1
