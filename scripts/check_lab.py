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
import contextlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
from check_book import CHROMIUM, browser
from playwright.sync_api import Error, Page, TimeoutError, expect

ROOT = Path(__file__).parents[1]
HTML = ROOT / "_build" / "html" / "notebooks"  # if it was built before
PAGES = ["README.md", "CONTRIBUTING.md"]
PAGES += [f"book/{page.name}" for page in sorted(ROOT.glob("book/*.md"))]
SIZE = {"width": 1400, "height": 2000}
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
    linked = ["results", "diver_lite", "scripts"]
    linked += ["README.md", "CONTRIBUTING.md", "CITATION.cff"]
    for name in linked:
        (root / name).symlink_to(ROOT / name)
    for name, settings in SETTINGS.items():
        path = config / "lab/user-settings/@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(settings))
    here = {"JUPYTER_CONFIG_DIR": config}
    here["JUPYTERLAB_SETTINGS_DIR"] = config / "lab/user-settings"
    here |= {"JUPYTERLAB_WORKSPACES_DIR": folder, "JUPYTER_RUNTIME_DIR": folder}
    here["JUPYTER_DATA_DIR"] = folder / "data"  # of the signatures of trusted notebooks
    here["DIVER_LITE_MODE"] = "demo"  # if cells are run: what a reader gets
    options = ["--port=0", f"--ServerApp.root_dir={root}", "--no-browser"]
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
    try:
        deadline = time.monotonic() + START
        while not (running := [*folder.glob("jpserver-*.json")]):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("JupyterLab did not start")
            time.sleep(0.2)
        # the server writes its address once it listens
        yield json.loads(running[0].read_text())["url"].rstrip("/")
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

# What came out of all cells. Their models say so: a folded one shows nothing.
OUTPUTS = """(jupyterapp.shell.currentWidget?.content?.widgets ?? []).flatMap(
  ({model}) => Array.from({length: model?.outputs?.length ?? 0},
    (_, i) => model.outputs.get(i).toJSON()))"""

# Runs in the page; returns a list of complaints.
AUDIT = (
    f"(() => {{ const outputs = {OUTPUTS};"
    + r"""
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
  for (const {output_type, ename, evalue, name, text} of outputs)
    if (output_type === "error") add("error output", `${ename}: ${evalue}`);
    else if (name === "stderr") add("error output", [text].flat().join(""));
  return complaints;
})()
"""
)

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

TERMS = ".jp-Notebook .myst a:is([href*='glossary'], .hover-link)"
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
ERROR = f"{OUTPUTS}.some((one) => one.output_type === 'error')"
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


class Tab:
    """A page of JupyterLab."""

    def __init__(self, page: Page, address: str) -> None:
        self.page, self.address = page, address
        self.evaluate = page.evaluate
        page.set_default_timeout(1000 * START)

    def chapter(self, path: Path) -> int:
        """Open a chapter, wait until all its text stands, return how many cells."""
        expected = len(json.loads(path.read_text("utf-8"))["cells"])
        self.page.goto(f"{self.address}/lab/tree/notebooks/{path.name}?reset")
        self.must_become(f"({STANDS}) === {expected}", path.name)
        return expected

    def start(self) -> None:
        """Open JupyterLab with nothing in it."""
        self.page.goto(f"{self.address}/lab?reset")
        self.must_become("!!window.jupyterapp", "JupyterLab")
        self.evaluate("jupyterapp.restored.then(() => 0)")

    def open(self, path: str) -> None:
        """Open a page as a click on a link to it does, and wait for its text."""
        self.evaluate(
            "jupyterapp.commands.execute('application:close-all').then(() => 0)"
        )
        options = json.dumps({"path": path, "factory": "Markdown Preview"})
        self.evaluate(f"void jupyterapp.commands.execute('docmanager:open', {options})")
        self.must_become(SHOWN % json.dumps(path), path)
        before, titles = None, self.evaluate(TITLES)
        while titles != before:  # a long page shows its first titles first
            time.sleep(1)
            before, titles = titles, self.evaluate(TITLES)

    def hover(self) -> list[str]:
        """Rest the mouse on some terms; return complaints on what pops up."""
        for term in self.page.locator(TERMS).all()[:HOVERED]:
            term.hover()
            self.page.wait_for_timeout(1000)
            if found := self.evaluate(POPUPS):
                return [f"pops up over the text: {found[0]}"]
        return []

    def click(self) -> list[str]:
        """Follow a link to a term; complain if it ends elsewhere on the page."""
        term = self.evaluate(CLICK)
        title = self.page.locator(f'.jp-MarkdownViewer [id="{term}"]')
        try:
            if term:
                expect(title).to_be_in_viewport(ratio=0.9, timeout=1000 * START)
        except AssertionError:
            return [f"a click on a link to {term} doesn't lead there"]
        return []

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

    def solutions(self, path: Path) -> list[str]:
        """Run all cells as a reader would; complain on solutions that open."""
        cells = self.chapter(path)
        self.execute("run-all-cells")
        if not self.becomes(HAS_RUN):
            return [f"{cells} cells that do nothing did not run within {START} s"]
        opened = self.evaluate(OPEN_SOLUTIONS)
        return [f"Run All opens {opened} solutions"] if opened else []

    def shots(self, folder: Path, name: str) -> None:
        """Store what one sees on the way down."""
        panel = "document.querySelector('.jp-WindowedPanel-outer')"
        height = self.evaluate(f"{panel}.scrollHeight")
        for part, top in enumerate(range(0, height, 1800)):
            self.evaluate(f"{panel}.scrollTop = {top}")
            self.page.wait_for_timeout(300)
            self.page.screenshot(path=folder / f"{name}.{part:02d}.jpg", quality=70)

    def run(self, path: Path, patience: float) -> list[str]:
        """Run all cells; print how long that took, return complaints."""
        self.execute("clear-all-cell-outputs")  # the stored ones
        begun = time.monotonic()
        self.execute("run-all-cells")
        if not self.becomes(HAS_RUN, patience):
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
        picture = PICTURE % tagged.index(True)
        self.execute("clear-all-cell-outputs")  # the stored ones
        before = self.evaluate(f"[({picture}), ({NOT_RUN}) > 0]")
        if before != [False, True]:
            return ["outputs were not cleared"]
        begun = time.monotonic()
        self.execute("run-all-cells")
        if not self.becomes(f"{picture} || {ERROR}", patience):
            return [f"no recovered picture after {patience} s"]
        first, used = time.monotonic() - begun, kernel_seconds()
        if not self.becomes(HAS_RUN, patience):
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
        moved = self.becomes(f"{LIVE} !== {json.dumps(before)}")
        return [] if moved else ["a live slider was moved, and its picture stayed"]

    def execute(self, command: str) -> None:
        """Start one of the notebook's commands; it goes on by itself."""
        self.evaluate(f"void jupyterapp.commands.execute('notebook:{command}')")

    def becomes(self, script: str, seconds: float = START) -> bool:
        """Wait until a script in the page gives what is true, tell whether it did."""
        try:
            self.page.wait_for_function(script, timeout=1000 * seconds, polling=300)
        except TimeoutError:
            return False
        return True

    def must_become(self, script: str, what: str) -> None:
        if not self.becomes(script):
            raise TimeoutError(f"{what} did not open within {START} s")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--screenshots", type=Path, metavar="FOLDER")
    parser.add_argument("--only", default="", help="chapters whose name contains this")
    parser.add_argument("--run", action="store_true", help="run the quick start, too")
    parser.add_argument("--patience", type=float, default=RUN, metavar="SECONDS")
    arguments = parser.parse_args()
    needed = {
        "Chromium": CHROMIUM,
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
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        lab(Path(folder)) as address,
        browser() as chromium,
    ):
        root = Path(folder) / "root"
        with chromium.new_page(viewport=SIZE) as page:
            titles, found = look_at_pages(Tab(page, address), root)
        failed = sum(report(name, complaints) for name, complaints in found.items())
        copy = emptied(chapters, root / "notebooks" / "all_emptied.ipynb")
        for path in [*names, copy]:
            with chromium.new_page(viewport=SIZE) as page:
                tab = Tab(page, address)
                try:
                    if path == copy:
                        found = tab.solutions(path)
                    else:
                        found = look_at_chapter(tab, path, root, titles, arguments)
                except Error as error:
                    found = [f"{type(error).__name__}: {error}"]
            failed += report(path.name, found)
    read = f"{len(names)} chapters, {len(PAGES)} pages"
    print(f"check_lab: {read}, {failed} with complaints")
    return int(failed > 0)


def look_at_pages(tab: Tab, root: Path) -> tuple[dict[str, set[str]], dict[str, list]]:
    """Return the titles of all pages, and complaints on each."""
    titles: dict[str, set[str]] = {}
    links: dict[str, list] = {}
    complaints: dict[str, list[str]] = {}
    tab.start()
    for page in PAGES:
        try:
            tab.open(page)
        except TimeoutError as error:
            complaints[page], titles[page], links[page] = [str(error)], set(), []
            continue
        titles[page], links[page] = set(tab.evaluate(TITLES)), tab.evaluate(LINKS)
        complaints[page] = tab.evaluate(AUDIT)
    for page in PAGES:  # now all titles are known
        complaints[page] += dead(links[page], root, titles)
    return titles, complaints


def look_at_chapter(
    tab: Tab, path: Path, root: Path, titles: dict, arguments: argparse.Namespace
) -> list[str]:
    """Open a chapter, run it if that was asked for, and return complaints."""
    tab.chapter(path)
    found = tab.evaluate(AUDIT) + folded(path) + tab.captions(path)
    found += dead(tab.evaluate(LINKS), root, titles) + tab.hover()
    if arguments.run and FIRST in path.read_text("utf-8"):
        found += tab.run_quick_start(path, arguments.patience)
    elif arguments.run and arguments.only:
        found += tab.run(path, arguments.patience)
    if arguments.screenshots:
        tab.shots(arguments.screenshots, path.stem)
    tab.execute("shutdown-kernel")
    return found + tab.click()


def report(name: str, complaints: list[str]) -> bool:
    """Print what is to be said about a chapter or page; return whether it is bad."""
    print(f"{'FAIL' if complaints else 'ok  '} {name}", flush=True)
    for complaint in complaints[:12]:
        print("      ", " ".join(complaint.split()), flush=True)
    return bool(complaints)


if __name__ == "__main__":
    sys.exit(main())
