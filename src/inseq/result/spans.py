"""Tokens merged by spans of positions: columns first, then rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

from torch import Tensor

from inseq.result.aggregate import aggregators
from inseq.result.labelled import Labelled, aggregation_functions, tile
from inseq.text.example import joined

if TYPE_CHECKING:
    from inseq.result.output import FeatureAttributionSequenceOutput

Span = tuple[int, int]


@aggregators("spans")
def spans(output: FeatureAttributionSequenceOutput, *, source_spans: Any = None, target_spans: Any = None) -> Any:
    """Merge the tokens of each span; of scores the one of largest magnitude stands for all.

    Args:
        output: the output.
        source_spans: one half-open (start, end) of positions in ``source``, or several.
        target_spans: the same of ``target``. A span that begins before the first explained token keeps its explained part.
    """
    source = tile(_listed(source_spans), len(output.source))
    target = tile(_listed(target_spans), len(output.target))
    piece_of = [i for i, (start, end, _) in enumerate(target) for _ in range(start, end)]
    mapped = [(piece_of[start], piece_of[end - 1] + 1) for start, end in output.positions]
    columns, at = [], 0
    for _, same in groupby(mapped):
        columns.append((at, at := at + len(list(same))))
    steps = list(dict.fromkeys(mapped))
    first, last = (steps[0][0], steps[-1][1]) if steps else (output.attr_pos_start, output.attr_pos_start)
    rows = {"source": _within(source, len(output.source)), "target": _within(target, output.attr_pos_end)}

    def merged(values: Tensor | None, side: str) -> Tensor | None:
        return None if values is None else _merge(_merge(values, 1, columns), 0, rows[side])

    def by_name(values: dict[str, Tensor]) -> dict[str, Tensor]:
        rules = output.info.get("merge", {})
        return {name: _merge(v, 0, columns, rules.get(name, "absmax")) for name, v in values.items()}

    def matrix(name: str, values: Tensor) -> Tensor:
        """Rows and columns are the source's tokens, the target's, or the source's and the steps."""
        sides = {"encoder": (source, source), "decoder": (target, target)}
        left, right = sides.get(name.partition("_")[0], (source, target))
        steps_right = right is target and left is source and values.shape[1] == len(output.positions)
        across = columns if steps_right else _within(right, values.shape[1])
        return _merge(_merge(values, 1, across), 0, _within(left, values.shape[0]))

    return replace(
        output,
        source=[joined(output.source[start:end]).copy() for start, end, _ in source],
        target=[joined(output.target[start:end]).copy() for start, end, _ in target],
        source_attributions=merged(output.source_attributions, "source"),
        target_attributions=merged(output.target_attributions, "target"),
        step_scores=by_name(output.step_scores),
        diagnostics=by_name(output.diagnostics),
        sequence_scores={name: matrix(name, values) for name, values in output.sequence_scores.items()},
        attr_pos_start=first,
        attr_pos_end=last,
        spans=() if steps == [(i, i + 1) for i in range(first, last)] else tuple(steps),
        reduced=(*output.reduced, "absmax over spans"),
        info=dict(output.info),
    )


def _listed(given: Any) -> list[Span]:
    if given is None:
        return []
    return [(given[0], given[1])] if len(given) == 2 and all(type(i) is int for i in given) else [(a, b) for a, b in given]


def _within(pieces: Sequence[tuple[int, int, bool]], size: int) -> list[Span]:
    return [(start, min(end, size)) for start, end, _ in pieces if start < size]


def _merge(values: Tensor, dim: int, parts: Sequence[Span], rule: str = "absmax") -> Tensor:
    axes = tuple(f"axis {i}" for i in range(values.ndim))
    many = [part for part in parts if part[1] - part[0] > 1]
    return Labelled(values, axes).merge(axes[dim], many, aggregation_functions[rule].function).values
