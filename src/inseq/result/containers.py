"""The bytes of files: read up to a limit, written whole or not at all, taken apart without running anything."""

from __future__ import annotations

import gzip
import json
import os
import secrets
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

from torch import Tensor

from inseq.errors import FileFormatError, writing
from inseq.result.fields import STORED, Field, unpack

MAX_BYTES = 512 * 2**20
"""The most that is read, and the most that a compressed file may grow to."""

INFLATED, RATIO = 64 * 2**20, 200
"""A compressed file may grow to the larger of so many bytes and so many times its own size."""

GZIP = b"\x1f\x8b"
PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04")
SAFETENSORS = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}


def read(path: Path) -> bytes:
    """Return what a file holds, decompressed where it is compressed, whatever it is called.

    Raises:
        FileFormatError: if it cannot be read, or is or becomes too large.
    """
    try:
        with path.open("rb") as file:
            data = _up_to(file, MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise FileFormatError(f"Cannot read {str(path)!r}: {getattr(error, 'strerror', None) or error}.") from error
    if len(data) > MAX_BYTES:
        raise FileFormatError(f"{str(path)!r} is larger than {MAX_BYTES // 2**20} MiB, the most that is read.")
    return inflate(data, growth(len(data))) if data.startswith(GZIP) else data


def growth(size: int) -> int:
    """How large so many compressed bytes may become."""
    return min(MAX_BYTES, max(INFLATED, RATIO * size))


def _up_to(file: BinaryIO, limit: int) -> bytes:
    """Read piece by piece, as a read of so many bytes at once would first allocate them all."""
    pieces: list[bytes] = []
    while limit > 0 and (piece := file.read(min(limit, 2**20))):
        pieces.append(piece)
        limit -= len(piece)
    return b"".join(pieces)


def inflate(data: bytes, limit: int) -> bytes:
    """Decompress gzip up to a limit; what is over it is never made.

    Raises:
        FileFormatError: if there is more, or the data is cut off or damaged.
    """
    decoder = zlib.decompressobj(31)
    try:
        found = decoder.decompress(data, limit + 1)
    except zlib.error as error:
        raise FileFormatError(f"Damaged result file: it cannot be decompressed ({error}).") from error
    if len(found) > limit:
        raise FileFormatError(
            f"Not a result file: its {len(data)} compressed bytes grow to more than {limit}, the most that is decompressed."
        )
    if not decoder.eof or decoder.unused_data:
        raise FileFormatError(
            "Damaged result file: the compressed data is " + ("followed by more." if decoder.eof else "cut off.")
        )
    return found


def deflate(data: bytes) -> bytes:
    """Compress with gzip, and never more than ``read`` decompresses; equal data gives equal bytes."""
    packed = gzip.compress(data, 6, mtime=0)
    return packed if len(data) <= max(INFLATED, RATIO * len(packed)) else gzip.compress(data, 0, mtime=0)


def write(path: Path, data: bytes) -> None:
    """Write a file that appears whole or not at all."""
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    with writing(path):
        try:
            with unfinished.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)


def parse(data: bytes, constants: bool = False) -> Any:
    """Return a JSON document; ``constants`` allows NaN and Infinity, which JSON does not have.

    Raises:
        FileFormatError: if it is none, is nested too deeply, or has a key twice.
    """
    if data.startswith(PICKLES):
        raise FileFormatError("Not a result file: this is a pickle or an archive, and those are never opened.")
    refused = None if constants else _refuse_constant
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=refused)
    except FileFormatError:
        raise
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"Not a result file: it is not a JSON document ({error}).") from error


def is_safetensors(data: bytes) -> bool:
    """Whether the bytes begin as such a file does: the length of a header, then the header."""
    return data[8:9] == b"{" and b"\0" in data[:8]


def tensors(data: bytes, path: str = "") -> tuple[dict[str, Field], dict[str, Tensor]]:
    """Return the metadata and the tensors of a safetensors file; sizes are compared before anything is allocated.

    Raises:
        FileFormatError: which names the entry that is not as it should be.
    """
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or size > len(data) - 8:
        raise FileFormatError(f"Damaged result file: {path or 'the header'} is cut off.")
    header, body = Field(parse(data[8 : 8 + size]), path), data[8 + size :]
    entries = dict(header.mapping())
    metadata = entries.pop("__metadata__", None)
    return dict(metadata.mapping()) if metadata else {}, {key: _tensor(field, body) for key, field in entries.items()}


def _tensor(field: Field, body: bytes) -> Tensor:
    parts = field.record("dtype", "shape", "data_offsets")
    dtype = STORED[SAFETENSORS[parts["dtype"].text(*SAFETENSORS)]]
    shape, size = parts["shape"].shape(dtype)
    ends = [item.integer(0) for item in parts["data_offsets"].items()]
    if len(ends) != 2 or not ends[0] <= ends[1] <= len(body) or ends[1] - ends[0] != size:
        parts["data_offsets"].fail(f"the ends of {size} bytes in the file, which shape and dtype ask for")
    return unpack(parts["data_offsets"].checked(body[ends[0] : ends[1]], dtype), dtype, shape)


def _unique(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise FileFormatError(f"Damaged result file: the key {key[:40]!r} is there twice in one object.")
        found[key] = value
    return found


def _refuse_constant(name: str) -> None:
    raise FileFormatError(f"Damaged result file: {name} is not JSON.")
