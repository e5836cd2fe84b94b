"""What a judge of one's own consists of: the code that its code refers to by name.

Source alone doesn't tell two judges apart: a helper function, or a constant of the
module, may have changed. So names are followed, through what is the user's own; what is
installed is left to its version. Source: ours.
"""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

from torch import nn

from diver_lite.priors.identity import KNOWN, PLAIN

STANDARD = Path(sysconfig.get_path("stdlib")).resolve()
PACKAGES = {"site-packages", "dist-packages"}


class Reached(NamedTuple):
    """What code refers to."""

    values: dict[str, Any]  #: name -> function, class or value
    modules: tuple[str, ...]  #: the user's own that it comes from


def reached_by(factory: Any, network: nn.Module) -> Reached:
    """Return what a factory, and a network that it built, refer to by name.

    These are globals of the user's own functions and of the methods of classes, what
    those refer to, and so on; arguments' defaults; and plain attributes of classes.
    """
    values: dict[str, Any] = {}
    if not isinstance(factory, type):  # whose attributes come below, with its bases'
        values["attributes"] = dict(getattr(factory, "__dict__", {}))
    modules: set[str] = set()
    seen: dict[int, Any] = {}
    todo = [factory]
    for module in network.modules():
        todo += [type(module), *vars(module).values()]
    while todo:
        value = todo.pop()
        if id(value) in seen or isinstance(value, PLAIN):
            continue
        seen[id(value)] = value  # and so keep its number from being given again
        where = getattr(value, "__module__", None)
        if isinstance(where, str) and is_users(where):
            modules.add(where)
        for name, each in _referred(value):
            if isinstance(each, ModuleType):
                modules.add(each.__name__)
                continue
            if name:
                values[name] = each
            todo.append(each)
    # "__main__" is sent with its code anyway
    return Reached(values, tuple(sorted(modules - {"__main__"})))


def is_users(module: str) -> bool:
    """Return whether a module, of this name, is the user's own: not installed."""
    if f"{module}.".startswith(KNOWN):
        return False
    if module == "__main__":
        return True
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None:
        return False
    path = Path(file).resolve()
    return not (path.is_relative_to(STANDARD) or PACKAGES & {*path.parts})


def _referred(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield what a value leads to: a name, "" for a part of it, and another value."""
    if isinstance(value, partial):
        yield from [("", each) for each in (value.func, *value.args)]
        yield from [("", each) for each in value.keywords.values()]
    elif isinstance(value, MethodType):
        yield from [("", value.__func__), ("", value.__self__)]
    elif isinstance(value, FunctionType):
        if is_users(value.__module__):
            yield from _of_function(value)
    elif isinstance(value, type):
        for base in value.__mro__:
            if is_users(base.__module__):
                yield from _of_class(base)
    elif isinstance(value, list | tuple | set | frozenset):
        yield from [("", each) for each in value]
    elif isinstance(value, dict):
        yield from [("", each) for each in value.values()]
    elif is_users(type(value).__module__):
        yield "", type(value)
        yield "", getattr(value, "__dict__", None)


def _of_function(function: FunctionType) -> Iterator[tuple[str, Any]]:
    where = f"{function.__module__}.{function.__qualname__}"
    defaults = (function.__defaults__, function.__kwdefaults__)
    yield f"{where}: defaults", defaults
    for cell in function.__closure__ or ():
        yield "", cell.cell_contents
    names = {*_names(function.__code__)}
    for name in sorted(names & {*function.__globals__}):
        yield from _named(f"{function.__module__}.{name}", function, name, names)


def _named(
    where: str, function: FunctionType, name: str, names: set[str]
) -> Iterator[tuple[str, Any]]:
    """Yield a global, or of a module of the user's what a function takes from it."""
    value = function.__globals__[name]
    if not isinstance(value, ModuleType):
        yield where, value
        return
    todo = [value]
    while todo:
        module = todo.pop()
        if not is_users(module.__name__):
            continue
        yield "", module
        for inside in sorted(names & {*vars(module)}):
            each = vars(module)[inside]
            if isinstance(each, ModuleType):
                # deeper ones alone, as modules import each other in circles
                if each.__name__.startswith(f"{module.__name__}."):
                    todo.append(each)
            else:
                yield f"{module.__name__}.{inside}", each


def _names(code: CodeType) -> Iterator[str]:
    """Yield the names that code looks up, also inside of functions within it."""
    yield from code.co_names
    for inside in code.co_consts:
        if isinstance(inside, CodeType):
            yield from _names(inside)


def _of_class(kind: type) -> Iterator[tuple[str, Any]]:
    for name, value in vars(kind).items():
        if isinstance(value, staticmethod | classmethod):
            yield "", value.__func__
        elif isinstance(value, property):
            yield from [("", each) for each in (value.fget, value.fset) if each]
        elif isinstance(value, FunctionType):
            yield "", value
        elif not name.startswith(("__", "_abc_")):  # what Python puts there
            yield f"{kind.__module__}.{kind.__qualname__}.{name}", value
