"""Results in files: one JSON document, read as data and never as code."""

from __future__ import annotations

import json
import math
import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from torch import Tensor

from inseq.errors import ArgumentError, FileFormatError, writing
from inseq.result.fields import DTYPES, Field, pack
from inseq.text.example import Role, Token

if TYPE_CHECKING:
    from inseq.result.output import FeatureAttributionOutput, FeatureAttributionSequenceOutput

FORMAT, VERSION = "inseq", 1
MAX_BYTES = 512 * 2**20
TENSORS = ("source_attributions", "target_attributions")
TENSOR_MAPS = ("step_scores", "sequence_scores", "diagnostics")
TEXTS = ("axes", "reduce_by", "reduced")
FLAGS = ("normalize", "signed")
POSITIONS = ("attr_pos_start", "attr_pos_end")
TOKENS = ("source", "target")
SEQUENCE = (*TOKENS, *TENSORS, *TENSOR_MAPS, *POSITIONS, *TEXTS, *FLAGS, "info")


def save(output: FeatureAttributionOutput, path: str | Path, overwrite: bool = False) -> None:
    """Write an output as JSON; the file appears whole or not at all.

    Values of ``info`` that JSON does not know (a dtype, a device, a function, NaN) are kept as their ``str``.

    Raises:
        ArgumentError: if the path exists and ``overwrite`` is not set, or if the file would be larger than
            ``MAX_BYTES`` (512 MiB), the most that ``load`` reads.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise ArgumentError(f"{str(path)!r} exists; choose another path, or pass overwrite=True.")
    data = json.dumps(_document(output), allow_nan=False, separators=(",", ":")).encode("ascii")
    if len(data) > MAX_BYTES:
        raise ArgumentError(
            f"The result takes {len(data) / 2**20:.0f} MiB, more than the {MAX_BYTES // 2**20} MiB that can be "
            "loaded again; save output.aggregate() instead."
        )
    _write(path, data)


def load(path: str | Path) -> FeatureAttributionOutput:
    """Read a file written by ``save``.

    Raises:
        FileFormatError: if the file is too large, of another version, or not as it should be; names the field.
    """
    from inseq.result.output import FeatureAttributionOutput
    from inseq.result.steps import step_outputs

    document = Field(_parse(_read(Path(path))))
    _check_version(document)
    parts = document.record("format", "version", "info", "sequences", "steps")
    steps = parts["steps"]
    sequences = [_sequence(field) for field in parts["sequences"].items()]
    return FeatureAttributionOutput(
        sequences,
        step_outputs(sequences) if steps.value is not None and steps.boolean() else None,
        {key: field.value for key, field in parts["info"].mapping()},
    )


def _document(output: FeatureAttributionOutput) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "info": jsonable(output.info),
        "sequences": [_packed(sequence) for sequence in output.sequence_attributions],
        "steps": output.step_attributions is not None,
    }


def _packed(sequence: FeatureAttributionSequenceOutput) -> dict[str, Any]:
    packed: dict[str, Any] = {name: getattr(sequence, name) for name in (*POSITIONS, *FLAGS)}
    packed |= {"spans": [list(span) for span in sequence.spans]} if sequence.spans else {}
    packed |= {name: list(getattr(sequence, name)) for name in TEXTS}
    packed |= {name: [_token_fields(token) for token in getattr(sequence, name)] for name in TOKENS}
    packed |= {name: _packed_tensor(name, getattr(sequence, name)) for name in TENSORS}
    for name in TENSOR_MAPS:
        packed[name] = {str(key): _packed_tensor(key, values) for key, values in getattr(sequence, name).items()}
    return packed | {"info": jsonable(sequence.info)}


def _packed_tensor(name: str, values: Tensor | None) -> dict[str, Any] | None:
    if values is None:
        return None
    if str(values.dtype).removeprefix("torch.") not in DTYPES:
        raise ArgumentError(f"{name} has dtype {values.dtype}, which files do not hold; convert it first.")
    return pack(values)


def _token_fields(token: Token) -> dict[str, Any]:
    return {
        "piece": token._piece,
        "token": token.token,
        "id": token.id,
        "role": token.role,
        "text": token.text,
        "special": token.special,
    }


def jsonable(value: Any) -> Any:
    """Return a value as JSON holds it: tuples are lists, keys are strings, and what JSON does not know is its str."""
    if isinstance(value, dict):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    if value is None or type(value) in (str, int, bool) or (type(value) is float and math.isfinite(value)):
        return value
    return str(value)


def _write(path: Path, data: bytes) -> None:
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


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise FileFormatError(f"Cannot read {str(path)!r}: {error.strerror or error}.") from error
    if len(data) > MAX_BYTES:
        raise FileFormatError(f"{str(path)!r} is larger than {MAX_BYTES // 2**20} MiB, the most that is read.")
    return data


def _parse(data: bytes) -> Any:
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        if isinstance(error, FileFormatError):
            raise
        raise FileFormatError(f"Not a result file: it is not a JSON document ({error}).") from error


def _unique(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise FileFormatError(f"Damaged result file: the key {key[:40]!r} is there twice in one object.")
        found[key] = value
    return found


def _refuse_constant(name: str) -> None:
    raise FileFormatError(f"Damaged result file: {name} is not JSON.")


def _check_version(document: Field) -> None:
    found = document.value
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise FileFormatError(f'Not a result file: it should be an object with "format": "{FORMAT}".')
    version = found.get("version")
    if type(version) is not int or version != VERSION:
        raise FileFormatError(
            f"The file has format version {str(version)[:20]!r}; this release reads version {VERSION}. "
            "Load it with the release that wrote it."
        )


def _sequence(field: Field) -> FeatureAttributionSequenceOutput:
    from inseq.result.output import FeatureAttributionSequenceOutput

    parts = field.record(*SEQUENCE, also=("spans",))
    values: dict[str, Any] = {name: [_token(item) for item in parts[name].items()] for name in TOKENS}
    values |= {name: None if parts[name].value is None else _scores(parts[name]) for name in TENSORS}
    values |= {name: {key: item.tensor() for key, item in parts[name].mapping()} for name in TENSOR_MAPS}
    values |= {name: parts[name].integer(0) for name in POSITIONS}
    values["spans"] = tuple(_span(item) for item in parts["spans"].items()) if "spans" in parts else ()
    values |= {name: tuple(item.text() for item in parts[name].items()) for name in TEXTS}
    values |= {name: parts[name].boolean() for name in FLAGS}
    values["info"] = {key: item.value for key, item in parts["info"].mapping()}
    try:
        return FeatureAttributionSequenceOutput(**values)
    except ArgumentError as error:
        raise FileFormatError(f"Damaged result file: {field.path}: {error}") from error


def _scores(field: Field) -> Tensor:
    values = field.tensor()
    if not values.is_floating_point():
        field.record("dtype", "shape", "data")["dtype"].fail("a floating-point dtype")
    return values


def _span(field: Field) -> tuple[int, int]:
    ends = [item.integer(0) for item in field.items()]
    if len(ends) != 2:
        field.fail("a pair of positions")
    return ends[0], ends[1]


def _token(field: Field) -> Token:
    parts = field.record("piece", "token", "id", "role", "text", "special")
    role: Any = parts["role"].text(*get_args(Role))
    token = Token(parts["piece"].text(), parts["id"].integer(-1), role, parts["text"].text(), parts["special"].boolean())
    token.token = parts["token"].text()
    return token
