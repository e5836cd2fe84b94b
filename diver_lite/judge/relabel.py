"""Soft labels from a teacher, as tables on ImageNet-1K train with."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from diver_lite.checks import (
    InputError,
    class_indices,
    ensure,
    first_line,
    instance,
    integer,
)
from diver_lite.judge.protocols import PROTOCOLS, Protocol
from diver_lite.priors.loading import resolve_device
from diver_lite.sets.classes import is_numbered, join, origin
from diver_lite.sets.distilled import DistilledSet
from diver_lite.sets.formats import load_torch
from diver_lite.sets.names import SUBSETS, class_names, imagenet_indices


def relabel(
    distilled: DistilledSet,
    teacher: nn.Module,
    *,
    classes: Sequence[int] | None = None,
    size: int = 224,
    protocol: Protocol | None = None,
    batch_size: int = 50,
    device: str | torch.device | None = None,
) -> DistilledSet:
    """Give each image the logits of a teacher as its soft labels.

    Args:
        distilled: the set; its hard labels stay.
        teacher: (B, 3, size, size), normalised -> logits (B, K'), in evaluation mode.
        classes: the teacher's output for each class of the set; default: as many
            outputs as classes, in order. `teacher_classes` finds them by name.
        size: height and width that the teacher takes; images are resized to it.
        protocol: whose normalisation the teacher was trained with; default:
            "imagenet".
        batch_size: images at a time.
        device: default: CUDA if there is one.

    Returns the set with `soft_labels` (N, K); its protocol must learn soft labels
    ("imagenet", or `--soft-labels`).

    Raises:
        InputError: a teacher with other outputs than classes, or that fails on images
            of this size; logits that aren't finite.

    Source: SRe2L (2306.13092), but for one label an image instead of one a crop.
    """
    instance(teacher, "teacher", nn.Module)
    size = integer(size, "size", 1, 2**12)
    batch_size = integer(batch_size, "batch_size", 1)
    normalise = (protocol or PROTOCOLS["imagenet"]).normalise
    device = resolve_device(device)
    teacher = teacher.eval().to(device)
    wanted = len(distilled.class_names)
    parts = []
    for images in distilled.images.split(batch_size):
        x = F.interpolate(
            images.to(device), (size, size), mode="bilinear", antialias=True
        )
        try:
            with torch.no_grad():
                logits = teacher(normalise(x))
        except RuntimeError as error:
            found = f"fails on images of {size} pixels ({first_line(error)})"
            raise InputError(f"teacher {found}; choose another size (--size)") from None
        outputs = logits.shape[-1]
        ensure(
            classes is not None or outputs == wanted,
            f"teacher has {outputs} outputs; the set has {wanted} classes: pass a "
            "teacher of these classes, or which outputs are theirs (--subset)",
        )
        chosen = torch.as_tensor(range(outputs) if classes is None else classes)
        class_indices(chosen, "classes", wanted, outputs)
        parts.append(logits[:, chosen.to(device)].float().cpu())
    soft = torch.cat(parts)
    agree = (soft.argmax(dim=1) == distilled.labels).float().mean().item()
    if agree < 2 / wanted:
        warnings.warn(
            f"the teacher names the set's own class for {agree:.0%} of the images, no "
            "more than by chance: are its outputs in the order of the classes?",
            stacklevel=2,
        )
    result = distilled.with_images(
        distilled.images,
        "relabel",
        teacher=type(teacher).__name__,
        soft_labels="logits",
        agreement=round(agree, 3),
    )
    return replace(result, soft_labels=soft)


def load_teacher(name: str, weights: str | Path) -> tuple[nn.Module, int]:
    """Build a torchvision classifier and fill it from a file of weights.

    Args:
        name: as torchvision calls it, such as "resnet18".
        weights: a state dict, from torch.save, alone or under "state_dict", of as many
            classes as its last layer has.

    Returns the network and its number of outputs.

    Raises:
        InputError: an unknown name; weights that can't be read or don't fit.
    """
    import torchvision.models as models
    from torchvision.models import get_model, list_models

    known = list_models(module=models)  # classifiers; detection is in sub-modules
    ensure(name in known, f"teacher is {name!r}; expected one of torchvision's {known}")
    path = Path(weights)
    state = _state_dict(path)
    try:  # without memory but that of the file, whatever numbers of classes it names
        with torch.device("meta"):
            last = [*get_model(name, weights=None).state_dict()][-1]
            outputs = len(state[last]) if last in state and state[last].ndim else 1000
            teacher = get_model(name, weights=None, num_classes=outputs)
        teacher.load_state_dict(state, assign=True)
    except (RuntimeError, AttributeError) as error:  # AttributeError: of no tensor
        details = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: the weights don't fit {name} ({details})") from None
    return teacher.float(), outputs


def _state_dict(path: Path) -> dict[str, Any]:
    state: Any = load_torch(path)
    try:
        weights = state.get("state_dict", state)
        return {name.removeprefix("module."): value for name, value in weights.items()}
    except AttributeError:
        raise InputError(f"{path}: expected the state dict of a classifier") from None


def teacher_classes(
    distilled: DistilledSet, outputs: int, subset: str | None = None
) -> list[int] | None:
    """Return a teacher's output for each class of a set; None: in order.

    Weights carry no names: 1,000 outputs are taken for ImageNet's in their order, and
    as many as the set has classes for those of what it distils, in its order.

    Raises:
        InputError: another number of outputs, or a set of unknown classes.
    """
    found = subset or origin(distilled) or ""
    names = distilled.class_names
    if outputs == 1000 and found in (*SUBSETS, "imagenet"):
        order = join(names, class_names(found), "the set", f"subset {found!r}")
        return [imagenet_indices(found)[i] for i in order]
    ensure(
        outputs == len(names),
        f"the teacher has {outputs} outputs, the set {len(names)} classes; expected as "
        "many, or 1000 and an ImageNet subset (--subset)",
    )
    try:
        known = class_names(found)
    except KeyError:
        return None
    if is_numbered(names) or len(known) != len(names):
        return None
    return join(names, known, "the set", f"data set {found!r}")
