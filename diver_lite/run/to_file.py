"""Recover in shards, so that a run can be killed, gone on with, and split.

A shard holds the results of one batch: images i .. i+B-1 of the set, for i = 0, B, 2B
and so on. Its pixels depend on those images alone, and batches are always cut there, so
the merged file has the same bytes however often a run was interrupted and however many
processes and threads shared it. That needs one kind of processor or card, and the same
settings, versions of libraries and code that computes (all but the processor are
compared). Where memory ran out, or `compile` chose the fastest kernels, the pixels are
the same up to rounding.

The folder OUT.parts beside the output holds what the run is (`manifest.json`) and the
shards, each with a digest (`set/`). Everything in it is written whole or not at all.
Where the output is a file, the shards are joined; where it is a folder, they are the
result, so memory doesn't grow with the set.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import threading
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from joblib import Parallel, delayed
from safetensors import SafetensorError, safe_open
from torch import Tensor
from tqdm.auto import tqdm

from diver_lite import checks
from diver_lite.devices import plain_torch
from diver_lite.files import (
    MARKER,
    atomic_path,
    check_apart,
    check_writable,
    exclusive,
    fingerprint,
    move,
    sha256,
)
from diver_lite.priors.contract import Prior, device_of, name_of
from diver_lite.priors.fast import COMPILE_FROM, FastPrior, accelerate_prior
from diver_lite.priors.identity import Unidentified, identity
from diver_lite.recovery import RecoveryConfig, RecoveryJob
from diver_lite.run.batches import Memory, choose_batch_size, in_parts
from diver_lite.run.processes import Processes
from diver_lite.sets.distilled import INDEX, DistilledSet
from diver_lite.sets.folder import save_image_folder
from diver_lite.sets.stored import stored_images

MANIFEST = "manifest.json"
SHARDS = "set"
# the output, until it is moved to its place; if it is a folder, that of the shards is
WHOLE = "whole.safetensors"
RESULT = "result"  # the digest of the output, from just before it is moved
_FILES = r"(\d{6,}|whole)\.safetensors|manifest\.json"
_SCRATCH = rf"\.({_FILES}|set\.safetensors)\.\w{{8}}"  # half-written when killed
_OURS = rf"{_FILES}|{_SCRATCH}|set|result"
_PACKAGES = ("torch", "diffusers", "safetensors")
# Raise it whenever a recovery's pixels may differ from those before; a test of stored
# results (tests/run/test_stored_recoveries.py) fails where somebody forgot. A run goes
# on, and a result is taken from a file, only with the same number.
RESULTS = 3
# Facts that are digests of something: how to say that they differ.
_DIGESTS = {
    "images": "other input images",
    "classes": "other labels or another class_map",
    "prior": "another prior: other weights, settings or code",
    "noise": "other noise",
}


def recover_to(
    out: str | Path,
    distilled: DistilledSet,
    prior: Prior,
    config: RecoveryConfig | None = None,
    *,
    seed: int = 0,
    noise: Tensor | None = None,
    class_map: Sequence[int] | Mapping[int | str, int] | None = None,
    batch_size: int | None = None,
    size: int | None = None,
    fast: bool = True,
    compile: bool | None = None,
    images: str | Path | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> DistilledSet:
    """Recover a set as `recover` does, into a file, so that a killed run can go on.

    Finished batches are kept in a folder beside the file. Under `accelerate launch` all
    processes call this with the same arguments: each does its share of the batches,
    process 0 merges them, all return the set.

    Args:
        out: the .safetensors file to write; or a name without ending, of a folder of
            numbered files, which `DistilledSet.load` opens without reading them.
        distilled, prior, config, seed, noise, class_map: as of `recover`.
        batch_size: images at a time; default: as in the folder, if a run was
            interrupted, else 5 on the CPU, on CUDA 64 (5 for a UNet). Halved where
            memory runs out. It changes no result but by rounding.
        size: height and width of the results in pixels; default: as the set's images.
        fast: prepare the conditioning (`priors.fast`), where that applies: the same up
            to rounding.
        compile: use torch.compile in the fast path; default: on CUDA, from 1,000
            images on. Without it a CUDA graph takes the launches together.
        images: also write PNG files, to this folder: `sets.folder`.
        overwrite: replace what exists, also if it appears during the run.
        progress: show a progress bar; it begins with what is done already.

    Raises:
        InputError: as `recover`; or an output exists, or its working folder is in use
            or another run's; or another process failed; or memory is too small.

    Source: ours.
    """
    out = checks.path(out, "out")
    if images is not None:
        images = checks.path(images, "images")
    checks.instance(fast, "fast", bool)
    checks.instance(overwrite, "overwrite", bool)
    checks.instance(progress, "progress", bool)
    checks.instance(compile, "compile", bool | None)
    if batch_size is not None:
        batch_size = checks.integer(batch_size, "batch_size", 1)
    if size is not None:
        size = checks.integer(size, "size", 1, 2**12)
    checks.instance(distilled, "distilled", DistilledSet)
    if config is None:
        config = RecoveryConfig.recommended(prior)
    sides = distilled.images.shape[-2:] if size is None else (size, size)
    on_cpu = device_of(prior).type == "cpu"
    with ExitStack() as stack:
        threads = stack.enter_context(plain_torch(grad=False))
        job = RecoveryJob(distilled, prior, config, seed, noise, class_map)
        if compile is None:
            compile = not on_cpu and len(distilled) >= COMPILE_FROM
        if fast:
            job.prior = accelerate_prior(job.prior, compile=compile, warn=False)
        settings = asdict(config) | {
            "seed": job.seed, "size": [*sides], "fast": fast,
            "compile": fast and compile,
        }  # fmt: skip
        processes = Processes(cpu=on_cpu)
        shards = Shards(out, len(distilled), overwrite, images)

        def begin() -> tuple[dict, list[int]]:
            stack.enter_context(shards.locked())
            facts = run_facts(distilled, job.classes, job.prior, noise, settings)
            check_resumable(facts, prior, shards)
            return shards.begin(facts, batch_size, choose_batch_size(prior))

        shards.manifest, pending = processes.first(begin)
        make = _maker(job, shards, sides)
        threads = threads if on_cpu else 2  # one computes, one reads or writes
        _share(pending, make, shards, processes, threads, progress)
        processes.first(lambda: shards.finish(job.result))
    return DistilledSet.load(out)


def _maker(
    job: RecoveryJob, shards: Shards, sides: Sequence[int]
) -> Callable[[int], None]:
    """Return what makes a shard, given its index; several threads may call it."""
    release = None
    if isinstance(job.prior, FastPrior):
        release = job.prior.release
    memory = Memory(release)
    turn = nullcontext()
    if device_of(job.prior).type != "cpu":
        turn = threading.Lock()  # on a card one batch at a time

    def make(index: int) -> None:
        batch = shards.batch(index)
        read = job.distilled.images[[*batch]]

        def refine(part: range) -> Tensor:
            images = read[part.start - batch.start :][: len(part)]
            return job.finish(job.refine(part, images), sides)

        with torch.no_grad(), turn:  # a thread begins with gradients
            images = in_parts(refine, batch, memory)
        shards.write(index, images)

    return make


def _share(
    pending: list[int],
    make: Callable[[int], None],
    shards: Shards,
    processes: Processes,
    threads: int,
    progress: bool,
) -> None:
    """Make this process's share of the shards, and wait for the others' shares.

    So many threads make one each at a time; torch computes on one thread in each.
    On a card two take turns: what one reads or writes costs the card no time.
    """
    own = pending[processes.index :: processes.count]
    parallel = Parallel(threads, prefer="threads", return_as="generator_unordered")
    bar = tqdm(
        desc="recover", unit="img", total=shards.count,
        initial=shards.images_done(),
        disable=not (progress and pending and processes.index == 0),
    )  # fmt: skip
    with bar:
        for _ in parallel(delayed(make)(index) for index in own):
            bar.update(shards.images_done() - bar.n)  # others make some, too
        processes.wait()
        bar.update(shards.images_done() - bar.n)


@dataclass
class Shards:
    """The finished batches of one run, in a folder beside its output.

    Attributes:
        out: the run's output.
        count: number of images.
        overwrite: whether `out` and `images` may be replaced.
        images: a folder for PNG files.
        manifest: what the run is; set by `begin`, once the folder is known to be its.
    """

    out: Path
    count: int
    overwrite: bool = False
    images: Path | None = None
    manifest: dict = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder = parts_folder(self.out)
        self.shards = self.folder / SHARDS

    def batch(self, index: int) -> range:
        """Return which images shard `index` holds."""
        size = self.manifest["batch_size"]
        return range(self.count)[index * size :][:size]

    def path(self, index: int) -> Path:
        """Return the file of shard `index`."""
        return self.shards / f"{index:06d}.safetensors"

    def _indices(self) -> range:
        return range(-(-self.count // self.manifest["batch_size"]))

    def images_done(self) -> int:
        """Return how many images have a shard, whichever process made it."""
        shards = sum(1 for _ in self.shards.glob("[0-9]*"))
        return min(self.count, shards * self.manifest["batch_size"])

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other runs out; a folder in which nothing is worth keeping goes."""
        check_output(self.out, self.images, overwrite=self.overwrite)
        # of the output, and of the working folder, which `a` and `a.safetensors` share
        folder = self.folder.with_name(f".{self.folder.name}.lock")
        with exclusive(self.out), exclusive(self.out, folder):
            try:
                yield
            finally:
                if self.manifest and not self.images_done():
                    self.remove()

    def begin(
        self, facts: dict, batch_size: int | None, default: int
    ) -> tuple[dict, list[int]]:
        """Compare the folder with the run that begins, and find what is to do.

        Args:
            facts: what the result depends on.
            batch_size: images per shard, or None for what the folder says.
            default: what to take in a new folder.

        Returns:
            The manifest; indices of the shards to make, none if the output is finished.

        Raises:
            InputError: the folder, or the output, holds another run.
        """
        self._sweep()
        stored = read_manifest(self.out)
        size = batch_size or stored.get("batch_size") or default
        facts = facts | {"batch_size": size, "count": self.count}
        manifest = json.loads(json.dumps(facts))
        checks.ensure(
            stored in ({}, manifest),
            f"working folder {self.folder} belongs to another run "
            f"({_differences(stored, manifest)}); go on with the settings of that run, "
            "delete the folder, or choose another --out",
        )
        self.manifest = manifest
        if is_finished(self.out):  # killed after it was moved
            return manifest, []
        with (
            self._naming(),
            atomic_path(self.folder / MANIFEST, overwrite=True) as path,
        ):
            path.write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        return manifest, [i for i in self._indices() if self.read(i) is None]

    def read(self, index: int) -> Tensor | None:
        """Return a shard's images, or None if there is no whole and right shard."""
        file = self.path(index)
        try:
            with safe_open(file, framework="pt") as stored:
                tags = stored.metadata()
                images = stored.get_tensor("images")
            if tags != self._tags(index, images):
                raise ValueError("its contents don't fit its digest")
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError, ValueError) as error:
            where = self.batch(index)
            tqdm.write(
                f"shard {file} is damaged ({checks.first_line(error)}): images "
                f"{where[0]} .. {where[-1]} are recovered again",
                file=sys.stderr,
            )
            file.unlink(missing_ok=True)
            return None
        return images

    def _tags(self, index: int, images: Tensor) -> dict[str, str]:
        run = fingerprint([], json.dumps(self.manifest, sort_keys=True))
        tags = {"run": run, "index": index, "images": fingerprint([images])}
        return {"shard": json.dumps(tags)}  # safetensors shuffles several

    def write(self, index: int, images: Tensor) -> None:
        """Store a shard, whole or not at all.

        Raises:
            InputError: it can't be written, or the folder isn't this run's any more.
        """
        checks.ensure(
            read_manifest(self.out) == self.manifest,
            f"working folder {self.folder} was removed or replaced during this run, or "
            "a process doesn't see it; expected it to stay until the end, where all "
            "processes see it: run the same command again",
        )
        images = images.contiguous()
        content = safetensors.torch.save({"images": images}, self._tags(index, images))
        with self._naming(), atomic_path(self.path(index), overwrite=True) as path:
            path.write_bytes(content)

    def finish(self, assemble: Callable[[Any], DistilledSet]) -> None:
        """Make the output of all shards, and the pictures; remove the folder.

        What a run that was killed in between has made already stays.

        Raises:
            InputError: a shard is missing by now, or an output can't be written.
        """
        if not is_finished(self.out):
            with self._naming():
                whole = self._join(assemble)
                (self.folder / RESULT).write_text(_digest(whole))
                move(whole, self.out, overwrite=self.overwrite)
        if self.images and (self.overwrite or not self.images.exists()):
            result = DistilledSet.load(self.out)
            save_image_folder(result, self.images, self.overwrite)
        self.remove()

    def _join(self, assemble: Callable[[Any], DistilledSet]) -> Path:
        """Write all images to one file; or, beside them, what makes a set of shards."""
        files = [self.path(index) for index in self._indices()]
        for index, file in enumerate(files):
            checks.ensure(
                self.read(index) is not None,
                f"{file} is missing or damaged although it was finished; run the same "
                "command again (several processes need one shared folder for --out)",
            )
        size = self.manifest["batch_size"]
        result = assemble(stored_images(files, size))
        if self.out.suffix:
            return result.save(self.folder / WHOLE, overwrite=True)
        result.save_index(self.shards, size)
        (self.shards / MARKER).touch()
        return self.shards

    def remove(self) -> None:
        """Remove what is ours, the manifest last; the folder, if nothing else is in."""
        self._sweep()
        shutil.rmtree(self.shards, ignore_errors=True)
        for name in (WHOLE, RESULT, MANIFEST):
            (self.folder / name).unlink(missing_ok=True)
        with suppress(OSError):
            self.folder.rmdir()

    def _sweep(self) -> None:
        """Remove what was half-written when a run was killed."""
        for path in self.folder.rglob(".*"):
            if re.fullmatch(_SCRATCH, path.name):
                shutil.rmtree(path, ignore_errors=True)

    def _naming(self):
        return checks.naming(
            self.out,
            output=True,
            advice=f"; finished images are kept in {self.folder}: make room and run "
            "the same command again",
        )


def parts_folder(out: str | Path) -> Path:
    """Return the working folder of an output, or raise: no output is called so."""
    out = Path(out)
    checks.ensure(
        out.suffix in (".safetensors", "") and out.name not in ("", ".."),
        f"output {out}: expected a name ending in .safetensors, or a folder's name "
        "without an ending",
    )
    return out.with_suffix(".parts")


def read_manifest(out: str | Path) -> dict:
    """Return what the shards beside an output are of; {} where there are none."""
    path = parts_folder(out) / MANIFEST
    if not path.exists():
        return {}
    with checks.naming(path, f"the settings of a run; delete the folder {path.parent}"):
        return {**json.loads(path.read_text(encoding="utf-8"))}


def is_finished(out: str | Path) -> bool:
    """Return whether a run ended with `out` in place and only its folder left over."""
    folder = parts_folder(out)
    with suppress(OSError, UnicodeDecodeError):
        written = (folder / RESULT).read_text() == _digest(Path(out))
        return written and (folder / MANIFEST).exists()
    return False


def _digest(whole: Path) -> str:
    """Return the digest of a file, or of the one that makes a set of a folder."""
    return sha256(whole / INDEX if whole.is_dir() else whole)


def check_output(
    out: str | Path, images: str | Path | None = None, *, overwrite: bool = False
) -> None:
    """Raise `InputError` if `out` and `images` may not be written.

    An output that was finished just before its run was killed counts as unfinished, so
    the same command ends well when it is run again. See `files.check_writable`.
    """
    out = Path(out)
    folder = parts_folder(out)
    strange = _strange(folder)
    checks.ensure(
        strange is None,
        f"output {out}: its working folder {folder} would hide {strange!r}, which is "
        "none of ours; move that, or choose another --out",
    )
    finished = is_finished(out)
    check_writable(out, overwrite=overwrite or finished)
    check_apart({"--out": out, "--images": images, "working folder": folder})
    if images and not finished:
        check_writable(images, overwrite=overwrite)


def _strange(folder: Path) -> str | None:
    """Return the name of something in a working folder that isn't ours."""
    if os.path.lexists(folder) and (folder.is_symlink() or not folder.is_dir()):
        return folder.name
    names = {path.name for path in folder.glob("*")}
    # the manifest comes before all else, and goes after it
    known = _OURS if MANIFEST in names else _SCRATCH
    return min((n for n in names if not re.fullmatch(known, n)), default=None)


def check_resumable(facts: dict, prior: Prior, shards: Shards) -> None:
    """Warn that a run can't be gone on with, or refuse to, if nobody knows its prior.

    Raises `InputError`, which says how the prior can tell.
    """
    reason = str(facts["prior"]).partition(" (")[0]
    if not reason.startswith("unidentified: "):
        return
    reason = reason.removeprefix("unidentified: ")
    advice = "give the prior a method `fingerprint` that returns a text, which changes "
    advice += "when its results do"
    whose = f"prior {name_of(prior)!r} can't be told from another: {reason}"
    checks.ensure(
        not read_manifest(shards.out),
        f"{whose}; so the interrupted run in {shards.folder} can't go on. Delete the "
        f"folder to begin anew; to go on next time {advice}",
    )
    warnings.warn(
        f"{whose}; so if this run is interrupted, it can't go on: {advice}",
        stacklevel=2,
    )


def run_facts(
    distilled: DistilledSet,
    classes: Tensor,
    prior: Prior,
    noise: Tensor | None,
    settings: dict,
) -> dict:
    """Return what a recovery's result depends on, to the last bit, as JSON can hold it.

    Args:
        distilled: the input.
        classes: (N,) of the prior.
        prior: the prior; its weights count, its place on disk doesn't.
        noise: (N, C, h, w) if it was given.
        settings: names and plain values.
    """
    try:
        whose = identity(prior)
    except Unidentified as unknown:
        # of this run alone: nothing is taken for it later
        whose = f"unidentified: {unknown} ({uuid.uuid4().hex})"
    device = device_of(prior)
    card = None
    if device.type == "cuda":
        card = torch.cuda.get_device_name(device)
    return {
        "images": fingerprint([distilled.images]),
        "classes": fingerprint([distilled.labels, classes]),
        "prior": whose,
        "noise": None if noise is None else fingerprint([noise]),
        "results": RESULTS,
        "dtype": str(getattr(prior, "dtype", None)),
        "device": device.type,
        "card": card,
        **{name: metadata.version(name) for name in _PACKAGES},
        **settings,
    }


def _differences(there: dict, here: dict) -> str:
    differing = [key for key in {**there, **here} if there.get(key) != here.get(key)]
    return "; ".join(
        _DIGESTS.get(key) or f"{key} {there.get(key)!r} there, {here.get(key)!r} now"
        for key in differing
    )
