"""The bytes of files: read up to a limit, written whole or not at all, taken apart without running anything."""

from __future__ import annotations

import gzip
import json
import os
import secrets
import shutil
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor

from inseq.errors import ArgumentError, FileFormatError, writing
from inseq.results.files.fields import STORED, Field

MAX_BYTES = 512 * 2**20
"""The most that is read, and the most that a compressed file may grow to."""

INFLATED, RATIO = 64 * 2**20, 200
"""A compressed file may grow to the larger of so many bytes and so many times its own size."""

MAX_OBJECTS, OF_CONTAINER, OF_VALUE = 512 * 2**20, 240, 64
"""The most memory that the Python objects of a document may take, at so many bytes an object or list and a value in one."""

MAX_HEADER, MAX_ENTRIES = 100_000_000, 100_000
"""The longest header that safetensors reads, in bytes, and the most tensors that are read from a file."""

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


def path_of(path: str | Path) -> Path:
    """Return a path.

    Raises:
        ArgumentError: for what is no file name.
    """
    if not isinstance(path, (str, os.PathLike)) or not str(path):
        raise ArgumentError(f"path must be a file name, got {type(path).__name__} ({path!r}).")
    return Path(path)


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
    """Write a file that appears whole or not at all. A link is followed, and a file that is replaced keeps its permissions.

    Raises:
        ArgumentError: if it cannot be written, or is there and no regular file, such as a device.
    """
    target = Path(os.path.realpath(path))
    unfinished = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    with writing(path):
        if target.exists() and not target.is_file():
            raise ArgumentError(f"Cannot write {str(path)!r}: it is a folder, a device or a pipe. Choose the path of a file.")
        try:
            with unfinished.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            if target.exists():
                shutil.copymode(target, unfinished)
            unfinished.replace(target)
        finally:
            unfinished.unlink(missing_ok=True)


def parse(data: bytes, constants: bool = False) -> Any:
    """Return a JSON document; ``constants`` allows NaN and Infinity, which JSON does not have.

    Raises:
        FileFormatError: if it is none, is nested too deeply, has a key twice, or would take more than ``MAX_OBJECTS``.
    """
    if data.startswith(PICKLES):
        raise FileFormatError("Not a result file: this is a pickle or an archive, and those are never opened.")
    if (memory := memory_of(data)) > MAX_OBJECTS:
        raise FileFormatError(
            f"Not a result file: the values in its {len(data)} bytes of JSON would take {memory // 2**20} MiB, and at most "
            f"{MAX_OBJECTS // 2**20} MiB are read. Save fewer texts in one file, for instance with split_sequences=True."
        )
    refused = None if constants else _refuse_constant
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=refused)
    except FileFormatError:
        raise
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"Not a result file: it is not a JSON document ({error}).") from error


def memory_of(text: bytes) -> int:
    """Return about how many bytes the Python objects of a JSON document take, beyond its own text, without making them."""
    # Brackets and commas inside strings count too: the estimate may be too high, but no document is larger than it says.
    return OF_CONTAINER * (text.count(b"{") + text.count(b"[")) + OF_VALUE * text.count(b",")


def is_safetensors(data: bytes) -> bool:
    """Whether the bytes begin as such a file does: the length of a header, then the header."""
    return data[8:9] == b"{" and b"\0" in data[:8]


def header(data: bytes, path: str = "") -> bytes:
    """Return the JSON header of a safetensors file.

    Raises:
        FileFormatError: if it is cut off, or longer than ``MAX_HEADER``.
    """
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or size > len(data) - 8:
        raise FileFormatError(f"Damaged result file: {path or 'the header'} is cut off.")
    if size > MAX_HEADER:
        raise FileFormatError(
            f"Not a result file: {path or 'its safetensors header'} has {size} bytes, and at most {MAX_HEADER} are read."
        )
    return data[8 : 8 + size]


def excess(data: bytes) -> str:
    """Return which limit of what can be read a written file exceeds, in words, or nothing."""
    text = data[8 : 8 + int.from_bytes(data[:8], "little")] if is_safetensors(data) else data
    sizes = (
        ("MiB", len(data) / 2**20, MAX_BYTES / 2**20),
        ("MiB of objects", memory_of(text) / 2**20, MAX_OBJECTS / 2**20),
        ("bytes of header", len(text) if text is not data else 0, MAX_HEADER),
        ("tensors", text.count(b'"data_offsets"'), MAX_ENTRIES),
    )
    over = (f"takes {size:.0f} {unit}, more than the {most:.0f}" for unit, size, most in sizes if size > most)
    return next(over, "")


def tensors(data: bytes, path: str = "") -> tuple[dict[str, Field], dict[str, Tensor]]:
    """Return the metadata and the tensors of a safetensors file, whose sizes are compared before anything is allocated.

    Raises:
        FileFormatError: which names the entry that is not as it should be.
    """
    text = header(data, path)
    entries = dict(Field(parse(text), path).mapping())
    metadata = entries.pop("__metadata__", None)
    texts = dict(metadata.mapping()) if metadata else {}
    for field in texts.values():
        field.text()
    _check_entries(entries, memoryview(data)[8 + len(text) :], path)
    try:
        return texts, load_tensors(data)
    except SafetensorError as error:
        raise FileFormatError(f"Damaged result file: {path or 'the header'} cannot be read ({error}).") from error


def _check_entries(entries: Mapping[str, Field], body: memoryview, path: str) -> None:
    """Compare what tensors declare with the bytes there are: each byte belongs to one tensor, and to one alone."""
    if len(entries) > MAX_ENTRIES:
        raise FileFormatError(
            f"Not a result file: {path or 'it'} has {len(entries)} tensors, and at most {MAX_ENTRIES} are read."
        )
    at = 0
    for start, end, dtype, offsets in sorted(map(_place, entries.values()), key=lambda place: place[:2]):
        if start != at or end > len(body):
            offsets.fail(f"positions in the {len(body)} bytes of tensors, from {at} on, where the tensor before ends")
        if dtype is torch.bool:
            offsets.checked(bytes(body[start:end]), dtype)
        at = end
    if at != len(body):
        raise FileFormatError(f"Damaged result file: {path or 'it'} has {len(body) - at} bytes that belong to no tensor.")


def _place(entry: Field) -> tuple[int, int, torch.dtype, Field]:
    """Return where a tensor begins and ends, its type, and the field that says where."""
    parts = entry.record("dtype", "shape", "data_offsets")
    offsets = parts["data_offsets"]
    dtype = STORED[SAFETENSORS[parts["dtype"].text(*SAFETENSORS)]]
    size = parts["shape"].shape(dtype)[1]
    ends = [item.integer(0) for item in offsets.items()]
    if len(ends) != 2 or ends[1] - ends[0] != size:
        offsets.fail(f"the ends of {size} bytes, which shape and dtype ask for")
    return ends[0], ends[1], dtype, offsets


def _unique(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise FileFormatError(f"Damaged result file: the key {key[:40]!r} is there twice in one object.")
        found[key] = value
    return found


def _refuse_constant(name: str) -> None:
    raise FileFormatError(f"Damaged result file: {name} is not JSON.")
