"""Outputs in files: a versioned document, read as data and never as code."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

from safetensors.torch import save as store_tensors
from torch import Tensor

from inseq.errors import ArgumentError, FileFormatError
from inseq.results.alternatives import Alternative
from inseq.results.files import containers
from inseq.results.files import inseq as inseq_files
from inseq.results.files.fields import DTYPES, Field, pack
from inseq.results.files.inseq import Parts
from inseq.results.scores import S, SequenceScores
from inseq.text.tokens import Role, Token
from inseq.version import __version__

FORMAT, VERSION = "inseq", 3
TENSORS = ("source_attributions", "target_attributions")
TENSOR_MAPS = ("step_scores", "sequence_scores", "diagnostics")
ROUNDED = (*TENSORS, "sequence_scores")
"""What ``scores_precision`` is about; step scores and diagnostics are few, and stay as they are."""

TEXTS = ("axes", "reduce_by", "reduced")
FLAGS = ("normalize", "signed")
POSITIONS = ("attr_pos_start", "attr_pos_end")
TOKENS = ("source", "target")
SEQUENCE = (*TOKENS, *TENSORS, *TENSOR_MAPS, *POSITIONS, *TEXTS, *FLAGS, "info")


def read(path: str | Path, make: type[S]) -> Parts[S]:
    """Return what a file holds that ``encode`` made, or Inseq 0.5 to 0.7: sequences, steps and facts. Nothing in it is run.

    Args:
        path: the file. What it is, and whether it is compressed, is told from its content.
        make: the class of the sequences.

    Raises:
        FileFormatError: which names the field that is not as it should be.
        ArgumentError: if the path is none.
    """
    data = containers.read(containers.path_of(path))
    if containers.is_safetensors(data):
        metadata, stored = containers.tensors(data)
        if FORMAT not in metadata:
            raise FileFormatError(f"Not a result file: its metadata has no entry {FORMAT!r}.")
        return _parts(Field(containers.parse(metadata[FORMAT].text().encode("utf-8", "replace")), "", stored), make)
    document = containers.parse(data, constants=b'"sequence_attributions"' in data)
    if inseq_files.is_inseq(document):
        return inseq_files.read(document, make)
    inseq_files.refuse_primitives(document)
    return _parts(Field(document), make)


def _parts(document: Field, make: type[S]) -> Parts[S]:
    _check_version(document)
    since = () if document.value["version"] == 1 else ("written_by",)
    parts = document.record("format", "version", "info", "sequences", "steps", *since)
    sequences = [_sequence(field, make) for field in parts["sequences"].items()]
    stepwise = _has_steps(parts["steps"], document.value["version"])
    info = {key: field.value for key, field in parts["info"].mapping()}
    return sequences, inseq_files.steps_of(sequences) if stepwise else None, info


def _has_steps(field: Field, version: int) -> bool:
    """Whether there are steps, which hold what the sequences hold; the first version wrote them out, or null."""
    if version == 1 and (field.value is None or isinstance(field.value, list)):
        return bool(field.value)
    return field.boolean()


def encode(
    sequences: Iterable[SequenceScores], info: dict[str, Any], *, stepwise: bool, precision: str, as_safetensors: bool
) -> bytes:
    """Return a file of JSON or safetensors.

    Args:
        sequences: the outputs.
        info: facts of the call.
        stepwise: whether there are steps, which hold what the sequences hold.
        precision: how scores are kept, one of ``PRECISIONS``.
        as_safetensors: whether tensors stand apart from the document, as safetensors.
    """
    stored: dict[str, Tensor] | None = {} if as_safetensors else None
    document = {
        "format": FORMAT,
        "version": VERSION,
        "written_by": __version__,
        "info": jsonable(info),
        "sequences": [_packed(sequence.with_tensors(), precision, stored) for sequence in sequences],
        "steps": stepwise,
    }
    text = json.dumps(document, allow_nan=False, separators=(",", ":"))
    return text.encode("ascii") if stored is None else store_tensors(stored, {FORMAT: text})


def _packed(sequence: SequenceScores, precision: str, stored: dict[str, Tensor] | None) -> dict[str, Any]:
    def held(field: str, name: str, values: Tensor | None) -> dict[str, Any] | None:
        return _packed_tensor(name, values, precision if field in ROUNDED else "float32", stored)

    packed: dict[str, Any] = {name: getattr(sequence, name) for name in (*POSITIONS, *FLAGS)}
    packed |= {"spans": [list(span) for span in sequence.spans]} if sequence.spans else {}
    packed |= {"alternatives": _packed_alternatives(sequence)} if sequence.alternatives else {}
    packed |= {name: list(getattr(sequence, name)) for name in TEXTS}
    packed |= {name: [_token_fields(token) for token in getattr(sequence, name)] for name in TOKENS}
    packed |= {name: held(name, name, getattr(sequence, name)) for name in TENSORS}
    for name in TENSOR_MAPS:
        packed[name] = {str(key): held(name, key, values) for key, values in getattr(sequence, name).items()}
    return packed | {"info": jsonable(sequence.info)}


def _packed_tensor(
    name: str, values: Tensor | None, precision: str, stored: dict[str, Tensor] | None
) -> dict[str, Any] | None:
    if values is None:
        return None
    if str(values.dtype).removeprefix("torch.") not in DTYPES:
        raise ArgumentError(f"{name} has dtype {values.dtype}, which files do not hold; convert it first.")
    return pack(values, precision, stored)


def _packed_alternatives(sequence: SequenceScores) -> list[list[dict[str, Any]]]:
    return [
        [{"token": _token_fields(each.token), "probability": each.probability} for each in step]
        for step in sequence.alternatives
    ]


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


def _check_version(document: Field) -> None:
    found = document.value
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise FileFormatError(f'Not a result file: it should be an object with "format": "{FORMAT}".')
    version = found.get("version")
    if type(version) is not int or not 1 <= version <= VERSION:
        newer = type(version) is int and version > VERSION
        raise FileFormatError(
            f"The file has format version {str(version)[:20]!r}; this release reads versions 1 to {VERSION}. "
            + ("It was written by a newer release: update this package." if newer else "It was not written by any release.")
        )


def _sequence(field: Field, make: type[S]) -> S:
    parts = field.record(*SEQUENCE, also=("spans", "alternatives"))
    values: dict[str, Any] = {name: [_token(item) for item in parts[name].items()] for name in TOKENS}
    values |= {name: None if parts[name].value is None else _scores(parts[name]) for name in TENSORS}
    values |= {name: {key: item.tensor() for key, item in parts[name].mapping()} for name in TENSOR_MAPS}
    values |= {name: parts[name].integer(0) for name in POSITIONS}
    values["spans"] = tuple(_span(item) for item in parts["spans"].items()) if "spans" in parts else ()
    if "alternatives" in parts:
        values["alternatives"] = tuple(tuple(map(_alternative, step.items())) for step in parts["alternatives"].items())
    values |= {name: tuple(item.text() for item in parts[name].items()) for name in TEXTS}
    values |= {name: parts[name].boolean() for name in FLAGS}
    values["info"] = {key: item.value for key, item in parts["info"].mapping()}
    try:
        return make(**values)
    except ArgumentError as error:
        raise FileFormatError(f"Damaged result file: {field.path}: {error}") from error


def _scores(field: Field) -> Tensor:
    values = field.tensor()
    if not values.is_floating_point():
        field.fail("a tensor with a floating-point dtype")
    return values


def _span(field: Field) -> tuple[int, int]:
    ends = [item.integer(0) for item in field.items()]
    if len(ends) != 2:
        field.fail("a pair of positions")
    return ends[0], ends[1]


def _alternative(field: Field) -> Alternative:
    parts = field.record("token", "probability")
    probability = parts["probability"].number()
    if not 0 <= probability <= 1:
        parts["probability"].fail("a number from 0 to 1")
    return Alternative(_token(parts["token"]), probability)


def _token(field: Field) -> Token:
    parts = field.record("piece", "token", "id", "role", "text", "special")
    role: Any = parts["role"].text(*get_args(Role))
    token = Token(parts["piece"].text(), parts["id"].integer(-1), role, parts["text"].text(), parts["special"].boolean())
    token.token = parts["token"].text()
    return token
