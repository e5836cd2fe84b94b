"""Stage I: every method against its equations, its checkpoints and its bad input."""

import os
import shutil
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.func import functional_call
from toy_sets import grey

from diver_lite.checks import InputError
from diver_lite.judge.augment import dsa
from diver_lite.judge.networks import ConvNet
from diver_lite.make import checkpoint
from diver_lite.make import distill as module
from diver_lite.make.distill import (
    METHODS,
    DistillConfig,
    distill,
    flatten,
    gradient_distance,
    recipe,
    unflatten,
)


def colour(classes=3, count=12, size=32):
    """Return fake colour images: each class has its own mean."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(classes).repeat(count)
    images = torch.rand(classes * count, 3, size, size, generator=generator) * 0.3
    images[torch.arange(len(labels)), labels % 3] += 0.6
    return images, labels, tuple(f"class {c}" for c in range(classes))


QUICK = {"ipc": 2, "steps": 2, "real_batch": 4, "device": "cpu", "progress": False}


def test_a_distilled_set_says_what_it_is():
    """Shapes, class-major labels and the record."""
    result = distill(colour(), "dm", **QUICK, seed=3)
    assert result.images.shape == (6, 3, 32, 32)
    assert result.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert result.class_names == ("class 0", "class 1", "class 2")
    record = result.provenance
    assert {key: record[key] for key in ("method", "ipc", "init", "steps", "seed")} == {
        "method": "DM",
        "ipc": 2,
        "init": "real",
        "steps": 2,
        "seed": 3,
    }


def test_pixels_approach_the_data():
    """The loss falls, and classes take on their colours, starting from noise."""
    data = colour()
    options = QUICK | {"augment": False, "init": "noise"}
    start = distill(data, "dm", **options | {"steps": 1, "lr": 0.0})
    end = distill(data, "dm", **options | {"steps": 25})
    losses = [s.provenance["final_loss"] for s in (start, end)]
    assert losses[1] < 0.7 * losses[0]
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
    result = distill(grey(), "dm", **QUICK, init="noise")
    assert torch.equal(result.images[:, 0], result.images[:, 1])
    assert torch.equal(result.images[:, 0], result.images[:, 2])
    assert result.images.shape == (20, 3, 32, 32)
    assert result.images.is_contiguous()
    in_colour = distill(colour(), "dm", **QUICK, init="noise").images
    assert not torch.allclose(in_colour[:, 0], in_colour[:, 1])


def test_grey_in_three_channels_is_grey():
    """As images that come from elsewhere lie in memory: the same pixels come out."""
    images, labels, names = grey()
    found = distill((images.contiguous(), labels, names), "dm", **QUICK)
    assert torch.equal(found.images, distill(grey(), "dm", **QUICK).images)
    assert torch.equal(found.images[:, 0], found.images[:, 2])


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
        ({"method": "gan"}, r"method is 'gan'; expected.*'dm'"),
        ({"init": "zeros"}, r"init is 'zeros'; expected one of \('real'"),
        ({"ipc": 0}, "ipc is 0"),
        ({"ipc": -1}, "ipc is -1"),
        ({"ipc": 13}, r"ipc is 13, but class 'class 0' has 12 images"),
        ({"steps": 0}, "steps is 0"),
        ({"real_batch": 0}, "real_batch is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"lr": -0.1}, r"lr is -0.1"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"steps": 1.5}, r"steps is 1.5; expected an integer"),
        ({"steps": True}, r"steps is True"),
        ({"augment": 1}, r"augment is 1; expected True or False"),
        ({"syn_stepps": 3}, r"DistillConfig is 'syn_stepps'.*'syn_steps'"),
        ({"max_start_epoch": 5, "expert_epochs": 5}, r"expert_epochs is 5.*= 6"),
        ({"method": "mtt"}, r"pass experts \(--experts"),
        ({"device": "abacus"}, "device 'abacus'"),
    ],
)
def test_bad_arguments_of_distill(changes, message, tmp_path):
    """Each is named with what was found, before anything is written."""
    path = tmp_path / "run.checkpoint"
    with pytest.raises(InputError, match=message):
        distill(colour(), **QUICK | {"method": "dm"} | changes, checkpoint=path)
    assert [*tmp_path.iterdir()] == []


# --- the methods against their equations --------------------------------------------


def capture(monkeypatch, method):
    """Return the tasks and losses that a method meets."""
    seen, original = [], METHODS[method]

    def spy(task, synthetic):
        state = task.generator.get_state()
        for loss in original(task, synthetic):
            seen.append((task, synthetic.detach().clone(), state, loss.detach()))
            yield loss

    monkeypatch.setitem(METHODS, method, spy)
    return seen


def test_dm_descends_the_distance_of_mean_features(monkeypatch):
    """DM's loss equals eq. 6 written out with the network it drew."""
    seen = capture(monkeypatch, "dm")
    distill(colour(), "dm", **QUICK | {"augment": False, "steps": 1})
    task, synthetic, state, loss = seen[0]
    task.generator.set_state(state)
    task.redraw()
    expected = 0.0
    for label in range(3):
        real = task.network.embed(task.real(label)).mean(0)
        ours = task.network.embed(synthetic[task.labels == label]).mean(0)
        expected += (real - ours).square().sum().item()
    assert loss.item() == pytest.approx(expected, rel=1e-4)


def test_gradient_distance_is_one_minus_cosine_per_output_unit():
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(5, 3, 2, 2, generator=generator)
    b = torch.randn(5, 3, 2, 2, generator=generator)
    expected = (1 - F.cosine_similarity(a.flatten(1), b.flatten(1))).sum()
    torch.testing.assert_close(gradient_distance((a,), (b,)), expected)
    assert gradient_distance((a,), (3 * a,)) < 1e-4
    torch.testing.assert_close(
        gradient_distance((a,), (-a,)), torch.tensor(10.0), atol=1e-4, rtol=0
    )


@pytest.mark.parametrize(("method", "augmented"), [("dc", False), ("dsa", True)])
def test_gradient_matching_compares_gradients_class_by_class(
    monkeypatch, method, augmented
):
    """The first loss of a network equals a plain rewriting with modules and .grad."""
    seen = capture(monkeypatch, method)
    distill(colour(), method, **QUICK | {"steps": 1, "outer_loops": 2})
    task, synthetic, state, loss = seen[0]
    assert task.config.augment is augmented
    task.generator.set_state(state)
    task.redraw()
    expected = 0.0
    for label in range(3):
        real, ours = task.real(label), synthetic[task.labels == label]
        gradients = []
        operation = task.generator.get_state()
        for batch in (real, ours):
            if augmented:
                task.generator.set_state(operation)
                batch = dsa(batch, task.generator, siamese=True)
            task.network.zero_grad()
            y = torch.full((len(batch),), label)
            F.cross_entropy(task.network(batch), y).backward()
            gradients.append([p.grad.clone() for p in task.network.parameters()])
        for a, b in zip(*gradients, strict=True):
            if a.ndim > 1:
                cosine = F.cosine_similarity(a.flatten(1), b.flatten(1))
                expected += (1 - cosine).sum().item()
    assert loss.item() == pytest.approx(expected, rel=1e-3)


def test_the_network_is_trained_between_two_matches(monkeypatch):
    """With inner loops, the second match meets other weights than the first."""
    weights = []
    original = module.gradient_distance

    def spy(first, second):
        weights.append([t.clone() for t in first])
        return original(first, second)

    monkeypatch.setattr(module, "gradient_distance", spy)
    settings = QUICK | {"steps": 1, "real_batch": 12, "outer_loops": 2, "lr": 0.0}
    accuracy = {}
    for inner in (0, 20):
        seen = capture(monkeypatch, "dc")
        options = settings | {"inner_loops": inner, "network_lr": 0.05}
        distill(colour(), "dc", **options)
        task, synthetic, *_ = seen[-1]
        right = task.network(synthetic).argmax(1) == task.labels
        accuracy[inner] = right.float().mean().item()
    assert accuracy[20] > accuracy[0]


@pytest.fixture(scope="module")
def experts(tmp_path_factory):
    """Train two short trajectories on fake data."""
    folder = tmp_path_factory.mktemp("experts")
    distill(colour(), "mtt", **QUICK | SHORT, experts=folder)
    return folder


def expert_weights(folder):
    files = sorted(folder.glob("*.safetensors"))
    return [load_file(file)["weights"] for file in files]


SHORT = {
    "num_experts": 2,
    "expert_epochs": 3,
    "max_start_epoch": 2,
    "target_epochs": 2,
    "syn_steps": 3,
    "syn_batch": 4,
    "lr": 10.0,
    "augment": False,
}


def test_experts_learn_and_are_kept(experts, monkeypatch):
    """A trajectory holds its start and every epoch, and is not trained twice."""
    monkeypatch.setattr(module, "_trajectory", pytest.fail)
    distill(colour(), "mtt", **QUICK | SHORT, experts=experts)
    both = expert_weights(experts)
    network = ConvNet(3, 32)
    assert [tuple(w.shape) for w in both] == [(4, len(flatten(network)))] * 2
    assert not torch.equal(both[0][0], both[1][0])
    images, labels, _ = colour()
    mean, std = (f((0, 2, 3)).view(1, 3, 1, 1) for f in (images.mean, images.std))
    losses = [
        F.cross_entropy(
            functional_call(network, unflatten(network, w), (images - mean) / std),
            labels,
        ).item()
        for w in both[0]
    ]
    assert losses[-1] < losses[0]


def test_a_synthetic_step_equals_sgd(experts, monkeypatch):
    """MTT's loss equals the one of a module trained with torch's SGD."""
    seen = capture(monkeypatch, "mtt")
    options = QUICK | SHORT | {"ipc": 1, "steps": 1, "augment": False, "syn_batch": 9}
    distill(colour(), "mtt", experts=experts, **options)
    task, synthetic, state, loss = seen[0]
    task.generator.set_state(state)
    expert = task.experts[task.draw(2)]
    epoch = task.draw(2)
    network = ConvNet(3, 32)
    start, target = expert[epoch], expert[epoch + 2]
    for p, value in zip(
        network.parameters(), unflatten(network, start).values(), strict=True
    ):
        p.data.copy_(value)
    optimizer = torch.optim.SGD(network.parameters(), lr=task.config.syn_lr)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(network(synthetic), task.labels).backward()
        optimizer.step()
    student = flatten(network)
    expected = (student - target).square().sum() / (start - target).square().sum()
    torch.testing.assert_close(loss, expected, rtol=1e-3, atol=0)


def test_trajectory_matching_learns_pixels_and_step_size(experts):
    """The loss falls, and the step size is learned and recorded."""
    options = QUICK | SHORT | {"ipc": 2, "steps": 8, "lr_lr": 1e-5}
    result = distill(colour(), "mtt", experts=experts, **options)
    losses = result.provenance["losses"]
    assert losses[-1] < losses[0]
    assert result.provenance["learned_lr"] not in (0.01, 0.0)


def test_gradient_matching_lowers_its_loss():
    options = {"ipc": 1, "real_batch": 8, "device": "cpu", "progress": False}
    result = distill(colour(), "dsa", steps=12, lr=1.0, seed=1, **options)
    losses = result.provenance["losses"]
    assert sum(losses[-4:]) < sum(losses[:4])
    assert result.provenance["method"] == "DSA"
    assert result.images.shape == (3, 3, 32, 32)


def test_experts_of_other_data_are_refused(experts, tmp_path):
    images, labels, names = colour()
    for data, changes, message in (
        ((images.flip(0) ** 2, labels, names), {}, r"expert_000.*images is"),
        ((images.flip(-1), labels, names), {}, r"expert_000.*images is"),
        ((images, labels.roll(1), names), {}, r"expert_000.*labels is"),
        (colour(), {"expert_epochs": 4}, "epochs is 3 there and 4 here"),
        (colour(), {"dtype": torch.bfloat16}, "dtype is 'torch.float32' there"),
    ):
        with pytest.raises(InputError, match=message):
            distill(data, "mtt", **QUICK | SHORT | changes, experts=experts)
    path = tmp_path / "expert_000.safetensors"
    path.write_bytes((experts / "expert_001.safetensors").read_bytes())
    with pytest.raises(InputError, match="expert is 1 there and 0 here"):
        distill(colour(), "mtt", **QUICK | SHORT, experts=tmp_path)
    with safe_open(experts / "expert_000.safetensors", "pt") as file:
        record = file.metadata()
    whole = load_file(experts / "expert_000.safetensors")["weights"]
    for weights in (
        {"weights": torch.zeros(3, 2)},
        {"w": torch.zeros(1)},
        {},
        {"weights": whole.double()},
        {"weights": whole[:3]},
        {"weights": whole.index_fill(1, torch.tensor([7]), 0.5)},
    ):
        save_file(weights, path, record)
        with pytest.raises(InputError, match=r"expert_000.*it is damaged, or not"):
            distill(colour(), "mtt", **QUICK | SHORT, experts=tmp_path)
    path.write_bytes(b"half")
    with pytest.raises(InputError, match=r"expert_000.*can't be read"):
        distill(colour(), "mtt", **QUICK | SHORT, experts=tmp_path)
    save_file({"weights": torch.zeros(4, 2)}, path)
    with pytest.raises(InputError, match="it has no record 'expert'"):
        distill(colour(), "mtt", **QUICK | SHORT, experts=tmp_path)
    if hasattr(os, "mkfifo"):  # a pipe is not waited for
        path.unlink()
        os.mkfifo(path)
        with pytest.raises(InputError, match="not a regular file; expected tensors"):
            distill(colour(), "mtt", **QUICK | SHORT, experts=tmp_path)


def test_fewer_real_images_than_synthetic_ones():
    """Each class is matched all the same."""
    options = QUICK | {"ipc": 3, "real_batch": 2, "steps": 1}
    assert len(distill(colour(), "dc", **options)) == 9


@contextmanager
def set_around(name, value):
    """Set something of torch's for all of the process, and set it back."""
    before = getattr(torch, f"get_{name}")()
    getattr(torch, f"set_{name}")(value)
    try:
        yield
    finally:
        getattr(torch, f"set_{name}")(before)


@contextmanager
def everything_set(no_gradients):
    """Set all at once that a caller can have set for its own sake."""
    with (
        torch.autocast("cpu"),
        set_around("default_dtype", torch.float64),
        set_around("float32_matmul_precision", "medium"),
        set_around("num_threads", 2),
        no_gradients(),
    ):
        yield


NO_GRADIENTS = dict(
    zip(METHODS, 2 * [torch.no_grad, torch.inference_mode], strict=True)
)


AMPLE = {"ipc": 2, "steps": 1, "real_batch": 48, "device": "cpu", "progress": False}
AMPLE |= {"num_experts": 1, "expert_epochs": 1, "max_start_epoch": 1, "syn_steps": 2}
AMPLE |= {"target_epochs": 1, "outer_loops": 2, "inner_loops": 1}


@pytest.mark.parametrize("method", NO_GRADIENTS)
def test_what_is_set_around_changes_no_pixel(tmp_path, method):
    """Nor is torch's global generator moved."""
    data = colour(count=60)  # enough images that two threads would share them
    with set_around("num_threads", 1):
        alone = distill(data, method, **AMPLE, experts=tmp_path / "alone")
    with everything_set(NO_GRADIENTS[method]):
        torch.manual_seed(7)
        before = torch.get_rng_state()
        found = distill(data, method, **AMPLE, experts=tmp_path / "around")
        assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(found.images, alone.images)
    assert found.provenance == alone.provenance


# --- checkpoints --------------------------------------------------------------------


@pytest.mark.parametrize("method", ["dm", "dsa", "mtt"])  # DC is DSA without augment
def test_a_run_goes_on_where_it_stopped(method, experts, tmp_path, monkeypatch):
    """Interrupted after each of its steps, a run ends with the same bytes."""
    monkeypatch.setattr(checkpoint, "SECONDS", -1)
    options = QUICK | SHORT | {"steps": 3, "seed": 5}
    options |= {"outer_loops": 2, "inner_loops": 1, "num_experts": 2}
    if method == "mtt":
        options["experts"] = experts
    else:
        options["augment"] = True
    whole = distill(colour(), method, **options)
    path, original = tmp_path / "run.checkpoint", METHODS[method]
    for stop in range(2):

        def interrupted(task, synthetic, left=[1]):  # noqa: B006
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            yield from original(task, synthetic)

        monkeypatch.setitem(METHODS, method, interrupted)
        interrupted.__defaults__[0][0] = 1
        with pytest.raises(KeyboardInterrupt):
            distill(colour(), method, checkpoint=path, **options)
        assert torch.load(path, weights_only=True)["step"] == stop + 1
    monkeypatch.setitem(METHODS, method, original)
    resumed = distill(colour(), method, checkpoint=path, **options)
    assert torch.equal(resumed.images, whole.images)
    assert resumed.provenance == whole.provenance
    assert [*tmp_path.iterdir()] == [path]  # until the result is saved


def test_a_checkpoint_of_another_run_is_refused(tmp_path, monkeypatch):
    """What differs is named; the file stays as it was."""
    monkeypatch.setattr(checkpoint, "SECONDS", -1)
    path, original = tmp_path / "run.checkpoint", METHODS["dm"]

    def once(task, synthetic):
        if path.exists():
            raise KeyboardInterrupt
        yield from original(task, synthetic)

    monkeypatch.setitem(METHODS, "dm", once)
    with pytest.raises(KeyboardInterrupt):
        distill(colour(), "dm", checkpoint=path, **QUICK)
    before = path.read_bytes()
    images, labels, names = colour()
    for data, changes, message in (
        (colour(), {"lr": 0.5}, "lr is 2.0 there and 0.5 here"),
        (colour(), {"seed": 1}, "seed is 0 there and 1 here"),
        (colour(), {"steps": 3}, "steps is 2 there and 3 here"),
        (colour(), {"dtype": torch.bfloat16}, "dtype is 'torch.float32' there"),
        ((images, labels.roll(1), names), {}, "labels is"),
        ((images.flip(-1), labels, names), {}, "images is"),
        ((images, labels, names[::-1]), {}, "class names is"),
    ):
        with pytest.raises(InputError, match=message):
            distill(data, "dm", checkpoint=path, **QUICK | changes)
    with monkeypatch.context() as patch:
        patch.setattr("diver_lite.make.distill.RESULTS", 99)
        with pytest.raises(InputError, match=r"results of the code is \d there and 99"):
            distill(colour(), "dm", checkpoint=path, **QUICK)
    assert path.read_bytes() == before
    whole = torch.load(path, weights_only=True)
    for name, value in (
        *(("step", v) for v in (-1, 3, True, "1", None, 0.5)),
        *(("losses", v) for v in (None, {}, ["a"], [(1, None)])),
        *(("pending", v) for v in (None, "a", float("nan"))),
        *(("planned", v) for v in (None, 5)),
        *(("record", v) for v in ("", "{}", 5)),
        *(("optimizer", v) for v in ({}, 5)),
        *(("pixels", v) for v in ({}, {"0": torch.zeros(2)})),
        ("pixels", {k: v + 1 for k, v in whole["pixels"].items()}),
        ("pixels", {k: v.double() for k, v in whole["pixels"].items()}),
        ("optimizer", whole["optimizer"] | {"state": {0: {"momentum_buffer": 1}}}),
        ("task", {"generator": torch.Generator().manual_seed(7).get_state()}),
    ):
        torch.save(whole | {name: value}, path)
        with pytest.raises(InputError, match="it is damaged, or not as a run left it"):
            distill(colour(), "dm", checkpoint=path, **QUICK)
    del whole["planned"]
    for content in ([1, 2], whole, b"half"):
        torch.save(content, path)
        with pytest.raises(InputError, match="it is damaged, or not as a run left it"):
            distill(colour(), "dm", checkpoint=path, **QUICK)
    path.write_bytes(b"half")
    with pytest.raises(InputError, match="expected a checkpoint of this run"):
        distill(colour(), "dm", checkpoint=path, **QUICK)


def test_a_checkpoint_is_of_one_torch_and_one_kind_of_device(monkeypatch):
    """Another gives other numbers, so nothing goes on there."""
    monkeypatch.setattr(checkpoint, "fingerprint", lambda *_: "")
    monkeypatch.setattr(checkpoint.metadata, "version", {"torch": "99"}.get)
    images = torch.zeros(1, device="meta")
    found = checkpoint.made_from(images, images, ["a"], 1)
    assert (found["device"], found["torch"]) == ("meta", "99")


def test_one_flipped_bit_is_noticed(tmp_path, monkeypatch):
    """Wherever it lies among the tensors; torch doesn't check a zip's sums."""
    monkeypatch.setattr(checkpoint, "SECONDS", -1)
    path = tmp_path / "run.checkpoint"
    distill(colour(), "dm", checkpoint=path, **QUICK)
    whole = path.read_bytes()
    pixels = torch.load(path, weights_only=True)["pixels"]["0"].numpy().tobytes()
    at = whole.index(pixels) + 1000
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
    with pytest.raises(InputError, match="damaged"):
        distill(colour(), "dm", checkpoint=path, **QUICK)


def test_a_run_goes_on_with_its_own_experts(experts, tmp_path, monkeypatch):
    """Another machine's may have the same record, and other weights."""
    monkeypatch.setattr(checkpoint, "SECONDS", -1)
    path = tmp_path / "run.checkpoint"
    options = QUICK | SHORT | {"checkpoint": path}
    distill(colour(), "mtt", experts=experts, **options)
    trajectory = module._trajectory

    def rounded(*arguments):
        found = trajectory(*arguments)
        return {name: value + 1e-4 for name, value in found.items()}

    monkeypatch.setattr(module, "_trajectory", rounded)
    with pytest.raises(InputError, match=r"run\.checkpoint.*experts is"):
        distill(colour(), "mtt", experts=tmp_path / "others", **options)
    shutil.copytree(experts, tmp_path / "moved")
    distill(colour(), "mtt", experts=tmp_path / "moved", **options)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (0.5, r"deviation per channel is \[.*0\.0\]; .* constant images teach nothing"),
        (float("nan"), "dataset: images hold 1024 NaN"),
    ],
)
def test_images_that_teach_nothing(value, message):
    """They are to blame, not the learning rate."""
    images, labels, names = colour()
    images[:, 2] = value if value == 0.5 else images[:, 2]
    images[7, 2] = value
    with pytest.raises(InputError, match=message):
        distill((images, labels, names), "dm", **QUICK)


def test_statistics_are_those_of_all_images():
    """Of a folder sorted by class the first 10,000 are of a few classes."""
    images = torch.zeros(10_010, 1, 1, 1)
    images[10_000:] = 1.0
    _, mean, std = module._normalised(images)
    assert mean.item() == pytest.approx(10 / 10_010)
    assert std.item() == pytest.approx(images.std().item())


def test_pixels_that_become_nan_are_named(tmp_path, monkeypatch):
    """And never saved, though they are looked at in few steps of many."""
    monkeypatch.setattr(checkpoint, "SECONDS", -1)
    options = QUICK | {"lr": 1e38, "steps": 1_000, "checkpoint": tmp_path / "state"}
    with pytest.raises(FloatingPointError, match=r"dm: pixels became NaN.*smaller lr"):
        distill(colour(), "dm", **options)
    if (tmp_path / "state").exists():
        state = torch.load(tmp_path / "state", weights_only=True)
        assert all(value.isfinite().all() for value in state["pixels"].values())


def test_recipes_are_the_published_ones():
    """Loops of DC and DSA by IPC, as in their code; DM's rate grows with IPC."""
    assert (recipe("dc", 1).outer_loops, recipe("dc", 1).inner_loops) == (1, 0)
    assert (recipe("dsa", 10).outer_loops, recipe("dsa", 10).inner_loops) == (10, 50)
    assert (recipe("dsa", 50).outer_loops, recipe("dsa", 50).inner_loops) == (50, 10)
    assert recipe("dc", 10).augment is False
    assert recipe("dsa", 10).augment is True
    assert (recipe("dm", 10).lr, recipe("dm", 10).steps) == (10, 20_000)
    assert recipe("mtt", 1).max_start_epoch == 2
    assert isinstance(recipe("mtt", 10), DistillConfig)
