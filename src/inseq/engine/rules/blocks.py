"""Attention by blocks of queries, computed anew in the backward pass: of long rows no [query, key] weights are kept."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from inseq.engine.rules.base import OURS, Rules
from inseq.models import probes
from inseq.models.adapter import Adapter
from inseq.models.attention import attention_function, attention_implementation, own_attention
from inseq.models.inputs import Inputs
from inseq.models.probes import answer, gap, longest, tolerance_of

BLOCK = 2**20
"""Entries of a block's weights."""


@contextmanager
def eager_attention(adapter: Adapter, inputs: Inputs, rules: Rules, weights: int, block: int = BLOCK) -> Iterator[None]:
    """Let the model use its eager attention, whose operations can be seen; of long rows by blocks, where it may be.

    Args:
        adapter: the model.
        inputs: the rows.
        rules: what the operations pass through, also when they are computed anew.
        weights: entries of weights beyond which blocks are made.
        block: entries of a block's weights.
    """
    longest = max(side.shape[1] for side in (inputs.source, inputs.decoder) if side is not None)
    apart = adapter.facts.attention_sites is None
    if apart or len(inputs.decoder) * adapter.axis_size("head") * longest**2 <= weights or not splits(adapter):
        with attention_implementation(adapter.model, "eager"):
            yield
    else:
        with attention_function(adapter.model, partial(_attend, rules, weights, block)):
            yield


def _attend(
    rules: Rules | None,
    most: int,
    block: int,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *args: Any,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    n_queries, per_query = query.shape[2], query.shape[0] * query.shape[1] * key.shape[2]
    more = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor) and x.requires_grad]
    if n_queries * per_query <= most or more:
        return own_attention(module, query, key, value, *args, **kwargs)
    outputs = []
    size = max(1, block // per_query)
    for start in range(0, n_queries, size):
        some = slice(start, min(start + size, n_queries))
        cut = partial(_cut, some, n_queries)
        call = partial(_output, module, tuple(map(cut, args)), {name: cut(each) for name, each in kwargs.items()})
        outputs.append(_AttentionBlock.apply(call, rules, query[:, :, some], key, value))  # type: ignore[no-untyped-call]
    return torch.cat(outputs, 1), None


def _cut(some: slice, n_queries: int, value: Any) -> Any:
    """Return the part of a mask or a bias for some of the queries."""
    if isinstance(value, Tensor) and value.ndim == 4 and value.shape[2] == n_queries:
        return value[:, :, some]
    return value


def _output(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], *given: Tensor) -> Tensor:
    return own_attention(module, *given, *args, **kwargs)[0]


class _AttentionBlock(torch.autograd.Function):
    """Attention of a block of queries. It saves only its inputs and recomputes the weights in the backward."""

    @staticmethod
    def forward(ctx: Any, call: Callable[..., Tensor], rules: Rules | None, *given: Tensor) -> Tensor:
        ctx.call, ctx.rules = call, None if rules is None else _forgetful(rules)
        ctx.save_for_backward(*given)
        with torch.enable_grad(), nullcontext() if rules is None else _noting_apart(rules):
            found = call(*_leaves(given, ctx.needs_input_grad[2:]))
            if rules is not None and found.requires_grad:
                rules.check(found, "its attention")
        return found.detach()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        leaves = _leaves(ctx.saved_tensors, ctx.needs_input_grad[2:])
        with torch.enable_grad(), nullcontext() if ctx.rules is None else _forgetful(ctx.rules):
            found = ctx.call(*leaves)
        wanted = [leaf for leaf in leaves if leaf.requires_grad]
        grads = iter(torch.autograd.grad(found, wanted, gradients[0], allow_unused=True))
        return None, None, *(next(grads) if leaf.requires_grad else None for leaf in leaves)


def _leaves(given: Sequence[Tensor], wanted: Sequence[bool]) -> list[Tensor]:
    return [x.detach().requires_grad_(needs) for x, needs in zip(given, wanted, strict=True)]


def _forgetful(rules: Rules) -> Rules:
    """The same rules, with nothing noted of a graph: what was noted would keep the graph."""
    twin = copy.copy(rules)
    twin._allowed, twin.met = set(), type(rules.met)()
    return twin


@contextmanager
def _noting_apart(rules: Rules) -> Iterator[None]:
    """Let rules that are active forget what they note meanwhile."""
    before, rules._allowed = rules._allowed, set()
    try:
        yield
    finally:
        rules._allowed = before


OURS.add(_AttentionBlock._backward_cls)


def splits(adapter: Adapter) -> bool:
    """Return whether the model's own eager attention gives the same block by block. Asked with a short row, once."""
    if adapter.facts.attention_sites is None:
        return False
    if adapter.facts.can_split_attention is None:
        adapter.facts.can_split_attention = answer(adapter, partial(_equal, adapter), False)
    return adapter.facts.can_split_attention


def _equal(adapter: Adapter) -> bool:
    n = longest(adapter, 9)
    inputs = probes.inputs(adapter, n, torch.arange(n)[None])
    with attention_implementation(adapter.model, "eager"):
        whole = adapter.read(inputs).logits
    with attention_function(adapter.model, partial(_attend, None, 0, 1)):
        split = adapter.read(inputs).logits
    return gap(split, whole) <= tolerance_of(whole.dtype)
