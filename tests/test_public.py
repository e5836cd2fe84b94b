"""The page "What you can rely on" names what is public: all of it, and nothing else."""

import re
from pathlib import Path

import typer

import diver_lite
from diver_lite.cli import app
from diver_lite.priors.contract import Prior
from diver_lite.sets.distilled import FORMAT_VERSION

BOOK = Path(__file__).parents[1] / "book"
PAGE = (BOOK / "public.md").read_text("utf-8")
PARTS = dict(part.split("\n", 1) for part in PAGE.split("\n## ")[1:])


def code(text):
    return re.findall(r"`([^`]+)`", text)


def test_names():
    listed = re.findall(r"(?m)^\| `(\w+)` \|", PARTS["In Python"])
    assert listed == sorted(diver_lite.__all__)
    for name in listed:
        assert getattr(diver_lite, name).__doc__


def test_names_are_in_the_reference():
    reference = (BOOK / "api.md").read_text("utf-8")
    modules = re.findall(r"- \[`diver_lite\.([\w.]+)`\]", reference)
    for name in diver_lite.__all__:
        assert diver_lite._ADDRESSES[name] in modules, name
    assert "(public.md)" in reference


def test_commands():
    first = PARTS["On the command line"].split(", with")[0]
    assert code(first) == [*typer.main.get_command(app).commands]


def test_the_format():
    text = PARTS["The file of a set"]
    assert f"Format version {FORMAT_VERSION}," in text


def test_the_contract_of_a_prior():
    (names,) = re.findall(r"Whatever has (.+) is a prior", PARTS["A prior"])
    assert {*code(names)} == {name for name in vars(Prior) if name[0] != "_"}
