"""What is too long for a view: weak tokens that follow each other are drawn as one stretch, with the sum of their scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from inseq.results.aggregate.axes import scores_of
from inseq.results.aggregate.spans import spans
from inseq.results.scores import SequenceScores
from inseq.text.tokens import Token

MAX_CELLS, MAX_COLUMNS, MAX_ROWS, LEAST_ROWS = 2_000_000, 4_000, 8_000, 200
Span = tuple[int, int]


def folded(sequence: SequenceScores, most: int | None = None) -> tuple[SequenceScores, list[str]]:
    """Return an output within the budget, or with so many input tokens at most, and sentences on what was drawn together."""
    said = []
    if len(sequence.positions) > MAX_COLUMNS:
        size = -(-len(sequence.positions) // MAX_COLUMNS)
        first, end = sequence.positions[0][0], sequence.positions[-1][1]
        sequence = spans(sequence, target_spans=[(i, min(i + size, end)) for i in range(first, end, size)], aggregate_fn="sum")
        said.append(f"single output tokens: each column is the sum of up to {size}, of which there are too many for a view")
    limit = most or min(MAX_ROWS, max(LEAST_ROWS, MAX_CELLS // max(1, len(sequence.positions))))
    scores = scores_of(sequence)
    if sum(map(len, scores)) > limit:
        k, kept = _strongest(torch.cat(scores), limit // 2)
        sides = _sides(sequence, kept)
        whole = sum(map(len, scores))
        sequence = spans(sequence, **sides, aggregate_fn="sum")
        said.append(
            f"single input tokens: of {whole} the {k} strongest of each output token are drawn alone, and stretches of weaker "
            "ones as one, with the sum of their scores"
        )
    return sequence, said


def _strongest(scores: torch.Tensor, limit: int) -> tuple[int, set[int]]:
    """The largest k whose strongest rows of each column are no more than so many, and these rows."""
    sizes = np.nan_to_num(scores.abs().double().numpy(force=True), nan=-1.0)
    order = np.argsort(-sizes, axis=0, kind="stable")
    best: tuple[int, set[int]] = (0, set())
    low, high = 1, len(order)
    while low <= high:
        k = (low + high) // 2
        rows = set(np.unique(order[:k]).tolist())
        if len(rows) <= limit:
            best, low = (k, rows), k + 1
        else:
            high = k - 1
    return best


def _sides(sequence: SequenceScores, kept: set[int]) -> dict[str, list[Span]]:
    """Stretches of input tokens that are not kept; explained tokens stay as they are."""
    sides: dict[str, list[Span]] = {}
    at = 0
    if sequence.source_attributions is not None:
        sides["source_spans"] = _stretches(sequence.source, kept, at, len(sequence.source))
        at = len(sequence.source)
    if sequence.target_attributions is not None:
        sides["target_spans"] = _stretches(sequence.target, kept, at, sequence.attr_pos_start)
    return sides


def _stretches(tokens: Sequence[Token], kept: set[int], offset: int, end: int) -> list[Span]:
    found, start = [], 0
    for i in range(end + 1):
        alone = i == end or (i + offset) in kept or tokens[i].special
        if alone or tokens[i].role != tokens[i - 1].role:
            if i - start > 1:
                found.append((start, i))
            start = i + 1 if alone else i
    return found
