"""`recover` on a card: the fast path, batches that fit, the same pictures."""

import pytest
import torch

import diver_lite
from diver_lite import recovery
from diver_lite.checks import InputError
from diver_lite.priors.fast import FastPrior
from diver_lite.recovery import RecoveryConfig, RecoveryJob
from diver_lite.run import in_memory

FEW = RecoveryConfig(num_inference_steps=3)


@pytest.fixture
def card(monkeypatch):
    """Let the CPU pass for a card here; return what was asked: (prior, images)."""
    asked = []
    refine = RecoveryJob.refine

    def watched(job, indices):
        asked.append((type(job.prior), len(indices)))
        return refine(job, indices)

    cuda = torch.device("cuda")
    monkeypatch.setattr(in_memory, "device_of", lambda prior: cuda)
    monkeypatch.setattr("diver_lite.run.batches.device_of", lambda prior: cuda)
    monkeypatch.setattr(RecoveryJob, "refine", watched)
    return asked


def test_it_is_the_public_one():
    assert diver_lite.recover is in_memory.recover


def test_on_the_cpu_it_is_the_plain_one(tiny_set, tiny_prior):
    plain = recovery.recover(tiny_set, tiny_prior, FEW, seed=2, progress=False)
    found = in_memory.recover(tiny_set, tiny_prior, FEW, seed=2, progress=False)
    assert torch.equal(found.images, plain.images)
    assert found.provenance == plain.provenance


def test_on_a_card_it_is_fast_in_batches_that_fill_it(tiny_set, tiny_prior, card):
    found = in_memory.recover(tiny_set, tiny_prior, FEW, seed=2, progress=False)
    assert card == [(FastPrior, len(tiny_set))]
    plain = recovery.recover(tiny_set, tiny_prior, FEW, seed=2, progress=False)
    assert torch.allclose(found.images, plain.images, atol=1e-4)
    assert found.provenance == plain.provenance


def test_a_batch_size_is_kept(tiny_set, tiny_prior, card):
    in_memory.recover(tiny_set, tiny_prior, FEW, batch_size=4, progress=False)
    sizes = [size for _, size in card]
    assert sum(sizes) == len(tiny_set)
    assert sizes[0] == 4


def test_batches_are_halved_where_memory_runs_out(
    tiny_set, tiny_prior, card, monkeypatch
):
    finish = RecoveryJob.finish

    def small(job, images, size):
        if len(images) > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return finish(job, images, size)

    monkeypatch.setattr(RecoveryJob, "finish", small)
    with pytest.warns(UserWarning, match="memory ran out"):
        found = in_memory.recover(tiny_set, tiny_prior, FEW, progress=False)
    assert len(found) == len(tiny_set)
    sizes = [size for _, size in card]
    assert len({size for size in sizes if size > 2}) == len(
        [size for size in sizes if size > 2]
    )  # each once


def test_a_prior_that_is_no_dit_takes_the_plain_path(tiny_set, tiny_prior, card):
    class Own:
        """A prior of another making."""

        def __init__(self, prior):
            for name in dir(diver_lite.Prior):
                if not name.startswith("_"):
                    setattr(self, name, getattr(prior, name))
            self.latent_shape, self.image_size = prior.latent_shape, prior.image_size
            self.class_names, self.info = prior.class_names, prior.info

    in_memory.recover(tiny_set, Own(tiny_prior), FEW, progress=False)
    assert {kind for kind, _ in card} == {Own}


def test_bad_input_is_named_there_too(tiny_set, tiny_prior, card):
    with pytest.raises(InputError, match="batch_size is 0"):
        in_memory.recover(tiny_set, tiny_prior, batch_size=0)
