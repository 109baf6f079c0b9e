"""Tokens and examples: what is explained, and what it may be explained by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from inseq.text.tokens import Role, Token, joined


@runtime_checkable
class Vocabulary(Protocol):
    """What a method may ask of the model's vocabulary."""

    def embed(self, ids: Int[Tensor, " n"], role: Role) -> Float[Tensor, "n dim"]:
        """Embeddings in the units of the first layer."""

    def mean(self, role: Role) -> Float[Tensor, " dim"]:
        """The mean embedding of the vocabulary."""

    def size(self, role: Role) -> int:
        """How many embeddings there are."""

    def special_id(self, name: Literal["unk", "pad", "mask", "eos", "bos"]) -> int | None:
        """The id of a special token, where the tokenizer has one."""

    def special_piece(self, name: Literal["unk", "pad", "mask", "eos", "bos"]) -> str | None:
        """The piece of a special token, where the tokenizer has one."""

    def id_of(self, token: str) -> int | None:
        """The id of a token given by its piece or its text, where it is exactly one."""

    def ids_of(self, text: str, *, special: bool) -> list[int]:
        """Ids of a text, with or without the special tokens that the tokenizer adds."""


@dataclass(frozen=True, eq=False)
class Contrast:
    """Another output, and which of its tokens each step is compared with.

    Attributes:
        ids: the other token of each prediction.
        differs: at which predictions the model would write the other token after another context.
        example: the other output; its steps are the other tokens in order, each once.
        index: which step of ``example`` each prediction is compared with.
    """

    ids: Int[Tensor, " prediction"] = field(repr=False)
    differs: Bool[Tensor, " prediction"] = field(repr=False)
    example: Example = field(repr=False)
    index: Int[Tensor, " prediction"] = field(repr=False)

    def at(self, chosen: Int[Tensor, " chosen"]) -> Contrast:
        """The same for some of the predictions alone; the other output stays whole."""
        index = chosen.to(self.ids.device)
        return replace(self, ids=self.ids[index], differs=self.differs[index], index=self.index[index])


@dataclass(frozen=True, eq=False)
class Example:
    """One input and the generated tokens to explain.

    Each step is the prediction of one of these tokens, or of a span of them, explained at once by the sum of its target.

    Attributes:
        features: every token that may receive a score: source tokens first, then decoder tokens.
        written: the generated tokens whose predictions are explained.
        embeds: the features' embeddings in the units of the model's first layer.
        written_ids: ids of these tokens.
        at: for each, the decoder position that predicts it; ascending.
        n_source: how many of the features belong to the encoder.
        context: embeddings of decoder tokens that the model reads but that receive no score.
        vocabulary: where replacements are looked up.
        granular: whether axes beyond feature and step are kept, or folded as they stream.
        decoder_ids: ids of the decoder tokens that the model reads, scored or context.
        contrast: what the predictions are compared with.
        spans: for each step, the predictions that it is the sum of; both ends ascend. None where each is one prediction.
    """

    features: tuple[Token, ...]
    written: tuple[Token, ...]
    embeds: Float[Tensor, "feature dim"] = field(repr=False)
    written_ids: Int[Tensor, " prediction"] = field(repr=False)
    at: Int[Tensor, " prediction"] = field(repr=False)
    n_source: int
    context: Float[Tensor, "context dim"] = field(repr=False)
    vocabulary: Vocabulary = field(repr=False)
    granular: bool = True
    decoder_ids: Int[Tensor, " decoder"] | None = field(default=None, repr=False)
    contrast: Contrast | None = None
    spans: tuple[range, ...] | None = None

    @cached_property
    def steps(self) -> tuple[Token, ...]:
        """What is explained."""
        if self.spans is None:
            return self.written
        return tuple(joined(self.written[span.start : span.stop]) for span in self.spans)

    @property
    def parts(self) -> Sequence[range]:
        """For each step, the predictions that it is the sum of."""
        return [range(i, i + 1) for i in range(len(self.written))] if self.spans is None else self.spans

    def at_steps(self, chosen: Sequence[int]) -> Example:
        """The same input with some of its steps alone."""
        parts = [self.parts[i] for i in chosen]
        kept = sorted({i for part in parts for i in part})
        spans = None
        if self.spans is not None:
            spans = tuple(range(first := kept.index(part.start), first + len(part)) for part in parts)
        index = torch.tensor(kept, dtype=torch.long, device=self.at.device)
        return replace(
            self,
            written=tuple(self.written[i] for i in kept),
            written_ids=self.written_ids[index],
            at=self.at[index],
            contrast=None if self.contrast is None else self.contrast.at(index),
            spans=spans,
        )

    def apart(self) -> Example:
        """The same input with a step for every prediction."""
        return self if self.spans is None else replace(self, spans=None)

    def by_step(self, values: Tensor, dim: int, merge: Callable[[Tensor, int], Tensor] = torch.sum) -> Tensor:
        """Values of predictions along one axis, merged to those of steps."""
        if self.spans is None:
            return values
        return torch.stack([merge(values.narrow(dim, span.start, len(span)), dim) for span in self.spans], dim)

    @property
    def n_decoder(self) -> int:
        """Decoder tokens the model reads: scored or context."""
        return len(self.features) - self.n_source + len(self.context)

    @property
    def sides(self) -> list[tuple[Role, slice]]:
        """The features of the encoder and those of the decoder, where there are any."""
        cuts: list[tuple[Role, slice]] = [
            ("source", slice(0, self.n_source)),
            ("generated", slice(self.n_source, len(self.features))),
        ]
        return [(role, side) for role, side in cuts if side.start < side.stop]

    @property
    def visible(self) -> list[int]:
        """For each step, how many leading features the model has read when it predicts the step, or the last of its span."""
        if len(self.context):
            return [self.n_source] * len(self.parts)
        positions = self.at.tolist()
        return [self.n_source + positions[part.stop - 1] + 1 for part in self.parts]

    @property
    def seen(self) -> Bool[Tensor, "feature step"]:
        """Which features the model has read when it predicts a step."""
        return torch.arange(len(self.features))[:, None] < torch.tensor(self.visible)

    @property
    def ids(self) -> Int[Tensor, " feature"]:
        """Ids of the features."""
        return torch.tensor([token.id for token in self.features], device=self.embeds.device)
