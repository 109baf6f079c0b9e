"""What step functions see, and what is asked about: targets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from jaxtyping import Float, Int
from torch import Tensor

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

    @property
    def written(self) -> Float[Tensor, " n"]:
        """The written tokens' logits."""
        return self.logits.gather(-1, self.ids[:, None])[:, 0]

    @property
    def normalizer(self) -> Float[Tensor, " n"]:
        """The logarithm of the sum of the exponentiated logits: what they lack to be logarithms of probabilities."""
        return self.logits.logsumexp(-1)

    def top(self, k: int) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
        """The ``k`` largest logits of each prediction in falling order, and the tokens they belong to."""
        found = self.logits.topk(k)
        return found.values, found.indices


@dataclass(frozen=True, eq=False)
class WrittenLogits:
    """Predictions of which no logits stand but the written tokens' own; the normalizer is computed where it is asked for.

    Attributes:
        written: the written tokens' logits.
        normalize: computes the normalizer.
        ids: the written tokens.
        top: see :meth:`Prediction.top`.
        contrast: what these are compared with, where a contrast was given.
    """

    written: Float[Tensor, " n"]
    normalize: Callable[[], Float[Tensor, " n"]]
    ids: Int[Tensor, " n"]
    top: Callable[[int], tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]]
    contrast: WrittenLogits | None = None

    @property
    def normalizer(self) -> Float[Tensor, " n"]:
        """See :attr:`Prediction.normalizer`."""
        return self.normalize()


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
        of_written: whether the function needs no more than :class:`WrittenLogits` has, so that no row of logits is made.
    """

    function: Callable[[Any], Any]
    name: str = "custom"
    contrast: ContrastKind = "differing"
    passes: int = 0
    seed: int = 0
    stepwise: bool = False
    axes: int = 0
    of_written: bool = False

    @staticmethod
    def of(function: StepFunction | Target) -> Target:
        """A plain function of a prediction as a target."""
        return function if isinstance(function, Target) else Target(function, getattr(function, "__name__", "custom"))
