"""Pages and chapters read well where no Sphinx is: on GitHub, and in JupyterLab.

They are rendered as GitHub does (CommonMark with tables); formulas and HTML comments,
which it knows, are taken out before.
"""

import json
import re
from functools import cache
from pathlib import Path

import pytest

markdown_it = pytest.importorskip("markdown_it", reason="comes with the book's tools")
plain_markdown = pytest.importorskip("plain_markdown", reason="comes with Sphinx")

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted(ROOT.glob("notebooks/*.ipynb"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
PAGES += sorted(ROOT.glob("book/*.md"))
TAGS = {"details", "summary", "b"}  # of HTML that all renderers keep

every_text = pytest.mark.parametrize("path", [*PAGES, *NOTEBOOKS], ids=lambda p: p.stem)


def pieces(path):
    """Return a page's text, or the text of each Markdown cell."""
    text = path.read_text("utf-8")
    if path.suffix != ".ipynb":
        return [text]
    cells = json.loads(text)["cells"]
    return ["".join(c["source"]) for c in cells if c["cell_type"] == "markdown"]


def tokens(text):
    """Yield the tokens of a text, those inside of paragraphs too."""
    text = re.sub(r"(?s)<!--.*?-->|\$\$.*?\$\$", " ", text)
    text = re.sub(r"(?<![\\$])\$[^$\n]+(?:\n[^$\n]+)?\$", " x ", text)
    rules = markdown_it.MarkdownIt("commonmark").enable(["table", "strikethrough"])
    for token in rules.parse(text):
        yield token
        yield from token.children or []


def raw_markup(text):
    """Return what a reader on GitHub sees of markup that is not GitHub's."""
    found = []
    for token in tokens(text):
        if token.type == "fence" and token.info.startswith("{"):
            found.append(token.info)
        if token.type == "text":
            found += re.findall(r"\{[a-z][\w:-]*\}$|:{3,}.*|^:[a-z]+:.*", token.content)
        if token.type.startswith("html"):
            names = re.findall(r"</?([a-z]\w*)", token.content)
            found += [name for name in names if name not in TAGS]
    return found


def slug(title):
    """Return the anchor that GitHub gives a title."""
    plain = re.sub(r"[^\w\- ]", "", title.strip().lower())
    return plain.replace(" ", "-")


@cache  # many links lead to the same page
def anchors(path):
    """Return the anchors of a page."""
    titles = re.findall(r"(?m)^#+ (.*)$", "\n".join(pieces(path)))
    return {slug(title) for title in titles}


def links(path):
    """Return the addresses that a text leads to, those of pictures too."""
    found = []
    for text in pieces(path):
        for token in tokens(text):
            found += [token.attrGet("href") or token.attrGet("src")]
    return [link for link in found if link]


@every_text
def test_no_raw_markup_on_github(path):
    found = [markup for text in pieces(path) for markup in raw_markup(text)]
    assert not found


@every_text
def test_links_lead_to_files_and_titles(path):
    dead = []
    for link in links(path):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name) if name else path
        if name.endswith("explore.md") and "=" in anchor:
            anchor = ""  # a view, which test_explore_page.py looks up
        if not target.exists() or (anchor and anchor not in anchors(target)):
            dead.append(link)
    assert not dead


def test_the_built_book_has_more():
    """What other readers see there gives way to it."""
    page = ["a\n<!-- built: live plane -->\n![b](c.webp)\n<!-- end of built -->\nd\n"]
    plain_markdown.put_built(None, "page", page)
    assert page == ["a\n```{live} plane\n```\nd\n"]
    modules = "- [`a.b`](../a/b.py): c.\n- [`d`](../d.py): e.\n"
    page = [f"<!-- built: reference -->\n{modules}<!-- end of built -->"]
    plain_markdown.put_built(None, "page", page)
    assert re.findall(r"automodule:: (.*)\n   :members:\n", page[0]) == ["a.b", "d"]
    assert page[0].startswith("```{eval-rst}\n")
    assert page[0].endswith("\n```")


def test_the_checks_find_what_sphinx_alone_can_read():
    text = """A {term}`word <x>`, a [link](a.md) and a [term](b.md#t-interval).

```{figure} a.png
:alt: b
```

:::{admonition} Box
:class: note
c
:::

<div>d</div>

$$
e = \\{f\\}
$$

| a | b |
|---|---|
| 1<!-- results/a.csv: b \\| .1f --> | `{result}` |
"""
    found = raw_markup(text)
    assert found == ["{term}", "{figure} a.png", ":::{admonition} Box",
                     ":class: note", ":::", "div", "div"]  # fmt: skip
    assert slug("t interval") == "t-interval"
    assert slug("DPM-Solver++") == "dpm-solver"
