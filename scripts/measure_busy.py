"""Time whole commands quietly and beside other work, and trainings side by side.

Run: python scripts/measure_busy.py [--only demo recover judge] [--repeats 1]

"busy" starts processes that compute without a pause, as neighbours on a shared machine
do: one, and one per core. "judge" trains twelve networks with 1, 2 and 4 jobs, and says
whether their tables are equal; a chapter runs from its first cell to its last. Run it
on a quiet machine. Writes results/busy_cpu.json, or --out.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
from provenance import ROOT, begin, write_result

SPIN = "while True: sum(range(10**6))"
CLI = [sys.executable, "-m", "diver_lite"]
JOBS = (1, 2, 4)
CHAPTERS = {4: "04_semantic_inheritance", 7: "07_cross_architecture"}
RECOVER = """
import time
from diver_lite import load_distilled, load_prior, recover
prior = load_prior("fashion-mnist", device="cpu")
distilled = load_distilled("fashion-mnist-dm-ipc1")
recover(distilled[:1], prior, progress=False)
started = time.perf_counter()
recover(distilled, prior, progress=False)
print(time.perf_counter() - started)
"""
COMMANDS = {
    "demo": [*CLI, "demo", "-o", "demo"],
    "recover 100 garments": [
        *[*CLI, "recover", "fashion-mnist-dm-ipc10", "-o", "recovered.safetensors"],
        *["--preset", "default", "--device", "cpu"],
    ],
    "recover in Python, 10 garments": [sys.executable, "-c", RECOVER],
    **{
        f"chapter {number}": [
            *[sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute"],
            *["--output", "/dev/null", str(ROOT / "notebooks" / f"{name}.ipynb")],
        ]
        for number, name in CHAPTERS.items()
    },
    "distill": [
        *[*CLI, "distill", "dm", "--split", "sample", "--set", "steps=5"],
        *["-o", "distilled.safetensors", "--device", "cpu"],
    ],
} | {
    f"judge, {jobs} jobs": [
        *[*CLI, "judge", "fashion-mnist-dm-ipc1", "fashion-mnist-dm-real-ipc1"],
        *["--judges", "ShuffleNetV2,ShuffleNetV2-GN", "--seeds", "3"],
        *["--protocol", "quick", "--test-images", "1000", "--jobs", str(jobs)],
        *["-o", f"judge_{jobs}.csv", "--device", "cpu"],
    ]
    for jobs in JOBS
}


@contextmanager
def neighbours(count: int) -> Iterator[None]:
    """Let `count` other processes compute meanwhile."""
    busy = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(count)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def seconds(command: list[str], limit: float) -> float | str:
    """Run a command in an empty folder; return its time, or that it took too long."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        try:
            done = subprocess.run(
                command,
                cwd=folder,
                check=True,
                capture_output=True,
                timeout=limit,
                text=True,
            )
        except subprocess.TimeoutExpired:
            return f"not ended after {limit:.0f}"
        found = time.perf_counter() - started
        if RECOVER in command:  # without importing and loading
            found = float(done.stdout)
        for path in Path(folder).glob("judge_*.csv"):
            TABLES[path.stem] = pd.read_csv(path).drop(columns="seconds")
        return round(found, 1)


TABLES: dict[str, pd.DataFrame] = {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", help="commands whose name contains this")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--limit", type=float, default=600, help="seconds")
    parser.add_argument("--out", default="results/busy_cpu.json")
    args = parser.parse_args()
    started = begin()
    cores = len(os.sched_getaffinity(0))
    rows = []
    for name, command in COMMANDS.items():
        if args.only and not any(part in name for part in args.only):
            continue
        for busy in sorted({0, 1, cores}):
            with neighbours(busy):
                found = [seconds(command, args.limit) for _ in range(args.repeats)]
            rows.append({"command": name, "busy processes": busy, "seconds": found})
            print(f"{name:<22} {busy} busy processes: {found} s", flush=True)
    tables = list(TABLES.values())
    equal = all(table.equals(tables[0]) for table in tables)
    print(f"tables of {[*TABLES]} are {'equal' if equal else 'NOT EQUAL'}")
    write_result(
        args.out,
        {"cores": cores, "rows": rows, "tables": [*TABLES], "equal": equal},
        vars(args),
        started=started,
    )


if __name__ == "__main__":
    main()
