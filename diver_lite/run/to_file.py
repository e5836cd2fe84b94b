"""Recover in shards, so that a run can be killed, gone on with, and split.

A shard holds the results of one batch: images i .. i+B-1 of the set, for i = 0, B, 2B
and so on. Its pixels depend on those images alone, and batches are always cut there, so
the merged file has the same bytes however often a run was interrupted and however many
processes and threads shared it, as long as machine, the libraries' versions and the
code that computes are the same (all but the first are compared, like settings).

The folder OUT.parts beside the output holds the shards, each with a digest; what they
are part of (`manifest.json`); and a lock, which the system frees when its owner ends.
Everything in it is written whole or not at all. Where the output is a folder, the
shards are the result: nothing is merged, so memory doesn't grow with the set.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
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
from diver_lite.checks import InputError, first_line
from diver_lite.devices import one_thread
from diver_lite.files import (
    MARKER,
    atomic_path,
    check_apart,
    check_writable,
    code_of,
    exclusive,
    fingerprint,
    move,
    sha256,
)
from diver_lite.priors.contract import Prior, Wrapped, device_of
from diver_lite.priors.fast import COMPILE_FROM, accelerate_prior
from diver_lite.recovery import Recovery, RecoveryConfig
from diver_lite.run.batches import choose_batch_size, in_parts
from diver_lite.run.processes import Processes
from diver_lite.sets.distilled import INDEX, DistilledSet
from diver_lite.sets.folder import write_pictures
from diver_lite.sets.stored import stored_images

MANIFEST = "manifest.json"
RESULT = "result.json"
LOCK = "lock"
# the output, until it is moved to its place: a file, or a folder of shards
WHOLE = "whole.safetensors"
SET = "set"
_TENSORS = re.compile(r"(\d{6,}|whole|set)\.safetensors")  # shards, and what follows
# half-written when killed
_SCRATCH = re.compile(rf"\.({_TENSORS.pattern}|(manifest|result)\.json)\.\w{{8}}")
_PACKAGES = ("torch", "diffusers", "safetensors")
# the files of the package whose code decides what a shard holds
COMPUTING = (
    "recovery.py", "priors/contract.py", "priors/dit.py", "priors/fast.py",
    "priors/interval.py", "priors/loading.py", "priors/schedule.py", "priors/text.py",
)  # fmt: skip
# Facts that are digests of something: how to say that they differ.
_DIGESTS = {
    "images": "other input images",
    "classes": "other labels or another class_map",
    "prior": "another prior",
    "noise": "other noise",
    "code": "another version of the code",
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
            interrupted, else 5 on the CPU, on CUDA what fits into the free memory, up
            to 64. Halved where memory runs out.
        size: height and width of the results in pixels; default: as the set's images.
        fast: prepare the conditioning (`priors.fast`): the same up to rounding.
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
    switches = {"fast": fast, "overwrite": overwrite, "progress": progress}
    for name, value in switches.items():
        checks.instance(value, name, bool)
    checks.instance(compile, "compile", bool | None)
    if batch_size is not None:
        batch_size = checks.integer(batch_size, "batch_size", 1)
    if config is None:
        config = RecoveryConfig.recommended(prior)
    job = Recovery(distilled, prior, config, seed, noise, class_map)
    sides = distilled.images.shape[-2:]
    if size is not None:
        sides = (checks.integer(size, "size", 1, 2**12),) * 2
    if compile is None:
        compile = device_of(prior).type == "cuda" and len(distilled) >= COMPILE_FROM
    compile = fast and compile
    if fast:
        job.prior = accelerate_prior(job.prior, compile=compile)

    def refine(indices: range) -> Tensor:
        return job.finish(job.refine(indices), sides)

    settings = asdict(config) | {
        "seed": job.seed, "size": [*sides], "fast": fast, "compile": compile,
    }  # fmt: skip
    processes = Processes(cpu=device_of(prior).type == "cpu")
    shards = Shards(out, len(distilled), overwrite, images)
    with ExitStack() as stack:

        def begin() -> tuple[dict, list[int]]:
            stack.enter_context(shards.locked(alone=processes.count == 1))
            facts = run_facts(distilled, job.classes, job.prior, noise, settings)
            pending = shards.begin(facts, batch_size, choose_batch_size(prior))
            return shards.manifest, pending

        def make(index: int) -> None:
            shards.write(index, in_parts(refine, shards.batch(index)))

        shards.manifest, pending = processes.first(begin)
        processes.see(shards.folder / MANIFEST)
        threads = 1
        if device_of(prior).type == "cpu":  # so many batches at a time, each on one
            threads = torch.get_num_threads()
        parallel = Parallel(threads, prefer="threads", return_as="generator_unordered")
        bar = tqdm(
            desc="recover", unit="img", total=len(distilled),
            initial=shards.images_done(),
            disable=not (progress and pending and processes.index == 0),
        )  # fmt: skip
        with bar, one_thread():
            own = pending[processes.index :: processes.count]
            for _ in parallel(delayed(make)(index) for index in own):
                bar.update(shards.images_done() - bar.n)  # others make some, too
            processes.wait()
            bar.update(shards.images_done() - bar.n)
        processes.first(lambda: shards.finish(job.result))
    return DistilledSet.load(out)


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

    @property
    def folder(self) -> Path:
        """The working folder, OUT.parts."""
        return parts_folder(self.out)

    @property
    def joined(self) -> bool:
        """Whether the output is one file, rather than the folder of all shards."""
        return self.out.suffix != ""

    @property
    def shards(self) -> Path:
        """Where the shards are: in a folder that is moved to `out`, or above."""
        return self.folder if self.joined else self.folder / SET

    @property
    def run(self) -> str:
        """Digest of the manifest, which every shard of this run carries."""
        return fingerprint([], json.dumps(self.manifest, sort_keys=True))

    def batch(self, index: int) -> range:
        """Return which images shard `index` holds."""
        size = self.manifest["batch_size"]
        return range(index * size, min((index + 1) * size, self.count))

    def path(self, index: int) -> Path:
        """Return the file of shard `index`."""
        return self.shards / f"{index:06d}.safetensors"

    def _indices(self) -> range:
        return range(-(-self.count // self.manifest["batch_size"]))

    def images_done(self) -> int:
        """Return how many images have a shard, whichever process made it."""
        names = {path.name for path in self.shards.glob("*")}
        return sum(
            len(self.batch(index))
            for index in self._indices()
            if self.path(index).name in names
        )

    @contextmanager
    def locked(self, *, alone: bool):
        """Make the folder, and keep other runs out of it."""
        check_output(self.out, self.images, overwrite=self.overwrite)
        if strange := self._strange():
            raise InputError(
                f"output {self.out}: its working folder {self.folder} would hide "
                f"{strange!r}, which is none of ours; move that, or choose another "
                "--out"
            )
        with exclusive(self.out, self.folder / LOCK):
            try:
                yield
            except BaseException:
                if alone and self.manifest and not self.images_done():
                    self.remove()  # nothing in it is worth keeping
                raise

    def _strange(self) -> str | None:
        """Return the name of something in the working folder that isn't ours."""
        if not os.path.lexists(self.folder):
            return None
        if self.folder.is_symlink() or not self.folder.is_dir():
            return self.folder.name
        names = os.listdir(self.folder)
        known = {LOCK, *filter(_SCRATCH.fullmatch, names)}
        if MANIFEST in names:  # comes before the first shard, and goes after the last
            known |= {MANIFEST, RESULT, SET, *filter(_TENSORS.fullmatch, names)}
        return min({*names} - known, default=None)

    def begin(self, facts: dict, batch_size: int | None, default: int) -> list[int]:
        """Compare the folder with the run that begins, and return what is to do.

        Args:
            facts: what the result depends on.
            batch_size: images per shard, or None for what the folder says.
            default: what to take in a new folder.

        Returns:
            Indices of the shards to make; none if even the output is finished.

        Raises:
            InputError: the folder, or the output, holds another run.
        """
        self._sweep()
        stored = self._stored()
        size = batch_size or stored.get("batch_size") or default
        facts = facts | {"batch_size": size, "count": self.count}
        manifest = json.loads(json.dumps(facts))
        ours = stored == manifest
        finished = is_finished(self.out)
        if finished and not ours:  # left over from a run that was done
            check_writable(self.out, overwrite=self.overwrite)
            self._empty()
        elif stored and not ours:
            raise InputError(
                f"working folder {self.folder} belongs to another run "
                f"({_differences(stored, manifest)}); go on with the settings of "
                "that run, delete the folder, or choose another --out"
            )
        self.manifest = manifest
        if finished and ours:  # killed after the last step of all
            return []
        if self.images:
            check_writable(self.images, overwrite=self._may_replace(self.images))
        if not ours:
            self._write_json(MANIFEST, self.manifest)
        self.shards.mkdir(exist_ok=True)
        for name in (RESULT, WHOLE):
            (self.folder / name).unlink(missing_ok=True)
        return [index for index in self._indices() if self.read(index) is None]

    def _stored(self) -> dict:
        """Return the manifest that is there; an empty one if there is none."""
        path = self.folder / MANIFEST
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(stored, dict):
                raise ValueError("not an object")
            return stored
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise InputError(
                f"{path} can't be read ({first_line(error)}), so nobody knows which "
                f"run its shards belong to; delete the folder {self.folder}"
            ) from None

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
                f"shard {file} is damaged ({first_line(error)}): images {where[0]} .. "
                f"{where[-1]} are recovered again",
                file=sys.stderr,
            )
            file.unlink(missing_ok=True)
            return None
        return images

    def _tags(self, index: int, images: Tensor) -> dict[str, str]:
        tags = {"run": self.run, "index": index, "images": fingerprint([images])}
        return {"shard": json.dumps(tags)}  # safetensors shuffles several

    def write(self, index: int, images: Tensor) -> None:
        """Store a shard, whole or not at all.

        Raises:
            InputError: it can't be written, or the folder isn't this run's any more.
        """
        if self._stored() != self.manifest:
            raise InputError(
                f"working folder {self.folder} was removed or replaced during this "
                "run; expected it to stay until the end: run the same command again"
            )
        images = images.contiguous()
        content = safetensors.torch.save({"images": images}, self._tags(index, images))
        with self._naming(), atomic_path(self.path(index), overwrite=True) as path:
            path.write_bytes(content)

    def finish(self, assemble: Callable[[Any], DistilledSet]) -> None:
        """Make the output of all shards, if it isn't there, and remove the folder.

        Raises:
            InputError: a shard is missing by now, or the output can't be written.
        """
        if not is_finished(self.out):
            with self._naming():
                whole = self._join(assemble) if self.joined else self._index(assemble)
                # from here on a new start finds out that only tidying up is left
                self._write_json(RESULT, {"sha256": _digest(whole)})
                move(whole, self.out, overwrite=self.overwrite)
        self.remove()

    def _join(self, assemble: Callable[[Any], DistilledSet]) -> Path:
        """Write a file with the images of all shards, and the pictures."""
        images = torch.empty(self.count, 3, *self.manifest["size"])
        for index in self._indices():
            rows = self.batch(index)
            images[rows.start : rows.stop] = self._finished(index)
        result = assemble(images)
        whole = result.save(self.folder / WHOLE, overwrite=True)
        self._write_images(result)
        return whole

    def _index(self, assemble: Callable[[Any], DistilledSet]) -> Path:
        """Write what makes a set of the folder of shards, and the pictures."""
        for index in self._indices():
            self._finished(index)
        rows = self.manifest["batch_size"]
        paths = [self.path(index) for index in self._indices()]
        result = assemble(stored_images(paths, rows))
        result.save_index(self.shards, rows)
        (self.shards / MARKER).touch()
        self._write_images(result)
        return self.shards

    def _finished(self, index: int) -> Tensor:
        images = self.read(index)
        if images is None:
            raise InputError(
                f"{self.path(index)} is missing or damaged although it was finished; "
                "run the same command again (several processes need one shared folder "
                "for --out)"
            )
        return images

    def _write_images(self, result: DistilledSet) -> None:
        """Write the PNG folder; that of a run killed since then is replaced."""
        if self.images:
            overwrite = self._may_replace(self.images)
            with atomic_path(self.images, overwrite=overwrite) as folder:
                write_pictures(result, folder)
                (folder / MARKER).write_text(self.run)

    def _may_replace(self, images: Path) -> bool:
        try:
            return self.overwrite or (images / MARKER).read_text() == self.run
        except (OSError, UnicodeDecodeError):
            return False

    def remove(self) -> None:
        """Remove what is ours, and the folder if nothing else is left in it."""
        self._empty()
        self._sweep()
        with suppress(OSError):  # Windows keeps a lock's file while it is held
            (self.folder / LOCK).unlink(missing_ok=True)
            self.folder.rmdir()

    def _empty(self) -> None:
        for path in self._named(_TENSORS):
            path.unlink()
        with suppress(OSError):
            (self.folder / SET / MARKER).unlink(missing_ok=True)
            (self.folder / SET).rmdir()
        for name in (RESULT, MANIFEST):
            (self.folder / name).unlink(missing_ok=True)

    def _sweep(self) -> None:
        """Remove what was half-written when a run was killed."""
        for path in self._named(_SCRATCH):
            shutil.rmtree(path, ignore_errors=True)

    def _named(self, pattern: re.Pattern) -> list[Path]:
        """Return what has such a name, in the folder or the one for shards in it."""
        there = [*self.folder.glob("*"), *self.folder.glob(f"{SET}/*")]
        return [path for path in there if pattern.fullmatch(path.name)]

    def _write_json(self, name: str, content: dict) -> None:
        with self._naming(), atomic_path(self.folder / name, overwrite=True) as path:
            path.write_text(json.dumps(content, indent=1), encoding="utf-8")

    def _naming(self):
        advice = (
            f"; finished images are kept in {self.folder}: make room and run the same "
            "command again"
        )
        return checks.naming(self.out, output=True, advice=advice)


def parts_folder(out: str | Path) -> Path:
    """Return the working folder of an output."""
    return Path(out).with_suffix(".parts")


def is_finished(out: str | Path) -> bool:
    """Return whether a run ended with `out` in place and only its folder left over."""
    folder = parts_folder(out)
    try:
        result = json.loads((folder / RESULT).read_text(encoding="utf-8"))
        return (folder / MANIFEST).exists() and result["sha256"] == _digest(Path(out))
    except (OSError, ValueError, KeyError, TypeError):
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
    if out.suffix not in (".safetensors", "") or out.name in ("", ".."):
        raise InputError(
            f"output {out}: expected a name ending in .safetensors, or a folder's name "
            "without an ending"
        )
    check_writable(out, overwrite=overwrite or is_finished(out))
    check_apart({"--out": out, "--images": images, "working folder": parts_folder(out)})
    if images and not parts_folder(out).exists():  # else the run knows if it is its own
        check_writable(images, overwrite=overwrite)


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
    parts = [getattr(prior, name, None) for name in ("transformer", "vae", "scheduler")]
    # names with an underscore say where it came from, and with which version
    plain = [
        {k: v for k, v in p.config.items() if not k.startswith("_")}
        for p in parts
        if p is not None
    ]
    weights = [
        w
        for p in parts
        if isinstance(p, torch.nn.Module)
        for w in p.state_dict().values()
    ]
    embeddings = getattr(prior, "embeddings", None)  # of a prior told in words
    if embeddings is not None:
        weights.append(embeddings)
    package = Path(__file__).parents[1]
    return {
        "images": fingerprint([distilled.images]),
        "classes": fingerprint([distilled.labels, classes]),
        "prior": fingerprint(weights, _text([plain, _kinds(prior)])),
        "noise": None if noise is None else fingerprint([noise]),
        "code": fingerprint([], _text(code_of(*(package / f for f in COMPUTING)))),
        "dtype": str(getattr(prior, "dtype", None)),
        "device": device_of(prior).type,
        **{name: metadata.version(name) for name in _PACKAGES},
        **settings,
    }


def _kinds(prior: Prior) -> list:
    """Return of what kind a prior is, and those in it, and what its folder says."""
    inner = None
    if isinstance(prior, Wrapped):
        inner = _kinds(prior.prior)
    scheduler = getattr(prior, "scheduler", None)
    return [type(prior).__name__, type(scheduler).__name__, prior.info, inner]


def _text(facts: object) -> str:
    return json.dumps(facts, sort_keys=True, default=str)


def _differences(there: dict, here: dict) -> str:
    differing = [key for key in {**there, **here} if there.get(key) != here.get(key)]
    return "; ".join(
        _DIGESTS.get(key) or f"{key} {there.get(key)!r} there, {here.get(key)!r} now"
        for key in differing
    )
