"""Batches that fit into memory, and what happens when they don't."""

from concurrent.futures import ThreadPoolExecutor, wait

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diver_lite.checks import InputError
from diver_lite.devices import one_thread
from diver_lite.priors.dit import DiTPrior
from diver_lite.priors.loading import load_prior
from diver_lite.recovery import RecoveryConfig, recover
from diver_lite.run.batches import (
    Memory,
    choose_batch_size,
    in_parts,
    out_of_memory,
)
from diver_lite.run.to_file import recover_to

QUICK = RecoveryConfig(num_inference_steps=2)
OUT_OF_MEMORY = {
    "CUDA": torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."),
    "CPU": RuntimeError(
        "... DefaultCPUAllocator: can't allocate memory: you tried ..."
    ),
    "NumPy": MemoryError("Unable to allocate 2.00 GiB for an array"),
}


@pytest.fixture(autouse=True)
def cleared(monkeypatch):
    """Count how often memory is cleared, which takes half a second, and don't."""
    calls = []
    clear = "accelerate.utils.memory.clear_device_cache"
    monkeypatch.setattr(clear, lambda **options: calls.append(options))
    return calls


def limited(limit, error=OUT_OF_MEMORY["CUDA"]):
    """Return work for at most `limit` indices, and a list of what it was given."""
    asked = []

    def work(indices):
        asked.append(indices)
        if len(indices) > limit:
            raise error
        return torch.tensor(list(indices))

    return work, asked


@pytest.mark.filterwarnings("ignore:memory ran out")
@settings(
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(start=st.integers(0, 9), count=st.integers(1, 40), limit=st.integers(1, 50))
def test_every_index_comes_back_once_and_in_order(start, count, limit):
    """Whatever the memory holds, nothing is lost, repeated or swapped."""
    work, asked = limited(limit)
    indices = range(start, start + count)
    assert in_parts(work, indices).tolist() == [*indices]
    done = [r for r in asked if len(r) <= limit]
    assert [i for r in done for i in r] == [*indices]  # none done twice


@pytest.mark.parametrize("kind", OUT_OF_MEMORY)
def test_running_out_halves_the_batch_and_says_so(kind, cleared):
    """Finished images stay; the rest goes on with half, for every kind of error."""
    work, asked = limited(4, OUT_OF_MEMORY[kind])
    with pytest.warns(UserWarning, match="from image 0 with batch_size") as caught:
        result = in_parts(work, range(12))
    assert [len(r) for r in asked] == [12, 6, 3, 3, 3, 3]
    assert torch.equal(result, torch.arange(12))
    assert [str(w.message)[-1] for w in caught] == ["6", "3"]
    assert cleared == [{"garbage_collection": True}] * 2


def test_running_out_late_keeps_what_was_finished():
    """Memory that another program takes in between costs no image."""
    taken = []

    def work(indices):
        taken.append(indices)
        if len(taken) in (1, 3):
            raise OUT_OF_MEMORY["CUDA"]
        return torch.tensor(list(indices))

    with pytest.warns(UserWarning, match="memory ran out") as caught:
        result = in_parts(work, range(12))
    assert torch.equal(result, torch.arange(12))
    assert [len(r) for r in taken] == [12, 6, 6, 3, 3]
    assert str(caught[-1].message).endswith("from image 6 with batch_size 3")


@pytest.mark.filterwarnings("ignore:memory ran out")
def test_not_even_one_image_fits():
    """A clear error instead of a traceback of PyTorch."""
    work, _ = limited(0)
    with pytest.raises(InputError, match="batch_size 1") as caught:
        in_parts(work, range(5))
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_other_errors_are_not_hidden():
    """A bug isn't taken for a lack of memory."""
    work, asked = limited(1, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        in_parts(work, range(5))
    assert len(asked) == 1
    assert not out_of_memory(KeyError("x"))


def test_an_error_that_follows_running_out_counts():
    """Ending a capture that failed raises another error on top."""
    try:
        try:
            raise OUT_OF_MEMORY["CUDA"]
        finally:
            raise RuntimeError("operation failed due to a previous error")
    except RuntimeError as error:
        assert out_of_memory(error)


@pytest.mark.parametrize("threads", [1, 4])
def test_what_fitted_is_remembered(threads, cleared):
    """Later batches of a run begin with it: each size that is too large fails once."""
    work, asked = limited(3)
    released = []
    memory = Memory(lambda: released.append(1))
    with pytest.warns(UserWarning, match="memory ran out"):
        first = in_parts(work, range(16), memory)
    assert [len(r) for r in asked] == [16, 8, 4, 2, 2, 2, 2, 2, 2, 2, 2]
    batches = [range(start, start + 16) for start in range(16, 80, 16)]
    with ThreadPoolExecutor(threads) as pool:
        rest = [*pool.map(lambda batch: in_parts(work, batch, memory), batches)]
    assert torch.equal(torch.cat([first, *rest]), torch.arange(80))
    assert [len(r) for r in asked[11:]] == [2] * 32
    assert len(cleared) == len(released) == 3


def test_what_fits_never_grows():
    """Batches that ran out side by side tell so in any order."""
    memory = Memory()
    memory.ran_out(8)
    memory.ran_out(16)
    assert memory.fits == 4


def test_one_thread_at_a_time_makes_room():
    """What is released is shared: one that is half gone must not be released again."""
    inside, most, pool = [], [], ThreadPoolExecutor(1)

    def release():
        inside.append(1)
        if not most:  # the first; the second waits for it
            most.append(0)
            wait([pool.submit(memory.ran_out, 4)], timeout=0.3)
        most.append(len(inside))
        inside.pop()

    memory = Memory(release)
    with pool:
        memory.ran_out(8)
    assert most == [0, 1, 1]


class Small(DiTPrior):
    """A prior on a device where three images fit."""

    def decode(self, latents):
        if len(latents) > 3:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried ...")
        return super().decode(latents)


def test_a_run_goes_on_with_less(tiny_prior, tiny_set, tmp_path):
    """The images are those of a device with enough memory; it warns once."""
    parts = (getattr(tiny_prior, name) for name in DiTPrior.__dataclass_fields__)
    expected = recover(tiny_set, tiny_prior, QUICK, progress=False).images
    with pytest.warns(UserWarning, match="memory ran out") as caught, one_thread():
        found = recover_to(
            tmp_path / "a.safetensors", tiny_set, Small(*parts), QUICK,
            fast=False, progress=False,
        ).images  # fmt: skip
    assert len(caught) == 1  # of four batches of five
    assert (found - expected).abs().max() < 1e-5


def test_the_batch_size_is_chosen(tiny_prior, monkeypatch):
    """5 on the CPU; on CUDA 64, but for a UNet, of which little is known."""
    assert choose_batch_size(tiny_prior) == 5
    place = "diver_lite.run.batches.device_of"
    monkeypatch.setattr(place, lambda prior: torch.device("cuda"))
    assert choose_batch_size(tiny_prior) == 64
    assert choose_batch_size(object()) == 5


def test_float16_spares_a_vae_that_would_overflow(tiny_prior_folder):
    """`force_upcast` keeps the VAE in float32, and images still pass through."""
    prior = load_prior(tiny_prior_folder, device="cpu", dtype=torch.float16)
    assert prior.dtype == torch.float16
    assert prior.vae.config.force_upcast
    assert prior.vae.dtype == torch.float32
    z = prior.encode(torch.rand(2, 3, 32, 32))
    assert prior.decode(z).isfinite().all()
    assert prior.to(dtype=torch.bfloat16).vae.dtype == torch.bfloat16


def test_the_vae_takes_images_in_slices(tiny_prior):
    """More images than fit into one slice give the same, both ways."""
    images = torch.rand(19, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    z = tiny_prior.encode(images)
    alone = [tiny_prior.encode(images[[i]]) for i in range(19)]
    assert torch.allclose(z, torch.cat(alone), atol=1e-5)
    decoded = [tiny_prior.decode(z[[i]]) for i in range(19)]
    assert torch.allclose(tiny_prior.decode(z), torch.cat(decoded), atol=1e-5)
