"""Say which prior this is, so that nothing goes on with another one.

A run that goes on after an interruption, or takes a result from a file, must find the
prior that it began with: its weights, its settings, its code. Source: ours.
"""

from __future__ import annotations

import dis
import inspect
import logging
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache, cached_property, partial
from importlib import metadata
from pathlib import Path
from types import (
    BuiltinFunctionType,
    CodeType,
    FunctionType,
    GetSetDescriptorType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
)
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from diver_lite.files import fingerprint
from diver_lite.named_code import PREFIX, source_of
from diver_lite.priors.contract import Prior, Wrapped
from diver_lite.priors.dit import DiTPrior
from diver_lite.priors.fast import Prepared

PLAIN = (
    bool, int, float, complex, str, bytes, type(None), type(...), Path, range, slice,
    torch.dtype, torch.device, torch.Size, np.generic, np.dtype,
)  # fmt: skip
# whose versions, or declared results, stand for their code
KNOWN = ("diver_lite.", "torch.", "diffusers.", "transformers.", "numpy.", "builtins.")
# they compute nothing
IDLE = (logging.Logger, MemberDescriptorType, GetSetDescriptorType)


class Unidentified(Exception):
    """Something that computes can't be told from something else; the text says what."""


def identity(prior: Any) -> str:
    """Return a digest of all of a prior that computes, wherever it lies on disk.

    A prior of one's own may say it itself, by a method or attribute `fingerprint`, a
    text that changes when its results do; one that it holds speaks for that one alone.
    Otherwise everything is read that hangs on it: modules, tensors, arrays, plain
    values, priors within, and the source of its classes and functions, with what that
    finds in its own modules. Of other installed packages the version counts. The same
    serves a judge of one's own.

    Raises:
        Unidentified: something that hangs on it is none of these.
    """
    tensors: list[Tensor] = []
    words: list[str] = []
    name = type(prior).__name__
    told = _told(prior)
    for found in _Reader().parts(prior, name) if told is None else [told]:
        if isinstance(found, Tensor):
            tensors.append(found)
        else:
            words.append(found)
    return fingerprint(tensors, "\n".join(words))


def _told(prior: Any) -> str | None:
    """Return what a prior says of itself by a fingerprint; None: it has none.

    It is looked up without `__getattr__`: a wrapper that passes on names isn't what it
    holds.
    """
    if inspect.getattr_static(prior, "fingerprint", None) is None:
        return None
    text = prior.fingerprint
    if callable(text):
        text = text()
    if not isinstance(text, str) or not text:
        raise Unidentified(f"its fingerprint is {text!r}, not a text")
    return f"{_place(type(prior))}: {text}"


class _Reader:
    """What reads a prior, and knows what it has read already."""

    def __init__(self) -> None:
        # by number; each is held, so that its number isn't given to another
        self.seen: dict[int, tuple[str, Any]] = {}
        self.own: set[str] = set()  # packages of the priors themselves

    def parts(self, value: Any, name: str) -> Iterator[str | Tensor]:
        """Yield the tensors and texts that a value consists of, in a fixed order."""
        if isinstance(value, PLAIN):
            yield f"{name} = {value!r}"
            return
        if id(value) in self.seen:
            yield f"{name} = {self.seen[id(value)][0]}"
            return
        self.seen[id(value)] = name, value
        if isinstance(value, np.ndarray):
            yield from self._array(value, name)
        elif isinstance(value, Tensor):
            yield f"{name} = {value.dtype}"
            yield value
        elif isinstance(value, Mapping | list | tuple | set | frozenset):
            for key, each in _items(value):
                yield from self.parts(each, f"{name}[{key!r}]")
        elif isinstance(value, BuiltinFunctionType | np.ufunc):
            yield f"{name} = {getattr(value, '__qualname__', value.__name__)}"
            holder = getattr(value, "__self__", None)
            if not isinstance(holder, type | ModuleType):
                yield from self.parts(holder, f"{name}: self")
        elif isinstance(value, type | FunctionType):
            yield self._code(value, name)
            yield from self.parts(self._captured(value), f"{name}: captured")
        elif (inside := _held(value)) is not None:
            yield f"{name} is a {type(value).__name__}"
            yield from self.parts(inside, name)
        elif isinstance(value, IDLE):
            yield f"{name} computes nothing"
        elif isinstance(value, ModuleType) or not hasattr(value, "__dict__"):
            raise Unidentified(f"{name} is of type {type(value).__name__}")
        else:
            yield from self._object(value, name)

    def _array(self, array: np.ndarray, name: str) -> Iterator[str | Tensor]:
        yield f"{name} = {array.dtype} {array.shape}"
        if array.dtype.hasobject:
            yield from self.parts(array.ravel().tolist(), name)
        else:  # torch lacks some of NumPy's types
            yield torch.tensor(bytearray(array.tobytes()), dtype=torch.uint8)

    def _object(self, value: Any, name: str) -> Iterator[str | Tensor]:
        if isinstance(value, Prior):
            self.own.add(_package(type(value).__module__))
            told = _told(value)
            if told is not None:
                yield f"{name} = {told}"
                return
        yield from self.parts(type(value), f"{name}: kind")
        yield from self.parts(_attributes(value), name)

    def _library(self, module: str) -> str | None:
        """Return the version of the package that a module belongs to.

        None: it is the user's, so its code is read.
        """
        package = _package(module)
        if f"{module}.".startswith(KNOWN) or package in sys.stdlib_module_names:
            return ""
        file = getattr(sys.modules.get(package), "__file__", None) or ""
        installed = {"site-packages", "dist-packages"} & {*Path(file).parts}
        if installed and package not in self.own:
            return _version(package)
        return None

    def _code(self, kind: Any, name: str) -> str:
        """Return what identifies a class or function: its source, and its version."""
        where = f"{name}: {_place(kind)}"
        if self._library(_module(kind)) == "":
            return where
        bases = getattr(kind, "__mro__", None) or (kind,)
        theirs = [base for base in bases if self._library(_module(base)) != ""]
        versions = [self._library(_module(base)) or "" for base in theirs]
        try:
            code = [source_of(base, _module(base)) for base in theirs]
            return "\n".join([where, *versions, *code])
        except (OSError, TypeError):
            raise Unidentified(f"the source of {name} can't be read") from None

    def _captured(self, value: Any) -> dict[str, Any]:
        """Return what the code of a class or function finds elsewhere."""
        found: dict[str, Any] = {}
        if isinstance(value, type):
            for base in value.__mro__:
                if self._library(base.__module__) is None:
                    for name, each in vars(base).items():
                        if _counts(name, each):
                            found[f"{base.__qualname__}.{name}"] = each
            return found
        for name, cell in zip(
            value.__code__.co_freevars, value.__closure__ or (), strict=True
        ):
            found[name] = _content(cell)
        found["defaults"] = [value.__defaults__, value.__kwdefaults__]
        if self._library(_module(value)) is None:
            for name in _global_names(value.__code__):
                if name in value.__globals__:
                    found |= self._global(name, value.__globals__[name], value.__code__)
        return found

    def _global(self, name: str, value: Any, code: CodeType) -> dict[str, Any]:
        """Return a global that code uses; of a module what the code may take of it."""
        if not isinstance(value, ModuleType):
            return {name: value}
        version = self._library(value.__name__)
        if version is not None:
            return {name: f"{value.__name__} {version}"}
        found: dict[str, Any] = {}
        for attribute in sorted(names_in(code) & {*vars(value)}):
            inside = vars(value)[attribute]
            if inside is not value:
                found |= self._global(f"{name}.{attribute}", inside, code)
        return found


def _items(value: Any) -> Iterable[tuple[Any, Any]]:
    """Return a collection's keys, or places, and what is there, in a fixed order."""
    if isinstance(value, Mapping):
        return [(key, value[key]) for key in sorted(value, key=str)]
    if isinstance(value, set | frozenset):
        value = sorted(value, key=str)
    return enumerate(value)


def _held(value: Any) -> Any:
    """Return what a thing of Python's own holds: a bound method, a decorated one."""
    if isinstance(value, MethodType):
        return [value.__func__, value.__self__]
    if isinstance(value, staticmethod | classmethod):
        return value.__func__
    if isinstance(value, property):
        return [value.fget, value.fset]
    if isinstance(value, partial):
        return [value.func, value.args, value.keywords]
    if isinstance(value, cached_property):
        return value.func
    if type(value).__module__ == "functools":  # a cache
        return getattr(value, "__wrapped__", None)
    return None


def _counts(name: str, value: Any) -> bool:
    """Return whether an attribute of a class computes, and isn't Python's own."""
    if name.startswith("__"):  # dataclasses write some from strings
        written = isinstance(value, FunctionType) and name != "__repr__"
        return written and value.__code__.co_filename != "<string>"
    return name != "_abc_impl"


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


def names_in(code: CodeType) -> set[str]:
    """Return all names of variables and attributes in code, and in what is inside."""
    inner = [each for each in code.co_consts if isinstance(each, CodeType)]
    return {*code.co_names}.union(*map(names_in, inner))


def _global_names(code: CodeType) -> set[str]:
    """Return the names that code looks up in its module, also from inside."""
    found = {
        step.argval
        for step in dis.get_instructions(code)
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")
    }
    inner = [each for each in code.co_consts if isinstance(each, CodeType)]
    return found.union(*map(_global_names, inner))


def _module(kind: Any) -> str:
    """Return the module whose code this is; a decorator names that of its function."""
    if isinstance(kind, FunctionType):
        return str(kind.__globals__.get("__name__"))
    return kind.__module__


def _place(kind: Any) -> str:
    """Return the module and name of a class or function.

    A named file's module is called by all of its content: what computes is a part.
    """
    module = _module(kind)
    if module.startswith(PREFIX):
        module = "a named file"
    return f"{module}.{kind.__qualname__}"


def _package(module: str) -> str:
    return module.partition(".")[0]


@cache
def _version(package: str) -> str:
    names = _distributions().get(package, [])
    return " ".join(f"{name} {metadata.version(name)}" for name in sorted({*names}))


@cache
def _distributions() -> Mapping[str, list[str]]:
    return metadata.packages_distributions()


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
