"""Tiny random priors and a tiny distilled set, so that tests need no training."""

import os
from contextlib import contextmanager
from pathlib import Path

# no test may reach for a model hub; set before anything imports huggingface_hub
os.environ["HF_HUB_OFFLINE"] = "1"
# tests run side by side already: a table's trainings stay in the process of their test
os.environ["LOKY_MAX_CPU_COUNT"] = "1"

import diffusers
import pytest
import torch

from diver_lite.make.train_prior import PriorRecipe, build_dit, build_vae, export_prior
from diver_lite.priors.loading import load_prior
from diver_lite.sets.distilled import DistilledSet
from diver_lite.sets.names import FASHION_MNIST_CLASSES

# what `make test-quick` leaves out: browsers, processes, whole commands, thousands of
# damaged files, and single tests that take seconds
SLOW = {
    "book/test_explore.py",
    "book/test_explore_page.py",
    "book/test_live.py",
    "book/test_live_files.py",
    "judge/test_cli_judge.py",
    "judge/test_own.py",
    "judge/test_training.py",
    "judge/test_workers.py",
    "make/test_distill.py",
    "make/test_train_prior.py",
    "run/test_own_prior.py",
    "run/test_processes.py",
    "run/test_to_file.py",
    "scripts/test_benchmark_recovery.py",
    "scripts/test_count_memory.py",
    "scripts/test_count_priors.py",
    "scripts/test_mutants.py",
    "scripts/test_on_gpu.py",
    "scripts/test_scripts.py",
    "sets/test_hostile.py",
    "test_cli_hostile.py",
    "test_cli_outputs.py",
    "test_commands_in_docs.py",
    "test_demo.py",
    "test_foreign_code.py",
    "test_nonsense.py",
    "priors/test_kinds.py",
    "judge/test_protocols.py::test_the_imagenet_protocol_learns_what_a_teacher_says",
    "judge/test_verdicts.py::test_stored_verdicts_follow_from_the_stored_trainings",
    "priors/test_check.py::test_the_priors_that_ship",
    "priors/test_fast.py::test_fast_and_plain_agree_at_every_step",
    "priors/test_fast.py::test_threads_share_a_prior",
    "priors/test_identity.py::test_a_set_has_no_order",
    "run/test_batches.py::test_a_run_goes_on_with_less",
    "run/test_in_memory.py::test_batches_are_halved_where_memory_runs_out",
    "test_advise.py::test_a_folder_of_advice",
    "test_advise.py::test_it_goes_on_and_is_asked_for_more",
    "test_cli_known.py::test_check_says_what_is_missing",
}


def pytest_addoption(parser):
    """Let tests of stored results store them anew, after a change that is meant."""
    parser.addoption("--store-results", action="store_true")


def pytest_collection_modifyitems(items):
    """Mark slow tests, and those of slow files."""
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            name = item.path.relative_to(here).as_posix()
            if {name, f"{name}::{item.originalname}"} & SLOW:
                item.add_marker(pytest.mark.slow)


RECIPE = PriorRecipe(
    dataset="fashion-mnist",
    flip=False,
    image_fit="pad",
    vae_channels=(16, 32),
    kl_weight=1e-3,
    heads=1,
    head_dim=16,
    layers=2,
    vae_steps=4,
    vae_batch=4,
    dit_steps=4,
    dit_batch=8,
    dit_lr=7e-4,
)


@pytest.fixture(autouse=True)
def _no_data_from_outside(monkeypatch):
    """Tests see the same files everywhere: what ships, and what they write."""
    monkeypatch.delenv("DIVER_LITE_DATA", raising=False)


@pytest.fixture(autouse=True)
def _as_if_committed(monkeypatch):
    """Let scripts run in a tree where somebody is working."""
    monkeypatch.setattr("provenance.COMMIT", "0123abc")


def randomise(dit, seed, std=0.2):
    """Fill the weights that start at zero, so that outputs depend on all inputs."""
    generator = torch.Generator().manual_seed(seed)
    linears = [block.norm1.linear for block in dit.transformer_blocks]
    for linear in (*linears, dit.proj_out_1, dit.proj_out_2):
        torch.nn.init.normal_(linear.weight, std=std, generator=generator)
        torch.nn.init.normal_(linear.bias, std=std, generator=generator)
    for module in dit.modules():
        if isinstance(module, torch.nn.Embedding):
            torch.nn.init.normal_(module.weight, std=1.0, generator=generator)
    return dit


def _seeded(build, *args, seed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(*args)


@pytest.fixture(scope="session")
def recipe():
    """Return a recipe of the smallest networks, and of few steps."""
    return RECIPE


@pytest.fixture(scope="session")
def tiny_prior_folder(tmp_path_factory):
    """Write a random 10-class prior in the format of the priors that ship."""
    folder = tmp_path_factory.mktemp("tiny") / "prior"
    vae = _seeded(build_vae, RECIPE, seed=1)
    vae.register_to_config(scaling_factor=2.5)
    dit = randomise(_seeded(build_dit, RECIPE, 10, seed=2), seed=3)
    export_prior(folder, vae, dit, FASHION_MNIST_CLASSES, "tiny", RECIPE)
    return folder


@pytest.fixture(scope="session")
def tiny_prior(tiny_prior_folder):
    """Load the random 10-class prior on the CPU."""
    return load_prior(tiny_prior_folder, device="cpu")


@pytest.fixture(scope="session")
def tiny_learned_sigma_folder(tmp_path_factory):
    """Write a random prior of DiT-XL/2's kind: 1000 classes, learned variance."""
    folder = tmp_path_factory.mktemp("learned") / "prior"
    vae = _seeded(build_vae, RECIPE, seed=4)
    vae.register_to_config(scaling_factor=2.0)
    dit = _seeded(
        lambda: diffusers.DiTTransformer2DModel(
            num_attention_heads=1,
            attention_head_dim=16,
            in_channels=4,
            out_channels=8,
            num_layers=2,
            sample_size=16,
            num_embeds_ada_norm=1000,
        ),
        seed=5,
    )
    scheduler = diffusers.DDIMScheduler(
        beta_start=1e-4, beta_end=0.02, clip_sample=False
    )
    diffusers.DiTPipeline(randomise(dit, seed=6), vae, scheduler).save_pretrained(
        folder
    )
    return folder


@pytest.fixture(scope="session")
def tiny_learned_sigma_prior(tiny_learned_sigma_folder):
    """Load the random prior of DiT-XL/2's kind on the CPU."""
    return load_prior(tiny_learned_sigma_folder, device="cpu")


def random_set():
    """Return 20 images of 10 classes, class-major, with values outside [0, 1]."""
    generator = torch.Generator().manual_seed(7)
    images = torch.randn(20, 3, 32, 32, generator=generator) * 0.6 + 0.5
    assert images.min() < -0.5
    assert images.max() > 1.5
    return DistilledSet(
        images,
        torch.arange(10).repeat_interleave(2),
        FASHION_MNIST_CLASSES,
        provenance={"method": "random pixels"},
    )


@pytest.fixture
def tiny_set():
    """Return `random_set`, anew for each test."""
    return random_set()


@pytest.fixture
def cli(capsys, monkeypatch, tmp_path):
    """Return a function that runs the command line: code, stdout, stderr."""
    from diver_lite.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments):
        with pytest.raises(SystemExit) as exit:
            main([str(a) for a in arguments])
        return (exit.value.code or 0, *capsys.readouterr())

    return run


@pytest.fixture
def full_disk():
    """Return a context in which no file can grow beyond so many bytes."""
    resource = pytest.importorskip("resource", reason="needs limits of POSIX")

    @contextmanager
    def limited(size):
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    return limited


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    """Let real data that a test asks for, and that isn't here, be nowhere else."""

    def refuse(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr("diver_lite.sets.real._DEBIAN", tmp_path / "no-debian")
    for loader in ("FashionMNIST", "CIFAR10"):
        monkeypatch.setattr(f"torchvision.datasets.{loader}", refuse)


# Pages in the system's Chromium, where there is one.


@pytest.fixture(scope="module")
def chromium():
    import check_book  # here, for tests that need no browser

    if check_book.CHROMIUM is None:
        pytest.skip("no Chromium found")
    with check_book.browser() as browser:
        yield browser


@pytest.fixture
def tab(chromium):
    with chromium.new_page() as page:
        yield page


@pytest.fixture
def phone(chromium):
    size = {"width": 390, "height": 844}
    with chromium.new_page(viewport=size, is_mobile=True, has_touch=True) as page:
        yield page


@pytest.fixture
def heard(tab):
    """What is asked of a network, and the errors: a list that grows by itself."""
    import check_book

    return check_book.listen(tab)
