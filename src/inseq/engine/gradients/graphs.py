"""A forward's graph, and graphs over the first positions of its rows, made without running the model again.

What can be spared is asked of the model itself, by comparison with its plain graph.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from inseq.engine.accelerators import pays
from inseq.engine.gradients.kept import ForwardCache, fused
from inseq.engine.gradients.last_layer import LastLayer, body_below, last_layer_cut
from inseq.engine.gradients.products import Body, Sums, pulled, whole_body
from inseq.models import probes
from inseq.models.adapter import Adapter
from inseq.models.facts import GraphKind
from inseq.models.guest import UndoList, guest
from inseq.models.inputs import Inputs, Reading
from inseq.models.probes import answer, near


@dataclass(frozen=True, eq=False)
class Encoded:
    """An encoder's output: with the graph below it, and as the leaf that the decoder reads instead."""

    output: Float[Tensor, "row source dim"]
    leaf: Float[Tensor, "row source dim"]


@dataclass(frozen=True, eq=False)
class Graph:
    """From leaves to hidden states.

    Attributes:
        inputs: the batch, whose embeddings are the leaves.
        encoded: what lies between an encoder's embeddings and the decoder.
        hidden: what enters the vocabulary matrix, at all positions.
        last: the last layer, where it was cut out.
        kind: how it was made.
    """

    inputs: Inputs
    encoded: Encoded | None
    hidden: Float[Tensor, "row decoder hidden"]
    last: LastLayer | None
    kind: GraphKind = "plain"

    def body(self, cotangents: Float[Tensor, "row prediction hidden"], at: Int[Tensor, "row prediction"], sums: Sums) -> Body:
        """Products that enter where the scores' gradients are ``cotangents``."""
        at = at.to(self.hidden.device)
        if self.last is None:
            return whole_body(self.hidden, cotangents, at, sums)
        return body_below(self.last, self.hidden, cotangents, at, sums)


class Graphs:
    """The graphs of one batch.

    Args:
        adapter: the model.
        inputs: the batch, whose embeddings are leaves.
        kind: how graphs are made.
        several: whether graphs over beginnings will be wanted.
    """

    def __init__(self, adapter: Adapter, inputs: Inputs, kind: GraphKind, *, several: bool) -> None:
        self.adapter = adapter
        self.inputs = inputs
        self.kind = kind
        self._cache = ForwardCache() if several else None
        self._encoded: Encoded | None = None

    @property
    def has_cache(self) -> bool:
        """Return whether graphs over beginnings can be made."""
        return self._cache is not None

    def whole(self) -> tuple[Graph, Reading]:
        """The graph over all positions, and what the forward gave that ran the model for it."""
        if self.inputs.source is None or self.kind == "plain":
            return self._graph(self.inputs)
        with encoder_cut(self.adapter.model.get_encoder()) as found:
            graph, reading = self._graph(self.inputs)
        (self._encoded,) = found
        return replace(graph, encoded=self._encoded), reading

    def beginning(self, n: int) -> Graph:
        """The graph over the decoder's first ``n`` positions."""
        assert self._cache is not None
        whole = self.inputs
        decoder = whole.decoder[:, :n].detach().requires_grad_(whole.decoder.requires_grad)
        keep = None if whole.decoder_keep is None else whole.decoder_keep[:, :n]
        short = replace(whole, decoder=decoder, decoder_keep=keep, at=whole.at[:, :0])
        if self._encoded is not None:
            short = replace(short, source=None, memory=(self._encoded.leaf,))
        with self._cache.read():
            return self._graph(short)[0]

    def _graph(self, inputs: Inputs) -> tuple[Graph, Reading]:
        model = self.adapter.model
        encoder = model.get_encoder() if "source" in self.adapter.tables else None
        cut: Any = nullcontext()
        if self.kind == "without_last_layer":
            cut = last_layer_cut(self.adapter, self._cache)
        slopes = self.kind != "plain" and pays("saved_slopes")
        kept: Any = fused(model, self._cache, encoder) if slopes else nullcontext()
        with kept, cut as last:
            reading = self.adapter.read(inputs, differentiable=True)
        return Graph(inputs, self._encoded, reading.hidden, last, self.kind), reading


@contextmanager
def encoder_cut(encoder: nn.Module) -> Iterator[list[Encoded]]:
    """Cut the graph of a forward at the encoder's output, so that products pass the two sides some at a time each.

    Yields:
        A list that holds, after the forward, what was cut.
    """
    found: list[Encoded] = []

    def cut(_: nn.Module, args: Any, output: Any) -> Any:
        own = output.last_hidden_state
        found[:] = [Encoded(own, own.detach().requires_grad_())]
        return type(output)(**{**output, "last_hidden_state": found[0].leaf})

    with UndoList() as undo:
        undo.hook(encoder.register_forward_hook, cut)
        yield found


KINDS: dict[GraphKind, str] = {"without_last_layer": "last_layer", "saved_slopes": "saved_slopes"}
"""The kinds of graph from the cheapest on, each with its switch."""


def prepare_graphs(adapter: Adapter, size: int | None = None) -> GraphKind:
    """Return the cheapest kind of graph that gives the model's own gradients.

    Args:
        adapter: the model.
        size: positions times products of the work; without it, the work is worth asking for.
    """
    if not all(pays(switch) for switch in KINDS.values()):
        return _cheapest(adapter)  # a switch is off: no fact of the model
    if not pays("last_layer", size):
        return "plain"
    if adapter.facts.graph_kind is None:
        with guest(adapter.model):
            adapter.facts.graph_kind = _cheapest(adapter)
    return adapter.facts.graph_kind


def _cheapest(adapter: Adapter) -> GraphKind:
    if not adapter.facts.causal:
        return "plain"
    inputs, cotangents = _question(adapter)
    plain = _gradients(Graphs(adapter, inputs, "plain", several=False), cotangents)
    routed = adapter.facts.attention_sites is not None
    kinds = [kind for kind, switch in KINDS.items() if pays(switch) and (routed or kind == "saved_slopes")]

    def is_right(kind: GraphKind) -> bool:
        gradients = _gradients(Graphs(adapter, inputs, kind, several=pays("saved_slopes")), cotangents)
        return all(near(a, b) for a, b in zip(gradients, plain, strict=True))

    return next((kind for kind in kinds if answer(adapter, partial(is_right, kind), False)), "plain")


def _question(adapter: Adapter) -> tuple[Inputs, Tensor]:
    """Return two rows of tokens, and cotangents at two positions of each."""
    asked = probes.inputs(adapter, 9, torch.tensor([[4, 8], [3, 7]]))
    source = None if asked.source is None else asked.source.requires_grad_()
    inputs = replace(asked, source=source, decoder=asked.decoder.requires_grad_())
    with torch.no_grad():
        hidden = adapter.read(inputs).hidden
    drawn = torch.randn(2, 2, hidden.shape[-1], generator=torch.Generator().manual_seed(0))
    return inputs, drawn.to(hidden)


def _gradients(graphs: Graphs, cotangents: Tensor) -> list[Tensor]:
    """Return gradients of the later position through the whole graph, and of the earlier one through that of the beginning."""
    whole, _ = graphs.whole()
    at, found = whole.inputs.at, []
    for step, graph in ((1, whole), (0, graphs.beginning(5) if graphs.has_cache else whole)):
        chosen = slice(step, step + 1)
        body = graph.body(cotangents[:, chosen], at[:, chosen], [(torch.arange(len(at)), 0)])
        source, encoded = graphs.inputs.source, graph.encoded
        first = [] if source is None else [source if encoded is None else encoded.leaf]
        *side, decoder = pulled(body.outputs, [*first, graph.inputs.decoder], body.seeds(range(1), False), False)
        if encoded is not None and source is not None:
            side = list(pulled((encoded.output,), [source], side, False))
        found += [*side, decoder[:, :, :5] if step == 0 else decoder]
    return found
