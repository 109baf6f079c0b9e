"""Outputs written to files, each as its ending says."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from inseq.errors import ArgumentError, near
from inseq.outputs import figures, showing
from inseq.outputs.tables import Outputs
from inseq.results.aggregate.pipeline import aggregated
from inseq.results.files import containers, document, records
from inseq.results.files.fields import PRECISIONS
from inseq.results.scores import SequenceScores
from inseq.results.steps import FeatureAttributionStepOutput

SUFFIXES = (".json", ".safetensors", ".html", ".csv", *figures.SUFFIXES)

Steps = Sequence[FeatureAttributionStepOutput] | None


class StepwiseOutputs(Outputs, Protocol):
    """Outputs of one call, their facts, and the same scores step by step."""

    @property
    def step_attributions(self) -> Steps: ...


@dataclass(frozen=True)
class Content:
    """What one file holds.

    Attributes:
        sequence_attributions: the outputs.
        step_attributions: the same scores step by step, if there are any.
        info: facts of the call.
    """

    sequence_attributions: Sequence[SequenceScores]
    step_attributions: Steps
    info: dict[str, Any]

    def __iter__(self) -> Iterator[SequenceScores]:
        return iter(self.sequence_attributions)


def save(
    self: StepwiseOutputs,
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
        self: what is written.
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
            would be larger than what can be loaded.
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
    path = containers.path_of(path)
    whole = Content(list(self), self.step_attributions, self.info)
    parts = _split(whole, path, compress) if split_sequences else [(path, whole)]
    existing = [str(file) for file, _ in parts if file.exists()]
    if existing and not overwrite:
        raise ArgumentError(f"{existing[0]!r} exists; choose another path, or pass overwrite=True.")
    try:
        for file, part in parts:
            _save_one(part, file, compress, use_primitives, scores_precision)
    except RecursionError as error:
        raise ArgumentError("Something in info is nested too deeply for a file, or holds itself; take it out.") from error


def _named(path: Path) -> tuple[str, str, bool]:
    """Return the path without its ending, the ending, and whether ``.gz`` follows it."""
    name = str(path)
    zipped = name.endswith(".gz")
    name = name.removesuffix(".gz")
    suffix = next((s for s in SUFFIXES if name.endswith(s)), "")
    return name.removesuffix(suffix), suffix, zipped


def _split(whole: Content, path: Path, compress: bool) -> list[tuple[Path, Content]]:
    """Return a path and the content of a file for each sequence, with the facts that are about it."""
    stem, suffix, zipped = _named(path)
    ending = (suffix or ".json") + (".gz" if compress or zipped else "")
    size = len(whole.sequence_attributions)
    each = [key for key in records.OF_EACH if isinstance(whole.info.get(key), list) and len(whole.info[key]) == size]
    return [
        (
            Path(f"{stem}_{i}{ending}"),
            Content([sequence], None, whole.info | {key: whole.info[key][i : i + 1] for key in each}),
        )
        for i, sequence in enumerate(whole)
    ]


def _save_one(content: Content, path: Path, compress: bool, use_primitives: bool, precision: str) -> None:
    _, suffix, zipped = _named(path)
    if suffix == ".html" and not zipped:
        return showing.save_html(content, path)
    if suffix == ".csv" and not zipped:
        return records.to_csv([aggregated(sequence) for sequence in content], path)
    if suffix in figures.SUFFIXES and not zipped:
        return figures.save(content, path)
    if suffix in (".html", ".csv", *figures.SUFFIXES):
        raise ArgumentError(f"{path.name!r}: {suffix} files are written as they are; leave .gz out.")
    data = _primitives(content) if use_primitives else _encoded(content, suffix, precision)
    if excess := containers.excess(data):
        raise ArgumentError(
            f"The result {excess} that can be loaded again; save output.aggregate() instead, or one file for each text with "
            "split_sequences=True."
        )
    containers.write(path, containers.deflate(data) if compress or zipped else data)


def _primitives(content: Content) -> bytes:
    return json.dumps(document.jsonable(records.plain(content)), allow_nan=False, indent=1).encode("ascii")


def _encoded(content: Content, suffix: str, precision: str) -> bytes:
    return document.encode(
        content,
        content.info,
        stepwise=content.step_attributions is not None,
        precision=precision,
        as_safetensors=suffix == ".safetensors",
    )
