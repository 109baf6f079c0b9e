"""Which token of another output each written token is compared with."""

from __future__ import annotations

import pytest
import torch

from inseq.text.align import align

ALIGNED: list[tuple[str, str, list[int]]] = [
    ("abc", "abc", [0, 1, 2]),
    ("abc", "axc", [0, 1, 2]),
    ("abcd", "axyzd", [0, 1, 2, 4]),
    ("axyzd", "abd", [0, 1, 1, 1, 2]),
    ("abc", "xabc", [1, 2, 3]),
    ("xabc", "abc", [0, 0, 1, 2]),
    ("abxc", "abc", [0, 1, 2, 2]),
    ("abc", "ab", [0, 1, 1]),
    ("abc", "xyz", [0, 1, 2]),
    ("abcd", "xy", [0, 1, 1, 1]),
    ("ab", "wxyz", [0, 1]),
    ("the cat sat", "a dog ran the", [0, 1, 2]),
    ("aa", "a", [0, 0]),
    ("", "a", []),
]


@pytest.mark.parametrize(("written", "other", "expected"), ALIGNED)
def test_the_automatic_alignment(written: str, other: str, expected: list[int]) -> None:
    one, two = ([hash(w) % 10**6 for w in (text.split() if " " in text else text)] for text in (written, other))
    assert align(one, two) == expected


def distance(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, int]:
    """(edits, minus matches) of the best alignment, by its definition."""
    if not a or not b:
        return len(a) + len(b), 0
    last = (0, -1) if a[-1] == b[-1] else (1, 0)
    options = [(distance(a[:-1], b[:-1]), last), (distance(a[:-1], b), (1, 0)), (distance(a, b[:-1]), (1, 0))]
    return min((x + i, y + j) for (x, y), (i, j) in options)


def test_equal_tokens_are_matched_as_often_as_in_the_best_alignment() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        n, m = (int(torch.randint(1, 6, (1,), generator=generator)) for _ in range(2))
        a, b = (torch.randint(0, 3, (k,), generator=generator).tolist() for k in (n, m))
        found = align(a, b)
        assert len(found) == n
        assert found == sorted(found)
        matched = sum(a[i] == b[j] for i, j in enumerate(found))
        assert matched >= -distance(tuple(a), tuple(b))[1]
