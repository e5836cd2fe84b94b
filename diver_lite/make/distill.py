"""Stage I: squeeze a training set into a few images per class.

Four methods, each a generator of losses for the pixels to descend, in the order of
what they ask of the images:

- `distribution_matching` (DM): the same mean features as real images, in random
  networks;
- `gradient_matching` (DC; DSA with augmentation): the same gradients as real images,
  in networks that are being trained;
- `trajectory_matching` (MTT): that training on them moves the weights to where
  training on real images moved them.

`distill` runs one of them, with checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parameters_to_vector
from tqdm.auto import tqdm

from diver_lite.checks import ensure, floats, integer, one_of, require, settings
from diver_lite.devices import plain_torch
from diver_lite.files import check_writable, fingerprint
from diver_lite.judge.augment import dsa
from diver_lite.judge.networks import ConvNet
from diver_lite.judge.seeding import Seeded
from diver_lite.make.baselines import draw_rows, rows_by_class
from diver_lite.make.checkpoint import Training, kept, made_from
from diver_lite.priors.loading import resolve_device
from diver_lite.sets.distilled import DistilledSet
from diver_lite.sets.real import Dataset, labelled_images
from diver_lite.sets.stored import one_channel

# Raise it whenever the pixels may become others than before; a test of stored results
# (tests/make/test_stored_sets.py) fails where somebody forgot. Checkpoints and experts
# are taken only with the same number.
RESULTS = 3


@dataclass(frozen=True)
class DistillConfig:
    """Everything that can be chosen about one distillation.

    Attributes:
        steps: iterations, each with a fresh network (DM, DC, DSA) or expert (MTT).
        lr: learning rate of the pixels, in the data's standard deviations.
        init: start from "real" images or from "noise".
        real_batch: real images per class and step.
        augment: apply one DSA operation to real and synthetic images alike.
        outer_loops: (DC, DSA) times a network is matched before a fresh one comes.
        inner_loops: (DC, DSA) steps it is trained on the synthetic set in between.
        network_lr: learning rate of those steps, and of MTT's experts.
        num_experts: (MTT) trajectories to train and to choose from.
        expert_epochs: (MTT) epochs on real data of each trajectory.
        max_start_epoch: (MTT) the latest epoch to start from, exclusive.
        target_epochs: (MTT) epochs on real data that the synthetic steps shall equal.
        syn_steps: (MTT) training steps on the synthetic set, unrolled.
        syn_batch: (MTT) synthetic images in such a step; a smaller set is used whole.
        syn_lr: (MTT) initial step size of those steps; it is learned along.
        lr_lr: (MTT) learning rate of that step size.

    Source: the papers' published code, see `recipe`.
    """

    steps: int
    lr: float
    init: Literal["real", "noise"]
    real_batch: int = 256
    augment: bool = True
    outer_loops: int = 1
    inner_loops: int = 0
    network_lr: float = 0.01
    num_experts: int = 100
    expert_epochs: int = 50
    max_start_epoch: int = 20
    target_epochs: int = 2
    syn_steps: int = 30
    syn_batch: int = 256
    syn_lr: float = 0.01
    lr_lr: float = 1e-5

    def __post_init__(self) -> None:
        settings(self, {"inner_loops": 0})
        last = self.max_start_epoch + self.target_epochs - 1
        ensure(
            self.expert_epochs >= last,
            f"expert_epochs is {self.expert_epochs}; expected at least max_start_epoch "
            f"+ target_epochs - 1 = {last}",
        )


def recipe(method: str, ipc: int, **changes: Any) -> DistillConfig:
    """Return the published settings of "dm", "dc", "dsa" or "mtt", with changes.

    The images per class, `ipc`, set DM's rate, the loops of DC and DSA and the start of
    MTT. Raises `InputError`: unknown method or field, or a value out of range.

    Source: Zhao and Bilen's code, whose DM loss is a mean over the class's images, so
    the rate grows with `ipc`; Cazenavette et al.'s CIFAR-10 settings without whitening.
    """
    one_of(method, "method", [*METHODS])
    ipc = integer(ipc, "ipc", 1, 100_000)
    for name in changes:
        one_of(name, "field of DistillConfig", [f.name for f in fields(DistillConfig)])
    values = dict(_PUBLISHED[method])
    if method == "dm":
        values["lr"] = 1.0 * ipc
    elif method == "mtt" and ipc == 1:
        values |= {"syn_steps": 50, "max_start_epoch": 2, "lr_lr": 1e-7}
    elif method in ("dc", "dsa"):
        values |= _LOOPS[min(_LOOPS, key=lambda known: abs(known - ipc))]
    return DistillConfig(**values | changes)


# (DC, DSA) per number of images per class
_LOOPS = {
    ipc: {"outer_loops": outer, "inner_loops": inner}
    for ipc, outer, inner in (
        (1, 1, 0),
        (10, 10, 50),
        (20, 20, 25),
        (30, 30, 20),
        (50, 50, 10),
    )
}
_MATCHING = {"steps": 1_000, "lr": 0.1, "init": "noise"}
_PUBLISHED: dict[str, dict[str, Any]] = {
    "dm": {"steps": 20_000, "init": "real"},
    "dc": _MATCHING | {"augment": False},
    "dsa": _MATCHING,
    "mtt": {"steps": 5_000, "lr": 100.0, "init": "real"},
}


@dataclass
class Task:
    """What a method works on: real images, a source of chance, and a network.

    Attributes:
        images: (N, ch, H, W) real images, normalised, on the device.
        labels: (C * ipc,) of the synthetic images, class-major.
        per_class: for each class, the indices of its real images.
        network: a ConvNet whose weights `redraw` replaces.
        generator: a CPU generator that everything random draws from.
        config: the settings.
        compile: compile `embed` and `classify`, which need no second derivative.
        dtype: of these two.
        threads: of the CPU; each may compute a class, as the sums of one are the same
            whatever the others do.
        experts: (MTT) one (epochs + 1, P) tensor of weights per trajectory.
        syn_lr: (MTT) the learned step size.
    """

    images: Tensor
    labels: Tensor
    per_class: list[Tensor]
    network: ConvNet
    generator: torch.Generator
    config: DistillConfig
    compile: bool = False
    dtype: torch.dtype = torch.float32
    threads: int = 1
    experts: list[Tensor] = field(default_factory=list)
    syn_lr: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self._embed: Callable = self.network.embed
        self._classify: Callable = self.network
        if self.compile:
            self._embed = torch.compile(self.network.embed)
            self._classify = torch.compile(self.network)
        self.syn_lr = torch.tensor(
            self.config.syn_lr, device=self.images.device, requires_grad=True
        )

    def embed(self, images: Tensor) -> Tensor:
        """Return features (B, D) in float32."""
        return self._in_float32(self._embed, images)

    def classify(self, images: Tensor) -> Tensor:
        """Return logits (B, C) in float32."""
        return self._in_float32(self._classify, images)

    def _in_float32(self, function: Callable, images: Tensor) -> Tensor:
        low = self.dtype != torch.float32
        with torch.autocast(images.device.type, self.dtype, low):
            return function(images).float()

    def each(self, function: Callable, *parts: Iterable) -> list:
        """Return what `map` does, on a CPU several at a time, each on a thread."""
        alone = self.compile or self.images.device.type != "cpu"
        if alone or self.threads == 1:
            return [*map(function, *parts)]
        with ThreadPoolExecutor(self.threads) as pool:
            return [*pool.map(function, *parts)]

    def redraw(self) -> None:
        """Give the network new random weights."""
        _, channels, _, size = self.images.shape
        with Seeded(torch.Generator().manual_seed(self.draw(2**31))):
            fresh = ConvNet(len(self.per_class), size, channels)
        self.network.load_state_dict(fresh.state_dict())

    def draw(self, high: int) -> int:
        """Return a random integer in [0, high)."""
        return int(torch.randint(high, (), generator=self.generator))

    def real(self, label: int) -> Tensor:
        """Return (real_batch, ch, H, W): random real images of a class."""
        rows = self.per_class[label]
        size = (self.config.real_batch,)
        chosen = torch.randint(len(rows), size, generator=self.generator)
        return self.images[rows[chosen].to(self.images.device)]

    def augment(self, images: Tensor, *, siamese: bool = False) -> Tensor:
        """Apply DSA with random strengths, the same for all if siamese, or nothing."""
        if not self.config.augment:
            return images
        return dsa(images, self.generator, siamese=siamese)

    def augment_alike(self, *batches: Tensor) -> tuple[Tensor, ...]:
        """Apply one random DSA operation to all batches, or nothing."""
        together = self.augment(torch.cat(batches), siamese=True)
        return together.split([len(batch) for batch in batches])

    def state_dict(self) -> dict[str, Tensor]:
        """Return what changes from step to step: the source of chance."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from a state."""
        self.generator.set_state(state["generator"])


def descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """Take a step, of what the optimizer holds and nothing else."""
    optimizer.zero_grad()
    loss.backward(
        inputs=[p for group in optimizer.param_groups for p in group["params"]]
    )
    optimizer.step()


def distribution_matching(task: Task, synthetic: Tensor) -> Iterator[Tensor]:
    """Yield DM's loss: the squared distance of mean features, summed over classes.

    || mean f(A(real)) - mean f(A(synthetic)) ||^2, for one random ConvNet f and one
    random DSA operation A. No network is ever trained.

    Source: Zhao and Bilen 2023, "Dataset condensation with distribution matching",
    eq. 6.
    """
    classes = len(task.per_class)
    task.redraw()
    task.network.requires_grad_(False)
    real = torch.cat([task.real(label) for label in range(classes)])
    real, ours = task.augment_alike(real, synthetic)
    # on a CPU a class at a time; a GPU takes all at once
    size = task.config.real_batch if real.device.type == "cpu" else len(real)
    target = torch.cat(task.each(task.embed, real.detach().split(size)))
    target = target.view(classes, task.config.real_batch, -1).mean(1)
    ours = task.embed(ours).view(classes, len(synthetic) // classes, -1).mean(1)
    yield ((target - ours) ** 2).sum()


def gradient_matching(task: Task, synthetic: Tensor) -> Iterator[Tensor]:
    """Yield the losses of DC or DSA for one random network, while it is trained.

    A loss compares, class by class, the gradient of the weights on real images with
    that on the synthetic ones. Between two losses the network takes a few steps on the
    synthetic set, so that matching goes on where training would lead.

    Source: Zhao, Mopuri and Bilen 2021, "Dataset condensation with gradient matching",
    algorithm 1; with augmentation Zhao and Bilen 2021, "Dataset condensation with
    differentiable siamese augmentation".
    """
    config = task.config
    network = task.network
    task.redraw()
    network.requires_grad_(True)
    weights = [p for p in network.parameters() if p.ndim > 1]
    optimizer = torch.optim.SGD(network.parameters(), lr=config.network_lr)
    for outer in range(config.outer_loops):
        if outer > 0:
            for _ in range(config.inner_loops):
                x = task.augment(synthetic.detach())
                descend(optimizer, F.cross_entropy(task.classify(x), task.labels))
        labels = range(len(task.per_class))
        pairs = [
            task.augment_alike(task.real(label), synthetic[task.labels == label])
            for label in labels
        ]

        def distance(label: int, real: Tensor, ours: Tensor) -> Tensor:
            theirs = F.cross_entropy(task.classify(real), all_of(label, real))
            target = torch.autograd.grad(theirs, weights)
            mine = F.cross_entropy(network(ours), all_of(label, ours))
            gradient = torch.autograd.grad(mine, weights, create_graph=True)
            return gradient_distance(target, gradient)

        real = [each.detach() for each, _ in pairs]
        ours = [each for _, each in pairs]
        yield torch.stack(task.each(distance, labels, real, ours)).sum()


def all_of(label: int, images: Tensor) -> Tensor:
    """Return the labels (B,) of images that are all of one class."""
    return torch.full((len(images),), label, device=images.device)


def gradient_distance(first: tuple[Tensor, ...], second: tuple[Tensor, ...]) -> Tensor:
    """Sum 1 - cosine of gradients (out, in, ...) over the output units of all layers.

    Source: DC, section 3.2 (equation 10), with the published code's 1e-6.
    """
    total = torch.zeros((), device=first[0].device)
    for a, b in zip(first, second, strict=True):
        a = a.flatten(1)
        b = b.flatten(1)
        norms = a.norm(dim=1) * b.norm(dim=1)
        total = total + (1 - (a * b).sum(1) / (norms + 1e-6)).sum()
    return total


def trajectory_matching(task: Task, synthetic: Tensor) -> Iterator[Tensor]:
    """Yield MTT's loss: how far training on the synthetic images ends from an expert.

    || student - expert[e + M] ||^2 / || expert[e] - expert[e + M] ||^2, where the
    student starts at expert[e] and takes N steps on synthetic images, all of which are
    differentiated through. The step size is learned along with the pixels.

    Source: Cazenavette et al. 2022, "Dataset distillation by matching training
    trajectories", eq. 2 and algorithm 1.
    """
    config = task.config
    expert = task.experts[task.draw(len(task.experts))]
    epoch = task.draw(config.max_start_epoch)
    start = expert[epoch].to(synthetic.device)
    target = expert[epoch + config.target_epochs].to(synthetic.device)
    student = start.clone().requires_grad_(True)
    order: list[Tensor] = []
    for _ in range(config.syn_steps):
        if not order:
            shuffled = torch.randperm(len(synthetic), generator=task.generator)
            order = list(shuffled.to(synthetic.device).split(config.syn_batch))
        index = order.pop()
        x = task.augment(synthetic[index])
        logits = functional_call(task.network, unflatten(task.network, student), x)
        loss = F.cross_entropy(logits, task.labels[index])
        (gradient,) = torch.autograd.grad(loss, student, create_graph=True)
        student = student - task.syn_lr * gradient
    yield ((student - target) ** 2).sum() / ((start - target) ** 2).sum()


def flatten(network: nn.Module) -> Tensor:
    """Return all parameters as one vector (P,)."""
    return parameters_to_vector(network.parameters()).detach()


def unflatten(network: nn.Module, vector: Tensor) -> dict[str, Tensor]:
    """Return views of a vector (P,) with the names and shapes of the parameters."""
    named = dict(network.named_parameters())
    parts = vector.split([p.numel() for p in named.values()])
    pairs = zip(named, parts, strict=True)
    return {name: part.view_as(named[name]) for name, part in pairs}


METHODS = {
    "dm": distribution_matching,
    "dc": gradient_matching,
    "dsa": gradient_matching,
    "mtt": trajectory_matching,
}


def distill(
    dataset: Dataset,
    method: str = "dm",
    *,
    ipc: int,
    seed: int = 0,
    experts: str | Path | None = None,
    compile: bool | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device | None = None,
    progress: bool = True,
    checkpoint: str | Path | None = None,
    **changes: Any,
) -> DistilledSet:
    """Distil a dataset into `ipc` images per class.

    Args:
        dataset: (images (N, 3, H, W) in [0, 1], labels (N,), class names).
        method: "dm", "dc", "dsa" or "mtt".
        ipc: images per class, >= 1.
        seed: of initialisation, batches, networks and augmentation.
        experts: (MTT) folder of trajectories; missing ones are trained there first.
        compile: use torch.compile for what needs no second derivative; default: on
            CUDA only, for it costs half a minute at the start.
        dtype: of the same parts; torch.bfloat16 is faster where hardware has it.
        device: default: CUDA if there is one.
        checkpoint: file to go on from and to save to each minute; delete it when the
            result is saved.
        changes: fields of `DistillConfig` that differ from `recipe(method, ipc)`.

    Returns:
        A class-major `DistilledSet` of C * ipc images; pixels are not clipped.

    Raises:
        InputError: a value out of range, a class with fewer images than `ipc`, a
            checkpoint or trajectories of another run.
        FloatingPointError: pixels became NaN or infinite.
    """
    with plain_torch(grad=True) as threads:
        config = recipe(method, ipc, **changes)
        seed = integer(seed, "seed", 0)
        images, labels, class_names = labelled_images(dataset, "dataset")
        per_class = rows_by_class(labels, class_names, ipc)
        device = resolve_device(device)
        if compile is None:
            compile = device.type == "cuda"
        images, mean, std = _normalised(images)
        classes = len(class_names)
        _, channels, _, size = images.shape
        network = _untrained(classes, size, channels, seed)
        task = Task(
            images.to(device),
            torch.arange(classes, device=device).repeat_interleave(ipc),
            per_class,
            network.to(device),
            torch.Generator().manual_seed(seed),
            config,
            compile=compile,
            dtype=dtype,
            threads=threads,
        )
        # the initial pixels are drawn first, so they are the same for every method
        synthetic = nn.Parameter(_initial(task, ipc).to(device))
        wanted = [{"params": [synthetic], "lr": config.lr}]
        if method == "mtt":
            task.experts = _train_experts(task, labels, class_names, experts, progress)
            wanted.append({"params": [task.syn_lr], "lr": config.lr_lr})
        record = _record(method, ipc, seed, config, mean, std)
        optimizer = torch.optim.SGD(wanted, lr=config.lr, momentum=0.5)
        made = {
            **record,
            **made_from(task.images, labels, class_names, RESULTS),
            "dtype": str(dtype),
            "compile": compile,
            "experts": fingerprint(task.experts),
        }
        pixels = nn.ParameterList([synthetic, task.syn_lr])
        parts = {"pixels": pixels, "task": task, "optimizer": optimizer}
        path = None if checkpoint is None else Path(checkpoint)
        training = Training(method.upper(), config.steps, parts, path, made, progress)
        training.check = lambda: _check_pixels(
            synthetic, method, training.step, config.lr
        )
        # the others' loss is a sum over classes
        terms = 1 if method == "mtt" else classes
        every = max(1, config.steps // 100)  # a look at the loss waits for the GPU
        for step in training:
            for loss in METHODS[method](task, synthetic):
                descend(optimizer, loss)
            if step % every == 0 or step == config.steps - 1:
                training.losses.append(round(loss.item() / terms, 5))
                training.bar.set_postfix(loss=training.losses[-1])
                _check_pixels(synthetic, method, step, config.lr)
        losses = training.losses
        if method == "mtt":
            record = record | {"learned_lr": float(task.syn_lr.detach())}
        images = synthetic.detach().cpu() * std + mean
        return DistilledSet(
            images.expand(-1, 3, -1, -1).contiguous(),
            task.labels.cpu(),
            class_names,
            provenance=record | {"final_loss": round(losses[-1], 4), "losses": losses},
        )


def _record(
    method: str, ipc: int, seed: int, config: DistillConfig, mean: Tensor, std: Tensor
) -> dict[str, Any]:
    """Return what the set's provenance says of its making, before the losses."""
    norm = {"mean": mean.flatten().tolist(), "std": std.flatten().tolist()}
    record = {"method": method.upper(), "ipc": int(ipc), **asdict(config)}
    return record | {"seed": seed, "proxy": "ConvNet", "normalisation": norm}


def _check_pixels(pixels: Tensor, method: str, step: int, lr: float) -> None:
    if not torch.isfinite(pixels).all():
        raise FloatingPointError(
            f"{method}: pixels became NaN or infinite at step {step}; try a smaller lr "
            f"than {lr}"
        )


def _normalised(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return normalised images and (1, ch, 1, 1) mean and std; grey is one channel."""
    images = one_channel(images)  # that is optimised, and repeated at the end
    mean = images.mean((0, 2, 3), keepdim=True).float()
    std = images.std((0, 2, 3), keepdim=True).float()
    require(
        bool(((std > 0) & std.isfinite()).all()),
        "dataset: the images' deviation per channel",
        std.flatten().tolist(),
        "finite ones above 0; constant images teach nothing",
    )
    return (images - mean) / std, mean, std


def _untrained(classes: int, size: int, channels: int, seed: int) -> ConvNet:
    """Return the proxy network, whose weights the methods replace."""
    with Seeded(torch.Generator().manual_seed(seed)):
        return ConvNet(classes, size, channels)


def _initial(task: Task, ipc: int) -> Tensor:
    if task.config.init == "noise":
        shape = (len(task.labels), *task.images.shape[1:])
        return torch.randn(shape, generator=task.generator)
    chosen = draw_rows(task.per_class, ipc, task.generator)
    return task.images[chosen.to(task.images.device)].clone()


def _train_experts(
    task: Task,
    labels: Tensor,
    classes: Sequence[str],
    folder: str | Path | None,
    progress: bool,
) -> list[Tensor]:
    """Train MTT's experts on all real images, or load those that a folder holds.

    Expert k is trained with seed k by SGD without momentum, on batches of 256 with DSA
    augmentation; an incomplete last batch is left out. Each is (expert_epochs + 1, P):
    the weights before training and after each epoch, on the CPU. The task's network
    loses its weights.

    Source: Cazenavette et al. 2022, section 3.2.
    """
    ensure(
        folder is not None,
        "method 'mtt' needs a folder for its expert trajectories: pass experts "
        "(--experts on the command line); missing ones are trained there",
    )
    folder = Path(folder or ".")
    check_writable(folder / "expert_000.safetensors", overwrite=True)
    config = task.config
    record = made_from(task.images, labels, classes, RESULTS)
    record |= {
        "epochs": config.expert_epochs,
        "lr": config.network_lr,
        "augment": config.augment,
        "dtype": str(task.dtype),
        "compile": task.compile,
    }
    labels = labels.to(task.images.device)
    trajectories = []
    for seed in range(config.num_experts):
        generator = torch.Generator().manual_seed(seed)
        expert = replace(task, labels=labels, generator=generator)
        train = partial(_trajectory, expert, f"expert {seed}", progress)
        path = Path(folder, f"expert_{seed:03d}.safetensors")
        found = kept(path, "expert", record | {"expert": seed}, train)
        weights = found.get("weights")
        shape = (config.expert_epochs + 1, len(flatten(task.network)))
        floats(weights, f"weights of the expert in {path}", shape)
        trajectories.append(weights)
    return trajectories


def _trajectory(task: Task, name: str, progress: bool) -> dict[str, Tensor]:
    task.redraw()
    optimizer = torch.optim.SGD(task.network.parameters(), lr=task.config.network_lr)
    weights = [flatten(task.network).cpu()]
    count = len(task.images)
    size = min(256, count)
    bar = tqdm(range(task.config.expert_epochs), name, disable=not progress)
    for _ in bar:
        order = torch.randperm(count, generator=task.generator).split(size)
        for index in order[: count // size]:
            index = index.to(task.images.device)
            x = task.augment(task.images[index])
            loss = F.cross_entropy(task.classify(x), task.labels[index])
            descend(optimizer, loss)
        weights.append(flatten(task.network).cpu())
        bar.set_postfix(loss=f"{loss.item():.3f}")
    return {"weights": torch.stack(weights)}
