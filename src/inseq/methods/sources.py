"""Sources: spans of the prompt or of the encoder's text that are removed as a whole."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Bool
from torch import Tensor

from inseq.errors import ArgumentError
from inseq.requests.example import Example
from inseq.text.tokens import Token

Sources = Literal["sentences", "words", "tokens"] | Sequence[tuple[int, int]]
"""``"sentences"``, ``"words"``, ``"tokens"``, or half-open spans of the features, such as ``[(0, 3), (3, 7)]``.

Words begin at blanks and at wide (East Asian) characters; in a text without blanks every token is a word. Sentences end
with a line, or with ``.``, ``!``, ``?`` or ``…`` before a blank, or with their wide forms. Special tokens are in no source.
"""

_EXPECTED = "sources must be 'sentences', 'words', 'tokens' or a list of spans (start, end)"
CLOSING = "\"'”’»)]）」』"
STOPS, WIDE_STOPS = ".!?…", "。！？"


def find_sources(x: Example, sources: Any) -> Bool[Tensor, "source feature"]:
    """Which features each source holds, in order.

    Raises:
        ArgumentError: for an unknown division, for spans that are empty, overlap or leave the prompt, and where there is none.
    """
    n = sum(token.role != "generated" for token in x.features)
    given = x.features[:n]
    spans = _divided(given, sources) if isinstance(sources, str) else _checked(sources, n)
    if not spans:
        raise ArgumentError(f"sources={sources!r} finds no source: the prompt holds nothing but {n} special tokens.")
    held = torch.zeros(len(spans), len(x.features), dtype=torch.bool)
    for row, span in zip(held, spans, strict=True):
        row[span] = True
    return held


def _divided(tokens: Sequence[Token], division: str) -> list[list[int]]:
    if division not in ("sentences", "words", "tokens"):
        raise ArgumentError(f"{_EXPECTED}, got {division!r}.")
    ordinary = [i for i, token in enumerate(tokens) if not token.special]
    blanks = any(char.isspace() for i in ordinary[1:] for char in tokens[i].text)
    spans: list[list[int]] = []
    for i in ordinary:
        before = tokens[i - 1] if spans and spans[-1][-1] == i - 1 else None
        if before is None or _begins(before.text, tokens[i].text, division, blanks):
            spans.append([i])
        else:
            spans[-1].append(i)
    return spans


def _begins(before: str, text: str, division: str, blanks: bool) -> bool:
    """Whether a token begins a new source."""
    if division == "tokens":
        return True
    parted = before[-1:].isspace() or text[:1].isspace()
    if division == "words":
        return bool(text) and (parted or not blanks or unicodedata.east_asian_width(text[0]) in "WF")
    end = before.rstrip(" ").rstrip(CLOSING)[-1:]
    return end == "\n" or (end != "" and (end in WIDE_STOPS or (end in STOPS and parted)))


def _checked(spans: Any, n: int) -> list[list[int]]:
    if not isinstance(spans, list | tuple):
        raise ArgumentError(f"{_EXPECTED}, got {type(spans).__name__}.")
    end = 0
    for span in spans:
        pair = isinstance(span, list | tuple) and len(span) == 2 and all(isinstance(i, int) for i in span)
        if not pair or not end <= span[0] < span[1] <= n:
            raise ArgumentError(
                f"sources={list(spans)!r}: {span!r} is not a span (start, end) of the {n} tokens of the prompt or source that "
                "comes after the spans before it. Spans are half-open and do not overlap."
            )
        end = span[1]
    return [list(range(*span)) for span in spans]
