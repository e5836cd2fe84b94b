"""Kill a recovery at random moments, start it again, and compare the bytes.

    python scripts/kill_test.py --kills 20

Recovers 100 images with a tiny random prior once without interruption. Then, in each
round, starts the same command anew, ends it by SIGKILL at a random moment, and starts
it again until it is done. No shard that was finished at a kill may be written again,
and the output must have the bytes of the first one.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from diver_lite import DistilledSet, cli
from diver_lite.files import sha256
from diver_lite.make.train_prior import RECIPES, build_dit, build_vae, export_prior
from diver_lite.run.to_file import parts_folder
from diver_lite.sets.names import FASHION_MNIST_CLASSES

METHODS = multiprocessing.get_all_start_methods()
FORKS = multiprocessing.get_context("fork" if "fork" in METHODS else "spawn")
RECIPE = replace(RECIPES["fashion-mnist"], heads=1, head_dim=16, layers=2)


def make_inputs(folder: Path, count: int) -> tuple[Path, Path]:
    """Write a random prior and a random set of `count` images."""
    torch.manual_seed(0)
    vae, dit = build_vae(RECIPE), build_dit(RECIPE, 10)
    for parameter in dit.parameters():  # some start at zero and would ignore inputs
        torch.nn.init.normal_(parameter, std=0.1)
    prior = folder / "prior"
    export_prior(prior, vae, dit, FASHION_MNIST_CLASSES, "random", RECIPE)
    labels = torch.arange(count) * 10 // count
    source = folder / "input.safetensors"
    DistilledSet(torch.rand(count, 3, 32, 32), labels, FASHION_MNIST_CLASSES).save(
        source
    )
    return prior, source


class Run:
    """The command line's recovery of one input, to be killed and started again.

    It runs in forks of this process, which needn't import PyTorch each time.
    """

    def __init__(self, prior: Path, source: Path, out: Path, steps: int, batch: int):
        self.out, self.folder = out, parts_folder(out)
        self.log = out.with_suffix(".log")
        self.arguments = [
            *("recover", str(source), "--prior", str(prior), "--device", "cpu"),
            *("--batch-size", str(batch), "--set", f"num_inference_steps={steps}"),
            *("-o", str(out)),
        ]

    def start(self) -> multiprocessing.Process:
        """Start the command, its messages in a file."""
        process = FORKS.Process(target=command_line, args=(self.arguments, self.log))
        process.start()
        return process

    def finish(self) -> None:
        """Run to the end, or raise."""
        process = self.start()
        process.join()
        if process.exitcode:
            raise SystemExit(f"{self.arguments} failed:\n{self.log.read_text()}")

    def kill(self, wanted: int, fraction: float) -> bool:
        """Start, and kill once some shards are there; return whether it was alive.

        Args:
            wanted: how many shards to wait for.
            fraction: of the time that a shard took so far, waited on top.
        """
        process, before, began = self.start(), len(self.shards()), time.monotonic()
        while process.is_alive() and not self.out.exists():
            if len(self.shards()) >= wanted:
                break
            time.sleep(0.001)
        made = max(1, len(self.shards()) - before)
        time.sleep(fraction * (time.monotonic() - began) / made)
        alive = process.is_alive()
        process.kill()
        process.join()
        return alive

    def shards(self) -> dict[str, int]:
        """Return the finished shards, and when each was written."""
        found = {}
        for path in self.folder.glob("[0-9]*.safetensors"):
            try:
                found[path.name] = path.stat().st_mtime_ns
            except FileNotFoundError:  # the run has just ended
                continue
        return found


def command_line(arguments: list[str], log: Path) -> None:
    """Do what `diver-lite` does, with what it prints in a file."""
    with log.open("w") as stream:
        sys.stdout = sys.stderr = stream
        cli.main(arguments)


def main() -> None:
    """Run the test and say what came out."""
    # a fork inherits the state of OpenMP's threads, but not the threads: it would hang
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    generator = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as name:
        kill_and_compare(Path(name), arguments, generator)


def kill_and_compare(
    folder: Path, arguments: argparse.Namespace, generator: random.Random
) -> None:
    """Kill `arguments.kills` runs, compare each, or raise SystemExit."""
    prior, source = make_inputs(folder, arguments.images)
    settings = (arguments.steps, arguments.batch)
    reference = Run(prior, source, folder / "reference.safetensors", *settings)
    reference.finish()
    expected = sha256(reference.out)
    shards = -(-arguments.images // arguments.batch)
    run = Run(prior, source, folder / "out.safetensors", *settings)
    kills = outputs = 0
    while kills < arguments.kills:
        before = run.shards()
        wanted = generator.randint(len(before), shards)
        alive = run.kill(wanted, generator.random())
        kills += alive
        after = run.shards()
        if any(after.get(name, then) != then for name, then in before.items()):
            raise SystemExit("a finished shard was made again")
        what = f"kill {kills}" if alive else "done before the kill"
        print(f"{what}: {len(before)} -> {len(after)} of {shards} shards")
        # only every other run goes on to its end, so some are killed several times
        if generator.random() < 0.5 or run.out.exists() or kills == arguments.kills:
            if run.folder.exists() or not run.out.exists():
                run.finish()
            if sha256(run.out) != expected or run.folder.exists():
                raise SystemExit("the bytes differ, or the working folder is left")
            run.out.unlink()
            outputs += 1
    print(
        f"{kills} kills, {outputs} outputs of {arguments.images} images: all with "
        f"the bytes of the uninterrupted one ({expected[:16]})"
    )


if __name__ == "__main__":
    main()
