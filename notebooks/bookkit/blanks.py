"""Blanks: functions that a chapter leaves to its reader, and what is said of them.

A blank runs as it stands, because its last line returns `...`. The cell below it calls
`check_blank`, which raises nothing, and a folded cell below that one defines the
function for the rest of the chapter. So a chapter runs with its blanks empty. Source of
all: ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Function = Callable[..., Any]


def check_blank(written: Function, package: Function, *cases: tuple) -> None:
    """Print whether a reader's function gives what the package's gives, or what is off.

    Args:
        written: the reader's function, called as the package's is.
        package: the package's function; where it has none, the chapter's own.
        cases: arguments to try, one tuple for each call.
    """
    name = written.__name__
    for case in cases:
        try:
            found = written(*case)
        except Exception as error:  # whatever a reader's line may raise
            print(f"not yet: {name} stops with {type(error).__name__}: {error}")
            return
        if found is ...:
            print(f"not filled in yet: {name}. Put your line in the place of the dots.")
            return
        wanted = package(*case)
        if not _same(found, wanted):
            print(f"not yet: {_fault(found, wanted, name, package, case)}.")
            return
    theirs = f"the package's {name}" if package.__name__ == name else "ours"
    print(f"right: {name} gives what {theirs} gives.")


def _same(found: Any, wanted: Any) -> bool:
    if isinstance(found, Tensor) and isinstance(wanted, Tensor):
        alike = found.shape == wanted.shape
        pair = found.float(), wanted.float()
        return alike and torch.allclose(*pair, atol=1e-4, rtol=1e-4)
    if isinstance(found, float) and isinstance(wanted, float):  # summed in any order
        return math.isclose(found, wanted)
    return type(found) is type(wanted) and found == wanted


def _fault(
    found: Any, wanted: Any, name: str, package: Function, case: tuple
) -> str:  # what is off, without the line itself
    if found is None:
        return f"{name} returns nothing; does its last line begin with return?"
    if not isinstance(wanted, Tensor):
        asked = ", ".join(map(repr, case))
        return f"{name}({asked}) is {found!r}, and should be {wanted!r}"
    if not isinstance(found, Tensor):
        return f"{name} returns a {type(found).__name__}, and should return a tensor"
    if found.shape != wanted.shape:
        shapes = f"it is {tuple(found.shape)}, and should be {tuple(wanted.shape)}"
        return f"look at the shape of the result: {shapes}"
    for hint, mistake in MISTAKES.get(name, {}).items():
        if _same(found, mistake(package, *case)):
            return hint
    if _same(-found, wanted):
        return "look at the sign: the result is the right one times -1"
    factor = float((found * wanted).sum() / wanted.square().sum())
    if _same(found, factor * wanted):
        return f"look for a factor: the result is {factor:.3g} times the right one"
    apart = float((found - wanted).abs().max())
    return f"the shape is right, the numbers are off by up to {apart:.2g}"


# ------------------------------------------------- lines that others wrote before you


def _both_predictions(package, latents, timestep, class_labels):  # with label, without
    label = package(latents, timestep, class_labels, 1.0)
    return label, 2 * label - package(latents, timestep, class_labels, 2.0)


def _only_the_difference(package, latents, timestep, class_labels, scale):
    label, none = _both_predictions(package, latents, timestep, class_labels)
    return scale * (label - none)


def _away_from_the_label(package, latents, timestep, class_labels, scale):
    label, none = _both_predictions(package, latents, timestep, class_labels)
    return none + scale * (none - label)


def _from_the_label_on(package, latents, timestep, class_labels, scale):
    label, none = _both_predictions(package, latents, timestep, class_labels)
    return label + scale * (label - none)


def _weights_exchanged(package, latents, noise, alpha, sigma):
    return sigma * latents + alpha * noise


def _noise_unweighted(package, latents, noise, alpha, sigma):
    return alpha * latents + noise


def _roots_again(package, latents, noise, alpha, sigma):
    return alpha.sqrt() * latents + sigma.sqrt() * noise


def _push(package, latents, difference, sigma, gamma):
    return latents + gamma * sigma * difference


def _without_sigma(package, latents, difference, sigma, gamma):
    return latents - gamma * difference


def _without_gamma(package, latents, difference, sigma, gamma):
    return latents - sigma * difference


def _pull_alone(package, latents, difference, sigma, gamma):
    return gamma * sigma * difference


def _length(package, target, found):
    return package(target, found).sqrt()


def _sum_squared(package, target, found):
    return (target - found).sum().square()


def _own_labels(package, distilled, prior, class_map):
    return distilled.labels


def _pixels_once(package, x, y, mean, std, weight):
    return package(x, y, mean, std, weight) - (x - y).abs().mean()


def _levels_compared(package, batch, group):
    return batch[0] - group[0]


def _one_gain(package, batch, group):
    return batch[0] - batch[1]


def _kl_unweighted(package, x, y, mean, std, weight):
    return package(x, y, mean, std, 1.0)


# name of a function -> what to say -> the line that earns it
MISTAKES: dict[str, dict[str, Function]] = {
    "predict_noise": {
        "this is the exaggerated difference alone; what is it added to?": (
            _only_the_difference
        ),
        "look at the sign: this leads away from the label": _away_from_the_label,
        "a factor: (6) goes from the prediction without a label, not from the one "
        "with it, so your scale is one too large": _from_the_label_on,
    },
    "inherit": {
        "the two weights have changed places": _weights_exchanged,
        "a factor is missing: the noise has a weight, too": _noise_unweighted,
        "alpha and sigma are the two roots already": _roots_again,
    },
    "guide": {
        "look at the sign: this pushes away from the distilled picture": _push,
        "a factor is missing: sigma, the weight of this step": _without_sigma,
        "a factor is missing: gamma says how hard to pull": _without_gamma,
        "this is the pull alone; what is it taken from?": _pull_alone,
    },
    "matching_loss": {
        "this is the length of the difference; (3) has its square": _length,
        "square first, then add: here minus and plus cancel": _sum_squared,
    },
    "prior_classes": {
        "these are the set's own labels; what does class_map say of each?": _own_labels,
    },
    "by_norm": {
        "these are accuracies with the treatment; where was each without it?": (
            _levels_compared
        ),
        "this is what batch norm gains; what does group norm gain?": _one_gain,
    },
    "vae_loss": {
        "a factor is missing: pixels count twice": _pixels_once,
        "a factor is missing: the last term has a weight": _kl_unweighted,
    },
}
