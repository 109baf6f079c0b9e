"""What the outputs offer for convenience: dictionaries, plain values."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from inseq.errors import ArgumentError
from inseq.text.example import Token

if TYPE_CHECKING:
    from inseq.outputs.output import FeatureAttributionSequenceOutput


def scores_dicts(output: FeatureAttributionSequenceOutput) -> dict[str, dict[tuple[int, str], dict[Any, float]]]:
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
