"""Outputs as plain values, and scores in long form: a record for each input token of each step."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from inseq.errors import ArgumentError, writing
from inseq.results.scores import SequenceScores
from inseq.text.tokens import Token

OF_EACH = ("input_texts", "generated_texts", "contrast", "target_spans", "turns")
"""Facts of a call that have an entry for each text."""

COLUMNS = ("text", "step", "generated", "side", "position", "token", "score")


def records(outputs: Sequence[SequenceScores]) -> Iterator[dict[str, Any]]:
    """A record for each score that is there: what is explained, and the input token with its place on its side.

    Raises:
        ArgumentError: for outputs with further axes.
    """
    for i, output in enumerate(outputs):
        if output.axes:
            raise ArgumentError(f"Scores still have the axes {output.axes}: aggregate first.")
        sides = (("source", output.source, output.source_attributions), ("target", output.target, output.target_attributions))
        for step, ((start, _), generated) in enumerate(zip(output.positions, output.generated, strict=True)):
            for side, tokens, scores in sides:
                column = [] if scores is None else scores[:, step].tolist()
                for position, (token, score) in enumerate(zip(tokens, column, strict=False)):
                    if not math.isnan(score):
                        values = (i, start, generated.shown, side, position, token.shown, score)
                        yield dict(zip(COLUMNS, values, strict=True))


def to_csv(outputs: Sequence[SequenceScores], path: str | Path) -> None:
    """Write the records. A text that a spreadsheet would take for a formula has an apostrophe before it."""
    with writing(path), Path(path).open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows({name: _inert(value) for name, value in record.items()} for record in records(outputs))


def to_pandas(outputs: Sequence[SequenceScores]) -> Any:
    """The records as a data frame.

    Raises:
        ArgumentError: where pandas is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise ArgumentError("to_pandas needs pandas, which is not installed: pip install pandas, or use to_csv.") from error
    return pandas.DataFrame(records(outputs), columns=list(COLUMNS))


def top_k(output: SequenceScores, k: int) -> list[list[dict[str, Any]]]:
    """For each step its records of the largest magnitudes, the largest first.

    Raises:
        ArgumentError: for a ``k`` below 1.
    """
    if type(k) is not int or k < 1:
        raise ArgumentError(f"k={k!r} must be a whole number of at least 1.")
    found: dict[int, list[dict[str, Any]]] = {start: [] for start, _ in output.positions}
    for record in records([output]):
        found[record["step"]].append(record)
    return [sorted(step, key=lambda record: -abs(record["score"]))[:k] for step in found.values()]


def _inert(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def plain(value: Any) -> Any:
    """Return an output, or anything in it, as plain Python values; NaN in a tensor becomes None."""
    if isinstance(value, Tensor | np.ndarray):
        return plain(value.tolist())
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, Token):
        return {"token": value.token, "id": value.id, "role": value.role, "text": value.text, "special": value.special}
    if hasattr(value, "__dataclass_fields__"):
        return plain(vars(value))
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
