"""Batches under the import path of Inseq 0.7.1: what step functions that were written for it give to the model.

``model.get_forward_output`` takes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from inseq.compat.text_model import BatchEncoding as BatchEncoding


@dataclass(frozen=True)
class BatchEmbedding:
    """Embeddings of a batch, and of its baseline where there is one: [row, position, dim]."""

    input_embeds: Tensor | None = None
    baseline_embeds: Tensor | None = None


@dataclass(frozen=True)
class Batch:
    """One side of a batch: ids and embeddings of the same positions.

    Attributes:
        encoding: ids and what goes with them.
        embedding: embeddings, used in place of the ids where there are some.
    """

    encoding: BatchEncoding
    embedding: BatchEmbedding = BatchEmbedding()

    @property
    def input_ids(self) -> Tensor:
        return self.encoding.input_ids

    @property
    def attention_mask(self) -> Tensor:
        return self.encoding.attention_mask

    @property
    def input_tokens(self) -> list[list[str]]:
        return self.encoding.input_tokens

    @property
    def input_embeds(self) -> Tensor | None:
        return self.embedding.input_embeds

    def __getitem__(self, positions: slice) -> Any:
        """The same positions of every row."""
        embeds = [e if e is None else e[:, positions] for e in vars(self.embedding).values()]
        return type(self)(self.encoding[positions], BatchEmbedding(*embeds))


class DecoderOnlyBatch(Batch):
    """The one side of a decoder-only model."""


@dataclass(frozen=True)
class EncoderDecoderBatch:
    """Both sides of an encoder-decoder; slices are of the target."""

    sources: Batch
    targets: Batch

    def __getitem__(self, positions: slice) -> EncoderDecoderBatch:
        return EncoderDecoderBatch(self.sources, self.targets[positions])
