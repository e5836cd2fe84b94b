"""Run what waits for a GPU, in order of worth, in pieces of less than ten minutes.

Run: python scripts/on_gpu.py [--minutes 30] [--only NAME ...] [--bring FOLDER]
     [--data-root FOLDER] [--published FOLDER]
     python scripts/on_gpu.py --dry-run

One line for a GPU that somebody has for half an hour. Pieces that are done are
remembered in runs/on_gpu/state.json and left out; those that can go on (trainings,
studies) are cut off in time and go on in the next call, so carry runs/ and results/
from one machine to the next. Each piece writes to results/, where the book reads it, or
to runs/, and its output to runs/on_gpu/NAME.log. --bring copies what this call has
written into one folder, if a machine keeps nothing else.

Pieces that need real CIFAR-10 take it from --data-root, those that need sets of others
take them from --published, a folder of .safetensors files that `diver-lite convert`
wrote: cifar10-NAME-ipcN.safetensors. What is missing is said, and skipped.
--small runs the pieces that have a small form on the CPU, as a test of this script.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from provenance import BORROWED, COMMIT, ROOT

from diver_lite.files import atomic_path

WORK = ROOT / "runs/on_gpu"
LONGEST = 9.5  # minutes that a piece may take at a time
STOPPING = 20  # seconds that an interrupted piece gets to write what it has
JUDGES = (
    "ConvNet",
    "AlexNet",
    "ViT",
    *(
        f"{judge}-{norm}"
        for judge in ("ResNet18", "ShuffleNetV2", "MobileNetV2", "EfficientNet-B0")
        for norm in ("BN", "GN")
    ),
)
JOBS = 12  # trainings side by side on one card, each bound by its launches


@dataclass(frozen=True)
class Piece:
    """One command: what it is worth, what it takes, what it leaves.

    Attributes:
        name: of its log and its state.
        why: what waits for it.
        command: arguments of Python; {data} and {published} stand for the folders.
        minutes: expected on one H100, all calls together; none was measured there yet.
        writes: patterns of the files that it leaves.
        goes_on: whether it can be cut off and goes on where it was.
        done: a path that exists only when it is finished, for commands that end well
            when their time is up.
        small: arguments of a form for the CPU, in seconds.
    """

    name: str
    why: str
    command: tuple[str, ...]
    minutes: float
    writes: tuple[str, ...]
    goes_on: bool = False
    done: str = ""
    small: tuple[str, ...] = ()


def _study(question: str, name: str, minutes: float, *options: str) -> Piece:
    return Piece(
        f"{question}-{name}",
        "all judges in two norms, ten seeds with ten draws, all test images",
        (
            "scripts/answer.py", question, "--judges", *JUDGES, *options,
            "--protocol", "corrected", "--images", "10000", "--jobs", str(JOBS),
            "--name", f"{name}_gpu", "--work", "runs/answer_gpu",
        ),
        minutes,
        (f"results/{question}_{name}_gpu*",),
        goes_on=True,
    )  # fmt: skip


_CIFAR = ("--dataset", "cifar10", "--data-root", "{data}")
_BENCHMARK = ("scripts/benchmark_recovery.py", "--model", "dit-xl-2")
_LONGER = ("--minutes", "9", "--device", "cuda", "--compile")
PIECES = (
    Piece(
        "tests",
        "code that no CPU runs: graphs, compilation, pinned memory",
        ("-m", "pytest", "-q", "tests/run", "tests/priors", "tests/judge"),
        4,
        ("runs/on_gpu/tests.log",),
        small=("-m", "pytest", "-q", "-n0", "tests/run/test_batches.py"),
    ),
    Piece(
        "benchmark",
        "DiT-XL/2's budgets: 0.042 s an image at batch 32, 0.30 s at batch 1",
        (*_BENCHMARK, "--batches", "1", "8", "32", "--dtypes", "bfloat16", "--compile"),
        6,
        ("results/benchmark_recovery_dit-xl-2_cuda.json",),
    ),
    Piece(
        "memory",
        "peak memory by batch: at most 2.0 GiB at batch 1, 4 at 16",
        (*_BENCHMARK, "--memory", "--batches", "1", "16", "--dtypes", "bfloat16"),
        3,
        ("results/benchmark_memory_dit-xl-2_cuda.json",),
    ),
    Piece(
        "rounding",
        "what 16 bits change in the pixels, against float32",
        ("scripts/measure_rounding.py", "--model", "dit-xl-2", "--device", "cuda"),
        4,
        ("results/rounding_dit-xl-2_cuda.json",),
        small=(
            "scripts/measure_rounding.py", "--device", "cpu", "--dtypes", "bfloat16",
            "--out", "runs/on_gpu/small/rounding.json",
        ),
    ),
    Piece(
        "judges",
        "the budget of 60 s for six judges of five seeds, side by side",
        (
            "-m", "diver_lite", "judge", "fashion-mnist-dm-ipc10", "--judges",
            "ConvNet,ResNet18,ShuffleNetV2,MobileNetV2,EfficientNet-B0,ViT",
            "--jobs", str(JOBS), "--device", "cuda", "-o", "results/judges_cuda.csv",
        ),
        5,
        ("results/judges_cuda.csv",),
        small=(
            "-m", "diver_lite", "judge", "fashion-mnist-dm-ipc1", "--judges",
            "ConvNet", "--seeds", "2", "--set", "steps=2", "--test-images", "50",
            "--device", "cpu", "-o", "runs/on_gpu/small/judges.csv",
        ),
    ),
    _study("recovery", "fashion-mnist_ipc1", 20),
    _study("recovery", "fashion-mnist_ipc10", 30, "--ipc", "10"),
    _study(
        "recovery", "cifar10_published-ipc1", 25, *_CIFAR, "--sets-folder",
        "{published}", "--sets", "mtt_published", "dc_published", "dsa_published",
        "dm_published",
    ),
    _study(
        "recovery", "cifar10_published-ipc10", 30, "--ipc", "10", *_CIFAR,
        "--sets-folder", "{published}", "--sets", "mtt_published", "datm_published",
    ),
    _study(
        "sources", "cifar10_published-ipc1", 25, *_CIFAR, "--sets-folder",
        "{published}", "--sets", "mtt_published", "dc_published", "dsa_published",
        "dm_published",
    ),
    Piece(
        "prior-cifar10",
        "a prior of ten times the training, for which a CPU takes a day",
        (
            "-m", "diver_lite", "train-prior", "cifar10", "-o",
            "runs/on_gpu/prior-cifar10", "--set", "dit_steps=98000", "--set",
            "vae_steps=30000",
            "--data-root", "{data}", *_LONGER,
        ),
        60,
        ("runs/on_gpu/prior-cifar10/prior/*",),
        goes_on=True,
        done="runs/on_gpu/prior-cifar10/prior",
    ),
    Piece(
        "stage1",
        "Stage I of published length, for which ours is too short",
        ("scripts/distill_sets.py", "--published"),
        90,
        ("runs/stage1-published/*.safetensors",),
        goes_on=True,
    ),
    Piece(
        "stage1-cifar10",
        "the same on CIFAR-10",
        ("scripts/distill_sets.py", "--published", *_CIFAR),
        240,
        ("runs/stage1-published/cifar10*.safetensors",),
        goes_on=True,
    ),
)  # fmt: skip


def main() -> None:
    args = arguments()
    names = [piece.name for piece in PIECES]
    if unknown := {*(args.only or ())} - {*names}:
        sys.exit(f"--only: no piece {sorted(unknown)[0]!r}; expected some of {names}")
    pieces = [p for p in PIECES if not args.only or p.name in args.only]
    if args.small:
        pieces = [p for p in pieces if p.small]
    work = WORK / "small" if args.small else WORK  # a small one counts for nothing
    state = read_state(work)
    if args.dry_run:
        print(table(pieces, state))
        return
    if not args.small and not torch.cuda.is_available():
        sys.exit("no CUDA GPU here; --dry-run lists the pieces, --small tests them")
    began, deadline = time.time() - 1, time.monotonic() + 60 * args.minutes
    for piece in pieces:
        left = deadline - time.monotonic()
        if not args.small and finished(piece, state):
            print(f"{piece.name}: done already")
        elif lacking := missing(piece, args):
            print(f"{piece.name}: skipped, as {lacking} is needed")
        elif not piece.goes_on and left < 60 * piece.minutes and not args.small:
            print(f"{piece.name}: skipped, {piece.minutes:g} min don't fit any more")
        elif left > 60 or args.small:
            run(piece, args, min(left, 60 * LONGEST), state, work)
    print(table(pieces, state))
    if args.bring:
        bring(Path(args.bring), pieces, began)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=LONGEST, help="in all")
    parser.add_argument("--only", nargs="+", metavar="NAME")
    parser.add_argument("--dry-run", action="store_true", help="list the pieces")
    parser.add_argument("--small", action="store_true", help="on the CPU, as a test")
    parser.add_argument("--data-root", help="folder with CIFAR-10's files")
    parser.add_argument("--published", help="folder with converted sets of others")
    parser.add_argument("--bring", metavar="FOLDER", help="copy what was written here")
    return parser.parse_args()


def missing(piece: Piece, args: argparse.Namespace) -> str:
    """Say which folder a piece needs and doesn't get."""
    needs = {"{data}": args.data_root, "{published}": args.published}
    for word, folder in needs.items():
        option = "--data-root" if word == "{data}" else "--published"
        if word in piece.command and not (folder and Path(folder).is_dir()):
            return f"{option} FOLDER"
    return ""


def run(
    piece: Piece, args: argparse.Namespace, seconds: float, state: dict, work: Path
) -> None:
    """Run a piece for so long at most, and remember how that ended."""
    folders = {"{data}": args.data_root, "{published}": args.published}
    command = piece.small if args.small else piece.command
    command = [folders.get(word) or word for word in command]
    work.mkdir(parents=True, exist_ok=True)
    file = work / f"{piece.name}.log"
    print(f"{piece.name}: python {' '.join(command)}", flush=True)
    started = time.monotonic()
    with file.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            stdout=log,
            stderr=log,
            env=os.environ | {BORROWED: "yes"},
        )
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            code = None
            process.send_signal(signal.SIGINT)
            try:
                process.wait(STOPPING)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    took = round(time.monotonic() - started)
    ended = code == 0 and (not piece.done or (ROOT / piece.done).exists())
    how = "done" if ended else "goes on" if piece.goes_on and code in (0, None) else (
        "out of time" if code is None else f"failed ({code})"
    )  # fmt: skip
    before = state.get(piece.name, {}).get("seconds", 0)
    gpu = torch.cuda.is_available() and torch.cuda.get_device_name()
    state[piece.name] = {
        "how": how, "seconds": before + took, "commit": COMMIT, "device": gpu or "CPU",
    }  # fmt: skip
    with atomic_path(work / "state.json", overwrite=True) as temporary:
        temporary.write_text(json.dumps(state, indent=1) + "\n")
    print(
        f"{piece.name}: {how} after {took} s, see {WORK / piece.name}.log", flush=True
    )


def read_state(work: Path) -> dict:
    path = work / "state.json"
    return json.loads(path.read_text()) if path.exists() else {}


def finished(piece: Piece, state: dict) -> bool:
    return state.get(piece.name, {}).get("how") == "done"


def table(pieces: list[Piece], state: dict) -> str:
    """Return the pieces, their expected times, how they ended, and what they write."""
    lines = [f"{'piece':<30}{'minutes':>8}  {'state':<12} writes"]
    for piece in pieces:
        how = state.get(piece.name, {}).get("how", "waits")
        more = "+" if piece.goes_on else " "  # may be cut off and goes on
        writes = ", ".join(piece.writes)
        lines.append(f"{piece.name:<30}{piece.minutes:>7g}{more}  {how:<12} {writes}")
        lines.append(f"{'':<40}{piece.why}")
    lines.append("+: can be cut off, and goes on in the next call")
    return "\n".join(lines)


def bring(folder: Path, pieces: list[Piece], began: float) -> None:
    """Copy what this call has written, flat, so that it can be carried away."""
    folder.mkdir(parents=True, exist_ok=True)
    patterns = [*(w for piece in pieces for w in piece.writes), "runs/on_gpu/*.*"]
    for file in {file for pattern in patterns for file in ROOT.glob(pattern)}:
        if file.is_file() and file.stat().st_mtime >= began:
            shutil.copy2(file, folder / file.name)
            print(f"brought {file.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
