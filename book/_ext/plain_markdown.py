"""Sphinx extension: give plain Markdown the looks that HTML has for it.

Pages and chapters are written in what GitHub and JupyterLab read as well: headings,
links, quotes, `<details>`. This extension finds in them what a reader of the built book
expects: solutions are folded, captions and boxes look like such, a folded cell says
what it holds, and a chapter how long it takes to read.

Some places hold more in the built book than Markdown can: a live page, or the
docstrings of modules. `<!-- built: live plane -->` or `<!-- built: reference -->`
begins such a place, `<!-- end of built -->` ends it, and between them stands what all
other readers see.
"""

from __future__ import annotations

import re

from docutils import nodes
from sphinx.transforms import SphinxTransform

SOLUTION = "Solution"
BEFORE = "Before you"  # begins the box that says how long a chapter runs
PACE = 200  # words a minute; formulas and pictures take time, too
FIGURE = "Figure."
BUILT = re.compile(r"(?s)<!-- built: ([\w ]+) -->\n(.*?)<!-- end of built -->")
MODULE = re.compile(r"(?m)^- \[`([\w.]+)`\]")


def put_built(app, docname: str, source: list[str]) -> None:
    """Replace what stands for a part of the built book by that part."""
    source[0] = BUILT.sub(built, source[0])


def built(place: re.Match) -> str:
    """Return the directives for a place."""
    kind, _, argument = place[1].partition(" ")
    if kind in ("live", "explore"):
        return f"```{{{kind}}} {argument}\n```"
    modules = (
        f".. rubric:: {name}\n\n.. automodule:: {name}\n   :members:\n"
        for name in MODULE.findall(place[2])
    )
    return "\n".join(["```{eval-rst}", *modules, "```"])


class PlainMarkdown(SphinxTransform):
    """Change a page before its contents are listed."""

    default_priority = 500

    def apply(self, **kwargs) -> None:
        for text in self.document.findall(nodes.paragraph):
            if leads(text) == FIGURE:
                text["classes"].append("caption-text")
            if re.match(r"results/\S+ · ", text.astext()):
                text["classes"].append("origin")
        for quote in self.document.findall(nodes.block_quote):
            if isinstance(quote[0], nodes.paragraph) and leads(quote[0]):
                quote["classes"].append("box")
                if leads(quote[0]).startswith(BEFORE):
                    quote += nodes.paragraph(text=reading_time(self.document))
        for section in [*self.document.findall(nodes.section)]:
            if section[0].astext() == SOLUTION:
                fold(section)
        for block in self.document.findall(nodes.math_block):
            # MathJax knows the environment, and Sphinx would put another around it
            block["nowrap"] = block.astext().startswith(r"\begin{")
        for comment in [*self.document.findall(nodes.raw)]:
            if comment.astext().startswith("<!--"):
                comment.parent.remove(comment)
        for cell in self.document.findall(is_code_cell):
            name_folded(cell)


def reading_time(document: nodes.document) -> str:
    """Say how long the prose of a chapter takes: no code, no solutions."""
    solutions = (
        section
        for section in document.findall(nodes.section)
        if section[0].astext() == SOLUTION
    )
    minutes = (words(document) - sum(map(words, solutions))) / PACE
    return f"To read it takes about {max(5, 5 * round(minutes / 5))} minutes."


def words(part: nodes.Element) -> int:
    return sum(len(text.astext().split()) for text in part.findall(nodes.paragraph))


def fold(section: nodes.section) -> None:
    """Put what a section holds behind its title, shut."""
    title, *content = section.children
    opening = f'<details class="solution"><summary>{title.astext()}</summary>'
    section.replace_self(
        [
            nodes.raw("", opening, format="html"),
            *content,
            nodes.raw("", "</details>", format="html"),
        ]
    )


def leads(text: nodes.paragraph) -> str:
    """Return the bold words with which a paragraph begins, if it begins with such."""
    first = next((child for child in text if child.astext()), None)
    return first.astext() if isinstance(first, nodes.strong) else ""


def is_code_cell(node: nodes.Node) -> bool:
    return isinstance(node, nodes.container) and node.get("nb_element") == "cell_code"


def code(cell: nodes.container) -> str:
    return "\n".join(b.astext() for b in cell.findall(nodes.literal_block))


def name_folded(cell: nodes.container) -> None:
    """Call a folded cell what its first line calls it, as JupyterLab does."""
    comment = re.match(r"# (.+)", code(cell))
    if comment and cell.get("hide_mode"):
        whole = cell["hide_mode"] == "all"
        name = comment[1] if whole else f"Code: {comment[1][0].lower()}{comment[1][1:]}"
        cell["prompt_show"] = cell["prompt_hide"] = name


def setup(app):
    app.connect("source-read", put_built)
    app.add_transform(PlainMarkdown)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
