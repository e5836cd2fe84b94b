"""The same prior, faster: what doesn't depend on the latents is computed up front.

A block of a DiT modulates its input by numbers that depend on the timestep and the
class alone, and diffusers embeds both anew in every block at every step. `FastPrior`
computes these numbers for many steps at once, so that attention and MLP remain; on CUDA
it replays the whole network as one graph. Its results are those of the plain path
(`Prior.predict_noise`, the readable reference) up to rounding; the tests compare them.
"""

from __future__ import annotations

import functools
import threading
import warnings
from collections.abc import Callable, Sequence
from copy import copy
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diver_lite.checks import InputError
from diver_lite.priors.dit import Prior
from diver_lite.priors.interval import IntervalPrior

# The parts a DiT of diffusers consists of. Another part (an adapter, a quantised
# layer, another attention) may compute something else, so it takes the plain path.
PARTS = {
    "DiTTransformer2DModel", "PatchEmbed", "ModuleList", "BasicTransformerBlock",
    "AdaLayerNormZero", "CombinedTimestepLabelEmbeddings", "Timesteps", "SiLU",
    "SiTTimesteps",
    "TimestepEmbedding", "LabelEmbedding", "Embedding", "Attention", "FeedForward",
    "GELU", "GEGLU", "ApproximateGELU", "SwiGLU", "LinearActivation", "Linear",
    "Conv2d", "LayerNorm", "Dropout",
}  # fmt: skip
TABLE_BYTES = 64 * 2**20
COMPILE_FROM = 1000  # images
_GRAPHS = threading.Lock()  # each has one place for its inputs and outputs


class FastPrior(Prior):
    """A `Prior` whose transformer runs with its conditioning prepared.

    `for_steps` is told which timesteps and classes will come, and returns a copy for
    them. Other calls are answered too, only more slowly. Nothing of a call is kept in
    the prior itself, so threads may share it.

    Memory: a DiT-XL/2 has 196,000 modulation numbers per (timestep, class), so 50 steps
    of 64 classes would take 1.2 GiB in bfloat16. The table therefore holds as many
    consecutive steps as fit into 64 MiB, at least one, and is refilled when they are
    used up: once for the 50 steps of one image, every second step for a batch of 64
    classes, where a filling reads 0.45 GB of weights between steps of 30 TFLOP each.
    The weights of query, key and value become views of one matrix, in place: their
    fused product costs no memory, and saving or training them works as before.

    Args:
        prior: the prior to speed up; its networks are shared, not copied.
        compile: on CUDA, compile the block with `torch.compile`; costs up to a minute
            per shape, so it pays for many images only.

    Raises:
        InputError: a prior that `why_not_fast` refuses.

    Source: ours; the network is that of Peebles and Xie 2023.
    """

    # what a copy for one batch knows: its timesteps, labels, and table of modulations
    _places: Sequence[int | float] = ()
    _labels = torch.empty(0, dtype=torch.int64)
    _classes: Tensor
    _rows: Tensor
    _table: dict[float, tuple[Tensor, Tensor]]

    def __init__(self, prior: Prior, *, compile: bool = False) -> None:
        reason = why_not_fast(prior)
        if reason:
            raise InputError(f"the fast path does not apply: {reason}")
        super().__init__(
            prior.transformer, prior.vae, prior.scheduler, prior.class_names, prior.info
        )
        self._block = _compiled_block() if compile and _can_compile(prior) else _block
        self._graphs: dict[tuple, _Graph] = {}
        self._fuse()

    def for_steps(self, timesteps: Sequence[float], class_labels: Tensor) -> FastPrior:
        """Return a copy for the steps of one batch, which owns their table.

        Args:
            timesteps: of DiT's schedule, in the order in which they will be asked for.
            class_labels: (B,) int64, 0 .. num_classes-1.
        """
        ready = copy(self)
        ready._fuse()  # the weights may have moved since
        ready._places = [self.place(t) for t in timesteps]
        ready._labels = class_labels.cpu()
        classes, rows = torch.unique(ready._labels, return_inverse=True)
        null = torch.full_like(rows, len(classes))  # one entry serves every image
        ready._rows = torch.cat([rows, null]).to(self.device)
        classes = torch.cat([classes, torch.tensor([self.num_classes])])
        ready._classes = classes.to(self.device)
        ready._table = {}
        return ready

    def _fuse(self) -> None:
        blocks = self.transformer.transformer_blocks
        # of each block: itself, weight and bias of query, key and value
        self._blocks = [(block, *_fused(block.attn1)) for block in blocks]
        self._weights = [w.data_ptr() for w in self.transformer.parameters()]

    def _guided(
        self, latents: Tensor, timestep: float, class_labels: Tensor, scale: float
    ) -> Tensor:
        self.check_request(latents, timestep, class_labels, scale)
        asked = (latents, timestep, class_labels, scale)
        known = self.place(timestep) in self._places
        if known and torch.equal(class_labels.cpu(), self._labels):
            return super()._guided(*asked)
        return self.for_steps([timestep], class_labels)._guided(*asked)

    def _forward(self, x: Tensor, place: float, class_labels: Tensor) -> Tensor:
        if place not in self._table:
            self._fill_table(place)
        # the rows of `class_labels`: the batch's classes, then perhaps "no class"
        rows = self._rows[: len(class_labels)]
        inputs = (x, *(part.index_select(-3, rows) for part in self._table[place]))
        if x.device.type != "cuda":
            return self._run(*inputs)
        with _GRAPHS, torch.cuda.device(x.device):
            return self._graph(inputs)(*inputs)

    def _graph(self, inputs: Sequence[Tensor]) -> _Graph:
        """Return the graph for so many rows, with the weights where they are now."""
        rows, batch = len(inputs[0]), len(self._labels)
        wanted = (rows, torch.cuda.current_stream().cuda_stream, *self._weights)
        if wanted not in self._graphs:
            for key in [*self._graphs]:  # they hold memory, and sizes rarely come back
                if key[0] not in (batch, 2 * batch) or key[2:] != wanted[2:]:
                    del self._graphs[key]
            self._graphs[wanted] = _Graph(self._run, inputs)
        return self._graphs[wanted]

    def _fill_table(self, place: float) -> None:
        """Tabulate modulations from `place` on, as many steps as memory allows."""
        blocks, width = self.transformer.transformer_blocks, self.transformer.inner_dim
        classes, itemsize = len(self._classes), self.dtype.itemsize
        step_bytes = len(blocks) * classes * 6 * width * itemsize
        first = self._places.index(place)
        steps = self._places[first : first + max(1, TABLE_BYTES // step_bytes)]
        t = torch.tensor(steps, device=self.device)
        self._table = {}  # free the old one first

        def embed(block: Any) -> Tensor:
            emb = block.norm1.emb
            of_time = emb.timestep_embedder(emb.time_proj(t).to(self.dtype))
            of_class = emb.class_embedder.embedding_table(self._classes)
            return F.silu(of_time[:, None] + of_class)  # (steps, classes, width)

        shape = (len(steps), len(blocks), classes, 6, width)
        modulation = torch.empty(shape, dtype=self.dtype, device=self.device)
        for index, block in enumerate(blocks):
            parts = block.norm1.linear(embed(block))
            modulation[:, index] = parts.unflatten(-1, (6, width))
        modulation[..., (1, 4), :] += 1  # the scales act as 1 + scale
        last = self.transformer.proj_out_1(embed(blocks[0])).unflatten(-1, (2, width))
        last[..., 1, :] += 1
        self._table = dict(zip(steps, zip(modulation, last, strict=True), strict=True))

    def _run(self, x: Tensor, modulation: Tensor, last: Tensor) -> Tensor:
        """Run the transformer: (R, C, h, w), (blocks, R, 6, D), (R, 2, D) -> output."""
        dit = self.transformer
        hidden = dit.pos_embed(x).contiguous()  # (R, tokens, D), from channels first
        for block, of_block in zip(self._blocks, modulation, strict=True):
            hidden = self._block(hidden, of_block, *block)
        shift, scale = last[:, :, None].unbind(1)
        hidden = dit.proj_out_2(torch.addcmul(shift, dit.norm_out(hidden), scale))
        side, patch = x.shape[-1] // dit.patch_size, dit.patch_size
        patches = hidden.unflatten(1, (side, side)).unflatten(-1, (patch, patch, -1))
        return patches.permute(0, 5, 1, 3, 2, 4).reshape(len(x), -1, *x.shape[-2:])


def _block(
    hidden: Tensor, modulation: Tensor, block: Any, weight: Tensor, bias: Tensor | None
) -> Tensor:
    """Apply one block: (R, tokens, D) -> the same, with (R, 6, D) modulations."""
    parts = modulation[:, :, None].unbind(1)  # six of (R, 1, D)
    shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = parts
    attention = block.attn1
    x = torch.addcmul(shift, block.norm1.norm(hidden), scale)
    x = F.linear(x, weight, bias).unflatten(-1, (3, attention.heads, -1))
    q, k, v = x.permute(2, 0, 3, 1, 4).unbind(0)  # each (R, heads, tokens, D / heads)
    x = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    hidden = torch.addcmul(hidden, gate, attention.to_out[0](x))
    x = torch.addcmul(shift_mlp, block.norm3(hidden), scale_mlp)
    return torch.addcmul(hidden, gate_mlp, block.ff(x))


@functools.cache
def _compiled_block() -> Callable:
    # one block, not the network: all blocks share the result, so it takes seconds
    return torch.compile(_block, mode="max-autotune-no-cudagraphs", dynamic=False)


def _can_compile(prior: Prior) -> bool:
    return prior.device.type == "cuda" and find_spec("triton") is not None


def _fused(attention: Any) -> tuple[Tensor, Tensor | None]:
    """Return the three input projections as one matrix (3D, D) of which they are views.

    Where they aren't, at first and after `Prior.to`, they become so.
    """
    projections = (attention.to_q, attention.to_k, attention.to_v)

    def join(name: str) -> Tensor | None:
        parts = [getattr(projection, name) for projection in projections]
        if parts[0] is None:
            return None
        start, size = parts[0].storage_offset(), parts[0].numel()
        places = [(p.untyped_storage().data_ptr(), p.storage_offset()) for p in parts]
        if places != [(places[0][0], start + i * size) for i in range(3)]:
            joined = torch.cat([part.detach() for part in parts])
            for part, view in zip(parts, joined.chunk(3), strict=True):
                part.data = view
        shape = (3 * len(parts[0]), *parts[0].shape[1:])
        return parts[0].detach().as_strided(shape, parts[0].stride())

    weight = join("weight")
    assert weight is not None  # only a bias can be missing
    return weight, join("bias")


class _Graph:
    """A function of tensors as one CUDA graph: no launch gaps between its kernels."""

    def __init__(self, function: Callable, inputs: Sequence[Tensor]) -> None:
        self.inputs = [x.clone() for x in inputs]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # compiles, chooses algorithms, gets workspaces
            function(*self.inputs)
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        # other threads may ask for memory meanwhile
        with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
            self.output = function(*self.inputs)

    def __call__(self, *inputs: Tensor) -> Tensor:
        for static, given in zip(self.inputs, inputs, strict=True):
            static.copy_(given)
        self.graph.replay()
        return self.output.clone()  # the next replay overwrites it


def why_not_fast(prior: Prior) -> str | None:
    """Say why the fast path can't stand in for this prior, or return None if it can.

    The answer is one clause, e.g. "the transformer has a LoraLayer". Source: ours; the
    checks name everything that would make results differ.
    """
    for name in ("denoise", "predict_noise", "_guided", "_forward"):
        if getattr(getattr(prior, name), "__func__", None) is not getattr(Prior, name):
            return f"the prior has its own {name}"
    transformer = prior.transformer
    if transformer.training:
        return "the transformer is in training mode"
    for module in transformer.modules():
        kind = type(module).__name__
        if kind not in PARTS:
            return f"the transformer has a {kind}"
        hooks = (*module._forward_hooks, *module._forward_pre_hooks)
        if hooks or "forward" in vars(module):
            return f"hooks hang on the transformer's {kind}"
        if any(type(p) is not nn.Parameter for p in module.parameters(recurse=False)):
            return f"the weights of the transformer's {kind} are of a special kind"
    for block in transformer.transformer_blocks:
        processor = type(block.attn1.processor).__name__
        if processor != "AttnProcessor2_0":
            return f"the transformer's attention is a {processor}"
    return None


def accelerate_prior(prior: Prior, *, compile: bool = False) -> Prior:
    """Return a `FastPrior`, or the prior itself with a warning that says why.

    A `FastPrior` is returned as it is; for `compile` see there. Source: ours.
    """
    if isinstance(prior, FastPrior):
        return prior
    if isinstance(prior, IntervalPrior):
        fast = accelerate_prior(prior.prior, compile=compile)
        return IntervalPrior(fast, prior.interval)
    reason = why_not_fast(prior)
    if reason is None:
        return FastPrior(prior, compile=compile)
    warnings.warn(
        f"the fast path doesn't apply, the plain one is used: {reason}", stacklevel=2
    )
    return prior
