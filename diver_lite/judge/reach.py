"""Which modules of the user's own a judge's code lies in, for processes that lack them.

Names are followed from function to function, through what is the user's own; what is
installed is there in other processes, too. Source: ours.
"""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import FunctionType, MethodType, ModuleType
from typing import Any

from torch import nn

from diver_lite.priors.identity import KNOWN, PLAIN, names_in

STANDARD = Path(sysconfig.get_path("stdlib")).resolve()
PACKAGES = {"site-packages", "dist-packages"}


def modules_of(factory: Any, network: nn.Module) -> tuple[str, ...]:
    """Return the user's own modules that a factory, and what it built, refer to.

    That is by globals of the user's own functions and of the methods of classes, what
    those refer to, and so on; arguments' defaults; and attributes.
    """
    found: set[str] = set()
    seen: dict[int, Any] = {}
    todo = [factory]
    for module in network.modules():
        todo += [type(module), *vars(module).values()]
    while todo:
        value = todo.pop()
        if id(value) in seen or isinstance(value, PLAIN):
            continue
        seen[id(value)] = value  # and so keep its number from being given again
        if isinstance(value, ModuleType):
            found.add(value.__name__)
            continue
        where = getattr(value, "__module__", None)
        if isinstance(where, str) and is_users(where):
            found.add(where)
        todo += _referred(value)
    # "__main__" is sent with its code anyway
    return tuple(sorted(found - {"__main__"}))


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


def _referred(value: Any) -> Iterator[Any]:
    """Yield what a value leads to."""
    if isinstance(value, partial):
        yield from (value.func, *value.args, *value.keywords.values())
    elif isinstance(value, MethodType):
        yield from (value.__func__, value.__self__)
    elif isinstance(value, FunctionType):
        if is_users(value.__module__):
            yield from _of_function(value)
    elif isinstance(value, type):
        for base in value.__mro__:
            if is_users(base.__module__):
                yield from _of_class(base)
    elif isinstance(value, list | tuple | set | frozenset):
        yield from value
    elif isinstance(value, dict):
        yield from value.values()
    elif is_users(type(value).__module__):
        yield type(value)
        yield getattr(value, "__dict__", None)


def _of_function(function: FunctionType) -> Iterator[Any]:
    yield function.__defaults__
    yield function.__kwdefaults__
    for cell in function.__closure__ or ():
        yield cell.cell_contents
    names = names_in(function.__code__)
    for name in sorted(names & {*function.__globals__}):
        value = function.__globals__[name]
        if isinstance(value, ModuleType):
            yield from _of_module(value, names)
        else:
            yield value


def _of_module(module: ModuleType, names: set[str]) -> Iterator[Any]:
    """Yield a module of the user's, and what code that names it may take from it."""
    todo = [module]
    while todo:
        module = todo.pop()
        if not is_users(module.__name__):
            continue
        yield module
        for name in sorted(names & {*vars(module)}):
            each = vars(module)[name]
            if not isinstance(each, ModuleType):
                yield each
            # deeper ones alone, as modules import each other in circles
            elif each.__name__.startswith(f"{module.__name__}."):
                todo.append(each)


def _of_class(kind: type) -> Iterator[Any]:
    for name, value in vars(kind).items():
        if isinstance(value, staticmethod | classmethod):
            yield value.__func__
        elif isinstance(value, property):
            yield from [each for each in (value.fget, value.fset) if each]
        elif not name.startswith(("__", "_abc_")) or isinstance(value, FunctionType):
            yield value  # but for what Python puts there
