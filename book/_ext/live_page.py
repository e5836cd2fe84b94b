"""Sphinx extension: pages in which DIVER runs, in the reader's browser.

`{live} plane` is DIVER on points in the plane, `{live} play` runs the shipped priors.
What the latter loads is made by live_files; where that can't be, the build goes on and
the page says what is missing. Behind a cell that starts a live explorer, for which no
kernel is here, stands a link that opens the page with the explorer's settings, or where
the page has no such explorer, prior or set, a sentence that says so.
"""

from __future__ import annotations

import ast
import base64
import json
import re
import shutil
from pathlib import Path
from urllib.parse import urlencode

from docutils import nodes
from live_files import MANIFEST, TITLES, Unavailable, live_files
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
# live explorer -> the settings that it begins with, beside the recommended ones
EXPLORERS = {
    "explore_recovery": {},
    "explore_noise_level": {"t": 500, "factor": 0},
    "explore_reverse_process": {},
    "explore_window": {},
    "explore_guidance_factor": {"high": 1000, "low": -1},
}
STARTS = re.compile(r"(?m)^explore_\w+\(")
NEEDS_KERNEL = (
    "This explorer recomputes its pictures, so it needs a kernel: run the chapter in "
    "JupyterLab (make lab)."
)


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


def stored_pictures() -> list[dict]:
    """Return what the page shows before it has loaded a prior, with the pictures.

    They are data of a script, as a page that was opened from disk may read no others.
    Made by scripts/store_live.py.
    """

    def address(name: str) -> str:
        picture = (SOURCES / "stored" / f"{name}.webp").read_bytes()
        return f"data:image/webp;base64,{base64.b64encode(picture).decode()}"

    listed = json.loads((SOURCES / "stored" / "stored.json").read_text())
    return [
        sheet
        | {
            "picture": address(sheet["sheet"]),
            "noised": address(f"{sheet['set']}-noised"),
        }
        for sheet in listed
    ]


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
        found["stored"] = stored_pictures()
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


def meaning(node: ast.expr, known: dict) -> tuple | list | None:
    """Say what an expression of a chapter stands for, as far as a link needs it.

    A list of numbers; ("load_prior", name, None); or ("load_distilled", name, rows),
    where rows None are all pictures. None is anything else. `known`: the same of the
    variables.
    """
    match node:
        case ast.Name(id=name):
            return known.get(name)
        case ast.List(elts=elements) if all(
            isinstance(element, ast.Constant) for element in elements
        ):
            return ast.literal_eval(node)
        case ast.Call(func=ast.Name(id="pick"), keywords=choices):
            (demo,) = [choice.value for choice in choices if choice.arg == "demo"]
            return meaning(demo, known)
        case ast.Call(
            func=ast.Name(id="load_prior" | "load_distilled" as loader),
            args=[ast.Constant(value=str(name))],
        ):
            return (loader, name, None)
        case ast.Subscript(value=value, slice=chosen):
            match meaning(value, known), meaning(chosen, known):
                case ("load_distilled", name, of), list(rows):
                    return (
                        "load_distilled",
                        name,
                        [of[i] for i in rows] if of else rows,
                    )
    return None


def explorer_link(code: str, known: dict) -> dict | None:
    """Return the settings of the live page for a cell that starts an explorer.

    None: it starts none, or one with a prior or a set that the page hasn't. Notes in
    `known` what the cell's variables stand for.
    """
    try:
        statements = ast.parse(code).body
    except SyntaxError:  # of other languages, or IPython's own
        return None
    for statement in statements:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                known[name] = meaning(value, known)
            case ast.Expr(ast.Call(func=ast.Name(id=name), args=[pictures, prior, *_])):
                which, whose = meaning(pictures, known), meaning(prior, known)
                if name not in EXPLORERS or which is None or whose is None:
                    continue
                (_, set_name, rows), (_, prior_name, _) = which, whose
                if prior_name in TITLES:
                    chosen = {"prior": prior_name, "set": set_name}
                    return chosen | {"image": rows[0] if rows else 0} | EXPLORERS[name]
    return None


def link_explorers(app, doctree, docname: str) -> None:
    """Offer the live page below each cell that starts a live explorer.

    Where it can't, say why nothing stands there.
    """
    if PAGE not in app.env.found_docs or app.builder.format != "html":
        return
    known: dict = {}
    target = app.builder.get_relative_uri(docname, PAGE)
    for block in [*doctree.findall(nodes.literal_block)]:
        settings = explorer_link(block.rawsource, known)
        if settings:
            link = nodes.reference(
                "",
                "Run this here, in your browser",
                refuri=f"{target}#{urlencode(settings)}",
                classes=["live-here"],
            )
            below(block, nodes.paragraph("", "", link))
        elif STARTS.search(block.rawsource):
            below(block, nodes.paragraph("", NEEDS_KERNEL, classes=["needs-kernel"]))


def below(block: nodes.literal_block, text: nodes.paragraph) -> None:
    """Put a text below a cell's input."""
    cell_input = block.parent
    cell_input.parent.insert(cell_input.parent.index(cell_input) + 1, text)


def setup(app):
    app.add_directive("live", LivePage)
    app.connect("doctree-resolved", link_explorers)
    app.connect("build-finished", finish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
