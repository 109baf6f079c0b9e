"""What a method may ask of the model. A method awaits requests; the scheduler answers them."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Generic, Literal, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from inseq.text.example import Example

T = TypeVar("T")
Site = Literal["encoder", "decoder", "cross"]


@dataclass(frozen=True)
class Prediction:
    """Next-token predictions and the tokens that were really written; what a step function sees.

    Attributes:
        logits: in float32 or wider.
        ids: the written tokens.
    """

    logits: Float[Tensor, "n vocab"]
    ids: Int[Tensor, " n"]


StepFunction = Callable[[Prediction], Float[Tensor, " n"]]


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


class _Removing:
    """Variants that each lack some features."""

    removed: Bool[Tensor, "variant feature"]

    def __len__(self) -> int:
        return len(self.removed)

    @cached_property
    def original(self) -> int | None:
        return _first(~self.removed.any(1))

    @cached_property
    def changed_from(self) -> Int[Tensor, " variant"]:
        n = self.removed.shape[1]
        return torch.where(self.removed, torch.arange(n, device=self.removed.device), n).amin(1)


@dataclass(frozen=True, eq=False)
class Replaced(_Removing):
    """Some features' embeddings exchanged for others."""

    replacement: Float[Tensor, "feature dim"]
    removed: Bool[Tensor, "variant feature"]

    def rows(self, x: Example, i: int, j: int) -> Float[Tensor, "row feature dim"]:
        removed = self.removed[i:j, :, None].to(x.embeds.device)
        return torch.where(removed, self.replacement, x.embeds)


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
        alphas = self.alphas[i:j, None, None].to(x.embeds)
        return torch.lerp(self.baseline.expand(j - i, -1, -1), x.embeds.expand(j - i, -1, -1), alphas)


def _first(which: Bool[Tensor, " variant"]) -> int | None:
    return int(which.nonzero()[0]) if which.any() else None


def _unchanged(values: Tensor) -> Tensor:
    return values


@dataclass(frozen=True, eq=False)
class Request(Generic[T]):
    """A measurement of the model on variants of one example."""

    example: Example
    variants: Variants = field(default_factory=Original)

    def __await__(self) -> Generator[Any, Any, T]:
        (answer,) = yield (self,)
        return answer


@dataclass(frozen=True, eq=False)
class Score(Request[Tensor]):
    """The target's value for every variant and step: Float["variant step"].

    A method that needs a function of its own gives it as ``target``; where that returns further axes, the answer has them
    too: Float["variant step *extra"].
    """

    target: Callable[[Prediction], Tensor] | None = None


@dataclass(frozen=True, eq=False)
class Gradient(Request[Any]):
    """The target's gradient to the features' embeddings, summed over the variants with ``weights``.

    The gradients of a block of steps, Float["step feature dim"], go through ``read``; what it returns (a tensor or a tuple
    of tensors, each with a leading step axis) is joined over the blocks. Where the example is not granular, a last axis
    ``dim`` that is left is folded by its L2 norm as it streams, so that no [step, feature, dim] tensor ever stands whole.
    """

    weights: Float[Tensor, " variant"] | None = None
    read: Callable[[Tensor], Any] = _unchanged


@dataclass(frozen=True, eq=False)
class Capture(Request[dict[Site, list[Tensor]]]):
    """Attention weights of every layer, by site: lists, over layers, of what ``read`` makes of them.

    ``read`` gets Float["head query key"] as one layer gives it: for the sites ``decoder`` and ``cross`` the queries are
    those that predict the steps. Keys that a query has not read hold zeros.
    """

    sites: tuple[Site, ...] = ("decoder", "cross")
    read: Callable[[Tensor], Tensor] = _unchanged


class _Together:
    def __init__(self, requests: tuple[Request[Any], ...]) -> None:
        self.requests = requests

    def __await__(self) -> Generator[Any, Any, tuple[Any, ...]]:
        return (yield self.requests)


async def gather(*requests: Request[Any]) -> tuple[Any, ...]:
    """Await several requests at once, so that they share batches."""
    return await _Together(requests)
