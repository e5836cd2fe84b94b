"""Open every page of the built book in headless Chromium and look for what is broken.

Run: python scripts/check_book.py [--html FOLDER] [--screenshots FOLDER] [--only NAME]

Each page is opened from disk and must load nothing from a network, log no error, have
one title, lead every link to a page and a place that are there, give every picture alt
text, have all its mathematics rendered, have frame sliders that change their picture,
open its answers by mouse, by key and on paper, fit the width of a phone, cut no table
on a wide screen, and show true colours in dark mode. Text has the contrast that
axe-core asks for, where npm can get it; "Play with DIVER" has its picture and a slider
as wide on one screen, and the rest folded; the search shows the words that it found.
Exits with 1 if a page fails, with 0 if there is no Chromium.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import functools
import html
import itertools
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from urllib.parse import unquote

import platformdirs
import websocket

ROOT = Path(__file__).parents[1]
BROWSERS = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"]
FLAGS = [
    "--headless",
    "--no-sandbox",  # Chromium refuses to start as root (containers) otherwise
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--no-default-browser-check",
    "--remote-debugging-port=0",
]
LOCAL = ("file:", "data:", "blob:", "about:")
WIDTHS = {"wide": 1280, "phone": 390}
THEMES = ("light", "dark")
MAX_HEIGHT = 12_000  # of a screenshot, in pixels; a longer page gives several,
MAX_PARTS = 4  # but no more than this
MAX_COMPLAINTS = 10  # printed for one page
TIMEOUT = 180  # seconds, for the browser's start and for each page, on a busy machine

# Runs in the page; returns a list of complaints.
AUDIT = r"""
(async () => {
  const complaints = [];
  if (document.querySelectorAll("h1").length !== 1)
    complaints.push(`${document.querySelectorAll("h1").length} titles (h1)`);
  const where = (e) => e.getAttribute("src")?.slice(0, 80) || e.outerHTML.slice(0, 80);
  if (window.MathJax?.startup?.promise) await MathJax.startup.promise;

  for (const e of document.querySelectorAll("img"))
    if (!e.alt.trim()) complaints.push("picture without alt text: " + where(e));
  for (const e of document.querySelectorAll("img"))
    if (e.complete && e.src && !e.naturalWidth)
      complaints.push("picture that does not load: " + where(e));

  for (const e of document.querySelectorAll(".math"))
    if (!e.querySelector("mjx-container"))
      complaints.push("mathematics not rendered: " + e.textContent.trim().slice(0, 60));
  for (const e of document.querySelectorAll("mjx-merror, [data-mjx-error]"))
    complaints.push("error in mathematics: " + e.textContent.slice(0, 60));
  const prose = document.querySelector("article, main")?.cloneNode(true);
  prose?.querySelectorAll("code, pre, script").forEach(e => e.remove());
  for (const role of prose?.textContent.match(/\{[\w:]+\}`.{0,60}/g) ?? [])
    complaints.push("role not rendered: " + role);

  const loads = "script[src], img[src], iframe[src], source[src], video[src], " +
    "link[rel~=stylesheet], link[rel~=preload], link[rel~=preconnect], " +
    "link[rel~=prefetch], link[rel~=dns-prefetch], link[rel~=icon]";
  for (const e of document.querySelectorAll(loads)) {
    const url = e.src || e.href || "";
    if (/^(https?:)?\/\//.test(url)) complaints.push("refers to the network: " + url);
  }

  const sliders = document.querySelectorAll(".frame-slider");
  for (const slider of sliders) {
    const image = slider.querySelector("img");
    const range = slider.querySelector("input[type=range]");
    const first = image.src;
    if (!range) {
      complaints.push("slider without controls: " + image.alt);
      continue;
    }
    range.value = range.max;
    range.dispatchEvent(new Event("input", {bubbles: true}));
    const last = image.src;
    const key = new KeyboardEvent("keydown",
      {key: "ArrowLeft", bubbles: true, cancelable: true});
    range.dispatchEvent(key);
    if (Number(range.max) > 0) {
      if (last === first) complaints.push("slider keeps its picture: " + image.alt);
      if (!key.defaultPrevented || Number(range.value) !== Number(range.max) - 1)
        complaints.push("slider ignores the arrow keys: " + image.alt);
    }
    range.value = 0;
    range.dispatchEvent(new Event("input", {bubbles: true}));
    if (image.src !== first) complaints.push("slider loses frame 0: " + image.alt);
  }
  return {
    complaints,
    images: document.images.length,
    math: document.querySelectorAll(".math").length,
    sliders: sliders.length,
  };
})()
"""

# Runs in the page; returns what of the folded parts doesn't open, or not on paper.
FOLDED = r"""
(() => {
  const complaints = [];
  const parts = [...document.querySelectorAll("main details")];
  for (const e of parts) {
    const summary = e.querySelector("summary"), was = e.open;
    summary?.click();
    if (e.open === was) complaints.push("folded and stays so: " + e.innerText);
    e.open = was;
    if (summary && summary.tabIndex < 0)
      complaints.push("not reached by the tab key: " + e.innerText);
  }
  const open = parts.map((e) => e.open);
  dispatchEvent(new Event("beforeprint"));
  for (const e of parts) if (!e.open) complaints.push("shut on paper: " + e.innerText);
  dispatchEvent(new Event("afterprint"));
  if (parts.some((e, i) => e.open !== open[i])) complaints.push("open after printing");
  return complaints;
})()
"""

# Runs at a phone's width in dark mode; returns a list of complaints.
NARROW = r"""
(async () => {
  const complaints = [];
  document.documentElement.dataset.theme = "dark";
  await new Promise((done) => requestAnimationFrame(() => setTimeout(done, 50)));
  for (const e of document.querySelectorAll("main img, main canvas"))
    if (getComputedStyle(e).filter !== "none")
      complaints.push("dark mode changes a picture: " + e.src.slice(0, 80));
  return complaints;
})()
"""


# Runs at a phone's width. A page that is too wide makes Chromium zoom out, and then
# innerWidth grows with the page: only the screen's own width stays.
WOBBLE = r"""
(() => {
  const excess = document.documentElement.scrollWidth - screen.width;
  if (excess <= 1) return [];
  const boxed = (e) => e && e !== document.documentElement &&
    (getComputedStyle(e).overflowX !== "visible" || boxed(e.parentElement));
  const wide = [...document.querySelectorAll("main article *")].find((e) =>
    e.getBoundingClientRect().right + scrollX > screen.width + 1 &&
    !boxed(e.parentElement));
  return [`wider than a phone by ${excess} px: ` +
    (wide?.outerHTML.slice(0, 90) ?? "")];
})()
"""

# Runs at a wide screen's width: a table that is cut, or a number and its interval that
# are broken into lines. What is folded is opened first.
CUT_TABLES = r"""
(async () => {
  await document.fonts.ready;  // another font is wider
  const complaints = [];
  for (const e of document.querySelectorAll("main details")) e.open = true;
  for (const table of document.querySelectorAll("main table")) {
    const box = table.parentElement;
    const excess = table.scrollWidth - box.clientWidth;
    const first = table.innerText.trim().replace(/\s+/g, " ").slice(0, 60);
    if (excess > 1) complaints.push(`table cut by ${excess} px: ${first}`);
    const broken = [...table.querySelectorAll("td")].find((cell) => {
      if (!/^\W*\d[\d.,]*( ± \d[\d.]*| \[[^\]]*\])/.test(cell.innerText.trim()))
        return false;
      const range = document.createRange();
      range.selectNodeContents(cell);
      const tops = [...range.getClientRects()].map((r) => Math.round(r.bottom));
      return Math.max(...tops) - Math.min(...tops) > 6;
    });
    if (broken) complaints.push(`broken into lines: ${broken.innerText}`);
  }
  return complaints;
})()
"""

# Runs in the page after axe-core; returns what can hardly be read, in both themes.
CONTRAST = r"""
(async () => {
  const complaints = [];
  for (const theme of ["light", "dark"]) {
    document.documentElement.dataset.theme = theme;
    await new Promise((done) => requestAnimationFrame(() => setTimeout(done, 300)));
    // signatures of a reference are thousands of words that look alike
    const where = {include: [["main"]], exclude: [["dt.sig"]]};
    const found = await axe.run(where, {
      runOnly: {type: "rule", values: ["color-contrast"]}, resultTypes: ["violations"],
    });
    for (const {nodes} of found.violations)
      for (const {any: [{data}], html} of nodes)
        complaints.push(`contrast ${data.contrastRatio} instead of ` +
          `${data.expectedContrastRatio} in the ${theme} theme: ${html.slice(0, 80)}`);
  }
  return complaints;
})()
"""
# Runs in dark mode; returns the outputs that stand on a light sheet of the theme's, and
# the figures that are one.
GLARE = r"""
(async () => {
  document.documentElement.dataset.theme = "dark";
  await new Promise((done) => requestAnimationFrame(() => setTimeout(done, 300)));
  const light = (e) => {
    const [r, g, b, a = 1] = getComputedStyle(e).backgroundColor.match(/[\d.]+/g);
    return a > 0.5 && Math.min(r, g, b) > 128;
  };
  const figures = [...document.querySelectorAll("main .only-light")].filter(
    (e) => e.checkVisibility());
  return [...document.querySelectorAll("main .cell_output .output")].filter(light)
    .concat(figures).map(
      (e) => "a light panel in dark mode: " + e.innerHTML.trim().slice(0, 80));
})()
"""
AXE = "axe-core@4.11.0"  # out of npm's registry; its licence: MPL 2.0

# Runs in "Play with DIVER" as it opens, and scrolled on; returns a list of complaints.
LIVE = r"""
(async () => {
  const page = window.playPage, complaints = [];
  if (!page || page.form.hidden) return complaints;
  const box = (element) => element.getBoundingClientRect();
  // the theme's buttons, which stay at the top
  const buttons = document.querySelector(".bd-header-article");
  const picture = page.slots[0].predicted.canvas, slider = page.get("t");
  const pictures = page.find(".live-results"), strip = page.find(".live-stage");
  const screen = `a screen of ${innerWidth} x ${innerHeight} px`;
  for (let i = 0; i < 100 && picture.width === 1; i++)
    await new Promise((done) => setTimeout(done, 50));
  if (picture.width === 1) complaints.push("the live page opens without a picture");
  for (const top of [0, 400]) {
    scrollTo({top, behavior: "instant"});
    await new Promise((done) => setTimeout(done, 100));
    const seen = {"recovered picture": box(picture), "noise slider": box(slider)};
    for (const [what, {top: from, bottom: to}] of Object.entries(seen))
      if (from < (buttons ? box(buttons).bottom : 0) - 1 || to > innerHeight)
        complaints.push(`the ${what} off ${screen} scrolled by ${top}: ` +
          `from ${Math.round(from)} to ${Math.round(to)}`);
  }
  if (box(slider).width < box(pictures).width - 1)
    complaints.push(`the noise level's slider is ${Math.round(box(slider).width)} px ` +
      `wide, the pictures ${Math.round(box(pictures).width)}, on ${screen}`);
  const gap = box(slider).top - box(pictures).bottom;
  if (gap < 0 || gap > 10)
    complaints.push(`the noise level's slider is ${Math.round(gap)} px below the ` +
      `pictures on ${screen}`);
  if (innerWidth < 600 && box(strip).height > innerHeight / 4)
    complaints.push(`what stays in view takes ${Math.round(box(strip).height)} px of ` +
      screen);
  for (const name of Object.keys(page.controls))
    if (name !== "t" && page.get(name).checkVisibility())
      complaints.push(`the setting ${name} isn't folded on ${screen}`);
  return complaints;
})()
"""

# In the page of the search: whether it is done, and the results that show no words
# around what was found. Names in the reference say what they are instead.
SEARCHED = """(() => {
  const results = [...document.querySelectorAll("ul.search > li")];
  const done = document.querySelector(".search-summary")?.innerText;
  return Boolean(done) && results.every((e) => e.querySelector(".context, a + span"));
})()"""
RESULTS = r"""
(() => {
  const results = [...document.querySelectorAll("ul.search > li")];
  if (!results.length) return ["the search finds nothing"];
  return results.filter((e) => !e.querySelector(".context, a + span")).map(
    (e) => "found without its words: " + e.innerText);
})()
"""
WORD = "picture"  # on most pages
PATIENCE = 60  # seconds for the search, on a busy machine
SCREENS = [(1366, 768), (390, 844)]  # a laptop's and a phone's


class Page:
    """One tab, spoken to in Chromium's DevTools protocol."""

    def __init__(self, address: str) -> None:
        # Chromium refuses a connection that names an origin.
        self.socket = websocket.create_connection(
            address, timeout=TIMEOUT, suppress_origin=True
        )
        self.events: list[dict] = []
        self.session: str | None = None
        self.number = 0
        # A context of its own makes every page the first one that a visitor opens.
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call(
            "Target.createTarget", url="about:blank", browserContextId=context
        )["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params) -> dict:
        """Send one command, collect events until its answer comes."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        self.socket.send(json.dumps(message))
        deadline = time.monotonic() + TIMEOUT
        while time.monotonic() < deadline:
            answer = json.loads(self.socket.recv())
            if answer.get("id") != self.number:
                self.events.append(answer)
            elif "error" in answer:
                raise RuntimeError(f"{method}: {answer['error']['message']}")
            else:
                return answer["result"]
        raise TimeoutError(method)

    def wait_for(self, event: str) -> None:
        """Collect events until one of this name has come."""
        deadline = time.monotonic() + TIMEOUT
        while not any(e.get("method") == event for e in self.events):
            if time.monotonic() > deadline:
                raise TimeoutError(event)
            self.events.append(json.loads(self.socket.recv()))

    def evaluate(self, script: str):
        """Run a script in the page, wait for its promise, return its value."""
        answer = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"]["exception"]["description"])
        return answer["result"].get("value")

    def open(self, path: Path) -> None:
        """Load a file, from nothing, and wait until it is there with its pictures."""
        self.events.clear()
        self.call("Page.navigate", url=path.as_uri())
        self.wait_for("Page.loadEventFired")

    def check(self, path: Path) -> dict:
        """Open a page and return what AUDIT found, with the events' complaints."""
        self.open(path)
        found = self.evaluate(AUDIT)
        found["complaints"] += self.evaluate(FOLDED)
        self.resize("wide")
        found["complaints"] += self.evaluate(CUT_TABLES)
        self.resize("phone")
        found["complaints"] += self.evaluate(NARROW)
        found["complaints"] += self.evaluate(WOBBLE)
        found["complaints"] += live_complaints(self, path)
        found["complaints"] += search_complaints(self, path)
        found["complaints"] += contrast_complaints(self)
        found["complaints"] += event_complaints(self.events)
        return found

    def resize(self, size: str, height: int = 900) -> None:
        """Give the page the width of a screen, and a height in pixels."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=WIDTHS[size],
            height=height,
            deviceScaleFactor=1,
            mobile=size == "phone",
        )

    def screenshots(self, path: Path, folder: Path, name: str) -> None:
        """Store the whole page for every width and theme."""
        for size, theme in itertools.product(WIDTHS, THEMES):
            self.resize(size)
            self.open(path)
            self.evaluate(
                f"document.documentElement.dataset.theme = {theme!r};"
                "window.MathJax?.startup?.promise"
            )
            height = self.evaluate("document.documentElement.scrollHeight")
            # As a very tall screen sees it: captured beyond the screen, pages with wide
            # tables come out shifted.
            for part, top in enumerate(range(0, height, MAX_HEIGHT)[:MAX_PARTS]):
                self.resize(size, min(height - top, MAX_HEIGHT))
                self.evaluate(
                    f"scrollTo({{top: {top}, left: 0, behavior: 'instant'}});"
                    "new Promise((done) => setTimeout(done, 100))"
                )
                shot = self.call("Page.captureScreenshot")
                suffix = f".{part}" if part else ""
                target = folder / f"{name}.{size}.{theme}{suffix}.png"
                target.write_bytes(base64.b64decode(shot["data"]))


def live_complaints(page: Page, path: Path) -> list[str]:
    """Return what of "Play with DIVER" isn't on one screen, of a laptop or a phone."""
    if not page.evaluate("!!window.playPage"):
        return []
    complaints = []
    for width, height in SCREENS:
        page.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        page.open(path)
        complaints += page.evaluate(LIVE)
    return complaints


def search_complaints(page: Page, path: Path) -> list[str]:
    """Return what a search in the book's text leaves open."""
    if path.name != "search.html":
        return []
    page.events.clear()
    page.call("Page.navigate", url=f"{path.as_uri()}?q={WORD}")
    page.wait_for("Page.loadEventFired")
    deadline = time.monotonic() + PATIENCE
    while not page.evaluate(SEARCHED) and time.monotonic() < deadline:
        time.sleep(0.2)
    return page.evaluate(RESULTS)


def contrast_complaints(page: Page) -> list[str]:
    """Return what glares, or can hardly be read, in both themes.

    The latter only where axe-core can be had.
    """
    complaints = page.evaluate(GLARE)
    script = axe_core()
    if script is not None:
        page.evaluate(f"{script}; null")
        complaints += page.evaluate(CONTRAST)
    return complaints


@functools.cache
def places(path: Path) -> set[str]:
    """Return what links to a built page may name behind the sign #."""
    return set(re.findall(r'\bid="([^"]+)"', path.read_text("utf-8")))


def lost_links(path: Path) -> list[str]:
    """Return the links of a built page that lead to no page, or to no place in it."""
    complaints = []
    links = re.findall(r'<a\b[^>]*\bhref="([^"]+)"', path.read_text("utf-8"))
    for link in sorted(set(links)):
        name, _, place = html.unescape(link).partition("#")
        target = path.parent / unquote(name) if name else path
        if ":" in name or target.suffix != ".html":
            continue
        if not target.exists():
            complaints.append(f"link to no page: {link}")
        # a view of the explorer is no place
        elif place and "=" not in place and unquote(place) not in places(target):
            complaints.append(f"link to no place in its page: {link}")
    return complaints


@functools.cache
def axe_core() -> str | None:
    """Return axe-core's script, out of npm's registry or kept from there, or None."""
    kept = Path(platformdirs.user_cache_dir("diver_lite")) / f"{AXE}.js"
    if kept.exists():
        return kept.read_text("utf-8")
    npm = shutil.which("npm")
    try:
        if npm is None or shutil.which("node") is None:
            raise OSError("there is no node with npm")
        with tempfile.TemporaryDirectory() as folder:
            command = [npm, "pack", AXE, "--silent", "--fetch-retries=0"]
            subprocess.run(
                command, cwd=folder, check=True, capture_output=True, timeout=120
            )
            (archive,) = Path(folder).glob("*.tgz")
            with tarfile.open(archive) as tar:
                member = tar.extractfile("package/axe.min.js")
                assert member is not None  # extractfile is None for folders only
                script = member.read()
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_bytes(script)
    except (OSError, subprocess.SubprocessError, ValueError, KeyError) as error:
        print(f"check_book: contrast is not checked, {AXE} could not be had: {error}")
        return None
    return script.decode("utf-8")


def event_complaints(events: list[dict]) -> list[str]:
    """Return what the browser reported: requests to a network, errors, exceptions."""
    complaints = []
    for event in events:
        method, params = event.get("method"), event.get("params", {})
        if method == "Network.requestWillBeSent":
            if not params["request"]["url"].startswith(LOCAL):
                complaints.append(f"network request: {params['request']['url']}")
        elif method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            thrown = details.get("exception", {}).get("description", details["text"])
            complaints.append(f"exception: {thrown.splitlines()[0]}")
        elif method == "Runtime.consoleAPICalled" and params["type"] == "error":
            words = [str(a.get("value", a.get("description"))) for a in params["args"]]
            complaints.append(f"console error: {' '.join(words)[:200]}")
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            entry = params["entry"]
            complaints.append(f"logged error: {entry['text']} {entry.get('url', '')}")
    return complaints


@contextlib.contextmanager
def browser(executable: str):
    """Start Chromium, yield the address of its DevTools, stop it whatever happens."""
    # Chromium still writes to its profile while it ends: leftovers are not our failure.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [executable, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            port_file = Path(profile) / "DevToolsActivePort"
            deadline = time.monotonic() + TIMEOUT
            lines: list[str] = []
            while len(lines) < 2:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{executable} did not start")
                time.sleep(0.1)
                if port_file.exists():
                    lines = port_file.read_text().split()
            yield f"ws://127.0.0.1:{lines[0]}{lines[1]}"
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def is_redirect(path: Path) -> bool:
    """Tell whether a page only leads to another one, as Jupyter Book's index does."""
    return bool(re.search(r'http-equiv="?refresh', path.read_text(), re.IGNORECASE))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--html", type=Path, default=ROOT / "_build" / "html")
    parser.add_argument("--screenshots", type=Path, metavar="FOLDER")
    parser.add_argument("--only", default="", help="pages whose name contains this")
    arguments = parser.parse_args()

    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    if executable is None:
        print("check_book: skipped, no Chromium found")
        return 0
    folder = arguments.html.resolve()
    pages = sorted(
        page
        for page in folder.rglob("*.html")
        if page.relative_to(folder).parts[0] not in ("_static", "_sources")
        and arguments.only in page.name
        and not is_redirect(page)
    )
    if not pages:
        print(f"check_book: no pages in {arguments.html}; build the book first")
        return 1
    if arguments.screenshots:
        arguments.screenshots.mkdir(parents=True, exist_ok=True)

    def look(address: str, path: Path) -> dict:
        # A tab of its own for each page: no event of one counts for the next.
        page = Page(address)
        try:
            found = page.check(path)
            found["complaints"] += lost_links(path)
            if arguments.screenshots:
                stem = path.relative_to(folder).with_suffix("").as_posix()
                page.screenshots(path, arguments.screenshots, stem.replace("/", "_"))
        finally:
            page.socket.close()
        return found

    failed = {}
    with browser(executable) as address:
        for path in pages:
            name = path.relative_to(folder).as_posix()
            for again in (False, True):
                # What a busy machine was too slow for is there at the second look.
                try:
                    found = look(address, path)
                except (OSError, RuntimeError, websocket.WebSocketException) as error:
                    found = {"complaints": [f"{type(error).__name__}: {error}"]}
                complaints = found.pop("complaints")
                counts = ", ".join(f"{count} {what}" for what, count in found.items())
                if not complaints:
                    print(f"ok   {name}  {counts}", flush=True)
                    break
                print(f"{'FAIL' if again else 'look again at'} {name}", flush=True)
                for complaint in complaints[:MAX_COMPLAINTS]:
                    print(f"       {complaint}", flush=True)
            else:
                failed[name] = complaints
    print(f"check_book: {len(pages)} pages, {len(failed)} with complaints")
    # Here once more: what stands above may be cut from a long log.
    for name, complaints in failed.items():
        print(f"FAIL {name}: {len(complaints)} complaints, the first: {complaints[0]}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
