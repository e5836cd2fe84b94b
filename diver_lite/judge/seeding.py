"""Let a block of code draw from a generator of its own. Source: ours."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

# of torch.randint(low, high, ...) and its like
OVERLOADS = {"low": "low_generator", "low_dtype": "low_generator_dtype"}


class Seeded(TorchDispatchMode):
    """Within the block, whatever draws without a generator draws from a given one.

    `nn` draws initial weights from torch's one global generator, which threads share
    and whose state belongs to the user. This mode is the thread's own.

    Args:
        generator: on the device where the block draws.
    """

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.generator = generator

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if kwargs.get("generator") is None:
            # torch.randn and its like take a generator in an overload of that name
            name = OVERLOADS.get(func._overloadname, "generator")
            func = getattr(func.overloadpacket, name, func)
            if "generator" in {argument.name for argument in func._schema.arguments}:
                kwargs["generator"] = self.generator
        return func(*args, **kwargs)
