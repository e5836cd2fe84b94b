"""Trainings side by side: equal tables, lost workers, Ctrl-C."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from toy_sets import toy, toy_set

from diver_lite.checks import InputError
from diver_lite.judge.table import cross_architecture
from diver_lite.judge.workers import default_count, devices_of, side_by_side

CPU = [torch.device("cpu")]
SETS = {"a": toy_set(count=1), "b": lambda seed: toy_set(count=1, seed=seed)}
STUDY = {
    "test": toy(seed=9, count=2),
    "judges": ["ConvNet", "ShuffleNetV2-GN"],
    "seeds": 2,
    "steps": 2,
    "progress": False,
}


def content(path):
    """Return a file of trainings without the time that each took."""
    return pd.read_csv(path, dtype=str).drop(columns="seconds").to_csv()


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Return the table and the file of one job, which stays in this process."""
    out = tmp_path_factory.mktemp("alone") / "cells.csv"
    table = cross_architecture(SETS, out=out, n_jobs=1, **STUDY)
    return table.drop(columns="seconds"), content(out)


def test_the_number_of_jobs_changes_nothing(alone, tmp_path):
    """Rows, their order and the file are those of one job, whoever ends first."""
    table, kept = alone
    out = tmp_path / "cells.csv"
    found = cross_architecture(SETS, out=out, n_jobs=2, **STUDY)
    pd.testing.assert_frame_equal(found.drop(columns="seconds"), table)
    assert content(out) == kept


def test_threads_of_the_caller_change_nothing(alone):
    """A training sums on one thread wherever it runs, and gives the others back."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = cross_architecture(SETS, n_jobs=1, **STUDY)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    pd.testing.assert_frame_equal(found.drop(columns="seconds"), alone[0])


def square(x, device):
    return x * x


def pid_and_address(array, device):
    return os.getpid(), type(array).__name__, torch.get_num_threads()


def killed(x, device):
    if x == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return x


def test_every_task_is_answered_once():
    """Also where there are fewer tasks than workers, or none."""
    for count in (0, 1, 7):
        tasks = {f"task {x}": (x,) for x in range(count)}
        found = dict(side_by_side(square, tasks, CPU, 2))
        assert found == {f"task {x}": x * x for x in range(count)}


def test_large_arrays_are_shared_and_threads_are_one():
    """Workers see test images as a map of one file, not as copies of their own."""
    large = torch.zeros(1_000_000).numpy()
    tasks = dict.fromkeys(range(4), (large,))
    found = dict(side_by_side(pid_and_address, tasks, CPU, 2))
    assert os.getpid() not in {pid for pid, *_ in found.values()}
    assert {tuple(rest) for _, *rest in found.values()} == {("memmap", 1)}
    ((_, (pid, *_)),) = side_by_side(pid_and_address, {0: (large,)}, CPU, 1)
    assert pid == os.getpid()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_killed_worker_ends_the_run():
    """An error says so, and what was done before is there."""
    found = []
    with pytest.raises(InputError, match="n_jobs is 2: a worker process was killed"):
        found.extend(side_by_side(killed, {x: (x,) for x in range(6)}, CPU, 2))
    assert 3 not in dict(found)


SCRIPT = """
import signal, sys
# whoever starts the tests in the background lets them ignore it
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path.insert(0, {tests!r})
from toy_sets import toy, toy_set
from diver_lite import cross_architecture
if __name__ == "__main__":
    cross_architecture(
        {{"a": toy_set()}}, toy(seed=9), judges=["ConvNet"], seeds=400, steps=20,
        n_jobs=2, out="cells.csv",
    )
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no SIGINT")
def test_control_c_ends_the_workers_and_keeps_the_rows(tmp_path):
    """The process ends soon, its workers too; rows lie in a whole file, unlocked."""
    (tmp_path / "run.py").write_text(
        SCRIPT.format(tests=str(Path(__file__).parents[1]))
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen(
        [sys.executable, "run.py"],
        cwd=tmp_path,
        env=environment,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    cells = tmp_path / "cells.csv"
    deadline = time.monotonic() + 120
    while not cells.exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    try:
        assert process.wait(timeout=60) != 0
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    rows = pd.read_csv(cells)
    assert 0 < len(rows) < 400
    assert rows["accuracy"].notna().all()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            os.killpg(process.pid, 0)  # whoever is left of the session
        except ProcessLookupError:
            return
        time.sleep(0.5)
    os.killpg(process.pid, signal.SIGKILL)
    raise AssertionError("a worker outlived the run that started it")


def test_one_training_per_card():
    """The default count is that of the cards, and they take turns."""
    cards = [torch.device("cuda", i) for i in range(3)]
    assert default_count(cards) == 3
    assert default_count(CPU) == 1  # what the tests' environment allows
    tasks = dict.fromkeys(range(5), ())
    found = dict(side_by_side(str, tasks, cards, 1))
    assert [found[x] for x in range(5)] == [*map(str, cards), *map(str, cards[:2])]
    assert devices_of("cpu") == CPU
