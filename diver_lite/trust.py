"""Whose code runs: what is installed, and nothing that lies in the working folder.

Where a stranger's set lies, a file may be called like a module that we import. Python
looks into the working folder first in processes that it starts with `-m` or `-c`, as
joblib does. Source: ours; "safe path" is Python's (3.11), and processes inherit it.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def forget_working_folder() -> None:
    """Look for modules nowhere in the working folder, nor let processes do so."""
    sys.path[:] = _safe(sys.path)
    os.environ |= _environment()


_LOCK = threading.Lock()
_holders = 0  # blocks that are running, perhaps in several threads
_before: tuple[list[str], dict[str, str | None]] = [], {}


@contextmanager
def installed_code_only() -> Iterator[None]:
    """Let processes that start meanwhile look for no module in the working folder.

    What was there comes back when the last of several blocks ends.
    """
    global _holders, _before
    with _LOCK:
        if not _holders:
            environment = {name: os.environ.get(name) for name in _environment()}
            _before = [*sys.path], environment
            forget_working_folder()
        _holders += 1
    try:
        yield
    finally:
        with _LOCK:
            _holders -= 1
            if not _holders:
                _restore(*_before)


def _restore(path: list[str], environment: dict[str, str | None]) -> None:
    sys.path[:] = path
    for name, value in environment.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value


def _safe(entries: list[str]) -> list[str]:
    """Return the entries of a path that aren't the working folder.

    It stays where this package itself lies in it: the code of a clone.
    """
    working = os.path.realpath(".")
    if working == os.path.realpath(Path(__file__).parents[1]):
        return entries
    return [e for e in entries if e and os.path.realpath(e) != working]


def _environment() -> dict[str, str]:
    safe = {"PYTHONSAFEPATH": "1"}
    if "PYTHONPATH" in os.environ:
        entries = os.environ["PYTHONPATH"].split(os.pathsep)
        safe["PYTHONPATH"] = os.pathsep.join(_safe(entries))
    return safe
