"""The project's address stands in one place: `[project.urls]` in pyproject.toml."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
ADDRESS = PROJECT.get("urls", {}).get("Repository")
TEXTS = [
    path
    for pattern in ("*.md", "*.toml", "*.yml", "*.cff", ".github/**/*.*", "book/*.md")
    for path in sorted(ROOT.glob(pattern))
]
PLACEHOLDER = r"(?i)\bOWNER\b|your[-_ ]?(org|name)\b|example\.(com|org)|\bTODO\b|FIXME"


def places(text):
    """List the repositories that a text links to and that may be meant to be ours."""
    return re.findall(r"https://github\.com/[\w.-]*/diver[\w.-]*", text)


def test_what_is_found():
    text = "[a](https://github.com/someone/diver_lite/issues) https://github.com/a/b"
    assert places(text) == ["https://github.com/someone/diver_lite"]


def test_the_address_is_no_placeholder():
    """Fill it in whole, or leave the table out."""
    assert ADDRESS is None or re.fullmatch(r"https://[\w.-]+/[\w./-]+[\w]", ADDRESS)


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_points_elsewhere(path):
    text = path.read_text("utf-8")
    assert {*places(text)} <= {ADDRESS}, "[project.urls] has another address, or none"
    assert not re.search(PLACEHOLDER, text)


def test_what_repeats_the_address_follows():
    """No address: no button and no line that leads nowhere."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    book = yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))
    write = f"write there what [project.urls] has: {ADDRESS}"
    assert citation.get("repository-code") == ADDRESS, f"CITATION.cff: {write}"
    found = book.get("repository", {}).get("url")
    assert found == ADDRESS, f"_config.yml, repository: url: {write}"
    button = book["html"].get("use_repository_button", False)
    assert button == bool(ADDRESS), "_config.yml, html: use_repository_button"
