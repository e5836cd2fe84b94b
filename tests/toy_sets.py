"""Small sets that any network can tell apart, for the tests of judges and makers."""

import torch

from diver_lite.judge.table import cross_architecture
from diver_lite.sets.distilled import DistilledSet
from diver_lite.sets.names import FASHION_MNIST_CLASSES

NAMES = ("dark", "bright", "red")


def toy(count=8, size=32, seed=0):
    """Return images (count per class), labels and class names."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(3).repeat_interleave(count)
    images = 0.15 * torch.rand(3 * count, 3, size, size, generator=generator)
    images[labels == 1] += 0.8
    images[labels == 2, 0] += 0.8
    return images, labels, NAMES


def grey(count=60):
    """Return fake grey images of 10 classes, three channels in the memory of one."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 10
    images = torch.rand(count, 1, 32, 32, generator=generator) * 0.5
    images += labels.view(-1, 1, 1, 1) / 20
    return images.expand(-1, 3, -1, -1), labels, FASHION_MNIST_CLASSES


def toy_set(*, soft_labels=None, provenance=None, **options):
    """Return the same as a `DistilledSet`."""
    return DistilledSet(
        *toy(**options), soft_labels=soft_labels, provenance=provenance or {}
    )


def score(judge, train, test, seeds=(0,), **options):
    """Return the accuracy of one judge that learned from a set."""
    options |= {"judges": [judge], "seeds": seeds, "progress": False}
    return cross_architecture({"set": train}, test, **options)["accuracy"].item()


def reordered(distilled, order=None):
    """Return the same set with its classes listed in another order (of old labels)."""
    count = len(distilled.class_names)
    order = list(reversed(range(count))) if order is None else list(order)
    soft = distilled.soft_labels
    return DistilledSet(
        distilled.images,
        torch.tensor(order).argsort()[distilled.labels],
        [distilled.class_names[old] for old in order],
        soft_labels=None if soft is None else soft[:, order],
        provenance=distilled.provenance,
    )
