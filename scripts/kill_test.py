"""Kill a command at random moments, start it again, and compare the bytes.

    python scripts/kill_test.py --kills 20
    python scripts/kill_test.py "own prior" "distill mtt" train-prior judge --kills 30

`recover`: recovers 100 images with a tiny random prior once without interruption, into
a file and a folder of pictures. Then, in each round, starts the same command anew, ends
it by SIGKILL at a random moment, every third after the last shard, and starts it again
until it is done. No shard that was finished at a kill may be written again, both
outputs must have the bytes of the first ones, and nothing else may remain, but for an
empty lock file where the kill came between the last work and its removal. `own prior`
is the same in Python, with a prior that this file defines.

`distill dm` (and dc, dsa, mtt), `train-prior`, `judge`: the same on a few random
pictures, with a checkpoint at each step. While one process works a second one is
started on the same output; one of them must be refused. No step, no expert and no
training that was finished at a kill may be done again, and the outputs must be those of
an uninterrupted run (of `judge` but for the seconds).
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
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from diver_lite import DistilledSet, RecoveryConfig, cli
from diver_lite.files import sha256
from diver_lite.judge import table  # noqa: F401, so that forks needn't import it
from diver_lite.make import checkpoint, distill  # noqa: F401
from diver_lite.make.train_prior import RECIPES, build_dit, build_vae, export_prior
from diver_lite.priors.schedule import abar_at
from diver_lite.run.to_file import parts_folder, recover_to
from diver_lite.sets.names import CIFAR10_CLASSES, FASHION_MNIST_CLASSES

METHODS = multiprocessing.get_all_start_methods()
FORKS = multiprocessing.get_context("fork" if "fork" in METHODS else "spawn")
RECIPE = replace(RECIPES["fashion-mnist"], heads=1, head_dim=16, layers=2)
TINY = ("heads=1", "head_dim=16", "layers=1", "vae_channels=16,16", "dit_batch=8")
STEPS = 40  # of a distillation
TRAINED = (  # the commands with a checkpoint or a table, and their options
    ("distill dm", ("--ipc", "2")),
    ("distill dc", ("--set", "inner_loops=2", "--set", "outer_loops=2")),
    ("distill dsa", ()),
    ("distill mtt", ("--set", "num_experts=3", "--set", "expert_epochs=3",
                     "--set", "syn_steps=3")),
    ("train-prior", ("cifar10", "--set", "vae_steps=15", "--set", "dit_steps=15",
                     *(word for change in TINY for word in ("--set", change)))),
    ("judge", ("--judges", "ConvNet", "--seeds", "6", "--set", "steps=10")),
)  # fmt: skip
COMMANDS = ("recover", "own prior", *(name for name, _ in TRAINED))


class OwnPrior(nn.Module):
    """A prior that isn't the package's: noise is what a convolution says it is."""

    info: dict = {}  # noqa: RUF012
    class_names = FASHION_MNIST_CLASSES
    latent_shape, image_size = (3, 32, 32), 32

    def __init__(self) -> None:
        super().__init__()
        self.noise = nn.Conv2d(3, 3, 3, padding=1)
        self.shift = nn.Embedding(10, 3)

    def encode(self, images: Tensor) -> Tensor:
        return images * 4 - 2

    def decode(self, latents: Tensor) -> Tensor:
        return (latents / 4 + 0.5).clamp(0, 1)

    def timesteps(self, num_inference_steps: int) -> list[int]:
        stride = 1000 // num_inference_steps
        return [k * stride for k in reversed(range(num_inference_steps))]

    def signal_and_noise(self, timestep: float) -> tuple[Tensor, Tensor]:
        abar = abar_at(timestep)
        return abar.sqrt(), (1 - abar).sqrt()

    def denoise(
        self, latents: Tensor, timestep: float, class_labels: Tensor, scale: float
    ) -> tuple[Tensor, Tensor]:
        alpha, sigma = self.signal_and_noise(timestep)
        shift = self.shift(class_labels)[:, :, None, None]  # (B, 3, 1, 1)
        eps = torch.tanh(self.noise(latents) + scale * shift)
        return (latents - sigma * eps) / alpha, eps


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


def started(work: Callable[[], object], log: Path) -> multiprocessing.Process:
    """Start work in a fork of this process, its messages in a file.

    A fork needn't import PyTorch each time.
    """
    process = FORKS.Process(target=logged, args=(work, log))
    process.start()
    return process


def logged(work: Callable[[], object], log: Path) -> None:
    """Do the work, with what it prints in a file."""
    with log.open("w") as stream:
        sys.stdout = sys.stderr = stream
        work()


def finished(work: Callable[[], object], log: Path) -> None:
    """Do the work in a fork, to its end, or raise."""
    process = started(work, log)
    process.join()
    if process.exitcode:
        raise SystemExit(f"it failed:\n{log.read_text()}")


class Run:
    """The recovery of one input, to be killed and started again."""

    def __init__(self, work: Callable[[], object], out: Path, pictures: Path):
        self.work, self.out, self.pictures = work, out, pictures
        self.folder = parts_folder(out)
        self.log = out.with_suffix(".log")
        self.locks = [out.parent / f".{p.name}.lock" for p in (out, self.folder)]

    def finish(self) -> None:
        """Run to the end, or raise."""
        finished(self.work, self.log)

    def kill(self, wanted: int, fraction: float) -> bool:
        """Start, and kill once some shards are there; return whether it was alive.

        Args:
            wanted: how many shards to wait for.
            fraction: of the time that a shard took so far, waited on top.
        """
        process = started(self.work, self.log)
        before, began = len(self.shards()), time.monotonic()
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
    """A command that trains, to be killed, and to be tried by two at once."""

    def __init__(self, command: str, data: Path, out: Path):
        self.command, self.out = command, out
        self.state = out.with_suffix(".checkpoint")
        self.experts = out.with_suffix(".experts")
        options = [*dict(TRAINED)[command], "--device", "cpu", "-o", str(out)]
        if command == "judge":
            options += [f"a={data}/train", f"b={data}/test", "--data", str(data)]
        elif command == "train-prior":
            options += ["--data-root", str(data)]
        else:
            options += [
                "--data",
                str(data),
                "--split",
                "train",
                "--set",
                "real_batch=4",
            ]
            options += ["--set", f"steps={STEPS}"]
        if command == "distill mtt":
            options += ["--experts", str(self.experts)]
        self.work = partial(cli.main, [*command.split(), *options])

    def start(self, log: str) -> multiprocessing.Process:
        """Start the command, its messages in a file."""
        return started(self.work, self.out.with_suffix(f".{log}"))

    def finish(self) -> float:
        """Run to the end, or raise; return the seconds that it took."""
        began = time.monotonic()
        finished(self.work, self.out.with_suffix(".log"))
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
        """Return what needn't be done again: steps, files, or rows but for seconds."""
        if self.command == "judge":
            rows = csv.DictReader(self.out.open()) if self.out.exists() else ()
            return {tuple(v for k, v in r.items() if k != "seconds") for r in rows}
        found = set()
        for path in self.experts.glob("*.safetensors"):
            found.add((path.name, sha256(path)))
        if self.command == "train-prior":
            for stage in ("vae", "dit"):
                found |= {(stage, step) for step in steps_of(self.out / f"{stage}.pt")}
            for path in self.out.glob("prior/**/*.*"):
                found.add((str(path.relative_to(self.out)), sha256(path)))
        elif self.out.exists():
            found |= {*range(STEPS), sha256(self.out)}
        else:
            found |= {*steps_of(self.state)}
        return found

    def remove(self) -> None:
        """Begin anew."""
        for path in (self.out, self.experts):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def steps_of(path: Path) -> range:
    """Return the steps that a checkpoint says are done."""
    if not path.exists():
        return range(0)
    return range(torch.load(path, weights_only=True)["step"])


def main() -> None:
    """Run the test and say what came out."""
    # a fork inherits the state of OpenMP's threads, but not the threads: it would hang
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("commands", nargs="*", default=["recover"],
                        help=f"of {COMMANDS}; default: recover")  # fmt: skip
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    unknown = {*arguments.commands} - {*COMMANDS}
    if unknown:
        parser.error(f"unknown {unknown}; expected some of {COMMANDS}")
    generator = random.Random(arguments.seed)
    for command in arguments.commands:
        with tempfile.TemporaryDirectory() as name:
            if command in ("recover", "own prior"):
                own = command == "own prior"
                kill_and_compare(Path(name), own, arguments, generator)
            else:
                kill_writers(Path(name), command, arguments.kills, generator)


def recovery(folder: Path, own: bool, arguments: argparse.Namespace) -> Run:
    """Return a recovery of random pictures, with the package's prior or an own one."""
    prior, source = make_inputs(folder, arguments.images)
    out = folder / "here" / "out.safetensors"
    pictures = out.with_suffix(".png")
    out.parent.mkdir()
    if own:
        work = partial(
            recover_to,
            out,
            DistilledSet.load(source),
            OwnPrior(),
            RecoveryConfig(num_inference_steps=arguments.steps),
            batch_size=arguments.batch,
            images=pictures,
        )
        return Run(work, out, pictures)
    words = [
        *("recover", str(source), "--prior", str(prior), "--device", "cpu"),
        *("--batch-size", str(arguments.batch)),
        *("--set", f"num_inference_steps={arguments.steps}"),
        *("-o", str(out), "--images", str(pictures)),
    ]
    return Run(partial(cli.main, words), out, pictures)


def kill_and_compare(
    folder: Path, own: bool, arguments: argparse.Namespace, generator: random.Random
) -> None:
    """Kill `arguments.kills` runs, compare each, or raise SystemExit."""
    run = recovery(folder, own, arguments)

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
                # killed as it ended: empty locks, which nobody holds, may be left
                for lock in run.locks:
                    lock.unlink(missing_ok=True)
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
    names = CIFAR10_CLASSES if command == "train-prior" else "ab"
    images = torch.rand(2, len(names), 5, 32, 32, 3)
    for split, classes in zip(("train", "test"), images, strict=True):
        for name, pictures in zip(names, classes, strict=True):
            place = folder / "data" / split / name
            place.mkdir(parents=True)
            for index, pixels in enumerate((255 * pictures).byte()):
                Image.fromarray(pixels.numpy()).save(place / f"{index}.png")
    suffix = ".safetensors"
    if command == "train-prior":
        suffix = ""
    elif command == "judge":
        suffix = ".csv"
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
            if not command.startswith("distill") or not run.out.exists():
                run.finish()
            if run.done() != expected:
                raise SystemExit(f"{command}: it differs: {run.done() ^ expected}")
            # killed as it ended: the state of a distillation may be left
            if run.state.exists() and not killed:
                raise SystemExit(f"{command}: its checkpoint is left")
            run.state.unlink(missing_ok=True)
            run.remove()
            outputs += 1
    print(
        f"{command}: {count} kills, a second writer refused {refusals} times, "
        f"{outputs} outputs like the uninterrupted one"
    )


if __name__ == "__main__":
    main()
