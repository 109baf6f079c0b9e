"""The last layer, cut out of a gradient's graph.

A step's gradient enters the last layer at one position. Everything there but the keys and values works on each position by
itself, so that one ordinary backward serves all steps; of each step's own remain the gradients of keys and values, which
are products of two vectors, and the layers below.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from inseq.engine.gradients.kept import ForwardCache, added_of, attended, scaling_of
from inseq.engine.gradients.products import Body, Sums, pulled
from inseq.models.adapter import Adapter
from inseq.models.attention import attention_function
from inseq.models.guest import UndoList
from inseq.models.inputs import Site
from inseq.models.layers import layers_of, stream_of


@dataclass(frozen=True, eq=False)
class Attention:
    """An attention of the last layer.

    Attributes:
        query: cut from the graph.
        key: with the graph below it, up to ``LastLayer.stream`` or the encoder; what is above it does not follow it.
        value: likewise.
        added: to the products of query and key, before the softmax.
        scaling: of the products of query and key.
        output: with the graph from the query.
    """

    site: Site
    query: Float[Tensor, "row head query width"]
    key: Float[Tensor, "row group key width"]
    value: Float[Tensor, "row group key width"]
    added: Float[Tensor, "#row #head query key"] | None
    scaling: float
    output: Float[Tensor, "row query head width"]


@dataclass(eq=False)
class LastLayer:
    """The decoder's last layer, cut out of a forward's graph.

    Attributes:
        before: what it was to read, with the graph below.
        stream: what it read instead: the same values, a leaf.
        attentions: its attentions, in the order of the calls.
    """

    before: Tensor | None = None
    stream: Tensor | None = None
    attentions: list[Attention] = field(default_factory=list)


@contextmanager
def last_layer_cut(adapter: Adapter, cache: ForwardCache | None = None) -> Iterator[LastLayer]:
    """Cut the graph of a differentiable forward at the last layer's input, keys and values; other attentions are fused.

    Args:
        adapter: the model.
        cache: of the forward.
    """
    layers = layers_of(adapter)
    index = max(i for stack, i in layers if stack == "decoder")
    last = layers["decoder", index]
    inside = {id(part) for part in last.modules()}
    sites = adapter.facts.attention_sites or {}
    cut = LastLayer()

    def enter(_: nn.Module, args: Any, kwargs: Any) -> Any:
        before = stream_of(args, kwargs)
        assert before is not None
        cut.before, cut.stream = before, before.detach().requires_grad_()
        return tree_map(lambda value: cut.stream if value is before else value, (args, kwargs))

    def attend(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        own = None if sites[id(module)][0] == "encoder" else cache
        if id(module) not in inside or not torch.is_grad_enabled():
            return attended(module, own, query, key, value, mask, **kwargs), None
        output = attended(module, own, query, key.detach(), value.detach(), mask, **kwargs)
        site, scaling = sites[id(module)][0], scaling_of(query, kwargs)
        cut.attentions.append(Attention(site, query.detach(), key, value, added_of(mask, kwargs), scaling, output))
        return output, None

    with UndoList() as undo, attention_function(adapter.model, attend):
        undo.hook(last.register_forward_pre_hook, enter, with_kwargs=True)
        yield cut


def body_below(
    last: LastLayer,
    hidden: Float[Tensor, "row decoder hidden"],
    cotangents: Float[Tensor, "row prediction hidden"],
    at: Int[Tensor, "row prediction"],
    sums: Sums,
) -> Body:
    """Return where products enter below the last layer.

    One backward through that layer serves all of them, except for its keys and values: there each product has a gradient
    of its own.
    """
    assert last.before is not None
    assert last.stream is not None
    leaf = last.stream
    every = torch.arange(len(at), device=hidden.device)[:, None]
    seed = torch.zeros_like(hidden).index_put_((every, at), cotangents.to(hidden), accumulate=True)
    direct, *given = torch.autograd.grad(
        hidden, (leaf, *(a.output for a in last.attentions)), seed, retain_graph=True, materialize_grads=True
    )
    direct = direct[every, at]
    read = [_Read.of(attention, gradient[every, at], at) for attention, gradient in zip(last.attentions, given, strict=True)]
    own = [r for r in read if r.attention.site == "decoder"]
    cross = [r for r in read if r.attention.site == "cross"]
    crossed = tuple(t for r in cross for t in (r.attention.key, r.attention.value) if t.requires_grad)
    streamed = last.before.requires_grad

    def seeds(products: range, batched: bool) -> tuple[Tensor, ...]:
        chosen = sums[products.start : products.stop]
        through = tuple(t for r in cross for t in r.gradients(chosen)) if crossed else ()
        if not streamed:
            return through
        ends = tuple(t for r in own for t in (r.attention.key, r.attention.value))
        (stream,) = pulled(ends, (leaf,), tuple(t for r in own for t in r.gradients(chosen)), batched)
        for k, (rows, which) in enumerate(chosen):
            stream[k, rows, at[rows, which]] += direct[rows, which]
        return (stream, *through)

    return Body((*((last.before,) if streamed else ()), *crossed), seeds)


@dataclass(frozen=True, eq=False)
class _Read:
    """An attention of the last layer at the positions whose predictions are explained."""

    attention: Attention
    slope: Float[Tensor, "row head prediction key"]
    weights: Float[Tensor, "row head prediction key"]
    query: Float[Tensor, "row head prediction width"]
    given: Float[Tensor, "row head prediction width"]

    @classmethod
    def of(cls, a: Attention, given: Float[Tensor, "row prediction head width"], at: Int[Tensor, "row prediction"]) -> _Read:
        query, given = _rows(a.query, at), given.transpose(1, 2)
        size = query.shape[1] // a.key.shape[1]
        keys, values = (t.detach().repeat_interleave(size, 1) for t in (a.key, a.value))
        found = query @ keys.transpose(-1, -2) * a.scaling
        if a.added is not None:
            found = found + _rows(a.added.expand(len(at), -1, -1, -1), at)
        weights = found.softmax(-1)
        products = given @ values.transpose(-1, -2)
        slope = weights * (products - (products * weights).sum(-1, keepdim=True)) * a.scaling
        return cls(a, slope, weights, query, given)

    def gradients(self, sums: Sums) -> tuple[Tensor, Tensor]:
        """Return the gradients of keys and values: Float["product row group key width"]."""
        key, value = (
            torch.stack([_outer(a, b, *pairs) for pairs in sums])
            for a, b in ((self.slope, self.query), (self.weights, self.given))
        )
        groups = self.attention.key.shape[1]
        size = key.shape[2] // groups
        if size > 1:
            key, value = (t.view(*t.shape[:2], groups, size, *t.shape[3:]).sum(3) for t in (key, value))
        return key, value


def _rows(values: Float[Tensor, "row head query width"], at: Int[Tensor, "row prediction"]) -> Tensor:
    """Float["row head prediction width"]: what stands at the chosen queries."""
    index = at[:, None, :, None].expand(-1, values.shape[1], -1, values.shape[3])
    return values.gather(2, index)


def _outer(
    a: Float[Tensor, "row head prediction key"],
    b: Float[Tensor, "row head prediction width"],
    rows: Tensor,
    which: Tensor | int,
) -> Float[Tensor, "row head key width"]:
    """The sum of outer products over the chosen predictions."""
    if isinstance(which, int):
        return a[:, :, which, :, None] * b[:, :, which, None]
    mask = a.new_zeros(len(a), a.shape[2])
    mask[rows, which] = 1
    return (a * mask[:, None, :, None]).transpose(-1, -2) @ b
