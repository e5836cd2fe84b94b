"""Run independent trainings side by side, in processes of one thread each.

A judge learns from 10 to 500 images: many steps of small sums, in which threads wait
for each other at every step, and on a busy machine for the scheduler, too. One thread
per training waits for nobody. joblib starts the processes, on this machine or, through
a Dask scheduler, on many. Source: ours.
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, TypeVar

import torch
from joblib import Parallel, cpu_count, delayed, parallel_config
from joblib.externals.loky.process_executor import TerminatedWorkerError

from diver_lite.checks import InputError, describe, first_line
from diver_lite.devices import one_thread
from diver_lite.priors.loading import resolve_device

ATTEMPTS = 3  # times that a killed worker is replaced without a finished training
Key = TypeVar("Key")
Result = TypeVar("Result")


def devices_of(device: str | torch.device | None) -> list[torch.device]:
    """Return where trainings run: on one device, or by default on all CUDA cards."""
    if device is None and torch.cuda.device_count() > 1:
        return [torch.device("cuda", i) for i in range(torch.cuda.device_count())]
    return [resolve_device(device)]


class Workers:
    """Call a function with many arguments, in as many processes as it is worth.

    Args:
        count: how many processes; 1 stays in this one. Default: one per core that this
            process may use, or one per card.
        devices: the last argument of each call, in turns.
        scheduler: address of a Dask scheduler whose workers do it instead.

    Raises:
        InputError: `dask.distributed` isn't installed, or nobody answers there.

    Source: joblib; the processes are loky's.
    """

    def __init__(
        self,
        count: int | None,
        devices: list[torch.device],
        scheduler: str | None = None,
    ) -> None:
        on_cpu = devices[0].type == "cpu"
        self.count = count or (cpu_count() if on_cpu else len(devices))
        self.devices = devices
        self.scheduler = scheduler
        self._started = 1
        self._open = ExitStack()

    def __enter__(self) -> Workers:
        if self.scheduler:
            client = self._open.enter_context(_client(self.scheduler))
            self.count = max(1, sum(client.nthreads().values()))
            self._open.enter_context(parallel_config("dask", client=client))
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def __call__(
        self, function: Callable[..., Result], tasks: Mapping[Key, tuple]
    ) -> Iterator[tuple[Key, Result]]:
        """Yield each task's key and result as it is finished, in any order.

        A task is the arguments of one call, without the device. NumPy arrays that
        several tasks have in common are shared, not copied. A task whose process was
        killed is done again.

        Raises:
            InputError: processes are killed again and again, and nothing is finished.
        """
        left = dict(tasks)
        attempts = 0
        while left:
            places = [self.devices[i % len(self.devices)] for i in range(len(left))]
            calls = [
                delayed(_alone)(function, key, task, place)
                for (key, task), place in zip(left.items(), places, strict=True)
            ]
            # as many as there is work for, and those that run already
            self._started = max(self._started, min(self.count, len(left)))
            parallel = Parallel(
                -1 if self.scheduler else self._started,
                return_as="generator_unordered",
                mmap_mode="c",  # a private view: torch can't take one that is read-only
            )
            try:
                finished: Any = parallel(calls)
                for key, result in finished:
                    del left[key]
                    attempts = 0
                    yield key, result
            except TerminatedWorkerError as error:
                attempts += 1
                if attempts == ATTEMPTS:
                    raise InputError(
                        f"n_jobs is {self.count}: a worker process was killed "
                        f"{ATTEMPTS} times ({first_line(error)}), perhaps for want of "
                        "memory. What is finished is kept; try fewer"
                    ) from None
                warnings.warn(
                    f"a worker process was killed; {len(left)} trainings go on in "
                    "new ones",
                    stacklevel=2,
                )


def _alone(
    function: Callable[..., Result], key: Key, task: tuple, device: torch.device
) -> tuple[Key, Result]:
    """Call a function on one thread, which sums in the same order everywhere."""
    with one_thread():
        return key, function(*task, device)


def _client(address: str) -> Any:
    """Return a client of a Dask scheduler, or raise."""
    try:
        from dask.distributed import (  # pyright: ignore[reportMissingImports]
            Client,
            connect,
        )
    except ImportError:
        raise InputError(
            "scheduler needs dask.distributed; install diver-lite[cluster]"
        ) from None

    async def knock() -> None:
        comm = await connect(address, timeout=5)
        await comm.close()

    try:  # a client that finds nobody would stay half-made, and may hang later
        # in a thread of its own: a notebook's has a running event loop
        with ThreadPoolExecutor(1) as pool:
            pool.submit(asyncio.run, knock()).result()
    except (OSError, ValueError, TypeError):
        expected = "the address of a running Dask scheduler, as tcp://127.0.0.1:8786"
        raise InputError(
            f"scheduler is {describe(address)}; expected {expected}"
        ) from None
    return Client(address, set_as_default=False)
