"""List the paragraphs of the book that hold many numbers.

Run: python scripts/count_numbers.py [--more-than 6]

A reader takes one or two numbers out of a paragraph; what needs more is a table. Left
out are tables, captions, code, formulas, years of works, exercises and what their
solutions show. A role that reads results/ counts as the numbers that it prints.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
RUNNING = r"{(?:admonition|note|warning|important|glossary)}(?! What it shows)"
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
    """Yield the lines that stand in no directive or code block, boxes apart."""
    fences: list[tuple[str, bool]] = []  # (sign and length, is it running text)
    for line in text.splitlines():
        fence = re.match(r" *(`{3,}|:{3,})(.*)", line)
        if fence and fences and fence[1] == fences[-1][0] and not fence[2].strip():
            fences.pop()
        elif fence:
            fences.append((fence[1], bool(re.match(RUNNING, fence[2]))))
        elif all(text for _, text in fences) and not re.match(r"\||:[\w-]+:", line):
            yield line


def paragraphs(text: str) -> list[str]:
    """Return the running text of a page, a paragraph or a list's entry each."""
    text = "\n".join(running(text))
    text = re.sub(r"\[[^\]]+ \d{4}\]\([^)]*\)", "", text)  # a work and its year
    text = re.sub(r"(?s)\$\$.*?\$\$|\$(?:[^$\n]|\n(?!\n))*\$", "", text)
    text = re.sub(r"{paired}`[^`]*`", " 1 [1, 1] ", text)
    text = re.sub(r"{result}`[^`]*`", " 1 ", text)
    text = re.sub(r"{\w+(?::\w+)?}`[^`]*`|`[^`]*`|\]\([^)]*\)", "", text)
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
