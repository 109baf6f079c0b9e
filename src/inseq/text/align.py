"""Which token of another output each written token is compared with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from inseq.errors import ArgumentError

Pairs = dict[int, int]


def align(written: Sequence[int], other: Sequence[int]) -> list[int]:
    """For each written token, the position of the token it is compared with.

    Equal tokens are matched as in an alignment with the fewest insertions, deletions and substitutions; among those, one
    with the most matches; among those, the one that matches latest. What lies between two matches is aligned one to one
    from the left, and the surplus with the last token there. Where the other sequence has nothing between two matches,
    its next token is taken, and beyond its end its last one.

    Args:
        written: ids.
        other: ids, at least one.
    """
    found = [0] * len(written)
    i = j = 0
    for match_i, match_j in [*_matches(written, other), (len(written), len(other))]:
        for k in range(i, match_i):
            found[k] = min(j + k - i, max(match_j - 1, j), len(other) - 1)
        if match_i < len(written):
            found[match_i] = match_j
        i, j = match_i + 1, match_j + 1
    return found


def _matches(a: Sequence[int], b: Sequence[int]) -> list[tuple[int, int]]:
    """Positions of the equal tokens that an alignment of least cost matches, ascending."""
    end = 0
    while end < min(len(a), len(b)) and a[-1 - end] == b[-1 - end]:
        end += 1
    start = 0
    while start < min(len(a), len(b)) - end and a[start] == b[start]:
        start += 1
    inner = _traced(a[start : len(a) - end], b[start : len(b) - end])
    tail = [(len(a) - k, len(b) - k) for k in range(end, 0, -1)]
    return [*((k, k) for k in range(start)), *((start + i, start + j) for i, j in inner), *tail]


def _traced(a: Sequence[int], b: Sequence[int]) -> list[tuple[int, int]]:
    edit = len(a) + len(b) + 1
    costs = np.zeros((len(a) + 1, len(b) + 1), dtype=np.int64)
    costs[0] = np.arange(len(b) + 1) * edit
    other = np.asarray(b, dtype=np.int64)
    for i, token in enumerate(a, 1):
        substituted = costs[i - 1, :-1] + np.where(other == token, -1, edit)
        kept = np.minimum(substituted, costs[i - 1, 1:] + edit)
        cells = np.concatenate([[costs[i - 1, 0] + edit], kept]) - costs[0]
        costs[i] = np.minimum.accumulate(cells) + costs[0]
    found = []
    i, j = len(a), len(b)
    while i and j:
        equal = a[i - 1] == b[j - 1]
        if costs[i, j] == costs[i - 1, j - 1] + (-1 if equal else edit):
            i, j = i - 1, j - 1
            if equal:
                found.append((i, j))
        elif costs[i, j] == costs[i - 1, j] + edit:
            i -= 1
        else:
            j -= 1
    return found[::-1]


def pairs_of(value: object, n_texts: int) -> list[Pairs]:
    """Read ``contrast_targets_alignments``: for each text, the position of its contrast by position.

    Args:
        value: None or ``"auto"``; a list of pairs for one text; a list of such lists, one for each of several.
        n_texts: how many texts there are.

    Raises:
        ArgumentError: for anything else, and for a position that is paired twice.
    """
    if value is None or value == "auto":
        return [{} for _ in range(n_texts)]
    if not isinstance(value, list | tuple):
        raise _malformed(f"got {type(value).__name__} ({value!r})")
    several = list(value)
    if n_texts == 1 and all(_is_pair(pair) for pair in several):
        several = [several]
    if len(several) != n_texts:
        raise _malformed(f"got {len(several)} entries for {n_texts} texts")
    return [_read(pairs, i) for i, pairs in enumerate(several)]


def _read(pairs: object, text: int) -> Pairs:
    if pairs is None or pairs == "auto":
        return {}
    if not isinstance(pairs, list | tuple) or not all(_is_pair(pair) for pair in pairs):
        raise _malformed(f"got {pairs!r} for text {text}")
    found: Pairs = {}
    for position, other in pairs:
        if found.get(position, other) != other:
            raise ArgumentError(
                f"contrast_targets_alignments: position {position} of text {text} is paired with {found[position]} and with "
                f"{other}; each step is compared with one token."
            )
        found[position] = other
    return found


def _is_pair(value: object) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and all(type(number) is int for number in value)


def _malformed(got: str) -> ArgumentError:
    return ArgumentError(
        "contrast_targets_alignments must be 'auto', a list of pairs (position in target, position in the contrast) for one "
        f"text, or a list of such lists, one for each text: {got}."
    )


def checked_pairs(pairs: Pairs, n_written: int, n_other: int, text: int) -> Pairs:
    """Return pairs whose positions exist.

    Raises:
        ArgumentError: for the first that does not; the first token of a sequence is predicted by nothing.
    """
    for position, other in pairs.items():
        for which, value, n in (("target", position, n_written), ("contrast", other, n_other)):
            if not 1 <= value < n:
                raise ArgumentError(
                    f"contrast_targets_alignments: the pair ({position}, {other}) of text {text} names position {value} of "
                    f"the {which}, which has predicted tokens at 1 to {n - 1}. Positions count from the first token of the "
                    "whole sequence: the prompt of a decoder-only model, the decoder's start of an encoder-decoder."
                )
    return pairs
