"""Sphinx extension: keep of the theme's two thousand icons those that pages show.

The theme's script of all icons weighs 1.5 MB, and every page loads it. What remains
draws the same icons, from disk too, where some browsers load no web font.
"""

from __future__ import annotations

import re
from pathlib import Path

# The theme, pydata_sphinx_theme 0.17, loads its script on each page: no option.
SCRIPT = Path("_static", "scripts", "fontawesome.js")
NAME = re.compile(r"fa-([a-z0-9-]+)")
# name:[width,height,[other names],"code","path"], as Font Awesome writes an icon
ICON = re.compile(
    r'"?(?P<name>[\w-]+)"?:\[\d+,\d+,\[(?P<others>[^\]]*)\],"[0-9a-f]+",'
    r'(?:"[^"]*"|\[[^\]]*\])\],?'
)


def few_icons(script: str, wanted: set[str]) -> str:
    """Return the theme's script without the icons that nobody wants."""

    def kept(icon: re.Match) -> str:
        names = {icon["name"], *re.findall(r"[\w-]+", icon["others"])}
        return icon[0] if names & wanted else ""

    return ICON.sub(kept, script)


def wanted_icons(folder: Path) -> set[str]:
    """Return the names of the icons that built pages and their scripts ask for."""
    scripts = [s for s in folder.glob("_static/scripts/*.js") if s.name != SCRIPT.name]
    texts = (path.read_text("utf-8") for path in [*folder.rglob("*.html"), *scripts])
    return {name for text in texts for name in NAME.findall(text)}


def finish(app, exception) -> None:
    script = Path(app.outdir) / SCRIPT
    if exception is None and script.exists():
        icons = few_icons(script.read_text("utf-8"), wanted_icons(Path(app.outdir)))
        script.write_text(icons, "utf-8")


def setup(app):
    app.connect("build-finished", finish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
