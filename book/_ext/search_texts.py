"""Sphinx extension: let the search show where it found the words, from disk too.

Sphinx reads each page that it has found, and shows the first place of the words. A page
that was opened from disk may read no others, and the first place may be code: so the
words come from a script, which holds those of all pages, the code of each section
behind its prose. Nothing else loads it.
"""

from __future__ import annotations

import json
import re
from html import escape
from html.parser import HTMLParser
from pathlib import Path

# Sphinx has html_show_search_summary, which can only leave the words out.
TEXTS = "search_texts.js"
SILENT = {"script", "style"}
# `fetch` is what Sphinx's search reads pages with
READ_TEXTS = f"""
const texts = new Promise((done) => {{
  const script = document.createElement("script");
  script.src = "_static/{TEXTS}";
  script.onload = () => done(SEARCH_TEXTS);
  document.head.append(script);
}});
window.fetch = async (page) => new Response((await texts)[page.replace("./", "")]);
"""


class Words(HTMLParser):
    """Collects the words of a built page, in the sections that a result may lead to."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.code: list[str] = []  # of the section
        self.in_code = False
        self.in_article = False
        self.silent = False

    def handle_starttag(self, tag: str, attrs: list) -> None:
        given = dict(attrs)
        self.in_article |= tag == "article"
        self.silent = tag in SILENT or given.get("class") == "headerlink"
        self.in_code |= tag == "pre"
        if tag == "section":
            self.end_prose()
            self.found.append(f'<section id="{given.get("id", "")}">')

    def handle_endtag(self, tag: str) -> None:
        self.in_article &= tag != "article"
        self.silent = False
        self.in_code &= tag != "pre"
        if tag == "section":
            self.end_prose()
            self.found.append("</section>")

    def handle_data(self, data: str) -> None:
        if self.in_article and not self.silent:
            (self.code if self.in_code else self.found).append(escape(data))

    def end_prose(self) -> None:
        self.found += [" ", *self.code] if self.code else []
        self.code = []


def page_text(html: str) -> str:
    """Return the words of a built page as little HTML."""
    reader = Words()
    reader.feed(html)
    words = re.sub(r"\s+", " ", "".join(reader.found))
    return f'<main role="main">{words}</main>'


def add_script(app, pagename, templatename, context, doctree) -> None:
    if pagename == "search":
        app.add_js_file(None, body=READ_TEXTS)


def finish(app, exception) -> None:
    if exception is None and app.builder.format == "html":
        folder = Path(app.outdir)
        names = [f"{document}.html" for document in sorted(app.env.found_docs)]
        texts = {name: page_text((folder / name).read_text("utf-8")) for name in names}
        script = f"const SEARCH_TEXTS = {json.dumps(texts, ensure_ascii=False)};\n"
        (folder / "_static" / TEXTS).write_text(script, "utf-8")


def setup(app):
    app.connect("html-page-context", add_script)
    app.connect("build-finished", finish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
