"""Results in files: a versioned document, read as data and never as code."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from torch import Tensor

from inseq import __version__
from inseq.errors import ArgumentError, FileFormatError, near
from inseq.outputs import figures, scores_dicts
from inseq.results.alternatives import Alternative
from inseq.results.files import containers
from inseq.results.files import inseq as inseq_files
from inseq.results.files.fields import DTYPES, PRECISIONS, Field, pack
from inseq.text.example import Role, Token

if TYPE_CHECKING:
    from inseq.outputs.output import FeatureAttributionOutput, FeatureAttributionSequenceOutput

FORMAT, VERSION = "inseq", 3
SUFFIXES = (".json", ".safetensors", ".html", ".csv", *figures.SUFFIXES)
TENSORS = ("source_attributions", "target_attributions")
TENSOR_MAPS = ("step_scores", "sequence_scores", "diagnostics")
ROUNDED = (*TENSORS, "sequence_scores")
"""What ``scores_precision`` is about; step scores and diagnostics are few, and stay as they are."""

TEXTS = ("axes", "reduce_by", "reduced")
FLAGS = ("normalize", "signed")
POSITIONS = ("attr_pos_start", "attr_pos_end")
TOKENS = ("source", "target")
SEQUENCE = (*TOKENS, *TENSORS, *TENSOR_MAPS, *POSITIONS, *TEXTS, *FLAGS, "info")


def save(
    output: FeatureAttributionOutput,
    path: str | Path,
    overwrite: bool = False,
    compress: bool = False,
    ndarray_compact: bool = True,
    use_primitives: bool = False,
    split_sequences: bool = False,
    scores_precision: str = "float32",
) -> None:
    """Write a file, whole or not at all; docs/files.md describes what is in it.

    Args:
        output: what is written.
        path: ``.json``, ``.safetensors``, ``.html``, ``.csv``, or a figure as ``.svg``, ``.png`` or ``.pdf``, by its
            ending, JSON otherwise; ``.gz`` after the first two compresses.
        overwrite: whether a file that exists is replaced.
        compress: compress with gzip, whatever the path ends with.
        ndarray_compact: kept for Inseq's sake; tensors are always compact.
        use_primitives: write plain lists of numbers for other programs, which cannot be loaded again.
        split_sequences: write one file for each sequence, ``out_0.json``, ``out_1.json`` and so on, without steps.
        scores_precision: ``"float32"`` leaves scores as they are; ``"float16"``, ``"bfloat16"`` and ``"float8"`` keep
            them to one part in 2^11, 2^8 and 2^4. They are loaded in the type that they had.

    Raises:
        ArgumentError: if one of the paths exists and ``overwrite`` is not set, before anything is written; or if a file
            would be larger than the 512 MiB that can be loaded.
    """
    flags = {"overwrite": overwrite, "compress": compress, "ndarray_compact": ndarray_compact}
    for name, value in (flags | {"use_primitives": use_primitives, "split_sequences": split_sequences}).items():
        if not isinstance(value, bool):
            raise ArgumentError(f"{name} must be True or False, got {type(value).__name__} ({value!r}).")
    if not isinstance(scores_precision, str) or scores_precision not in PRECISIONS:
        raise ArgumentError(
            f"scores_precision={scores_precision!r} must be one of {', '.join(PRECISIONS)}."
            f"{near(scores_precision, PRECISIONS)}"
        )
    path = _path(path)
    parts = _split(output, path, compress) if split_sequences else [(path, output)]
    existing = [str(file) for file, _ in parts if file.exists()]
    if existing and not overwrite:
        raise ArgumentError(f"{existing[0]!r} exists; choose another path, or pass overwrite=True.")
    try:
        for file, part in parts:
            _save_one(part, file, compress, use_primitives, scores_precision)
    except RecursionError as error:
        raise ArgumentError("Something in info is nested too deeply for a file, or holds itself; take it out.") from error


def load(path: str | Path, decompress: bool = False) -> FeatureAttributionOutput:
    """Read a file written by ``save``, or by that of Inseq 0.5 to 0.7. Nothing in it is run or imported.

    Args:
        path: the file. What it is, and whether it is compressed, is told from its content.
        decompress: kept for Inseq's sake.

    Raises:
        FileFormatError: which names the field that is not as it should be.
        ArgumentError: if the path is none.
    """
    data = containers.read(_path(path))
    if containers.is_safetensors(data):
        metadata, stored = containers.tensors(data)
        if FORMAT not in metadata:
            raise FileFormatError(f"Not a result file: its metadata has no entry {FORMAT!r}.")
        return _output(Field(containers.parse(metadata[FORMAT].text().encode("utf-8", "replace")), "", stored))
    document = containers.parse(data, constants=b'"sequence_attributions"' in data)
    if inseq_files.is_inseq(document):
        return inseq_files.read(document)
    inseq_files.refuse_primitives(document)
    return _output(Field(document))


def _path(path: str | Path) -> Path:
    if not isinstance(path, (str, os.PathLike)) or not str(path):
        raise ArgumentError(f"path must be a file name, got {type(path).__name__} ({path!r}).")
    return Path(path)


def _output(document: Field) -> FeatureAttributionOutput:
    from inseq.outputs.output import FeatureAttributionOutput

    _check_version(document)
    since = () if document.value["version"] == 1 else ("written_by",)
    parts = document.record("format", "version", "info", "sequences", "steps", *since)
    sequences = [_sequence(field) for field in parts["sequences"].items()]
    steps = _has_steps(parts["steps"], document.value["version"])
    return FeatureAttributionOutput(
        sequences,
        inseq_files.steps_of(sequences) if steps else None,
        {key: field.value for key, field in parts["info"].mapping()},
    )


def _has_steps(field: Field, version: int) -> bool:
    """Whether there are steps, which hold what the sequences hold; the first version wrote them out, or null."""
    if version == 1 and (field.value is None or isinstance(field.value, list)):
        return bool(field.value)
    return field.boolean()


def _named(path: Path) -> tuple[str, str, bool]:
    """The path without what says how it is written, that, and whether it is to be compressed."""
    name = str(path)
    zipped = name.endswith(".gz")
    name = name.removesuffix(".gz")
    suffix = next((s for s in SUFFIXES if name.endswith(s)), "")
    return name.removesuffix(suffix), suffix, zipped


def _split(output: FeatureAttributionOutput, path: Path, compress: bool) -> list[tuple[Path, FeatureAttributionOutput]]:
    """A path and an output for each sequence, with the facts that are about it."""
    from inseq.outputs.output import OF_EACH

    stem, suffix, zipped = _named(path)
    ending = (suffix or ".json") + (".gz" if compress or zipped else "")
    each = [key for key in OF_EACH if isinstance(output.info.get(key), list) and len(output.info[key]) == len(output)]
    return [
        (
            Path(f"{stem}_{i}{ending}"),
            replace(
                output,
                sequence_attributions=[sequence],
                step_attributions=None,
                info=output.info | {key: output.info[key][i : i + 1] for key in each},
            ),
        )
        for i, sequence in enumerate(output.sequence_attributions)
    ]


def _save_one(output: FeatureAttributionOutput, path: Path, compress: bool, use_primitives: bool, precision: str) -> None:
    _, suffix, zipped = _named(path)
    if suffix == ".html" and not zipped:
        return output.save_html(path)
    if suffix == ".csv" and not zipped:
        return _save_csv(output, path)
    if suffix in figures.SUFFIXES and not zipped:
        return figures.save(output, path)
    if suffix in (".html", ".csv", *figures.SUFFIXES):
        raise ArgumentError(f"{path.name!r}: {suffix} files are written as they are; leave .gz out.")
    if use_primitives:
        data = json.dumps(jsonable(scores_dicts.plain(output)), allow_nan=False, indent=1).encode("ascii")
    elif suffix == ".safetensors":
        data = _safetensors(output, precision)
    else:
        data = json.dumps(_document(output, precision, None), allow_nan=False, separators=(",", ":")).encode("ascii")
    if excess := containers.excess(data):
        raise ArgumentError(
            f"The result {excess} that can be loaded again; save output.aggregate() instead, or one file for each text with "
            "split_sequences=True."
        )
    containers.write(path, containers.deflate(data) if compress or zipped else data)


def _save_csv(output: FeatureAttributionOutput, path: Path) -> None:
    to_csv = getattr(output, "to_csv", None)
    if to_csv is None:
        raise ArgumentError(f"{path.name!r}: outputs are not written as .csv; choose .json, .safetensors or .html.")
    to_csv(path)


def _safetensors(output: FeatureAttributionOutput, precision: str) -> bytes:
    from safetensors.torch import save as packed

    stored: dict[str, Tensor] = {}
    document = json.dumps(_document(output, precision, stored), allow_nan=False, separators=(",", ":"))
    return packed(stored, {FORMAT: document})


def _document(output: FeatureAttributionOutput, precision: str, stored: dict[str, Tensor] | None) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "written_by": __version__,
        "info": jsonable(output.info),
        "sequences": [_packed(sequence.with_tensors(), precision, stored) for sequence in output.sequence_attributions],
        "steps": output.step_attributions is not None,
    }


def _packed(sequence: FeatureAttributionSequenceOutput, precision: str, stored: dict[str, Tensor] | None) -> dict[str, Any]:
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


def _packed_alternatives(sequence: FeatureAttributionSequenceOutput) -> list[list[dict[str, Any]]]:
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


def _sequence(field: Field) -> FeatureAttributionSequenceOutput:
    from inseq.outputs.output import FeatureAttributionSequenceOutput

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
        return FeatureAttributionSequenceOutput(**values)
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
