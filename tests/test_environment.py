"""One list of dependencies, written in several places: they must agree."""

import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ENVIRONMENT = yaml.safe_load((ROOT / "environment.yml").read_text())
CONDA_NAMES = {"torch": "pytorch"}


def ranges(requirements):
    """Map each requirement's name to its range, written in one order."""
    parsed = [Requirement(line) for line in requirements]
    return {canonicalize_name(r.name): str(r.specifier) for r in parsed}


def conda_requirements():
    """List environment.yml's requirements under their names in pyproject.toml."""
    conda, pip = [], []
    for entry in ENVIRONMENT["dependencies"]:
        if isinstance(entry, dict):
            pip += entry["pip"]
        else:
            conda.append(entry)
    found = ranges(conda)
    for name, conda_name in CONDA_NAMES.items():
        found[name] = found.pop(conda_name)
    return found | ranges(line for line in pip if not line.startswith("-"))


def test_environment_yml_agrees_with_pyproject():
    extras = PROJECT["optional-dependencies"]
    expected = ranges(PROJECT["dependencies"] + extras["book"])
    expected["python"] = PROJECT["requires-python"]
    found = conda_requirements()
    assert found.pop("pip") == ""
    assert found == expected


def test_environment_yml_installs_the_package_itself():
    pip = next(e for e in ENVIRONMENT["dependencies"] if isinstance(e, dict))["pip"]
    assert "-e ." in pip


@pytest.mark.parametrize(
    ("file", "command"),
    [
        ("README.md", "make demo"),
        ("README.md", "make test"),
        ("README.md", "make lab"),
        ("README.md", "pip install -e"),
        ("README.md", "environment.yml"),
        ("book/setup.md", "make demo"),
        ("book/setup.md", "make test"),
        ("book/setup.md", "environment.yml"),
        ("Makefile", "-e '.[book,test]'"),
        (".ci/run", "make test"),
        (".github/workflows/test.yml", ".ci/run"),
        (".github/workflows/book.yml", "make book"),
        (".github/workflows/wheel.yml", "python -m build"),
        (".github/workflows/wheel.yml", "scripts/smoke_test.py dist/*.whl"),
        ("Makefile", "python -m build"),
        ("Makefile", "scripts/smoke_test.py dist/*.whl"),
        ("environment.yml", 'pip install -e ".[book,test]"'),
        ("CONTRIBUTING.md", 'pip install -e ".[book,test]"'),
        ("CONTRIBUTING.md", "make test-quick"),
        (".github/workflows/test.yml", "-e .[book,test]"),
        (".github/workflows/test.yml", "make test-quick"),
        (".github/workflows/mutants.yml", "scripts/mutants.py"),
        (".devcontainer/devcontainer.json", "-e '.[book,test]'"),
        (".github/workflows/versions.yml", "-e .[book,test]"),
        (".github/workflows/release.yml", "./.github/workflows/wheel.yml"),
    ],
)
def test_the_commands_are_the_same_everywhere(file, command):
    assert command in (ROOT / file).read_text(), f"{file} does not mention {command!r}"


def test_every_target_of_the_makefile_is_in_its_help():
    text = (ROOT / "Makefile").read_text()
    targets = text.split(".PHONY:")[1].splitlines()[0].split()
    missing = [t for t in targets if t != "help" and f'"make {t}' not in text]
    assert not missing


def test_tests_run_the_same_way_on_all_platforms():
    options = "--numprocesses=logical --dist=worksteal"
    assert f"ON_ALL_CORES = {options}\n" in (ROOT / "Makefile").read_text()
    for name in ("test", "versions"):
        workflow = ROOT / f".github/workflows/{name}.yml"
        assert f"python -m pytest {options}\n" in workflow.read_text()


@pytest.mark.skipif(sys.platform == "win32", reason="has no such bit")
def test_ci_run_is_executable():
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111
