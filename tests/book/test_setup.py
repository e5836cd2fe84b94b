"""A reader who lacks something gets one sentence that says what to do."""

import importlib.metadata as metadata
import re
import subprocess
import sys
import tomllib
import types
from dataclasses import replace
from pathlib import Path

import pytest
from bookkit import setup as setup_check
from bookkit.setup import SetupError, require
from IPython.core.interactiveshell import InteractiveShell

from diver_lite.checks import InputError
from diver_lite.recovery import RecoveryConfig

CHAPTERS = Path(__file__).parents[2] / "notebooks"


@pytest.fixture
def shell():
    """Return a fresh IPython shell, as a kernel has one."""
    InteractiveShell.clear_instance()
    yield InteractiveShell.instance()
    InteractiveShell.clear_instance()


def in_another_process(code):
    """Run Python as a kernel does: where the chapters are."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=CHAPTERS, capture_output=True, text=True)


def run(shell, capsys, code):
    """Run a cell that must fail; return what the reader sees, without colours."""
    capsys.readouterr()
    result = shell.run_cell(code)
    assert not result.success, "a cell that failed must count as failed"
    return plain(capsys.readouterr().out)


def plain(text):
    return re.sub(r"\x1b\[[0-9;]*m", "", text).strip()


# ---------------------------------------------------------------- what all need


def test_all_is_well_and_nothing_is_printed(capsys):
    assert require() is True
    output = capsys.readouterr()
    assert output.out == output.err == ""


def test_in_test_mode_the_default_is_few_steps(monkeypatch):
    """Where a chapter names a number it is that, and nothing else changes."""
    before, defaults = RecoveryConfig(), RecoveryConfig.__init__.__defaults__
    monkeypatch.setattr(RecoveryConfig.__init__, "__defaults__", defaults)
    monkeypatch.setenv("DIVER_LITE_MODE", "test")
    require()
    few = setup_check.TEST_STEPS
    assert RecoveryConfig() == replace(before, num_inference_steps=few)
    assert RecoveryConfig(num_inference_steps=50) == before
    assert few < before.num_inference_steps == 50
    assert RecoveryConfig.published().num_inference_steps == few


def test_imports_without_torch_and_says_that_it_is_missing():
    code = """
import sys, importlib.metadata as metadata
for name in ("torch", "diffusers", "seaborn", "ipywidgets", "pandas", "numpy"):
    sys.modules[name] = None  # importing it fails
from bookkit.setup import SetupError, require
version = metadata.version
def lacks_torch(name):
    if name == "torch":
        raise metadata.PackageNotFoundError(name)
    return version(name)
metadata.version = lacks_torch
try:
    require()
except SetupError as error:
    print(error)
"""
    run = in_another_process(code)
    assert "torch none" in run.stdout, run.stderr
    assert '%pip install "torch>=' in run.stdout
    assert "restart the kernel" in run.stdout


@pytest.mark.parametrize("name", ["torch", "diffusers", "ipywidgets", "seaborn"])
def test_an_old_package_is_named_with_the_command(monkeypatch, name):
    version = metadata.version
    monkeypatch.setattr(
        metadata, "version", lambda n: "0.1" if n == name else version(n)
    )
    with pytest.raises(SetupError, match=rf'{name} 0\.1.*%pip install "{name}[<>]'):
        require()


def test_what_chapters_draw_with_comes_with_the_book():
    pyproject = tomllib.loads((CHAPTERS.parent / "pyproject.toml").read_text("utf-8"))
    lines = pyproject["project"]["optional-dependencies"]["book"]
    assert {re.match(r"[\w-]+", line)[0] for line in lines} >= setup_check.DRAWING


def test_a_local_build_of_torch_is_new_enough(monkeypatch):
    version = metadata.version
    builds = {"torch": "2.99.0+cpu", "torchvision": "0.99.0.dev20990101+cu130"}
    monkeypatch.setattr(metadata, "version", lambda n: builds.get(n) or version(n))
    assert require() is True


def test_old_python(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 9, 1))
    with pytest.raises(SetupError, match=r"Python 3\.11 or newer"):
        require()


def test_the_python_asked_for_is_that_of_pyproject():
    wanted = metadata.metadata("diver-lite")["Requires-Python"]
    assert wanted == ">=" + ".".join(map(str, setup_check.PYTHON))


def test_package_not_installed(monkeypatch):
    def nothing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", nothing)
    with pytest.raises(SetupError, match=r"%pip install -e"):
        require()


def test_damaged_and_missing_assets(monkeypatch):
    def damaged(name):
        raise InputError(f"asset {name} is corrupted; reinstall diver_lite")

    monkeypatch.setattr(setup_check, "asset_path", damaged)
    with pytest.raises(SetupError, match="reinstall"):
        require()
    monkeypatch.setattr(setup_check, "list_assets", lambda: ())
    with pytest.raises(SetupError, match="clone"):
        require()


# ---------------------------------------------------------------- what some need


def test_missing_data_is_one_sentence_and_false(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("DIVER_LITE_DATA", str(tmp_path))
    assert require(data="cifar10") is False
    out = capsys.readouterr().out
    assert "cifar10" in out
    assert "DIVER_LITE_DATA" in out
    assert out.count("\n") == 1
    (tmp_path / "cifar10_jpeg.npz").touch()
    assert require(data="cifar10") is True
    assert capsys.readouterr().out == ""


def test_nothing_is_downloaded(monkeypatch, tmp_path):
    import platformdirs
    import torchvision

    def refuse(*args, **kwargs):
        raise AssertionError("a check must not download")

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", refuse)
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda name: str(tmp_path))
    assert require(data="cifar10") is False


def test_unknown_data():
    with pytest.raises(InputError, match=r"^data is 'imagenet'; expected one of"):
        require(data="imagenet")


# ---------------------------------------------------------------- in a notebook


def test_a_missing_requirement_shows_one_line(shell, capsys, monkeypatch):
    monkeypatch.setattr(metadata, "version", lambda name: "0.1")
    seen = run(shell, capsys, "from bookkit.setup import require; require()")
    assert seen.startswith("SetupError: Packages are missing")
    assert "\n" not in seen


def test_cells_out_of_order_give_a_sentence(shell, capsys):
    shell.run_cell("from bookkit.setup import require; require()")
    seen = run(shell, capsys, "distilled.images")
    assert seen.startswith("distilled is not defined yet: run the cells above")
    assert "Traceback" not in seen
    assert "\n" not in seen


def test_so_do_functions_of_the_notebook(shell, capsys):
    setup_check.load_ipython_extension(shell)
    shell.run_cell("def show():\n    return distilled.images")
    assert run(shell, capsys, "show()").startswith("distilled is not defined yet")


def test_the_whole_traceback_is_still_there(shell, capsys):
    setup_check.explain_errors(shell)
    run(shell, capsys, "distilled.images")
    shell.run_line_magic("tb", "")
    assert "----> 1 distilled.images" in plain(capsys.readouterr().out)


@pytest.mark.parametrize(
    "code",
    [
        "import broken; broken.call()",  # a NameError, but not the reader's
        "def f():\n    x += 1\nf()",  # UnboundLocalError: a mistake in this cell
        "raise RuntimeError('shapes differ')",
        "raise NameError('by hand')",
        "1 / 0",
    ],
)
def test_other_errors_keep_their_traceback(shell, capsys, monkeypatch, code):
    broken = types.ModuleType("broken")
    exec("def call():\n    return nowhere", broken.__dict__)
    monkeypatch.setitem(sys.modules, "broken", broken)
    setup_check.explain_errors(shell)
    seen = run(shell, capsys, code)
    assert "Traceback (most recent call last)" in seen
    assert "---->" in seen


def test_bad_input_shows_its_sentence(shell, capsys):
    setup_check.explain_errors(shell)
    seen = run(
        shell,
        capsys,
        "from diver_lite.recovery import RecoveryConfig\n"
        "RecoveryConfig(noise_timestep=5000)",
    )
    assert seen.startswith("InputError: noise_timestep is 5000; expected")
    assert "\n" not in seen


@pytest.mark.parametrize(
    "code",
    [
        "raise MemoryError",
        "raise RuntimeError('DefaultCPUAllocator: not enough memory: you tried')",
        "import torch; raise torch.OutOfMemoryError('CUDA out of memory. Tried')",
    ],
)
def test_memory_that_runs_out(shell, capsys, code):
    setup_check.explain_errors(shell)
    seen = run(shell, capsys, code)
    assert seen.startswith("Memory ran out")
    assert "batch_size" in seen


def test_outside_of_a_notebook_nothing_is_installed():
    code = "from bookkit.setup import require; print(require())"
    run = in_another_process(code)
    assert run.stdout.strip() == "True", run.stderr
