"""Let an interrupted training go on, and keep what a finished one has learned.

A file carries a record of all that it was made from, and is refused where that differs,
or where it has none: no record, no going on.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm.auto import tqdm

from diver_lite.checks import describe, ensure, naming
from diver_lite.files import atomic_path, fingerprint, read_torch, save_torch, sweep

SECONDS = 60  # between two checkpoints
_ANEW = "of this run; delete it to start anew, or choose another path"


def made_from(
    images: Tensor, labels: Tensor, class_names: Sequence[str], results: int
) -> dict[str, Any]:
    """Return what any training depends on beside its settings, as JSON can hold it.

    Args:
        images: (N, ch, H, W) that are learned from, in their dtype, on their device.
        labels: (N,) of them.
        class_names: what the labels mean.
        results: the number that the code declares, raised whenever it may give others.
    """
    return {
        "images": fingerprint([images], str(images.dtype)),
        "labels": fingerprint([labels]),
        "class names": [*class_names],
        "device": images.device.type,
        "results of the code": results,
        "torch": metadata.version("torch"),
    }


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
        planned: pairs: from which step on, how many there were to do. Runs that go on
            may ask for more, not for fewer.
        check: raises where a state must not be saved.

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
    planned: list = field(default_factory=list)
    check: Callable[[], object] | None = None
    bar: tqdm = field(init=False)

    def __post_init__(self) -> None:
        self._saved = time.monotonic()
        self.planned = [(0, self.steps)]
        if self.path is None:
            return
        sweep(self.path)  # a run may be over before it saves again
        if self.path.exists():
            with naming(self.path, f"a checkpoint {_ANEW}"):
                self._take(read(self.path, self.record))

    def _take(self, state: dict) -> None:
        """Go on from a state that was read."""
        self.step = state["step"]
        self.losses = state["losses"]
        self.pending = state["pending"]
        self.planned = state["planned"]
        _, before = self.planned[-1]
        ensure(
            self.steps >= before,
            f"{self.name}_steps is {before} there and {self.steps} here; expected as "
            f"many or more, or a checkpoint {_ANEW}",
        )
        if self.steps > before:
            self.planned.append((self.step, self.steps))
        for name, part in self.parts.items():
            part.load_state_dict(state[name])

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
        if self.check:
            self.check()
        state = {name: part.state_dict() for name, part in self.parts.items()}
        state |= {"step": self.step, "losses": self.losses, "planned": self.planned}
        state |= {"pending": float(self.pending), "record": json.dumps(self.record)}
        state["seal"] = _seal(state)
        with atomic_path(self.path, overwrite=True) as temporary:
            save_torch(state, temporary)
        self._saved = time.monotonic()


def read(path: Path, record: dict) -> dict[str, Any]:
    """Return a checkpoint's state, if it is as it was written.

    Raises `InputError` if it can't be read, is damaged or changed, or differs in what
    `record` says: some of what it was made from, or all.
    """
    with naming(path, f"a checkpoint {_ANEW}"):
        state = read_torch(path)
        _check_seal(state, state.pop("seal", None) if isinstance(state, dict) else None)
        _compare(json.loads(state["record"]), record)
        return state


def kept(
    path: Path, key: str, record: dict, make: Callable[[], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """Return the tensors of a .safetensors file; where there is none, make it.

    The record says what the tensors depend on; it is kept as JSON in the file's
    metadata, under `key`. Raises `InputError` if the file can't be read, is damaged or
    changed, or was made with another record.
    """
    if not path.exists():
        tensors = make()
        # one entry: safetensors would shuffle several, and give other bytes each time
        written = {key: json.dumps({"record": record, "seal": _seal(tensors)})}
        # a run beside this one may have been faster, with the same result
        with atomic_path(path, overwrite=True) as temporary:
            save_file(tensors, temporary, written)
    with naming(path, f"tensors {_ANEW}"), safe_open(path, "pt") as file:
        written = file.metadata() or {}
        ensure(key in written, f"it has no record {key!r}; expected tensors {_ANEW}")
        found = json.loads(written[key])
        _compare(found.get("record", {}), record)
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        _check_seal(tensors, found.get("seal"))
        return tensors


def _seal(state: Any) -> str:
    """Return a digest of numbers, texts and tensors, in lists and dicts of any depth.

    Neither torch's files nor safetensors' have a sum that anybody checks.
    """
    tensors = []

    def told(value: Any) -> Any:
        if isinstance(value, Tensor):
            tensors.append(value)
            return str(value.dtype)
        if isinstance(value, Mapping):
            # in an order of our own: safetensors has another than its writer
            return [[repr(k), told(value[k])] for k in sorted(value, key=repr)]
        if isinstance(value, list | tuple):
            return [told(each) for each in value]
        return repr(value)

    told_of = json.dumps(told(state))  # fills the list of tensors
    return fingerprint(tensors, told_of)


def _check_seal(state: Any, seal: str | None) -> None:
    ensure(
        seal == _seal(state),
        f"it is damaged, or not as a run left it; expected a file {_ANEW}",
    )


def _compare(found: dict, record: dict) -> None:
    wanted = json.loads(json.dumps(record))  # tuples become lists
    different = [
        f"{key} is {describe(found.get(key))} there and {describe(value)} here"
        for key, value in wanted.items()
        if found.get(key) != value
    ]
    ensure(not different, f"{'; '.join(different)}; expected a file {_ANEW}")
