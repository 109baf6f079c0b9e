"""What a method may ask of the model. A method awaits requests; the scheduler answers them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Generic, Literal, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from inseq.models.backward import Edit as Edit
from inseq.models.backward import Relevance as Relevance
from inseq.models.backward import Rescale as Rescale
from inseq.text.example import Example

T = TypeVar("T")
Site = Literal["encoder", "decoder", "cross"]
ContrastKind = Literal["none", "token", "differing", "own"]
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
        contrast: the predictions and tokens these are compared with, one for each, where a contrast was given.
    """

    logits: Float[Tensor, "n vocab"]
    ids: Int[Tensor, " n"]
    contrast: Prediction | None = None


StepFunction = Callable[[Prediction], Float[Tensor, " n"]]


@dataclass(frozen=True)
class StepForward:
    """One forward of the prefixes of one step, a row for each variant; what a stepwise function sees.

    Attributes:
        output: what the model returned, predictions of all positions included; the step's is the last.
        arguments: what the model was called with: embeddings and masks.
        ids: the written token of each row.
        source_ids: ids of the encoder's tokens, where there is an encoder; padded on the right.
        decoder_ids: ids of the decoder's prefix.
        is_target: whether the function is attributed, and not recorded.
    """

    output: Any
    arguments: dict[str, Any]
    ids: Int[Tensor, " row"]
    source_ids: Int[Tensor, "row source"] | None
    decoder_ids: Int[Tensor, "row decoder"]
    is_target: bool


@dataclass(frozen=True)
class Target:
    """A step function, and how the engine is to run it.

    Attributes:
        function: of a :class:`Prediction`; of a :class:`StepForward` where ``stepwise``.
        name: what errors call it.
        contrast: which predictions the contrast's tokens are looked up in: none, as the function needs no contrast
            (``"none"``); those they are compared with (``"token"``); those under their own context, which are constant, at
            the steps where that context differs (``"differing"``); or the latter at every step (``"own"``).
        passes: over how many forwards with dropout the value is averaged; 0 for one forward without.
        seed: of those passes.
        stepwise: whether every step is run by itself, with a forward of the whole model that ends at its prefix.
        axes: how many axes its values have beyond that of the predictions; a method's own function may have some.
    """

    function: Callable[[Any], Any]
    name: str = "custom"
    contrast: ContrastKind = "differing"
    passes: int = 0
    seed: int = 0
    stepwise: bool = False
    axes: int = 0

    @staticmethod
    def of(function: StepFunction | Target) -> Target:
        """A plain function of a prediction as a target."""
        return function if isinstance(function, Target) else Target(function, getattr(function, "__name__", "custom"))


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


def _unchanged(values: Tensor) -> Tensor:
    return values


Combine = Callable[[Float[Tensor, "step row *rest"], Float[Tensor, "row *rest"], range], Float[Tensor, "step *rest"]]
"""What becomes of the gradients of some variants: the gradients, the values they were taken at, and which variants."""


def total(gradient: Tensor, values: Tensor, variants: range) -> Tensor:
    """The sum over the variants."""
    return gradient.sum(1)


def weighted(weights: Float[Tensor, " variant"]) -> Combine:
    """The sum over the variants, each with its weight."""

    def combine(gradient: Tensor, values: Tensor, variants: range) -> Tensor:
        chosen = weights[variants.start : variants.stop].to(gradient)
        return torch.einsum("sr...,r->s...", gradient, chosen)

    return combine


@dataclass(frozen=True, eq=False)
class Request(Generic[T]):
    """A measurement of the model on variants of one example."""

    example: Example
    variants: Variants = field(default_factory=Original)

    @property
    def company(self) -> Hashable:
        """What requests must have in common to share a batch."""
        return type(self), self.variants.layer if isinstance(self.variants, Placed) else None

    def __await__(self) -> Generator[Any, Any, T]:
        (answer,) = yield (self,)
        return answer

    @property
    def kind(self) -> tuple[Any, ...]:
        """Requests of one kind share batches."""
        return (type(self),)


@dataclass(frozen=True, eq=False)
class Score(Request[Tensor]):
    """The target's value for every variant and step: Float["variant step"].

    A method that needs a function of its own gives it as ``target``; where that returns further axes, the answer has them
    too: Float["variant step *extra"].
    """

    target: Target | None = None

    @property
    def company(self) -> Hashable:
        return super().company, self.target is None


@dataclass(frozen=True, eq=False)
class Logits(Request[Tensor]):
    """The model's predictions at the steps of the example itself: Float["step vocab"], in the model's own type."""


@dataclass(frozen=True, eq=False)
class Gradient(Request[Any]):
    """The target's gradient to the features' embeddings, or to the values of layers.

    The gradients of a batch of variants, Float["step row feature dim"], go through ``combine`` together with the values
    they were taken at, Float["row feature dim"], and which variants they belong to; what it returns, Float["step feature
    *rest"], is summed over the batches. The sums of a block of steps go through ``read``; what that returns (a tensor or a
    tuple of tensors, each with a leading step axis) is joined over the blocks. Where the example is not granular, a last
    axis that is left beyond feature and step is folded by its L2 norm as it streams, so that no [step, feature, dim]
    tensor ever stands whole.

    With ``at``, gradients and values are those of layers, Float["step row feature layer width"], all from one backward;
    features that a layer does not run over have zeros. In a block, features that no step of it has read are missing.

    With an ``edit``, the gradient passes backward by its rules, and no step score is recorded. ``Rescale`` gives multipliers
    of the difference from a ``reference``, embeddings that run beside every variant; the values are then the differences.
    """

    combine: Combine = total
    read: Callable[[Tensor], Any] = _unchanged
    at: tuple[Layer, ...] = ()
    edit: Edit | None = None
    reference: Float[Tensor, "feature dim"] | None = None

    @property
    def company(self) -> Hashable:
        return super().company, self.at, self.edit


@dataclass(frozen=True, eq=False)
class Activations(Request[Tensor]):
    """The values of layers: Float["variant feature layer width"]; zeros for features that a layer does not run over."""

    at: tuple[Layer, ...] = ()

    @property
    def company(self) -> Hashable:
        return super().company, self.at


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
