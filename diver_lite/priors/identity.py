"""Say which prior this is, so that nothing goes on with another one.

A run that goes on after an interruption, or takes a result from a file, must find the
prior that it began with: its weights, its settings, its code. Source: ours.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from diver_lite.files import fingerprint
from diver_lite.priors.contract import Wrapped
from diver_lite.priors.dit import DiTPrior
from diver_lite.priors.fast import Prepared

PLAIN = (
    bool, int, float, complex, str, bytes, type(None), Path,
    torch.dtype, torch.device, torch.Size, np.generic,
)  # fmt: skip
# whose versions, or declared results, stand for their code
KNOWN = ("diver_lite.", "torch.", "diffusers.", "transformers.", "numpy.", "builtins.")


class Unidentified(Exception):
    """Something that computes can't be told from something else; the text says what."""


def identity(prior: Any) -> str:
    """Return a digest of all of a prior that computes, wherever it lies on disk.

    A prior of one's own may say it itself, by a method or attribute `fingerprint`, a
    text that changes when its results do. Otherwise everything is read that hangs on
    it: modules, tensors, arrays, plain values, priors within, and the source of its
    classes and functions. The same serves a judge of one's own.

    Raises:
        Unidentified: something that hangs on it is none of these.
    """
    own = getattr(prior, "fingerprint", None)
    if own is not None:
        text = own() if callable(own) else own
        if not isinstance(text, str) or not text:
            raise Unidentified(f"its fingerprint is {text!r}, not a text")
        return fingerprint([], text)
    tensors: list[Tensor] = []
    words: list[str] = []
    for found in _parts(prior, type(prior).__name__, {}):
        if isinstance(found, Tensor):
            tensors.append(found)
        else:
            words.append(found)
    return fingerprint(tensors, "\n".join(words))


def _parts(value: Any, name: str, seen: dict[int, Any]) -> Iterator[str | Tensor]:
    """Yield the tensors and texts that a value consists of, in a fixed order.

    `seen` holds what was read already, so that its number isn't given to another.
    """
    if isinstance(value, PLAIN):
        yield f"{name} = {value!r}"
        return
    if id(value) in seen:
        yield f"{name} = again"
        return
    seen[id(value)] = value
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(np.ascontiguousarray(value))
    if isinstance(value, Tensor):
        yield f"{name} = {value.dtype}"
        yield value
    elif isinstance(value, Mapping):
        for key in sorted(value, key=str):
            yield from _parts(value[key], f"{name}[{key!r}]", seen)
    elif isinstance(value, list | tuple | set | frozenset):
        several = sorted(value, key=str) if isinstance(value, set) else value
        for index, each in enumerate(several):
            yield from _parts(each, f"{name}[{index}]", seen)
    elif isinstance(value, partial):
        yield from _parts([value.func, value.args, value.keywords], name, seen)
    elif isinstance(value, BuiltinFunctionType) and _is_known(value):
        yield f"{name} = {value.__module__}.{value.__qualname__}"
    elif isinstance(value, type | FunctionType | MethodType):
        yield _code(value, name)
        yield from _parts(_captured(value), f"{name}: captured", seen)
    elif isinstance(value, ModuleType) or not hasattr(value, "__dict__"):
        raise Unidentified(f"{name} is of type {type(value).__name__}")
    else:
        yield _code(type(value), name)
        yield from _parts(_attributes(value), name, seen)


def _is_known(function: BuiltinFunctionType) -> bool:
    """Return whether its name says what a function in C does: it has no object."""
    return isinstance(function.__self__, ModuleType | type(None))


def _attributes(value: Any) -> dict[str, Any]:
    """Return what an object computes with; of our own and diffusers' what they declare.

    Their other attributes are caches, or say where something came from.
    """
    if isinstance(value, DiTPrior):
        others = dict(vars(value))
        for name in ("tokenizer", "text_encoder"):  # they have told: `embeddings`
            others.pop(name, None)
        if isinstance(others.get("forward"), Prepared):
            del others["forward"]  # the same network, asked otherwise
        return others
    if isinstance(value, Wrapped) and type(value).__module__.startswith(KNOWN[0]):
        return {"prior": value.prior}
    if hasattr(value, "config") and type(value).__module__.startswith("diffusers."):
        # names with an underscore say where it came from, and with which version
        config = {k: v for k, v in value.config.items() if not k.startswith("_")}
        found: dict[str, Any] = {"config": {k: str(v) for k, v in config.items()}}
        if isinstance(value, nn.Module):
            found["tensors"] = dict(value.state_dict())
            found["kinds"] = [type(module) for module in value.modules()]
        return found
    if isinstance(value, nn.Module):
        known = {*vars(nn.Module())}
        others = {k: v for k, v in vars(value).items() if k not in known}
        hooks = [*value._forward_hooks.values(), *value._forward_pre_hooks.values()]
        inside = dict(value.named_children())
        return others | {"hooks": hooks, **inside, **_tensors_of(value)}
    return vars(value)


def _tensors_of(module: nn.Module) -> dict[str, Any]:
    own = dict(module.named_parameters(recurse=False))
    return own | dict(module.named_buffers(recurse=False)) | {"train": module.training}


def _code(kind: Any, name: str) -> str:
    """Return what identifies a class or function: its source, if it is the user's."""
    if isinstance(kind, MethodType):
        kind = kind.__func__
    where = f"{name}: {kind.__module__}.{kind.__qualname__}"
    if f"{kind.__module__}.".startswith(KNOWN):
        return where
    try:
        bases = [b for b in getattr(kind, "__mro__", (kind,)) if b is not object]
        theirs = [b for b in bases if not f"{b.__module__}.".startswith(KNOWN)]
        return "\n".join([where, *map(inspect.getsource, theirs)])
    except (OSError, TypeError):
        raise Unidentified(f"the source of {name} can't be read") from None


def _captured(value: Any) -> dict[str, Any]:
    """Return what a function brings along from where it was made."""
    if isinstance(value, type):
        return {}
    if isinstance(value, MethodType):
        return {"self": value.__self__}
    cells = value.__closure__ or ()
    inside = dict(zip(value.__code__.co_freevars, cells, strict=True))
    captured = {name: cell.cell_contents for name, cell in inside.items()}
    defaults = [value.__defaults__ or (), value.__kwdefaults__ or {}]
    return captured | {"defaults": defaults}
