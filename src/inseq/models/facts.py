"""One record of what was found out about a model, kept as long as the model."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any, Literal
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from inseq.models.inputs import Site

GraphKind = Literal["without_last_layer", "saved_slopes", "plain"]
"""Kinds of graph for gradients: without the last layer, with slopes saved by activations and norms, or the model's own."""


@dataclass(frozen=True)
class Capabilities:
    """The answers that a user may want to see.

    Attributes:
        embeddings: how embeddings are fed so that the predictions equal those from ids.
        causal: whether a later token never changes an earlier prediction, so that one forward serves all steps.
        attention: where attention weights come from: ``"interface"``, ``"outputs"`` or ``None``.
        max_positions: the longest decoder sequence the model has positions for.
        notes: what else a user should know.
    """

    embeddings: str
    causal: bool
    attention: str | None
    max_positions: int | None
    notes: tuple[str, ...] = ()


@dataclass(eq=False)
class Facts:
    """Answers of probes. ``None`` stands for a question that nobody has asked yet.

    Attributes:
        capabilities: a summary for the user, made when the model is loaded.
        causal: whether a later token never changes an earlier prediction.
        feeds: by which factor each embedding table's values are multiplied before the model reads them.
        attention_sites: the site and the layer of each attention, by the module's id, where all go through transformers'
            attention interface.
        attention_outputs: whether the model's forward returns its attention weights.
        explicit_positions: whether hidden rows need position ids of their own.
        cannot_hide: the reason why tokens cannot be hidden from attention; empty where they can.
        can_reuse_cache: whether a forward may go on from another one's keys and values.
        reuse_length: the longest sequence for which that was found right.
        cache_name: the argument of the forward that takes keys and values.
        can_split_attention: whether eager attention gives the same block by block.
        can_end_early: whether the last layer may run at some positions alone.
        graph_kind: the cheapest right graph for gradients.
        can_batch_products: whether batched products equal single ones, by edit and kind of graph.
        linear_logits: whether logits are the vocabulary matrix times the hidden states, plus a shift.
        logits_shift: that shift.
    """

    capabilities: Capabilities | None = None
    causal: bool = True
    feeds: tuple[float, ...] = ()
    attention_sites: dict[int, tuple[Site, int]] | None = None
    attention_outputs: bool = False
    explicit_positions: bool = False
    cannot_hide: str | None = None
    can_reuse_cache: bool | None = None
    reuse_length: int = 0
    cache_name: str = ""
    can_split_attention: bool | None = None
    can_end_early: bool | None = None
    graph_kind: GraphKind | None = None
    can_batch_products: dict[Hashable, bool] = field(default_factory=dict)
    linear_logits: bool | None = None
    logits_shift: Tensor | None = None


_records: WeakKeyDictionary[nn.Module, tuple[Hashable, Facts]] = WeakKeyDictionary()


def facts_of(model: Any) -> Facts:
    """Return the record of a model: the same one until its configuration, modules or weights' place change."""
    state = _state(model)
    known = _records.get(model)
    if known is None or known[0] != state:
        known = _records[model] = (state, Facts())
    return known[1]


def _state(model: Any) -> Hashable:
    weights = next(model.parameters(), None)
    place = None if weights is None else (weights.dtype, weights.device)
    return str(vars(model.config)), place, tuple(_code(module) for module in model.modules())


def _code(module: nn.Module) -> Hashable:
    """Return what a module computes by: its class, or a forward that its owner put in place of the class's, and hooks."""
    # Identities alone: a reference to a forward could keep the model alive.
    return (
        id(module),
        type(module),
        id(vars(module).get("forward")),
        len(module._forward_hooks),
        len(module._forward_pre_hooks),
    )
