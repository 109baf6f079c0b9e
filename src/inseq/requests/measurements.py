"""Requests: scores, predictions, gradients and the values of layers; and how they are awaited."""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from inseq.errors import ArgumentError
from inseq.requests.example import Example
from inseq.requests.predictions import Target
from inseq.requests.rules import Edit, Rescale
from inseq.requests.variants import Layer, Original, Placed, Variants

T = TypeVar("T")


def _unchanged(values: Tensor, steps: range) -> Tensor:
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
    *rest"], is summed over the batches. The sums of a block of steps go through ``read`` together with which steps they
    are; what that returns (a tensor or a tuple of tensors, each with a leading step axis) is joined over the blocks. Where
    the example is not granular, a last axis that is left beyond feature and step is folded by its L2 norm as it streams, so
    that no [step, feature, dim] tensor ever stands whole.

    With ``at``, gradients and values are those of layers, Float["step row feature layer width"], all from one backward;
    features that a layer does not run over have zeros. In a block, features that no step of it has read are missing.

    A step that is a span has the gradient of the sum. Where every prediction has to be run by itself, ``combine`` meets the
    gradients of one at a time, which is as good if it is ``additive``.

    With an ``edit``, the gradient passes backward by its rules, and no step score is recorded. ``Rescale`` gives multipliers
    of the difference from a ``reference``, embeddings that run beside every variant; the values are then the differences.

    ``held`` is how many numbers, of four bytes, ``combine`` keeps for each of the embeddings': memory is planned by it.
    """

    combine: Combine = total
    read: Callable[[Tensor, range], Any] = _unchanged
    at: tuple[Layer, ...] = ()
    edit: Edit | None = None
    reference: Float[Tensor, "feature dim"] | None = None
    additive: bool = True
    held: int = 1

    def __post_init__(self) -> None:
        if isinstance(self.edit, Rescale) is not (self.reference is not None):
            raise ArgumentError(f"a reference belongs to Rescale and to no other edit; got edit={self.edit!r}.")

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


class _Together:
    def __init__(self, requests: tuple[Request[Any], ...]) -> None:
        self.requests = requests

    def __await__(self) -> Generator[Any, Any, tuple[Any, ...]]:
        return (yield self.requests)


async def gather(*requests: Request[Any]) -> tuple[Any, ...]:
    """Await several requests at once, so that they share batches."""
    return await _Together(requests)
