"""What a method may ask of the model. A method awaits requests; the scheduler answers them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Generic, Literal, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from inseq.text.example import Example

T = TypeVar("T")
Site = Literal["encoder", "decoder", "cross"]
Choice = int | list[int] | tuple[int, int] | None
"""Layers or heads: one, some, a half-open (start, end) range, or all; negative ones count from the end."""
HeadChoice = Choice | Mapping[int, Choice]
"""Heads of all layers, or of each layer named; a layer that is not named keeps all."""


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


@dataclass(frozen=True, eq=False)
class Score(Request[Tensor]):
    """The target's value for every variant and step: Float["variant step"]."""


@dataclass(frozen=True, eq=False)
class Gradient(Request[Any]):
    """The target's gradient to the features' embeddings, summed over the variants with ``weights``.

    The gradients of a block of steps, Float["step feature dim"], go through ``read``; what it returns (a tensor or a tuple
    of tensors, each with a leading step axis) is joined over the blocks. Where the example is not granular, a last axis
    ``dim`` that is left is folded by its L2 norm as it streams, so that no [step, feature, dim] tensor ever stands whole.
    """

    weights: Float[Tensor, " variant"] | None = None
    read: Callable[[Tensor], Any] = _unchanged


@runtime_checkable
class Pieces(Protocol):
    """How one attention's part of the residual stream is made: a vector is its own residual and a piece from every key."""

    @property
    def before(self) -> Float[Tensor, "query dim"]:
        """The vectors that the attention read."""

    @property
    def total(self) -> Float[Tensor, "query dim"]:
        """The vectors after it, with the norm that follows where one does."""

    @property
    def residual(self) -> Float[Tensor, "query dim"]:
        """The part of ``before`` in ``total``."""

    @property
    def additive(self) -> bool:
        """Whether everything after it in the layer is only added to ``total``."""

    def chunks(self, queries: Int[Tensor, " query"]) -> Iterator[tuple[Tensor, Tensor]]:
        """Some of the queries at a time, Int["query"], and the pieces they get: Float["query key dim"]."""


@dataclass(frozen=True, eq=False)
class Attended:
    """What one attention computed for one example and one block of steps, as folds see it.

    Attributes:
        site: which attention of the layer.
        layer: index of the layer within its stack.
        weights: of the chosen heads, at all positions of the block.
        at: the decoder positions that predict the block's steps.
        pieces: how its output is made, where that was asked for.
    """

    site: Site
    layer: int
    weights: Float[Tensor, "head query key"]
    at: Int[Tensor, " step"]
    pieces: Pieces | None = None

    def at_steps(self, n_keys: int) -> Float[Tensor, "head step key"]:
        """The weights by which the positions that predict the steps read; keys beyond the block hold zeros."""
        queries = self.weights[:, self.at.to(self.weights.device)]
        return pad(queries, (0, n_keys - queries.shape[-1]))


@runtime_checkable
class Fold(Protocol):
    """Folds what the layers compute into what a method wants, as they come, so that no two layers stand at once."""

    def add(self, seen: Any) -> None:
        """Take what one attention computed; sites and layers come in the order of the forward."""

    def value(self) -> dict[str, Tensor]:
        """Tensors with a leading step axis, joined over blocks of steps; ``"encoder"`` has none and is taken once."""


@dataclass(frozen=True, eq=False)
class Capture(Request[dict[str, Tensor]]):
    """What the attentions compute in one forward: each one's :class:`Attended` goes to a fold of the block's own.

    Attributes:
        fold: makes the fold of one block of steps.
        sites: which attentions.
        layers: the decoder's layers that are seen, all by default; the encoder's are seen whole.
        heads: the decoder's heads that are seen, all by default.
        pieces: whether the attentions' outputs are taken to pieces too; these are always of all heads.
    """

    fold: Callable[[], Fold] = field(kw_only=True)
    sites: tuple[Site, ...] = ("decoder", "cross")
    layers: Choice = None
    heads: Choice = None
    pieces: bool = False


@dataclass(frozen=True, eq=False)
class Direction(Request[dict[str, Tensor]]):
    """How the written tokens' logits follow the last layer's output, the final norm's statistics held.

    ``"direction"`` Float["step dim"]: its dot product with what is added to the output is what is added to the logit;
    ``"logit"`` Float["step"]: as the vocabulary matrix gives it, before any cap or scale.
    """


@dataclass(frozen=True, eq=False)
class Altered:
    """What one layer's output becomes where a token is zeroed in one of the layer's attentions.

    Attributes:
        site: the attention.
        layer: index of the layer within its stack.
        changes: how far each looked-at position moves for each zeroed token.
    """

    site: Site
    layer: int
    changes: Float[Tensor, "token query"]


@dataclass(frozen=True, eq=False)
class Replay(Request[dict[str, Tensor]]):
    """Each layer run again by itself from its clean inputs, once for every token, with that token's values zeroed.

    The looked-at positions are those that predict the steps, or all of the encoder's; exactly nothing changes at a
    position that gives the token no weight. Each :class:`Altered` goes to a fold of the block's own.

    Attributes:
        fold: makes the fold of one block of steps.
        distance: of the layer's clean outputs Float["query dim"] to altered ones Float["token query dim"]:
            Float["token query"].
        sites: in which attentions tokens are zeroed.
        layers: the decoder's layers that are replayed, all by default; the encoder's are replayed whole.
        heads: the decoder's query heads for which a token is zeroed, all by default.
    """

    fold: Callable[[], Fold] = field(kw_only=True)
    distance: Callable[[Tensor, Tensor], Tensor] = field(kw_only=True)
    sites: tuple[Site, ...] = ("decoder", "cross")
    layers: Choice = None
    heads: HeadChoice = None


class _Together:
    def __init__(self, requests: tuple[Request[Any], ...]) -> None:
        self.requests = requests

    def __await__(self) -> Generator[Any, Any, tuple[Any, ...]]:
        return (yield self.requests)


async def gather(*requests: Request[Any]) -> tuple[Any, ...]:
    """Await several requests at once, so that they share batches."""
    return await _Together(requests)
