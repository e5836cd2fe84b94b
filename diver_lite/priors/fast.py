"""The same prior, faster: what doesn't depend on the latents is computed up front.

A block of a DiT modulates its input by numbers that depend on the timestep and the
class alone, and diffusers embeds both anew in every block at every step. `FastPrior`
computes these numbers for many steps at once, so that attention and MLP remain; on CUDA
it replays the whole network as one graph. Its results are those of the plain path
(`DiTPrior.forward`, the readable reference) up to rounding; the tests compare them.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Sequence
from copy import copy
from functools import cache, lru_cache, partial
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diver_lite.checks import ensure, first_line
from diver_lite.priors.contract import Prior, Wrapped
from diver_lite.priors.dit import DiTPrior

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
WALKS = 2  # that one thread may take in turns, each with a table
COMPILE_FROM = 1000  # images
GRAPHS = 2  # of the newest numbers of rows: of a whole batch, and of the last
_LOCK = threading.Lock()  # a graph has one place for its inputs and outputs


class FastPrior(Wrapped):
    """A `DiTPrior` whose transformer runs with its conditioning prepared.

    Memory: a DiT-XL/2 has 196,000 modulation numbers per (timestep, class), so 50 steps
    of 64 classes would take 1.2 GiB in bfloat16. The table therefore holds as many
    consecutive steps as fit into 64 MiB, at least one, and is refilled when they are
    used up: once for the 50 steps of one image, every second step for a batch of 64
    classes, where a filling reads 0.45 GB of weights between steps of 30 TFLOP each.
    Two such tables are kept until a walk ends.

    Args:
        prior: the prior to speed up; its networks are shared, not copied.
        compile: on CUDA, compile the block with `torch.compile`; costs up to a minute
            per shape, so it pays for many images only.

    Raises:
        InputError: a prior that `why_not_fast` refuses.

    Source: ours; the network is that of Peebles and Xie 2023.
    """

    def __init__(self, prior: DiTPrior, *, compile: bool = False) -> None:
        super().__init__(prior)
        self._compile = compile
        self._network = Prepared(prior, compile)
        self._check()

    def __reduce__(self) -> tuple:
        """Pickle and copy the prior alone: tables and graphs are made anew."""
        return partial(type(self), compile=self._compile), (self.prior,)

    def _check(self) -> None:
        reason = why_not_fast(self.prior)
        ensure(reason is None, f"the fast path does not apply: {reason}")

    def timesteps(self, num_inference_steps: int) -> list[int | float]:
        self._check()  # a walk begins, and the networks may have changed
        grid = self.prior.timesteps(num_inference_steps)
        self._network.begin(tuple(self.prior.place(t) for t in grid))
        return grid

    def denoise(
        self,
        latents: Tensor,
        timestep: float,
        class_labels: Tensor,
        guidance_scale: float,
    ) -> tuple[Tensor, Tensor]:
        # the same prior as it is now, but for the way in which the network is asked
        quick = copy(self.prior)
        quick.forward = self._network
        return quick.denoise(latents, timestep, class_labels, guidance_scale)

    def release(self) -> None:
        """Give back the memory of the graphs, which would be taken until the end."""
        self._network.release()


class _Tables(threading.local):
    """What a thread is likely to visit, and the tables that it has made for walks."""

    def __init__(self, tabulate: Callable) -> None:
        self.places: tuple[int | float, ...] = ()
        self.weights: list[tuple[int, int]] = []  # where they lay, and their versions
        self.table = lru_cache(WALKS)(tabulate)


class Prepared:
    """A DiT's transformer, asked for a batch of latents at one of its own timesteps.

    What is prepared for a walk belongs to the thread that walks, so that threads may
    share the prior, and is made anew if the weights have changed.
    """

    def __init__(self, prior: DiTPrior, compile: bool) -> None:
        self._prior = prior  # which may be given another transformer
        self._block = _block
        if compile and prior.device.type == "cuda" and find_spec("triton"):
            self._block = _compiled_block()
        self._graphs: dict[tuple, _Graph] = {}
        self._plain: set[int] = set()  # numbers of rows that couldn't be captured
        self.local = _Tables(self._tabulate)

    @property
    def transformer(self) -> Any:
        return self._prior.transformer

    def begin(self, places: tuple[int | float, ...]) -> None:
        """Begin a walk through places, of which those that come are likely.

        A wrong guess costs time. Tables go, as writing to a weight's `.data` leaves no
        trace; one that another walk of this thread still needs is filled again.
        """
        self.local.places = places
        self.local.table.cache_clear()

    def release(self) -> None:
        """Forget all graphs; where that memory is enough, they are captured anew."""
        with _LOCK:
            self._graphs.clear()

    def __call__(self, x: Tensor, place: float, class_labels: Tensor) -> Tensor:
        labels = class_labels.cpu()
        null = torch.tensor([self.transformer.config.num_embeds_ada_norm])
        classes = torch.cat([labels, null]).unique()  # "no class" serves every image
        modulation, last = self._modulation(place, tuple(classes.tolist()))
        rows = torch.searchsorted(classes, labels).to(x.device)
        inputs = (x, modulation.index_select(-3, rows), last.index_select(-3, rows))
        if not _captures(x):
            return self._run(*inputs)
        with _LOCK, torch.cuda.device(x.device):
            return self._replayable(inputs)(*inputs)

    def _replayable(self, inputs: Sequence[Tensor]) -> Callable[..., Tensor]:
        """Return a graph for so many rows, or the plain function if there is none."""
        rows = len(inputs[0])
        if rows in self._plain:
            return self._run
        try:
            return self._graph(inputs)
        except RuntimeError as error:  # one that lacks memory, too
            reason = first_line(error)
        # outside of "except": the error would keep the failed graph's tensors alive
        self._plain.add(rows)
        self._graphs.clear()
        warnings.warn(
            f"no CUDA graph could be captured for {rows} rows; going on without: "
            f"{reason}",
            stacklevel=2,
        )
        return self._run

    def _graph(self, inputs: Sequence[Tensor]) -> _Graph:
        """Return the graph for so many rows, with the weights where they are now."""
        places = [w.data_ptr() for w in self.transformer.parameters()]
        wanted = (len(inputs[0]), torch.cuda.current_stream().cuda_stream, *places)
        if wanted not in self._graphs:
            while len(self._graphs) >= GRAPHS:
                del self._graphs[next(iter(self._graphs))]
            self._graphs[wanted] = _Graph(self._run, inputs)
        return self._graphs[wanted]

    def _modulation(self, place: float, classes: tuple[int, ...]) -> tuple:
        """Return what modulates a step: (blocks, classes, 6, D) and (classes, 2, D)."""
        local = self.local
        weights = [(w.data_ptr(), w._version) for w in self.transformer.parameters()]
        if weights != local.weights:
            local.table.cache_clear()
            local.weights = weights
        found = local.table(self._part(place, len(classes)), classes)[place]
        if place in local.places[-1:]:  # a walk ends here, and its memory is wanted
            local.table.cache_clear()
        return found

    def _part(self, place: float, classes: int) -> tuple[int | float, ...]:
        """Return the part of the grid that is tabulated together with a timestep.

        The parts begin at fixed places: the number of rows decides about rounding, and
        where a walk began shouldn't.
        """
        places = self.local.places
        if place not in places:
            return (place,)
        dit = self.transformer
        blocks = len(dit.transformer_blocks)
        step_bytes = blocks * classes * 6 * dit.inner_dim * dit.dtype.itemsize
        size = max(1, TABLE_BYTES // step_bytes)
        start = places.index(place) // size * size
        return places[start : start + size]

    def _tabulate(self, steps: tuple[int | float, ...], classes: tuple) -> dict:
        """Tabulate the modulations of some timesteps."""
        dit = self.transformer
        dtype = dit.dtype
        t = torch.tensor(steps, device=dit.device)
        y = torch.tensor(classes, device=dit.device)

        def embed(block: Any) -> Tensor:
            emb = block.norm1.emb
            of_time = emb.timestep_embedder(emb.time_proj(t).to(dtype))
            of_class = emb.class_embedder.embedding_table(y)
            return F.silu(of_time[:, None] + of_class)  # (steps, classes, width)

        blocks = dit.transformer_blocks
        shape = (len(steps), len(blocks), len(classes), 6, dit.inner_dim)
        modulation = torch.empty(shape, dtype=dtype, device=dit.device)
        for index, block in enumerate(blocks):
            parts = block.norm1.linear(embed(block))
            modulation[:, index] = parts.unflatten(-1, (6, -1))
        modulation[..., (1, 4), :] += 1  # the scales act as 1 + scale
        last = dit.proj_out_1(embed(blocks[0])).unflatten(-1, (2, -1))
        last[..., 1, :] += 1
        return dict(zip(steps, zip(modulation, last, strict=True), strict=True))

    def _run(self, x: Tensor, modulation: Tensor, last: Tensor) -> Tensor:
        """Run the transformer: (R, C, h, w), (blocks, R, 6, D), (R, 2, D) -> output."""
        dit = self.transformer
        hidden = dit.pos_embed(x).contiguous()  # (R, tokens, D), from channels first
        for block, of_block in zip(dit.transformer_blocks, modulation, strict=True):
            hidden = self._block(hidden, of_block, block)
        shift, scale = last[:, :, None].unbind(1)
        hidden = dit.proj_out_2(torch.addcmul(shift, dit.norm_out(hidden), scale))
        side, patch = x.shape[-1] // dit.patch_size, dit.patch_size
        patches = hidden.unflatten(1, (side, side)).unflatten(-1, (patch, patch, -1))
        return patches.permute(0, 5, 1, 3, 2, 4).reshape(len(x), -1, *x.shape[-2:])


def _captures(x: Tensor) -> bool:
    return x.device.type == "cuda"


def _block(hidden: Tensor, modulation: Tensor, block: Any) -> Tensor:
    """Apply one block: (R, tokens, D) -> the same, with (R, 6, D) modulations."""
    parts = modulation[:, :, None].unbind(1)  # six of (R, 1, D)
    shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = parts
    attention = block.attn1
    x = torch.addcmul(shift, block.norm1.norm(hidden), scale)
    q, k, v = (  # each (R, heads, tokens, D / heads)
        project(x).unflatten(-1, (attention.heads, -1)).transpose(1, 2)
        for project in (attention.to_q, attention.to_k, attention.to_v)
    )
    x = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    hidden = torch.addcmul(hidden, gate, attention.to_out[0](x))
    x = torch.addcmul(shift_mlp, block.norm3(hidden), scale_mlp)
    return torch.addcmul(hidden, gate_mlp, block.ff(x))


@cache
def _compiled_block() -> Callable:
    # one block, not the network: all blocks share the result, so it takes seconds
    return torch.compile(_block, mode="max-autotune-no-cudagraphs", dynamic=False)


class _Graph:
    """A function of tensors as one CUDA graph: no launch gaps between its kernels."""

    def __init__(self, function: Callable, inputs: Sequence[Tensor]) -> None:
        self.inputs = [x.clone() for x in inputs]
        usual = torch.cuda.current_stream()
        stream = torch.cuda.Stream()
        stream.wait_stream(usual)
        with torch.cuda.stream(stream):  # compiles, chooses algorithms, gets workspaces
            function(*self.inputs)
        usual.wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        try:
            # other threads may ask for memory meanwhile
            with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
                self.output = function(*self.inputs)
        except RuntimeError:
            torch.cuda.set_stream(usual)  # torch doesn't, if the capture can't end
            raise

    def __call__(self, *inputs: Tensor) -> Tensor:
        for static, given in zip(self.inputs, inputs, strict=True):
            static.copy_(given)
        self.graph.replay()
        return self.output.clone()  # the next replay overwrites it


def why_not_fast(prior: Any) -> str | None:
    """Say why the fast path can't stand in for this prior, or return None if it can.

    The answer is one clause, e.g. "the transformer has a LoraLayer". Source: ours; the
    checks name everything that would make results differ.
    """
    for name in ("denoise", "predict_noise", "guided", "forward"):
        method = getattr(getattr(prior, name, None), "__func__", None)
        if method is not getattr(DiTPrior, name):
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


def accelerate_prior(
    prior: Prior, *, compile: bool = False, warn: bool = True
) -> Prior:
    """Return a `FastPrior`, or the prior itself with a warning that says why.

    A `FastPrior` is returned as it is; for `compile` see there. Without `warn` the
    plain path is silent: for who asks for what is fast, if anything is. Source: ours.
    """
    if isinstance(prior, FastPrior):
        return prior
    reason = why_not_fast(prior)
    if reason is None:
        return FastPrior(prior, compile=compile)  # type: ignore[arg-type]
    if warn:
        warnings.warn(
            f"the fast path doesn't apply, the plain one is used: {reason}",
            stacklevel=2,
        )
    return prior
