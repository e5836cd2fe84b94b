"""The networks that judge a dataset by learning from it.

Only the distillation ConvNet is written here; the others are torchvision's, with a
stem that keeps images of 32 and 64 pixels from shrinking to nothing. Nothing in them is
random but the initial weights (no dropout, no stochastic depth), so a training is fixed
by its seed however many run at once.

Every judge has a norm (`NORMS`), and a suffix asks for another: `ShuffleNetV2-GN`. It
decides what a stranger learns from few and odd images: batch normalisation scores new
images by the statistics of the training images, so it feels a shift between the two,
which instance and group normalisation cancel. Published tables mix them.

A judge of one's own (`judge.own`) goes wherever one of these does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
import torchvision.models as tv
from torch import Tensor, nn

from diver_lite.checks import InputError, ensure, is_one_of, one_of, require
from diver_lite.devices import plain_torch
from diver_lite.judge.own import Factory, OwnJudge, find_judge, is_own, try_judge
from diver_lite.judge.seeding import Seeded


class ConvNet(nn.Module):
    """The proxy network of dataset distillation: conv, norm, ReLU, average pooling.

    Args:
        num_classes: number of outputs.
        image_size: sets the depth: 3 at 32 pixels, 4 at 64, 5 at 128, each with a last
            map of 4x4; 6 at 224 or 256, as in ImageNet tables.
        channels: channels of the image.
        width: channels of every layer.

    Shapes: (B, channels, H, W) -> (B, num_classes).

    Source: Zhao, Mopuri and Bilen 2021 (DC): width 128, instance normalisation.
    """

    def __init__(
        self, num_classes: int, image_size: int, channels: int = 3, width: int = 128
    ) -> None:
        super().__init__()
        depth = max(1, round(math.log2(image_size / 4)))
        layers: list[nn.Module] = []
        for index in range(depth):
            layers += [
                nn.Conv2d(width if index else channels, width, 3, padding=1),
                nn.GroupNorm(width, width),  # one group a channel: InstanceNorm
                nn.ReLU(),
                nn.AvgPool2d(2),
            ]
        self.features = nn.Sequential(*layers, nn.Flatten())
        side = image_size // 2**depth
        self.classifier = nn.Linear(width * side * side, num_classes)

    def embed(self, x: Tensor) -> Tensor:
        """Return the features before the classifier, (B, width * side^2)."""
        return self.features(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))


def _adapted(
    build: Callable[..., nn.Module], first: str, **options: float
) -> Callable[[int, int], Any]:
    """Keep small images from shrinking in the first convolution and its pooling."""

    def adapted(num_classes: int, size: int) -> Any:
        net: Any = build(num_classes=num_classes, **options)
        if size <= 64:
            net.get_submodule(first).stride = (1, 1)
        if size <= 32 and hasattr(net, "maxpool"):
            net.maxpool = nn.Identity()
        return net

    return adapted


def _resnet18(num_classes: int, size: int) -> nn.Module:
    net = _adapted(tv.resnet18, "conv1")(num_classes, size)
    if size <= 64:
        net.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    return net


def _vit(num_classes: int, size: int) -> nn.Module:
    # a small ViT trained from scratch, as GLaD and PReDD use, not ViT-B/16
    return tv.VisionTransformer(
        image_size=size,
        patch_size=max(4, size // 8),
        num_layers=6,
        num_heads=8,
        hidden_dim=256,
        mlp_dim=512,
        num_classes=num_classes,
    )


def _vgg11(num_classes: int, size: int) -> nn.Module:
    # as for CIFAR: five poolings leave 1x1 of 32x32, and one linear layer is enough
    net: Any = tv.vgg11_bn(num_classes=num_classes)
    net.avgpool = nn.AdaptiveAvgPool2d(1)
    net.classifier = nn.Linear(512, num_classes)
    return net


def _alexnet(num_classes: int, size: int) -> nn.Module:
    net: Any = tv.alexnet(num_classes=num_classes)
    if size <= 64:  # 3x3 at the end for 32, 64 and 128 pixels
        stride = 1 if size <= 32 else 2
        net.features[0] = nn.Conv2d(3, 64, 5, stride, 2)
    net.avgpool = nn.AdaptiveAvgPool2d(3)
    net.classifier = nn.Linear(256 * 3 * 3, num_classes)
    return net


JUDGES: dict[str, Callable[[int, int], nn.Module]] = {
    "ConvNet": ConvNet,
    "ResNet18": _resnet18,
    "ShuffleNetV2": _adapted(tv.shufflenet_v2_x0_5, "conv1.0"),
    "MobileNetV2": _adapted(tv.mobilenet_v2, "features.0.0", dropout=0.0),
    "EfficientNet-B0": _adapted(
        tv.efficientnet_b0, "features.0.0", dropout=0.0, stochastic_depth_prob=0.0
    ),
    "ViT": _vit,
    "VGG11": _vgg11,
    "AlexNet": _alexnet,
}
PROXY = "ConvNet"  # what Stage I distils on; all others are unseen
# the five that the paper's tables average over
UNSEEN = ("ResNet18", "ShuffleNetV2", "MobileNetV2", "EfficientNet-B0", "ViT")
# what a stem takes, if not (32, 1): at least so many pixels, a multiple of so many
TAKES = {"ConvNet": (8, 1), "ViT": (32, 8)}

# the norm that a judge has under its plain name, if not batch normalisation
OWN_NORM = {"ConvNet": "IN", "ViT": "LN", "AlexNet": "none"}
# suffix -> what it puts in the place of each batch, group or instance normalisation
NORMS: dict[str, Callable[[int], nn.Module]] = {
    "BN": nn.BatchNorm2d,
    # 32 groups as Wu and He 2018, or as many as divide the channels
    "GN": lambda channels: nn.GroupNorm(math.gcd(32, channels), channels),
    "IN": lambda channels: nn.GroupNorm(channels, channels),
    # trained as BN; its statistics are those of the images that score (a diagnosis)
    "AdaBN": nn.BatchNorm2d,
}


Judge = str | Factory | OwnJudge  # what a caller may name


class JudgeName(NamedTuple):
    """What a judge's name says: `ShuffleNetV2-GN` is ("ShuffleNetV2", "GN")."""

    base: str  #: a key of `JUDGES`; the whole name of one's own
    norm: str  #: a key of `NORMS`; "LN" of a ViT, "none" of AlexNet


def is_ours(name: str) -> bool:
    """Return whether a name is that of a judge here, or of one with another norm."""
    return name in JUDGES or name.rpartition("-")[0] in JUDGES


def judge_name(name: str | OwnJudge) -> JudgeName:
    """Return a judge's network and norm, which its plain name has of itself.

    Raises `InputError` for an unknown judge or norm, and for one that a judge can't
    have. Source: ours; the suffixes are those of DC's networks (`ConvNetBN`) as
    DD-Ranking writes them (`-BN`), AdaBN is Li et al. 2016.
    """
    if isinstance(name, OwnJudge):
        return JudgeName(name.name, name.norm)
    if isinstance(name, str) and name not in JUDGES:
        base, _, norm = name.rpartition("-")
        if base in JUDGES:
            one_of(norm, f"judge {name}: the norm", [*NORMS])
            own = OWN_NORM.get(base, "BN")
            if own in ("LN", "none"):
                has = "layer normalisation" if own == "LN" else "no norm"
                raise InputError(
                    f"judge {name}: found norm {norm}, but {base} has {has}, and no "
                    f"other can take its place; expected {base}"
                )
            return JudgeName(base, norm)
    norms = ", ".join(NORMS)
    known = is_one_of(name, [*JUDGES])
    expected = (
        f"one of {[*JUDGES]}, some of them with a suffix for a norm ({norms}), or one "
        "of your own: package.module:factory, or path/to/file.py:factory"
    )
    require(known, "judge", name, expected)
    return JudgeName(name, OWN_NORM.get(name, "BN"))


def is_unseen(judge: str | OwnJudge) -> bool:
    """Return whether a judge is a stranger to what Stage I distils on, `PROXY`."""
    if isinstance(judge, OwnJudge):
        return judge.unseen
    return judge_name(judge).base != PROXY


def check_judge(name: str, image_size: int) -> None:
    """Raise `InputError` if a judge is unknown or can't take images of a size."""
    smallest, multiple = TAKES.get(judge_name(name).base, (32, 1))
    fits = image_size >= smallest and image_size % multiple == 0
    of = f"a multiple of {multiple}, " if multiple > 1 else ""
    expected = f"{of}at least {smallest}"
    require(fits, f"judge {name}: image size", image_size, expected)


def known_judge(judge: Judge, num_classes: int, image_size: int) -> str | OwnJudge:
    """Return a judge as trainings know it: by its name, or one's own, found and tried.

    Args:
        judge: a name; a function or class that is called as ``factory(num_classes=10,
            image_size=32, channels=3)`` and returns an `nn.Module`; or a text that says
            where one is, "package.module:factory" or "path/to/file.py:factory".
        num_classes: how many outputs it must have.
        image_size: height and width of the images in pixels.

    Raises `InputError`: it is unknown, can't take images of that size, has the name of
    one of `JUDGES`, or is refused by `own.find_judge` or `own.try_judge`.
    """
    if isinstance(judge, OwnJudge):
        return judge
    if not is_own(judge):
        name = cast(str, judge)  # if it is none, the check says so
        check_judge(name, image_size)
        return name
    named = find_judge(judge)
    ensure(
        not is_ours(named.name),
        f"judge {named.name}: a judge of diver_lite has this name; expected another, "
        "which an attribute `name` of the factory sets",
    )
    return try_judge(named, num_classes, image_size)


def build_judge(
    name: str | OwnJudge, num_classes: int, image_size: int, seed: int
) -> nn.Module:
    """Build an untrained judge; its weights depend on `seed` alone, not on its norm.

    The name is one of `JUDGES`, perhaps with a suffix of `NORMS`. Raises `InputError`
    where it is unknown, or its stem can't take images of a size (height and width in
    pixels, see `TAKES`). Source: torchvision; the small ViT of GLaD and PReDD; VGG11
    and AlexNet with the single linear layer of DC's.
    """
    if isinstance(name, OwnJudge):
        return name.build(num_classes, image_size, seed)
    check_judge(name, image_size)
    base, norm = judge_name(name)
    with plain_torch(grad=True), Seeded(torch.Generator().manual_seed(seed)):
        network = JUDGES[base](num_classes, image_size)
    if norm != OWN_NORM.get(base, "BN"):
        swap_norms(network, NORMS[norm])
    return network


def swap_norms(network: nn.Module, norm: Callable[[int], nn.Module]) -> None:
    """Put another norm, made from its channels, in the place of each one over (H, W).

    All of these begin as the identity after normalising, so nothing else changes.
    """
    for parent in [*network.modules()]:
        for name, child in parent.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, norm(child.num_features))
            elif isinstance(child, nn.GroupNorm):
                setattr(parent, name, norm(child.num_channels))
