"""Priors that are told of a class in words: Stable Diffusion 1.x and 2.x, and LCM.

Class names become prompts, encoded once, so any set whose classes have names works. In
`transformer` stands the UNet; class k's embedding is row k, and the row after the
last, which stands for "no class", is the negative prompt's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diver_lite import checks
from diver_lite.checks import InputError, require
from diver_lite.priors.dit import DiTPrior, inference
from diver_lite.priors.schedule import dit_timesteps, noise_angles
from diver_lite.sets.names import numbered

PROMPT = "a photo of a {name}"
# what the folder of a latent consistency model may say, and what it means if it doesn't
LCM_SAYS = {"original_inference_steps": 50, "timestep_scaling": 10.0}


def check_prompt(prompt: Any, negative: Any) -> None:
    """Raise unless these are a prompt with a place for the name, and a string."""
    for name, value in {"prompt": prompt, "negative_prompt": negative}.items():
        checks.instance(value, name, str)
    require("{name}" in prompt, "prompt", prompt, f"{{name}} in it, as in {PROMPT!r}")


@dataclass
class TextPrior(DiTPrior):
    """A latent diffusion UNet that cross-attends to a CLIP embedding of a prompt.

    Attributes:
        tokenizer, text_encoder: transformers' `CLIPTokenizer` and `CLIPTextModel`.
        prompt: with {name}, where the class's name stands, blanks for underscores.
        negative_prompt: what guidance leads away from; "" is no class in particular.
        size: height and width of its images in pixels; None: the UNet's own.
        embeddings: (K + 1, tokens, width) of the prompts, of what `for_classes` gives.

    Source: Rombach et al. 2022; latent consistency models: Luo et al. 2023.
    """

    tokenizer: Any = None
    text_encoder: Any = None
    prompt: str = PROMPT
    negative_prompt: str = ""
    size: int | None = None

    def __post_init__(self) -> None:
        check_prompt(self.prompt, self.negative_prompt)
        self.embeddings = torch.empty(0)
        factor = self._factor
        if self.size is None:
            own = self.transformer.config.sample_size
            if not isinstance(own, int):
                own = min(own or (64,))
            self.size = own * factor
        checks.integer(self.size, "prior_size", factor, 2**13)
        expected = f"a multiple of {factor}, by which the VAE makes images smaller"
        require(self.size % factor == 0, "prior_size", self.size, expected)
        self.info = self.info | {
            "prompt": self.prompt,
            "negative_prompt": self.negative_prompt,
            "size": self.size,
        }

    @property
    def _factor(self) -> int:
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def image_size(self) -> int:
        return self.size or 0

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        side = self.image_size // self._factor
        return (self.transformer.config.in_channels, side, side)

    @inference()
    def for_classes(self, class_names: Sequence[str]) -> TextPrior:
        """Return a copy whose classes are a set's, with their prompts encoded."""
        names = tuple(class_names)
        if names == self.class_names:
            return self
        if names == numbered(len(names)):
            raise InputError(
                "the classes of the set have no names, and a text-conditioned prior "
                "needs them; name them with dataset= (--dataset, --subset)"
            )
        words = [name.replace("_", " ") for name in names]
        prompts = [self.prompt.replace("{name}", word) for word in words]
        tokens = self.tokenizer(
            [*prompts, self.negative_prompt],
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        mask = getattr(self.text_encoder.config, "use_attention_mask", False)
        parts = []
        for ids, seen in zip(
            tokens.input_ids.split(64), tokens.attention_mask.split(64), strict=True
        ):
            given = {}
            if mask:
                given["attention_mask"] = seen
            parts.append(self.text_encoder(ids, **given)[0].float())
        told = copy(self)
        told.class_names = names
        told.embeddings = torch.cat(parts).to(self.device)
        return told

    def forward(self, x: Tensor, place: float, class_labels: Tensor) -> Tensor:
        timesteps = torch.full((len(x),), place, device=x.device)
        hidden = self.embeddings.to(x.device)[class_labels.to(x.device)].to(x)
        return self.transformer(x, timesteps, hidden, **self._conditions(x)).sample

    def _conditions(self, x: Tensor) -> dict:
        return {}


@dataclass
class ConsistencyPrior(TextPrior):
    """A latent consistency model: one to eight steps, guidance told to the network.

    Its prediction is drawn towards the input near the clean end (boundary scaling). The
    steps are DDIM's, with the noise that follows from the prediction, where the
    published sampler draws new noise after each: here one draw makes one image (ours).
    """

    scale = 1.0  # of guidance, which is told to the network

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.one_of(self.prediction, "prediction_type of an LCM", ("epsilon",))
        told = LCM_SAYS | self.info
        self.origin = told["original_inference_steps"]
        self.scaling = told["timestep_scaling"]
        checks.integer(self.origin, "original_inference_steps", 1, self.num_timesteps)
        checks.number(self.scaling, "timestep_scaling", 1e-3, 1e6)

    def timesteps(self, num_inference_steps: int) -> list[int | float]:
        from diffusers import LCMScheduler

        steps = num_inference_steps
        scheduler = LCMScheduler(num_train_timesteps=self.num_timesteps)
        expected = f"at most {self.origin}"
        require(steps <= self.origin, "num_inference_steps", steps, expected)
        scheduler.set_timesteps(steps, original_inference_steps=self.origin)
        angles = noise_angles(self.scheduler.alphas_cumprod)[
            scheduler.timesteps.numpy() + 1
        ]
        return dit_timesteps(angles)

    @inference()
    def denoise(
        self,
        latents: Tensor,
        timestep: float,
        class_labels: Tensor,
        guidance_scale: float,
    ) -> tuple[Tensor, Tensor]:
        """Return the consistency function's x_0, and the noise that it leaves."""
        x_0, _ = super().denoise(latents, timestep, class_labels, guidance_scale)
        scaled = self.place(timestep) * self.scaling
        skip = 0.25 / (scaled**2 + 0.25)  # of sigma_data = 0.5
        x_0 = scaled / math.sqrt(scaled**2 + 0.25) * x_0 + skip * latents
        alpha, sigma = self.signal_and_noise(timestep)
        return x_0, (latents - alpha * x_0) / sigma

    def guided(
        self, latents: Tensor, timestep: float, class_labels: Tensor, scale: float
    ) -> Tensor:
        """Return the predicted noise, with the guidance scale told to the network."""
        told = copy(self)
        told.scale = checks.number(scale, "guidance_scale", 1)
        return super(ConsistencyPrior, told).guided(latents, timestep, class_labels, 1)

    def _conditions(self, x: Tensor) -> dict:
        width = self.transformer.config.time_cond_proj_dim
        if width is None:
            return {}
        half = width // 2
        frequencies = torch.exp(-math.log(10000) * torch.arange(half) / (half - 1))
        angles = 1000 * (self.scale - 1) * frequencies  # as diffusers' LCM pipeline
        embedding = torch.cat([angles.sin(), angles.cos()]).expand(len(x), -1)
        return {"timestep_cond": embedding.to(x)}
