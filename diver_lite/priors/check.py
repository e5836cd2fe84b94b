"""Try a prior's contract on small inputs, and say all that is wrong in a line each."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from diver_lite.checks import InputError, describe, ensure, finite, first_line, integer
from diver_lite.devices import plain_torch
from diver_lite.priors.contract import (
    Checked,
    Prior,
    check_pixels,
    device_of,
    for_classes,
)
from diver_lite.priors.identity import Unidentified, identity
from diver_lite.priors.schedule import angle_at, draw_noise

NAMES = (
    "info", "class_names", "latent_shape", "image_size", "encode", "decode",
    "timesteps", "signal_and_noise", "denoise",
)  # fmt: skip
FIT = ("pad", "resize")
EXAMPLES = ("tabby_cat", "goldfish")  # of a prior that is told of classes in words
STEPS = (50, 10, 4)
ROWS = 3
# radians between noise levels, of pi / 2 in all; DiT's schedule in float32 has 1e-4
ANGLE = 0.02
SHARE = 0.02  # of the largest value: sums of a network in bfloat16
BRIGHTNESS = 0.25


def check_prior(prior: Prior) -> list[str]:
    """Try the whole contract of a prior on small inputs.

    Four small pictures are encoded and decoded, and a batch of three latents is
    denoised at two noise levels, each also in part: some ten calls of the network.

    Args:
        prior: what shall be a `Prior`; anything may be given.

    Returns:
        One line for each thing that is wrong, which names the attribute or method, what
        was found and what is expected; none if nothing is. Where what a line names is
        needed for others, these are not tried.

    Source: ours.
    """
    found = check_answers(prior)
    if not found:
        with plain_torch(grad=False):
            found = _Trial(for_classes(prior, EXAMPLES)).run()
    return list(dict.fromkeys(found))


def check_answers(prior: Any) -> list[str]:
    """Return what is wrong with a prior before its network is asked.

    Its names, sizes, info, noise levels and timesteps; see `check_prior`. Source: ours.
    """
    lacking = [name for name in NAMES if not hasattr(prior, name)]
    if lacking:
        kind = type(prior).__name__
        return [f"{name} is missing from the {kind}" for name in lacking]
    trial = _Trial(prior)
    for check in (_info, _names, _sizes, _device):
        trial.try_(check)
    if not trial.wrong:
        trial.levels()
    return trial.wrong


def _info(prior: Any) -> None:
    info = prior.info
    ensure(isinstance(info, dict), f"info is {describe(info)}; expected a dict")
    name = info.get("name", "")
    ensure(
        isinstance(name, str), f"info has the name {describe(name)}; expected a text"
    )
    fit = info.get("image_fit", FIT[0])
    ensure(fit in FIT, f"info has the image_fit {describe(fit)}; expected one of {FIT}")
    settings = info.get("recommended", {})
    ensure(
        isinstance(settings, dict),
        f"info has recommended {describe(settings)}; expected a dict of settings",
    )


def _names(prior: Any) -> None:
    names = prior.class_names
    texts = isinstance(names, tuple) and all(isinstance(n, str) and n for n in names)
    ensure(
        texts,
        f"class_names are {describe(names)}; expected a tuple of texts, as those of "
        "id2label in the order of its numbers",
    )
    twice = sorted({name for name in names if names.count(name) > 1})
    ensure(not twice, f"class_names hold {', '.join(twice)} more than once")
    told = hasattr(prior, "for_classes")
    ensure(bool(names) or told, "class_names are empty; expected one for each class")


def _sizes(prior: Any) -> None:
    shape = prior.latent_shape
    ensure(
        isinstance(shape, tuple | list) and len(shape) == 3,
        f"latent_shape is {describe(shape)}; expected (C, h, w)",
    )
    for size in shape:
        integer(size, "a size in latent_shape", 1)
    integer(prior.image_size, "image_size", 1)


def _device(prior: Any) -> None:
    try:
        device_of(prior)
    except (RuntimeError, TypeError):
        found = describe(prior.device)
        raise InputError(f"device is {found}; expected a torch.device") from None


class _Trial:
    """A prior that is tried, and what was wrong with it so far."""

    def __init__(self, prior: Any) -> None:
        self.prior = prior
        self.checked = Checked(prior)
        self.wrong: list[str] = []

    @contextmanager
    def noting(self, what: str) -> Iterator[None]:
        """Note what goes wrong in a block, whatever it is."""
        try:
            yield
        except InputError as error:
            # the lines are of one prior, so its name says nothing
            self.wrong.append(re.sub("^prior '[^']*': ", "", str(error)))
        except Exception as error:  # a prior of anybody's
            kind = type(error).__name__
            self.wrong.append(f"{what} fails: {kind}: {first_line(error)}")

    def try_(self, check: Callable[[Any], None]) -> None:
        with self.noting(check.__name__.lstrip("_")):
            check(self.prior)

    def note(self, fits: bool, line: str) -> bool:
        if not fits:
            self.wrong.append(line)
        return fits

    def run(self) -> list[str]:
        """Ask the networks, and how the prior is told from another one."""
        latents = self.pictures()
        if latents is not None:
            self.network(latents)
        with self.noting("its identity"):
            self.identified()
        return self.wrong

    def identified(self) -> None:
        advice = "give it a method `fingerprint` that returns a text, which changes "
        advice += "when its results do"
        try:
            same = identity(self.prior) == identity(self.prior)
            self.note(
                same, f"its fingerprint or parts change from call to call; {advice}"
            )
        except Unidentified as unknown:
            self.wrong.append(
                f"it can't be told from another prior: {unknown}; so an interrupted "
                f"run can't go on; {advice}"
            )

    def levels(self) -> None:
        """Check timesteps, and signal and noise at each of them."""
        grid: Sequence[float] = []
        with self.noting("timesteps"):
            grid = self.grid()
        for timestep in grid:
            before = len(self.wrong)
            with self.noting(f"signal_and_noise at {timestep}"):
                self.level(timestep)
            if len(self.wrong) > before:
                break  # the others are likely to be wrong, too
        with self.noting("signal_and_noise at -1"):
            alpha, sigma = self.shares(-1)
            self.note(
                alpha > 0.99 and sigma < 0.1,
                f"signal_and_noise at -1, the clean end, gave {alpha:.4g} and "
                f"{sigma:.4g}; expected 1 and 0, or nearly",
            )

    def grid(self) -> list[int | float]:
        """Return the timesteps of as many steps as the prior has, of `STEPS`."""
        for steps in STEPS[:-1]:
            try:
                self.prior.timesteps(steps)
            except InputError:  # a model of few steps
                continue
            return self.checked.timesteps(steps)
        return self.checked.timesteps(STEPS[-1])

    def shares(self, timestep: float) -> tuple[float, float]:
        alpha, sigma = self.checked.signal_and_noise(timestep)
        return float(alpha), float(sigma)

    def level(self, timestep: float) -> None:
        alpha, sigma = self.shares(timestep)
        ratio = f"alpha {alpha:.4g} and sigma {sigma:.4g} at timestep {timestep:.4g}"
        preserved = abs(math.hypot(alpha, sigma) - 1) < SHARE
        straight = abs(alpha + sigma - 1) < SHARE
        self.note(
            preserved or straight,
            f"signal_and_noise gave {ratio}; expected alpha^2 + sigma^2 = 1, or "
            "alpha + sigma = 1 on straight paths",
        )
        angle = angle_at(timestep)
        self.note(
            abs(math.atan2(sigma, alpha) - angle) < ANGLE,
            f"signal_and_noise gave {ratio}; expected alpha / sigma = "
            f"{1 / max(math.tan(angle), 1e-9):.4g}, that of DiT's schedule there",
        )

    def ask(self, method: str, *inputs: Any) -> Any:
        """Call a method, and compare its inputs with what they were."""
        before = [x.clone() if isinstance(x, Tensor) else x for x in inputs]
        answer = getattr(self.checked, method)(*inputs)
        for was, now in zip(before, inputs, strict=True):
            same = torch.equal(was, now) if isinstance(was, Tensor) else was == now
            ensure(same, f"{method} changed what it was given; expected it left alone")
        return answer

    def values(self, answer: Tensor, method: str, device: torch.device) -> Tensor:
        """Return a tensor of an answer on the CPU, which must be finite and there."""
        finite(answer, f"what {method} gave")
        ensure(
            answer.device.type == device.type,
            f"{method} gave a tensor on {answer.device}; expected one on {device}",
        )
        return answer.cpu()

    def pictures(self) -> Tensor | None:
        """Encode and decode pictures; return latents, if there are any."""
        images = _pictures(self.prior.image_size)
        latents = again = None
        device = device_of(self.prior)
        with self.noting("encode"):
            self.kind("encode", images)
            latents = self.ask("encode", images)
            self.values(latents, "encode", device)
        if latents is None:
            return None
        with self.noting("decode"), warnings.catch_warnings():
            self.kind("decode", latents)
            again = self.values(self.ask("decode", latents), "decode", device)
            warnings.simplefilter("error")  # a doubtful scale
            check_pixels(again, self.prior)
        if again is not None and not self.wrong:
            black, white = (picture.mean().item() for picture in again[:2])
            # a VAE of dark pictures may know no white one
            self.note(
                black < BRIGHTNESS and white > black + 0.1,
                f"decode(encode(x)) is {black:.2g} on average for a black picture, and "
                f"{white:.2g} for a white one; expected nearly 0 and more: do both "
                "take 0 .. 1?",
            )
        with self.noting("encode"):
            one = self.ask("encode", images[-1:]).cpu()
            self.alone(one, latents[-1:].cpu(), "encode")
        return latents

    def kind(self, method: str, *inputs: Any) -> None:
        """Note an answer that isn't float32; `Checked` would turn it into that."""
        answer = getattr(self.prior, method)(*inputs)
        for each in answer if isinstance(answer, tuple | list) else [answer]:
            if isinstance(each, Tensor) and each.is_floating_point():
                self.note(
                    each.dtype == torch.float32,
                    f"{method} gave {each.dtype}; expected torch.float32",
                )

    def alone(self, one: Tensor, several: Tensor, method: str) -> None:
        """Note a row that differs from what it is in a batch, but for rounding."""
        largest = max(several.abs().max().item(), 1e-6)
        self.note(
            (one - several).abs().max().item() < SHARE * largest,
            f"{method} gives a row alone another result than in a batch; expected the "
            "same but for rounding",
        )

    def network(self, latents: Tensor) -> None:
        """Check `denoise` in the middle of the grid, and at its cleanest end."""
        grid = self.grid()
        clean = latents[-ROWS:]
        noise = draw_noise(self.prior.latent_shape, range(len(clean)), 0).to(clean)
        classes = len(self.prior.class_names)
        labels = torch.arange(len(clean)) % classes
        labels[-1] = classes - 1  # the last one, too
        middle = min(grid, key=lambda t: abs(t - 500))
        before = len(self.wrong)
        with self.noting("denoise"):
            self.middle(clean, noise, labels, middle)
        if len(self.wrong) == before:
            with self.noting(f"denoise at {grid[-1]}"):
                self.nearly_clean(clean, noise, labels, grid[-1])

    def noised(self, clean: Tensor, noise: Tensor, timestep: float) -> Tensor:
        alpha, sigma = self.shares(timestep)
        return alpha * clean + sigma * noise

    def denoised(self, z: Tensor, timestep: float, labels: Tensor, scale: float):
        """Return x_0 and eps on the CPU."""
        answer = self.ask("denoise", z, timestep, labels, scale)
        x_0, eps = (self.values(each, "denoise", z.device) for each in answer)
        return x_0, eps

    def middle(
        self, clean: Tensor, noise: Tensor, labels: Tensor, timestep: float
    ) -> None:
        """Check that the parts make the whole, rows alone, and what labels do."""
        z = self.noised(clean, noise, timestep)
        x_0, eps = self.denoised(z, timestep, labels, 1.5)
        self.kind("denoise", z.clone(), timestep, labels, 1.5)
        alpha, sigma = self.shares(timestep)
        limit = SHARE * z.abs().max().item()

        def whole(x_0: Tensor, eps: Tensor) -> bool:
            return (alpha * x_0 + sigma * eps - z.cpu()).abs().max().item() < limit

        exchanged = whole(eps, x_0) and not whole(x_0, eps)
        self.note(not exchanged, "denoise gave (eps, x_0); expected (x_0, eps)")
        self.note(
            whole(x_0, eps) or exchanged,
            f"denoise gave x_0 and eps at timestep {timestep:.4g} that don't make "
            "latents = alpha x_0 + sigma eps",
        )
        one = self.denoised(z[-1:], timestep, labels[-1:], 1.5)
        self.alone(one[1], eps[-1:], "denoise")
        self.denoised(z, timestep, labels, 1.0)
        self.labels(z, timestep, eps, labels)

    def labels(self, z: Tensor, timestep: float, eps: Tensor, labels: Tensor) -> None:
        """Check that classes are told apart, and that one too many is refused."""
        classes = len(self.prior.class_names)
        if classes == 1:
            return
        others = self.denoised(z, timestep, (labels + 1) % classes, 1.5)[1]
        depends = not torch.equal(others, eps)
        self.note(depends, "denoise gives the same for all class_labels")
        if not depends or z.device.type != "cpu":  # a GPU would be lost by it
            return
        try:
            # the one after the last may stand for "no class"
            self.prior.denoise(z, timestep, torch.full_like(labels, classes + 1), 1.5)
        except Exception:
            return
        self.wrong.append(
            f"denoise answered for the class label {classes + 1}, of {classes} "
            "class_names; expected an error"
        )

    def nearly_clean(
        self, clean: Tensor, noise: Tensor, labels: Tensor, timestep: float
    ) -> None:
        """Check that x_0 of barely noised latents is near to these."""
        alpha, sigma = self.shares(timestep)
        if sigma > alpha / 3:
            return
        z = self.noised(clean, noise, timestep)
        x_0, _ = self.denoised(z, timestep, labels, 1.0)
        away = (x_0 - clean.cpu()).square().mean().sqrt().item()
        size = clean.square().mean().sqrt().item()
        self.note(
            away < 0.5 * size + 3 * sigma,
            f"denoise of barely noised latents (timestep {timestep:.4g}) gave an x_0 "
            f"that is {away:.2g} away from them on average; expected it near",
        )


def _pictures(size: int) -> Tensor:
    """Return a black, a white, a grey picture and a slope, (4, 3, size, size)."""
    slope = torch.linspace(0.1, 0.9, size).expand(3, size, size)
    plain = [torch.full((3, size, size), grey) for grey in (0.0, 1.0, 0.5)]
    return torch.stack([*plain, slope])
