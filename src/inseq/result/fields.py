"""A value read from a file that knows where it stands, so that an error can say so."""

from __future__ import annotations

import base64
import binascii
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
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
MAX_AXES = 8


@dataclass(frozen=True)
class Field:
    """A JSON value and its path in the document, such as ``sequences[0].source[2].id``."""

    value: Any
    path: str = ""

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
        return {key: Field(value, f"{self.path}.{key}".lstrip(".")) for key, value in self.value.items()}

    def mapping(self) -> Iterator[tuple[str, Field]]:
        """An object with any keys."""
        if not isinstance(self.value, dict):
            self.fail("an object")
        return ((key, Field(value, f"{self.path}[{key!r}]")) for key, value in self.value.items())

    def items(self) -> Iterator[Field]:
        """A list."""
        if not isinstance(self.value, list):
            self.fail("a list")
        return (Field(value, f"{self.path}[{i}]") for i, value in enumerate(self.value))

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

    def tensor(self) -> Shaped[Tensor, "..."]:
        """A tensor; the sizes are compared before anything is allocated for it."""
        parts = self.record("dtype", "shape", "data")
        dtype = DTYPES[parts["dtype"].text(*DTYPES)]
        shape = [size.integer(0) for size in parts["shape"].items()]
        if len(shape) > MAX_AXES:
            parts["shape"].fail(f"a list of at most {MAX_AXES} sizes")
        size = math.prod(shape) * dtype.itemsize
        data = parts["data"].text()
        if len(data) != 4 * math.ceil(size / 3):
            parts["data"].fail(f"the base64 text of {size} bytes, which shape and dtype ask for")
        try:
            raw = base64.b64decode(data, validate=True)
        except (binascii.Error, ValueError):
            parts["data"].fail("base64 text")
        if len(raw) != size:
            parts["data"].fail(f"the base64 text of {size} bytes, which shape and dtype ask for")
        if dtype is torch.bool and raw.strip(b"\0\1"):
            parts["data"].fail("bytes that are 0 or 1")
        return unpack(raw, dtype, shape)


def pack(tensor: Shaped[Tensor, "..."]) -> dict[str, Any]:
    """Return a tensor as JSON values: dtype, shape and its little-endian bytes in base64."""
    raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    data = base64.b64encode(_little_endian(raw, tensor.element_size()).numpy().tobytes()).decode("ascii")
    return {"dtype": str(tensor.dtype).removeprefix("torch."), "shape": list(tensor.shape), "data": data}


def unpack(raw: bytes, dtype: torch.dtype, shape: list[int]) -> Shaped[Tensor, "..."]:
    """Return the tensor of a shape from its little-endian bytes."""
    if not raw:
        return torch.empty(shape, dtype=dtype)
    flat = torch.frombuffer(bytearray(raw), dtype=torch.uint8)
    return _little_endian(flat, dtype.itemsize).view(dtype).reshape(shape)


def _little_endian(raw: Shaped[Tensor, " byte"], size: int) -> Shaped[Tensor, " byte"]:
    return raw.view(-1, size).flip(1).reshape(-1) if sys.byteorder == "big" else raw
