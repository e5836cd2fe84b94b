"""Code that the user names: `package.module:name` or `path/to/file.py:name`.

It is run because a person wrote its name on the command line or in a call. No file of
ours or of a stranger can name code, and a module is never looked for in the working
folder, see `trust`. Source: ours; the form is that of Python's entry points.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from diver_lite.checks import InputError, ensure, first_line
from diver_lite.trust import installed_code_only

PREFIX = "named_code_"  # of the module that a file is; a digest of its content follows


def names_code(text: object) -> bool:
    """Return whether a text has the form `package.module:name` or `file.py:name`."""
    where, _, name = str(text).rpartition(":")
    module = all(part.isidentifier() for part in where.split("."))
    module = module and len(where) > 1  # a single letter is a drive of Windows
    return name.isidentifier() and (where.endswith(".py") or module)


def load_named(text: str, argument: str) -> Callable[..., Any]:
    """Run the module or file that a text names, and return what is called so in it.

    Args:
        text: `package.module:name`, of what is installed or lies in an absolute folder
            of PYTHONPATH; or `path/to/file.py:name`. A file is run once a process, and
            finds no modules beside it.
        argument: what the text was given as, for messages: "--prior".

    Returns:
        A function or class, which hasn't been called.

    Raises:
        InputError: there is no such file, module or name, its code fails, or what has
            that name can't be called.

    Source: ours.
    """
    ensure(
        names_code(text),
        f"{argument} is {text!r}; expected package.module:name or path/to/file.py:name",
    )
    where, _, name = text.rpartition(":")
    with _naming(text, argument):
        if where.endswith(".py"):
            module = _run_file(where, f"{argument} {text!r}")
        else:
            module = _import(where, f"{argument} {text!r}")
    mine = [
        key
        for key, value in vars(module).items()
        if callable(value) and getattr(value, "__module__", "") == module.__name__
    ]
    found = getattr(module, name, None)
    ensure(
        callable(found),
        f"{argument} {text!r}: {where} has no function or class {name!r}; expected "
        f"one of {mine[:9]}",
    )
    return found  # type: ignore[return-value]


def call_named(factory: Callable, text: str, argument: str, **options: Any) -> Any:
    """Call what `load_named` returned; what goes wrong in it is told in one sentence.

    Raises:
        InputError: the call failed; where, if it was in the user's code.

    Source: ours.
    """
    with _naming(text, argument):
        return factory(**options)


def _run_file(where: str, what: str) -> ModuleType:
    """Return the module that a file is; the same content is run once in a place."""
    path = Path(where).expanduser().resolve()
    ensure(path.is_file(), f"{what}: there is no file {where}")
    code = path.read_bytes()
    # by its content: where it lies is no part of what it computes
    name = f"{PREFIX}{hashlib.sha256(code).hexdigest()[:16]}"
    there = sys.modules.get(name)
    if there is not None and there.__file__ == str(path):
        return there
    module = ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module  # where pickle and inspect look for it
    try:
        # not by Python's import, which would take compiled code that lies beside it
        exec(compile(code, path, "exec"), vars(module))
    except BaseException:
        del sys.modules[name]
        raise
    vars(module)["__source__"] = importlib.util.decode_source(code)
    return module


def source_of(kind: Any, module: str) -> str:
    """Return the source of a class or function, of a named file as it was when run.

    The file may have changed or moved since. Raises `OSError`: it can't be read.
    """
    # of a decorated function its own, not of what it decorates
    code = getattr(kind, "__code__", kind)
    text = getattr(sys.modules.get(module), "__source__", None)
    written = not isinstance(code, CodeType) or not code.co_filename.startswith("<")
    if text is None or not written:
        return inspect.getsource(code)
    lines = text.splitlines(keepends=True)
    if isinstance(code, CodeType):
        return "".join(inspect.getblock(lines[code.co_firstlineno - 1 :]))
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ClassDef) and node.name == kind.__name__:
            first = min(each.lineno for each in [node, *node.decorator_list])
            found += lines[first - 1 : node.end_lineno]
    if not found:  # it was made by a call of `type`
        raise OSError(f"no class {kind.__name__}")
    return "".join(found)


def _import(where: str, what: str) -> ModuleType:
    with installed_code_only(), _absolute_path_only():
        try:
            return importlib.import_module(where)
        except ModuleNotFoundError as error:
            missing = error.name or ""
            if not f"{where}.".startswith(f"{missing}."):  # another, inside of it
                raise
            raise InputError(
                f"{what}: there is no module {missing} among what is installed, and "
                "the working folder isn't searched; name a file, as in "
                "path/to/file.py:name"
            ) from None


@contextmanager
def _absolute_path_only() -> Iterator[None]:
    """Look in no folder that PYTHONPATH names from the working folder on."""
    entries = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    relative = {os.path.realpath(e) for e in entries if not os.path.isabs(e)}
    before = [*sys.path]
    sys.path[:] = [e for e in before if os.path.realpath(e) not in relative]
    try:
        yield
    finally:
        sys.path[:] = before


@contextmanager
def _naming(text: str, argument: str) -> Iterator[None]:
    """Tell what goes wrong in the user's code by one sentence, with its line."""
    try:
        yield
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(last.filename).name}, line {last.lineno}"
        if isinstance(error, SyntaxError):
            place = f"{Path(error.filename or '').name}, line {error.lineno}"
        raise InputError(
            f"{argument} {text!r} fails: {type(error).__name__}: {first_line(error)} "
            f"({place})"
        ) from error
