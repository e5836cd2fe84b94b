"""Priors that are told of a class in words: Stable Diffusion 1.x and 2.x.

Class names become prompts, encoded once, so any set whose classes have names works. In
`transformer` stands the UNet; class k's embedding is row k, and the row after the
last, which stands for "no class", is the negative prompt's.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diver_lite.checks import ensure, instance, integer, require
from diver_lite.devices import plain_torch
from diver_lite.priors.dit import DiTPrior
from diver_lite.sets.names import numbered

PROMPT = "a photo of a {name}"


@dataclass
class TextPrior(DiTPrior):
    """A latent diffusion UNet that cross-attends to a CLIP embedding of a prompt.

    Attributes:
        tokenizer, text_encoder: transformers' `CLIPTokenizer` and `CLIPTextModel`.
        prompt: with {name}, where the class's name stands, blanks for underscores.
        negative_prompt: what guidance leads away from; "" is no class in particular.
        size: height and width of its images in pixels; None: the UNet's own.
        embeddings: (K + 1, tokens, width) of the prompts, of what `for_classes` gives.

    Source: Rombach et al. 2022.
    """

    tokenizer: Any = None
    text_encoder: Any = None
    prompt: str = PROMPT
    negative_prompt: str = ""
    size: int | None = None

    def __post_init__(self) -> None:
        instance(self.prompt, "prompt", str)
        instance(self.negative_prompt, "negative_prompt", str)
        require(
            "{name}" in self.prompt,
            "prompt",
            self.prompt,
            f"{{name}} in it, as in {PROMPT!r}",
        )
        self.embeddings = torch.empty(0)
        own = self.transformer.config.sample_size
        factor = self.image_size // integer(own, "sample_size of the unet", 1)
        if self.size is None:
            self.size = self.image_size
        integer(self.size, "size", factor, 2**13)
        require(
            self.size % factor == 0,
            "size",
            self.size,
            f"a multiple of {factor}, by which the VAE makes images smaller",
        )
        self.transformer.register_to_config(sample_size=self.size // factor)
        self.info = self.info | {
            "prompt": self.prompt,
            "negative_prompt": self.negative_prompt,
            "size": self.size,
        }

    @plain_torch(grad=False)
    def for_classes(self, class_names: Sequence[str]) -> TextPrior:
        """Return a copy whose classes are a set's, with their prompts encoded."""
        names = tuple(class_names)
        if names == self.class_names:
            return self
        ensure(
            names != numbered(len(names)),
            "the classes of the set have no names, and a text-conditioned prior needs "
            "them; name them with dataset= (--dataset)",
        )
        prompts = [self.prompt.replace("{name}", n.replace("_", " ")) for n in names]
        tokens = self.tokenizer(
            [*prompts, self.negative_prompt],
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        parts = tokens.input_ids.split(64)
        embeddings = torch.cat([self.text_encoder(ids)[0].float() for ids in parts])
        told = copy(self)
        told.class_names = names
        told.embeddings = embeddings.to(self.device)
        return told

    def forward(self, x: Tensor, place: float, class_labels: Tensor) -> Tensor:
        timesteps = torch.full((len(x),), place, device=x.device)
        hidden = self.embeddings.to(x.device)[class_labels.to(x.device)].to(x)
        return self.transformer(x, timesteps, hidden).sample
