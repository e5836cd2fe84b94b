"""Shards: a killed run goes on and ends with the same bytes; others are refused."""

import errno
import os
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from conftest import random_set

from diver_lite.checks import InputError
from diver_lite.files import HELD
from diver_lite.priors.contract import Wrapped
from diver_lite.priors.dit import DiTPrior
from diver_lite.priors.fast import accelerate_prior
from diver_lite.recovery import RecoveryConfig, recover
from diver_lite.run import to_file as shards
from diver_lite.run.to_file import recover_to
from diver_lite.sets import folder
from diver_lite.sets.distilled import DistilledSet
from diver_lite.sets.stored import StoredImages

CONFIG = RecoveryConfig(num_inference_steps=2)
BATCH = 3  # 20 images: seven shards, the last of two images


@pytest.fixture
def out(tmp_path):
    """Return where the result shall stand, in a folder of its own."""
    return tmp_path / "here" / "out.safetensors"


@pytest.fixture
def go(tiny_set, tiny_prior, out):
    """Return a function that recovers the tiny set into `out`."""

    def run(source=tiny_set, prior=tiny_prior, config=CONFIG, **options):
        options = {"batch_size": BATCH, "progress": False} | options
        where = options.pop("out", out)
        if where is None:
            return recover(source, accelerate_prior(prior), config, **options)
        return recover_to(where, source, prior, config, **options)

    return run


@pytest.fixture(scope="module")
def whole(tiny_prior, tmp_path_factory):
    """Return the bytes of an uninterrupted run."""
    path = tmp_path_factory.mktemp("whole") / "whole.safetensors"
    options = {"batch_size": BATCH, "progress": False}
    recover_to(path, random_set(), tiny_prior, CONFIG, **options)
    return path.read_bytes()


class Stopped(BaseException):
    """Stands for kill -9: nothing in the program catches it."""


@pytest.fixture
def stop_after(monkeypatch, tiny_prior):
    """Return a function that ends the run in the middle of batch n."""
    decode = type(tiny_prior).decode

    def set_up(batches, error=Stopped):
        calls = []

        def counted(self, latents):
            calls.append(len(latents))
            if len(calls) > batches:
                raise error
            return decode(self, latents)

        monkeypatch.setattr("diver_lite.priors.dit.DiTPrior.decode", counted)
        return calls

    return set_up


def halfway(go, stop_after, batches=4):
    """Run until some batches are done; return what counts the batches after it."""
    stop_after(batches)
    with pytest.raises(Stopped):
        go()
    return stop_after(10**6)


def parts(out):
    return sorted(out.with_suffix(".parts").rglob("*.safetensors"))


# --- Going on -----------------------------------------------------------------------


def test_shards_change_nothing(go, out, whole):
    """With and without a file the result is the same, and the folder is gone."""
    plain = go(out=None)
    result = go()
    assert torch.equal(plain.images, result.images)
    assert torch.equal(plain.images, DistilledSet.load(out).images)
    assert out.read_bytes() == whole
    assert [p.name for p in out.parent.iterdir()] == [out.name]


@pytest.mark.parametrize("batches", [1, 4, 6])
def test_a_stopped_run_goes_on(go, out, whole, stop_after, batches):
    """No finished image is made again, and the bytes are an uninterrupted run's."""
    calls = halfway(go, stop_after, batches)
    assert len(parts(out)) == batches
    assert not out.exists()
    result = go()
    assert sum(calls) == len(result) - batches * BATCH
    assert out.read_bytes() == whole
    assert [p.name for p in out.parent.iterdir()] == [out.name]


def test_the_folder_knows_its_batch_size(go, out, whole, stop_after):
    """Without a batch size, a run goes on with the one that it began with."""
    halfway(go, stop_after)
    go(batch_size=None)
    assert out.read_bytes() == whole


def test_the_bar_begins_with_what_is_done(go, stop_after, capsys):
    """Progress counts images that an earlier run finished."""
    halfway(go, stop_after)
    capsys.readouterr()
    go(progress=True)
    first, *_, last = capsys.readouterr().err.split("\r")[1:]
    assert "12/20" in first
    assert "20/20" in last


def test_given_noise_goes_on_too(go, out, tiny_prior, stop_after):
    """Whatever is random belongs to the image and not to the run."""
    noise = torch.randn(
        20, *tiny_prior.latent_shape, generator=torch.Generator().manual_seed(3)
    )
    options = {
        "config": RecoveryConfig(num_inference_steps=2),
        "noise": noise,
    }
    plain = go(out=None, **options)
    stop_after(2)
    with pytest.raises(Stopped):
        go(**options)
    stop_after(100)
    with pytest.raises(InputError, match="other noise"):
        go(**options | {"noise": noise + 1})
    go(**options)
    assert torch.equal(DistilledSet.load(out).images, plain.images)


def half_remove(self):
    parts(self.out)[0].unlink()
    raise Stopped


@pytest.mark.parametrize("stage", ["save", "result", "moved", "half removed"])
def test_stopped_while_merging(go, out, whole, stop_after, monkeypatch, stage):
    """After the last batch a file is written and moved, and the folder removed."""

    def stopped(*_, **__):
        raise Stopped

    with monkeypatch.context() as patch:
        if stage == "save":
            patch.setattr(DistilledSet, "save", stopped)
        if stage == "result":
            patch.setattr(shards, "sha256", stopped)
        if stage == "moved":
            patch.setattr(shards.Shards, "remove", stopped)
        if stage == "half removed":
            patch.setattr(shards.Shards, "remove", half_remove)
        with pytest.raises(Stopped):
            go()
    assert out.exists() == (stage in ("moved", "half removed"))
    calls = stop_after(10**6)
    shards.check_output(out)  # as the command line asks, without --overwrite
    go()
    assert calls == []
    assert out.read_bytes() == whole
    assert [p.name for p in out.parent.iterdir()] == [out.name]


def test_a_finished_output_is_not_another_runs(go, out, whole, monkeypatch):
    """With other settings, what is left over belongs to another run, as it says."""
    with monkeypatch.context() as patch:
        patch.setattr(shards.Shards, "remove", lambda self: None)
        go()
    for overwrite in (False, True):
        with pytest.raises(InputError, match="belongs to another run"):
            go(seed=1, overwrite=overwrite)
    assert out.read_bytes() == whole
    go()
    assert [p.name for p in out.parent.iterdir()] == [out.name]
    with pytest.raises(InputError, match="exists already"):
        go(seed=1)


# --- What is there already ----------------------------------------------------------


def test_an_output_is_replaced_only_when_told_to(go, out, whole, stop_after):
    """From Python as on the command line, and before the first image."""
    out.parent.mkdir()
    out.write_bytes(b"precious")
    calls = stop_after(10**6)
    with pytest.raises(InputError, match=r"exists already.*overwrite"):
        go()
    assert calls == []
    assert out.read_bytes() == b"precious"
    assert [p.name for p in out.parent.iterdir()] == [out.name]
    go(overwrite=True)
    assert out.read_bytes() == whole


def test_an_output_that_appears_during_the_run(go, out, whole, stop_after, monkeypatch):
    """It stays, and so do the finished images."""
    save = DistilledSet.save

    def late(self, path, **options):
        out.write_bytes(b"precious")
        return save(self, path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(DistilledSet, "save", late)
        with pytest.raises(InputError, match="has appeared during this run"):
            go()
    assert out.read_bytes() == b"precious"
    calls = stop_after(10**6)
    with pytest.raises(InputError, match="exists already"):
        go()
    go(overwrite=True)
    assert calls == []
    assert out.read_bytes() == whole
    assert [p.name for p in out.parent.iterdir()] == [out.name]


@pytest.mark.skipif(sys.platform == "win32", reason="modes of POSIX")
def test_others_may_read_the_result(go, out):
    """As the umask says: safetensors itself writes files of mode 0600."""
    go()
    beside = out.with_name("beside")
    beside.touch()
    assert out.stat().st_mode == beside.stat().st_mode


def test_the_file_is_what_recover_returns(tiny_prior, tiny_set, tmp_path):
    """Pixels, labels, names and record, soft labels too; nothing else remains."""
    soft = torch.rand(20, 10, generator=torch.Generator().manual_seed(0))
    given_set = replace(tiny_set, soft_labels=soft)
    out = tmp_path / "deep" / "result.safetensors"
    config = replace(CONFIG, window=(800, 100))
    numbers = {"seed": np.int64(42), "batch_size": np.int8(20), "size": np.int16(32)}
    result = recover_to(out, given_set, tiny_prior, config, **numbers, progress=False)
    expected = recover(given_set, tiny_prior, config, seed=42, progress=False)
    assert (result.images - expected.images).abs().max() < 1e-4  # rounding
    assert torch.equal(result.labels, expected.labels)
    assert torch.equal(result.soft_labels, soft)
    assert result.class_names == expected.class_names
    assert result.provenance == expected.provenance
    stored = DistilledSet.load(out)
    assert torch.equal(stored.images, result.images)
    assert stored.provenance == result.provenance
    assert [p.name for p in out.parent.iterdir()] == [out.name]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("size", v) for v in (0, 28.0, True, "28", (28, 28), 10**9)],
        *[("batch_size", v) for v in (0, -3, 2.5, True, "3")],
        *[(name, "no") for name in ("fast", "overwrite", "progress")],
        *[("seed", v) for v in (-1, 2**31, 1.5, None)],
        ("compile", 1),
        ("class_map", [0, 1]),
        ("noise", torch.zeros(3, 4, 16, 16)),
        ("distilled", "cifar10"),
        ("prior", "cifar10"),
        ("config", "published"),
        *[("out", v) for v in (0, [], b"", 1.5, None)],
    ],
)
def test_bad_arguments_are_named_before_anything_is_written(
    tiny_prior, tiny_set, tmp_path, field, value
):
    given_ = {"distilled": tiny_set, "prior": tiny_prior, "config": CONFIG}
    given_ |= {"out": tmp_path / "out.safetensors", "progress": False, field: value}
    with pytest.raises(InputError, match=field):
        recover_to(**given_)
    assert [*tmp_path.iterdir()] == []


# --- What isn't this run's ----------------------------------------------------------


OTHER_RUNS = [
    ({"seed": 1}, "seed 0 there, 1 now"),
    ({"batch_size": 4}, "batch_size 3 there, 4 now"),
    ({"size": 16}, "size [32, 32] there, [16, 16] now"),
    (
        {"config": RecoveryConfig(num_inference_steps=3, window="late")},
        "num_inference_steps 2 there, 3 now; window 'published' there, 'late' now",
    ),
    ({"class_map": [*range(1, 10), 0]}, "another class_map"),
]


def test_another_run_is_refused(go, out, whole, stop_after):
    """The message says what differs, and the folder stays as it was."""
    halfway(go, stop_after)
    before = {p: p.read_bytes() for p in parts(out)}
    for changes, words in OTHER_RUNS:
        with pytest.raises(InputError, match="belongs to another run") as refused:
            go(**changes)
        assert words in str(refused.value)
        assert str(out.with_suffix(".parts")) in str(refused.value)
        assert {p: p.read_bytes() for p in parts(out)} == before
    go()
    assert out.read_bytes() == whole


def test_other_inputs_are_refused(go, tiny_set, tiny_prior, stop_after):
    """Pixels, labels, weights and precision are compared bit by bit."""
    halfway(go, stop_after)
    other = tiny_set[list(range(20))]
    other.images[7, 1, 3, 3] += 1e-6
    with pytest.raises(InputError, match=r"\(other input images\)"):
        go(source=other)
    other = tiny_set[list(range(20))]
    other.labels[0] = 1
    with pytest.raises(InputError, match=r"\(other labels or another class_map\)"):
        go(source=other)
    weight = next(tiny_prior.vae.parameters())
    weight.data[0] += 1
    with pytest.raises(InputError, match=r"\(another prior: "):
        go()
    weight.data[0] -= 1


class Held(Wrapped):
    """Another kind of prior, which may answer otherwise than the one that it holds."""


def test_a_prior_around_it_is_refused(go, tiny_prior, stop_after):
    halfway(go, stop_after)
    with pytest.raises(InputError, match=r"\(another prior: "):
        go(prior=Held(tiny_prior))


def test_other_code_is_refused(go, out, whole, stop_after, monkeypatch):
    """Equal bytes are promised for equal versions only, and for the same code.

    That goes by the number that it declares, not by its text or the version's name.
    """
    halfway(go, stop_after)
    version = shards.metadata.version
    for package in ("torch", "diffusers", "safetensors"):
        others = {package: "99.9"}
        with monkeypatch.context() as patch:
            patch.setattr(
                shards.metadata, "version", lambda n, o=others: o.get(n) or version(n)
            )
            words = re.escape(f"({package} '{version(package)}' there, '99.9' now)")
            with pytest.raises(InputError, match=words):
                go()
    with monkeypatch.context() as patch:
        patch.setattr(shards, "RESULTS", shards.RESULTS + 1)
        with pytest.raises(InputError, match=r"\(results \d+ there, \d+ now\)"):
            go()
    go()
    assert out.read_bytes() == whole


class Shifted(Wrapped):
    """A prior of somebody's own, with a tensor and a setting."""

    def __init__(self, prior, shift):
        super().__init__(prior)
        self.shift = torch.tensor(shift)

    def denoise(self, latents, timestep, class_labels, guidance_scale):
        asked = latents, timestep, class_labels, guidance_scale
        x_0, eps = self.prior.denoise(*asked)
        return x_0 + self.shift, eps


@pytest.mark.filterwarnings("ignore:the fast path")
def test_an_own_prior_goes_on_as_itself_alone(go, tiny_prior, out, stop_after):
    """Not half by one tensor and half by another."""

    def own(shift):
        return lambda: go(prior=Shifted(tiny_prior, shift))

    own(0.25)()
    whole = out.read_bytes()
    out.unlink()
    halfway(own(0.25), stop_after)
    with pytest.raises(InputError, match="another prior: other weights, settings"):
        own(0.5)()
    with pytest.raises(InputError, match="another prior"):
        go()
    own(0.25)()
    assert out.read_bytes() == whole


@pytest.mark.filterwarnings("ignore:the fast path")
def test_a_prior_that_nobody_knows_does_not_go_on(go, tiny_prior, out, stop_after):
    """It is said before, and how to mend it; with a fingerprint it goes on."""

    def own(**parts):
        prior = Shifted(tiny_prior, 0.25)
        vars(prior).update(parts)
        return lambda: go(prior=prior)

    words = r"is of type object.*if this run is interrupted, it can't go on: give"
    with pytest.warns(UserWarning, match=words):
        halfway(own(more=object()), stop_after)
    with pytest.raises(InputError, match=r"can't go on\. Delete the .*fingerp"):
        own(more=object())()
    shutil.rmtree(out.with_suffix(".parts"))
    halfway(own(more=object(), fingerprint="v1"), stop_after)
    with pytest.raises(InputError, match="another prior"):
        own(more=object(), fingerprint="v2")()
    own(more=object(), fingerprint="v1")()
    assert out.exists()


def test_the_number_of_threads_changes_nothing(go, out, whole, stop_after):
    """Each batch computes on one, and any number of batches at once."""
    halfway(go, stop_after)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        go()
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert out.read_bytes() == whole


def test_the_prior_may_move(tiny_prior_folder, tiny_prior, tiny_set, tmp_path):
    """A prior is known by its weights and not by its path."""
    from diver_lite.priors.loading import load_prior

    moved = load_prior(shutil.copytree(tiny_prior_folder, tmp_path / "elsewhere"))
    arguments = (tiny_set, tiny_set.labels)
    facts = [shards.run_facts(*arguments, p, None, {}) for p in (tiny_prior, moved)]
    assert facts[0] == facts[1]
    half = load_prior(tiny_prior_folder, dtype=torch.bfloat16)
    assert shards.run_facts(*arguments, half, None, {}) != facts[0]


def test_what_a_priors_folder_says_counts(tiny_prior, tiny_set):
    """Whatever it is, and whatever stands around the prior: all may change pixels."""

    class Other(DiTPrior):
        """As a consistency model is another kind with the same networks."""

    parts = {name: getattr(tiny_prior, name) for name in DiTPrior.__dataclass_fields__}
    flow = diffusers.FlowMatchEulerDiscreteScheduler()
    flow.register_to_config(**tiny_prior.scheduler.config)
    priors = [tiny_prior, Other(**parts), replace(tiny_prior, scheduler=flow)]
    for name in ("timestep_embedding", "timestep_scaling", "anything"):
        priors.append(replace(tiny_prior, info=tiny_prior.info | {name: "other"}))
    priors += [Held(prior) for prior in priors[:2]]
    facts = [
        shards.run_facts(tiny_set, tiny_set.labels, prior, None, {})["prior"]
        for prior in priors
    ]
    assert len({*facts}) == len(priors)


@contextmanager
def in_float64():
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def imprecise():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


# with as many threads as it shows on: a batch that computes in a thread of its own
# begins with torch's defaults, but for what all threads share
AROUND = {
    "autocast": (lambda: torch.autocast("cpu", dtype=torch.bfloat16), 1),
    "float64": (in_float64, 1),
    "matmul precision": (imprecise, 2),
}


class Dense(Wrapped):
    """An own prior whose arithmetic goes by what is set around it."""

    def decode(self, latents):
        mixed = torch.eye(32) @ self.prior.decode(latents)
        return mixed * torch.tensor(0.9) ** 0.5


@pytest.mark.parametrize("around", AROUND)
def test_what_stands_around_changes_nothing(go, out, tiny_prior, around):
    """The same bytes under every state of torch, in one thread and in several."""
    state, threads = AROUND[around]
    prior = Dense(tiny_prior)
    go(prior=prior)
    expected = out.read_bytes()
    out.unlink()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with state():
            go(prior=prior)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert out.read_bytes() == expected


@pytest.mark.parametrize("content", ["", "{", "[]"])
def test_an_unreadable_manifest_is_refused(go, out, stop_after, content):
    """Nobody knows what the shards belong to, so nobody deletes them."""
    halfway(go, stop_after)
    (out.with_suffix(".parts") / "manifest.json").write_text(content)
    with pytest.raises(InputError, match="delete the folder"):
        go()
    assert len(parts(out)) == 4


def test_a_folder_of_somebody_else_is_refused(go, out):
    """A folder or file that merely has the name is left alone."""
    folder = out.with_suffix(".parts")
    folder.mkdir(parents=True)
    (folder / "thesis.tex").write_text("all of it")
    with pytest.raises(InputError, match=r"thesis\.tex"):
        go()
    assert [p.name for p in folder.iterdir()] == ["thesis.tex"]
    shutil.rmtree(folder)
    folder.write_text("a file")
    with pytest.raises(InputError, match=r"out\.parts"):
        go()
    assert folder.read_text() == "a file"


@pytest.mark.parametrize("name", ["000000.safetensors", ".git", "set", "whole"])
def test_what_no_manifest_lists_is_left_alone(go, out, name):
    """Files and folders with names like ours, and those that begin with a dot."""
    strange = out.with_suffix(".parts") / name
    strange.mkdir(parents=True)
    (strange / "work").write_text("all of it")
    with pytest.raises(InputError, match=f"would hide '{name}'"):
        go()
    assert (strange / "work").read_text() == "all of it"


@pytest.mark.parametrize("instead", [None, "{}"])
@pytest.mark.parametrize("ending", [".safetensors", ""])
def test_a_folder_that_goes_ends_the_run(go, out, monkeypatch, instead, ending):
    """At the next shard, not hours later, and nothing is put in its place."""
    out, decode, calls = out.with_suffix(ending), DiTPrior.decode, []
    folder = out.with_suffix(".parts")

    def decoded(self, latents):
        calls.append(len(latents))
        if len(calls) == 3:
            shutil.rmtree(folder)
            if instead:  # another run began there
                folder.mkdir()
                (folder / "manifest.json").write_text(instead)
        return decode(self, latents)

    monkeypatch.setattr(DiTPrior, "decode", decoded)
    with pytest.raises(InputError, match=r"out\.parts was removed or replaced"):
        go(out=out)
    assert len(calls) == 3
    assert not [*out.parent.rglob("*.safetensors")]


def test_a_strange_file_that_comes_later_stays(go, out, whole, stop_after):
    """With the manifest there, too; and a link that stands for the folder."""
    halfway(go, stop_after)
    folder = out.with_suffix(".parts")
    (folder / ".git").mkdir()
    with pytest.raises(InputError, match=r"would hide '\.git'"):
        go()
    (folder / ".git").rmdir()
    elsewhere = folder.rename(out.parent / "elsewhere")
    folder.symlink_to(elsewhere)
    with pytest.raises(InputError, match=r"would hide 'out\.parts'"):
        go()
    assert len([*elsewhere.rglob("0*.safetensors")]) == 4


def test_what_is_put_there_during_the_run_stays(go, out, monkeypatch):
    finish = shards.Shards.finish

    def late(self, assemble):
        (self.folder / "notes.txt").write_text("mine")
        return finish(self, assemble)

    monkeypatch.setattr(shards.Shards, "finish", late)
    go()
    assert [p.name for p in out.with_suffix(".parts").iterdir()] == ["notes.txt"]


def test_a_bad_ending_is_refused_before_the_first_image(go, stop_after):
    """Hours of work must not end at a file name."""
    calls = stop_after(10**6)
    with pytest.raises(InputError, match=r"\.safetensors"):
        go(out="out.pt")
    assert calls == []


# --- A folder as the result, and pictures ---------------------------------------------


@pytest.fixture
def large(out):
    """Return where a folder of numbered files shall stand."""
    return out.with_suffix("")


def contents(folder):
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file()
    }


def test_a_folder_holds_what_the_file_holds(go, large):
    """Its shards are never joined, and it opens without reading them."""
    expected = go(out=None)
    result = go(out=large)
    assert isinstance(result.images, StoredImages)
    assert torch.equal(result.images[:], expected.images)
    assert torch.equal(result.labels, expected.labels)
    assert result.provenance == expected.provenance
    assert len([*large.glob("[0-9]*.safetensors")]) == 7
    assert [p.name for p in large.parent.iterdir()] == [large.name]


@pytest.mark.parametrize("batches", [0, 4, 6])
def test_a_stopped_folder_goes_on(go, large, stop_after, batches):
    go(out=large.with_name("whole"))
    calls = stop_after(batches)
    with pytest.raises(Stopped):
        go(out=large)
    assert not large.exists()
    calls = stop_after(10**6)
    go(out=large)
    assert sum(calls) == 20 - batches * BATCH
    assert contents(large) == contents(large.with_name("whole"))
    assert len([*large.parent.iterdir()]) == 2


@pytest.mark.parametrize("stage", ["save_index", "move", "remove"])
def test_a_folder_stopped_while_finishing(go, large, stop_after, monkeypatch, stage):
    go(out=large.with_name("whole"))
    holders = {"save_index": DistilledSet, "move": shards, "remove": shards.Shards}

    def stopped(*_, **__):
        raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(holders[stage], stage, stopped)
        with pytest.raises(Stopped):
            go(out=large)
    assert large.exists() == (stage == "remove")
    calls = stop_after(10**6)
    go(out=large)
    assert calls == []
    assert contents(large) == contents(large.with_name("whole"))
    assert len([*large.parent.iterdir()]) == 2


def test_a_folder_is_replaced_only_when_told_to(go, large):
    go(out=large)
    before = contents(large)
    with pytest.raises(InputError, match="exists already"):
        go(out=large, seed=1)
    assert contents(large) == before
    go(out=large, seed=1, overwrite=True)
    assert contents(large) != before
    shutil.rmtree(large)
    large.mkdir()
    (large / "thesis.tex").write_text("all of it")
    with pytest.raises(InputError, match="did not write"):
        go(out=large, overwrite=True)


def test_a_set_on_disk_is_read_in_batches(go, large, monkeypatch):
    """Never more than a batch, but for the fingerprint, which takes 100."""
    go(out=large)
    counts, rows = [], StoredImages.__getitem__
    opened = DistilledSet.load(large)

    def counted(self, index):
        images = rows(self, index)
        counts.append(len(images))
        return images

    monkeypatch.setattr(StoredImages, "__getitem__", counted)
    go(source=opened, out=large.with_name("again"))
    assert counts == [20, 3, 3, 3, 3, 3, 3, 2]


@pytest.mark.parametrize("stage", ["written", "removed"])
def test_pictures_belong_to_the_run(go, out, stop_after, monkeypatch, tmp_path, stage):
    """Killed while they are written, or after, the same command ends well."""
    pictures = tmp_path / "png"
    go(images=pictures, out=tmp_path / "whole.safetensors")
    expected = contents(pictures)
    assert len(expected) == 22  # 20 pictures, labels.csv, and our mark
    shutil.rmtree(pictures)

    real = folder.write_pictures

    def stopped(*arguments):
        if stage == "written":
            real(*arguments)
        raise Stopped

    with monkeypatch.context() as patch:
        if stage == "written":
            patch.setattr(folder, "write_pictures", stopped)
            patch.setattr(shards.shutil, "rmtree", lambda *_, **__: None)  # kill -9
        else:
            patch.setattr(shards.Shards, "remove", stopped)
        with pytest.raises(Stopped):
            go(images=pictures)
    for held in tmp_path.glob(f".png.*/{HELD}"):
        os.utime(held, (0, 0))  # not of somebody who has just begun
    assert out.exists()
    assert pictures.exists() == (stage == "removed")
    calls = stop_after(10**6)
    go(images=pictures)
    assert calls == []
    assert contents(pictures) == expected
    assert {p.name for p in tmp_path.iterdir()} == {"here", "png", "whole.safetensors"}


def test_pictures_of_others_stay(go, out, tmp_path, stop_after):
    """Also those of another run of ours, and before the first image."""
    pictures = tmp_path / "png"
    go(images=pictures)
    before = contents(pictures)
    out.unlink()
    calls = stop_after(10**6)
    with pytest.raises(InputError, match="png exists already"):
        go(images=pictures, seed=1)
    halfway(lambda: go(seed=1), stop_after)
    with pytest.raises(InputError, match="png exists already"):
        go(images=pictures, seed=1)
    assert calls == []
    assert contents(pictures) == before
    go(images=pictures, seed=1, overwrite=True)
    assert contents(pictures) != before


@pytest.mark.parametrize(
    "images", [".", "..", "out.safetensors", "out.parts", "out.parts/a"]
)  # fmt: skip
def test_outputs_lie_apart(go, out, whole, images, stop_after):
    """Not in each other: one would delete the other."""
    calls = stop_after(10**6)
    out.parent.mkdir()
    with pytest.raises(InputError, match="don't replace each other"):
        go(images=out.parent / images, overwrite=True)
    assert calls == []
    assert [*out.parent.iterdir()] == []


# --- A prior that gives nothing ------------------------------------------------------


def test_a_broken_prior_is_named_after_the_first_batch(go, out, monkeypatch):
    decode = DiTPrior.decode
    calls = []

    def broken(self, latents):
        calls.append(len(latents))
        return decode(self, latents) * float("nan")

    monkeypatch.setattr(DiTPrior, "decode", broken)
    for where in (out, None):
        calls.clear()
        with pytest.raises(InputError, match=r"images of prior 'tiny' hold .* NaN"):
            go(out=where)
        assert calls == [BATCH]
    assert not out.parent.exists()


# --- Damage -------------------------------------------------------------------------


def truncate(path):
    path.write_bytes(path.read_bytes()[:-7])


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)


def make_empty(path):
    path.write_bytes(b"")


def swap(path):
    shutil.copy(path.with_name("000002.safetensors"), path)


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, make_empty, swap])
def test_a_damaged_shard_is_made_again(go, out, whole, stop_after, capsys, damage):
    """Truncated or changed, it is noticed, said, and recovered again; no other is."""
    calls = halfway(go, stop_after)
    damage(parts(out)[1])
    go()
    assert out.read_bytes() == whole
    assert sum(calls) == BATCH + 20 - 4 * BATCH
    said = capsys.readouterr().err
    assert "000001.safetensors is damaged" in said
    assert "images 3 .. 5 are recovered again" in said


def test_a_full_disk_loses_nothing(go, out, whole, stop_after, monkeypatch):
    """The message says so, finished shards stay, and the run goes on later."""
    write = Path.write_bytes
    written = []

    def full(path, content):
        if len(written) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(path)
        return write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(InputError, match="No space left on device") as error:
            go()
    assert "make room and run the same command again" in str(error.value)
    assert [p.name for p in parts(out)] == ["000000.safetensors", "000001.safetensors"]
    assert len([*out.with_suffix(".parts").rglob("*")]) == 4  # and folder, manifest
    calls = stop_after(10**6)
    go()
    assert sum(calls) == 20 - 2 * BATCH
    assert out.read_bytes() == whole


# --- Killed, really -----------------------------------------------------------------


def test_kill_9(tmp_path):
    """Three kills at random moments, by the script that does twenty."""
    script = Path(__file__).parents[2] / "scripts" / "kill_test.py"
    run = subprocess.run(
        [sys.executable, script, "--kills", "3", "--images", "24", "--steps", "2"],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.splitlines()[-1].startswith("3 kills")


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits of POSIX")
@pytest.mark.parametrize("kilobytes", [30, 150])
def test_a_file_that_cannot_grow(go, out, whole, tmp_path, kilobytes):
    """A write that the system refuses: a shard (30 kB), or the whole (150 kB)."""
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (kilobytes * 1024, limits[1]))
    try:
        with pytest.raises(InputError, match="File too large"):
            go()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not out.exists()
    assert len(parts(out)) == (0 if kilobytes == 30 else 7)
    go()
    assert out.read_bytes() == whole
