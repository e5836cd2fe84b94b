"""What is imported is declared, and what is written twice is the same."""

import ast
import os
import re
import shlex
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import nbformat
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import diver_lite

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PROJECT = PYPROJECT["project"]
EXTRAS = PROJECT["optional-dependencies"]
PROVIDERS = packages_distributions()  # of a module: the distributions that hold it
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
HOOKS = {
    hook["id"]: hook
    for repo in yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    for hook in repo["hooks"]
}

# ---------------------------------------------------------------- imports


def source(path):
    """Return a file's Python; of a notebook its cells', without what IPython adds."""
    if path.suffix != ".ipynb":
        return path.read_text("utf-8")
    cells = nbformat.read(path, as_version=4).cells
    code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    return re.sub(r"(?m)^[%!].*$", "", code)


def imported(code):
    """Return the first parts of all names that are imported, wherever it is done."""
    names = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module)
    return {name.split(".")[0] for name in names}


def declared(*extras):
    """Return the distributions that the package requires, with these extras."""
    lines = [*PROJECT["dependencies"], *(line for e in extras for line in EXTRAS[e])]
    return {canonicalize_name(Requirement(line).name) for line in lines}


def test_imports_are_found_wherever_they_stand():
    code = "import a.b as c, d\nfrom e.f import g\nfrom . import h\n"
    code += "def f():\n    try:\n        import i\n    except ImportError: pass\n"
    assert imported(code) == {"a", "d", "e", "i"}


@pytest.mark.parametrize(
    ("folder", "extras"),
    [
        ("diver_lite", ["text"]),
        ("scripts", [*EXTRAS]),
        ("tests", [*EXTRAS]),
        ("notebooks", ["book", "test"]),
        ("book", ["book"]),
    ],
)
def test_what_is_imported_is_declared(folder, extras):
    files = [p for p in (ROOT / folder).rglob("*") if p.suffix in (".py", ".ipynb")]
    files = [path for path in files if ".ipynb_checkpoints" not in path.parts]
    assert files
    parts = ("scripts", "tests", "book/_ext")
    ours = {p.stem for part in parts for p in Path(ROOT, part).rglob("*.py")}
    if folder == "diver_lite":  # the wheel has none of them
        ours = set()
    # an evaluator to compare with, which pins versions that exclude ours
    known = sys.stdlib_module_names | ours | {"diver_lite", "bookkit", "ddranking"}
    for path in files:
        for name in sorted(imported(source(path)) - known):
            # one that isn't installed here bears, we trust, its module's name
            distributions = map(canonicalize_name, PROVIDERS.get(name, [name]))
            assert declared(*extras) & {*distributions}, (
                f"{path.relative_to(ROOT)} imports {name}, which pyproject.toml does "
                f"not declare (neither in dependencies nor in {extras})"
            )


@pytest.mark.parametrize(
    "path", sorted(ROOT.glob("scripts/*.py")), ids=lambda p: p.stem
)
def test_scripts_know_the_way_to_what_lies_beside_chapters(path):
    """`python scripts/X.py` finds bookkit only after provenance has been imported."""
    names = re.findall(r"(?m)^(?:from|import) (\w+)", path.read_text("utf-8"))
    if "bookkit" in names:
        assert "provenance" in names[: names.index("bookkit")]


# what draws, and makes notebooks live: for chapters alone
DRAWING = ("IPython", "ipywidgets", "matplotlib", "seaborn", "traitlets", "bookkit")

WITHOUT = """
import importlib, pkgutil, sys
from importlib.machinery import PathFinder

class Installed(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.partition(".")[0] not in {drawing}:
            return super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Installed

import diver_lite
for module in pkgutil.walk_packages(diver_lite.__path__, "diver_lite."):
    importlib.import_module(module.name)

# the whole demo, but for its trainings and what takes long
import pandas as pd
from diver_lite import cli, demo

def recover(distilled, prior, config, progress):
    return distilled.with_images(distilled.images.clamp(0, 1), "DIVER")

def judge(sets, test, *, judges, seeds, **rest):
    rows = [(s, j, k) for s in sets for j in judges for k in seeds]
    table = pd.DataFrame(rows, columns=["set", "judge", "seed"])
    return table.assign(unseen=table["judge"] != "ConvNet", draw=0, accuracy=0.5)

demo.recover, demo.cross_architecture = recover, judge
demo.vae_only = lambda distilled, prior: distilled
cli.main(["demo", "-o", sys.argv[1], "--device", "cpu"])
"""


def test_the_package_needs_nothing_that_draws(tmp_path):
    """Every module is imported and the demo runs where such packages are missing."""
    assert not declared() & {canonicalize_name(name) for name in DRAWING}
    code = WITHOUT.format(drawing=DRAWING)
    run = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "demo"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "demo/report.html").is_file()


# ---------------------------------------------------------------- the version


def test_the_version_has_one_place():
    assert "version" not in PROJECT
    assert PROJECT["dynamic"] == ["version"]
    attribute = PYPROJECT["tool"]["setuptools"]["dynamic"]["version"]["attr"]
    assert attribute == "diver_lite.__version__"


def test_what_tells_the_version_tells_the_same():
    assert CITATION["version"] == diver_lite.__version__
    readme = (ROOT / "README.md").read_text("utf-8")
    assert re.findall(r"Version (\d[\w.]*)", readme) == [diver_lite.__version__]
    changes = (ROOT / "CHANGELOG.md").read_text("utf-8")
    headings = re.findall(r"(?m)^## \[(.+?)\](?: - (\S+))?$", changes)
    assert headings[0] == ("Unreleased", "")
    assert headings[1] == (diver_lite.__version__, str(CITATION["date-released"]))


# ---------------------------------------------------------------- the rest


def test_the_citation_names_the_paper():
    bibliography = (ROOT / "book/references.bib").read_text("utf-8")
    entry = bibliography.split("@inproceedings{xia2026diver,")[1].split("\n}")[0]
    authors = re.search(r"author = {(.+)}", entry)[1].split(" and ")
    paper = CITATION["preferred-citation"]
    assert [f"{a['family-names']}, {a['given-names']}" for a in paper["authors"]] == (
        authors
    )
    title = re.search(r"title = {(.+)}", entry)[1]
    assert paper["title"] == title.replace("{", "").replace("}", "")
    assert paper["identifiers"][0]["value"] == "arXiv:2605.12649"


def test_the_package_says_that_it_is_typed():
    assert (ROOT / "diver_lite/py.typed").is_file()
    data = PYPROJECT["tool"]["setuptools"]["package-data"]["diver_lite"]
    assert {"py.typed", "demo.html"} <= {*data}


def test_hooks_and_make_do_the_same():
    makefile = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    (command,) = re.findall(r"\$\(BIN\)/(nbstripout .+) \$\(NB\)", makefile)
    assert shlex.split(HOOKS["nbstripout"]["entry"]) == shlex.split(command)
    lines = {Requirement(line).name: line for line in EXTRAS["book"] + EXTRAS["test"]}
    for hook in HOOKS.values():
        tool = hook["entry"].split()[0]
        if tool in lines:
            assert hook["additional_dependencies"] == [lines[tool]]
    command = HOOKS["types"]["entry"].replace(".venv/bin", "$(BIN)")
    assert f"\t{command}\n" in makefile, "types are checked as CI does"
    for tool in ("ruff", "basedpyright"):
        assert "==" in lines[tool], "a newer one would judge the same code otherwise"
