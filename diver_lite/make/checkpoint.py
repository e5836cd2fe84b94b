"""Let an interrupted training go on, and keep what a finished one has learned.

A file carries a record of what it was made from, and is refused where that differs.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from diver_lite.checks import InputError, describe, first_line
from diver_lite.files import atomic_path, save_torch, sweep

SECONDS = 60  # between two checkpoints
_ANEW = "delete it to start anew, or choose another path"
T = TypeVar("T")


class Checkpoint:
    """A file that a run saves its state to, and goes on from; None keeps nothing.

    `record` is what the run was started with; None compares nothing.
    """

    def __init__(self, path: str | Path | None, record: dict | None = None) -> None:
        self.path = None if path is None else Path(path)
        self.record = record or {}
        self.saved = time.monotonic()

    def load(self, device: torch.device, restore: Callable[[dict], T]) -> T | None:
        """Return what `restore` makes of the saved state; None if there is none.

        Raises `InputError` if the file can't be read, doesn't fit, or is another run's.
        """
        if self.path is not None:
            sweep(self.path)  # a run may be over before it saves again
        if self.path is None or not self.path.exists():
            return None
        try:
            _check_file(self.path)
            state = torch.load(self.path, map_location=device, weights_only=True)
            _compare(self.path, json.loads(state.get("record", "{}")), self.record)
            return restore(state)
        except InputError:
            raise
        except Exception as error:  # truncated, or of networks of another shape
            raise InputError(
                f"checkpoint {self.path} does not fit this run ({first_line(error)}); "
                f"{_ANEW}"
            ) from None

    def due(self) -> bool:
        """Return whether it is time to save again."""
        return self.path is not None and time.monotonic() - self.saved > SECONDS

    def save(self, **state: object) -> None:
        """Write tensors, numbers and state_dicts, whole or not at all."""
        if self.path is not None:
            content = state | {"record": json.dumps(self.record)}
            with atomic_path(self.path, overwrite=True) as temporary:
                save_torch(content, temporary)
            self.saved = time.monotonic()


def kept(
    path: Path, key: str, record: dict, make: Callable[[], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """Return the tensors of a .safetensors file; where there is none, make it.

    The record says what the tensors depend on; it is kept as JSON in the file's
    metadata, under `key`. Raises `InputError` if the file can't be read, or was made
    with another record.
    """
    if not path.exists():
        tensors = make()
        # a run beside this one may have been faster, with the same result
        with atomic_path(path, overwrite=True) as temporary:
            save_file(tensors, temporary, {key: json.dumps(record)})
    try:
        _check_file(path)
        with safe_open(path, "pt") as file:
            found = json.loads(file.metadata()[key])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:
        raise InputError(
            f"{path} can't be read ({first_line(error)}); {_ANEW}"
        ) from None
    _compare(path, found, record)
    return tensors


def _check_file(path: Path) -> None:
    if not path.is_file():  # a pipe would be waited for
        raise OSError("no regular file")


def _compare(path: Path, found: dict, record: dict) -> None:
    wanted = json.loads(json.dumps(record))  # tuples become lists
    different = [
        f"{key} is {describe(found.get(key))} there and {describe(value)} here"
        for key, value in wanted.items()
        if found.get(key) != value
    ]
    if different:
        raise InputError(
            f"{path} belongs to another run: {'; '.join(different)}; {_ANEW}"
        )
