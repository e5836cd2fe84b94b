"""The networks that judge a dataset by learning from it.

Only the distillation ConvNet is written here; the others are torchvision's, with a
stem that keeps small images from shrinking to nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torchvision.models as tv
from torch import Tensor, nn

from diver_lite.errors import InputError


class ConvNet(nn.Module):
    """The proxy network of dataset distillation: conv, norm, ReLU, average pooling.

    Args:
        num_classes: number of outputs.
        image_size: 32, 64 or 128; sets the depth, so that the last map is 4x4.
        channels: channels of the image.
        width: channels of every layer.

    Shapes: (B, channels, H, W) -> (B, num_classes).

    Source: Zhao, Mopuri and Bilen 2021 (DC): width 128, instance normalisation.
    """

    def __init__(
        self, num_classes: int, image_size: int, channels: int = 3, width: int = 128
    ) -> None:
        super().__init__()
        depth = max(1, (image_size // 4).bit_length() - 1)
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


def _convnet(num_classes: int, size: int) -> nn.Module:
    return ConvNet(num_classes, size)


def _resnet18(num_classes: int, size: int) -> nn.Module:
    net = tv.resnet18(num_classes=num_classes)
    if size <= 64:
        net.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    if size <= 32:
        net.maxpool = nn.Identity()
    return net


def _shufflenet(num_classes: int, size: int) -> nn.Module:
    net = tv.shufflenet_v2_x0_5(num_classes=num_classes)
    if size <= 64:
        net.conv1[0].stride = (1, 1)
    if size <= 32:
        net.maxpool = nn.Identity()
    return net


def _mobilenet(num_classes: int, size: int) -> nn.Module:
    net = tv.mobilenet_v2(num_classes=num_classes, dropout=0.0)
    if size <= 64:
        net.features[0][0].stride = (1, 1)
    return net


def _efficientnet(num_classes: int, size: int) -> nn.Module:
    net = tv.efficientnet_b0(num_classes=num_classes, dropout=0.0)
    if size <= 64:
        net.features[0][0].stride = (1, 1)
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


JUDGES: dict[str, Callable[[int, int], nn.Module]] = {
    "ConvNet": _convnet,
    "ResNet18": _resnet18,
    "ShuffleNetV2": _shufflenet,
    "MobileNetV2": _mobilenet,
    "EfficientNet-B0": _efficientnet,
    "ViT": _vit,
}
PROXY = "ConvNet"  # what Stage I distils on; all others are unseen


def build_judge(name: str, num_classes: int, image_size: int, seed: int) -> nn.Module:
    """Build an untrained judge whose weights depend on `seed` alone.

    Args:
        name: a key of `JUDGES`.
        num_classes: number of outputs.
        image_size: height and width in pixels, at least 32.
        seed: of the initial weights.

    Raises:
        InputError: unknown judge, or an image size that its stem can't take.
    """
    if name not in JUDGES:
        raise InputError(f"judge {name!r} is unknown; expected one of {[*JUDGES]}")
    if image_size < 32 or image_size % 16:
        raise InputError(
            f"judge {name}: image size is {image_size}; expected a multiple of 16, at "
            "least 32"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return JUDGES[name](num_classes, image_size)
