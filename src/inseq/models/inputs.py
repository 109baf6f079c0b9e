"""A batch in flight, and what one forward gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Bool, Float, Int
from torch import Tensor

from inseq.models.modules import Tap as Tap

Site = Literal["encoder", "decoder", "cross"]


@dataclass(frozen=True)
class Inputs:
    """A batch of rows in flight, padded on the right.

    Attributes:
        source: encoder embeddings in first-layer units, or None for a decoder-only model.
        source_keep: which source positions are real, and may be attended to.
        decoder: decoder embeddings in first-layer units.
        at: the decoder positions whose predictions are wanted.
        decoder_keep: which decoder positions may be attended to, remembered ones included; None for all.
        memory: what another forward left (:attr:`Reading.memory`): the encoder's output, which then stands for ``source``,
            or keys and values of the positions before the first of ``decoder``.
    """

    source: Float[Tensor, "row source dim"] | None
    source_keep: Bool[Tensor, "row source"] | None
    decoder: Float[Tensor, "row decoder dim"]
    at: Int[Tensor, "row step"]
    decoder_keep: Bool[Tensor, "row position"] | None = None
    memory: tuple[Tensor, ...] = ()

    @property
    def past(self) -> int:
        """Return the number of decoder positions whose keys and values are cached."""
        return self.memory[0].shape[2] if self.memory and self.source_keep is None else 0


@dataclass(frozen=True)
class Reading:
    """The results of one forward.

    Attributes:
        hidden: what enters the vocabulary matrix, at all positions; differentiable to the inputs.
        chosen: the same at ``Inputs.at``, cut from the graph; the logits are differentiable to it.
        logits: predictions at ``Inputs.at``; fewer where fewer were asked for.
        memory: what later forwards can go on from, where it was to be remembered: the encoder's output, Float["row source
            hidden"], or keys and values of every layer, alternately, Float["row head position dim"].
    """

    hidden: Float[Tensor, "row decoder hidden"]
    chosen: Float[Tensor, "row step hidden"]
    logits: Float[Tensor, "row predicted vocab"]
    memory: tuple[Tensor, ...] = ()
