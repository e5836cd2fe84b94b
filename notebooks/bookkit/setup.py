"""What chapters begin with: is all here that they need, and how much shall they do?

`require` says what is missing, and what to do about it, in one sentence instead of a
traceback. It also makes the kernel do so later on: for cells run out of order, for bad
input, and when memory runs out. Torch, which may be what is missing, isn't needed here.
Source of all: ours.
"""

from __future__ import annotations

import importlib.metadata as metadata
import os
import sys
from dataclasses import fields
from pathlib import Path
from traceback import walk_tb
from typing import Any, TypeVar

from diver_lite import checks
from diver_lite.assets import asset_path, list_assets
from diver_lite.checks import InputError

PYTHON = (3, 11)  # as in pyproject.toml, whose other requirements are read at run time
DATASETS = ("fashion-mnist", "cifar10")
MODES = ("test", "demo", "full")
TEST_STEPS = 10  # of a reverse process in mode "test", where a chapter names no number
# what the extra "book" brings that chapters draw with
DRAWING = {"ipython", "ipywidgets", "matplotlib", "seaborn", "traitlets"}
T = TypeVar("T")


class SetupError(RuntimeError):
    """Say in one sentence what a chapter lacks; a notebook shows nothing else."""

    def _render_traceback_(self) -> list[str]:  # what IPython shows for this exception
        return [f"{type(self).__name__}: {self}"]


def require(*, data: str | None = None) -> bool:
    """Check that a chapter can run here; print nothing if all is well.

    Args:
        data: a data set, one of `DATASETS`, whose training split some cells need. It is
            looked for, never downloaded; if it is missing, one sentence is printed and
            those cells are for the caller to skip.

    Returns:
        Whether the data are there.

    Raises:
        SetupError: what every chapter needs (Python, the packages of pyproject.toml,
            the shipped files) is missing, too old or damaged.
    """
    explain_errors()
    _compute_on_one_thread()
    checks.require(data in (None, *DATASETS), "data", data, f"one of {DATASETS}")
    _check_packages()
    _check_assets()
    if mode() == "test":
        _take_few_steps()
    missing = _missing_data(data) if data else ""
    if missing:
        print(missing, "Cells that need them are skipped.")
    return not missing


def _compute_on_one_thread() -> None:
    """Let what a chapter computes wait for no other process, as the package does.

    Two threads of a small network meet every few milliseconds; beside other work they
    would wait for each other most of the time. See `diver_lite.devices`.
    """
    try:
        import torch
    except ImportError:  # which is said next
        return
    torch.set_num_threads(1)


def _take_few_steps() -> None:
    """Let what takes the default number of steps take fewer, live pictures too.

    That a chapter runs shows as well in a fifth of the time.
    """
    from diver_lite.recovery import RecoveryConfig

    begin: Any = RecoveryConfig.__init__
    names = [field.name for field in fields(RecoveryConfig)]
    defaults = dict(zip(names, begin.__defaults__, strict=True))
    begin.__defaults__ = (*(defaults | {"num_inference_steps": TEST_STEPS}).values(),)


def _check_packages() -> None:
    if sys.version_info < PYTHON:
        raise SetupError(
            f"Python {'.'.join(map(str, PYTHON))} or newer is needed, but this kernel "
            f"runs {sys.version.split()[0]}: make a new environment as the page 'Set "
            "up and read' describes, and choose its kernel."
        )
    try:
        requirements = metadata.requires("diver-lite") or []
        from packaging.requirements import Requirement
    except ModuleNotFoundError as error:  # includes PackageNotFoundError
        raise SetupError(
            f"{error.name} is not installed for this kernel's Python "
            f"({sys.executable}): run %pip install -e '.[book]' in the folder that "
            "holds pyproject.toml, then restart the kernel."
        ) from None
    wanted, found = [], []
    for needed in map(Requirement, requirements):
        ours = not needed.marker or needed.marker.evaluate({"extra": ""})
        if not ours and needed.name not in DRAWING:
            continue  # only for building the book, or for its tests
        try:
            version = metadata.version(needed.name)
            fits = needed.specifier.contains(version, prereleases=True)
        except metadata.PackageNotFoundError:
            version, fits = "none", False
        if not fits:
            wanted.append(f'"{needed.name}{needed.specifier}"')
            found.append(f"{needed.name} {version}")
    if wanted:
        raise SetupError(
            f"Packages are missing or of the wrong version (found: {', '.join(found)})"
            f": run %pip install {' '.join(wanted)} in a cell, then restart the kernel."
        )


def _check_assets() -> None:
    try:
        paths = [asset_path(name) for name in list_assets()]
    except InputError as error:
        raise SetupError(f"A file that ships with the package: {error}.") from None
    if not paths:
        raise SetupError(
            "The files that ship with diver_lite are not there: reinstall it, or clone "
            "the repository again."
        )


def _missing_data(name: str) -> str:
    import platformdirs

    from diver_lite.sets.real import find_source

    cache = platformdirs.user_cache_dir("diver_lite")
    root = Path(os.environ.get("DIVER_LITE_DATA") or cache)
    try:
        find_source(name, root)  # with a root it never downloads
    except InputError:
        return (
            f"The training images of {name} are not on this machine: name a folder "
            "that holds them in the environment variable DIVER_LITE_DATA, or let "
            f"diver_lite.sets.real.load_dataset({name!r}, 'train') download them once."
        )
    return ""


# ---------------------------------------------------------------- inside chapters


def mode() -> str:
    """Return "test" (proves that it runs), "demo" (the default) or "full" (a GPU)."""
    value = os.environ.get("DIVER_LITE_MODE", "demo")
    if value not in MODES:
        raise InputError(f"DIVER_LITE_MODE is {value!r}; expected one of {MODES}")
    return value


def pick(test: T, demo: T, full: T) -> T:
    """Return the argument that belongs to the current mode."""
    return {"test": test, "demo": demo, "full": full}[mode()]


def stored(name: str) -> Path:
    """Return a file of results/, wherever in the repository the notebook is."""
    for folder in (Path.cwd(), *Path.cwd().parents):
        if (folder / "results" / name).exists():
            return folder / "results" / name
    raise InputError(f"results/{name} is not here; open the notebook in a full clone")


# ---------------------------------------------------------------- errors of cells


def explain_errors(shell=None) -> None:
    """Let a kernel answer the usual mistakes with one sentence; `%tb` shows the rest.

    Without a shell of IPython, default the running one, nothing is done.
    """
    if shell is None and "IPython" in sys.modules:
        shell = sys.modules["IPython"].get_ipython()
    if shell is not None:
        usual = (NameError, InputError, MemoryError, RuntimeError)
        shell.set_custom_exc(usual, _show)


# `%load_ext bookkit.setup`, or a kernel's config: then it also works after a
# restart in the middle of a chapter
load_ipython_extension = explain_errors


def _show(shell, kind, error, traceback, tb_offset=None) -> None:
    sentence = explain(error, shell.user_global_ns)
    short = sentence and not hasattr(error, "_render_traceback_")
    if short:
        error._render_traceback_ = lambda: [sentence]
    shell.showtraceback((kind, error, traceback), tb_offset=tb_offset)
    if short:
        del error._render_traceback_  # so that %tb shows the whole traceback


def explain(error: BaseException, namespace: dict) -> str | None:
    """Return the sentence for an error that a cell raised, or None if there is none.

    The error has its traceback; the namespace is the notebook's global variables.
    """
    if isinstance(error, InputError):
        return f"InputError: {error}"
    text = str(error).lower()
    memory = "out of memory" in text or "not enough memory" in text
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and memory):
        return (
            "Memory ran out: restart the kernel, then use fewer images or a smaller "
            "batch_size, or start Jupyter with DIVER_LITE_MODE=test in its environment."
        )
    if type(error) is not NameError or not error.name:
        return None
    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    if not frames or frames[-1].f_globals is not namespace:
        return None  # a bug of some package, not of this notebook
    return (
        f"{error.name} is not defined yet: run the cells above this one first (menu "
        "Run, Run All Above Selected Cell), then this one again. If you wrote the name "
        "yourself, check its spelling."
    )
