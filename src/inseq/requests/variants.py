"""Altered versions of one example, made lazily."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from inseq.requests.example import Example


@runtime_checkable
class Variants(Protocol):
    """Altered versions of one example, made lazily."""

    def __len__(self) -> int: ...

    @property
    def original(self) -> int | None:
        """Which of the variants is the example itself, if one is."""

    def rows(self, x: Example, i: int, j: int) -> Float[Tensor, "row feature dim"] | Rows:
        """Embeddings of the variants ``i`` to ``j``; more where they differ in more than embeddings."""


@runtime_checkable
class Local(Protocol):
    """Variants that know where they begin to differ from the example: what stands before need not be run again."""

    @property
    def changed_from(self) -> Int[Tensor, " variant"]:
        """The first changed feature of each variant; the number of features where none is."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Variants that differ from the example in more than their embeddings.

    Attributes:
        embeds: one row a variant, each feature in its place.
        hidden: features that nobody may attend to; they keep their place.
        deleted: features that are left out; those after them move up. Such variants can be scored, and nothing else.
    """

    embeds: Float[Tensor, "row feature dim"]
    hidden: Bool[Tensor, "row feature"] | None = None
    deleted: Bool[Tensor, "row feature"] | None = None


@dataclass(frozen=True)
class Original:
    """The example itself."""

    original = 0

    def __len__(self) -> int:
        return 1

    def rows(self, x: Example, i: int, j: int) -> Float[Tensor, "row feature dim"]:
        return x.embeds[None]


@dataclass(frozen=True, eq=False)
class Removed:
    """Which features each variant lacks, made for some variants at a time: of many, all together would take much memory.

    Attributes:
        n: how many variants there are.
        rows: which features the variants ``i`` to ``j`` lack.
    """

    n: int
    rows: Callable[[int, int], Bool[Tensor, "row feature"]]

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, some: slice) -> Bool[Tensor, "row feature"]:
        return self.rows(*some.indices(self.n)[:2])


PART = 2**22
"""Entries of what is removed that are looked at together."""


class _Removing:
    """Variants that each lack some features."""

    removed: Bool[Tensor, "variant feature"] | Removed

    def __len__(self) -> int:
        return len(self.removed)

    @cached_property
    def original(self) -> int | None:
        return _first(torch.cat([~part.any(1) for part in self._parts()]))

    @cached_property
    def changed_from(self) -> Int[Tensor, " variant"]:
        return torch.cat([_first_of_each(part) for part in self._parts()])

    def _parts(self) -> Iterator[Bool[Tensor, "row feature"]]:
        size = max(1, PART // self.removed[:1].shape[1])
        for start in range(0, len(self), size):
            yield self.removed[start : start + size]


def _first_of_each(removed: Bool[Tensor, "row feature"]) -> Int[Tensor, " row"]:
    """The first feature that each row lacks; the number of features where it lacks none."""
    n = removed.shape[1]
    return torch.where(removed, torch.arange(n, device=removed.device), n).amin(1)


@dataclass(frozen=True, eq=False)
class Replaced(_Removing):
    """Some features' embeddings exchanged for others."""

    replacement: Float[Tensor, "feature dim"]
    removed: Bool[Tensor, "variant feature"] | Removed

    def rows(self, x: Example, i: int, j: int) -> Float[Tensor, "row feature dim"]:
        removed = self.removed[i:j].to(x.embeds.device)
        return torch.where(removed[:, :, None], self.replacement, x.embeds)


@dataclass(frozen=True, eq=False)
class Rewritten(_Removing):
    """Some features exchanged for other tokens, which may differ from variant to variant."""

    ids: Int[Tensor, "variant feature"]
    removed: Bool[Tensor, "variant feature"]

    def rows(self, x: Example, i: int, j: int) -> Float[Tensor, "row feature dim"]:
        rows = x.embeds.repeat(j - i, 1, 1)
        for role, side in x.sides:
            removed = self.removed[i:j, side].to(rows.device)
            chosen = self.ids[i:j, side].to(rows.device)[removed]
            rows[:, side][removed] = x.vocabulary.embed(chosen, role).to(rows)
        return rows


@dataclass(frozen=True, eq=False)
class Hidden(_Removing):
    """Some features that nobody may attend to; they keep their place, and their own prediction."""

    removed: Bool[Tensor, "variant feature"]

    def rows(self, x: Example, i: int, j: int) -> Rows:
        return Rows(x.embeds.expand(j - i, -1, -1), hidden=self.removed[i:j].to(x.embeds.device))


@dataclass(frozen=True, eq=False)
class Deleted(_Removing):
    """Some features left out: those after them move up, and a step is predicted from the last one left before it."""

    removed: Bool[Tensor, "variant feature"]

    @cached_property
    def changed_from(self) -> Int[Tensor, " variant"]:
        """One before the first that is left out: it predicts what that one predicted."""
        return (super().changed_from - 1).clamp_min(0)

    def rows(self, x: Example, i: int, j: int) -> Rows:
        return Rows(x.embeds.expand(j - i, -1, -1), deleted=self.removed[i:j].to(x.embeds.device))


@dataclass(frozen=True, eq=False)
class Path:
    """Points of the straight line from a baseline (0) to the example (1)."""

    baseline: Float[Tensor, "feature dim"]
    alphas: Float[Tensor, " variant"]

    def __len__(self) -> int:
        return len(self.alphas)

    @cached_property
    def original(self) -> int | None:
        return _first(self.alphas == 1)

    def rows(self, x: Example, i: int, j: int) -> Float[Tensor, "row feature dim"]:
        return between(self.baseline, x.embeds, self.alphas[i:j])


@dataclass(frozen=True, eq=False)
class Points:
    """Embeddings that a function gives for a range of variants, which are never all there at once."""

    n: int
    points: Callable[[int, int], Float[Tensor, "row feature dim"]]
    original = None

    def __len__(self) -> int:
        return self.n

    def rows(self, x: Example, i: int, j: int) -> Float[Tensor, "row feature dim"]:
        return self.points(i, j)


@dataclass(frozen=True)
class Layer:
    """A module of the model, whose values at every position are looked at or exchanged.

    Attributes:
        module: the module, or its dotted name.
        value: ``"output"`` or ``"input"``: which of its values is meant.
    """

    module: Any
    value: str = "output"


@dataclass(frozen=True, eq=False)
class Placed:
    """The example itself, with the values of one layer exchanged for points of the line between two of them.

    Features that the layer does not run over have rows of zeros in ``start`` and ``end``.
    """

    layer: Layer
    start: Float[Tensor, "feature width"]
    end: Float[Tensor, "feature width"]
    alphas: Float[Tensor, " variant"]
    original = None

    def __len__(self) -> int:
        return len(self.alphas)

    def rows(self, x: Example, i: int, j: int) -> Float[Tensor, "row feature dim"]:
        return x.embeds.expand(j - i, -1, -1)

    def values(self, i: int, j: int) -> Float[Tensor, "row feature width"]:
        """What the layer's values are exchanged for in the variants ``i`` to ``j``."""
        return between(self.start, self.end, self.alphas[i:j])


def between(
    start: Float[Tensor, "feature dim"], end: Float[Tensor, "feature dim"], alphas: Float[Tensor, " row"]
) -> Float[Tensor, "row feature dim"]:
    """Points of a straight line: its start at 0, its end at 1."""
    n = len(alphas)
    return torch.lerp(start.to(end).expand(n, -1, -1), end.expand(n, -1, -1), alphas[:, None, None].to(end))


def _first(which: Bool[Tensor, " variant"]) -> int | None:
    return int(which.nonzero()[0]) if which.any() else None
