"""Nothing that lies in the working folder runs, whatever it is called."""

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import diver_lite
from diver_lite.trust import installed_code_only

# Python looks into the working folder where it starts with -m or -c. `diver-lite`
# starts otherwise, so only what starts processes can go wrong: judge. With
# `python -m diver_lite` any command can, as each imports late; what they look through
# is put right before one of them begins, so recover speaks for the rest.
COMMANDS = {
    # whoever names a file by its path wants it
    "judge": "judge fashion-mnist-dm-ipc1 --judges ConvNet,mine.py:small --seeds 1 "
    "--set steps=1 --jobs 2 --test-images 20",
    "recover": "recover fashion-mnist-dm-ipc1 -o r.safetensors --set "
    "num_inference_steps=1",
}


@pytest.fixture(scope="module")
def modules():
    """Return the names of all modules that a command, or this test, has imported."""
    for name in ("diffusers", "joblib", "safetensors.torch", "scipy", "torchvision"):
        import_module(name)
    for name in ("cross_architecture", "distill", "recover"):
        getattr(diver_lite, name)

    names = {name.partition(".")[0] for name in sys.modules}
    assert {"numpy", "joblib", "torch", "diver_lite", "pickle"} <= names
    return sorted(names | {"sitecustomize", "usercustomize"})


@pytest.fixture
def trap(tmp_path, modules):
    """Return a folder of files with such names, and what they leave where they run."""
    folder = tmp_path / "downloaded"
    folder.mkdir()
    mark = tmp_path / "ran"
    for name in modules:
        text = f"open({str(mark)!r}, 'a').write({name + chr(10)!r})\n"
        (folder / f"{name}.py").write_text(text)
    return folder, mark


def ran(mark):
    return {*mark.read_text().split()} if mark.exists() else set()


def start(command, folder, **environment):
    scripts = Path(sys.executable).parent
    return subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        env=os.environ
        | {"PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}
        | environment,
    )


NET = """
from torch import nn

def small(num_classes, image_size, channels):
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * 1024, num_classes))
"""


def test_a_module_of_the_working_folder_is_none(trap):
    folder, mark = trap
    (folder / "mine.py").write_text(NET)
    command = COMMANDS["judge"].replace("mine.py", "mine")
    found = start(["diver-lite", *command.split()], folder)
    assert not ran(mark)
    assert found.returncode == 2, found.stderr[-2000:]
    assert "there is no module mine among what is installed" in found.stderr


def test_the_trap_works(trap):
    """Python's own way of starting a module would run the files."""
    folder, mark = trap
    start([sys.executable, "-c", "import joblib"], folder)
    assert "joblib" in ran(mark)


@pytest.mark.parametrize("name", COMMANDS)
def test_python_m_hands_nothing_on(trap, name):
    """Neither itself nor the processes that train run more than they are asked to."""
    folder, mark = trap
    (folder / "mine.py").write_text(NET)
    (folder / "diver_lite.py").unlink()  # which Python itself would run for -m
    found = start([sys.executable, "-m", "diver_lite", *COMMANDS[name].split()], folder)
    assert found.returncode == 0, found.stderr[-2000:]
    assert not ran(mark)


def test_an_empty_entry_of_a_path_is_no_folder_of_ours(trap):
    """Workers inherit no empty PYTHONPATH; the files were there for the first alone."""
    folder, mark = trap
    code = (
        "import os, sys; from diver_lite.trust import installed_code_only\n"
        "with installed_code_only():\n"
        "    print(repr(os.environ['PYTHONPATH']), '' in sys.path)\n"
        "print(repr(os.environ['PYTHONPATH']))"
    )
    found = start(
        [sys.executable, "-P", "-c", code], folder.parent, PYTHONPATH=f"{os.pathsep}x"
    )
    assert found.stdout.split() == ["'x'", "False", repr(f"{os.pathsep}x")]
    assert not ran(mark)


def test_blocks_that_overlap_restore_what_was_there_before_them(tmp_path, monkeypatch):
    """As of two threads, or of a generator that is closed late."""
    monkeypatch.chdir(tmp_path)  # the folder of a clone is trusted
    monkeypatch.setenv("PYTHONPATH", f"{os.pathsep}x")
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    monkeypatch.setattr(sys, "path", before := ["", *sys.path])
    expected = [*before]
    first, second = installed_code_only(), installed_code_only()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert os.environ["PYTHONPATH"] == "x"
    assert "" not in sys.path
    second.__exit__(None, None, None)
    assert os.environ["PYTHONPATH"] == f"{os.pathsep}x"
    assert "PYTHONSAFEPATH" not in os.environ
    assert sys.path == expected
