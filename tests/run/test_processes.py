"""Two CPU processes under accelerate's launcher: the same bytes, and no hanging."""

import os
import signal
import socket
import subprocess
import sys

import pytest
import torch

from diver_lite.checks import InputError
from diver_lite.cli import main
from diver_lite.files import exclusive
from diver_lite.run import processes
from diver_lite.run.processes import Processes, launched_device

# What each of two processes does, as PyTorch is imported once for both: a recovery,
# and another one, in which process 1 fails at its second batch. It ends as if all were
# well, or the launcher would end its sibling, which has to notice by itself.
TWICE = """
import os, sys, traceback
from diver_lite.cli import main
from diver_lite.priors.dit import DiTPrior

def code_of(out):
    try:
        main([*sys.argv[1:], "-o", out])
    except SystemExit as exit:
        return exit.code or 0

assert code_of("two.safetensors") == 0
decode, calls = DiTPrior.decode, []

def failing(self, latents):
    calls.append(1)
    if os.environ["RANK"] == "1" and len(calls) == 2:
        raise RuntimeError("the GPU fell off the bus")
    return decode(self, latents)

DiTPrior.decode = failing
try:
    print("exit code", code_of("failed.safetensors"))
except RuntimeError:
    traceback.print_exc()
"""


@pytest.fixture
def command(tmp_path, tiny_set, tiny_prior_folder):
    """Return a function that gives the arguments of a recovery of seven batches."""
    source = tiny_set.save(tmp_path / "input.safetensors")

    def arguments(out=None):
        return [
            *("recover", source, "--prior", tiny_prior_folder, "--device", "cpu"),
            *("--batch-size", "3", "--set", "num_inference_steps=2"),
            *(("-o", tmp_path / out) if out else ()),
        ]

    return arguments


@pytest.fixture
def port():
    """Return a port that nobody uses."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def alone(arguments):
    with pytest.raises(SystemExit) as exit:
        main([str(a) for a in arguments])
    return exit.value.code or 0


def test_two_processes(command, tmp_path, port):
    """Together they give the bytes of one; if one fails, the other says so and ends."""
    script = tmp_path / "twice.py"
    script.write_text(TWICE)
    launched = subprocess.run(
        [
            *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"),
            *("--num_processes", "2", "--num_machines", "1"),
            *("--mixed_precision", "no", "--dynamo_backend", "no"),
            *("--main_process_port", port, script, *command()),
        ],
        cwd=tmp_path,
        # with as many threads as here
        env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())},
        capture_output=True,
        text=True,
        timeout=600,  # a hang must not hang the tests
    )
    said, errors = launched.stdout, launched.stderr
    assert launched.returncode == 0, errors
    assert said.count("wrote") == 1
    assert "20/20" in errors
    assert alone(command("one.safetensors")) == 0
    one = (tmp_path / "one.safetensors").read_bytes()
    assert (tmp_path / "two.safetensors").read_bytes() == one
    assert not (tmp_path / "two.parts").exists()

    assert said.count("exit code") == said.count("exit code 2") == 1
    assert "the GPU fell off the bus" in errors
    assert "process 0 of 2: another process of this run has ended" in errors
    failed = tmp_path / "failed.safetensors"
    assert not failed.exists()
    kept = {p.name for p in (tmp_path / "failed.parts").rglob("*.safetensors")}
    assert "000001.safetensors" in kept  # of the process that failed
    assert "000003.safetensors" not in kept
    # one process goes on with what two began
    assert alone(command("failed.safetensors")) == 0
    assert failed.read_bytes() == one


def test_alone_nothing_is_asked_of_accelerate(monkeypatch):
    """Without a launcher there is one process, and every answer is its own."""
    for name in processes._COUNTS:
        monkeypatch.delenv(name, raising=False)
    one = Processes(cpu=True)
    assert (one.index, one.count, one.device) == (0, 1, None)
    assert one.first(lambda: 7) == 7
    one.wait()
    assert launched_device(None) is None
    assert launched_device("cuda:1") == "cuda:1"


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is 2, but no RANK says which"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "no OMPI_COMM_WORLD_RANK says"),
        ({"WORLD_SIZE": "abc"}, "WORLD_SIZE is 'abc'; expected a number"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE is '0'; expected"),
        ({"WORLD_SIZE": "-2"}, "WORLD_SIZE is '-2'; expected"),
        ({"WORLD_SIZE": "2.0"}, r"WORLD_SIZE is '2\.0'; expected"),
        ({"PMI_SIZE": "two"}, "PMI_SIZE is 'two'; expected"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "RANK is '2'; expected an integer from 0"),
        ({"WORLD_SIZE": "2", "RANK": "x"}, "RANK is 'x'; expected an integer from 0"),
    ],
)
def test_an_odd_environment_is_named(monkeypatch, environment, words):
    """Instead of waiting for a sibling that nobody started, or a traceback."""
    for names in processes._COUNTS.items():
        for name in names:
            monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    for ask in (lambda: Processes(cpu=True), lambda: launched_device(None)):
        with pytest.raises(InputError, match=words):
            ask()


def test_a_lost_process_is_reported(monkeypatch):
    """When the connection to a sibling breaks, the rest ends with one sentence."""
    two = Processes(cpu=True)
    two.count = 2

    def closed(_):
        raise RuntimeError("Connection closed by peer")

    monkeypatch.setattr("accelerate.utils.gather_object", closed)
    monkeypatch.setattr("accelerate.utils.broadcast_object_list", closed)
    for talk in (two.wait, lambda: two.first(lambda: 1)):
        with pytest.raises(InputError, match="Connection closed by peer"):
            talk()


# --- Two runs, one output -----------------------------------------------------------

HOLD = """
import time
from diver_lite.files import exclusive
with exclusive("out.safetensors"):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_second_run_is_refused_until_the_first_is_dead(command, tmp_path, capsys):
    """Another process holds the lock: refused; kill -9 frees it without a trace."""
    lock = tmp_path / ".out.safetensors.lock"
    before = {lock, *tmp_path.iterdir()}
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True, cwd=tmp_path
    )
    try:
        assert holder.stdout.readline() == "held\n"
        assert alone(command("out.safetensors")) == 2
        error = capsys.readouterr().err
        assert "out.safetensors is being written by another process" in error
        assert {*tmp_path.iterdir()} == before
    finally:
        holder.kill()
        holder.wait()
    assert holder.returncode == (1 if os.name == "nt" else -signal.SIGKILL)
    assert lock.exists()
    assert alone(command("out.safetensors")) == 0
    assert not lock.exists()
    assert not (tmp_path / "out.parts").exists()


def test_a_lock_is_held_by_one(tmp_path):
    """Also within a process; afterwards it is free, even if the block deleted it."""
    lock = tmp_path / "new" / "lock"
    with exclusive("x", lock):
        refused = pytest.raises(InputError, match="x is being written by another")
        with refused, exclusive("x", lock):
            pass
        lock.unlink()
    with exclusive("x", lock):
        assert lock.exists()
