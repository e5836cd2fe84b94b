"""List the paragraphs of the book that hold many numbers.

Run: python scripts/count_numbers.py [--more-than 6]

A reader takes one or two numbers out of a paragraph; what needs more is a table. Left
out are tables, captions, code, formulas, years of works, exercises and what their
solutions show.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
NUMBER = re.compile(r"(?<![\w./-])[+−-]?\d[\d,]*(?:\.\d+)?(?![\w-])")


def pages() -> Iterator[tuple[str, str]]:
    """Yield (name, Markdown) of every page and chapter."""
    for path in sorted(ROOT.glob("book/*.md")):
        yield path.stem, path.read_text("utf-8")
    for path in sorted(ROOT.glob("notebooks/*.ipynb")):
        cells = json.loads(path.read_text("utf-8"))["cells"]
        texts = ["".join(c["source"]) for c in cells if c["cell_type"] == "markdown"]
        yield path.stem, "\n\n".join(texts)


def running(text: str) -> Iterator[str]:
    """Yield the lines outside of code, tables, captions, solutions and folded parts."""
    text = re.sub(r"(?s)```.*?```|<details>.*?</details>|<!--.*?-->", "", text)
    text = re.sub(r"(?sm)^#### Solution$.*?(?=^#{1,3} |\Z)", "", text)
    for line in text.splitlines():
        if not re.match(r"\||\*\*Figure\.\*\*|!\[", line):
            yield line


def paragraphs(text: str) -> list[str]:
    """Return the running text of a page, a paragraph or a list's entry each."""
    text = "\n".join(running(text))
    text = re.sub(r"\[[^\]]+ \d{4}\]\([^)]*\)", "", text)  # a work and its year
    text = re.sub(r"(?s)\$\$.*?\$\$|\$(?:[^$\n]|\n(?!\n))*\$", "", text)
    text = re.sub(r"`[^`]*`|\]\([^)]*\)", "", text)
    blocks = re.split(r"\n\s*\n|\n(?=- |\d+\. )", text)
    return [block.strip() for block in blocks if block.strip()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--more-than", type=int, default=6)
    most = parser.parse_args().more_than
    found = [
        (len(NUMBER.findall(block)), name, " ".join(block.split()))
        for name, text in pages()
        for block in paragraphs(text)
    ]
    crowded = sorted((entry for entry in found if entry[0] > most), reverse=True)
    for count, name, block in crowded:
        print(f"{count:4} {name}: {block[:90]}")
    print(f"{len(crowded)} of {len(found)} paragraphs hold more than {most} numbers")


if __name__ == "__main__":
    main()
