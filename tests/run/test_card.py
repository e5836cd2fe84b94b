"""What a run does on a card, while the CPU passes for one."""

import threading
import weakref
from contextlib import nullcontext
from typing import ClassVar
from unittest.mock import Mock

import pytest
import torch

from diver_lite.checks import InputError
from diver_lite.priors import fast
from diver_lite.priors.dit import DiTPrior
from diver_lite.recovery import RecoveryConfig, RecoveryJob
from diver_lite.recovery import recover as plainly
from diver_lite.run import in_memory
from diver_lite.run.to_file import Shards, read_manifest, recover_to

QUICK = RecoveryConfig(num_inference_steps=2)


class Graph:
    """Stands for a captured graph, whose memory stays taken as long as it lives."""

    alive: ClassVar[weakref.WeakSet] = weakref.WeakSet()

    def __init__(self, function, inputs):
        self.function, self.rows = function, len(inputs[0])
        self.alive.add(self)

    def __call__(self, *inputs):
        assert len(inputs[0]) == self.rows
        return self.function(*inputs)


@pytest.fixture
def card(monkeypatch):
    """Let the CPU pass for a card; return how many graphs lived when it ran out."""
    cuda = torch.device("cuda")
    for module in ("run.to_file", "run.in_memory", "run.batches"):
        monkeypatch.setattr(f"diver_lite.{module}.device_of", lambda prior: cuda)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a card")
    monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: Mock(cuda_stream=0))
    monkeypatch.setattr(fast, "_captures", lambda x: True)
    monkeypatch.setattr(fast, "_Graph", Graph)
    Graph.alive.clear()
    lived = []
    clear = "accelerate.utils.memory.clear_device_cache"
    monkeypatch.setattr(clear, lambda **options: lived.append(len(Graph.alive)))
    return lived


class Small(DiTPrior):
    """A prior on a card where three images fit, to encode or to decode."""

    where = ""

    def encode(self, images):
        self._fill("encode", images)
        return super().encode(images)

    def decode(self, latents):
        self._fill("decode", latents)
        return super().decode(latents)

    def _fill(self, where, rows):
        if where == self.where:
            self.asked.append(len(rows))
            if len(rows) > 3:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried ...")


def into_a_file(tmp_path, *args, **options):
    return recover_to(tmp_path / "out.safetensors", *args, **options)


def into_memory(tmp_path, *args, **options):
    return in_memory.recover(*args, **options)


@pytest.mark.parametrize("where", ["encode", "decode"])
@pytest.mark.parametrize("into", [into_a_file, into_memory])
@pytest.mark.filterwarnings("ignore:memory ran out")
def test_memory_that_runs_out_changes_no_picture(
    tiny_prior, tiny_set, tmp_path, card, where, into
):
    """Each size is tried once; graphs go first, as they hold memory till the end."""
    prior = Small(
        *(getattr(tiny_prior, name) for name in DiTPrior.__dataclass_fields__)
    )
    prior.where, prior.asked = where, []
    expected = plainly(tiny_set, tiny_prior, QUICK, progress=False).images
    found = into(tmp_path, tiny_set, prior, QUICK, batch_size=10, progress=False)
    assert [size for size in prior.asked if size > 3] == [10, 5]
    assert sum(size for size in prior.asked if size <= 3) == len(tiny_set)
    assert card == [0, 0]
    assert (found.images - expected).abs().max() < 1e-4


@pytest.mark.parametrize("into", [into_a_file, into_memory])
def test_graphs_are_used_where_memory_lasts(
    tiny_prior, tiny_set, tmp_path, card, monkeypatch, into
):
    """So that the tests above see some go; they end with the run."""
    captured = []
    monkeypatch.setattr(Graph, "__call__", lambda self, *inputs: (
        captured.append(self.rows), self.function(*inputs))[1])  # fmt: skip
    into(tmp_path, tiny_set, tiny_prior, QUICK, batch_size=8, progress=False)
    assert set(captured) == {16, 8}  # both halves of guidance, of 8, 8 and 4 images


def test_a_card_that_cannot_capture(tiny_prior, tiny_set, tmp_path, card, monkeypatch):
    """It goes on without a graph, to the same pictures."""
    expected = plainly(tiny_set, tiny_prior, QUICK, progress=False).images
    refused = Mock(side_effect=RuntimeError("CUDA error: operation not permitted"))
    monkeypatch.setattr(fast, "_Graph", refused)
    with pytest.warns(UserWarning, match="no CUDA graph could be captured"):
        found = into_a_file(
            tmp_path, tiny_set, tiny_prior, QUICK, batch_size=10, progress=False
        ).images
    assert refused.call_count == 1  # of two batches with two steps each
    assert (found - expected).abs().max() < 1e-4


def test_another_card_does_not_go_on(tiny_prior, tiny_set, tmp_path, card, monkeypatch):
    """It would round differently: half a set by each is nobody's."""
    arguments = (tmp_path, tiny_set, tiny_prior, QUICK)
    options = {"batch_size": 10, "progress": False}
    write = Shards.write

    def once(shards, index, images):
        write(shards, index, images)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Shards, "write", once)
        into_a_file(*arguments, **options)
    assert read_manifest(tmp_path / "out.safetensors")["card"] == "a card"
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "get_device_name", lambda device: "another")
        with pytest.raises(InputError, match="card 'a card' there, 'another' now"):
            into_a_file(*arguments, **options)
    assert len(into_a_file(*arguments, **options)) == len(tiny_set)


def test_reading_and_writing_go_on_beside_the_card(
    tiny_prior, tiny_set, tmp_path, card, monkeypatch
):
    """No batch waits for the file of the one before; and the card has one at a time."""
    refine, write = RecoveryJob.refine, Shards.write
    began = {start: threading.Event() for start in range(0, 20, 5)}
    on_the_card, waited = [], []

    def watched(job, indices, images=None):
        began[indices[0]].set()
        on_the_card.append(indices)
        assert len(on_the_card) == 1
        assert images is not None  # read before its turn
        result = refine(job, indices, images)
        on_the_card.pop()
        return result

    def slow(shards, index, images):
        following = began.get(5 * index + 5)
        waited.append(following is None or (all(waited) and following.wait(30)))
        write(shards, index, images)

    expected = plainly(tiny_set, tiny_prior, QUICK, progress=False).images
    monkeypatch.setattr(RecoveryJob, "refine", watched)
    monkeypatch.setattr(Shards, "write", slow)
    found = into_a_file(
        tmp_path, tiny_set, tiny_prior, QUICK, batch_size=5, progress=False
    ).images
    assert waited == [True] * 4
    assert (found - expected).abs().max() < 1e-4
