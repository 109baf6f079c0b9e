"""Scores of an output as dictionaries, by token."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from inseq.errors import ArgumentError
from inseq.results.scores import SequenceScores
from inseq.text.tokens import Token


def scores_dicts(output: SequenceScores) -> dict[str, dict[tuple[int, str], dict[Any, float]]]:
    """Return the scores of an aggregated output by token."""
    if output.axes:
        raise ArgumentError(f"Scores still have the axes {output.axes}; leave do_aggregation on, or aggregate first.")
    columns = [(start, token) for (start, _), token in zip(output.positions, output.generated, strict=True)]
    by_step: dict[tuple[int, str], dict[Any, float]] = {
        (position, token.token): {name: float(values[i]) for name, values in output.step_scores.items()}
        for i, (position, token) in enumerate(columns)
    }
    return {
        "source_attributions": _by_token(output.source, output.source_attributions, columns),
        "target_attributions": _by_token(output.target, output.target_attributions, columns),
        "step_scores": by_step,
    }


def _by_token(
    tokens: list[Token], scores: Tensor | None, columns: list[tuple[int, Token]]
) -> dict[tuple[int, str], dict[Any, float]]:
    if scores is None:
        return {}
    values: list[list[float]] = scores.double().T.tolist()
    return {
        (position, token.token): {(row, tokens[row].token): value for row, value in enumerate(column) if not math.isnan(value)}
        for (position, token), column in zip(columns, values, strict=True)
    }
