"""Open chapters and pages in a real JupyterLab, and look for what reads badly there.

Run: python scripts/check_lab.py [--screenshots FOLDER] [--only NAME]
         [--run] [--patience SECONDS]

A chapter, or a page that one leads to, must show no raw roles or directives, no warning
of the renderer, also under the mouse, no error, no code cell that the page folds, and
no imports as its first code. Every link must lead to a file and a title that are there,
and a click on one end at the title; every picture have an alternative text, every
figure its caption, as many as the built book has; and solutions must stay folded when
everything is run (in one notebook with all exercises, whose cells do nothing).
With `--run` all cells of the quick start are run as a reader's "Run All" does, in demo
mode, and a live slider is moved; with `--only`, all cells of the chapters so named. How
long that took is printed and not judged, as it depends on what else the machine does.
Works on a copy: what JupyterLab saves does not touch the repository. Exits with 1 if a
chapter fails, with 0 if there is no Chromium or no JupyterLab.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
from check_book import BROWSERS, Page, browser

ROOT = Path(__file__).parents[1]
HTML = ROOT / "_build" / "html" / "notebooks"  # if it was built before
PAGES = ["README.md", "CONTRIBUTING.md"]
PAGES += [f"book/{page.name}" for page in sorted(ROOT.glob("book/*.md"))]
START = 300  # seconds until JupyterLab answers, and until a chapter stands
RUN = 900  # seconds for a chapter from top to bottom, on a busy machine
FIRST = "first-recovered"  # the tag of the cell that draws the first recovered pictures
# Without windowing JupyterLab renders all cells, also those far below the screen.
SETTINGS = {
    "notebook-extension/tracker": {"windowingMode": "none"},
    "apputils-extension/notification": {"fetchNews": "false"},
}


@contextlib.contextmanager
def lab(folder: Path) -> Iterator[str]:
    """Serve a copy of the chapters by JupyterLab, yield its address, stop it."""
    root, config = folder / "root", folder / "config"
    for name in ("notebooks", "book"):
        shutil.copytree(ROOT / name, root / name)
    for name in ("results", "diver_lite", "scripts", "README.md", "CONTRIBUTING.md"):
        (root / name).symlink_to(ROOT / name)
    for name, settings in SETTINGS.items():
        path = config / "lab/user-settings/@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(settings))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    here = {"JUPYTER_CONFIG_DIR": config}
    here["JUPYTERLAB_SETTINGS_DIR"] = config / "lab/user-settings"
    here |= {"JUPYTERLAB_WORKSPACES_DIR": folder, "JUPYTER_RUNTIME_DIR": folder}
    here["JUPYTER_DATA_DIR"] = folder / "data"  # of the signatures of trusted notebooks
    here["DIVER_LITE_MODE"] = "demo"  # if cells are run: what a reader gets
    options = [f"--port={port}", f"--ServerApp.root_dir={root}", "--no-browser"]
    options += ["--IdentityProvider.token=", "--allow-root", "--log-level=ERROR"]
    options += ["--LabApp.expose_app_in_browser=True"]  # to call its commands
    options += [f"--LabApp.extra_labextensions_path={ROOT / 'book' / '_lab'}"]
    env = os.environ | {name: str(value) for name, value in here.items()}
    trust = [sys.executable, "-m", "jupyter", "trust"]  # as `make lab` does
    notebooks = (root / "notebooks").glob("*.ipynb")
    subprocess.run([*trust, *notebooks], env=env, check=True, capture_output=True)
    process = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", *options],
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + START
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{address}/api", timeout=5).close()
                break
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("JupyterLab did not start")
            time.sleep(0.2)
        yield address
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


# Runs in the page; returns how many cells stand there, none until their text does.
STANDS = r"""
(() => {
  const markdown = document.querySelectorAll(".jp-Notebook .jp-MarkdownCell");
  const ready = [...markdown].every((cell) =>
    cell.querySelector(".myst, .jp-RenderedMarkdown")?.childElementCount);
  return ready ? document.querySelectorAll(".jp-Notebook .jp-Cell").length : 0;
})()
"""

# Whether a page stands there, and not the one before.
SHOWN = """
(({context, node}) => context?.path === %s &&
  !!node.querySelector(".jp-MarkdownViewer .myst")?.innerText
)(jupyterapp.shell.currentWidget ?? {})
"""

# Runs in the page; returns a list of complaints.
AUDIT = r"""
(() => {
  const complaints = [];
  const add = (what, text) => complaints.push(`${what}: ${text.trim().slice(0, 90)}`);
  const parts = document.querySelectorAll(
    ".jp-Notebook .jp-MarkdownCell, .jp-MarkdownViewer");
  for (const cell of parts) {
    const text = cell.querySelector(".myst, .jp-RenderedMarkdown");
    if (!text) continue;
    if (!text.matches(".myst")) add("not rendered by jupyterlab-myst", text.innerText);
    for (const e of text.querySelectorAll("a[href='#'], a:not([href])"))
      add("dead link", e.innerText);
    for (const e of text.querySelectorAll("[title*='Not Found'], [title*='rror'], " +
        "[class*='text-yellow'], [class*='text-red'], .katex-error"))
      add("warning", e.title + " " + e.innerText);
    const prose = text.cloneNode(true);
    for (const e of prose.querySelectorAll("code, pre, .katex, script")) e.remove();
    for (const raw of prose.textContent.matchAll(
        /\{[a-z][\w:-]*\}|`{3,}|:{3,}|:class:|\]\([^)]*\)|\$\$/g))
      add("raw markup", prose.textContent.slice(raw.index, raw.index + 60));
    for (const e of text.querySelectorAll("code"))
      if (/^\{[\w:-]+\}/.test(e.innerText) || /unknown|Unhandled/i.test(e.title))
        add("raw role", e.innerText);
  }
  for (const e of document.querySelectorAll(".jp-Notebook img, .jp-MarkdownViewer img"))
    if (!e.alt.trim() && !e.title.trim())  // a live picture has a title only
      add("no alternative text", e.closest(".jp-Cell")?.innerText ?? e.src);
  for (const e of document.querySelectorAll(".jp-Notebook .frame-slider"))
    if (!e.querySelector("input[type=range]")) add("no slider", e.innerText);
  for (const e of document.querySelectorAll(".jp-Notebook .jp-OutputArea-output" +
      "[data-mime-type='application/vnd.jupyter.stderr'], .jp-Notebook " +
      "[data-mime-type='application/vnd.jupyter.error']"))
    add("error output", e.innerText);
  return complaints;
})()
"""

# Runs in the page; returns [file, title] of every link to a file here.
LINKS = r"""
[...document.querySelectorAll(".jp-Notebook .myst a, .jp-MarkdownViewer .myst a")]
  .filter((e) => e.pathname.startsWith("/files/"))
  .map((e) => [decodeURI(e.pathname.slice("/files/".length)), e.hash.slice(1)])
"""

# What such a link may name behind the sign #.
TITLES = """
[...document.querySelectorAll(".jp-MarkdownViewer .myst [id]")].map((e) => e.id)"""

# Pictures that came out of a cell, and whether a caption stands right below the cell.
CAPTIONS = r"""
[...document.querySelectorAll(".jp-Notebook .jp-CodeCell")]
  .map((cell) => [cell, cell.nextElementSibling?.querySelector("p > strong")
    ?.innerText === "Figure."])
  .filter(([cell, caption]) => cell.querySelector(
    ".jp-RenderedImage, .jp-OutputArea [data-mime-type^='image/']") ||
    (caption && cell.querySelector(".jp-OutputPlaceholder")))  // a folded figure
  .map(([cell, caption]) => caption)
"""

# Where links to terms are: the middle of each, scrolled to one after the other.
TERM = r"""
(() => {
  const links = document.querySelectorAll(
    ".jp-Notebook .myst a[href*='glossary'], .jp-Notebook .myst a.hover-link");
  const link = links[%d];
  if (!link) return null;
  link.scrollIntoView({block: "center"});
  const box = link.getClientRects()[0];
  return [box.x + box.width / 2, box.y + box.height / 2];
})()
"""
# Clicks on the link to the term that stands last in the glossary; returns the term.
CLICK = r"""
(() => {
  const links = [...document.querySelectorAll(
    ".jp-Notebook .myst a[href*='glossary.md']")].filter((e) => e.hash);
  const link = links.sort((a, b) => a.hash.localeCompare(b.hash)).at(-1);
  link?.click();
  return link?.hash.slice(1) ?? null;
})()
"""
# Whether one sees that title.
IN_SIGHT = """
(() => {
  const title = document.querySelector(`.jp-MarkdownViewer [id="%s"]`);
  if (!title) return false;
  const box = title.closest(".jp-MarkdownViewer").getBoundingClientRect();
  const {top, bottom} = title.getBoundingClientRect();
  return top >= box.top - 1 && bottom <= box.bottom;
})()
"""
POPUPS = """[...document.querySelectorAll(".hover-card-content, [role=tooltip]")]
  .map((e) => e.innerText)"""
HOVERED = 3  # terms of a chapter that the mouse rests on
# a code cell of which only its place matters
NOTHING = {"source": ["print('SOLVED')"], "outputs": [], "execution_count": None}

# How many cells of solutions show what they print.
OPEN_SOLUTIONS = r"""
[...document.querySelectorAll(".jp-Notebook .jp-OutputArea-output")].filter((e) =>
  e.textContent.includes("SOLVED") && e.checkVisibility()).length
"""

# The solutions below whose title a cell is seen.
UNFOLDED = r"""
[...document.querySelectorAll(".jp-Notebook .jp-MarkdownCell")]
  .filter((cell) => cell.querySelector("h4")?.textContent.startsWith("Solution") &&
    cell.nextElementSibling?.checkVisibility())
  .map((cell) => "solution lies open: " + cell.nextElementSibling.innerText)
"""

# How many code cells have not run. Their models say so: a folded one shows no number.
NOT_RUN = r"""
jupyterapp.shell.currentWidget.content.widgets.filter(({model}) =>
  model.type === "code" &&
  (model.executionCount === null || model.executionState === "running")).length
"""
ERROR = """!!document.querySelector(
  ".jp-Notebook [data-mime-type='application/vnd.jupyter.error']")"""
HAS_RUN = f"({NOT_RUN}) === 0 || {ERROR}"
PICTURE = """!!document.querySelectorAll(".jp-Notebook .jp-Cell")[%d]
  .querySelector(".jp-OutputArea-output img")"""
LIVE = (
    """document.querySelector(".jp-OutputArea .jupyter-widgets img")?.src.slice(-300)"""
)
MOVE = r"""
(() => {
  const handle = document.querySelector(".jp-OutputArea .jupyter-widgets .noUi-handle");
  const key = {key: "Left", code: "ArrowLeft", bubbles: true};
  for (let i = 0; i < 5; i++) handle.dispatchEvent(new KeyboardEvent("keydown", key));
})()
"""


def emptied(chapters: list[Path], target: Path) -> Path:
    """Write all exercises into one notebook: titles, and cells that do nothing."""
    cells: list[dict] = []
    for path in chapters:
        inside = False
        for cell in json.loads(path.read_text("utf-8"))["cells"]:
            title = "".join(cell["source"][:1])
            if cell["cell_type"] == "markdown" and title.startswith("##"):
                inside = "Solution" in title
                cells.append(cell | {"source": [title]})
            elif cell["cell_type"] == "code" and (inside or "# Solution" in title):
                cells.append({**cell, **NOTHING})
    notebook = json.loads(chapters[0].read_text("utf-8"))
    target.write_text(json.dumps(notebook | {"cells": cells}))
    return target


def dead(links: list, root: Path, titles: dict[str, set[str]]) -> list[str]:
    """Return complaints on links to files, or titles in pages, that are not there."""
    complaints = []
    for file, title in links:
        # a view of the explorer is no title; tests look it up
        view = Path(file).name == "explore.md" and "=" in (title or "")
        if not (root / file).exists():
            complaints.append(f"link to no file: {file}")
        elif title and not view and title not in titles.get(file, {title}):
            complaints.append(f"link to no title: {file}#{title}")
    return sorted(set(complaints))


def folded(path: Path) -> list[str]:
    """Return complaints on code that lies open in JupyterLab and shouldn't.

    That is what the page folds, and imports as the first code that one sees.
    """
    complaints, first = [], True
    for cell in json.loads(path.read_text("utf-8"))["cells"]:
        tags, code = set(cell["metadata"].get("tags", [])), "".join(cell["source"])
        look = cell["metadata"].get("jupyter", {})
        whole = bool({"hide-cell", "remove-cell"} & tags)
        if (whole or {"hide-input", "remove-input"} & tags) and not (
            look.get("source_hidden") and (look.get("outputs_hidden") or not whole)
        ):
            complaints.append(f"open cell: {code[:60]!r}")
        if cell["cell_type"] == "code" and not look.get("source_hidden"):
            if first and re.match(r"(# Imports|import|from)\b", code):
                complaints.append("imports are the first code that one sees")
            first = False
    return complaints


def kernel_seconds() -> float:
    """Return the CPU time that the kernels started from here have used."""
    used = 0.0
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if any("ipykernel" in word for word in process.cmdline()):
                times = process.cpu_times()
                used += times.user + times.system
    return used


class Tab(Page):
    """A tab with one chapter in JupyterLab."""

    def chapter(self, address: str, path: Path, height: int = 2000) -> int:
        """Open a chapter, wait until all its text stands, return how many cells."""
        name, expected = path.name, len(json.loads(path.read_text("utf-8"))["cells"])
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=1400,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        self.call("Page.navigate", url=f"{address}/lab/tree/notebooks/{name}?reset")
        deadline = time.monotonic() + START
        while time.monotonic() < deadline:
            time.sleep(0.3)
            if self.evaluate(STANDS) == expected:
                return expected
        raise TimeoutError(f"{name} did not open within {START} s")

    def start(self, address: str) -> None:
        """Open JupyterLab with nothing in it."""
        self.call("Page.navigate", url=f"{address}/lab?reset")
        if not self.becomes("true", "!!window.jupyterapp", START):
            raise TimeoutError(f"JupyterLab did not start within {START} s")
        self.evaluate("jupyterapp.restored.then(() => 0)")

    def page(self, path: str) -> None:
        """Open a page as a click on a link to it does, and wait for its text."""
        self.evaluate(
            "jupyterapp.commands.execute('application:close-all').then(() => 0)"
        )
        options = json.dumps({"path": path, "factory": "Markdown Preview"})
        self.evaluate(f"void jupyterapp.commands.execute('docmanager:open', {options})")
        if not self.becomes("true", SHOWN % json.dumps(path), START):
            raise TimeoutError(f"{path} did not open within {START} s")
        before, titles = None, self.evaluate(TITLES)
        while titles != before:  # a long page shows its first titles first
            time.sleep(1)
            before, titles = titles, self.evaluate(TITLES)

    def hover(self) -> list[str]:
        """Rest the mouse on some terms; return complaints on what pops up."""
        for number in range(HOVERED):
            place = self.evaluate(TERM % number)
            if place is None:
                break
            for x in (place[0] - 200, place[0]):
                self.call(
                    "Input.dispatchMouseEvent", type="mouseMoved", x=x, y=place[1]
                )
                time.sleep(0.1)
            time.sleep(1)
            if found := self.evaluate(POPUPS):
                return [f"pops up over the text: {found[0]}"]
        return []

    def click(self) -> list[str]:
        """Follow a link to a term; complain if it ends elsewhere on the page."""
        term = self.evaluate(CLICK)
        if term is None or self.becomes("true", IN_SIGHT % term, START):
            return []
        return [f"a click on a link to {term} doesn't lead there"]

    def captions(self, path: Path) -> list[str]:
        """Complain on figures without a caption, and if HTML has another number."""
        found = self.evaluate(CAPTIONS)
        complaints = ["figure without a caption"] * found.count(False)
        page = HTML / f"{path.stem}.html"
        if page.exists():
            built = len(re.findall(r'<p class="caption-text', page.read_text("utf-8")))
            if built != found.count(True):
                here = f"{found.count(True)} captions"
                complaints.append(f"{here}, {built} in the built book")
        return complaints

    def solutions(self, address: str, path: Path) -> list[str]:
        """Run all cells as a reader would; complain on solutions that open."""
        cells = self.chapter(address, path)
        self.execute("run-all-cells")
        if not self.becomes("true", HAS_RUN, START):
            return [f"{cells} cells that do nothing did not run within {START} s"]
        opened = self.evaluate(OPEN_SOLUTIONS)
        return [f"Run All opens {opened} solutions"] if opened else []

    def shots(self, folder: Path, name: str) -> None:
        """Store what one sees on the way down."""
        panel = "document.querySelector('.jp-WindowedPanel-outer')"
        height = self.evaluate(f"{panel}.scrollHeight")
        for part, top in enumerate(range(0, height, 1800)):
            self.evaluate(
                f"{panel}.scrollTop = {top}; new Promise((f) => setTimeout(f, 300))"
            )
            shot = self.call("Page.captureScreenshot", format="jpeg", quality=70)
            target = folder / f"{name}.{part:02d}.jpg"
            target.write_bytes(base64.b64decode(shot["data"]))

    def run(self, path: Path, patience: float) -> list[str]:
        """Run all cells; print how long that took, return complaints."""
        self.execute("clear-all-cell-outputs")  # the stored ones
        begun = time.monotonic()
        self.execute("run-all-cells")
        if not self.becomes("true", HAS_RUN, patience):
            return [f"not run after {patience} s: {self.evaluate(NOT_RUN)}"]
        print(
            f"     {path.stem}: last cell {time.monotonic() - begun:.0f} s after Run "
            f"All ({kernel_seconds():.0f} s of the kernel's CPU time)",
            flush=True,
        )
        return self.evaluate(AUDIT) + self.evaluate(UNFOLDED)

    def run_quick_start(self, path: Path, patience: float) -> list[str]:
        """Run all cells, then move a live slider; print times, return complaints."""
        cells = json.loads(path.read_text("utf-8"))["cells"]
        tagged = [FIRST in cell["metadata"].get("tags", []) for cell in cells]
        if True not in tagged:
            return [f"no cell is tagged {FIRST}"]
        picture = PICTURE % tagged.index(True)
        self.execute("clear-all-cell-outputs")  # the stored ones
        before = self.evaluate(f"[({picture}), ({NOT_RUN}) > 0]")
        if before != [False, True]:
            return ["outputs were not cleared"]
        begun = time.monotonic()
        self.execute("run-all-cells")
        if not self.becomes("true", f"{picture} || {ERROR}", patience):
            return [f"no recovered picture after {patience} s"]
        first, used = time.monotonic() - begun, kernel_seconds()
        if not self.becomes("true", HAS_RUN, patience):
            return [f"not run after {patience} s: {self.evaluate(NOT_RUN)}"]
        print(
            f"     {path.stem}: first recovered picture {first:.1f} s after Run All "
            f"({used:.1f} s of the kernel's CPU time, its start included), last cell "
            f"{time.monotonic() - begun:.0f} s ({kernel_seconds():.0f} s)",
            flush=True,
        )
        if complaints := self.evaluate(AUDIT) + self.evaluate(UNFOLDED):
            return complaints
        before = self.evaluate(LIVE)
        if not before:
            return ["no live picture"]
        self.evaluate(MOVE)
        moved = self.becomes("true", f"{LIVE} !== {json.dumps(before)}", START)
        return [] if moved else ["a live slider was moved, and its picture stayed"]

    def execute(self, command: str) -> None:
        """Start one of the notebook's commands; it goes on by itself."""
        self.evaluate(f"void jupyterapp.commands.execute('notebook:{command}')")

    def becomes(self, value: str, script: str, seconds: float) -> bool:
        """Wait until a script in the page gives a value."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.evaluate(f"({script}) === {value}"):
                return True
            time.sleep(0.5)
        return False


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--screenshots", type=Path, metavar="FOLDER")
    parser.add_argument("--only", default="", help="chapters whose name contains this")
    parser.add_argument("--run", action="store_true", help="run the quick start, too")
    parser.add_argument("--patience", type=float, default=RUN, metavar="SECONDS")
    arguments = parser.parse_args()
    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    needed = {
        "Chromium": executable,
        "JupyterLab": importlib.util.find_spec("jupyterlab"),
        "jupyterlab-myst": importlib.util.find_spec("jupyterlab_myst"),
    }
    if lacking := [name for name, found in needed.items() if not found]:
        print(f"check_lab: skipped, no {' and no '.join(lacking)} found")
        return 0
    if arguments.screenshots:
        arguments.screenshots.mkdir(parents=True, exist_ok=True)
    chapters = sorted((ROOT / "notebooks").glob("*.ipynb"))
    names = [path for path in chapters if arguments.only in path.name]
    failed = 0
    titles: dict[str, set[str]] = {}
    links: dict[str, list] = {}
    complaints: dict[str, list[str]] = {}

    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        lab(Path(folder)) as address,
        browser(executable) as devtools,
    ):
        root = Path(folder) / "root"
        tab = Tab(devtools)
        tab.start(address)
        for page in PAGES:
            try:
                tab.page(page)
            except TimeoutError as error:
                complaints[page], titles[page], links[page] = [str(error)], set(), []
                continue
            titles[page], links[page] = set(tab.evaluate(TITLES)), tab.evaluate(LINKS)
            complaints[page] = tab.evaluate(AUDIT)
        tab.socket.close()
        for page in PAGES:
            complaints[page] += dead(links[page], root, titles)
            failed += report(page, complaints[page])
        for path in names:
            try:
                tab = Tab(devtools)
                tab.chapter(address, path)
                found = tab.evaluate(AUDIT) + folded(path) + tab.captions(path)
                found += dead(tab.evaluate(LINKS), root, titles) + tab.hover()
                if arguments.run and path == chapters[0]:
                    found += tab.run_quick_start(path, arguments.patience)
                elif arguments.run and arguments.only:
                    found += tab.run(path, arguments.patience)
                if arguments.screenshots:
                    tab.shots(arguments.screenshots, path.stem)
                tab.execute("shutdown-kernel")
                found += tab.click()
                tab.socket.close()
            except (OSError, RuntimeError) as error:
                found = [f"{type(error).__name__}: {error}"]
            failed += report(path.name, found)
        copy = emptied(chapters, root / "notebooks" / "all_emptied.ipynb")
        try:
            found = Tab(devtools).solutions(address, copy)
        except (OSError, RuntimeError) as error:
            found = [f"{type(error).__name__}: {error}"]
        failed += report("all chapters, run", found)
    read = f"{len(names)} chapters, {len(PAGES)} pages"
    print(f"check_lab: {read}, {failed} with complaints")
    return int(failed > 0)


def report(name: str, complaints: list[str]) -> bool:
    """Print what is to be said about a chapter or page; return whether it is bad."""
    print(f"{'FAIL' if complaints else 'ok  '} {name}", flush=True)
    for complaint in complaints[:12]:
        print("      ", " ".join(complaint.split()), flush=True)
    return bool(complaints)


if __name__ == "__main__":
    sys.exit(main())
