"""On how many threads: cores that others use don't count."""

import psutil
import pytest
import torch

from diver_lite import devices


@pytest.fixture
def cores(monkeypatch):
    """Return a function that says how busy each of four cores is."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 3}, raising=False)

    def busy(*percent):
        monkeypatch.setattr(psutil, "cpu_percent", lambda *_, **__: [*percent])

    return busy


@pytest.mark.parametrize(
    ("percent", "free"),
    [((0, 3, 9, 1), 3), ((99, 0, 0, 20), 2), ((100, 90, 0, 80), 1), ((0,), 1)],
)
def test_free_cores(cores, percent, free):
    """Those that this process may use and that are idle, at least one."""
    cores(*percent)
    assert devices.free_cores() == free


def test_what_the_user_said_stands(cores, monkeypatch):
    before = torch.get_num_threads()
    cores(100, 100, 100, 100)
    try:
        torch.set_num_threads(2)
        monkeypatch.setenv("OMP_NUM_THREADS", "2")
        devices.use_free_cores()
        assert torch.get_num_threads() == 2
        monkeypatch.delenv("OMP_NUM_THREADS")
        devices.use_free_cores()
        assert torch.get_num_threads() == 1
        cores(0, 0, 0, 0)
        devices.use_free_cores()  # never more than there were
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_one_thread_gives_the_others_back():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(ZeroDivisionError), devices.one_thread():
            assert torch.get_num_threads() == 1
            raise ZeroDivisionError
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
