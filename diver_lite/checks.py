"""Say what is wrong with an input: the one exception, and the validators that share it.

Each validator names the argument, what was found and what is expected.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from safetensors import SafetensorError

if TYPE_CHECKING:  # the set-up check must run where torch is missing
    from torch import Tensor


class InputError(ValueError):
    """Bad input: what was given, found and expected, in one line; exit code 2."""

    path: Path | None = None  # the file that is named, see `file_error`

    def __str__(self) -> str:
        return printable(super().__str__())


class WriteError(InputError, OSError):
    """An output can't be written: a full disk, a folder that became read-only, ..."""


def printable(text: str, keep: str = "") -> str:
    """Return a text in which no character moves a terminal's cursor, or can't be seen.

    Line breaks, too, are spelled out as Python and YAML spell them, unless kept.
    """
    return "".join(c if c.isprintable() or c in keep else repr(c)[1:-1] for c in text)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its name if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextmanager
def naming(
    path: Path, expected: str = "", *, output: bool = False, advice: str = ""
) -> Iterator[None]:
    """Turn what goes wrong with a file, in a block, into one line that names it.

    An `InputError` gets the file's name in front, once; the system's errors are told.

    Args:
        path: the file or folder; the system may name another one.
        expected: what a stranger's file should be. Then all errors are told, as a
            damaged file can fail in any way, and what is neither a file nor a folder
            is refused: a pipe would be waited for.
        output: the file is what the block writes. An `InputError` stays as it is, but
            a `WriteError`, of a file in this one, becomes one that names this.
        advice: what to do about an output that can't be written.
    """
    unwritten = (OSError, SafetensorError) if output else ()
    unread = Exception if expected else OSError
    try:
        if expected and not (path.is_file() or path.is_dir()):
            found = "not a regular file" if os.path.lexists(path) else "no such file"
            raise InputError(f"{found}; expected {expected}")
        yield
    except unwritten as error:
        why = reason(error.__cause__ or error)
        raise WriteError(f"output {path} can't be written ({why}){advice}") from error
    except InputError as error:
        if output or error.path:
            raise
        raise file_error(path, f": {error}") from None
    except unread as error:
        place = getattr(error, "filename", None)
        if isinstance(place, str):
            path = Path(place)
        message = f" can't be read ({reason(error)[:200]})"
        if expected:
            message += f"; expected {expected}"
        raise file_error(path, message) from None


def reason(error: BaseException) -> str:
    """Return what the system says, without number and name; of others one line."""
    return getattr(error, "strerror", None) or first_line(error)


def file_error(path: Path, message: str) -> InputError:
    """Return an error that begins with a file's name, for `naming` to leave alone."""
    error = InputError(f"{path}{message}")
    error.path = path
    return error


def ensure(condition: bool, message: str) -> None:
    """Raise `InputError` with a message unless a condition holds."""
    if not condition:
        raise InputError(message)


def require(condition: bool, name: str, value: object, expected: object) -> None:
    """Raise `InputError` unless a condition holds."""
    if not condition:
        raise InputError(f"{name} is {describe(value)}; expected {expected}")


def describe(value: Any) -> str:
    """Return a value in a few words; of a tensor its type and shape."""
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple) and hasattr(value, "dtype") and math.prod(shape) > 8:
        return f"{value.dtype} {tuple(shape)}"
    text = " ".join(repr(value).split())
    if len(text) > 80:
        return f"{text[:76]} ..."
    return text


def plain(value: Any) -> Any:
    """Return Python's own number for NumPy's, also in a pair."""
    if isinstance(value, tuple | list):
        return tuple(plain(v) for v in value)
    if hasattr(value, "item") and getattr(value, "shape", None) == ():
        return value.item()
    return value


def is_one_of(value: object, words: Sequence[str]) -> bool:
    """Return whether a value is one of some words, whatever type it has."""
    return isinstance(value, str) and value in words


def one_of(value: Any, name: str, words: Sequence[str]) -> Any:
    """Return a value that is one of some words, or raise."""
    require(is_one_of(value, words), name, value, f"one of {words}")
    return value


def integer(value: Any, name: str, lowest: int, highest: int = 2**31 - 1) -> int:
    """Return an integer, also one of NumPy's, or raise; True is none."""
    value = plain(value)
    fits = type(value) is int and lowest <= value <= highest
    require(fits, name, value, f"an integer in {lowest} .. {highest}")
    return value


def number(value: Any, name: str, lowest: float, highest: float = math.inf) -> float:
    """Return a finite number in lowest .. highest, or raise; True is none."""
    value = plain(value)
    fits = type(value) in (int, float) and lowest <= value <= highest
    upto = f">= {lowest}" if highest == math.inf else f"in {lowest} .. {highest}"
    require(fits and value < math.inf, name, value, f"a finite number {upto}")
    return value


def settings(holder: Any, lowest: Mapping[str, int] | None = None) -> None:
    """Check a dataclass against the types of its fields.

    NumPy's numbers become Python's. A `Literal` holds one of its words, a bool True or
    False, and what is declared as one class is of that class; None passes where it is
    declared. With `lowest`, an int is at least 1 and a float 0, or what that says.
    """
    for name, hint in get_type_hints(type(holder)).items():
        value = plain(getattr(holder, name))
        object.__setattr__(holder, name, value)  # also where it is frozen
        if type(None) in get_args(hint):
            if value is None:
                continue
            hint = get_args(hint)[0]
        if get_origin(hint) is Literal:
            one_of(value, name, get_args(hint))
        elif get_origin(hint) is Mapping:
            instance(value, name, Mapping)
        elif hint is bool:
            require(isinstance(value, bool), name, value, "True or False")
        elif hint is int and lowest is not None:
            integer(value, name, lowest.get(name, 1))
        elif hint is float and lowest is not None:
            number(value, name, lowest.get(name, 0))
        elif isinstance(hint, type) and hint not in (int, float):
            instance(value, name, hint)


def instance(value: Any, name: str, kind: Any) -> None:
    """Raise unless a value is of a class, or of one of a union."""
    wanted = getattr(kind, "__name__", str(kind))
    ensure(
        isinstance(value, kind),
        f"{name} is of type {type(value).__name__}; expected one of type {wanted}",
    )


def path(value: Any, name: str) -> Path:
    """Return a path that the system can be asked about, or raise."""
    if isinstance(value, str | Path) and "\0" not in str(value):
        with suppress(OSError, ValueError):  # of a name that is too long, for one
            Path(value).exists()
            return Path(value)
    raise InputError(f"{name} is {describe(value)}; expected a path")


def check_text(text: str, name: str) -> None:
    """Raise unless files can hold a text: bytes of another encoding can't be kept."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InputError(
            f"{name} is {describe(text)}, with bytes that aren't UTF-8; expected text"
        ) from None


def floats(value: Any, name: str, shape: Sequence[int | str]) -> None:
    """Raise unless a value is a dense float tensor of a shape; a letter is any >= 1."""
    _tensor(value, name, shape, "a float")


def finite(tensor: Tensor, name: str) -> Tensor:
    """Return a tensor of which every value is there and finite, or raise."""
    require(tensor.device.type != "meta", name, tensor, "values, not only a shape")
    broken = ~tensor.detach().isfinite()
    if bool(broken.any()):
        first = int(broken.flatten(1).any(dim=1).nonzero()[0])
        found = f"{int(broken.sum())} NaN or infinite values, the first in row {first}"
        raise InputError(f"{name} hold {found}; expected finite ones")
    return tensor.detach()


def latents(shape: Sequence[int | str] = "Chw", /, **tensors: Any) -> None:
    """Raise unless all are float tensors (B, *shape), as many rows in each."""
    rows: int | str = "B"
    for name, value in tensors.items():
        floats(value, name, (rows, *shape))
        rows, *shape = value.shape


def class_indices(value: Any, name: str, count: int, classes: int) -> None:
    """Raise unless a value is (count,) integers in 0 .. classes-1.

    On a GPU the range isn't looked at: that would wait for it.
    """
    _tensor(value, name, (count,), "an integer")
    if value.device.type == "cpu":
        low, high = int(value.min()), int(value.max())
        ensure(
            low >= 0 and high < classes,
            f"{name} are {low} .. {high}; expected 0 .. {classes - 1}, an index for "
            "each class",
        )


def _tensor(value: Any, name: str, shape: Sequence, kind: str) -> None:
    import torch

    expected = f"{kind} tensor {tuple(shape)}".replace("'", "")
    found = f"of type {type(value).__name__}"
    ensure(isinstance(value, torch.Tensor), f"{name} is {found}; expected {expected}")
    kinds = {
        # not float8, with which torch can't even compare
        "a float": (torch.float16, torch.bfloat16, torch.float32, torch.float64),
        # NumPy's other unsigned integers know no minimum in torch
        "an integer": (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    }
    sizes = ()
    if not value.is_nested:  # whose rows have a shape each
        sizes = tuple(value.shape)
    found = f"{value.dtype} {sizes}"
    dense = value.layout is torch.strided and not value.is_quantized
    if not dense:
        found += f" ({value.layout})"
    fits = len(sizes) == len(shape) and all(
        size == wanted or (isinstance(wanted, str) and size >= 1)
        for size, wanted in zip(sizes, shape, strict=True)
    )
    fits = fits and dense and value.dtype in kinds[kind]
    ensure(fits, f"{name} is {found}; expected {expected}")
