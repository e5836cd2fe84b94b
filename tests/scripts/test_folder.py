"""The READMEs of `scripts/` and `results/` name what lies beside them."""

import re
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results"
SCRIPTS = ROOT / "scripts"
TABLE = (SCRIPTS / "README.md").read_text("utf-8")
ROWS = re.findall(r"^\| `([\w.]+)` \| (.+) \| (.*) \| (.*) \|$", TABLE, re.M)


def test_the_table_has_every_script_once():
    files = [path.name for path in SCRIPTS.iterdir() if path.suffix in (".py", ".sh")]
    assert sorted(name for name, *_ in ROWS) == sorted(files)


def test_a_script_writes_what_the_table_says():
    """The files in results/, up to what depends on the options."""
    for name, _, _, writes in ROWS:
        text = (SCRIPTS / name).read_text("utf-8")
        for file in re.findall(r"`results/([\w.-]+)", writes):
            if name != "answer.py":  # the question is the file's name
                assert f"results/{file.removesuffix('_')}" in text, (name, file)
        stored = re.findall(r"results/([a-z]\w*?)_[A-Z{]", text)
        if "write_result(" in text and name != "provenance.py":
            assert all(f"results/{file}" in TABLE for file in stored), (name, stored)


def test_each_script_finds_the_chapters_code():
    """`provenance` says where `bookkit` is, so it is imported first."""
    for path in SCRIPTS.glob("*.py"):
        text = path.read_text("utf-8")
        if "\nfrom bookkit" in text:
            before, _ = text.split("\nfrom bookkit", 1)
            assert "\nfrom provenance" in before, path.name


# files, command, pages: the cells of a row of `results/README.md`
QUESTIONS = re.findall(
    r"^\| (`.+?`) \| .+\? \| (.+) \| (.+) \|$",
    (RESULTS / "README.md").read_text("utf-8"),
    re.M,
)


def patterns(cell):
    """Return the patterns of a row's files, made to match whatever their ending."""
    return [f"{name.removesuffix('.json')}*" for name in re.findall("`(.+?)`", cell)]


FILES = sorted(path for path in RESULTS.iterdir() if path.name != "README.md")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_one_question_names_each_file_of_results(path):
    rows = [
        row for row in QUESTIONS if any(fnmatch(path.name, p) for p in patterns(row[0]))
    ]
    assert len(rows) == 1, f"add {path.name} to results/README.md, in one row"


# how a page names a file, or a study of comparisons.csv
STARTS = ("results/", "comparisons.csv: ")


@pytest.mark.parametrize("row", QUESTIONS, ids=lambda row: row[0])
def test_a_question_names_its_script_and_the_pages_that_quote_it(row):
    cell, command, pages = row
    stems = [pattern.rstrip("*") for pattern in patterns(cell)]
    if not command.startswith("none: "):
        name = re.fullmatch(r"`python scripts/(\w+\.py)( \w+)?`", command)[1]
        assert (SCRIPTS / name).is_file()
        assert f"`{name}`" in TABLE
    for page, anchor in re.findall(r"\]\((\S+?\.md)(?:#([\w-]+))?\)", pages):
        text = (RESULTS / page).read_text("utf-8")
        if anchor:  # the section that it leads to, up to the next one
            sections = re.split(r"(?m)^## ", text)
            titles = {
                re.sub(r"[^\w -]", "", s.split("\n")[0]).lower(): s for s in sections
            }
            text = titles[anchor.replace("-", " ")]
        named = [f"{start}{stem}" for stem in stems for start in STARTS]
        assert any(name in text for name in named), (stems, page, anchor)


def test_no_table_is_stored_that_follows_from_trainings():
    """Means are computed where they are shown; comparisons have one file for all."""
    names = {path.name for path in FILES}
    for path in RESULTS.glob("*_trainings.csv"):
        name = path.stem.removesuffix("_trainings")
        assert not names & {f"{name}.csv", f"{name}_comparisons.csv"}
