"""Judges of one's own: named, found, tried, told apart, and sent to other processes.

A judge of one's own is a factory: a function or class that is called as
``factory(num_classes=10, image_size=32, channels=3)``, as `networks.ConvNet` is, and
returns an untrained `nn.Module`, (B, channels, H, W) -> (B, num_classes). It is handed
over itself, or named by a text, "package.module:factory" or "path/to/file.py:factory".
Only a text that the caller wrote is ever looked up, none that stands in a file.

Attributes of the factory say more of it, where it has them: `name`, what it is called
in tables; `unseen`, False for a relative of the network that Stage I distils on;
`fingerprint`, a text that changes when its trainings do. Source: ours.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import cloudpickle
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from diver_lite.checks import InputError, describe, ensure, first_line, floats
from diver_lite.devices import plain_torch
from diver_lite.judge.reach import modules_of
from diver_lite.judge.seeding import Seeded
from diver_lite.named_code import load_named
from diver_lite.priors.identity import Unidentified, identity

Factory = Callable[..., nn.Module]

CHANNELS = 3  # of all images here
ARGUMENTS: tuple[str, ...] = ("num_classes", "image_size", "channels")
CALL = "factory(num_classes={}, image_size={}, channels={})"
NAME = re.compile(r"\w[\w .:+=()/-]*")  # a column's heading, also in Markdown and CSV


@dataclass(frozen=True)
class OwnJudge:
    """A network of one's own, as trainings know it; `try_judge` makes one.

    Attributes:
        name: what tables call it.
        norm: "BN" if any of its modules is batch normalisation, else "GN", "IN", "LN"
            or "none".
        unseen: whether it is a stranger to the network that Stage I distils on.
        draws: whether it draws at random while it trains, as dropout does.
        identity: a digest of all of it that computes; "" if that can't be told.
        unidentified: what it is that can't be told from something else, or "".
        factory: what builds it; as bytes what other processes can read.
    """

    name: str
    norm: str
    unseen: bool
    draws: bool
    identity: str
    unidentified: str
    factory: Factory | bytes = field(repr=False, compare=False)
    modules: tuple[str, ...] = ()  # the user's own, which other processes may lack

    def build(self, num_classes: int, image_size: int, seed: int) -> nn.Module:
        """Return it untrained, on the CPU; `seed` fixes the weights that are drawn."""
        factory = self.factory
        if isinstance(factory, bytes):
            factory = _unpacked(self.name, factory)
        return _built(self.name, factory, num_classes, image_size, seed)

    def packed(self) -> OwnJudge:
        """Return the same for other processes, with its code where they may lack that.

        Raises `InputError` where something that hangs on it can't be sent.
        """
        if isinstance(self.factory, bytes):
            return self
        try:
            with _by_value(self.modules):
                return replace(self, factory=cloudpickle.dumps(self.factory))
        except Exception as error:  # whatever hangs on it fails in its own way
            raise InputError(
                f"judge {self.name}: it can't be sent to other processes "
                f"({said(error)}); expected a factory that pickles, or n_jobs=1 "
                "(--jobs 1)"
            ) from None


@contextmanager
def _by_value(names: tuple[str, ...]) -> Iterator[None]:
    """Let functions and classes of some modules be pickled with their code."""
    ours = [name for name in names if name not in _registered()]
    for name in ours:
        cloudpickle.register_pickle_by_value(sys.modules[name])
    try:
        yield
    finally:
        for name in ours:
            cloudpickle.unregister_pickle_by_value(sys.modules[name])


def _registered() -> set[str]:
    from cloudpickle.cloudpickle import list_registry_pickle_by_value

    return list_registry_pickle_by_value()


def _unpacked(name: str, code: bytes) -> Factory:
    try:
        return cloudpickle.loads(code)
    except Exception as error:  # a module that is missing there, for one
        raise InputError(
            f"judge {name}: another process can't read it ({said(error)}); expected "
            "a factory whose modules are installed, or n_jobs=1 (--jobs 1)"
        ) from None


# --- Found ----------------------------------------------------------------------------


class Named(NamedTuple):
    """A factory, and what tables call it."""

    name: str
    factory: Factory


def is_own(judge: object) -> bool:
    """Return whether a judge is one's own: a factory, or a text that leads to one."""
    return ":" in judge if isinstance(judge, str) else callable(judge)


def find_judge(judge: str | Factory) -> Named:
    """Return a factory, of which a text says where it is, and its name.

    "package.module:factory" is imported: it must be installed or on PYTHONPATH. The
    file of "path/to/file.py:factory" is run, and its folder isn't looked at: what the
    file imports must be installed, too. The name is the factory's attribute `name`, or
    what the text says without folders, or the function's own.

    Raises `InputError`: nothing is there, it fails, or it isn't a factory.
    """
    factory: Any = judge
    if isinstance(judge, str):
        factory = load_named(judge, "judge")
        where, _, attribute = judge.rpartition(":")
        name = f"{Path(where).name if where.endswith('.py') else where}:{attribute}"
    else:
        function = getattr(factory, "func", factory)  # of a functools.partial
        name = getattr(function, "__name__", type(factory).__name__).strip("<>")
    own = getattr(factory, "name", None)
    name = own if isinstance(own, str) else name
    ensure(
        not isinstance(factory, nn.Module),
        f"judge {name} is a network, {type(factory).__name__}; expected a factory that "
        "builds one: each seed begins with weights of its own",
    )
    ensure(
        callable(factory),
        f"judge {name} is {describe(factory)}; expected a function or class that "
        "builds a network",
    )
    ensure(
        NAME.fullmatch(name) is not None and name == name.strip(),
        f"judge {name!r}: expected a name of letters, digits, spaces and . : + = ( ) / "
        "- _ for the table; an attribute `name` of the factory sets it",
    )
    return Named(name, factory)


# --- Tried ----------------------------------------------------------------------------


@plain_torch(grad=True)
def try_judge(named: Named, num_classes: int, image_size: int) -> OwnJudge:
    """Build a judge and ask it once, so that what is wrong is said before it trains.

    Args:
        named: what `find_judge` returns.
        num_classes: how many outputs it must have.
        image_size: height and width of the images in pixels.

    Raises:
        InputError: the factory takes other arguments, fails, or returns something else
            than a network; or the network can't take two black images, doesn't answer
            with finite floats (2, num_classes), has nothing to learn, or draws where no
            seed of ours reaches.
    """
    name, factory = named
    unseen = getattr(factory, "unseen", True)
    ensure(
        isinstance(unseen, bool),
        f"judge {name}: its unseen is {describe(unseen)}; expected True or False",
    )

    def build(seed: int) -> nn.Module:
        return _built(name, factory, num_classes, image_size, seed)

    first, again, other = build(0), build(0), build(1)
    for key, value in _tensors(first).items():
        ensure(
            _equal(value, _tensors(again).get(key)),
            f"judge {name}: two networks of one seed differ in {key}; expected all "
            "weights to be drawn by torch, not by NumPy or Python, and not by a "
            "generator of its own",
        )
    norm = norm_of(first)
    black = torch.zeros(2, CHANNELS, image_size, image_size)
    draws = _ask(name, again, black, num_classes)
    modules = modules_of(factory, first)
    digest, unidentified = _identity(factory, first, other)
    return OwnJudge(name, norm, unseen, draws, digest, unidentified, factory, modules)


def _built(
    name: str, factory: Factory, num_classes: int, image_size: int, seed: int
) -> nn.Module:
    """Call a factory; what it draws comes from a seed, not from torch's generator."""
    sizes = (num_classes, image_size, CHANNELS)
    arguments = dict(zip(ARGUMENTS, sizes, strict=True))
    call = CALL.format(*sizes)
    _check_signature(name, factory, arguments)
    generator = torch.Generator().manual_seed(seed)
    with plain_torch(grad=True), _unmoved(), Seeded(generator):
        try:
            network = factory(**arguments)
            if isinstance(network, nn.Module):
                network = network.to("cpu")
        except Exception as error:  # the user's code fails in any way
            raise InputError(
                f"judge {name}: the call {call} failed ({said(error)})"
            ) from error
        ensure(
            isinstance(network, nn.Module),
            f"judge {name}: {call} returned something of type "
            f"{type(network).__name__}; expected an nn.Module",
        )
        if any(map(is_lazy, [*network.parameters(), *network.buffers()])):
            # which draws its weights when it first sees images
            black = torch.zeros(2, CHANNELS, image_size, image_size)
            with torch.no_grad():
                _answer(name, network.eval(), black, num_classes)
    return network


def _check_signature(name: str, factory: Factory, arguments: dict[str, int]) -> None:
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):  # of what is written in C
        return
    try:
        signature.bind(**arguments)
    except TypeError as error:
        expected = CALL.format("...", "...", "...")
        raise InputError(
            f"judge {name}: the factory takes {signature} ({error}); expected one that "
            f"can be called as {expected}"
        ) from None


def _ask(name: str, network: nn.Module, black: Tensor, num_classes: int) -> bool:
    """Return whether a network draws while it trains; raise if its answers are odd."""
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    with plain_torch(grad=False), _unmoved() as moved, Seeded(generator):
        first = _answer(name, network.eval(), black, num_classes)
        second = _answer(name, network, black, num_classes)
    still = torch.equal(generator.get_state(), before) and not moved()
    ensure(
        still and torch.equal(first, second),
        f"judge {name}: in evaluation mode it draws at random; expected one answer to "
        "one image",
    )
    with plain_torch(grad=True), _unmoved() as moved, Seeded(generator):
        answer = _answer(name, network.train(), black, num_classes)
    ensure(
        not moved(),
        f"judge {name}: while it trains it draws where no seed of ours reaches; "
        "expected nn.Dropout or a torch function that takes a generator",
    )
    ensure(
        answer.requires_grad,
        f"judge {name}: nothing in it learns; expected parameters with gradients",
    )
    return not torch.equal(generator.get_state(), before)


def _answer(name: str, network: nn.Module, images: Tensor, num_classes: int) -> Tensor:
    mode = "training" if network.training else "evaluation"
    shape = tuple(images.shape)
    what = f"judge {name}: its answer to images {shape} in {mode} mode"
    try:
        answer = network(images)
    except Exception as error:  # the user's code fails in any way
        raise InputError(
            f"judge {name}: in {mode} mode it can't take images {shape} ({said(error)})"
        ) from error
    floats(answer, what, (len(images), num_classes))
    ensure(
        bool(answer.isfinite().all()),
        f"{what} holds NaN or infinite values; expected finite ones",
    )
    return answer


@contextmanager
def _unmoved() -> Iterator[Callable[[], bool]]:
    """Leave torch's one generator as it was; yield a function: has it moved?"""
    before = torch.get_rng_state()
    found = False
    try:
        yield lambda: found
    finally:
        found = not torch.equal(torch.get_rng_state(), before)
        if found:
            torch.set_rng_state(before)


def norm_of(network: nn.Module) -> str:
    """Return how a network normalises: "BN", "GN", "IN", "LN" or "none".

    Of several the first of these: whoever has batch norm anywhere feels a shift between
    training and test images. Source: ours.
    """
    kinds = {_norm(module) for module in network.modules()}
    return next((norm for norm in ("BN", "GN", "IN", "LN") if norm in kinds), "none")


def _norm(module: nn.Module) -> str:
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return "BN"
    if isinstance(module, nn.GroupNorm):
        return "IN" if module.num_groups == module.num_channels else "GN"
    if isinstance(module, nn.modules.instancenorm._InstanceNorm):
        return "IN"
    return "LN" if isinstance(module, nn.LayerNorm | nn.RMSNorm) else ""


# --- Told apart -----------------------------------------------------------------------


def _identity(
    factory: Factory, network: nn.Module, other: nn.Module
) -> tuple[str, str]:
    """Return a digest of all that computes; or "", and what can't be told.

    Of weights that follow the seed only the shape counts: the code that draws them is
    in the digest, and another machine may round them otherwise.
    """
    theirs = _tensors(other)
    try:
        if getattr(factory, "fingerprint", None) is not None:
            return identity(factory), ""
        for key, value in _tensors(network).items():
            if not _equal(value, theirs.get(key)):
                value.zero_()
        return identity([factory, _settings(factory), network]), ""
    except Unidentified as unknown:
        return "", str(unknown)


def _settings(factory: Factory) -> dict[str, Any]:
    """Return the attributes of a factory; those of a class belong to its code."""
    return {} if isinstance(factory, type) else dict(getattr(factory, "__dict__", {}))


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    named = [*network.named_parameters(), *network.named_buffers()]
    return {name: value.detach() for name, value in named}


def _equal(one: Tensor, other: Tensor | None) -> bool:
    """Return whether two tensors are the same bits; NaN equals NaN."""
    if other is None or one.shape != other.shape or one.dtype != other.dtype:
        return False
    return bool(((one == other) | ((one != one) & (other != other))).all())


def said(error: BaseException) -> str:
    """Return an error of the user's code in one line."""
    return f"{type(error).__name__}: {first_line(error)}"[:200]
