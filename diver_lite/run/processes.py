"""Several processes that do one job together, as `accelerate launch` starts them.

Only short messages pass between them, over the network's "gloo" and never from GPU to
GPU, so any number of processes may share a device, and one that dies is noticed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch

from diver_lite.checks import InputError, ensure, first_line, require

# how launchers say how many processes there are, and which one this is: torchrun and
# accelerate, MPICH and Intel MPI, Open MPI, MVAPICH2
_COUNTS = {
    "WORLD_SIZE": "RANK",
    "PMI_SIZE": "PMI_RANK",
    "OMPI_COMM_WORLD_SIZE": "OMPI_COMM_WORLD_RANK",
    "MV2_COMM_WORLD_SIZE": "MV2_COMM_WORLD_RANK",
}
# How long the first to finish waits for the last; all have equally many images.
PATIENCE = timedelta(hours=6)
Answer = TypeVar("Answer")


def launched() -> bool:
    """Return whether a launcher started this process as one of several.

    Raises:
        InputError: the environment says how many, but not clearly, or not which one.
    """
    found = [name for name in _COUNTS if _count(name) > 1]
    if not found:
        return False
    ranks = [_COUNTS[name] for name in found]
    missing = "; ".join(f"{n} is {os.environ[n]}" for n in found)
    ensure(
        any(rank in os.environ for rank in ranks),
        f"environment: {missing}, but no {' or '.join(ranks)} says which process this "
        "is; expected both, as a launcher sets them, or neither: unset "
        f"{' and '.join(found)}",
    )
    for name in found:
        rank = os.environ.get(_COUNTS[name], "0")
        require(
            rank.isdecimal() and int(rank) < _count(name),
            f"environment: {_COUNTS[name]}",
            rank,
            f"an integer from 0 to {name} - 1, which is {_count(name) - 1}",
        )
    return True


def _count(name: str) -> int:
    """Return what a launcher says of the number of processes; 1 if it says nothing."""
    value = os.environ.get(name) or "1"
    require(
        value.isdecimal() and int(value) > 0,
        f"environment: {name}",
        value,
        "a number of processes, from 1; or unset it",
    )
    return int(value)


class Processes:
    """This process and its siblings; alone if no launcher started several.

    Args:
        cpu: whether they compute on the CPU.

    Attributes:
        index: 0 .. count-1, the place of this process.
        count: how many there are.
        device: the device that accelerate gives this process; None if it is alone.

    Source: accelerate's `PartialState`.
    """

    index: int = 0
    count: int = 1
    device: torch.device | None = None

    def __init__(self, *, cpu: bool) -> None:
        if launched():
            from accelerate import PartialState

            state: Any = PartialState(cpu=cpu, backend="gloo", timeout=PATIENCE)
            self.index = state.process_index
            self.count = state.num_processes
            on_cpu = cpu or state.device.type == "cpu"
            self.device = torch.device("cpu") if on_cpu else state.device

    def first(self, job: Callable[[], Answer]) -> Answer:
        """Let process 0 do a job; return its answer, or raise its error, in all.

        Raises:
            InputError: what the job raised; or a process is gone.
        """
        if self.count == 1:
            return job()
        from accelerate.utils import broadcast_object_list

        outcome: list[Any] = [None, None]  # an answer, or what is wrong
        if self.index == 0:
            try:
                outcome[0] = job()
            except InputError as error:
                outcome[1] = str(error)
        self._talk(lambda: broadcast_object_list(outcome))
        if outcome[1] is not None:
            raise InputError(outcome[1])
        return outcome[0]

    def wait(self) -> None:
        """Wait until all processes are here.

        Raises:
            InputError: a process is gone.
        """
        if self.count > 1:
            from accelerate.utils import gather_object

            self._talk(lambda: gather_object([self.index]))

    def _talk(self, exchange: Callable[[], object]) -> None:
        try:
            exchange()
        except RuntimeError as error:  # gloo: the connection was closed, or time is up
            raise InputError(
                f"process {self.index} of {self.count}: another process of this run "
                f"has ended or doesn't answer ({first_line(error)}); its own message "
                "says why. What is finished is kept: run the same command again"
            ) from None


def launched_device(device: str | torch.device | None) -> str | torch.device | None:
    """Return the device for this process: as asked for, or its share of the GPUs.

    None leaves the choice to us; it stays None where no launcher started several.
    """
    if device is not None or not launched():
        return device
    cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("true", "1")
    return Processes(cpu=cpu or not torch.cuda.is_available()).device
