"""Let an interrupted training go on, and keep what a finished one has learned.

A file carries a record of what it was made from, and is refused where that differs.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm.auto import tqdm

from diver_lite.checks import describe, ensure, naming
from diver_lite.files import atomic_path, save_torch, sweep

SECONDS = 60  # between two checkpoints
_ANEW = "of this run; delete it to start anew, or choose another path"


@dataclass
class Training:
    """Count the steps of a training, which goes on where its checkpoint was saved.

    Attributes:
        name: what the progress bar is called.
        steps: how many there are to do.
        parts: what changes from step to step; each has a `state_dict`.
        path: of the checkpoint; None keeps nothing.
        record: what the training was started with.
        progress: show the bar.
        step: how many steps are done.
        losses: the curve so far, of numbers and pairs of numbers.
        pending: sum of the losses that are not in the curve yet.

    Raises:
        InputError: the checkpoint can't be read, doesn't fit, or is another run's.
    """

    name: str
    steps: int
    parts: dict[str, Any]
    path: Path | None
    record: dict = field(default_factory=dict)
    progress: bool = True
    step: int = 0
    losses: list = field(default_factory=list)
    pending: Any = 0.0
    bar: tqdm = field(init=False)

    def __post_init__(self) -> None:
        self._saved = time.monotonic()
        if self.path is None:
            return
        sweep(self.path)  # a run may be over before it saves again
        if self.path.exists():
            with naming(self.path, f"a checkpoint {_ANEW}"):
                state = torch.load(self.path, map_location="cpu", weights_only=True)
                ensure(
                    {"record", *self.parts} <= {*state},
                    "another version of diver_lite wrote it; expected a checkpoint "
                    f"{_ANEW}",
                )
                _compare(json.loads(state["record"]), self.record)
                for name, part in self.parts.items():
                    part.load_state_dict(state[name])
                self.step = state["step"]
                self.losses = state["losses"]
                self.pending = state["pending"]

    def __iter__(self) -> Iterator[int]:
        """Yield the number of each step that isn't done, from 0; save each minute."""
        options = {"mininterval": 1, "disable": not self.progress}
        with tqdm(
            None, self.name, self.steps, initial=self.step, **options
        ) as self.bar:
            while self.step < self.steps:
                yield self.step
                self.step += 1
                self.bar.update()
                if time.monotonic() - self._saved > SECONDS:
                    self.save()

    def save(self) -> None:
        """Write the checkpoint, whole or not at all."""
        if self.path is None:
            return
        state = {name: part.state_dict() for name, part in self.parts.items()}
        state |= {"step": self.step, "losses": self.losses}
        state |= {"pending": float(self.pending), "record": json.dumps(self.record)}
        with atomic_path(self.path, overwrite=True) as temporary:
            save_torch(state, temporary)
        self._saved = time.monotonic()


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
    with naming(path, f"tensors {_ANEW}"), safe_open(path, "pt") as file:
        _compare(json.loads(file.metadata()[key]), record)
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def _compare(found: dict, record: dict) -> None:
    wanted = json.loads(json.dumps(record))  # tuples become lists
    different = [
        f"{key} is {describe(found.get(key))} there and {describe(value)} here"
        for key, value in wanted.items()
        if found.get(key) != value
    ]
    ensure(not different, f"{'; '.join(different)}; expected a file {_ANEW}")
