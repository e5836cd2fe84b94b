"""What a training tells beside its accuracy, as text that fits into a table's cell.

A `Look` says how it went on the way; the answers to single test images let whoever
compares sets draw test images, too. Source: ours.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor


class Look(NamedTuple):
    """A training in the middle."""

    step: int  #: how many steps were done
    accuracy: float  #: in [0, 1]
    loss: float  #: of training, the mean of the last few steps


def to_text(curve: Sequence[Look]) -> str:
    """Return looks as text: "64:0.1820:1.9312 128:0.2040:1.5003"."""
    return " ".join("{}:{:.4f}:{:.4f}".format(*look) for look in curve)


def from_text(text: str) -> list[Look]:
    """Return the looks of a text.

    Raises `ValueError` if it is another text.
    """
    looks = []
    for word in text.split():
        step, accuracy, loss = word.split(":")
        looks.append(Look(int(step), float(accuracy), float(loss)))
    return looks


def packed(right: Tensor) -> str:
    """Return (N,) booleans as text: N, a colon, and the bits in base 64."""
    bits = np.packbits(right.cpu().numpy())
    return f"{len(right)}:{base64.b64encode(bits.tobytes()).decode()}"


def unpacked(text: str) -> Tensor:
    """Return the (N,) booleans of a text; of "", a training that failed, none.

    Raises `ValueError` if it is another text.
    """
    count, _, bits = (text or "0:").partition(":")
    found = np.frombuffer(base64.b64decode(bits, validate=True), np.uint8)
    if len(found) != -(-int(count) // 8):
        raise ValueError(f"{len(found)} bytes for {count} answers")
    return torch.from_numpy(np.unpackbits(found, count=int(count)).astype(bool))


def curves(table: pd.DataFrame) -> pd.DataFrame:
    """Return the looks of a table of `cross_architecture`, one row each.

    Columns: set, judge, seed, step, accuracy in [0, 1], loss. The last step isn't among
    them: it is the table's own, and was scored on all test images.
    """
    rows = [
        {
            "set": row["set"],
            "judge": row["judge"],
            "seed": row["seed"],
            **look._asdict(),
        }
        for row in table.to_dict("records")
        for look in from_text(row["curve"])
    ]
    columns = ["set", "judge", "seed", *Look._fields]
    return pd.DataFrame(rows, columns=columns)
