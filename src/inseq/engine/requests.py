"""What a method may ask of the model. A method awaits requests; the scheduler answers them."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Generic, Literal, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from inseq.errors import ArgumentError
from inseq.models.backward import Edit as Edit
from inseq.models.backward import Relevance as Relevance
from inseq.models.backward import Rescale as Rescale
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

    def rows(self, x: Example, i: int, j: int) -> Float[Tensor, "row feature dim"]:
        """Embeddings of the variants ``i`` to ``j``."""


@dataclass(frozen=True)
class Original:
    """The example itself."""

    original = 0

    def __len__(self) -> int:
        return 1

    def rows(self, x: Example, i: int, j: int) -> Float[Tensor, "row feature dim"]:
        return x.embeds[None]


@dataclass(frozen=True, eq=False)
class Replaced:
    """Some features' embeddings exchanged for others."""

    replacement: Float[Tensor, "feature dim"]
    removed: Bool[Tensor, "variant feature"]

    def __len__(self) -> int:
        return len(self.removed)

    @cached_property
    def original(self) -> int | None:
        return _first(~self.removed.any(1))

    def rows(self, x: Example, i: int, j: int) -> Float[Tensor, "row feature dim"]:
        removed = self.removed[i:j, :, None].to(x.embeds.device)
        return torch.where(removed, self.replacement, x.embeds)


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

    @property
    def kind(self) -> tuple[Any, ...]:
        """Requests of one kind share batches."""
        return (type(self),)


@dataclass(frozen=True, eq=False)
class Score(Request[Tensor]):
    """The target's value for every variant and step: Float["variant step"]."""


@dataclass(frozen=True, eq=False)
class Gradient(Request[Any]):
    """The target's gradient to the features' embeddings, summed over the variants with ``weights``.

    The gradients of a block of steps, Float["step feature dim"], go through ``read``; what it returns (a tensor or a tuple
    of tensors, each with a leading step axis) is joined over the blocks. Where the example is not granular, a last axis
    ``dim`` that is left is folded by its L2 norm as it streams, so that no [step, feature, dim] tensor ever stands whole.

    With an ``edit``, the gradient passes backward by its rules, and no step score is recorded. ``Rescale`` gives
    multipliers of the difference from a ``reference``, embeddings that run beside every variant.
    """

    weights: Float[Tensor, " variant"] | None = None
    read: Callable[[Tensor], Any] = _unchanged
    edit: Edit | None = None
    reference: Float[Tensor, "feature dim"] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.edit, Rescale) is not (self.reference is not None):
            raise ArgumentError(f"a reference belongs to Rescale and to no other edit; got edit={self.edit!r}.")

    @property
    def kind(self) -> tuple[Any, ...]:
        return Gradient, self.edit


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
