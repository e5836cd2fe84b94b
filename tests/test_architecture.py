"""The house: which way imports point, and how long its rooms may grow."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "diver_lite"
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
    or "__init__": path
    for path in PACKAGE.rglob("*.py")
}
CORE = {"checks", "files", "devices", "trust", "assets", "recovery"}
NOUNS = {"sets", "priors"}
# a module of the core, or a room -> what it may know
MAY_KNOW = {
    "checks": set(),
    "files": {"checks"},
    "devices": set(),
    "trust": set(),
    "named_code": {"checks", "trust"},
    "__main__": {"cli", "trust"},
    "assets": {"checks", "files"},
    "sets": {"checks", "files", "assets"},
    "priors": {"checks", "files", "devices", "assets", "sets", "named_code"},
    "recovery": {"checks", "devices", *NOUNS},
    "run": {*CORE, *NOUNS},
    "make": {*CORE, *NOUNS, "judge"},
    "judge": {*CORE, *NOUNS, "named_code"},
    "advice": {*CORE, *NOUNS, "run", "make", "judge"},
    "cli": {*CORE, *NOUNS, "run", "judge", "make", "demo", "advice"},
    "demo": {*CORE, *NOUNS, "run", "judge", "make"},
}


def imported(path):
    """Return the modules of the package that a file imports, also inside functions."""
    names = set()
    tree = ast.parse(path.read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []  # for type checkers alone
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    ours = {name.removeprefix("diver_lite.") for name in names if "diver_lite." in name}
    found = {name if name in MODULES else name.rpartition(".")[0] for name in ours}
    return {name for name in found if name in MODULES}


IMPORTS = {name: imported(path) for name, path in MODULES.items()}


def test_imports_are_found():
    """The tests below would pass if nothing were read."""
    assert "recovery" in IMPORTS["run.to_file"]
    assert "demo" in IMPORTS["cli"]  # inside a function
    assert "priors.dit" not in IMPORTS["sets.classes"]  # for type checkers alone


@pytest.mark.parametrize("name", sorted(set(MODULES) - {"__init__"}))
def test_imports_point_one_way(name):
    room = name.partition(".")[0]
    wrong = {
        other
        for other in IMPORTS[name]
        if other.partition(".")[0] not in {room, *MAY_KNOW[room]}
    }
    assert not wrong, f"{name} must not know {wrong}"


def test_the_algorithm_knows_little():
    assert IMPORTS["recovery"] == {
        "checks",
        "devices",
        "priors.contract",
        "priors.schedule",
        "sets.classes",
        "sets.distilled",
    }
    tree = ast.parse((PACKAGE / "recovery.py").read_text("utf-8"))
    others = {
        name.partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [node.module]
            if isinstance(node, ast.ImportFrom)
            else [alias.name for alias in node.names]
        )
    }
    standard = {"__future__", "collections", "dataclasses", "functools", "itertools"}
    standard |= {"math"}
    assert others == {"diver_lite", "torch", "tqdm", "typing", *standard}


def test_what_serves_a_set_knows_none():
    assert IMPORTS["sets.distilled"] == {"checks", "files", "sets.stored", "sets.sheet"}
    assert IMPORTS["sets.sheet"] == {"checks", "sets.stored"}
    assert IMPORTS["sets.stored"] == {"checks"}


def test_no_circles():
    TopologicalSorter(IMPORTS).prepare()


def test_a_stranger_sees_the_algorithm_first():
    """A few files and a room for every other job."""
    shown = [p for p in PACKAGE.iterdir() if p.name != "__pycache__"]
    rooms = {p.name for p in shown if p.is_dir()}
    assert rooms == {"advice", "assets", "judge", "make", "priors", "run", "sets"}
    assert len(shown) - len(rooms) <= 12


def test_functions_can_be_read_at_once():
    for path in MODULES.values():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = node.end_lineno - node.lineno + 1
                assert length < 120, f"{path.name}: {node.name} has {length} lines"
