"""Backward passes that cost less: the same numbers, from what the forward keeps.

A gradient's forward runs once and its backward once for each step, so whatever the backward would compute anew is kept.
Each edit lets the module's own code compute the values; only the way back is another. What a forward computed also serves
forwards over the beginnings of its rows, whose graphs are shorter: see :class:`ForwardCache`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import Function
from torch.nn.functional import scaled_dot_product_attention
from transformers.activations import ACT2CLS
from transformers.pytorch_utils import Conv1D

from inseq.models.attention import own_attention
from inseq.models.guest import UndoList

ACTIVATIONS = (nn.ReLU, nn.GELU, nn.SiLU, *(kind[0] if isinstance(kind, tuple) else kind for kind in ACT2CLS.values()))
SHORT = 64
LONG = 512
PARTS = 4
"""Into how many parts a causal attention's queries are cut at most, each of half ``SHORT`` at least; each looks back only."""


class ForwardCache:
    """Products with weights, slopes and attention weights of a forward, read again for graphs over the first positions.

    A causal model computes the same there, so that nothing is multiplied with weights again.
    """

    def __init__(self) -> None:
        self.reading = False
        self._found: dict[int, list[tuple[Tensor, ...]]] = defaultdict(list)
        self._calls: Counter[int] = Counter()

    @contextmanager
    def read(self) -> Iterator[None]:
        """Give what was found, call by call, instead of taking it."""
        self.reading, self._calls = True, Counter()
        try:
            yield
        finally:
            self.reading = False

    def has(self, module: nn.Module) -> bool:
        """Return whether calls of a module were recorded."""
        return id(module) in self._found

    def get_or_compute(self, module: nn.Module, compute: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """Return the module's output, computed now or read from the recorded forward, at all its positions."""
        key = id(module)
        if not self.reading:
            values = compute()
            self._found[key].append(tuple(value.detach() for value in values))
            return values
        found = self._found[key][self._calls[key]]
        self._calls[key] += 1
        return found


class SavedLinear(Function):
    """A product with weights whose outcome is known."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, known: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        return known

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        (grad,) = grads
        return grad.reshape(-1, grad.shape[-1]).mm(weight).reshape(*grad.shape[:-1], weight.shape[1]), None, None


class SavedActivation(Function):
    """An elementwise function whose slope is known: its backward is one product."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, known: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(slope)
        return known.detach()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return grads[0] * slope, None, None


class SavedRMSNorm(Function):
    """A norm by the root mean square, from what was scaled to unit square: its backward is three passes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, known: Tensor, unit: Tensor, scale: Tensor, gain: Tensor) -> Tensor:
        ctx.save_for_backward(unit, scale, gain)
        return known.detach()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        unit, scale, gain = ctx.saved_tensors
        g = grads[0] * gain
        mean = (g * unit).mean(-1, keepdim=True)
        return torch.addcmul(g, unit, mean, value=-1).mul(scale).to(grads[0].dtype), None, None, None, None


class SavedAttention(Function):
    """An attention whose weights are known; where no query looks ahead, its backward does not either."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, known: Tensor, weights: Tensor, scaling: float, parts: int
    ) -> Float[Tensor, "row query head width"]:
        size = query.shape[1] // key.shape[1]
        keys, values = (t.repeat_interleave(size, 1) if size > 1 else t for t in (key, value))
        known = known.detach()
        values = values.transpose(-1, -2).contiguous()
        ctx.save_for_backward(*(t.flatten(0, 1) for t in (query * scaling, keys * scaling, values, weights)), known)
        ctx.groups, ctx.size, ctx.parts = key.shape[1], size, parts
        return known

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, weights, known = ctx.saved_tensors
        rows, n, heads, width = known.shape
        inner = (grads[0] * known).sum(-1).transpose(1, 2).reshape(rows * heads, n, 1)
        g = grads[0].transpose(1, 2).reshape(rows * heads, n, width)
        to_queries: list[Tensor] = []
        for part in reversed(range(ctx.parts)):
            start, stop = n * part // ctx.parts, n * (part + 1) // ctx.parts
            end, length = stop if ctx.parts > 1 else key.shape[1], stop - start
            here, seen = g.narrow(-2, start, length), weights.narrow(-2, start, length).narrow(-1, 0, end)
            slope = here.bmm(value.narrow(-1, 0, end)).sub_(inner.narrow(-2, start, length)).mul_(seen)
            to_queries.insert(0, slope.bmm(key.narrow(-2, 0, end)))
            of_keys, of_values = slope.transpose(-1, -2).bmm(query.narrow(-2, start, length)), seen.transpose(-1, -2).bmm(here)
            if part == ctx.parts - 1:
                to_key, to_value = of_keys, of_values
            else:
                to_key.narrow(-2, 0, end).add_(of_keys)
                to_value.narrow(-2, 0, end).add_(of_values)
        to_query = torch.cat(to_queries, -2) if len(to_queries) > 1 else to_queries[0]
        to_query, to_key, to_value = (t.reshape(rows, heads, *t.shape[1:]) for t in (to_query, to_key, to_value))
        if ctx.size > 1:
            to_key, to_value = (t.reshape(rows, ctx.groups, ctx.size, *t.shape[2:]).sum(2) for t in (to_key, to_value))
        return to_query, to_key, to_value, None, None, None, None


def _applied(function: Any, *args: Any) -> Tensor:
    """Apply a function with a backward of its own."""
    found: Tensor = function.apply(*args)
    return found


def _to_unit(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Vectors divided by the root of their mean square, and what they were multiplied by."""
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    scale = wide.square().mean(-1, keepdim=True).add_(eps).rsqrt_()
    return wide * scale, scale


@contextmanager
def fused(model: nn.Module, cache: ForwardCache | None = None, encoder: nn.Module | None = None) -> Iterator[None]:
    """Let activations and norms by the root mean square keep what their backward needs.

    With a cache, which knows nothing of the encoder, products with weights too.
    """
    apart = set() if encoder is None else {id(module) for module in encoder.modules()}
    with UndoList() as undo:
        for module in model.modules():
            own = None if id(module) in apart else cache
            kind = type(module)
            if kind in ACTIVATIONS and not list(module.parameters()):
                function = partial(_activated, module, own)
            elif "RMSNorm" in kind.__name__ or kind.__name__ == "T5LayerNorm":
                function = partial(_normalized, module, own)
            elif own is not None and is_product(module):
                function = partial(_multiplied, module, own)
            else:
                continue
            undo.wrap_forward(module, function)
        yield


def _activated(module: nn.Module, cache: ForwardCache | None, forward: Callable[..., Tensor], x: Tensor) -> Tensor:
    if not (torch.is_grad_enabled() and x.requires_grad):
        return forward(x)

    values: list[Tensor] = []

    def compute() -> tuple[Tensor, ...]:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            y = forward(leaf)
        values.append(y.detach())
        return torch.autograd.grad(y, leaf, torch.ones_like(y))

    if cache is None or x.ndim != 3:
        (slope,) = compute()
    else:
        slope = cache.get_or_compute(module, compute)[0].narrow(1, 0, x.shape[1])
    with torch.no_grad():
        known = values.pop() if values else forward(x)
    return _applied(SavedActivation, x, known, slope)


def _multiplied(module: nn.Module, cache: ForwardCache, forward: Callable[..., Tensor], x: Tensor) -> Tensor:
    if x.ndim != 3:
        return forward(x)
    (known,) = cache.get_or_compute(module, lambda: (forward(x),))
    if not cache.reading:
        return known
    known = known.narrow(1, 0, x.shape[1])
    return _applied(SavedLinear, x, matrix_of(module), known) if x.requires_grad else known


def is_product(module: nn.Module) -> bool:
    """Return whether a module multiplies by weights of its own that are on the device where they are used."""
    return type(module) in (nn.Linear, Conv1D) and not hasattr(module, "_hf_hook")


def matrix_of(module: nn.Module) -> Float[Tensor, "out inner"]:
    """Return the matrix that takes a cotangent from a product's output to its input."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight.T if isinstance(module, Conv1D) else weight


def _normalized(module: nn.Module, cache: ForwardCache | None, forward: Callable[..., Tensor], x: Tensor) -> Tensor:
    """The norm's own value; its backward by the formula, where that gives the value."""
    eps = next((e for name in ("variance_epsilon", "eps") if isinstance(e := getattr(module, name, None), float)), None)
    weight = next(iter(module.parameters()), None)
    if not (torch.is_grad_enabled() and x.requires_grad) or eps is None or weight is None or weight.shape != x.shape[-1:]:
        return forward(x)

    def compute() -> tuple[Tensor, ...]:
        with torch.no_grad():
            known, (unit, scale) = forward(x), _to_unit(x, eps)
            return known, unit, scale, *(gain for gain in (weight, 1 + weight) if _near(unit * gain, known))

    if cache is None or x.ndim != 3:
        known, unit, scale, *gains = compute()
    else:
        known, unit, scale, *gains = cache.get_or_compute(module, compute)
        known, unit, scale = (t.narrow(1, 0, x.shape[1]) for t in (known, unit, scale))
    return _applied(SavedRMSNorm, x, known.contiguous(), unit, scale, gains[0]) if gains else forward(x)


def _near(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors agree to the precision of the second."""
    tolerance = 1e-5 if torch.finfo(b.dtype).bits >= 32 else 2e-2
    return a.shape == b.shape and bool((a - b).abs().max() <= tolerance * b.abs().max())


def scaling_of(query: Tensor, kwargs: dict[str, Any]) -> float:
    """Return the scale of an attention's products of query and key."""
    given = kwargs.get("scaling")
    return query.shape[-1] ** -0.5 if given is None else given


def added_of(mask: Tensor | None, kwargs: dict[str, Any]) -> Tensor | None:
    """Return the mask and position bias that an attention adds to the products of query and key."""
    given = [t for t in (mask, kwargs.get("position_bias")) if t is not None]
    return sum(given[1:], given[0]) if given else None


def attended(
    module: nn.Module,
    cache: ForwardCache | None,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    **kwargs: Any,
) -> Float[Tensor, "row query head width"]:
    """An attention whose weights are a softmax of products: a module's eager one, with a backward from its weights.

    A long one keeps no weights, which would take the square of its length: torch computes it, forward and backward.
    """
    n, n_keys, scaling = query.shape[2], key.shape[2], scaling_of(query, kwargs)
    if max(n, n_keys) > LONG or (cache is not None and cache.reading and not cache.has(module)):
        size = query.shape[1] // key.shape[1]
        keys, values = (t.repeat_interleave(size, 1) if size > 1 else t for t in (key, value))
        return scaled_dot_product_attention(query, keys, values, added_of(mask, kwargs), scale=scaling).transpose(1, 2)

    def compute() -> tuple[Tensor, ...]:
        with torch.no_grad():
            known, weights = own_attention(module, query, key, value, mask, **kwargs)
            return known, weights, weights.triu(1).any()

    known, weights, ahead = compute() if cache is None else cache.get_or_compute(module, compute)
    weights = weights.narrow(2, 0, n).narrow(3, 0, n_keys)
    parts = 1 if n != n_keys or n < SHORT or ahead else min(PARTS, 2 * n // SHORT)
    return _applied(SavedAttention, query, key, value, known.narrow(1, 0, n), weights, scaling, parts)
