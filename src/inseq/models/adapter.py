"""The only code that knows an architecture: how embeddings are fed, where predictions come out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from itertools import zip_longest
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.modeling_outputs import BaseModelOutput

from inseq.errors import UnsupportedModelError
from inseq.models import cache as memories
from inseq.models.attention import attention_function, attention_implementation, own_attention
from inseq.models.embeddings import EmbeddingTable, table_of
from inseq.models.facts import facts_of
from inseq.models.guest import UndoList
from inseq.models.inputs import Inputs, Reading, Site
from inseq.models.modules import Tap as Tap
from inseq.models.modules import find_taps, tapped
from inseq.requests.example import Example
from inseq.text.encode import Encoder
from inseq.text.tokens import Role

AttentionSink = Callable[[Site, int, Tensor], None]


class Adapter(ABC):
    """A loaded model together with its tokenizer, asked with embeddings.

    Args:
        model: a transformers model for generation.
        encoder: its tokenizer.
    """

    def __init__(self, model: Any, encoder: Encoder) -> None:
        self.model = model
        self.encoder = encoder
        self.facts = facts_of(model)
        head = model.get_output_embeddings()
        if head is None:
            raise UnsupportedModelError(
                f"{type(model).__name__} has no output embeddings, so there is no next-token prediction to explain. "
                "Load it with a language-model head (AutoModelForCausalLM or AutoModelForSeq2SeqLM)."
            )
        self.head: nn.Module = head

    @property
    @abstractmethod
    def tables(self) -> dict[str, EmbeddingTable]:
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

    @cached_property
    def n_weights(self) -> int:
        """Return the number of weights without embeddings and head."""
        tables = {id(table.weight) for table in self.tables.values()} | {id(getattr(self.head, "weight", None))}
        return sum(p.numel() for p in self.model.parameters() if id(p) not in tables)

    def config_of(self, side: str) -> Any:
        """The configuration of the decoder or of the encoder: a part of the model's own where there are parts."""
        config = self.model.config
        parts = ("encoder",) if side == "source" else ("decoder", "text_config")
        return next((p for name in parts if isinstance(p := getattr(config, name, None), PreTrainedConfig)), config)

    def max_positions(self, side: str = "decoder") -> int | None:
        """The longest sequence the model has positions for; None where positions are relative."""
        config = self.config_of(side)
        if hasattr(config, "relative_attention_num_buckets"):
            return None
        stack = "encoder" if side == "source" else "decoder"
        names = ("max_position_embeddings", "n_positions", f"max_{stack}_position_embeddings")
        limit = next((int(size) for name in names if (size := getattr(config, name, None))), None)
        return limit if limit is None else limit - self._positions_before_first(limit)

    def _positions_before_first(self, limit: int) -> int:
        """Rows of a position table that no token has: RoBERTa and its kin count from the padding index on."""
        embeds = [module for module in self.model.modules() if isinstance(module, nn.Embedding)]
        tables = {id(table.module) for table in self.tables.values()}
        counted = [e for e in embeds if id(e) not in tables and e.num_embeddings == limit and e.padding_idx is not None]
        return counted[0].padding_idx + 1 if counted and counted[0].padding_idx is not None else 0

    def axis_size(self, axis: str) -> int:
        """Return the size of an axis of the decoder: ``dim``, ``layer`` or ``head``."""
        config = self.config_of("decoder")
        if axis == "dim":
            return self.tables["decoder"].weight.shape[1]
        names = {
            "layer": ("decoder_layers", "num_decoder_layers", "num_hidden_layers"),
            "head": ("decoder_attention_heads", "num_decoder_attention_heads", "num_attention_heads"),
        }
        return int(next(size for name in names[axis] if (size := getattr(config, name, None)) is not None))

    def read(
        self,
        inputs: Inputs,
        *,
        differentiable: bool = False,
        attention: AttentionSink | None = None,
        remember: bool = False,
        n_predicted: int | None = None,
    ) -> Reading:
        """Run one forward over a batch; the vocabulary matrix sees the wanted positions alone.

        Args:
            inputs: the batch.
            differentiable: whether a graph is kept, from the embeddings to the hidden states and from those to the logits.
            attention: takes the attention weights of every layer as they come: site, layer, weights [row head query key].
            remember: whether to keep what later forwards can go on from.
            n_predicted: for how many of the wanted positions predictions are made; by default for all.

        Raises:
            UnsupportedModelError: if attention weights are asked of an architecture that does not give them.
        """
        with (
            self._attention_to(attention) as more,
            rows_to_head(self.head, inputs.at, differentiable, n_predicted) as caught,
            torch.set_grad_enabled(differentiable),
        ):
            cache: Any = memories.empty() if remember and inputs.source is None else None
            if cache is not None or (inputs.memory and inputs.source_keep is None):
                cache = memories.beginning(inputs.memory) if cache is None else cache
                more = more | {self.facts.cache_name: cache, "use_cache": True}
            outputs = self.model(**{"use_cache": False, "return_dict": True} | self.arguments(inputs) | more)
        if not caught:
            raise UnsupportedModelError(f"{type(self.model).__name__} does not call its output embeddings in forward.")
        if attention is not None and more:
            _pour(outputs, attention)
        memory: tuple[Tensor, ...] = ()
        if remember:
            memory = memories.kept(cache) if inputs.source is None else (outputs.encoder_last_hidden_state,)
        return Reading(caught[0], caught[1], outputs.logits, memory)

    def taps(self, layers: Sequence[Any]) -> list[Tap]:
        """Find the modules of layers.

        Raises:
            UnknownNameError: for a name the model does not have.
            ArgumentError: for a module that is not part of the model.
            UnsupportedModelError: for a model whose layers see later tokens.
        """
        if layers and not self.facts.causal:
            raise UnsupportedModelError(
                f"{type(self.model).__name__} lets later tokens change earlier predictions, so its layers have other values "
                "at every step. Use 'integrated_gradients' or 'occlusion', which need no layer."
            )
        encoder = self.model.get_encoder() if "source" in self.tables else None
        return find_taps(self.model, layers, encoder, self.head, [table.module for table in self.tables.values()])

    def tapped(
        self, taps: Sequence[Tap], placed: Tensor | None = None, found: list[Tensor] | None = None
    ) -> AbstractContextManager[list[Tensor]]:
        """Look at the values of modules, and exchange those of the first; see :func:`~inseq.models.modules.tapped`."""
        return tapped([(tap.module, tap.value) for tap in taps], placed, found)

    @contextmanager
    def _attention_to(self, sink: AttentionSink | None) -> Iterator[dict[str, Any]]:
        if sink is None:
            yield {}
        elif (sites := self.facts.attention_sites) is not None:

            def capture(module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
                output, weights = own_attention(module, *args, **kwargs)
                sink(*sites[id(module)], weights)
                return output, weights

            with attention_function(self.model, capture):
                yield {}
        elif self.facts.attention_outputs:
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
        spans: Sequence[tuple[int, int]] | None = None,
    ) -> Example:
        """Build the example of one input.

        Args:
            source: ids of the encoder's input; empty for a decoder-only model.
            target: ids of the decoder's tokens: prompt or start, then what was generated.
            first: index in ``target`` of the first generated token.
            steps: indices in ``target`` of the tokens to explain, ascending.
            attribute_target: whether the decoder's tokens receive scores beside an encoder's.
            granular: see :class:`~inseq.requests.example.Example`.
            spans: half-open spans of these tokens that are explained at once, all in ``steps``.
        """
        at = list(steps)
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
            written=tuple(targets[i] for i in steps),
            embeds=embeds,
            written_ids=torch.tensor([target[i] for i in steps], device=decoder.device),
            at=torch.tensor([i - 1 for i in steps], device=decoder.device),
            n_source=len(source),
            context=context,
            vocabulary=self,
            granular=granular,
            decoder_ids=torch.tensor(read, device=decoder.device),
            spans=None if spans is None else tuple(range(at.index(i), at.index(j - 1) + 1) for i, j in spans),
        )

    def embed(self, ids: Int[Tensor, " n"], role: Role) -> Float[Tensor, "n dim"]:
        """Embeddings in the units of the first layer."""
        return self.tables["source" if role == "source" else "decoder"].embed(ids)

    def mean(self, role: Role) -> Float[Tensor, " dim"]:
        """The mean embedding of the vocabulary."""
        return self.embed(torch.arange(self.size(role)), role).mean(0)

    def size(self, role: Role) -> int:
        """Return the number of embeddings."""
        return len(self.tables["source" if role == "source" else "decoder"].weight)

    def special_id(self, name: str) -> int | None:
        """The id of the tokenizer's special token of that name."""
        return self.encoder.special_id(name)

    def special_piece(self, name: str) -> str | None:
        """The piece of the tokenizer's special token of that name."""
        return getattr(self.encoder.tokenizer, f"{name}_token", None)

    def id_of(self, token: str) -> int | None:
        """The id of a token given by its piece or its text."""
        return self.encoder.id_of(token)

    def ids_of(self, text: str, *, special: bool) -> list[int]:
        """Ids of a text, with or without the special tokens that the tokenizer adds."""
        return list(self.encoder.tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"])


class DecoderOnly(Adapter):
    """GPT-like models: one sequence, prompt and continuation."""

    @property
    def tables(self) -> dict[str, EmbeddingTable]:
        return {"decoder": self._decoder}

    def __init__(self, model: Any, encoder: Encoder) -> None:
        super().__init__(model, encoder)
        self._decoder = table_of(model, model)

    def arguments(self, inputs: Inputs) -> dict[str, Any]:
        arguments: dict[str, Any] = {"inputs_embeds": inputs.decoder * self._decoder.feed}
        if inputs.decoder_keep is not None:
            arguments["attention_mask"] = inputs.decoder_keep.long()
            if self.facts.explicit_positions:
                positions = torch.arange(inputs.past, inputs.decoder_keep.shape[1], device=inputs.decoder.device)
                arguments["position_ids"] = positions.expand(len(inputs.decoder), -1)
        return arguments

    def id_arguments(self, source: Tensor, decoder: Tensor) -> dict[str, Any]:
        return {"input_ids": decoder}


class EncoderDecoder(Adapter):
    """Translation-like models: an encoder's source and a decoder's target, possibly with tables of their own."""

    def __init__(self, model: Any, encoder: Encoder) -> None:
        super().__init__(model, encoder)
        self._source = table_of(model.get_encoder(), model)
        self._decoder = table_of(model.get_decoder(), model)

    @property
    def tables(self) -> dict[str, EmbeddingTable]:
        return {"source": self._source, "decoder": self._decoder}

    def arguments(self, inputs: Inputs) -> dict[str, Any]:
        assert inputs.source_keep is not None
        arguments: dict[str, Any] = {
            "attention_mask": inputs.source_keep.long(),
            "decoder_inputs_embeds": inputs.decoder * self._decoder.feed,
        }
        if inputs.source is None:
            arguments["encoder_outputs"] = BaseModelOutput(last_hidden_state=inputs.memory[0])
        else:
            arguments["inputs_embeds"] = inputs.source * self._source.feed
        if inputs.decoder_keep is not None:
            arguments["decoder_attention_mask"] = inputs.decoder_keep.long()
        return arguments

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


@contextmanager
def rows_to_head(head: nn.Module, at: Tensor, differentiable: bool, n_predicted: int | None = None) -> Iterator[list[Tensor]]:
    """Let the vocabulary matrix see only the positions ``at`` of each row, or the first ``n_predicted`` of them.

    Yields a list that holds, after the forward, the hidden states of all positions (part of the graph) and the selected
    ones (cut from it, so that one small backward through the head serves all steps).
    """
    caught: list[Tensor] = []

    def select(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden = args[0]
        if hidden.ndim != 3:
            raise UnsupportedModelError(
                f"{type(head).__name__}, the output embeddings, gets hidden states of shape {tuple(hidden.shape)}; expected "
                "(row, position, dim): the model predicts more than the next token at each position, so no one prediction "
                "can be explained. Use a model with one next-token prediction."
            )
        index = at.to(hidden.device)[..., None].expand(-1, -1, hidden.shape[-1])
        chosen = hidden.detach().gather(1, index).requires_grad_(differentiable)
        caught[:] = [hidden, chosen]
        return (chosen if n_predicted is None else chosen[:, :n_predicted], *args[1:])

    with UndoList() as undo:
        undo.hook(head.register_forward_pre_hook, select)
        yield caught
