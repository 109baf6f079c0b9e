"""What the outputs offer for convenience: views, dictionaries, plain values.

Views are imported where they are used, because they see results and results must not need them.
"""

from __future__ import annotations

import inspect
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from inseq._registry import bind
from inseq.errors import ArgumentError, writing
from inseq.result.aggregate import Names, aggregate_scores
from inseq.text.example import Token

if TYPE_CHECKING:
    from inseq.result.output import FeatureAttributionSequenceOutput
    from inseq.views.table import Table

Limits = tuple[float | None, float | None]
SHOW_ARGUMENTS = {"min_val", "max_val", "aggregator", "do_aggregation", "display", "return_html", "title"}


def refuse(options: dict[str, Any], taker: str, also: set[str] | None = None) -> None:
    """Check keywords against the options of aggregation.

    Raises:
        UnknownArgumentError: for the first keyword that it does not take, with the near ones.
    """
    parameters = inspect.signature(aggregate_scores).parameters.values()
    known = {p.name: p.default for p in parameters if p.default is not p.empty}
    bind(options, {taker: known}, also)


def show(
    sequences: list[FeatureAttributionSequenceOutput],
    info: dict[str, Any],
    limits: Limits,
    aggregator: Names,
    do_aggregation: bool,
    display: bool,
    return_html: bool,
    title: str | None,
    options: dict[str, Any],
) -> str | None:
    """Aggregate, show and return what ``FeatureAttributionSequenceOutput.show`` says."""
    from inseq.result.pipeline import merges_tokens
    from inseq.views import html, surface

    merges = merges_tokens(aggregator)
    if not merges:
        refuse(options, "aggregate", SHOW_ARGUMENTS)
    shown = (
        [sequence.aggregate(aggregator, **options) for sequence in sequences]
        if do_aggregation
        else [s.with_tensors() for s in sequences]
    )
    if merges and do_aggregation:
        shown = [sequence.aggregate() for sequence in shown]
    tables = _tables(shown, info, limits)
    if display:
        surface.show(tables, title)
    return html.page(tables, title) if return_html else None


def fragment(sequences: list[FeatureAttributionSequenceOutput], info: dict[str, Any]) -> str:
    """Return HTML for a notebook, aggregated by default."""
    from inseq.views import html

    return html.fragment(_tables([sequence.aggregate() for sequence in sequences], info))


def save_html(
    sequences: list[FeatureAttributionSequenceOutput], info: dict[str, Any], path: str | Path, title: str | None
) -> None:
    """Write a page, aggregated by default."""
    from inseq.views import html

    page = html.page(_tables([sequence.aggregate() for sequence in sequences], info), title)
    with writing(path):
        Path(path).write_text(page, encoding="utf-8")


def _tables(
    sequences: list[FeatureAttributionSequenceOutput], info: dict[str, Any], limits: Limits = (None, None)
) -> list[Table]:
    from inseq.views.tabulate import table

    return [table(s, info={**info, **s.info}, min_val=limits[0], max_val=limits[1]) for s in sequences]


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
