"""The only code that knows an architecture: how embeddings are fed, where predictions come out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from inseq.errors import UnsupportedModelError
from inseq.models.edits import attention_function, attention_implementation, own_attention, rows_to_head
from inseq.text.encode import Encoder
from inseq.text.example import Example, Role

Site = Literal["encoder", "decoder", "cross"]
AttentionSink = Callable[[Site, int, Tensor], None]


@dataclass(frozen=True)
class Inputs:
    """A batch of rows in flight, padded on the right.

    Attributes:
        source: encoder embeddings in first-layer units, or None for a decoder-only model.
        source_keep: which source positions are real.
        decoder: decoder embeddings in first-layer units.
        at: the decoder positions whose predictions are wanted.
    """

    source: Float[Tensor, "row source dim"] | None
    source_keep: Bool[Tensor, "row source"] | None
    decoder: Float[Tensor, "row decoder dim"]
    at: Int[Tensor, "row step"]


@dataclass(frozen=True)
class Reading:
    """What one forward gives.

    Attributes:
        hidden: what enters the vocabulary matrix, at all positions; differentiable to the inputs.
        chosen: the same at ``Inputs.at``, cut from the graph; the logits are differentiable to it.
        logits: predictions at ``Inputs.at``.
    """

    hidden: Float[Tensor, "row decoder hidden"]
    chosen: Float[Tensor, "row step hidden"]
    logits: Float[Tensor, "row step vocab"]


@dataclass
class Table:
    """An embedding table: ``unit`` takes its output to first-layer units, ``feed`` takes those to what the model expects."""

    module: nn.Module
    unit: float = 1.0
    feed: float = 1.0

    @property
    def weight(self) -> Float[Tensor, "vocab dim"]:
        weight = self.module.weight
        assert isinstance(weight, Tensor)
        return weight

    @property
    def device(self) -> torch.device:
        return self.weight.device

    def embed(self, ids: Tensor) -> Tensor:
        with torch.inference_mode(False), torch.no_grad():
            return self.module(ids.to(self.device)) * self.unit


class Adapter(ABC):
    """A loaded model together with its tokenizer, asked with embeddings.

    Args:
        model: a transformers model for generation.
        encoder: its tokenizer.
    """

    def __init__(self, model: Any, encoder: Encoder) -> None:
        self.model = model
        self.encoder = encoder
        self.causal = True
        self.attention_sites: dict[int, tuple[Site, int]] | None = None
        self.attention_outputs = False
        head = model.get_output_embeddings()
        if head is None:
            raise UnsupportedModelError(
                f"{type(model).__name__} has no output embeddings, so there is no next-token prediction to explain. "
                "Load it with a language-model head (AutoModelForCausalLM or AutoModelForSeq2SeqLM)."
            )
        self.head: nn.Module = head

    @property
    @abstractmethod
    def tables(self) -> dict[str, Table]:
        """The embedding tables by side: ``"decoder"``, and ``"source"`` where there is an encoder."""

    @abstractmethod
    def arguments(self, inputs: Inputs) -> dict[str, Any]:
        """Keyword arguments of the model's forward for a batch."""

    @abstractmethod
    def id_arguments(self, source: Tensor, decoder: Tensor) -> dict[str, Any]:
        """Keyword arguments of the model's forward for plain ids: what the model itself would be called with."""

    @property
    def device(self) -> torch.device:
        return self.tables["decoder"].device

    @property
    def vocabulary_size(self) -> int:
        weight = getattr(self.head, "weight", None)
        return len(weight) if isinstance(weight, Tensor) else int(self.model.config.vocab_size)

    @property
    def n_weights(self) -> int:
        """How many weights there are beside embeddings and head."""
        tables = {id(table.weight) for table in self.tables.values()} | {id(getattr(self.head, "weight", None))}
        return sum(p.numel() for p in self.model.parameters() if id(p) not in tables)

    @property
    def max_positions(self) -> int | None:
        """The longest sequence the model has positions for; None where positions are relative."""
        config = self.model.config
        if hasattr(config, "relative_attention_num_buckets"):
            return None
        limit = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
        return int(limit) if limit else None

    def axis_size(self, axis: str) -> int:
        """How long an axis of the model is: ``dim``, ``layer`` or ``head`` of the decoder."""
        config = self.model.config
        if axis == "dim":
            return self.tables["decoder"].weight.shape[1]
        names = {
            "layer": ("decoder_layers", "num_decoder_layers", "num_hidden_layers"),
            "head": ("decoder_attention_heads", "num_attention_heads"),
        }
        return int(next(size for name in names[axis] if (size := getattr(config, name, None)) is not None))

    def read(self, inputs: Inputs, *, differentiable: bool = False, attention: AttentionSink | None = None) -> Reading:
        """Run one forward over a batch; the vocabulary matrix sees the wanted positions alone.

        Args:
            inputs: the batch.
            differentiable: whether a graph is kept, from the embeddings to the hidden states and from those to the logits.
            attention: takes the attention weights of every layer as they come: site, layer, weights [row head query key].

        Raises:
            UnsupportedModelError: if attention weights are asked of an architecture that does not give them.
        """
        with (
            self._attention_to(attention) as more,
            rows_to_head(self.head, inputs.at, differentiable) as caught,
            torch.set_grad_enabled(differentiable),
        ):
            outputs = self.model(**self.arguments(inputs), use_cache=False, return_dict=True, **more)
        if not caught:
            raise UnsupportedModelError(f"{type(self.model).__name__} does not call its output embeddings in forward.")
        if attention is not None and more:
            _pour(outputs, attention)
        return Reading(caught[0], caught[1], outputs.logits)

    @contextmanager
    def _attention_to(self, sink: AttentionSink | None) -> Iterator[dict[str, Any]]:
        if sink is None:
            yield {}
        elif (sites := self.attention_sites) is not None:

            def capture(module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
                output, weights = own_attention(module, *args, **kwargs)
                sink(*sites[id(module)], weights)
                return output, weights

            with attention_function(self.model, capture):
                yield {}
        elif self.attention_outputs:
            with attention_implementation(self.model, "eager"):
                yield {"output_attentions": True}
        else:
            raise UnsupportedModelError(
                f"{type(self.model).__name__} does not give its attention weights (implementation "
                f"{self.model.config._attn_implementation!r}): it neither routes them through transformers' attention "
                "interface nor returns them. Load it with attn_implementation='eager', or use 'saliency', which needs none."
            )

    @torch.inference_mode(False)
    def example(
        self,
        source: Sequence[int],
        target: Sequence[int],
        first: int,
        steps: Sequence[int],
        *,
        attribute_target: bool = False,
        granular: bool = True,
    ) -> Example:
        """Build the example of one input.

        Args:
            source: ids of the encoder's input; empty for a decoder-only model.
            target: ids of the decoder's tokens: prompt or start, then what was generated.
            first: index in ``target`` of the first generated token.
            steps: indices in ``target`` of the tokens to explain, ascending.
            attribute_target: whether the decoder's tokens receive scores beside an encoder's.
            granular: see :class:`~inseq.text.example.Example`.
        """
        roles: list[Role] = ["source"] * len(source)
        read = target[: max(steps)]
        sources = self.encoder.tokens(source, roles)
        started: Role = "generated" if source else "prompt"
        targets = self.encoder.tokens(target, [started if i < first else "generated" for i in range(len(target))])
        decoder = self.tables["decoder"].embed(torch.tensor(read))
        scored = attribute_target or not source
        embeds, context = decoder, decoder[:0]
        if source:
            encoded = self.tables["source"].embed(torch.tensor(source)).to(decoder.device)
            embeds, context = (torch.cat([encoded, decoder]), context) if scored else (encoded, decoder)
        return Example(
            features=sources + (targets[: len(read)] if scored else ()),
            steps=tuple(targets[i] for i in steps),
            embeds=embeds,
            step_ids=torch.tensor([target[i] for i in steps], device=decoder.device),
            at=torch.tensor([i - 1 for i in steps], device=decoder.device),
            n_source=len(source),
            context=context,
            vocabulary=self,
            granular=granular,
        )

    def embed(self, ids: Int[Tensor, " n"], role: Role) -> Float[Tensor, "n dim"]:
        """Embeddings in the units of the first layer."""
        return self.tables["source" if role == "source" else "decoder"].embed(ids)

    def mean(self, role: Role) -> Float[Tensor, " dim"]:
        """The mean embedding of the vocabulary."""
        table = self.tables["source" if role == "source" else "decoder"]
        return table.embed(torch.arange(len(table.weight))).mean(0)

    def special_id(self, name: str) -> int | None:
        """The id of the tokenizer's special token of that name."""
        return self.encoder.special_id(name)

    def id_of(self, token: str) -> int | None:
        """The id of a token given by its piece or its text."""
        return self.encoder.id_of(token)


class DecoderOnly(Adapter):
    """GPT-like models: one sequence, prompt and continuation."""

    @property
    def tables(self) -> dict[str, Table]:
        return {"decoder": self._decoder}

    def __init__(self, model: Any, encoder: Encoder) -> None:
        super().__init__(model, encoder)
        self._decoder = _table(model, model)

    def arguments(self, inputs: Inputs) -> dict[str, Any]:
        return {"inputs_embeds": inputs.decoder * self._decoder.feed}

    def id_arguments(self, source: Tensor, decoder: Tensor) -> dict[str, Any]:
        return {"input_ids": decoder}


class EncoderDecoder(Adapter):
    """Translation-like models: an encoder's source and a decoder's target, possibly with tables of their own."""

    def __init__(self, model: Any, encoder: Encoder) -> None:
        super().__init__(model, encoder)
        self._source = _table(model.get_encoder(), model)
        self._decoder = _table(model.get_decoder(), model)

    @property
    def tables(self) -> dict[str, Table]:
        return {"source": self._source, "decoder": self._decoder}

    def arguments(self, inputs: Inputs) -> dict[str, Any]:
        assert inputs.source is not None
        assert inputs.source_keep is not None
        return {
            "inputs_embeds": inputs.source * self._source.feed,
            "attention_mask": inputs.source_keep.long(),
            "decoder_inputs_embeds": inputs.decoder * self._decoder.feed,
        }

    def id_arguments(self, source: Tensor, decoder: Tensor) -> dict[str, Any]:
        return {"input_ids": source, "decoder_input_ids": decoder}


def _pour(outputs: Any, sink: AttentionSink) -> None:
    """Hand on the attention weights that a forward returned, in the order in which they were computed."""
    for layer, weights in enumerate(getattr(outputs, "encoder_attentions", None) or ()):
        sink("encoder", layer, weights)
    own = getattr(outputs, "attentions", None) or getattr(outputs, "decoder_attentions", None) or ()
    cross = getattr(outputs, "cross_attentions", None) or ()
    for layer, (weights, read) in enumerate(zip_longest(own, cross)):
        sink("decoder", layer, weights)
        if read is not None:
            sink("cross", layer, read)


def _table(stack: Any, model: Any) -> Table:
    try:
        module = stack.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        module = model.get_input_embeddings()
    inner = getattr(stack, "embed_scale", None)
    if stack is model:
        inner = next((s for name in ("model", "transformer", "decoder") if (s := _scale_of(model, name)) is not None), None)
    scales_itself = hasattr(module, "embed_scale")
    return Table(module, unit=1.0 if inner is None or scales_itself else float(inner))


def _scale_of(model: Any, name: str) -> float | None:
    part = getattr(model, name, None)
    return getattr(part, "embed_scale", None)
