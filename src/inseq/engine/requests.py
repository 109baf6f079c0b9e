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
ContrastKind = Literal["none", "token", "differing", "own"]


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
    """

    function: Callable[[Any], Any]
    name: str = "custom"
    contrast: ContrastKind = "differing"
    passes: int = 0
    seed: int = 0
    stepwise: bool = False

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
class Logits(Request[Tensor]):
    """The model's predictions at the steps of the example itself: Float["step vocab"], in the model's own type."""


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
