"""Run what waits for a GPU, in order of worth, in pieces of less than ten minutes.

Run: python scripts/on_gpu.py [--minutes 30] [--only NAME ...] [--again NAME ...]
     [--data-root FOLDER] [--published FOLDER] [--bring FOLDER]
     python scripts/on_gpu.py --dry-run

One line for a GPU that somebody has for half an hour. First it says what is missing,
and for which pieces; these are left out, the others run. --dry-run says it, too, and
needs nothing but Python.

How each piece ended is remembered in runs/on_gpu/state.json. What is done is left out.
What failed is left out, too, until the commit changes or --again names it. What can go
on (trainings, studies) is cut off in time and goes on in the next call, so carry runs/
and results/ from one machine to the next.

Each piece writes to results/, where the book reads it, or to runs/, and its output to
runs/on_gpu/NAME.log. --bring copies what this call has written into one folder, if a
machine keeps nothing else. --small runs the pieces that have a small form on the CPU,
as a test of this script; their logs stand in runs/on_gpu/small/.

Training pictures come from --data-root. Sets of others come from --published, a folder
of .safetensors files that `diver-lite convert` wrote: cifar10-NAME-ipcN.safetensors.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

# torch and all that imports it come later: the look at what is missing needs neither

ROOT = Path(__file__).parents[1]
WORK = ROOT / "runs/on_gpu"
LONGEST = 9.5  # minutes that a piece may take at a time
STOPPING = 20  # seconds that an interrupted piece gets to write what it has
LAST = 5  # lines of a log that are remembered of a failure
FREE = 2 * 2**30  # bytes of disk: checkpoints, compiled code, recovered sets
WHEELS = "runs/wheels"  # git ignores runs/
PRIOR = ("diffusers", "accelerate", "huggingface_hub")  # what only priors need
NEED_TORCH = {"accelerate", "torchvision"}
MODULES = {"scikit-learn": "sklearn", "pillow": "PIL"}  # packages of another name
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
        needs: packages beyond those that all pieces need.
        compiles: whether it calls torch.compile.
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
    needs: tuple[str, ...] = ()
    compiles: bool = False
    goes_on: bool = False
    done: str = ""
    small: tuple[str, ...] = ()


def _study(question: str, name: str, minutes: float, *options: str) -> Piece:
    return Piece(
        f"{question}-{name}",
        "all judges in two norms, ten seeds with ten draws, all test images",
        (
            "scripts/answer.py", question, "--judges", *JUDGES, *options, *_DATA,
            "--protocol", "corrected", "--images", "10000", "--jobs", str(JOBS),
            "--name", f"{name}_gpu", "--work", "runs/answer_gpu",
        ),
        minutes,
        (f"results/{question}_{name}_gpu*",),
        PRIOR,
        goes_on=True,
    )  # fmt: skip


_DATA = ("--data-root", "{data}")
_CIFAR = ("--dataset", "cifar10")
_BENCHMARK = ("scripts/benchmark_recovery.py", "--model", "dit-xl-2")
_LONGER = ("--minutes", "9", "--device", "cuda", "--compile")
PIECES = (
    Piece(
        "tests",
        "code that no CPU runs: graphs, compilation, pinned memory",
        ("-m", "pytest", "-q", "tests/run", "tests/priors", "tests/judge"),
        4,
        ("runs/on_gpu/tests.log",),
        (*PRIOR, "pytest", "hypothesis"),
        small=("-m", "pytest", "-q", "-n0", "tests/run/test_batches.py"),
    ),
    Piece(
        "benchmark",
        "DiT-XL/2's budgets: 0.042 s an image at batch 32, 0.30 s at batch 1",
        (*_BENCHMARK, "--batches", "1", "8", "32", "--dtypes", "bfloat16", "--compile"),
        6,
        ("results/benchmark_recovery_dit-xl-2_cuda.json",),
        PRIOR,
        compiles=True,
    ),
    Piece(
        "memory",
        "peak memory by batch: at most 2.0 GiB at batch 1, 4 at 16",
        (*_BENCHMARK, "--memory", "--batches", "1", "16", "--dtypes", "bfloat16"),
        3,
        ("results/benchmark_memory_dit-xl-2_cuda.json",),
        PRIOR,
    ),
    Piece(
        "rounding",
        "what 16 bits change in the pixels, against float32",
        ("scripts/measure_rounding.py", "--model", "dit-xl-2", "--device", "cuda"),
        4,
        ("results/rounding_dit-xl-2_cuda.json",),
        PRIOR,
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
            "vae_steps=30000", *_DATA, *_LONGER,
        ),
        60,
        ("runs/on_gpu/prior-cifar10/prior/*",),
        PRIOR,
        compiles=True,
        goes_on=True,
        done="runs/on_gpu/prior-cifar10/prior",
    ),
    Piece(
        "stage1",
        "Stage I of published length, for which ours is too short",
        ("scripts/distill_sets.py", "--published", *_DATA),
        90,
        ("runs/stage1-published/fashion-mnist*.safetensors",),
        compiles=True,
        goes_on=True,
    ),
    Piece(
        "stage1-cifar10",
        "the same on CIFAR-10",
        ("scripts/distill_sets.py", "--published", *_CIFAR, *_DATA),
        240,
        ("runs/stage1-published/cifar10*.safetensors",),
        compiles=True,
        goes_on=True,
    ),
)  # fmt: skip


def main() -> None:
    # a shell in the background lets its children ignore Ctrl-C, and `timeout` sends
    # another signal: either ends the piece that runs as Ctrl-C does
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    args = arguments()
    names = [piece.name for piece in PIECES]
    for option, given in {"--only": args.only, "--again": args.again}.items():
        if unknown := {*given} - {*names}:
            sys.exit(
                f"{option}: no piece {sorted(unknown)[0]!r}; expected some of {names}"
            )
    pieces = [p for p in PIECES if not args.only or p.name in args.only]
    if args.small:
        pieces = [p for p in pieces if p.small]
    work = WORK / "small" if args.small else WORK  # a small one counts for nothing
    state = {} if args.small else read_state(work)
    for name in args.again:
        state.pop(name, None)
    lacking = {p.name: missing(p, args) for p in pieces if not finished(p, state)}
    print(preflight(lacking), flush=True)
    if args.dry_run:
        print(table(pieces, state))
        return
    if lacking and all(lacking.values()):
        sys.exit("nothing can run here until what is missing is there")
    began, deadline = time.time() - 1, time.monotonic() + 60 * args.minutes
    for piece in pieces:
        left = deadline - time.monotonic()
        if finished(piece, state):
            print(f"{piece.name}: done already")
        elif lacking[piece.name]:
            print(f"{piece.name}: left out, as something is missing")
        elif failed(piece, state):
            print(
                f"{piece.name}: {state[piece.name]['how']} at this commit; "
                f"--again {piece.name} tries it again. It ended so:"
            )
            print(*state[piece.name].get("log", []), sep="\n")
        elif not piece.goes_on and left < 60 * piece.minutes and not args.small:
            print(f"{piece.name}: left out, {piece.minutes:g} min don't fit any more")
        elif left > 60 or args.small:
            run(piece, args, min(left, 60 * LONGEST), state, work)
    print(table(pieces, state))
    if args.bring:
        bring(Path(args.bring), pieces, began)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=LONGEST, help="in all")
    parser.add_argument("--only", nargs="+", metavar="NAME", default=[])
    parser.add_argument("--again", nargs="+", metavar="NAME", default=[],
                        help="pieces that failed, or are done")  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="list the pieces")
    parser.add_argument("--small", action="store_true", help="on the CPU, as a test")
    parser.add_argument("--data-root", default=os.environ.get("DIVER_LITE_DATA"),
                        help="folder with the files of Fashion-MNIST and CIFAR-10; "
                        "default: DIVER_LITE_DATA")  # fmt: skip
    parser.add_argument("--published", help="folder with converted sets of others")
    parser.add_argument("--bring", metavar="FOLDER", help="copy what was written here")
    return parser.parse_args()


# --- What is missing ------------------------------------------------------------------


def missing(piece: Piece, args: argparse.Namespace) -> list[str]:
    """Say what a piece needs and doesn't find: packages, or a clause with its cure."""
    packages = [name for name in (*basics(), *piece.needs) if not installed(name)]
    lacks = [f"package {name}" for name in packages]
    if not args.small and installed("torch") and not gpu():
        lacks.append(
            "a GPU that PyTorch sees (`nvidia-smi` shows what the driver sees; a CPU "
            "build of PyTorch sees none)"
        )
    if piece.compiles and not installed("triton"):
        lacks.append("triton, which comes with PyTorch's build for CUDA")
    if piece.compiles and not (
        os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    ):
        lacks.append("a C compiler, gcc or clang, which torch.compile calls")
    if shutil.disk_usage(ROOT).free < FREE:
        lacks.append(f"{FREE / 2**30:g} GiB of free disk in {ROOT}")
    if args.small:
        return lacks
    if not packages:  # which are needed to look
        lacks += lacking_commit(piece)
        lacks += lacking_data(piece, args.data_root)
    if "{published}" in piece.command:
        lacks += lacking_sets(piece.command, args.published)
    return lacks


def basics() -> list[str]:
    """Return the packages that every piece needs: what ours needs, but for priors."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = [re.split(r"[^\w-]", each)[0] for each in project["dependencies"]]
    return [name for name in names if name not in PRIOR]


def installed(package: str) -> bool:
    return find_spec(MODULES.get(package, package)) is not None


def gpu() -> str | None:
    """Return the name of the GPU, or None without one."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def lacking_commit(piece: Piece) -> list[str]:
    """What a script measures names its commit; it refuses code that none holds."""
    from provenance import COMMIT

    if piece.command[0].startswith("scripts/") and (
        COMMIT == "unknown" or COMMIT.endswith("-dirty")
    ):
        return ["a commit that holds the code as it is, in a git repository"]
    return []


def lacking_data(piece: Piece, root: str | None) -> list[str]:
    if "{data}" not in piece.command:
        return []
    from diver_lite.checks import InputError
    from diver_lite.sets.real import find_source

    name = "cifar10" if "cifar10" in piece.command else "fashion-mnist"
    if not (root and Path(root).is_dir()):
        return [f"--data-root FOLDER with the files of {name}"]
    try:
        for split in ("train", "test"):
            find_source(name, Path(root), split)
    except InputError as error:
        return [str(error)]
    return []


def lacking_sets(command: tuple[str, ...], folder: str | None) -> list[str]:
    words = command[command.index("--sets") + 1 :]
    end = next(i for i, word in enumerate(words) if word.startswith("--"))
    ipc = command[command.index("--ipc") + 1] if "--ipc" in command else "1"
    files = [f"cifar10-{name}-ipc{ipc}.safetensors" for name in words[:end]]
    absent = [f for f in files if not (folder and (Path(folder) / f).exists())]
    where = f"in {folder}" if folder else "in --published FOLDER"
    return [f"{', '.join(absent)} {where}"] if absent else []


def preflight(lacking: dict[str, list[str]]) -> str:
    """Say what is missing for which pieces, and how a package gets here."""
    pieces_of: dict[str, list[str]] = {}
    for name, lacks in lacking.items():
        for lack in lacks:
            pieces_of.setdefault(lack, []).append(name)
    if not pieces_of:
        return "nothing is missing"
    lines = ["missing:"]
    for lack, names in pieces_of.items():
        whose = "all pieces" if len(names) == len(lacking) else ", ".join(names)
        lines.append(f"- {lack} (for {whose})")
    packages = [k.removeprefix("package ") for k in pieces_of if k.startswith("pack")]
    return "\n".join([*lines, *carrying(packages)])


def carrying(packages: list[str]) -> list[str]:
    """Say how packages get to a machine without a network; PyTorch is too large."""
    alone = [name for name in packages if name in NEED_TORCH]
    alone += ["psutil"] * ("accelerate" in alone)
    whole = [name for name in packages if name not in {"torch", *alone}]
    if not alone and not whole:
        return []
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    download = f"  python -m pip download --only-binary :all: -d {WHEELS}"
    return [
        "How does a package get here? Where there is a network, a processor of the "
        f"same kind and Python {python}, run",
        *[f"{download} {' '.join(whole)}"] * bool(whole),
        *[f"{download} --no-deps {' '.join(alone)}"] * bool(alone),
        f"carry {WHEELS}/ to this folder (git ignores it), and run here",
        f"  python -m pip install --no-index --find-links {WHEELS} "
        + " ".join(name for name in packages if name != "torch"),
    ]


# --- Running --------------------------------------------------------------------------


def run(
    piece: Piece, args: argparse.Namespace, seconds: float, state: dict, work: Path
) -> None:
    """Run a piece for so long at most, and remember how that ended."""
    from provenance import BORROWED, COMMIT

    folders = {"{data}": args.data_root, "{published}": args.published}
    command = piece.small if args.small else piece.command
    command = [folders.get(word) or word for word in command]
    work.mkdir(parents=True, exist_ok=True)
    file = work / f"{piece.name}.log"
    print(f"{piece.name}: python {' '.join(command)}", flush=True)
    started = time.monotonic()
    with file.open("ab") as log:
        begin = log.tell()
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            stdout=log,
            stderr=log,
            env=os.environ | {BORROWED: "yes"},
            process_group=0,  # Ctrl-C reaches it through us, once
        )
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            stop(process)
    took = round(time.monotonic() - started)
    ended = code == 0 and (not piece.done or (ROOT / piece.done).exists())
    how = "done" if ended else "goes on" if piece.goes_on and code in (0, None) else (
        "out of time" if code is None else f"failed ({code})"
    )  # fmt: skip
    before = state.get(piece.name, {}).get("seconds", 0)
    state[piece.name] = {
        "how": how, "seconds": before + took, "commit": COMMIT,
        "device": gpu() or "CPU",
    }  # fmt: skip
    print(f"{piece.name}: {how} after {took} s, see {file}", flush=True)
    if failed(piece, state):
        lines = file.read_bytes()[begin:].decode(errors="replace").splitlines()
        state[piece.name]["log"] = [f"  {line}" for line in lines[-LAST:]]
        print(*state[piece.name]["log"], sep="\n")
    write_state(work, state)


def stop(process: subprocess.Popen) -> None:
    """End a process as Ctrl-C does; if it doesn't end, kill it and its children."""
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGINT)
    try:
        process.wait(STOPPING)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


# --- What is remembered ---------------------------------------------------------------


def read_state(work: Path) -> dict:
    path = work / "state.json"
    try:
        return json.loads(path.read_text()) if path.exists() else {}
    except ValueError:
        sys.exit(f"{path} isn't JSON; expected what this script wrote: delete it")


def write_state(work: Path, state: dict) -> None:
    from diver_lite.files import atomic_path

    with atomic_path(work / "state.json", overwrite=True) as temporary:
        temporary.write_text(json.dumps(state, indent=1) + "\n")


def finished(piece: Piece, state: dict) -> bool:
    return state.get(piece.name, {}).get("how") == "done"


def failed(piece: Piece, state: dict) -> bool:
    """Return whether a piece failed with the code as it is now."""
    from provenance import COMMIT

    was = state.get(piece.name, {})
    return went_wrong(was.get("how", "")) and was["commit"] == COMMIT


def went_wrong(how: str) -> bool:
    return how.startswith(("failed", "out"))


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
    return "\n".join([*lines, total(pieces, state)])


def total(pieces: list[Piece], state: dict) -> str:
    """Say in one line what is done, what failed, and how long the rest takes."""
    hows = {p.name: state.get(p.name, {}).get("how", "waits") for p in pieces}
    done = [name for name, how in hows.items() if how == "done"]
    bad = [name for name, how in hows.items() if went_wrong(how)]
    left = [p for p in pieces if p.name not in {*done, *bad}]
    # what was begun takes a minute at least
    spent = {p.name: state.get(p.name, {}).get("seconds", 0) / 60 for p in left}
    minutes = sum(max(1, p.minutes - spent[p.name]) for p in left)
    which = f" ({', '.join(bad)})" if bad else ""
    return (
        f"{len(done)} of {len(pieces)} done, {len(bad)} failed{which}, {len(left)} "
        f"left, about {minutes:.0f} min of one GPU"
    )


def bring(folder: Path, pieces: list[Piece], began: float) -> None:
    """Copy what this call has written, flat, so that it can be carried away."""
    folder.mkdir(parents=True, exist_ok=True)
    patterns = [*(w for piece in pieces for w in piece.writes), "runs/on_gpu/*.*"]
    for file in {file for pattern in patterns for file in ROOT.glob(pattern)}:
        if file.is_file() and file.stat().st_mtime >= began:
            shutil.copy2(file, folder / file.name)
            print(f"brought {file.relative_to(ROOT)}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on")
