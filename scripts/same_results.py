"""Compare what the command line writes with what another version of it wrote.

Run: python scripts/same_results.py COMMIT

Twelve commands run twice on one thread, with the code of COMMIT (checked out into a
temporary folder) and with the code here. Pixels, labels, names and PNG files must be
the same to the last bit, and so must the records, apart from settings that one of the
two doesn't have. Exits with 1 if something differs. Takes minutes; writes nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from safetensors import safe_open

ROOT = Path(__file__).parents[1]
GARMENTS, PHOTOGRAPHS = ("--prior", "fashion-mnist"), ("--prior", "cifar10")
QUICK = ("--set", "num_inference_steps=10")
COMMANDS = [
    ("recover", "fashion-mnist-dm-ipc1", *GARMENTS),
    ("recover", "fashion-mnist-dsa-ipc1", *GARMENTS, "--preset", "published"),
    ("recover", "cifar10-dsa-ipc1", *PHOTOGRAPHS, "--seed", "3"),
    *[
        ("recover", "fashion-mnist-mtt-ipc1", *GARMENTS, *QUICK, *more)
        for more in (
            ("--plain",),
            ("--set", "window=full", "--set", "guidance_sigma=one"),
            ("--set", "inheritance=False", "--batch-size", "3"),
            ("--set", "guidance_target=latent", "--set", "clip_input=False"),
            ("--size", "28", "--images", "png"),
            ("--class-map", "9,8,7,6,5,4,3,2,1,0"),
        )
    ],
    ("recover", "fashion-mnist-dm-ipc10", *GARMENTS, *QUICK),
    ("distill", "dm", "--split", "sample", "--set", "steps=20"),
    (
        "distill",
        "dc",
        "--split",
        "sample",
        "--set",
        "steps=2",
        "--set",
        "real_batch=32",
    ),
]


def run(command: tuple[str, ...], code: Path, folder: Path) -> None:
    """Run a command of the code in one folder, and write into another."""
    folder.mkdir(parents=True)
    environment = os.environ | {"PYTHONPATH": str(code), "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [sys.executable, "-m", "diver_lite.cli", *command, "-o", "out.safetensors"],
        cwd=folder,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )


def contents(folder: Path) -> dict:
    """Return what a run wrote: the bytes of tensors and pictures, and the record."""
    with safe_open(folder / "out.safetensors", framework="pt") as stored:
        names = [*stored.keys()]
        found = {name: stored.get_tensor(name).numpy().tobytes() for name in names}
        header = json.loads(stored.metadata()["diver_lite"])
    pictures = {
        str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.png")
    }
    return found | pictures | {"header": header}


def shared(one, other):
    """Return one without the settings that the other doesn't have."""
    if not isinstance(one, dict) or not isinstance(other, dict):
        return one
    return {key: shared(one[key], other[key]) for key in one if key in other}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("commit")
    commit = parser.parse_args().commit
    differing = 0
    with tempfile.TemporaryDirectory() as folder:
        code = {"there": Path(folder, "code"), "here": ROOT}
        worktree = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run(
            [*worktree, "add", "-q", "--detach", code["there"], commit], check=True
        )
        try:
            for number, command in enumerate(COMMANDS):
                found = []
                for name, where in code.items():
                    written = Path(folder, name, str(number))
                    run(command, where, written)
                    found.append(contents(written))
                there, here = found
                headers = (there.pop("header"), here.pop("header"))
                same = there == here and shared(*headers) == shared(*headers[::-1])
                differing += not same
                print("same     " if same else "DIFFERENT", *command, flush=True)
        finally:
            subprocess.run([*worktree, "remove", "--force", code["there"]], check=True)
    print(f"{len(COMMANDS) - differing} of {len(COMMANDS)} commands give the same")
    raise SystemExit(bool(differing))


if __name__ == "__main__":
    main()
