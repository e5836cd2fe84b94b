"""How judges are trained: steps or epochs, optimiser, schedule, augmentation, labels.

A protocol is data, so two tables can be compared by comparing their protocols. The five
in `PROTOCOLS`:

corrected: the default, ours. All sets get the same number of steps, whatever their
    size; training and test images are normalised alike; accuracy after the last step.
quick: the same with a quarter of the steps.
real: for a judge that learns from tens of thousands of real images.
literature: what the tables of DC, DSA, DM and MTT did: SGD 0.01 with momentum 0.9,
    weight decay 5e-4 and batches of 256 for 1,000 epochs, a tenth of the rate in the
    second half, DSA with one family per batch, images normalised per channel, accuracy
    after the last epoch. As in MTT, the ConvNet takes the step size learned with a set,
    and ResNet18 and VGG11 have instance normalisation unless their name says another.
    None of them trained a ViT: its rate is PReDD's.
    Not reproduced: 20 networks on each of 5 distilled sets (here: one per seed); images
    of 28 pixels and one channel (here: padded to 32, repeated to 3); constants of the
    training split (here: the statistics of the real images that score); a seed taken
    from the clock; one epoch more than stated; home-made ResNet18, VGG11 and AlexNet
    (here: torchvision's); MTT's ZCA whitening, which loading a set undoes; the best of
    several snapshots on the test set, which is no fair score.
imagenet: what tables on ImageNet-1K do since SRe2L: random resized crops, flips and
    CutMix of every batch, cross-entropy with a teacher's soft labels, AdamW 0.001 with
    weight decay 0.01 and a cosine for 300 epochs, accuracy after the last.
    Not reproduced: soft labels for each crop of each epoch, stored at temperature 20
    (here: one per image, as the set has them); batches of 1,024 (here: 128).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, cast

import torch
from torch import Tensor

from diver_lite.checks import InputError, instance, number, one_of, require, settings
from diver_lite.judge.augment import FAMILIES
from diver_lite.judge.networks import NORMS, PROXY, judge_name
from diver_lite.judge.own import OwnJudge
from diver_lite.sets.distilled import DistilledSet
from diver_lite.sets.stored import known, label_kind, soft_kind

Statistics = tuple[float, float] | tuple[tuple[float, ...], tuple[float, ...]]


@dataclass(frozen=True)
class Protocol:
    """How a judge is trained.

    Attributes:
        steps: optimiser steps, whatever the size of the set.
        batch_size: images per step; a smaller set is used whole.
        optimizer: "adamw" or "sgd" (momentum 0.9).
        lr: peak learning rate.
        weight_decay: of the optimiser.
        augment: DSA families, see `diver_lite.judge.augment`; empty for none.
        crops: random resized crops and flips of every image.
        cutmix: a rectangle of every image comes from another one, its label in part.
        statistics: (mean, std), numbers or one per channel, that normalise training
            and test images alike; None: those of the real images a judge is scored on.
        epochs: passes over the set, the last batch of each being what is left; instead
            of `steps`.
        schedule: "cosine" (linear warm-up over the first tenth, then cosine to zero)
            or "step" (a tenth of the rate, and a new momentum, for the second half).
        labels: "hard", or "soft": cross-entropy with a set's soft labels, where the
            set carries some.
        judge_lr: judge, with or without its norm, -> peak learning rate, where it isn't
            `lr`.
        judge_norm: judge -> norm that its plain name stands for, where it isn't the
            judge's own.
        learned_lr: whether the proxy ConvNet takes the step size that trajectory
            matching learned together with a set, where the set carries one.

    Raises:
        InputError: a value out of range.
    """

    steps: int | None = 300
    batch_size: int = 128
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.01
    augment: tuple[str, ...] = FAMILIES
    crops: bool = False
    cutmix: bool = False
    statistics: Statistics | None = (0.5, 0.25)
    epochs: int | None = None
    schedule: Literal["cosine", "step"] = "cosine"
    labels: Literal["hard", "soft"] = "hard"
    judge_lr: Mapping[str, float] = field(default_factory=dict, hash=False)
    judge_norm: Mapping[str, str] = field(default_factory=dict, hash=False)
    learned_lr: bool = False

    def __post_init__(self) -> None:
        settings(self, {})
        require(self.lr > 0, "lr", self.lr, "more than 0")
        if (self.steps is None) == (self.epochs is None):
            raise InputError(
                f"protocol: steps is {self.steps}, epochs {self.epochs}; expected one "
                "of them, and the other None"
            )
        instance(self.augment, "augment", tuple)
        for family in self.augment:
            one_of(family, "augment", FAMILIES)
        for judge, norm in self.judge_norm.items():
            one_of(norm, f"judge_norm: that of {judge}", [*NORMS])
        if self.statistics is not None:
            _check_statistics(self.statistics)

    def total_steps(self, count: int) -> int:
        """Return how many optimiser steps a set of `count` images gets."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None  # one of them is set
        return self.epochs * math.ceil(count / self.batch_size)

    def batches(self, count: int, generator: torch.Generator) -> Iterator[Tensor]:
        """Yield the indices of each step's images, every image equally often.

        With `steps`, batches are all of one size and what is left of a pass is dropped,
        as the next pass has it again; with `epochs` it makes a smaller batch.
        """
        size = min(self.batch_size, count)
        if self.epochs is not None:
            for _ in range(self.epochs):
                yield from torch.randperm(count, generator=generator).split(size)
            return
        order = torch.empty(0, dtype=torch.long)
        for _ in range(self.total_steps(count)):
            if len(order) < size:
                order = torch.randperm(count, generator=generator)
            yield order[:size]
            order = order[size:]

    def peak_lr(
        self, judge: str | OwnJudge, train: DistilledSet | None = None
    ) -> float:
        """Return a judge's peak learning rate on a set."""
        known = judge_name(judge)
        if self.learned_lr and known == judge_name(PROXY) and train is not None:
            learned = learned_lr(train)
            if learned:
                return learned
        whatever_norm = self.judge_lr.get(known.base, self.lr)
        return self.judge_lr.get("-".join(known), whatever_norm)

    def judge(self, name: str) -> str:
        """Return the name of a judge of ours with the norm that this protocol gives it.

        One's own keeps the norm that it has.
        """
        base, norm = judge_name(name)
        given = self.judge_norm.get(base, norm) if name == base else norm
        return name if given == norm else f"{base}-{given}"

    def factor(self, step: int, total: int) -> float:
        """Return what the peak learning rate is multiplied by at a step."""
        if self.schedule == "step":
            return 1.0 if step < total // 2 else 0.1
        done = step / total
        return min(1.0, (done + 1e-3) / 0.1) * 0.5 * (1 + math.cos(math.pi * done))

    def normalise(self, images: Tensor) -> Tensor:
        """Shift and scale images (N, 3, H, W), training and test alike."""
        if self.statistics is None:
            raise InputError(
                "protocol: statistics is None, which only cross_architecture can fill "
                "in; expected (mean, std), see with_statistics"
            )
        mean, std = self.statistics
        if not isinstance(mean, int | float):
            mean, std = (images.new_tensor(v).view(-1, 1, 1) for v in (mean, std))
        return (images - mean) / std

    def targets(self, train: DistilledSet) -> Tensor:
        """Return what to learn: labels (N,), or probabilities (N, K) if soft.

        Raises `InputError`: soft labels that nobody calls logits, and that can't be
        probabilities.
        """
        soft = train.soft_labels
        if self.labels == "hard" or soft is None:
            return train.labels
        if label_kind(train.provenance) == "logits":
            return soft.softmax(dim=1)
        expected = "probabilities, or logits that provenance['soft_labels'] calls so"
        require(soft_kind(soft) == "probabilities", "soft_labels", soft, expected)
        return soft


def _check_statistics(statistics: object) -> None:
    """Raise `InputError` unless they are (mean, std), numbers or three of each."""
    expected = "(mean, std), two numbers or two tuples of 3, or None"
    require(
        isinstance(statistics, tuple) and len(statistics) == 2,
        "statistics",
        statistics,
        expected,
    )
    mean, std = (v if isinstance(v, tuple) else (v,) for v in cast(tuple, statistics))
    require(
        len(mean) == len(std) and len(mean) in (1, 3),
        "statistics",
        statistics,
        expected,
    )
    for value in mean:
        number(value, "statistics: the mean", -1e3, 1e3)
    for value in std:
        number(value, "statistics: the std", 1e-6, 1e3)


def learned_lr(train: DistilledSet) -> float | None:
    """Return the step size that was learned with a set, or None.

    Our own trajectory matching records it as "learned_lr", readers of MTT's and DATM's
    files as "lr". A refined set doesn't inherit it: its images are others.
    """
    record = known(train.provenance)
    published = record.get("lr") if record.get("format") in ("mtt", "datm") else None
    return record.get("learned_lr", published)


def with_statistics(protocol: Protocol, images: Tensor) -> Protocol:
    """Return a protocol, with the statistics of images (N, 3, H, W) if it has none.

    Source: ours: the literature takes constants of the training split, which a judge
    of foreign files doesn't have at hand.
    """
    if protocol.statistics is not None:
        return protocol
    mean = images.mean((0, 2, 3))
    std = images.std((0, 2, 3)).clamp(min=1e-3)
    mean, std = (tuple(round(v, 6) for v in each.tolist()) for each in (mean, std))
    return replace(protocol, statistics=(mean, std))


PROTOCOLS = {
    "corrected": Protocol(),
    # for the demo and the notebooks: as above, but light enough for a laptop
    "quick": Protocol(steps=80, lr=2e-3),
    # for a judge trained on tens of thousands of real images
    "real": Protocol(steps=4_000, batch_size=256, augment=("crop",)),
    "literature": Protocol(
        steps=None,
        epochs=1_000,
        batch_size=256,
        optimizer="sgd",
        lr=0.01,
        weight_decay=5e-4,
        schedule="step",
        statistics=None,
        judge_lr={"ViT": 1e-3},
        judge_norm={"ResNet18": "IN", "VGG11": "IN"},
        learned_lr=True,
    ),
    "imagenet": Protocol(
        steps=None,
        epochs=300,
        augment=(),
        crops=True,
        cutmix=True,
        statistics=((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        labels="soft",
    ),
}


def get_protocol(protocol: str | Protocol) -> Protocol:
    """Return a protocol by its name, or the one given; raise if there is none."""
    if isinstance(protocol, Protocol):
        return protocol
    return PROTOCOLS[one_of(protocol, "protocol", [*PROTOCOLS])]
