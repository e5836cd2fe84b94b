"""Priors train, stop and go on; Stage I makes what Stage II takes."""

import itertools
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from diver_lite import training
from diver_lite.data import FASHION_MNIST_CLASSES
from diver_lite.distill import distill
from diver_lite.distilled import DistilledSet
from diver_lite.errors import InputError
from diver_lite.prior import load_prior
from diver_lite.training import RECIPES, build_dit, build_vae, train_prior

PARTS = ("transformer", "vae")


def grey(count=60):
    """Return fake grey images of 10 classes, three channels in the memory of one."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 10
    images = torch.rand(count, 1, 32, 32, generator=generator) * 0.5
    images += labels.view(-1, 1, 1, 1) / 20
    return images.expand(-1, 3, -1, -1), labels, FASHION_MNIST_CLASSES


def colour(classes=3, count=12, size=32):
    """Return fake colour images: each class has its own mean."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(classes).repeat(count)
    images = torch.rand(classes * count, 3, size, size, generator=generator) * 0.3
    images[torch.arange(len(labels)), labels % 3] += 0.6
    return images, labels, tuple(f"class {c}" for c in range(classes))


@pytest.fixture
def train(monkeypatch, recipe):
    """Return `train_prior` on fake data, which also lists its losses."""
    losses = []
    monkeypatch.setattr(training, "load_dataset", lambda *_, **__: grey())

    def listing(real):
        def loss_of(*arguments):
            loss = real(*arguments)
            losses.append(loss.item())
            return loss

        return loss_of

    for name in ("_vae_loss", "_dit_loss"):
        monkeypatch.setattr(training, name, listing(getattr(training, name)))

    def run(out, **options):
        defaults = {"recipe": recipe, "device": "cpu", "compile": False}
        options = defaults | {"progress": False} | options
        return train_prior("fashion-mnist", out, **options)

    run.losses = losses
    return run


def weights(folder):
    files = (folder / "prior" / part for part in PARTS)
    return [load_file(f / "diffusion_pytorch_model.safetensors") for f in files]


def same(first, second):
    assert len(first) == len(second) == len(PARTS)
    for one, two in zip(first, second, strict=True):
        assert one.keys() == two.keys()
        assert all(torch.equal(one[name], two[name]) for name in one)


# --- Training a prior ---------------------------------------------------------------


def test_a_finished_prior_loads(train, recipe, tmp_path):
    """Four VAE and four DiT steps give finite losses and a folder that loads."""
    assert train(tmp_path) is True
    assert len(train.losses) == recipe.vae_steps + recipe.dit_steps
    assert all(0 < loss < 100 for loss in train.losses)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dit.pt", "prior", "vae.pt"]
    prior = load_prior(tmp_path / "prior", device="cpu")
    assert prior.class_names == FASHION_MNIST_CLASSES
    assert prior.info["image_fit"] == "pad"
    assert prior.info["recipe"]["dit_steps"] == recipe.dit_steps
    # latents of the training data have unit variance: the DiT was trained on such
    latents = prior.encode(grey()[0])
    assert latents.std().item() == pytest.approx(1, abs=0.02)
    noise = prior.predict_noise(latents[:2], 500, torch.tensor([0, 1]), 2.0)
    assert noise.isfinite().all()


def test_no_time_means_a_checkpoint_and_no_prior(train, tmp_path):
    """minutes=0 stops before the first step and says that it isn't done."""
    assert train(tmp_path, minutes=0) is False
    assert train.losses == []
    assert torch.load(tmp_path / "vae.pt", weights_only=True)["step"] == 0
    assert not (tmp_path / "prior").exists()
    assert train(tmp_path) is True
    assert torch.load(tmp_path / "dit.pt", weights_only=True)["step"] == 4


def test_a_run_in_pieces_equals_a_run_in_one_go(train, tmp_path, monkeypatch):
    """Bit for bit on the CPU, however often training is stopped."""
    assert train(tmp_path / "whole") is True
    whole, count = list(train.losses), len(train.losses)
    train.losses.clear()
    ticks = itertools.count()  # a clock on which every look takes a second
    clock = SimpleNamespace(monotonic=lambda: next(ticks))
    monkeypatch.setattr(training, "time", clock)
    runs = 1
    while not train(tmp_path / "pieces", minutes=0.1):
        runs += 1
        assert runs < 20
    assert runs >= 3
    assert len(train.losses) == count  # no step was done twice
    assert train.losses == whole
    same(weights(tmp_path / "pieces"), weights(tmp_path / "whole"))


def test_training_again_changes_nothing(train, tmp_path):
    """A finished folder stays as it is."""
    train(tmp_path)
    first, steps = weights(tmp_path), len(train.losses)
    assert train(tmp_path) is True
    assert len(train.losses) == steps
    same(weights(tmp_path), first)


def test_training_moves_the_weights(train, tmp_path):
    """More steps give other weights: the exported average isn't the random start."""
    train(tmp_path / "a")
    train(tmp_path / "b", vae_steps=6, dit_steps=6)
    for one, two in zip(weights(tmp_path / "a"), weights(tmp_path / "b"), strict=True):
        changed = [name for name in one if not torch.equal(one[name], two[name])]
        assert any("weight" in name for name in changed)
        assert len(changed) > len(one) / 3


@pytest.mark.parametrize(
    "changes", [{"vae_channels": (16, 48)}, {"head_dim": 32}, {"layers": 3}]
)
def test_a_checkpoint_of_another_shape_is_refused(train, recipe, tmp_path, changes):
    """The checkpoint's path is named, and it stays untouched."""
    train(tmp_path)
    path = tmp_path / ("vae.pt" if "vae_channels" in changes else "dit.pt")
    before = path.read_bytes()
    with pytest.raises(InputError, match="does not fit this recipe") as caught:
        train(tmp_path, recipe=replace(recipe, **changes))
    assert str(path) in str(caught.value)
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\3\4 half"])
def test_a_damaged_checkpoint_is_refused(train, tmp_path, content):
    """A checkpoint that can't be read is named, not silently replaced."""
    (tmp_path / "vae.pt").write_bytes(content)
    with pytest.raises(InputError, match=r"vae\.pt does not fit"):
        train(tmp_path)
    assert (tmp_path / "vae.pt").read_bytes() == content


def test_bad_recipes(train, tmp_path):
    """Unknown recipes and fields are named, and no folder is made for them."""
    with pytest.raises(InputError, match=r"'imagenet' is unknown.*'fashion-mnist'"):
        train_prior("imagenet", tmp_path / "new")
    with pytest.raises(InputError, match="colour_depth"):
        train(tmp_path / "new", colour_depth=3)
    for changes in ({"dit_steps": -1}, {"vae_steps": 0}):
        with pytest.raises(InputError, match=next(iter(changes))):
            train(tmp_path / "new", **changes)
    assert [*tmp_path.iterdir()] == []


def test_an_output_that_is_a_file(train, tmp_path):
    """The working folder must be one."""
    (tmp_path / "file").write_text("precious")
    with pytest.raises(InputError, match="file"):
        train(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_describe_networks_that_fit(name):
    """Latents of 16x16 with 4 channels; the DiT starts as zero, as its paper does."""
    recipe = RECIPES[name]
    vae = build_vae(recipe).eval()
    with torch.no_grad():
        latents = vae.encode(torch.zeros(1, 3, 32, 32)).latent_dist.mean
        assert latents.shape == (1, 4, 16, 16)
        dit = build_dit(recipe, 10).eval()
        y, t = torch.tensor([10]), torch.tensor([999])  # 10 is "no class"
        noise = dit(torch.ones(1, 4, 16, 16), timestep=t, class_labels=y).sample
    assert noise.shape == (1, 4, 16, 16)
    assert noise.abs().max() == 0


# --- Stage I ------------------------------------------------------------------------

QUICK = {"ipc": 2, "steps": 2, "real_batch": 4, "device": "cpu", "progress": False}


def test_a_distilled_set_says_what_it_is(tmp_path):
    """Shapes, class-major labels and the record, saved and returned alike."""
    out = tmp_path / "set.safetensors"
    result = distill(colour(), "dm", **QUICK, seed=3, out=out)
    assert result.images.shape == (6, 3, 32, 32)
    assert result.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert result.class_names == ("class 0", "class 1", "class 2")
    record = result.provenance
    assert {key: record[key] for key in ("method", "ipc", "init", "steps", "seed")} == {
        "method": "DM",
        "ipc": 2,
        "init": "noise",
        "steps": 2,
        "seed": 3,
    }
    assert torch.equal(DistilledSet.load(out).images, result.images)


def test_pixels_approach_the_data():
    """The loss falls, and classes take on their colours, starting from noise."""
    data = colour()
    options = QUICK | {"augment": False}
    losses = [
        distill(data, "dm", **options | {"steps": steps}).provenance["final_loss"]
        for steps in (1, 25)
    ]
    assert losses[1] < 0.7 * losses[0]
    start = distill(data, "dm", **options | {"lr": 0.0})
    end = distill(data, "dm", **options | {"steps": 25})
    for label in range(3):
        mean = data[0][data[1] == label].mean((0, 2, 3))
        far, near = (
            (s.images[s.labels == label].mean((0, 2, 3)) - mean).abs().sum()
            for s in (start, end)
        )
        assert near < far


def test_real_initialisation_starts_from_real_images():
    """With a learning rate of zero, init="real" gives back images of its class."""
    images, labels, names = colour()
    options = QUICK | {"init": "real", "lr": 0.0}
    result = distill((images, labels, names), "dm", **options)
    for image, label in zip(result.images, result.labels, strict=True):
        distance = (images - image).flatten(1).abs().amax(dim=1)
        assert distance.min() < 1e-5
        assert labels[distance.argmin()] == label
    assert len({image.numpy().tobytes() for image in result.images}) == 6


def test_grey_stays_grey():
    """Images whose channels share memory are distilled to one channel, repeated."""
    result = distill(grey(), "dm", **QUICK)
    assert torch.equal(result.images[:, 0], result.images[:, 1])
    assert torch.equal(result.images[:, 0], result.images[:, 2])
    assert result.images.shape == (20, 3, 32, 32)
    assert result.images.is_contiguous()
    in_colour = distill(colour(), "dm", **QUICK).images
    assert not torch.allclose(in_colour[:, 0], in_colour[:, 1])


@pytest.mark.parametrize("init", ["real", "noise"])
def test_a_seed_fixes_the_pixels(init):
    """One seed, the same pixels, whatever the global generator did; else others."""
    options = QUICK | {"init": init}
    first = distill(colour(), "dm", **options, seed=1).images
    torch.rand(7)
    assert torch.equal(first, distill(colour(), "dm", **options, seed=1).images)
    assert not torch.allclose(first, distill(colour(), "dm", **options, seed=2).images)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "gan"}, r"method 'gan' is unknown.*'dm'"),
        ({"init": "zeros"}, r"init 'zeros' is unknown.*'real'"),
        ({"ipc": 0}, "ipc is 0"),
        ({"ipc": -1}, "ipc is -1"),
        ({"ipc": 13}, r"ipc is 13, but class 'class 0' has only 12"),
        ({"steps": 0}, "steps is 0"),
        ({"real_batch": 0}, "real_batch is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"device": "abacus"}, "device 'abacus'"),
    ],
)
def test_bad_arguments_of_distill(changes, message, tmp_path):
    """Each is named with what was found, before anything is computed or written."""
    out = tmp_path / "set.safetensors"
    with pytest.raises(InputError, match=message):
        distill(colour(), **QUICK | {"method": "dm"} | changes, out=out)
    assert [*tmp_path.iterdir()] == []


def test_an_output_that_exists_is_kept(tmp_path):
    """distill() refuses before it works for hours."""
    out = tmp_path / "set.safetensors"
    out.write_bytes(b"precious")
    with pytest.raises(InputError, match="exists already"):
        distill(colour(), "dm", **QUICK, out=out)
    assert out.read_bytes() == b"precious"
