"""Kill a command at random moments, start it again, and compare the bytes.

    python scripts/kill_test.py --kills 20
    python scripts/kill_test.py distill judge --kills 20

`recover`: recovers 100 images with a tiny random prior once without interruption, into
a file and a folder of pictures. Then, in each round, starts the same command anew, ends
it by SIGKILL at a random moment, every third after the last shard, and starts it again
until it is done. No shard that was finished at a kill may be written again, both
outputs must have the bytes of the first ones, and nothing else may remain, but for an
empty lock file where the kill came between the last work and its removal.

`distill`, `judge`: the same on a few random pictures, with a checkpoint at each step.
While one process works a second one is started on the same output; one of them must be
refused. No step and no training that was finished at a kill may be done again, and the
outputs must be those of an uninterrupted run (of `judge` but for the seconds).
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import random
import shutil
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image

from diver_lite import DistilledSet, cli
from diver_lite.files import sha256
from diver_lite.judge import table  # noqa: F401, so that forks needn't import it
from diver_lite.make import checkpoint, distill  # noqa: F401
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
        self.log, self.pictures = out.with_suffix(".log"), out.with_suffix(".png")
        self.lock = out.parent / f".{out.name}.lock"
        self.arguments = [
            *("recover", str(source), "--prior", str(prior), "--device", "cpu"),
            *("--batch-size", str(batch), "--set", f"num_inference_steps={steps}"),
            *("-o", str(out), "--images", str(self.pictures)),
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

    def outputs(self) -> dict[str, str]:
        """Return the digests of both outputs' files, and of what else is there."""
        paths = [p for p in self.out.parent.rglob("*") if p.is_file()]
        return {
            str(path.relative_to(self.out.parent)): sha256(path)
            for path in paths
            if path != self.log
        }

    def shards(self) -> dict[str, int]:
        """Return the finished shards, and when each was written."""
        found = {}
        for path in self.folder.glob("set/[0-9]*.safetensors"):
            try:
                found[path.name] = path.stat().st_mtime_ns
            except FileNotFoundError:  # the run has just ended
                continue
        return found


class Writer:
    """`distill` or `judge`, to be killed, and to be tried by two at once."""

    def __init__(self, command: str, data: Path, out: Path):
        self.command, self.out = command, out
        self.state = out.with_suffix(".checkpoint")
        shared = ("--data", str(data), "--device", "cpu", "-o", str(out))
        self.arguments = {
            "distill": ("distill", "dm", "--split", "train", "--ipc", "2", "--steps",
                        "60", "--real-batch", "4", *shared),
            "judge": ("judge", f"a={data}/train", f"b={data}/test", "--judges",
                      "ConvNet", "--seeds", "6", "--steps", "10", *shared),
        }[command]  # fmt: skip

    def start(self, log: str) -> multiprocessing.Process:
        """Start the command, its messages in a file."""
        arguments = ([*self.arguments], self.out.with_suffix(f".{log}"))
        process = FORKS.Process(target=command_line, args=arguments)
        process.start()
        return process

    def finish(self) -> float:
        """Run to the end, or raise; return the seconds that it took."""
        began, process = time.monotonic(), self.start("log")
        process.join()
        if process.exitcode:
            text = self.out.with_suffix(".log").read_text()
            raise SystemExit(f"{self.command} failed:\n{text}")
        return time.monotonic() - began

    def kill(self, before: float, between: float) -> tuple[bool, bool]:
        """Start two, and kill what is alive after some seconds.

        Returns whether one was killed, and whether the other had been refused.
        """
        first = self.start("first")
        time.sleep(before)
        second = self.start("second")
        time.sleep(between)
        waited = time.monotonic()
        while first.is_alive() and second.is_alive():  # a refusal is on its way
            if time.monotonic() > waited + 300:
                raise SystemExit(f"{self.command}: two processes write one output")
            time.sleep(0.001)
        killed = first.is_alive() or second.is_alive()
        for process in (first, second):
            process.kill()
            process.join()
        logs = [self.out.with_suffix(s).read_text() for s in (".first", ".second")]
        return killed, any("is being written by another process" in x for x in logs)

    def done(self) -> set:
        """Return what needn't be done again: steps, or rows but for their seconds."""
        if self.command == "judge":
            rows = csv.DictReader(self.out.open()) if self.out.exists() else ()
            return {tuple(v for k, v in r.items() if k != "seconds") for r in rows}
        if self.out.exists():
            return {*range(60), sha256(self.out)}
        if not self.state.exists():
            return set()
        return {*range(torch.load(self.state, weights_only=True)["step"])}


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
    parser.add_argument("commands", nargs="*", default=["recover"],
                        help="recover (default), distill, judge")  # fmt: skip
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    generator = random.Random(arguments.seed)
    for command in arguments.commands:
        with tempfile.TemporaryDirectory() as name:
            if command == "recover":
                kill_and_compare(Path(name), arguments, generator)
            else:
                kill_writers(Path(name), command, arguments.kills, generator)


def kill_and_compare(
    folder: Path, arguments: argparse.Namespace, generator: random.Random
) -> None:
    """Kill `arguments.kills` runs, compare each, or raise SystemExit."""
    prior, source = make_inputs(folder, arguments.images)
    settings = (arguments.steps, arguments.batch)
    run = Run(prior, source, folder / "here" / "out.safetensors", *settings)
    run.out.parent.mkdir()

    def remove() -> None:
        run.out.unlink()
        shutil.rmtree(run.pictures)

    run.finish()
    expected = run.outputs()
    remove()
    shards = -(-arguments.images // arguments.batch)
    kills = outputs = among_pictures = 0
    while kills < arguments.kills:
        before = run.shards()
        late = generator.random() < 1 / 3
        wanted = shards if late else generator.randint(len(before), shards)
        alive = run.kill(wanted, generator.random())
        kills += alive
        among_pictures += any(run.out.parent.glob(".out.png.*"))
        after = run.shards()
        if any(after.get(name, then) != then for name, then in before.items()):
            raise SystemExit("a finished shard was made again")
        what = f"kill {kills}" if alive else "done before the kill"
        print(f"{what}: {len(before)} -> {len(after)} of {shards} shards")
        # only every other run goes on to its end, so some are killed several times
        if generator.random() < 0.5 or run.out.exists() or kills == arguments.kills:
            if run.folder.exists() or not run.out.exists():
                if any(run.out.parent.glob(".out.png.*")):
                    time.sleep(1.1)  # younger ones may be somebody's: `files.sweep`
                run.finish()
            else:
                # killed as it ended: an empty lock, which nobody holds, may be left
                run.lock.unlink(missing_ok=True)
            found = run.outputs()
            if found != expected or run.folder.exists():
                odd = sorted(dict(found.items() ^ expected.items()))
                raise SystemExit(f"the bytes differ, or something is left: {odd}")
            remove()
            outputs += 1
    print(
        f"{kills} kills, {among_pictures} while pictures were written, {outputs} "
        f"outputs of {arguments.images} images: all with the bytes of the "
        f"uninterrupted one ({expected[run.out.name][:16]})"
    )


def kill_writers(
    folder: Path, command: str, kills: int, generator: random.Random
) -> None:
    """Kill runs of two processes each, compare, or raise SystemExit."""
    checkpoint.SECONDS = -1  # after each step; the forks take it over
    images = torch.rand(2, 2, 4, 32, 32, 3)
    for split, classes in zip(("train", "test"), images, strict=True):
        for name, pictures in zip("ab", classes, strict=True):
            place = folder / "data" / split / name
            place.mkdir(parents=True)
            for index, pixels in enumerate((255 * pictures).byte()):
                Image.fromarray(pixels.numpy()).save(place / f"{index}.png")
    suffix = {"distill": ".safetensors", "judge": ".csv"}[command]
    reference = Writer(command, folder / "data", folder / f"reference{suffix}")
    seconds = reference.finish()
    expected = reference.done()
    run = Writer(command, folder / "data", folder / f"out{suffix}")
    count = refusals = outputs = 0
    while count < kills:
        before = run.done()
        moments = [share * generator.random() * seconds for share in (0.7, 0.3)]
        killed, refused = run.kill(*moments)
        after = run.done()
        if not before <= after:
            raise SystemExit(f"{command}: {before - after} was lost")
        count, refusals = count + killed, refusals + refused
        seconds *= 1 if killed else 0.7  # the machine is less busy than it was
        what = f"kill {count}" if killed else "done before the kill"
        print(f"{command}, {what}: {len(before)} -> {len(after)} of {len(expected)}")
        if len(after) == len(expected) or generator.random() < 0.3 or count == kills:
            if command == "judge" or not run.out.exists():
                run.finish()
            if run.done() != expected or run.state.exists():
                raise SystemExit(f"{command}: the output differs")
            run.out.unlink()
            outputs += 1
    print(
        f"{command}: {count} kills, a second writer refused {refusals} times, "
        f"{outputs} outputs like the uninterrupted one"
    )


if __name__ == "__main__":
    main()
