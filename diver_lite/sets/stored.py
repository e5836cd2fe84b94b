"""What serves a set: pixels that may stay in their files, and its records, read."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import safe_open
from torch import Tensor
from torch.utils._pytree import tree_map_only

from diver_lite.checks import ensure, finite, floats, naming

WHOLE = "a whole .safetensors file"
LARGE = 2**30  # bytes of float32 pixels, beyond which they are left in their files


# what we read in a record, and its type
_TYPES = {
    **dict.fromkeys(("format", "dataset", "dataset_from", "method"), str),
    **dict.fromkeys(("soft_labels", "assumed"), str),
    **dict.fromkeys(("experiment", "experiments"), int),
    **dict.fromkeys(("lr", "learned_lr", "contrast", "offset", "far_outside"), float),
    **dict.fromkeys(("undone", "fit"), dict),
    "doubts": list,
}


def known(record: dict) -> dict:
    """Return a record without what has another type than we write.

    Anybody may have written it: what is read in it goes through here. Source: ours.
    """
    return {
        name: value
        for name, value in record.items()
        if name not in _TYPES or _is(value, _TYPES[name])
    }


def _is(value: Any, kind: type) -> bool:
    if kind is float:
        numeric = isinstance(value, int | float) and not isinstance(value, bool)
        return numeric and abs(value) < 1e30  # so finite, too
    return isinstance(value, kind) and not isinstance(value, bool)


def records(provenance: object) -> Iterator[dict]:
    """Yield a set's record as far as it is `known`, then its source's, and so on."""
    while isinstance(provenance, dict):
        yield known(provenance)
        provenance = provenance.get("source")  # a record, or the name of a file


def label_kind(provenance: dict) -> str | None:
    """Return what a set's soft labels are, "logits" or "probabilities", if known.

    A refined set keeps its labels: what the record of its source says holds for it.
    """
    kinds = (record.get("soft_labels") for record in records(provenance))
    return next(filter(None, kinds), None)


def soft_kind(soft: Tensor) -> str:
    """Return what soft labels (N, K) can be: probabilities, or else logits."""
    sums = soft.float().sum(dim=1)
    is_one = sums.allclose(torch.ones_like(sums), atol=1e-2)  # stored in float16, too
    if is_one and bool((soft >= 0).all()):
        return "probabilities"
    return "logits"


def checked(value: Any, name: str, shape: Sequence[int | str]) -> Tensor:
    """Return a finite float tensor of a shape as float32 in memory, or raise."""
    floats(value, name, shape)
    # and once more: a float64 may be too large for a float32
    return finite(finite(value, name).to("cpu", torch.float32), name)


def doubt_scale(images: Tensor) -> None:
    """Warn of pixels (N, 3, H, W) that look like 0 .. 255 or -1 .. 1.

    Distilled pixels go beyond 0 .. 1 at both ends, if they do at all. Source: ours:
    measured on 2,040 published images, for none of which, alone, this warns.
    """
    low, high = (value.item() for value in images.aminmax())
    scale = ""
    if 2 < high < 300 and low > -0.1 * high:
        scale = "0 .. 255"
    # a decoder's raw output goes a little beyond its -1 .. 1
    if -1.5 < low < -0.5 and high < 1.25 and (images < -0.5).float().mean() > 0.05:
        scale = "-1 .. 1"
    if scale:
        warnings.warn(
            f"images hold {low:.2f} .. {high:.2f}, which looks like {scale}; expected "
            "black at 0 and white at 1",
            stacklevel=4,
        )


def one_channel(images: Tensor) -> Tensor:
    """Return grey images (N, C, H, W) as (N, 1, H, W), and others as they are.

    Grey are images that are the same in all channels, however they lie in memory.
    Source: ours: what computes with one channel costs a third.
    """
    for part in images.split(1_000):
        if not torch.equal(part[:, :1].expand_as(part), part):
            return images
    return images[:, :1].contiguous()


def as_picture(pixels: Tensor) -> Image.Image:
    """Return pixels (3, H, W) as a picture of 8 bits a channel, clipped to [0, 1]."""
    values = (pixels.clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(values.permute(1, 2, 0).numpy())


class StoredImages:
    """Pixels (N, 3, H, W) that stay in their files: indexing reads the rows asked for.

    Whatever else a tensor can do reads all of them. `read` takes row numbers and
    returns (B, 3, H, W) float32, which is checked as pixels in memory are. For sets
    that other processes get, pickle must know it: no lambda.
    """

    # what is known of any rows, so that nobody reads them for it
    dtype, device, ndim = torch.float32, torch.device("cpu"), 4

    def __init__(self, shape: Sequence[int], read: Callable[[list[int]], Tensor]):
        self.shape = torch.Size(shape)
        self._read = read

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> Tensor:
        rows = torch.arange(len(self), device="cpu")[index]
        if rows.numel() == 0:
            return torch.empty(*rows.shape, *self.shape[1:])
        images = self._read(rows.flatten().tolist())
        images = checked(images, "images", (rows.numel(), *self.shape[1:]))
        return images.reshape(*rows.shape, *self.shape[1:])

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self[:], name)

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        given = (args, kwargs or {})
        args, kwargs = tree_map_only(cls, lambda images: images[:], given)
        return function(*args, **kwargs)


def stored_images(files: Sequence[Path], rows: int = 2**63) -> StoredImages:
    """Return the "images" of safetensors files: all but the last hold `rows` of them.

    Raises `InputError`, which names the file, when one is missing or damaged.
    """

    first, *sides = _shape(files[0])
    last, *_ = _shape(files[-1])
    ensure(
        len(files) == 1 or first == rows,
        f"{files[0]} holds {first} images; expected {rows}",
    )
    whole = (rows * (len(files) - 1) + last, *sides)
    return StoredImages(whole, partial(_rows, files, rows))


def _shape(file: Path) -> list[int]:
    with naming(file, WHOLE), safe_open(file, framework="pt") as stored:
        return stored.get_slice("images").get_shape()


def _rows(files: Sequence[Path], rows: int, index: list[int]) -> Tensor:
    parts = []
    for number, group in groupby(index, lambda i: i // rows):
        file = files[number]
        with naming(file, WHOLE), safe_open(file, framework="pt") as stored:
            images = stored.get_slice("images")
            parts += [images[i % rows : i % rows + 1] for i in group]
    return torch.cat(parts)
