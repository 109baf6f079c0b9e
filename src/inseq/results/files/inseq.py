"""Files that the published Inseq 0.5, 0.6 and 0.7 wrote, read as data.

Their objects name a Python class. The name is looked up in a table here; nothing is imported by it, and a class that the
table does not have is an error.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from inseq.errors import ArgumentError, FileFormatError
from inseq.results.files.containers import growth, inflate, tensors
from inseq.results.files.fields import DTYPES, Field, unpack
from inseq.results.scores import S, SequenceScores
from inseq.results.steps import FeatureAttributionStepOutput, step_outputs
from inseq.text.pieces import detect, readable
from inseq.text.tokens import Role, Token

Parts: TypeAlias = tuple[list[S], list[FeatureAttributionStepOutput] | None, dict[str, Any]]
"""What a file holds: sequences, steps where there are any, and facts of the call."""

TAG = "__instance_type__"
KINDS: dict[str, tuple[tuple[str, ...], str]] = {
    "FeatureAttributionSequenceOutput": ((), "mean"),
    "GranularFeatureAttributionSequenceOutput": (("dim",), "vnorm"),
    "CoarseFeatureAttributionSequenceOutput": ((), "mean"),
    "MultiDimensionalFeatureAttributionSequenceOutput": (("layer", "head"), "mean"),
}
"""For each class of sequence outputs, the trailing axes it may have and how they are folded by default."""

REQUIRED = ("source", "target", "attr_pos_start", "attr_pos_end")
OPTIONAL = ("source_attributions", "target_attributions", "step_scores", "sequence_scores")
SPECIAL = re.compile(
    r"<(?!0x[0-9A-Fa-f]{2}>)[^\s<>]+>|\[(?:PAD|UNK|CLS|SEP|MASK|BOS|EOS)\]|[a-z]{2,3}_[A-Z]\w{1,3}|__[a-z]{2,3}__"
)


SHIFTED = "Read from a file of Inseq, whose window of an encoder-decoder stood one token too far left; it is put right."


def is_inseq(document: Any) -> bool:
    """Whether a document has the class tags of the published Inseq."""
    return isinstance(document, dict) and TAG in document


def refuse_primitives(document: Any) -> None:
    """Say why a file saved with ``use_primitives=True`` cannot be read.

    Raises:
        FileFormatError: if the document is one.
    """
    if isinstance(document, dict) and "sequence_attributions" in document:
        raise FileFormatError(
            "The file was saved with use_primitives=True, which leaves out what the axes of its scores are, so that they "
            "cannot be aggregated. Save the output again without it, or read the file with the json module."
        )


def read(document: Any, make: type[S]) -> Parts[S]:
    """Return what a document of the published Inseq holds.

    Args:
        document: the document.
        make: the class of the sequences.

    Raises:
        FileFormatError: if something is not as Inseq writes it; names the field.
    """
    _check_growth(document)
    _, attributes = _tagged(Field(document), ("FeatureAttributionOutput",))
    parts = attributes.record("sequence_attributions", "info", also=("step_attributions",))
    info = {key: field.value for key, field in parts["info"].mapping()}
    sequences = [_sequence(field, info, make) for field in parts["sequence_attributions"].items()]
    steps = parts.get("step_attributions")
    stepwise = steps is not None and steps.value is not None
    return sequences, steps_of(sequences) if stepwise else None, info


def steps_of(sequences: Sequence[SequenceScores]) -> list[FeatureAttributionStepOutput]:
    """The steps of sequences that a file says were explained step by step.

    Raises:
        FileFormatError: if the sequences' scores cannot stand beside each other.
    """
    for name in ("source_attributions", "target_attributions"):
        found = [scores for sequence in sequences if (scores := getattr(sequence, name)) is not None]
        if len({(scores.dtype, scores.shape[2:]) for scores in found}) > 1:
            raise FileFormatError(
                f"Damaged result file: it has steps, and {name} of its sequences differ in their axes or types."
            )
    return step_outputs(sequences) if sequences else []


def _check_growth(document: Any) -> None:
    """Refuse arrays that declare to grow, all together, to more than a compressed file may.

    None is decompressed beyond what it declares.
    """
    declared, packed, left = 0, 0, [document]
    while left:
        value = left.pop()
        data = value.get("__ndarray__") if isinstance(value, dict) else None
        if isinstance(data, str) and data.startswith("b64.gz:"):
            dtype = DTYPES[Field(value["dtype"], "dtype").text(*DTYPES)] if "dtype" in value else torch.float64
            declared += Field(value.get("shape"), "shape").shape(dtype)[1]
            packed += len(data)
        left += value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if declared > growth(packed):
        raise FileFormatError(
            f"Not a result file: its {packed} compressed bytes declare to grow to {declared}, more than is decompressed."
        )


def _tagged(field: Field, names: Sequence[str]) -> tuple[str, Field]:
    """The class that an object names, one of these, and its attributes."""
    parts = field.record(TAG, "attributes")
    tag = [item.value for item in parts[TAG].items()]
    if len(tag) != 2 or tag[1] not in names or not str(tag[0]).startswith("inseq."):
        parts[TAG].fail(f"one of Inseq's own classes ({', '.join(names)}); no other is looked up")
    return str(tag[1]), parts["attributes"]


def _sequence(field: Field, info: dict[str, Any], make: type[S]) -> S:
    kind, attributes = _tagged(field, tuple(KINDS))
    private = [key for key in attributes.value if key.startswith("_")] if isinstance(attributes.value, dict) else []
    parts = attributes.record(*REQUIRED, also=(*OPTIONAL, *private))
    values: dict[str, Any] = {name: _optional(parts.get(name)) for name in ("source_attributions", "target_attributions")}
    for name in ("step_scores", "sequence_scores"):
        found = parts.get(name)
        empty = found is None or found.value is None
        values[name] = {} if empty or found is None else {key: _tensor(item) for key, item in found.mapping()}
    source, target = [[_token(item) for item in parts[name].items()] for name in ("source", "target")]
    start, end = parts["attr_pos_start"].integer(0), min(parts["attr_pos_end"].integer(0), len(target))
    axes, function = _axes(kind, field, values)
    info = dict(info)
    if _is_shifted(values, info, start, end, len(target)):
        start, end = start + 1, end + 1
        info["notes"] = [*_notes(info), SHIFTED]
    values["target_attributions"] = _rows(values["target_attributions"], end)
    decoder_only = _is_decoder_only(values, source, target, start)
    _finish(source, ["prompt" if decoder_only else "source"] * len(source))
    _finish(target, ["prompt" if decoder_only and i < start else "generated" for i in range(len(target))])
    scores = [s for s in (values["source_attributions"], values["target_attributions"]) if s is not None]
    try:
        return make(
            source=source,
            target=target,
            attr_pos_start=start,
            attr_pos_end=end,
            axes=axes,
            reduce_by=(function,) * len(axes),
            normalize=bool(axes),
            signed=any(bool((s < 0).any()) for s in scores),
            reduced=("aggregated before it was saved",) if KINDS[kind][0] and not axes else (),
            info=info,
            **values,
        )
    except ArgumentError as error:
        raise FileFormatError(f"Damaged result file: {field.path}: {error}") from error


def _optional(field: Field | None) -> Tensor | None:
    if field is None or field.value is None:
        return None
    values = _tensor(field)
    if not values.is_floating_point():
        field.fail("numbers with a floating-point dtype")
    return values


def _axes(kind: str, field: Field, values: dict[str, Any]) -> tuple[tuple[str, ...], str]:
    """What the trailing axes are: those of the class, or as many of them as aggregation has left."""
    known, function = KINDS[kind]
    found = [values["source_attributions"], values["target_attributions"], *values["sequence_scores"].values()]
    counts = {s.ndim - 2 for s in found if s is not None} or {0}
    if len(counts) > 1 or not 0 <= (extra := counts.pop()) <= len(known):
        field.fail(f"scores with the axes of {kind}: a row, a column and at most {len(known)} more, as many in each")
    return known[:extra], function


def _notes(info: dict[str, Any]) -> list[Any]:
    notes = info.get("notes")
    return notes if isinstance(notes, list) else []


def _is_shifted(values: dict[str, Any], info: dict[str, Any], start: int, end: int, size: int) -> bool:
    """Whether the positions are those of Inseq's windows that end before the text, of encoder-decoders.

    The window's end was inclusive, and both positions were then stored one too small. It shows in the rows of the target,
    or in the start that the call asked for.
    """
    source, target = values["source_attributions"], values["target_attributions"]
    if source is None or end >= size:
        return False
    return len(target) == end + 1 if target is not None else info.get("attr_pos_start") == start + 1


def _rows(scores: Tensor | None, end: int) -> Tensor | None:
    """Target scores with a row for each token up to the end; what is missing was not yet written."""
    if scores is None or len(scores) >= end:
        return scores
    missing = torch.full((1, *scores.shape[1:]), float("nan"), dtype=scores.dtype)
    return torch.cat([scores, missing.expand(end - len(scores), *scores.shape[1:])]) if len(scores) == end - 1 else scores


def _is_decoder_only(values: dict[str, Any], source: list[Token], target: list[Token], start: int) -> bool:
    if values["source_attributions"] is not None:
        return False
    if values["target_attributions"] is not None:
        return True
    return len(source) == start and source == target[:start]


def _token(field: Field) -> Token:
    _, attributes = _tagged(field, ("TokenWithId",))
    parts = attributes.record("token", "id")
    return Token(parts["token"].text(), parts["id"].integer(-1))


def _finish(tokens: list[Token], roles: Sequence[Role]) -> None:
    """Set what Inseq does not store: roles, special tokens and readable texts, told from the pieces."""
    pieces = [token.token for token in tokens]
    special = [SPECIAL.fullmatch(piece) is not None for piece in pieces]
    texts = readable(pieces, special, detect([*pieces, "[UNK]"]))
    for token, role, text, flag in zip(tokens, roles, texts, special, strict=True):
        token.role, token.text, token.special = role, text, flag


def _tensor(field: Field) -> Tensor:
    """A tensor in one of the ways it was stored: an array of 0.5 and 0.6, or a safetensors file of 0.7."""
    if isinstance(field.value, str):
        _, found = tensors(field.any_base64(), field.path)
        if set(found) != {"attribution"}:
            field.fail("the base64 text of a safetensors file with the one entry 'attribution'")
        values = found["attribution"]
        return values.float() if values.is_floating_point() and values.dtype is not torch.float64 else values
    parts = field.record("__ndarray__", "dtype", "shape", also=("Corder",))
    dtype = DTYPES[parts["dtype"].text(*DTYPES)]
    shape, size = parts["shape"].shape(dtype)
    data = parts["__ndarray__"]
    if isinstance(data.value, str):
        return unpack(data.checked(_raw(data, size), dtype), dtype, shape)
    flat: list[Any] = []
    _flatten(data, shape, flat)
    try:
        return torch.tensor(flat, dtype=dtype).reshape(shape)
    except (RuntimeError, OverflowError, TypeError, ValueError):
        data.fail(f"numbers of the type {dtype}")


def _raw(field: Field, size: int) -> bytes:
    kind, _, text = field.text().partition(":")
    body = Field(text, field.path)
    if kind == "b64":
        return body.base64(size)
    if kind != "b64.gz":
        field.fail("text that begins with b64: or b64.gz:")
    raw = inflate(body.any_base64(), size)
    if len(raw) != size:
        field.fail(f"{size} compressed bytes, which shape and dtype ask for")
    return raw


def _flatten(field: Field, shape: Sequence[int], flat: list[Any]) -> None:
    if not shape:
        if type(field.value) not in (int, float, bool):
            field.fail("a number")
        flat.append(field.value)
        return
    if not isinstance(field.value, list) or len(field.value) != shape[0]:
        field.fail(f"a list of {shape[0]}")
    for item in field.items():
        _flatten(item, shape[1:], flat)
