"""How much work a notebook does: the one place that reads `DIVER_LITE_MODE`."""

from __future__ import annotations

import os
from typing import TypeVar

from diver_lite.checks import InputError

T = TypeVar("T")
MODES = ("test", "demo", "full")


def mode() -> str:
    """Return "test" (proves that it runs), "demo" (the default) or "full" (a GPU).

    Raises:
        InputError: `DIVER_LITE_MODE` holds something else.
    """
    value = os.environ.get("DIVER_LITE_MODE", "demo")
    if value not in MODES:
        raise InputError(f"DIVER_LITE_MODE is {value!r}; expected one of {MODES}")
    return value


def pick(test: T, demo: T, full: T) -> T:
    """Return the argument that belongs to the current mode."""
    return {"test": test, "demo": demo, "full": full}[mode()]
