"""A value read from a file that knows where it stands, so that an error can say so."""

from __future__ import annotations

import base64
import binascii
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from jaxtyping import Shaped
from torch import Tensor

from inseq.errors import FileFormatError

DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.float64,
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.uint8,
        torch.bool,
    )
}
STORED = DTYPES | {"float8_e4m3fn": torch.float8_e4m3fn}
MAX_AXES = 8

PRECISIONS: dict[str, tuple[torch.dtype, int] | None] = {
    "float32": None,
    "float16": (torch.float16, 14),
    "bfloat16": (torch.bfloat16, 14),
    "float8": (torch.float8_e4m3fn, 7),
}
"""How scores may be kept: a type, and the power of two that the largest magnitude is brought to before it is rounded."""


@dataclass(frozen=True)
class Field:
    """A JSON value and its path in the document, such as ``sequences[0].source[2].id``.

    Attributes:
        value: what was read.
        path: where it stands.
        stored: tensors in the same file that the document names, each of them once.
    """

    value: Any
    path: str = ""
    stored: dict[str, Tensor] = field(default_factory=dict, repr=False)

    def fail(self, expected: str) -> NoReturn:
        """Raise the error for a value that is not as it should be."""
        got = repr(self.value)
        raise FileFormatError(
            f"Damaged result file: {self.path or 'the document'} should be {expected}, "
            f"got {got if len(got) < 60 else got[:57] + '...'}."
        )

    def record(self, *keys: str, also: tuple[str, ...] = ()) -> dict[str, Field]:
        """An object with exactly these keys, and no others than those that may be there ``also``."""
        if not isinstance(self.value, dict) or self.value.keys() - set(also) != set(keys):
            self.fail(f"an object with the keys {', '.join(keys)}")
        return {key: Field(value, f"{self.path}.{key}".lstrip("."), self.stored) for key, value in self.value.items()}

    def mapping(self) -> Iterator[tuple[str, Field]]:
        """An object with any keys."""
        if not isinstance(self.value, dict):
            self.fail("an object")
        return ((key, Field(value, f"{self.path}[{key[:40]!r}]", self.stored)) for key, value in self.value.items())

    def items(self) -> Iterator[Field]:
        """A list."""
        if not isinstance(self.value, list):
            self.fail("a list")
        return (Field(value, f"{self.path}[{i}]", self.stored) for i, value in enumerate(self.value))

    def text(self, *choices: str) -> str:
        """A string, where choices are given one of them."""
        if not isinstance(self.value, str) or (choices and self.value not in choices):
            self.fail(f"one of {', '.join(choices)}" if choices else "a string")
        return self.value

    def integer(self, least: int) -> int:
        """An integer of 64 bits that is not below ``least``."""
        if type(self.value) is not int or not least <= self.value < 2**63:
            self.fail(f"an integer, {least} or more")
        return int(self.value)

    def boolean(self) -> bool:
        """True or false."""
        if not isinstance(self.value, bool):
            self.fail("true or false")
        return self.value

    def number(self) -> float:
        """A finite number."""
        if type(self.value) not in (int, float) or not abs(self.value) < sys.float_info.max:
            self.fail("a number")
        return float(self.value)

    def shape(self, dtype: torch.dtype) -> tuple[list[int], int]:
        """The sizes of axes, and the bytes that a tensor of them takes."""
        sizes = [size.integer(0) for size in self.items()]
        if len(sizes) > MAX_AXES or math.prod(max(1, size) for size in sizes) >= 2**48:
            self.fail(f"a list of at most {MAX_AXES} sizes, of fewer than 2^48 values")
        return sizes, math.prod(sizes) * dtype.itemsize

    def checked(self, raw: bytes, dtype: torch.dtype) -> bytes:
        """The bytes of a tensor, if they can be those of its type."""
        if dtype is torch.bool and raw.strip(b"\0\1"):
            self.fail("bytes that are 0 or 1")
        return raw

    def base64(self, size: int) -> bytes:
        """Bytes written as text; their number is known before."""
        data = self.text()
        if len(data) != 4 * math.ceil(size / 3):
            self.fail(f"the base64 text of {size} bytes, which shape and dtype ask for")
        raw = self.any_base64()
        if len(raw) != size:
            self.fail(f"the base64 text of {size} bytes, which shape and dtype ask for")
        return raw

    def any_base64(self) -> bytes:
        """Bytes written as text."""
        try:
            return base64.b64decode(self.text(), validate=True)
        except (binascii.Error, ValueError):
            self.fail("base64 text")

    def tensor(self) -> Shaped[Tensor, "..."]:
        """A tensor; the sizes are compared before anything is allocated for it."""
        if isinstance(self.value, dict) and "tensor" in self.value:
            parts = self.record("tensor", also=("as", "scale"))
            name = parts["tensor"].text()
            if name not in self.stored:
                parts["tensor"].fail("the name of a tensor in the file, which no other field has")
            # A tensor is widened when it is restored: named by many fields, a small one would fill the memory.
            return _restored(self.stored.pop(name), parts)
        parts = self.record("dtype", "shape", "data", also=("as", "scale"))
        dtype = STORED[parts["dtype"].text(*STORED)]
        shape, size = parts["shape"].shape(dtype)
        raw = parts["data"].checked(parts["data"].base64(size), dtype)
        return _restored(unpack(raw, dtype, shape), parts)


def _restored(values: Tensor, parts: dict[str, Field]) -> Tensor:
    """Undo what ``rounded`` did, as far as it can be undone."""
    dtype = DTYPES[parts["as"].text(*(n for n, d in DTYPES.items() if d.is_floating_point))] if "as" in parts else None
    if dtype is None and "float8" not in str(values.dtype):
        return values
    scale = parts["scale"].number() if "scale" in parts else 1.0
    if scale <= 0:
        parts["scale"].fail("a number above 0")
    return (values.double() / scale).to(dtype or torch.float32)


def rounded(values: Shaped[Tensor, "..."], precision: str) -> tuple[Shaped[Tensor, "..."], float]:
    """Return floats in fewer bits, and the power of two that they were multiplied by.

    The error is at most one part in 2^11 (``float16``), 2^8 (``bfloat16``) or 2^4 (``float8``), or 2^-39, 0 and 2^-17 of
    the largest magnitude, whichever is larger. Integers stay, and so do tensors that already take no more bits, and in
    ``float8`` those that hold infinities, which it does not have.
    """
    kept = PRECISIONS[precision]
    if kept is None or not values.is_floating_point() or values.element_size() <= kept[0].itemsize:
        return values, 1.0
    if precision == "float8" and values.isinf().any():
        return values, 1.0
    sizes = values.detach().double().abs().nan_to_num(0.0, 0.0, 0.0)
    largest = float(sizes.max()) if sizes.numel() else 0.0
    scale = 2.0 ** max(-1000, min(1000, kept[1] + 1 - math.frexp(largest)[1])) if largest else 1.0
    return (values.detach().double() * scale).to(kept[0]), scale


def pack(tensor: Shaped[Tensor, "..."], precision: str = "float32", stored: dict[str, Tensor] | None = None) -> dict[str, Any]:
    """Return a tensor as JSON values: dtype, shape and its little-endian bytes in base64.

    Where ``stored`` is given the tensor goes there, and the values are the name that it has got.
    """
    values, scale = rounded(tensor.detach().cpu(), precision)
    facts = {} if values.dtype == tensor.dtype else {"as": str(tensor.dtype).removeprefix("torch."), "scale": scale}
    if stored is not None:
        name = f"tensor {len(stored)}"
        stored[name] = values.contiguous().clone()
        return {"tensor": name, **facts}
    raw = values.contiguous().reshape(-1).view(torch.uint8)
    data = base64.b64encode(_little_endian(raw, values.element_size()).numpy().tobytes()).decode("ascii")
    return {"dtype": str(values.dtype).removeprefix("torch."), "shape": list(tensor.shape), "data": data, **facts}


def unpack(raw: bytes, dtype: torch.dtype, shape: list[int]) -> Shaped[Tensor, "..."]:
    """Return the tensor of a shape from its little-endian bytes."""
    if not raw:
        return torch.empty(shape, dtype=dtype)
    flat = torch.frombuffer(bytearray(raw), dtype=torch.uint8)
    return _little_endian(flat, dtype.itemsize).view(dtype).reshape(shape)


def _little_endian(raw: Shaped[Tensor, " byte"], size: int) -> Shaped[Tensor, " byte"]:
    return raw.view(-1, size).flip(1).reshape(-1) if sys.byteorder == "big" else raw
