"""Requests about what the model computes inside: attentions, their pieces, layers run again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from inseq.requests.measurements import Request

Site = Literal["encoder", "decoder", "cross"]
Choice = int | list[int] | tuple[int, int] | None
"""Layers or heads: one, some, a half-open (start, end) range, or all; negative ones count from the end."""
HeadChoice = Choice | Mapping[int, Choice]
"""Heads of all layers, or of each layer named; a layer that is not named keeps all."""


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
        return queries if queries.shape[-1] == n_keys else pad(queries, (0, n_keys - queries.shape[-1]))


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
