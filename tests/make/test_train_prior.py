"""Priors train, stop and go on."""

import copy
import itertools
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from conftest import randomise
from diffusers import DDPMScheduler
from safetensors.torch import load_file
from toy_sets import grey

from diver_lite.checks import InputError
from diver_lite.make import checkpoint
from diver_lite.make import train_prior as training
from diver_lite.make.train_prior import RECIPES, build_dit, build_vae, train_prior
from diver_lite.priors.loading import load_prior
from diver_lite.sets.names import FASHION_MNIST_CLASSES

PARTS = ("transformer", "vae")


@pytest.fixture
def train(monkeypatch, recipe):
    """Return `train_prior` on fake data, which also lists its losses."""
    losses = []
    monkeypatch.setattr(training, "load_dataset", lambda *_, **__: grey())

    def listing(real):
        def loss_of(*arguments):
            loss = real(*arguments) * (1 + run.shift)
            losses.append(loss.item())
            return loss

        return loss_of

    for name in ("_vae_loss", "_dit_loss"):
        monkeypatch.setattr(training, name, listing(getattr(training, name)))

    def run(out, **options):
        defaults = {"recipe": recipe, "device": "cpu", "compile": False}
        options = defaults | {"progress": False} | options
        return train_prior("fashion-mnist", out, **options)

    run.losses, run.shift = losses, 0.0
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
    assert prior.info["trained_on"] == "Fashion-MNIST (official files), fit split"
    kept = prior.info["losses"]["vae"] + prior.info["losses"]["dit"]
    assert [step for step, _ in kept] == [1, 2, 3, 4, 1, 2, 3, 4]
    assert [loss for _, loss in kept] == pytest.approx(train.losses, abs=1e-5)
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


@pytest.mark.parametrize("stage", ["vae", "dit"])
def test_time_that_runs_out_in_either_stage(train, tmp_path, monkeypatch, stage):
    """A checkpoint, False, and no prior of networks that are half trained."""
    now = [0.0]
    monkeypatch.setattr(training, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def on_step(where, step, loss):
        if (where, step) == (stage, 2):
            now[0] += 60

    assert train(tmp_path, minutes=1, on_step=on_step) is False
    step = torch.load(tmp_path / f"{stage}.pt", weights_only=True)["step"]
    assert step == 2
    assert not (tmp_path / "prior").exists()
    assert train(tmp_path) is True
    first = weights(tmp_path)
    # an older prior isn't replaced by one that isn't finished either
    assert train(tmp_path, minutes=0, dit_steps=9) is False
    same(weights(tmp_path), first)


def test_a_run_in_pieces_equals_a_run_in_one_go(train, tmp_path, monkeypatch):
    """Bit for bit on the CPU, however often training is stopped."""
    assert train(tmp_path / "whole") is True
    whole, count = list(train.losses), len(train.losses)
    train.losses.clear()
    ticks = itertools.count()  # a clock on which every look takes a second
    clock = SimpleNamespace(monotonic=lambda: next(ticks))
    monkeypatch.setattr(training, "time", clock)
    runs = 1
    while not train(tmp_path / "pieces", minutes=0.05):
        runs += 1
        assert runs < 20
    assert runs >= 3
    assert len(train.losses) == count  # no step was done twice
    assert train.losses == whole
    same(weights(tmp_path / "pieces"), weights(tmp_path / "whole"))


def test_the_loss_curve_survives_an_interruption(train, tmp_path, monkeypatch):
    """Means are over the same steps, wherever training was stopped in between."""
    monkeypatch.setattr(training, "CURVE_POINTS", 5)
    train(tmp_path / "whole", vae_steps=11, dit_steps=1)
    losses = list(train.losses)
    ticks = itertools.count()
    clock = SimpleNamespace(monotonic=lambda: next(ticks))
    monkeypatch.setattr(training, "time", clock)
    while not train(tmp_path / "pieces", minutes=0.05, vae_steps=11, dit_steps=1):
        pass
    curves = [
        load_prior(tmp_path / name / "prior", device="cpu").info["losses"]["vae"]
        for name in ("whole", "pieces")
    ]
    assert curves[0] == curves[1]
    assert [step for step, _ in curves[0]] == [2, 4, 6, 8, 10, 11]
    assert curves[0][0][1] == pytest.approx(sum(losses[:2]) / 2, abs=1e-5)


@pytest.mark.parametrize("broken", ["loss", "gradient"])
def test_what_is_no_number_stops_the_training(train, tmp_path, monkeypatch, broken):
    """The step is named, and the checkpoint from before it stays."""
    real = training._dit_loss

    def burst(dit, *arguments):
        loss = real(dit, *arguments)
        if arguments[-1].initial_seed() < 2:  # the number of the step
            return loss
        if broken == "loss":
            return loss * float("nan")
        return loss + (0 * next(dit.parameters()).sum()).abs().sqrt()

    monkeypatch.setattr(training, "_dit_loss", burst)
    monkeypatch.setattr(checkpoint, "SECONDS", -1)  # it is saved at each step
    monkeypatch.setattr(training, "CURVE_POINTS", 1)
    words = r"dit: .* NaN or infinite by step 3; try a smaller dit_lr .*dit\.pt"
    with pytest.raises(FloatingPointError, match=words):
        train(tmp_path)
    state = torch.load(tmp_path / "dit.pt", weights_only=True)
    assert state["step"] == 2
    assert all(value.isfinite().all() for value in state["model"].values())


def test_what_must_not_be_saved_is_not(tmp_path):
    """On a GPU losses are rarely looked at, but always before a checkpoint."""
    run = checkpoint.Training("dit", 9, {}, tmp_path / "dit.pt")
    run.save()
    before = (tmp_path / "dit.pt").read_bytes()
    run.pending, run.step = torch.tensor(float("inf")), 5
    run.check = lambda: training._check_loss(run, run.step, 0.1)
    with pytest.raises(FloatingPointError, match=r"by step 5; .* than 0\.1"):
        run.save()
    assert (tmp_path / "dit.pt").read_bytes() == before


def test_training_again_changes_nothing(train, tmp_path):
    """A finished folder stays as it is."""
    train(tmp_path)
    first, steps = weights(tmp_path), len(train.losses)
    assert train(tmp_path) is True
    assert len(train.losses) == steps
    same(weights(tmp_path), first)


def test_training_moves_the_weights(train, tmp_path, monkeypatch):
    """More steps give other weights: the exported average isn't the random start."""
    built, steps = [], []
    build = training.build_dit
    monkeypatch.setattr(
        training, "build_dit", lambda *of: built.append(build(*of)) or built[-1]
    )

    def follow(stage, *_):
        if stage == "dit":
            steps.append(built[0].proj_out_2.weight.detach().clone())

    train(tmp_path / "a", on_step=follow)
    average, *later = steps
    for step, weight in enumerate(later, 1):  # with a short memory at first
        average = torch.lerp(weight, average, (1 + step) / (10 + step))
    kept = torch.load(tmp_path / "a/dit.pt")["average"]["module.proj_out_2.weight"]
    torch.testing.assert_close(kept, average, rtol=1e-3, atol=1e-9)
    train(tmp_path / "b", vae_steps=6, dit_steps=6)
    for one, two in zip(weights(tmp_path / "a"), weights(tmp_path / "b"), strict=True):
        changed = [name for name in one if not torch.equal(one[name], two[name])]
        assert any("weight" in name for name in changed)
        assert len(changed) > len(one) / 3


OTHERS = {
    "objective": ({"objective": "flow"}, grey(), "dit.pt", "objective is 'noise' the"),
    "kl_weight": ({"kl_weight": 5.0}, grey(), "vae.pt", "kl_weight is 0.001 there"),
    "rate": ({"dit_lr": 1.0}, grey(), "dit.pt", "dit_lr is 0.0007 there and 1.0"),
    "labels": ({}, (grey()[0], grey()[1].roll(1), grey()[2]), "vae.pt", "labels is"),
    "data": ({}, (grey()[0].flip(-1), *grey()[1:]), "vae.pt", "images is"),
    "fewer": ({"dit_steps": 3}, grey(), "dit.pt", "dit_steps is 4 there and 3 here"),
    "fewer of the VAE": ({"vae_steps": 3}, grey(), "dit.pt", "vae_steps is 4 there"),
    # nothing is trained that the DiT has never seen
    "more of the VAE": ({"vae_steps": 5}, grey(), "dit.pt", "vae_steps is 4 there and"),
    # of another shape
    "channels": (
        {"vae_channels": (16, 48)},
        grey(),
        "vae.pt",
        "there and .* here; exp",
    ),
    "width": ({"head_dim": 32}, grey(), "dit.pt", "head_dim is 16 there and 32 here"),
    "depth": ({"layers": 3}, grey(), "dit.pt", "layers is 2 there and 3 here"),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory, recipe):
    """Return the folder of one training, which nobody may change."""
    out = tmp_path_factory.mktemp("finished")
    options = {"recipe": recipe, "device": "cpu", "compile": False, "progress": False}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "load_dataset", lambda *_, **__: grey())
        train_prior("fashion-mnist", out, **options)
    return out


@pytest.mark.parametrize("name", OTHERS)
def test_another_training_is_refused(train, finished, monkeypatch, name):
    """A finished one, too; nothing is written over."""
    changes, data, file, message = OTHERS[name]
    before = {p: p.read_bytes() for p in finished.rglob("*.*") if p.is_file()}
    monkeypatch.setattr(training, "load_dataset", lambda *_, **__: data)
    with pytest.raises(InputError, match=message) as caught:
        train(finished, **changes)
    assert str(finished / file) in str(caught.value)
    assert before == {p: p.read_bytes() for p in finished.rglob("*.*") if p.is_file()}


def test_a_foreign_vae_is_refused(train, tmp_path):
    """The DiT learned the latents of another; a deleted one is made again."""
    train(tmp_path / "one")
    train(tmp_path / "two", vae_steps=5)
    whole = weights(tmp_path / "one")
    vae = tmp_path / "one" / "vae.pt"
    vae.unlink()
    train(tmp_path / "one")
    same(weights(tmp_path / "one"), whole)
    vae.write_bytes((tmp_path / "two" / "vae.pt").read_bytes())
    with pytest.raises(InputError, match="vae_steps is 5 there and 4 here"):
        train(tmp_path / "one")
    with pytest.raises(InputError, match="vae_steps is 4 there and 5 here"):
        train(tmp_path / "one", vae_steps=5)
    # as long a training on another machine, say
    train.shift = 1e-3
    train(tmp_path / "three")
    vae.write_bytes((tmp_path / "three" / "vae.pt").read_bytes())
    with pytest.raises(InputError, match="weights of the vae is"):
        train(tmp_path / "one")


def test_more_steps_may_be_asked_for(train, tmp_path, monkeypatch):
    """The record says which steps took the learning rate of how long a run."""
    monkeypatch.setattr(training, "time", clock := SimpleNamespace(monotonic=lambda: 0))

    def on_step(stage, step, loss):
        if (stage, step) == ("vae", 2):
            clock.monotonic = lambda: 60

    train(tmp_path, minutes=1, on_step=on_step)
    train(tmp_path, vae_steps=5)
    train(tmp_path, vae_steps=5, dit_steps=6)
    info = json.loads((tmp_path / "prior" / "diver_lite.json").read_text())
    assert info["planned_steps"] == {
        "vae": [[0, 4], [2, 5]],
        "dit": [[0, 4], [4, 6]],
    }
    assert info["recipe"]["dit_steps"] == 6
    with pytest.raises(InputError, match="dit_steps is 6 there and 5 here"):
        train(tmp_path, vae_steps=5, dit_steps=5)


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\3\4 half"])
def test_a_damaged_checkpoint_is_refused(train, tmp_path, content):
    """A checkpoint that can't be read is named, not silently replaced."""
    (tmp_path / "vae.pt").write_bytes(content)
    with pytest.raises(InputError, match=r"vae\.pt can't be read .*a checkpoint"):
        train(tmp_path)
    assert (tmp_path / "vae.pt").read_bytes() == content


def test_bad_recipes(train, tmp_path):
    """Unknown recipes and fields are named, and no folder is made for them."""
    with pytest.raises(InputError, match=r"recipe is 'imagenet'; exp.*'fashion-mnist'"):
        train_prior("imagenet", tmp_path / "new")
    with pytest.raises(InputError, match="colour_depth"):
        train(tmp_path / "new", colour_depth=3)
    for changes in (
        {"dit_steps": -1},
        {"vae_steps": 0},
        {"vae_steps": 2.5},
        {"dit_steps": "9"},
        {"layers": 10**9},
        {"vae_channels": (16, 16 * 10**9)},
        {"minutes": -1},
        {"minutes": float("nan")},
        {"minutes": "9"},
    ):
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


class _Silent(torch.nn.Module):
    """Predicts no noise, and remembers what it was asked."""

    config = SimpleNamespace(num_embeds_ada_norm=10)

    def forward(self, z_t, timestep, class_labels):
        self.seen = z_t, timestep
        return SimpleNamespace(sample=torch.zeros_like(z_t))


def test_nearly_clean_latents_weigh_less(recipe):
    """Each squared error counts min(SNR, gamma) / SNR, and one if gamma is None."""
    silent, zero = _Silent(), torch.zeros(1, 4, 4, 16, 16)
    one = torch.ones(4, dtype=torch.long)

    def loss(gamma):
        weighted = replace(recipe, dit_batch=512, snr_gamma=gamma)
        generator = torch.Generator().manual_seed(0)
        return training._dit_loss(silent, zero, one, weighted, generator).item()

    plain, weighted = loss(None), loss(5.0)
    z_t, timestep = silent.seen  # nothing but noise, as the latents are zero
    alpha = DDPMScheduler(beta_schedule="linear").alphas_cumprod.double()[timestep]
    squares = (z_t.double() ** 2).mean((1, 2, 3)) / (1 - alpha)
    snr = alpha / (1 - alpha)
    assert plain == pytest.approx(squares.mean().item(), rel=1e-4)
    expected = (squares * snr.clamp(max=5.0) / snr).mean().item()
    assert weighted == pytest.approx(expected, rel=1e-4)
    assert weighted < 0.95 * plain
    assert loss(1e9) == pytest.approx(plain)


def test_flow_learns_velocities_on_straight_paths(recipe):
    """z_s = (1 - s) z_0 + s noise at timestep 1000 s; the target is noise - z_0."""
    silent, ones = _Silent(), torch.ones(1, 4, 4, 16, 16)
    flow = replace(recipe, dit_batch=512, objective="flow")
    generator = torch.Generator().manual_seed(0)
    labels = torch.ones(4, dtype=torch.long)
    loss = training._dit_loss(silent, ones, labels, flow, generator).item()
    z_s, timestep = silent.seen
    s = timestep.double().view(-1, 1, 1, 1) / 1000
    assert 0 < s.min() < 0.002 < 0.998 < s.max() < 1  # one per slice
    noise = (z_s.double() - (1 - s)) / s
    assert loss == pytest.approx(((noise - 1) ** 2).mean().item(), rel=1e-3)


def test_a_prior_of_flow_with_the_vae_of_another(train, tmp_path):
    """No VAE is trained; the folder names the scheduler of flow matching."""
    vae = "fashion-mnist"
    kept = {"vae": vae, "vae_channels": (16, 32), "latent_channels": 4}
    assert train(tmp_path, objective="flow", **kept) is True
    assert not (tmp_path / "vae.pt").exists()
    folder = tmp_path / "prior"
    scheduler = json.loads((folder / "scheduler/scheduler_config.json").read_text())
    assert scheduler["_class_name"] == "FlowMatchEulerDiscreteScheduler"
    info = json.loads((folder / "diver_lite.json").read_text())
    assert info["recipe"].items() >= {"objective": "flow", "vae": vae}.items()
    found = load_file(folder / "vae" / "diffusion_pytorch_model.safetensors")
    expected = load_prior(vae, device="cpu").vae.half().state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": "flow", "snr_gamma": 5.0}, "snr_gamma is 5.0; expected None"),
        ({"vae": "fashion-mnist", "vae_channels": (32, 32)}, "block_out_channels of"),
        ({"objective": "score"}, "objective is 'score'; expected one of"),
    ],
)
def test_objectives_and_vaes_that_do_not_fit(train, tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        train(tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


def test_plain_attention_is_the_same_function():
    """What a CPU trains with, and what a GPU and the finished prior compute."""
    fused = randomise(build_dit(RECIPES["cifar10"], 10), seed=0).eval()
    plain = copy.deepcopy(fused)
    training._use_plain_attention(plain)
    x = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    y, t = torch.tensor([3, 10]), torch.tensor([500, 20])
    with torch.no_grad():
        one, two = (dit(x, timestep=t, class_labels=y).sample for dit in (fused, plain))
    assert one.std() > 0.1
    torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-4)


def test_losses_can_be_followed(train, tmp_path):
    followed = []
    train(tmp_path / "out", on_step=lambda *seen: followed.append(seen))
    assert [seen[:2] for seen in followed] == [
        *(("vae", step) for step in range(1, 5)),
        *(("dit", step) for step in range(1, 5)),
    ]
    assert [loss for _, _, loss in followed] == pytest.approx(train.losses)
