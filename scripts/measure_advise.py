"""Time `diver-lite advise --quick` on sets, each from nothing, and store what it says.

Run: python scripts/measure_advise.py [SET ...] [--data-root DATA] [--out FILE]

The whole command is timed, with all cores: a set that ships, or a file. By default the
sets of one picture per class that ship. The first set is then timed again beside a
process that computes without a pause. Run it on a quiet machine.

Writes results/advise_quick_cpu.json: for each set the seconds, and for each network its
sentence.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measure_busy import neighbours
from provenance import begin, write_result

from diver_lite.sets.load import list_shipped

SENTENCE = re.compile(r"^- \*\*(.+)\*\*: (.+)$", re.MULTILINE)


def first_look(name: str, options: list[str]) -> dict:
    """Return a set's name, the command's seconds, and what each network says.

    Raises `subprocess.CalledProcessError` where the command fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "diver_lite", "advise", name, "--quick", "-q"]
        started = time.perf_counter()
        subprocess.run([*command, "-o", f"{folder}/advice", *options], check=True)
        seconds = round(time.perf_counter() - started, 1)
        text = Path(folder, "advice/advice.md").read_text("utf-8")
    return {"set": name, "seconds": seconds, "says": dict(SENTENCE.findall(text))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    shipped = [name for name in list_shipped() if name.endswith("-ipc1")]
    parser.add_argument("sets", nargs="*", default=shipped)
    parser.add_argument("--data-root", help="of the data sets' files")
    parser.add_argument("--out", type=Path, default="results/advise_quick_cpu.json")
    args = parser.parse_args()
    started = begin()
    options = ["--data-root", args.data_root] if args.data_root else []
    looks = []
    for name in args.sets:
        looks.append(first_look(name, options))
        print(looks[-1], flush=True)
    with neighbours(1):
        beside = first_look(args.sets[0], options)
    result = {"looks": looks, "beside_a_busy_process": beside}
    write_result(args.out, result, vars(args), started=started)


if __name__ == "__main__":
    main()
