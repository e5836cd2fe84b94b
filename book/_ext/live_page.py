"""Sphinx extension: pages in which DIVER runs, in the reader's browser.

`{live} plane` is DIVER on points in the plane, `{live} play` runs the shipped priors.
What the latter loads is made by live_files; where that can't be, the build goes on and
the page says what is missing. Behind a cell that starts a live explorer, for which no
kernel is here, stands a link that opens the page with the explorer's settings.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from urllib.parse import urlencode

from docutils import nodes
from live_files import MANIFEST, Unavailable, live_files
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

logger = logging.getLogger(__name__)
HERE = Path(__file__).parent
SOURCES = HERE.parent / "_static" / "live"
SCRIPTS = {
    "plane": ["diver", "noise", "plane"],
    "play": ["live", "diver", "load", "pictures", "slot", "play"],
}
WORKER = ["diver.js", "noise.js", "worker.js"]
PAGE = "book/play"
# live explorer -> the settings that it begins with and the book's default has not
EXPLORERS = {
    "explore_recovery": {},
    "explore_noise_level": {"t": 500, "factor": 0},
    "explore_reverse_process": {},
    "explore_window": {},
    "explore_guidance_factor": {"high": 1000, "low": -1},
}


def page_html(kind: str, static: str) -> str:
    """Return the HTML of a live page; `static` leads to the folder of its scripts."""
    markup = (HERE / f"live_{kind}.html").read_text("utf-8")
    parts = [f'<link rel="stylesheet" href="{static}/live.css">', markup]
    if kind == "plane":
        data = (SOURCES / "plane.json").read_text("utf-8")
        parts.append(f'<script type="application/json" id="plane-data">{data}</script>')
    parts += [f'<script src="{static}/{name}.js"></script>' for name in SCRIPTS[kind]]
    return "\n".join(parts)


class LivePage(SphinxDirective):
    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        depth = self.env.docname.count("/")
        html = page_html(self.arguments[0], "../" * depth + "_static/live")
        return [nodes.raw("", html, format="html")]


def write_live_files(folder: Path) -> str:
    """Put what the page loads into a folder; return what is missing, if anything is."""
    found: dict = {"manifest": None, "missing": "", "worker": ""}
    try:
        made = live_files()
    except Unavailable as reason:
        found["missing"] = str(reason)
    else:
        shutil.copytree(
            made,
            folder,
            ignore=shutil.ignore_patterns(".*", MANIFEST),
            dirs_exist_ok=True,
        )
        found["manifest"] = json.loads((made / MANIFEST).read_text())
        found["worker"] = "\n".join((SOURCES / name).read_text() for name in WORKER)
    script = f"const LIVE = {json.dumps(found)};\n"
    script += 'LIVE.folder = new URL(".", document.currentScript.src).href;\n'
    (folder / "live.js").write_text(script)
    return found["missing"]


def finish(app, exception) -> None:
    if exception is None and app.builder.format == "html":
        missing = write_live_files(Path(app.outdir) / "_static" / "live")
        if missing:  # no warning, which would end a strict build
            logger.info("Play with DIVER is built without its networks: %s", missing)


def link_explorers(app, doctree, docname: str) -> None:
    """Offer the live page behind each cell that starts a live explorer."""
    if PAGE not in app.env.found_docs or app.builder.format != "html":
        return
    calls = re.compile(rf"^({'|'.join(EXPLORERS)})\(", re.MULTILINE)
    for block in [*doctree.findall(nodes.literal_block)]:
        call = calls.search(block.rawsource)
        if call is None:
            continue
        settings = {"prior": "fashion-mnist", "set": "fashion-mnist-dm-ipc1"}
        chosen = re.search(
            r"distilled\[.*?demo=\[(\d+)|distilled\[\[(\d+)", block.rawsource
        )
        settings["image"] = next(filter(None, chosen.groups())) if chosen else 0
        settings |= EXPLORERS[call[1]]
        target = app.builder.get_relative_uri(docname, PAGE)
        link = nodes.reference(
            "",
            "Run this here, in your browser",
            refuri=f"{target}#{urlencode(settings)}",
            classes=["live-here"],
        )
        note = nodes.paragraph("", "", link)
        block.parent.insert(block.parent.index(block) + 1, note)


def setup(app):
    app.add_directive("live", LivePage)
    app.connect("doctree-resolved", link_explorers)
    app.connect("build-finished", finish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
