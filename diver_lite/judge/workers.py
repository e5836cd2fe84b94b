"""Run independent trainings side by side, in processes of one thread each.

It knows tasks and cards, neither sets nor files: `table` says what to train.

A judge learns from 10 to 500 images: many steps of small sums, in which threads wait
for each other at every step, and on a busy machine for the scheduler, too. One thread
per training waits for nobody. joblib starts the processes. Source: ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import cycle
from typing import Any, TypeVar

import torch
from joblib import Parallel, cpu_count, delayed
from joblib.externals.loky.process_executor import TerminatedWorkerError

from diver_lite.checks import InputError, first_line
from diver_lite.devices import one_thread
from diver_lite.priors.loading import resolve_device
from diver_lite.trust import installed_code_only

Key = TypeVar("Key")
Result = TypeVar("Result")


def devices_of(device: str | torch.device | None) -> list[torch.device]:
    """Return where trainings run: on one device, or by default on all CUDA cards."""
    if device is None and torch.cuda.device_count() > 1:
        return [torch.device("cuda", i) for i in range(torch.cuda.device_count())]
    return [resolve_device(device)]


def default_count(devices: list[torch.device]) -> int:
    """Return how many processes are worth it: per core that may be used, or card."""
    return cpu_count() if devices[0].type == "cpu" else len(devices)


def side_by_side(
    function: Callable[..., Result],
    tasks: Mapping[Key, tuple],
    devices: list[torch.device],
    count: int,
) -> Iterator[tuple[Key, Result]]:
    """Call a function with many arguments; yield each task's key and result.

    They come as they are finished, in any order.

    Args:
        function: known to pickle.
        tasks: key -> the arguments of one call, without the device. NumPy arrays that
            several tasks have in common are shared, not copied.
        devices: the last argument of each call, in turns.
        count: how many processes; 1 stays in this one.

    Raises:
        InputError: a process was killed.

    Source: joblib; the processes are loky's.
    """
    calls = [
        delayed(_alone)(function, key, task, device)
        for (key, task), device in zip(tasks.items(), cycle(devices), strict=False)
    ]
    parallel: Any = Parallel(
        max(1, min(count, len(tasks))),
        return_as="generator_unordered",
        mmap_mode="c",  # a private view: torch can't take one that is read-only
    )
    try:
        with installed_code_only():
            yield from parallel(calls)
    except TerminatedWorkerError as error:
        raise InputError(
            f"n_jobs is {count}: a worker process was killed ({first_line(error)}), "
            "perhaps for want of memory. What is finished is kept, if there is a file "
            "for it (--out): run the same again, perhaps with fewer"
        ) from None


def _alone(
    function: Callable[..., Result], key: Key, task: tuple, device: torch.device
) -> tuple[Key, Result]:
    """Call a function on one thread, which sums in the same order everywhere."""
    with one_thread():
        return key, function(*task, device)
