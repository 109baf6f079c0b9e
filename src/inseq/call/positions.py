"""Which generated tokens a call explains: a window of them, and spans that are explained at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from inseq.errors import ArgumentError

Span = tuple[int, int]

_EXPECTED = "target_spans must be a list of half-open spans (start, end) of target, or such a list for each text"


@dataclass(frozen=True)
class Explained:
    """One text with its ids, and the generated tokens to explain.

    Attributes:
        source: ids of the encoder's input.
        target: the decoder's ids.
        first: where in ``target`` the generated ones begin.
        window: the explained positions of ``target``, half-open.
        spans: which of them are explained at once, where spans were asked for.
    """

    source: list[int]
    target: list[int]
    first: int
    window: Span
    spans: tuple[Span, ...] | None = None

    @property
    def positions(self) -> list[int]:
        """The positions of ``target`` whose predictions are explained, ascending."""
        if self.spans is None:
            return list(range(*self.window))
        return sorted({i for span in self.spans for i in range(*span)})

    @property
    def n_steps(self) -> int:
        """How many columns the scores have."""
        return self.window[1] - self.window[0] if self.spans is None else len(self.spans)


def explained(
    ids: Sequence[tuple[list[int], list[int], int]],
    start: int | None,
    end: int | None,
    target_spans: Any,
    positions: Any = None,
) -> list[Explained]:
    """Find what is explained of each text.

    Args:
        ids: for each text: source ids, the decoder's ids, and where the generated ones begin.
        start: the first position to explain; negative ones count from the end.
        end: the position after the last one.
        target_spans: spans of the positions, of all texts or of each.
        positions: single positions in place of spans.

    Raises:
        ArgumentError: for positions that were not generated, and where there is nothing to explain.
    """
    windows = [_window(target, first, start, end) for _, target, first in ids]
    if positions is not None:
        if target_spans is not None:
            raise ArgumentError("Got positions and target_spans: pass the positions as spans of one token, or alone.")
        chosen = zip(ids, windows, _chosen(positions, ids, windows), strict=True)
        return [Explained(*each, (spans[0][0], spans[-1][1]), spans) for each, _, spans in chosen]
    if target_spans is None:
        return [Explained(*each, window) for each, window in zip(ids, windows, strict=True)]
    found = []
    of_texts = _of_texts(target_spans, len(ids))
    for i, (each, window, (name, spans)) in enumerate(zip(ids, windows, of_texts, strict=True)):
        resolved = tuple(_resolved(span, f"{name}[{k}]", i, len(each[1]), window) for k, span in enumerate(spans))
        for before, after in pairwise(resolved):
            if after[0] < before[0] or after[1] < before[1] or after == before:
                raise ArgumentError(
                    f"{name}: the span {list(after)} comes after {list(before)}; expected spans in ascending order of both "
                    "ends, each once. They may overlap."
                )
        found.append(Explained(*each, (resolved[0][0], resolved[-1][1]), resolved))
    return found


def _chosen(given: Any, ids: Sequence[tuple[list[int], list[int], int]], windows: Sequence[Span]) -> list[tuple[Span, ...]]:
    """Single positions of each text as spans of one token, in the order of ``target``."""
    expected = "positions must be a list of positions of target, each once, or such a list for each text"
    if not isinstance(given, list | tuple) or not given:
        raise ArgumentError(f"{expected}; got {given!r}.")
    lists = [given] * len(ids) if all(type(i) is int for i in given) else list(given)
    found = []
    for text, (each, window, listed) in enumerate(zip(ids, windows, lists, strict=False)):
        if not isinstance(listed, list | tuple) or not listed or any(type(i) is not int for i in listed):
            raise ArgumentError(f"{expected}; got {given!r}.")
        resolved = sorted(i + len(each[1]) if i < 0 else i for i in listed)
        outside = next((i for i in resolved if not window[0] <= i < window[1]), None)
        if outside is not None:
            raise ArgumentError(
                f"positions={given!r} name position {outside} of text {text}, whose explained tokens stand at {window[0]} to "
                f"{window[1] - 1}."
            )
        if len(set(resolved)) < len(resolved):
            raise ArgumentError(f"{expected}; {listed!r} name one of text {text} twice.")
        found.append(tuple((i, i + 1) for i in resolved))
    if len(lists) != len(ids):
        raise ArgumentError(
            f"positions has {len(lists)} lists and input_texts {len(ids)} texts: pass one for each or for all."
        )
    return found


def _of_texts(given: Any, n_texts: int) -> list[tuple[str, list[Any]]]:
    """The spans of each text, and what to call them."""
    if not isinstance(given, list | tuple) or not given:
        raise ArgumentError(f"{_EXPECTED}; got {given!r}.")
    if all(map(_is_pair, given)):
        return [("target_spans", list(given))] * n_texts
    nested = all(isinstance(spans, list | tuple) and spans and all(map(_is_pair, spans)) for spans in given)
    if not nested:
        raise ArgumentError(f"{_EXPECTED}, such as [(0, 3), (3, None)]; got {given!r}.")
    if len(given) != n_texts:
        raise ArgumentError(
            f"target_spans has spans for {len(given)} texts, and input_texts {n_texts}: pass one list for each or for all."
        )
    return [(f"target_spans[{i}]", list(spans)) for i, spans in enumerate(given)]


def _is_pair(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and all(i is None or type(i) is int for i in value)


def _resolved(span: Sequence[int | None], name: str, text: int, n: int, window: Span) -> Span:
    """The span with positions from the start; None is the window's own end."""
    start, end = (own if i is None else i + n if i < 0 else i for i, own in zip(span, window, strict=True))
    if not window[0] <= start < end <= window[1]:
        raise ArgumentError(
            f"{name}={tuple(span)} is the span {start} to {end} of text {text}, whose explained tokens stand at {window[0]} "
            f"to {window[1] - 1}: spans are half-open, hold one token at least and end at {window[1]} at the latest."
        )
    return start, end


def _window(target: list[int], first: int, start: int | None, end: int | None) -> Span:
    """Resolve the explained positions of ``target``, half-open.

    Raises:
        ArgumentError: for positions that were not generated, and for an empty window.
    """
    n = len(target)
    a = first if start is None else start + n if start < 0 else start
    b = n if end is None else end + n if end < 0 else end
    for name, value, position in (("attr_pos_start", start, a), ("attr_pos_end", end, b)):
        if not first <= position <= n:
            raise ArgumentError(
                f"{name}={value} is position {position}, but the generated tokens stand at {first} to {n - 1} of {n} "
                f"(the first {first} are the {'prompt' if first > 1 else 'start'}). Choose from {first} to {n}."
            )
    if a >= b:
        raise ArgumentError(f"attr_pos_start={start} and attr_pos_end={end} leave no token to explain: {a} to {b}.")
    return a, b
