"""The table of `scripts/README.md` and the folder say the same."""

import re
from pathlib import Path

SCRIPTS = Path(__file__).parents[2] / "scripts"
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
