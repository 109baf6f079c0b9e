"""Words, sentences and turns of a running text, for views that let the reader change between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from inseq.results.aggregate.words import STARTS, grouped
from inseq.results.scores import SequenceScores
from inseq.text.tokens import Token
from inseq.views.table import Grouping


def groupings(sequence: SequenceScores, tokens: Sequence[Token], info: Mapping[str, Any]) -> tuple[Grouping, ...]:
    """The groupings that join any tokens at all, the finest first."""
    found = [(name, _numbers(grouped(tokens, starts(sequence)), len(tokens))) for name, starts in STARTS.items()]
    turns = _turns(tokens, info)
    found += [("turn", turns)] if turns else []
    return tuple(Grouping(name, groups) for name, groups in found if groups and groups[-1] + 1 < len(groups))


def _numbers(spans: Sequence[tuple[int, int]], size: int) -> tuple[int, ...]:
    numbers = [0] * size
    for n, (start, end) in enumerate(spans):
        numbers[start:end] = [n] * (end - start)
    return tuple(numbers)


def _turns(tokens: Sequence[Token], info: Mapping[str, Any]) -> tuple[int, ...]:
    """Messages of a chat; what lies between them, and each generated token, stands alone."""
    known = (info.get("turns") or [[]])[0]
    spans = [tuple(turn["span"]) for turn in known]
    if not spans or any(end > len(tokens) for _, end in spans):
        return ()
    inside = {at: n for n, (start, end) in enumerate(spans) for at in range(start, end)}
    numbers: list[int] = []
    for at in range(len(tokens)):
        new = at == 0 or inside.get(at) is None or inside.get(at) != inside.get(at - 1)
        numbers.append((numbers[-1] + new) if numbers else 0)
    return tuple(numbers)
