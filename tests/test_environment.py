"""One list of dependencies, written in several places: they must agree."""

import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ENVIRONMENT = yaml.safe_load((ROOT / "environment.yml").read_text())
CONDA_NAMES = {"torch": "pytorch"}


def ranges(requirements):
    """Map each requirement's name to its range, written in one order."""
    parsed = [Requirement(line) for line in requirements]
    return {r.name.lower(): str(r.specifier) for r in parsed}


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
    expected = ranges(PROJECT["dependencies"] + extras["book"] + extras["test"])
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
    ],
)
def test_the_commands_are_the_same_everywhere(file, command):
    assert command in (ROOT / file).read_text(), f"{file} does not mention {command!r}"


def test_every_target_of_the_makefile_is_in_its_help():
    text = (ROOT / "Makefile").read_text()
    targets = text.split(".PHONY:")[1].splitlines()[0].split()
    missing = [t for t in targets if t != "help" and f'"make {t}' not in text]
    assert not missing


def test_ci_run_is_executable():
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111
