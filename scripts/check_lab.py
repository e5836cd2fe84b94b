"""Open every chapter in a real JupyterLab, and look for what does not read well there.

Run: python scripts/check_lab.py [--screenshots FOLDER] [--only NAME] [--run]

A chapter must show no raw roles or directives, no warning of the renderer, no error,
no open solution, and no code cell that the page folds. With `--run` the quick
start is run from top to bottom, and a live slider moved. Works on a copy: what
JupyterLab saves does not touch the repository. Exits with 1 if a chapter fails, with 0
if there is no Chromium or no JupyterLab.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from check_book import BROWSERS, Page, browser

ROOT = Path(__file__).parents[1]
START = 90  # seconds until JupyterLab answers, and until a chapter stands
RUN = 500  # seconds for the quick start from top to bottom
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
    here = {"JUPYTER_CONFIG_DIR": config, "JUPYTERLAB_SETTINGS_DIR": config}
    here["JUPYTERLAB_SETTINGS_DIR"] = config / "lab/user-settings"
    here |= {"JUPYTERLAB_WORKSPACES_DIR": folder, "JUPYTER_RUNTIME_DIR": folder}
    here["DIVER_LITE_MODE"] = "test"  # if cells are run
    options = [f"--port={port}", f"--ServerApp.root_dir={root}", "--no-browser"]
    options += ["--IdentityProvider.token=", "--allow-root", "--log-level=ERROR"]
    options += ["--LabApp.expose_app_in_browser=True"]  # to call its commands
    process = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", *options],
        env=os.environ | {name: str(value) for name, value in here.items()},
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
        /\{[a-z][\w:-]*\}|`{3,}|:{3,}|\]\([^)]*\)|\$\$/g))
      add("raw markup", prose.textContent.slice(raw.index, raw.index + 60));
    for (const e of text.querySelectorAll("code"))
      if (/^\{[\w:-]+\}/.test(e.innerText) || /unknown|Unhandled/i.test(e.title))
        add("raw role", e.innerText);
  }
  for (const e of document.querySelectorAll(".jp-Notebook .jp-OutputArea-output" +
      "[data-mime-type='application/vnd.jupyter.stderr'], .jp-Notebook " +
      "[data-mime-type='application/vnd.jupyter.error']"))
    add("error output", e.innerText);
  return complaints;
})()
"""

# Code cells without a number have not run; folded ones show none.
NOT_RUN = r"""
[...document.querySelectorAll(".jp-Notebook .jp-CodeCell .jp-InputPrompt")]
  .filter((prompt) => !/\[\d+\]/.test(prompt.textContent)).length
"""
HAS_RUN = f"({NOT_RUN}) === 0"
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
    """Return complaints on cells that the page folds, and JupyterLab does not."""
    complaints = []
    for cell in json.loads(path.read_text("utf-8"))["cells"]:
        tags = set(cell["metadata"].get("tags", []))
        look = cell["metadata"].get("jupyter", {})
        whole = bool({"hide-cell", "remove-cell"} & tags)
        if (whole or {"hide-input", "remove-input"} & tags) and not (
            look.get("source_hidden") and (look.get("outputs_hidden") or not whole)
        ):
            complaints.append(f"open cell: {''.join(cell['source'])[:60]!r}")
    return complaints


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

    def run(self) -> list[str]:
        """Run all cells, then move a live slider; return complaints."""
        self.evaluate("void jupyterapp.commands.execute('notebook:run-all-cells')")
        if not self.becomes("true", HAS_RUN, RUN):
            return [f"not run after {RUN} s: {self.evaluate(NOT_RUN)}"]
        if complaints := self.evaluate(AUDIT):
            return complaints
        before = self.evaluate(LIVE)
        if not before:
            return ["no live picture"]
        self.evaluate(MOVE)
        moved = self.becomes("true", f"{LIVE} !== {json.dumps(before)}", START)
        return [] if moved else ["a live slider was moved, and its picture stayed"]

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
                    complaints += tab.run()
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
