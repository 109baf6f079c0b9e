"""Tokens merged by spans of positions: columns first, then rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

from torch import Tensor

from inseq.errors import ArgumentError
from inseq.results.aggregate.axes import aggregators
from inseq.results.alternatives import merged as merged_alternatives
from inseq.results.labelled import AggregationFunction, Labelled, absmax, aggregation_functions, tile
from inseq.results.scores import S
from inseq.text.tokens import joined

Span = tuple[int, int]

DIAGNOSTICS = {"fit": "min", "converged": "min"}
"""Of what tells how far to believe a step, the worst stands for all; a gap is worst where it is largest."""


@aggregators("spans")
def spans(output: S, *, source_spans: Any = None, target_spans: Any = None, aggregate_fn: Any = None) -> S:
    """Merge the tokens of each span; of scores the one of largest magnitude stands for all.

    Step scores merge as their step functions do: probabilities are multiplied, logarithms added.

    Args:
        output: the output.
        source_spans: one half-open (start, end) of positions in ``source``, or several.
        target_spans: the same of ``target``. A span that begins before the first explained token keeps its explained part.
        aggregate_fn: another function for the attributions, by name or itself.
    """
    rule = _rule(aggregate_fn)
    source = tile(listed(source_spans), len(output.source))
    target = tile(listed(target_spans), len(output.target))
    piece_of = [i for i, (start, end, _) in enumerate(target) for _ in range(start, end)]
    mapped = [(piece_of[start], piece_of[end - 1] + 1) for start, end in output.positions]
    columns, at = [], 0
    for _, same in groupby(mapped):
        columns.append((at, at := at + len(list(same))))
    steps = list(dict.fromkeys(mapped))
    first, last = (steps[0][0], steps[-1][1]) if steps else (output.attr_pos_start, output.attr_pos_start)
    rows = {"source": _within(source, len(output.source)), "target": _within(target, output.attr_pos_end)}

    def merged(values: Tensor | None, side: str) -> Tensor | None:
        return None if values is None else _merge(_merge(values, 1, columns, rule), 0, rows[side], rule)

    def by_name(values: dict[str, Tensor], rules: Mapping[str, str]) -> dict[str, Tensor]:
        named = {name: _rule(rules.get(name)) for name in values}
        return {name: _merge(v, 0, columns, named[name]) for name, v in values.items()}

    def matrix(name: str, values: Tensor) -> Tensor:
        """Rows and columns are the source's tokens, the target's, or the source's and the steps."""
        sides = {"encoder": (source, source), "decoder": (target, target)}
        left, right = sides.get(name.partition("_")[0], (source, target))
        steps_right = right is target and left is source and values.shape[1] == len(output.positions)
        across = columns if steps_right else _within(right, values.shape[1])
        return _merge(_merge(values, 1, across), 0, _within(left, values.shape[0]))

    single = [sum(b - a for a, b, _ in target[first:last]) == 1 for first, last in steps]
    return replace(
        output,
        source=[joined(output.source[start:end]).copy() for start, end, _ in source],
        target=[joined(output.target[start:end]).copy() for start, end, _ in target],
        source_attributions=merged(output.source_attributions, "source"),
        target_attributions=merged(output.target_attributions, "target"),
        step_scores=by_name(output.step_scores, output.info.get("merge") or {}),
        diagnostics=by_name(output.diagnostics, DIAGNOSTICS),
        sequence_scores={name: matrix(name, values) for name, values in output.sequence_scores.items()},
        alternatives=merged_alternatives(output.alternatives, columns, single),
        attr_pos_start=first,
        attr_pos_end=last,
        spans=() if steps == [(i, i + 1) for i in range(first, last)] else tuple(steps),
        reduced=(*output.reduced, f"{aggregate_fn or 'absmax'} over spans" if not callable(aggregate_fn) else "merged spans"),
        info=dict(output.info),
    )


def listed(given: Any) -> list[Span]:
    """One span or several.

    Raises:
        ArgumentError: for anything else.
    """
    one = given is not None and _is_span(given)
    found = [] if given is None else [given] if one else given
    if not isinstance(found, list | tuple) or not all(map(_is_span, found)):
        raise ArgumentError(f"Expected a half-open span (start, end) or a list of them, got {given!r}.")
    return [(start, end) for start, end in found]


def _is_span(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and all(type(i) is int for i in value)


def _rule(function: Any) -> AggregationFunction:
    return function if callable(function) else aggregation_functions["absmax" if function is None else function].function


def _within(pieces: Sequence[tuple[int, int, bool]], size: int) -> list[Span]:
    return [(start, min(end, size)) for start, end, _ in pieces if start < size]


def _merge(values: Tensor, dim: int, parts: Sequence[Span], rule: AggregationFunction = absmax) -> Tensor:
    axes = tuple(f"axis {i}" for i in range(values.ndim))
    many = [part for part in parts if part[1] - part[0] > 1]
    return Labelled(values, axes).merge(axes[dim], many, rule).values
