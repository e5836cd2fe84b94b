"""Open every chapter in a real JupyterLab, and look for what does not read well there.

Run: python scripts/check_lab.py [--screenshots FOLDER] [--only NAME] [--run]

A chapter must show no raw roles or directives, no warning of the renderer, no error,
no open solution, no code cell that the page folds, and no imports as its first code.
With `--run` all cells of the quick start are run as a reader's "Run All" does, in demo
mode, and a live slider is moved; how long that took is printed and not judged, as it
depends on what else the machine does. Works on a copy: what JupyterLab saves does not
touch the repository. Exits with 1 if a chapter fails, with 0 if there is no Chromium or
no JupyterLab.
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
START = 90  # seconds until JupyterLab answers, and until a chapter stands
RUN = 900  # seconds for the quick start from top to bottom, on a busy machine
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
    (root / "results").symlink_to(ROOT / "results")
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

# Runs in the page; returns a list of complaints.
AUDIT = r"""
(() => {
  const complaints = [];
  const add = (what, text) => complaints.push(`${what}: ${text.trim().slice(0, 90)}`);
  for (const cell of document.querySelectorAll(".jp-Notebook .jp-MarkdownCell")) {
    const text = cell.querySelector(".myst, .jp-RenderedMarkdown");
    if (!text) continue;
    if (!text.matches(".myst")) add("not rendered by jupyterlab-myst", text.innerText);
    for (const e of text.querySelectorAll("[title*='Not Found'], [title*='rror'], " +
        "[class*='text-yellow'], [class*='text-red'], .katex-error"))
      add("warning", e.title + " " + e.innerText);
    for (const e of text.querySelectorAll("details[open]"))
      add("open solution", e.innerText);
    const prose = text.cloneNode(true);
    for (const e of prose.querySelectorAll("code, pre, .katex, script")) e.remove();
    for (const raw of prose.textContent.matchAll(
        /\{[a-z][\w:-]*\}|`{3,}|:{3,}|:class:|\]\([^)]*\)|\$\$/g))
      add("raw markup", prose.textContent.slice(raw.index, raw.index + 60));
    for (const e of text.querySelectorAll("code"))
      if (/^\{[\w:-]+\}/.test(e.innerText) || /unknown|Unhandled/i.test(e.title))
        add("raw role", e.innerText);
  }
  for (const e of document.querySelectorAll(".jp-Notebook .frame-slider"))
    if (!e.querySelector("input[type=range]")) add("no slider", e.innerText);
  for (const e of document.querySelectorAll(".jp-Notebook .jp-OutputArea-output" +
      "[data-mime-type='application/vnd.jupyter.stderr'], .jp-Notebook " +
      "[data-mime-type='application/vnd.jupyter.error']"))
    add("error output", e.innerText);
  return complaints;
})()
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

    def run(self, path: Path) -> list[str]:
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
        if not self.becomes("true", f"{picture} || {ERROR}", RUN):
            return [f"no recovered picture after {RUN} s"]
        first, used = time.monotonic() - begun, kernel_seconds()
        if not self.becomes("true", HAS_RUN, RUN):
            return [f"not run after {RUN} s: {self.evaluate(NOT_RUN)}"]
        print(
            f"     {path.stem}: first recovered picture {first:.1f} s after Run All "
            f"({used:.1f} s of the kernel's CPU time, its start included), last cell "
            f"{time.monotonic() - begun:.0f} s ({kernel_seconds():.0f} s)",
            flush=True,
        )
        if complaints := self.evaluate(AUDIT):
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
    failed, names = 0, [path for path in chapters if arguments.only in path.name]
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        lab(Path(folder)) as address,
        browser(executable) as devtools,
    ):
        for path in names:
            try:
                tab = Tab(devtools)
                cells = tab.chapter(address, path)
                complaints = tab.evaluate(AUDIT) + folded(path)
                if arguments.run and path == chapters[0]:
                    complaints += tab.run(path)
                if arguments.screenshots:
                    tab.shots(arguments.screenshots, path.stem)
                tab.socket.close()
            except (OSError, RuntimeError) as error:
                cells, complaints = 0, [f"{type(error).__name__}: {error}"]
            failed += bool(complaints)
            print(f"{'FAIL' if complaints else 'ok  '} {path.name}  {cells} cells")
            for complaint in complaints[:12]:
                print("      ", " ".join(complaint.split()), flush=True)
    print(f"check_lab: {len(names)} chapters, {failed} with complaints")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
