"""Open every page of the built book in headless Chromium and look for what is broken.

Run: python scripts/check_book.py [--html FOLDER] [--screenshots FOLDER] [--only NAME]

Each page is opened from disk and must load nothing from a network, log no error, give
every picture alt text, have all its mathematics rendered, have frame sliders that
change their picture, fit the width of a phone, cut no table on a wide screen, and show
true colours in dark mode. Text has the contrast that axe-core asks for; "Play with
DIVER" has its picture and a slider as wide on one screen, and the rest folded; the
search shows the words that it found.
Exits with 1 if a page fails, with 0 if there is no Chromium.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Error, Page, TimeoutError, sync_playwright

ROOT = Path(__file__).parents[1]
BROWSERS = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"]
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)  # the system's
LOCAL = ("file:", "data:", "blob:", "about:")
SIZES = {"wide": (1280, 900), "phone": (390, 900)}
SCREENS = [(1366, 768), (390, 844)]  # a laptop's and a phone's, for the live page
THEMES = ("light", "dark")
MAX_HEIGHT = 12_000  # of a screenshot, in pixels; a longer page gives several,
MAX_PARTS = 4  # but no more than this
MAX_COMPLAINTS = 10  # printed for one page
TIMEOUT = 180_000  # ms, for the browser's start and for each page, on a busy machine
PATIENCE = 60_000  # ms, for mathematics, and for the search
WORD = "picture"  # that is searched for: it is on most pages

# Runs in the page; returns a list of complaints.
AUDIT = r"""
(async () => {
  const complaints = [];
  const where = (e) => e.getAttribute("src")?.slice(0, 80) || e.outerHTML.slice(0, 80);
  await Promise.race([
    window.MathJax?.startup?.promise, new Promise((late) => setTimeout(late, PATIENCE)),
  ]);

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

# Runs in dark mode; returns what glares there, and pictures that it changes.
DARK = r"""
(() => {
  const complaints = [];
  for (const e of document.querySelectorAll("main img, main canvas"))
    if (getComputedStyle(e).filter !== "none")
      complaints.push("dark mode changes a picture: " + e.outerHTML.slice(0, 80));
  for (const e of document.querySelectorAll("main .cell_output .output")) {
    const [r, g, b, a = 1] = getComputedStyle(e).backgroundColor.match(/[\d.]+/g);
    if (a > 0.5 && Math.min(r, g, b) > 128)
      complaints.push("a light panel in dark mode: " + e.innerHTML.trim().slice(0, 80));
  }
  return complaints;
})()
"""
# signatures of a reference are thousands of words that look alike
CONTRAST_OF = {"include": [["main"]], "exclude": [["dt.sig"]]}
CONTRAST = {
    "runOnly": {"type": "rule", "values": ["color-contrast"]},
    "resultTypes": ["violations"],
}

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


def check(page: Page, path: Path) -> dict:
    """Open a page and return what AUDIT found, with all complaints."""
    heard = listen(page)
    page.goto(path.as_uri())
    found = page.evaluate(AUDIT.replace("PATIENCE", str(PATIENCE)))
    resize(page, *SIZES["wide"])
    found["complaints"] += page.evaluate(CUT_TABLES)
    resize(page, *SIZES["phone"])
    found["complaints"] += page.evaluate(WOBBLE)
    found["complaints"] += live_complaints(page, path)
    found["complaints"] += search_complaints(page, path)
    found["complaints"] += contrast_complaints(page)
    found["complaints"] += page.evaluate(DARK)
    found["complaints"] += heard
    return found


def listen(page: Page) -> list[str]:
    """Return complaints that come by themselves: requests to a network, errors."""
    complaints = []

    def asked(request) -> None:
        if not request.url.startswith(LOCAL):
            complaints.append(f"network request: {request.url}")

    def said(message) -> None:
        if message.type == "error":
            where = message.location["url"]
            complaints.append(f"console error: {message.text[:200]} {where}")

    page.on("request", asked)
    page.on("console", said)
    page.on("pageerror", lambda error: complaints.append(f"exception: {error.message}"))
    return complaints


def resize(page: Page, width: int, height: int) -> None:
    page.set_viewport_size({"width": width, "height": height})


def set_theme(page: Page, theme: str) -> None:
    """Choose the light or the dark theme, and wait until all has its colour."""
    page.evaluate(f"document.documentElement.dataset.theme = {theme!r}")
    page.wait_for_timeout(300)


def live_complaints(page: Page, path: Path) -> list[str]:
    """Return what of "Play with DIVER" isn't on one screen, of a laptop or a phone."""
    if not page.evaluate("!!window.playPage"):
        return []
    complaints = []
    for screen in SCREENS:
        resize(page, *screen)
        page.goto(path.as_uri())
        complaints += page.evaluate(LIVE)
    return complaints


def search_complaints(page: Page, path: Path) -> list[str]:
    """Return what a search in the book's text leaves open."""
    if path.name != "search.html":
        return []
    page.goto(f"{path.as_uri()}?q={WORD}")
    with contextlib.suppress(TimeoutError):  # RESULTS says what is not there
        page.wait_for_function(SEARCHED, timeout=PATIENCE)
    return page.evaluate(RESULTS)


def contrast_complaints(page: Page) -> list[str]:
    """Return what can hardly be read, in both themes."""
    complaints = []
    for theme in THEMES:
        set_theme(page, theme)
        found = Axe().run(page, CONTRAST_OF, CONTRAST).response["violations"]
        for node in itertools.chain(*(rule["nodes"] for rule in found)):
            data = node["any"][0]["data"]
            complaints.append(
                f"contrast {data['contrastRatio']} instead of "
                f"{data['expectedContrastRatio']} in the {theme} theme: "
                f"{node['html'][:80]}"
            )
    return complaints


def screenshots(page: Page, path: Path, target: Path) -> None:
    """Store the whole page for every width and theme, in files that begin as target."""
    for size, theme in itertools.product(SIZES, THEMES):
        resize(page, *SIZES[size])
        page.goto(path.as_uri())
        set_theme(page, theme)
        page.evaluate("window.MathJax?.startup?.promise")
        height = page.evaluate("document.documentElement.scrollHeight")
        # As a very tall screen sees it: captured beyond the screen, pages with wide
        # tables come out shifted.
        for part, top in enumerate(range(0, height, MAX_HEIGHT)[:MAX_PARTS]):
            resize(page, SIZES[size][0], min(height - top, MAX_HEIGHT))
            page.evaluate(f"scrollTo({{top: {top}, left: 0, behavior: 'instant'}})")
            page.wait_for_timeout(100)
            suffix = f".{part}" if part else ""
            page.screenshot(path=f"{target}.{size}.{theme}{suffix}.png")


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """Start the system's Chromium, stop it whatever happens."""
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=CHROMIUM, timeout=TIMEOUT) as found,
    ):
        yield found


def is_redirect(path: Path) -> bool:
    """Tell whether a page only leads to another one, as Jupyter Book's index does."""
    return bool(re.search(r'http-equiv="?refresh', path.read_text(), re.IGNORECASE))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--html", type=Path, default=ROOT / "_build" / "html")
    parser.add_argument("--screenshots", type=Path, metavar="FOLDER")
    parser.add_argument("--only", default="", help="pages whose name contains this")
    arguments = parser.parse_args()

    if CHROMIUM is None:
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

    def look(path: Path) -> dict:
        # A visitor of its own for each page, who comes for the first time.
        # As a phone sees it at any width, or a page that forgets phones would pass.
        with chromium.new_page(is_mobile=True) as page:
            page.set_default_timeout(TIMEOUT)
            found = check(page, path)
            if arguments.screenshots:
                stem = path.relative_to(folder).with_suffix("").as_posix()
                screenshots(page, path, arguments.screenshots / stem.replace("/", "_"))
        return found

    failed = {}
    with browser() as chromium:
        for path in pages:
            name = path.relative_to(folder).as_posix()
            for again in (False, True):
                # What a busy machine was too slow for is there at the second look.
                try:
                    found = look(path)
                except Error as error:
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
