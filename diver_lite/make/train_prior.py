"""Train a prior: first the VAE, then a DiT on its latents.

Both run through one loop, `_optimise`, which keeps an exponential moving average and a
checkpoint, and stops when its time is up; `train_prior` then goes on from there. Batch
n is drawn from a generator seeded by n, so a run in pieces sees the same batches.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from diver_lite.checks import (
    instance,
    integer,
    number,
    one_of,
    path,
    require,
    settings,
)
from diver_lite.devices import plain_torch
from diver_lite.files import atomic_path, check_writable, exclusive, fingerprint
from diver_lite.judge.seeding import Seeded
from diver_lite.make.checkpoint import Training, made_from, read
from diver_lite.priors.loading import load_prior, resolve_device
from diver_lite.priors.schedule import DIT
from diver_lite.sets.real import describe_source, load_dataset
from diver_lite.sets.stored import one_channel

CURVE_POINTS = 50  # of a loss curve, at least
# fields of a recipe that the VAE doesn't depend on
OF_THE_DIT = frozenset(
    {
        *("heads", "head_dim", "layers", "patch_size", "dit_batch", "dit_lr"),
        *("label_dropout", "snr_gamma", "objective", "image_fit"),
    }
)


@dataclass(frozen=True)
class PriorRecipe:
    """Sizes and schedules of one prior; the defaults are Fashion-MNIST's.

    Attributes:
        dataset: a name that `load_dataset` knows; its `fit` split is trained on.
        flip: add mirrored images (natural images yes, shoes that all point left no).
        image_fit: how the prior brings images of another size to its own.
        vae_channels: channels per resolution, each half of the one before. One halving
            keeps the reconstruction sharp, which matters more than the size of the DiT.
        kl_weight: weight of the mean KL per latent element.
        heads, head_dim, layers, patch_size: the DiT; 64 tokens for 16x16 latents.
        vae_steps, vae_batch, vae_lr: optimisation of the VAE.
        dit_steps, dit_batch, dit_lr: optimisation of the DiT.
        label_dropout: probability of replacing a label by "no class".
        ema_decay: of the averaged weights that are kept.
        snr_gamma: weigh the DiT's loss by min(SNR, gamma) / SNR (Hang et al. 2023), so
            that nearly clean latents, whose noise is mostly guesswork, don't outweigh
            the others; None weighs all alike.
        objective: predict the "noise" of DiT's schedule, or, as SiT does ("flow"), the
            velocity noise - z_0 on the straight path (1 - s) z_0 + s noise.
        vae: take the VAE of this prior (name or folder) instead of training one.
    """

    dataset: str = "fashion-mnist"
    flip: bool = False
    image_fit: Literal["pad", "resize"] = "pad"
    vae_channels: tuple[int, ...] = (16, 32)
    kl_weight: float = 2e-3
    heads: int = 3
    layers: int = 6
    vae_steps: int = 2_500
    dit_steps: int = 6_600
    dit_lr: float = 6e-4
    head_dim: int = 64
    patch_size: int = 2
    latent_channels: int = 4
    vae_batch: int = 64
    vae_lr: float = 1e-3
    dit_batch: int = 128
    label_dropout: float = 0.1
    ema_decay: float = 0.999
    snr_gamma: float | None = None
    objective: Literal["noise", "flow"] = "noise"
    vae: str | None = None

    def __post_init__(self) -> None:
        settings(self, {})
        require(
            self.objective != "flow" or self.snr_gamma is None,
            "snr_gamma",
            self.snr_gamma,
            "None with objective 'flow', whose loss weighs all alike",
        )
        for name in ("heads", "head_dim", "layers", "latent_channels"):
            integer(getattr(self, name), name, 1, 1000)
        for name in ("label_dropout", "ema_decay"):
            number(getattr(self, name), name, 0, 1)
        instance(self.vae_channels, "vae_channels", tuple)
        count = integer(len(self.vae_channels), "number of vae_channels", 1, 6)
        for each in self.vae_channels:
            whole = integer(each, "vae_channels", 16, 10_000) % 16 == 0
            require(whole, "vae_channels", each, "a multiple of 16")
        side = 32 // 2 ** (count - 1)
        require(
            side % self.patch_size == 0,
            "patch_size",
            self.patch_size,
            f"a divisor of {side}, the side of the latents",
        )


# Raise it whenever the weights may become others than before; a test of stored results
# (tests/make/test_stored_sets.py) fails where somebody forgot. Checkpoints are taken
# only with the same number.
RESULTS = 2

RECIPES = {
    # sized for two CPU cores and about 75 minutes: the shipped prior was made so, but
    # for the narrow start of the posterior, which came later
    "fashion-mnist": PriorRecipe(),
    # sized for two CPU cores with bf16 matrix units and 100 minutes (with compile=True)
    "cifar10": PriorRecipe(
        dataset="cifar10",
        flip=True,
        image_fit="resize",
        vae_channels=(48, 96),
        kl_weight=1e-3,
        heads=4,
        layers=7,
        vae_steps=3_600,
        dit_steps=9_800,
        dit_lr=1e-3,
        snr_gamma=5.0,
    ),
}


@plain_torch(grad=True, single=False)
def train_prior(
    name: str,
    out: str | Path,
    *,
    data_root: str | Path | None = None,
    device: str | torch.device | None = None,
    minutes: float | None = None,
    recipe: PriorRecipe | None = None,
    compile: bool | None = None,
    progress: bool = True,
    on_step: Callable[[str, int, float], None] | None = None,
    **changes: Any,
) -> bool:
    """Train a prior, or go on training it, and export it when it is done.

    Args:
        name: "fashion-mnist" or "cifar10": which recipe, unless one is given.
        out: working folder; checkpoints lie in it, the finished prior in `out/prior`.
        data_root: where the training data is, see `load_dataset`.
        device: default: CUDA if there is one.
        minutes: stop after so many minutes, with a checkpoint; None runs to the end.
        compile: use `torch.compile` (default: on CUDA only).
        on_step: called with "vae" or "dit", the number of the step and its loss; on a
            GPU this waits for every step, so leave it out of long runs.
        changes: fields of the recipe to change, such as `dit_steps=2000`.

    Of a run that is there already, finished or not, only more steps may be asked for.
    It then goes on at the learning rate that a run of so many has there; of the VAE
    only until the DiT has begun.

    Returns:
        True if training is complete, False if time ran out.

    Raises:
        InputError: unknown recipe or field, no data, or a checkpoint that doesn't fit.
        FloatingPointError: a loss or a gradient became NaN or infinite; the checkpoint
            from before stays.

    Source: VAE: Kingma and Welling 2014 with L1 terms; DiT: Peebles and Xie 2023,
    epsilon loss; the sizes: ours.
    """
    recipe = _recipe(name, recipe, changes)
    deadline = math.inf
    if minutes is not None:
        deadline = time.monotonic() + 60 * number(minutes, "minutes", 0)
    device = resolve_device(device)
    out = _working_folder(out)
    images, labels, class_names = load_dataset(recipe.dataset, "fit", root=data_root)
    source = f"{describe_source(recipe.dataset, root=data_root)}, fit split"
    images = one_channel(images).to(device)
    labels = labels.to(device)
    vae, dit = _untrained(recipe, len(class_names), device)
    on_gpu = device.type == "cuda"
    if compile is None:
        compile = on_gpu
    optimise = partial(
        _optimise, recipe=recipe, folder=out, deadline=deadline, progress=progress,
        on_step=on_step,
    )  # fmt: skip
    losses: dict[str, list] = {"vae": []}
    planned: dict[str, list] = {}
    made = made_from(images, labels, class_names, RESULTS) | _without_steps(recipe)
    made |= {"diffusers": metadata.version("diffusers")}
    of_vae = {k: v for k, v in made.items() if k not in OF_THE_DIT}
    with exclusive(out, out / ".lock"):
        if recipe.vae is None:
            # more steps would give latents that a DiT which is there has never seen
            made |= {"vae_steps": recipe.vae_steps}
            if (out / "dit.pt").exists():
                read(out / "dit.pt", {"vae_steps": recipe.vae_steps})
            training = optimise(
                vae,
                "vae",
                partial(_vae_loss, vae, images, recipe),
                record=of_vae,
                decay=min(recipe.ema_decay, 0.999),
                compile=compile and on_gpu,  # on a CPU it gains 7 %, and takes a minute
            )
            if training.step < training.steps:
                return False
            losses["vae"] = training.losses
            planned["vae"] = training.planned
        latents, scaling_factor = _encode_all(vae, images, recipe.flip)
        vae.register_to_config(scaling_factor=scaling_factor)
        encoder = {"weights of the vae": fingerprint(vae.state_dict().values())}
        training = optimise(
            dit,
            "dit",
            partial(_dit_loss, dit, latents, labels, recipe),
            record=made | encoder,
            decay=recipe.ema_decay,
            compile=compile,
        )
        if training.step < training.steps:
            return False
        losses["dit"] = training.losses
        planned["dit"] = training.planned
        export_prior(
            out / "prior", vae, dit, class_names, name, recipe, source, losses, planned
        )
        return True


def _recipe(name: str, recipe: PriorRecipe | None, changes: dict) -> PriorRecipe:
    """Return the recipe that is asked for, with its changes."""
    for field in changes:
        one_of(field, "field of the recipe", [*vars(PriorRecipe())])
    recipe = recipe or RECIPES[one_of(name, "recipe", [*RECIPES])]
    return replace(recipe, **changes)


def _working_folder(out: str | Path) -> Path:
    """Return the folder as a path; refuse one in which nothing could be written."""
    out = path(out, "out")
    require(not out.is_file(), "output", str(out), "a working folder, not a file")
    for part in ("vae.pt", "dit.pt", "prior"):
        check_writable(out / part, overwrite=True)
    return out


def _without_steps(recipe: PriorRecipe) -> dict[str, Any]:
    """Return a recipe's fields but for the numbers of steps: more may be asked for."""
    fields = json.loads(json.dumps(asdict(recipe)))
    return {k: v for k, v in fields.items() if k not in ("vae_steps", "dit_steps")}


def _untrained(recipe: PriorRecipe, classes: int, device: torch.device) -> tuple:
    """Return VAE and DiT, whose initial weights are always the same."""
    with Seeded(torch.Generator().manual_seed(0)):
        vae = build_vae(recipe).to(device)
        dit = build_dit(recipe, classes).to(device)
    if recipe.vae:
        found = load_prior(recipe.vae, device=device, dtype=torch.float32).vae
        for field in ("latent_channels", "block_out_channels"):
            own = vae.config[field]  # a list, where a file was read
            same = np.array_equal(own, found.config[field])
            require(same, f"{field} of vae {recipe.vae!r}", found.config[field], own)
        vae = found
    if device.type != "cuda":
        _use_plain_attention(dit)
    return vae, dit


def _cpu_has_bf16_matrix_units() -> bool:
    check = getattr(torch.cpu, "_is_amx_tile_supported", None)  # newer PyTorch only
    return bool(check and check())


def _use_plain_attention(dit) -> None:
    """Replace fused attention: on a CPU its backward pass takes a third of a step."""
    from diffusers.models.attention_processor import AttnProcessor

    for block in dit.transformer_blocks:
        block.attn1.set_processor(AttnProcessor())


def _diffusers() -> Any:
    """Return diffusers, late; its annotations are narrower than what it takes."""
    import diffusers

    return diffusers


def build_vae(recipe: PriorRecipe) -> Any:
    """Build an untrained `AutoencoderKL` with a halving per entry after the first.

    Its posterior starts narrow (a variance of e^-6): one of unit variance would drown
    the signal, and the first hundreds of steps would go into learning to shrink it.
    """
    depth = len(recipe.vae_channels)
    vae = _diffusers().AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * depth,
        up_block_types=("UpDecoderBlock2D",) * depth,
        block_out_channels=recipe.vae_channels,
        layers_per_block=1,
        latent_channels=recipe.latent_channels,
        norm_num_groups=16,
        sample_size=32,
        mid_block_add_attention=False,
    )
    torch.nn.init.constant_(vae.quant_conv.bias[recipe.latent_channels :], -6.0)
    return vae


def build_dit(recipe: PriorRecipe, num_classes: int) -> Any:
    """Build an untrained `DiTTransformer2DModel`, initialised as in the DiT paper."""
    dit = _diffusers().DiTTransformer2DModel(
        num_attention_heads=recipe.heads,
        attention_head_dim=recipe.head_dim,
        in_channels=recipe.latent_channels,
        out_channels=recipe.latent_channels,
        num_layers=recipe.layers,
        sample_size=32 // 2 ** (len(recipe.vae_channels) - 1),
        patch_size=recipe.patch_size,
        num_embeds_ada_norm=num_classes,
        norm_type="ada_norm_zero",
        norm_elementwise_affine=False,
    )
    for module in dit.modules():
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.xavier_uniform_(module.weight)
            torch.nn.init.zeros_(module.bias)
        elif type(module).__name__ == "LabelEmbedding":
            # diffusers would drop labels in every block separately; `_dit_loss` drops
            # them once per batch
            module.dropout_prob = 0.0
            torch.nn.init.normal_(module.embedding_table.weight, std=0.02)
    # every block starts as the identity, and the network as zero
    for block in dit.transformer_blocks:
        torch.nn.init.zeros_(block.norm1.linear.weight)
    for linear in (dit.proj_out_1, dit.proj_out_2):
        torch.nn.init.zeros_(linear.weight)
    return dit


def _vae_loss(vae, images: Tensor, recipe: PriorRecipe, generator) -> Tensor:
    """Draw a batch, send it through the VAE, and return its loss."""
    draw = {"device": images.device, "generator": generator}
    index = torch.randint(len(images), (recipe.vae_batch,), **draw)
    x = images[index].expand(-1, 3, -1, -1) * 2 - 1
    if recipe.flip:
        x = torch.where(torch.rand(len(x), 1, 1, 1, **draw) < 0.5, x.flip(-1), x)
    posterior = vae.encode(x).latent_dist
    mean = posterior.mean.float()
    std = posterior.std.float()
    eps = torch.randn(mean.shape, **draw)
    y = vae.decode(mean + std * eps).sample.float()
    return vae_loss(x, y, mean, std, recipe.kl_weight)


def vae_loss(x: Tensor, y: Tensor, mean: Tensor, std: Tensor, weight: float) -> Tensor:
    """Return 2 |x - y| + |grad x - grad y| + weight * KL, each a mean.

    x are images (B, 3, H, W) in [-1, 1], y their reconstructions; mean and std (B, C,
    h, w) are of the latents' posterior; KL is its divergence from the standard normal.
    Source: the evidence lower bound, Kingma and Welling 2014, with L1 instead of L2,
    and differences of neighbouring pixels for sharp edges: ours.
    """
    kl = 0.5 * (mean**2 + std**2 - 1 - 2 * std.log()).mean()
    edges = F.l1_loss(y.diff(dim=-1), x.diff(dim=-1))
    edges = edges + F.l1_loss(y.diff(dim=-2), x.diff(dim=-2))
    return 2 * F.l1_loss(y, x) + edges + weight * kl


def _dit_loss(dit, latents: Tensor, labels: Tensor, recipe: PriorRecipe, generator):
    """Return the mean squared error of the predicted noise (DDPM's loss), weighted.

    Latents are (V, N, C, h, w), with V = 2 views where images are flipped. Of the
    velocity with objective "flow" (Lipman et al. 2023; SiT, Ma et al. 2024, linear).
    """
    batch = recipe.dit_batch
    device = latents.device
    draw = {"device": device, "generator": generator}
    index = torch.randint(latents.shape[1], (batch,), **draw)
    view = torch.randint(len(latents), (batch,), **draw)
    z_0 = latents[view, index].float()
    y = labels[index]
    drop = torch.rand(batch, **draw) < recipe.label_dropout
    y = torch.where(drop, dit.config.num_embeds_ada_norm, y)
    # stratified timesteps: one per equal slice of [0, T), for a steadier loss
    t = torch.rand(batch, **draw).add_(torch.arange(batch, device=device))
    t = t * 1000 / batch
    noise = torch.randn(z_0.shape, **draw)
    if recipe.objective == "flow":
        s = t.view(-1, 1, 1, 1) / 1000
        z_s = (1 - s) * z_0 + s * noise
        velocity = dit(z_s, timestep=t, class_labels=y).sample
        return F.mse_loss(velocity.float(), noise - z_0)
    t = t.long().clamp_(max=999)
    alpha = DIT.to(device)[t].view(-1, 1, 1, 1)
    z_t = alpha.sqrt() * z_0 + (1 - alpha).sqrt() * noise
    noise_pred = dit(z_t, timestep=t, class_labels=y).sample
    errors = (noise_pred.float() - noise).square()
    if recipe.snr_gamma is not None:
        snr = alpha / (1 - alpha)  # (B, 1, 1, 1)
        errors = errors * (recipe.snr_gamma / snr).clamp(max=1)
    return errors.mean()


@torch.no_grad()
def _encode_all(vae, images: Tensor, flip: bool) -> tuple[Tensor, float]:
    """Encode the training set once: latents (V, N, C, h, w) of unit variance."""

    def encode(x: Tensor) -> Tensor:
        x = x.expand(-1, 3, -1, -1) * 2 - 1
        views = [x, x.flip(-1)][: 1 + flip]
        return torch.stack([vae.encode(view).latent_dist.mode() for view in views])

    latents = torch.cat([encode(part) for part in images.split(500)], dim=1)
    scaling_factor = 1 / latents.std().item()
    return latents.mul_(scaling_factor), scaling_factor


def _optimise(
    model: torch.nn.Module,
    stage: str,
    loss_of: Callable[[torch.Generator], Tensor],
    *,
    record: dict,
    recipe: PriorRecipe,
    folder: Path,
    decay: float,
    deadline: float,
    compile: bool,
    progress: bool,
    on_step: Callable[[str, int, float], None] | None,
) -> Training:
    """Run AdamW (warm-up, cosine); leave the averaged weights in `model`.

    Returns what was done, perhaps not all, as `deadline` came. Its losses are pairs of
    a step and the mean loss since the pair before.
    """
    device = next(model.parameters()).device
    steps = getattr(recipe, f"{stage}_steps")
    lr = getattr(recipe, f"{stage}_lr")
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))
    optimizer = torch.optim.AdamW(model.parameters(), lr, weight_decay=0.01, fused=True)
    parts = {"model": model, "average": average, "optimizer": optimizer}
    bf16 = device.type == "cuda" or _cpu_has_bf16_matrix_units()
    record = record | {"bfloat16": bf16, "compile": compile}
    if device.type == "cpu":  # which then sums in another order
        record |= {"threads": torch.get_num_threads()}
    checkpoint = folder / f"{stage}.pt"
    training = Training(stage, steps, parts, checkpoint, record, progress)
    training.check = lambda: _check_loss(training, training.step, lr)
    # reading a loss waits for the GPU, so rarely
    every = max(1, min(100, steps // CURVE_POINTS))
    begun_at = training.step
    model.train()
    with _compiled(model, compile and training.step < steps):
        for step in training:
            if time.monotonic() >= deadline:
                break
            for group in optimizer.param_groups:
                group["lr"] = _rate(lr, step, steps)
            generator = torch.Generator(device).manual_seed(step)
            with torch.autocast(device.type, torch.bfloat16, bf16):
                loss = loss_of(generator)
            norm = _descend(model, optimizer, loss)
            _remember(average, model, decay, step)
            training.pending += loss.detach() + 0 * norm  # NaN where a gradient is
            done = step + 1
            if device.type == "cpu":  # a GPU would be waited for
                _check_loss(training, done, lr)
            if on_step:
                on_step(stage, done, loss.item())
            if done % every == 0 or done == steps:
                _note_loss(training, done, lr)
    if training.step > begun_at or not checkpoint.exists():
        training.save()
    model.load_state_dict(average.module.state_dict())
    model.eval()
    return training


def _descend(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor
) -> Tensor:
    """Take a step down the loss; return the norm that its gradient had, unclipped."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return norm


def _remember(
    average: AveragedModel, model: torch.nn.Module, decay: float, step: int
) -> None:
    """Average weights, with a short memory at first, so that the start is forgotten."""
    decay = min(decay, (1 + step) / (10 + step))
    average.multi_avg_fn = get_ema_multi_avg_fn(decay)
    average.update_parameters(model)


def _rate(peak: float, step: int, steps: int) -> float:
    """Return the learning rate at a step: a warm-up, and a cosine down from `peak`."""
    warm_up = min(1, (step + 1) / 300)
    left = 1 - step / steps
    return peak * warm_up * 0.5 * (1 + math.cos(math.pi * (1 - left)))


def _check_loss(training: Training, done: int, lr: float) -> None:
    """Raise if a loss or a gradient since the last point of the curve isn't finite."""
    if not math.isfinite(float(training.pending)):
        raise FloatingPointError(
            f"{training.name}: the loss or its gradient became NaN or infinite by step "
            f"{done}; try a smaller {training.name}_lr than {lr:g}, in another folder "
            f"({training.path}, if it is there, is from before)"
        )


def _note_loss(training: Training, done: int, lr: float) -> None:
    """Add the mean loss since the last point to the curve; raise if it isn't finite."""
    _check_loss(training, done, lr)
    since = training.losses[-1][0] if training.losses else 0
    mean = round(float(training.pending) / (done - since), 6)
    training.losses.append((done, mean))
    training.pending = 0.0
    training.bar.set_postfix(loss=f"{mean:.4f}")


@contextmanager
def _compiled(model: torch.nn.Module, wanted: bool) -> Iterator[None]:
    """Compile in place: the model keeps its attributes, parameters and config."""
    names = [name for name in ("forward", "encode", "decode") if hasattr(model, name)]
    try:
        for name in names if wanted else ():
            setattr(model, name, torch.compile(getattr(model, name)))
        yield
    finally:
        for name in names:
            vars(model).pop(name, None)


def export_prior(
    folder: str | Path,
    vae: Any,
    dit: Any,
    class_names: Sequence[str],
    name: str,
    recipe: PriorRecipe,
    trained_on: str = "nothing",
    losses: dict[str, list] | None = None,
    planned: dict[str, list] | None = None,
) -> None:
    """Write a prior as diffusers' `DiTPipeline` folder, fp16 safetensors.

    An older folder is replaced. `losses` maps "vae" and "dit" to pairs (step, mean loss
    since the pair before), `planned` to pairs: from which step on, over how many steps
    the learning rate fell to zero.
    """
    diffusers = _diffusers()
    if recipe.objective == "flow":
        scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    else:
        scheduler = diffusers.DDIMScheduler(
            beta_start=1e-4, beta_end=0.02, clip_sample=False
        )
    with atomic_path(folder, overwrite=True) as temporary:
        diffusers.DiTPipeline(
            transformer=torch.nn.Module.half(deepcopy(dit)),
            vae=torch.nn.Module.half(deepcopy(vae)),
            scheduler=scheduler,
        ).save_pretrained(temporary)
        # diffusers reads class names from the index, but does not write them
        index = json.loads((temporary / "model_index.json").read_text())
        index["id2label"] = {str(i): label for i, label in enumerate(class_names)}
        info = {
            "name": name,
            "image_fit": recipe.image_fit,
            "trained_on": trained_on,
            "recipe": asdict(recipe),
            "losses": losses or {},
            "planned_steps": planned or {},
        }
        for file, content in {"model_index": index, "diver_lite": info}.items():
            text = json.dumps(content, indent=1) + "\n"
            (temporary / f"{file}.json").write_text(text)
