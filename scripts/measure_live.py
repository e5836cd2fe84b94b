"""Measure how long DIVER takes in the browser, in the built book's page.

Run: python scripts/measure_live.py [--html FOLDER] [--repeats 5]

Opens "Play with DIVER" from disk in headless Chromium. For each prior it runs the
book's default settings with a new seed each time and prints, as JSON, the median
seconds until the first picture and until the result (pictures on the way included), how
long the first run took, which loads the networks, and the longest task of the main
thread.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
from pathlib import Path

from check_book import CHROMIUM, ROOT, browser
from playwright.sync_api import Page

# Runs in the page: press run, wait for the end; seconds, or what went wrong.
MEASURE = """
(async () => {
  const page = window.playPage, began = performance.now();
  const now = () => (performance.now() - began) / 1000;
  const complaint = page.find(".live-message");
  const pause = () => new Promise((done) => setTimeout(done, 5));
  let first = null;
  if (SEED) page.inputSetting("seed", "SEED");
  else page.form.requestSubmit();
  for (;;) {
    await pause();
    const slot = page.slots[0];
    if (complaint.textContent) return {error: complaint.textContent};
    if (first === null && slot.pictures.some(Boolean) && page.job) first = now();
    if (slot.done === page.key(0) && !page.job) break;
  }
  return {first, result: now(), steps: page.slots[0].visited.length,
    runtime: page.runtime};
})()
"""
LONGEST = """
var longest = 0;
new PerformanceObserver((list) => {
  for (const task of list.getEntries())
    longest = Math.max(longest, task.duration);
}).observe({type: "longtask", buffered: true});
"""


def measure(page: Page, path: Path, prior: str, repeats: int) -> dict:
    page.add_init_script(LONGEST)
    page.goto(f"{path.as_uri()}#prior={prior}")
    opening = page.evaluate("const task = longest; longest = 0; task")
    loaded = page.evaluate(MEASURE.replace("SEED", "0"))
    runs = [page.evaluate(MEASURE.replace("SEED", str(k + 1))) for k in range(repeats)]
    for run in [loaded, *runs]:
        if "error" in run:
            raise SystemExit(f"{prior}: {run['error']}")
    found = {k: statistics.median(run[k] for run in runs) for k in ("first", "result")}
    return {
        "steps": runs[0]["steps"],
        "runtime": runs[0]["runtime"],
        "first picture (s)": round(found["first"], 2),
        "result (s)": round(found["result"], 2),
        "all results (s)": [round(run["result"], 2) for run in runs],
        "with loading (s)": round(loaded["result"], 2),
        # 0: none of 50 ms or more, which is what browsers call long
        "longest task while the page opens (ms)": opening,
        "longest task afterwards (ms)": page.evaluate("longest"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--html", type=Path, default=ROOT / "_build" / "html")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    if CHROMIUM is None:
        raise SystemExit("measure_live: no Chromium found")
    path = arguments.html.resolve() / "book" / "play.html"
    results: dict = {"cores": os.cpu_count(), "machine": platform.machine()}
    with browser() as chromium:
        for prior in ("fashion-mnist", "cifar10"):
            results[prior] = measure(
                chromium.new_page(), path, prior, arguments.repeats
            )
    results["load average"] = os.getloadavg()
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
