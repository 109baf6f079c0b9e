"""Single layers and heads of a granular output."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np

from inseq.errors import ArgumentError
from inseq.results.aggregate.axes import picked
from inseq.results.aggregate.pipeline import aggregated
from inseq.results.scores import SequenceScores
from inseq.views.table import Plane

CHOSEN = ("layer", "head")
MAX_VALUES = 1_000_000
Chosen = list[tuple[Plane, SequenceScores]]


def planes(
    granular: SequenceScores | None, show_dim: int | str | None = None
) -> tuple[tuple[tuple[str, int], ...], Chosen, list[str]]:
    """Return the axes that can be chosen from, an aggregated output for each choice, and what had to be left out.

    Raises:
        ArgumentError: if ``show_dim`` is none of the trailing axes.
    """
    names = _names(granular, show_dim) if granular is not None else []
    if granular is None or not names:
        return (), [], []
    scores = [s for s in (granular.source_attributions, granular.target_attributions) if s is not None]
    sizes = [scores[0].shape[2 + granular.axes.index(name)] for name in names]
    cells = sum(s.shape[0] * s.shape[1] for s in scores)
    if all(size == 1 for size in sizes):
        return (), [], []
    if cells * int(np.prod([size + 1 for size in sizes])) > MAX_VALUES:
        each = " and ".join(f"{size} {name}s" for name, size in zip(names, sizes, strict=True))
        return (), [], [f"single ones of {each}, which would be too many numbers for a page; select them with select_idx"]
    choices = product(*[[None, *range(size)] for size in sizes])
    found = [
        (Plane(index, np.zeros((0, 0))), _at(granular, names, index)) for index in choices if any(i is not None for i in index)
    ]
    return tuple(zip(names, sizes, strict=True)), found, []


def _names(granular: SequenceScores, show_dim: int | str | None) -> list[str]:
    if show_dim is None:
        return [axis for axis in granular.axes if axis in CHOSEN]
    numbered = dict(enumerate(("feature", "step", *granular.axes)))
    name = numbered.get(show_dim, show_dim) if isinstance(show_dim, int) else show_dim
    if name not in granular.axes:
        there = ", ".join(f"{axis} ({i + 2})" for i, axis in enumerate(granular.axes)) or "none"
        raise ArgumentError(f"show_dim={show_dim!r} is not an axis that can be looked at; there is {there}.")
    return [str(name)]


def _at(granular: SequenceScores, names: Sequence[str], index: Sequence[int | None]) -> SequenceScores:
    for name, i in zip(names, index, strict=True):
        granular = granular if i is None else picked(granular, name, i)
    return aggregated(granular)
