"""What the reader writes in chapters 3 to 6 has the names that the package has.

Who has built DIVER there must find it again in `recovery.py`: the same functions, with
the same parameters in the same order, and steps with the same fields.
"""

import ast
import inspect
import re
from dataclasses import fields
from pathlib import Path
from textwrap import dedent

import nbformat
import pytest

from diver_lite import recovery
from diver_lite.priors.contract import Prior, Wrapped

ROOT = Path(__file__).parents[2]
CORE = {
    "signal_and_noise": Prior.signal_and_noise,
    "timesteps": Prior.timesteps,
    "predict_noise": Wrapped.predict_noise,
    "denoise": Prior.denoise,
    "inherit": recovery.inherit,
    "guide": recovery.guide,
    "guidance_sigma": recovery.guidance_sigma,
    "compounded": recovery.compounded,
    "recover_steps": recovery.recover_steps,
    "phase": recovery.RecoveryConfig.phase,
}
# a chapter, and what its reader writes there; the last one holds all
WRITTEN = {
    "03_diffusion_prior": {
        "signal_and_noise",
        "timesteps",
        "predict_noise",
        "denoise",
    },
    "04_semantic_inheritance": {"inherit", "recover_steps"},
    "05_semantic_guidance": {
        "guide",
        "guidance_sigma",
        "compounded",
        "recover_steps",
    },
    "06_semantic_fusion": {
        "inherit",
        "guide",
        "guidance_sigma",
        "compounded",
        "recover_steps",
        "phase",
    },
}

every_chapter = pytest.mark.parametrize("chapter", WRITTEN)


def cells(chapter):
    """Yield the syntax trees of a chapter's code cells."""
    notebook = nbformat.read(ROOT / "notebooks" / f"{chapter}.ipynb", as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            yield ast.parse(cell.source)


def functions(tree):
    """Return each function of a cell, methods too: its name and its parameters."""
    return {
        node.name: parameters(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
    }


def parameters(node):
    """Return names in order, with a star before those given by name only."""
    arguments = node.args
    names = [a.arg for a in (*arguments.posonlyargs, *arguments.args)]
    if arguments.kwonlyargs:
        names += ["*", *(a.arg for a in arguments.kwonlyargs)]
    return [name for name in names if name != "self"]


def of_package(function):
    """Return the same of the package's function."""
    (node,) = ast.parse(dedent(inspect.getsource(function))).body
    return parameters(node)


@every_chapter
def test_what_the_reader_writes_is_called_as_in_the_package(chapter):
    written = {}
    for tree in cells(chapter):
        found = functions(tree)
        written |= found
        for name in CORE.keys() & found.keys():
            assert found[name] == of_package(CORE[name]), name
    missing = WRITTEN[chapter] - written.keys()
    assert not missing, f"{chapter} doesn't define {missing}"


def step_fields(chapter):
    """Return the fields of the `Step` that a chapter makes."""
    for tree in cells(chapter):
        for node in ast.walk(tree):
            call = isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
            if call and node.func.id == "namedtuple":
                name, names = map(ast.literal_eval, node.args)
                if name == "Step":
                    return names.split()
    return []


@every_chapter
def test_steps_have_the_fields_of_the_package(chapter):
    """Some of them in chapters 4 and 5, all of them in chapter 6."""
    names = [field.name for field in fields(recovery.Step)]
    found = step_fields(chapter)
    assert found == [name for name in names if name in found]
    if "recover_steps" in WRITTEN[chapter]:
        assert {"timestep", "latents", "pred_original"} <= set(found)
    if chapter.startswith("06"):
        assert found == names


def test_one_cell_holds_all_of_it():
    wanted = WRITTEN["06_semantic_fusion"] - {"phase"}
    held = [functions(tree).keys() for tree in cells("06_semantic_fusion")]
    assert any(wanted <= names for names in held)


def body_of(source, name):
    """Return a function's lines as text, without its docstring and its checks."""
    (function,) = (
        node
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef) and node.name == name
    )
    first = function.body[ast.get_docstring(function) is not None]
    lines = source.splitlines()[first.lineno - 1 : function.end_lineno]
    return [line for line in lines if not line.lstrip().startswith("checks.")]


@pytest.mark.parametrize("name", sorted(WRITTEN["06_semantic_fusion"] - {"phase"}))
def test_chapter_6_writes_what_the_package_does(name):
    """Word for word, the loop and the formulas that it calls."""
    notebook = nbformat.read(ROOT / "notebooks/06_semantic_fusion.ipynb", as_version=4)
    (cell,) = (
        c for c in notebook.cells if "whole-method" in c.metadata.get("tags", "")
    )
    core = (ROOT / "diver_lite/recovery.py").read_text("utf-8")
    assert body_of(cell.source, name) == body_of(core, name)


def test_the_chapter_shows_the_loop_that_the_package_runs():
    """Its stored output is the source as it is today."""
    notebook = nbformat.read(ROOT / "notebooks/06_semantic_fusion.ipynb", as_version=4)
    (cell,) = (c for c in notebook.cells if "inspect.getsource" in c.source)
    (output,) = cell.outputs
    shown = inspect.getsource(recovery.recover_steps)
    assert output.data["text/markdown"] == f"```python\n{shown}```"


# ---------------------------------------------------------------- what pages call it

# what had several names -> what it is called where it is read
ONE_NAME = {
    r"raw prior|labels? alone|prior alone": "samples of the prior",
    r"SI matched|no pull\b": "inheritance",
    r"\bropes?\b": "the pull",
}
READ = ["README.md", "book/intro.md", "book/paper.md", "book/troubleshooting.md"]
READ += [
    f"notebooks/{name}.ipynb"
    for name in ("01_quick_start", "02_distilled_data", *WRITTEN)
]
READ += ["notebooks/06b_two_priors.ipynb", "notebooks/07_cross_architecture.ipynb"]
READ += [str(p.relative_to(ROOT)) for p in ROOT.glob("notebooks/appendix_*.ipynb")]


def read_text(path):
    """Return what a reader sees: prose, alternative texts, and what cells print."""
    if path.suffix == ".md":
        return re.sub(r"(?s)<!--.*?-->", "", path.read_text("utf-8"))
    shown = []
    for cell in nbformat.read(path, as_version=4).cells:
        shown.append(cell.source if cell.cell_type == "markdown" else "")
        shown.append(cell.metadata.get("mystnb", {}).get("image", {}).get("alt", ""))
        for output in cell.get("outputs", []):
            shown += [output.get("text", ""), output.get("data", {}).get("text/plain")]
    return "\n".join(filter(None, shown))


@pytest.mark.parametrize("page", READ)
def test_one_thing_has_one_name(page):
    """Keys of files and of `variants` may differ; what a page shows may not."""
    text = " ".join(read_text(ROOT / page).split())
    for old, name in ONE_NAME.items():
        found = re.findall(f".{{30}}(?:{old}).{{30}}", text, flags=re.IGNORECASE)
        assert not found, f"call it {name}"
