"""Sphinx extension: read docstrings as plain text with `names` in backticks.

In reStructuredText a `*`, a `|` or a name that ends with `_` begins markup; in our
docstrings they are themselves. Napoleon, which comes next, reads the sections. Modules
of chapters and scripts, which aren't installed, are found where they lie.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

SPECIAL = re.compile(r"(`[^`]*`)|([*|]|(?<=\w)_(?!\w))")


def protect(app, what, name, obj, options, lines):
    """Escape what reStructuredText would take for markup, outside of backticks."""
    lines[:] = [SPECIAL.sub(lambda m: m[1] or "\\" + m[2], line) for line in lines]
    if what == "module":
        paragraphs = "\n".join(lines).split("\n\n")
        lines[:] = "\n\n".join(map(as_list, paragraphs)).split("\n")


def as_list(paragraph):
    """Make a list of a paragraph whose lines hang from their beginnings."""
    if paragraph.startswith((" ", "- ")) or "\n " not in paragraph:
        return paragraph
    lines = (
        "  " + line.strip() if line.startswith(" ") else f"* {line}"
        for line in paragraph.split("\n")
    )
    return "\n".join(lines)


def setup(app):
    sys.path += [str(ROOT / "notebooks"), str(ROOT / "scripts")]
    app.connect("autodoc-process-docstring", protect, priority=100)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
