"""The rescale rule at every operation: how a difference from a reference becomes a difference of the output.

Rows come in pairs: the second half of the first axis holds the references of the first half. A *secant* is the
difference of a function's values over the difference of its inputs, so that multipliers times differences of inputs add
up to the difference of the output, exactly (Shrikumar et al. 2017). A product of two factors is split at their midpoints,
which gives the Shapley values of two players.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from inseq.engine.rules.base import Function, Rules, differentiable, on_first, straight
from inseq.requests.rules import Rescale

PART = 2**20
"""Entries of what is computed in double precision at a time."""

CHOICES = ("topk", "argmax", "argmin", "sort", "argsort", "kthvalue", "gt", "lt", "ge", "le", "eq", "ne")


class RescaleRules(Rules):
    """The rules of :class:`~inseq.requests.rules.Rescale`, for a model and for a target.

    Args:
        model: the model, for messages.
        edit: which method asks.
    """

    def __init__(self, model: nn.Module, edit: Rescale) -> None:
        Rules.__init__(self, model, edit.name)

    def handlers(self) -> Iterator[tuple[Iterable[str], Any]]:
        yield from Rules.handlers(self)
        yield ("exp", "log", "reciprocal", "log1p", "expm1"), self._elementwise
        yield ("log_softmax",), self._log_softmax
        yield ("logsumexp",), self._logsumexp
        yield ("amax",), self._amax
        yield CHOICES, self._choice
        yield ("div", "true_divide", "divide"), self._divide
        yield ("__rtruediv__",), self._divided

    def softmax(self, function: Function, x: Tensor, axis: int) -> Tensor:
        """The exponential of the log-softmax.

        In the quotient of exponentials, multipliers of opposite sign would grow with the exponential of the difference
        between the two normalisers; these do not.
        """

        def slope(part: Tensor) -> Tensor:
            u = precise(part)
            return secant(torch.exp, u - u.logsumexp(axis, keepdim=True)).to(x.dtype)

        return straight((x - logsumexp(x, axis)) * by_parts(slope, x, axis), function(x.detach()))

    def norm(self, x: Tensor, axes: tuple[int, ...], weight: Tensor | None, eps: float, centered: bool) -> Tensor:
        inner = x - x.mean(axes, keepdim=True) if centered else x
        value = precise(inner)
        mean_square = (inner * (value + partner(value)).to(x.dtype)).mean(axes, keepdim=True)
        scale = value.square().mean(axes, keepdim=True) + eps
        slope = secant(torch.rsqrt, scale)
        out = inner * middle(scale.rsqrt()).to(x.dtype) + middle(value).to(x.dtype) * (mean_square * slope.to(x.dtype))
        return out if weight is None else out * weight

    def statistic(self, function: Function, x: Tensor) -> Tensor:
        return straight(x * secant(function, precise(x)).to(x.dtype), function(x.detach()))

    def power(self, function: Function, x: Tensor) -> Tensor:
        return self.statistic(function, x)

    def activation(self, function: Function, x: Tensor) -> Tensor:
        return straight(x * secant(function, precise(x)).to(x.dtype), function(x))

    def product(self, function: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor) -> Tensor:
        surrogate = function(a, middle(b.detach())) + function(middle(a.detach()), b)
        return straight(surrogate, function(a.detach(), b.detach()))

    def peak(self, function: Function, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        return self._choice(function, x, *args, **kwargs)

    def _choice(self, function: Function, *args: Any, **kwargs: Any) -> Any:
        """Refused also where gradients are switched off: what is chosen there is used elsewhere."""
        if any(isinstance(x, Tensor) and x.requires_grad for x in (*args, *kwargs.values())):
            self.refuse(
                f"it chooses by its input ({function.__name__!r}), as routers of experts do; an input and its reference may "
                "choose differently, and a choice has no difference"
            )
        return function(*args, **kwargs)

    def _elementwise(self, function: Function, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        call = partial(on_first, function, args, kwargs)
        return self.statistic(call, input) if differentiable(input) else call(input)

    def _log_softmax(self, function: Function, input: Tensor, dim: int, **kwargs: Any) -> Tensor:
        if not differentiable(input):
            return function(input, dim, **kwargs)
        return straight(input - logsumexp(input, dim), function(input.detach(), dim, **kwargs))

    def _logsumexp(self, function: Function, input: Tensor, dim: int, keepdim: bool = False) -> Tensor:
        if not differentiable(input):
            return function(input, dim, keepdim)
        surrogate = logsumexp(input, dim)
        return straight(surrogate if keepdim else surrogate.squeeze(dim), function(input.detach(), dim, keepdim))

    def _amax(self, function: Function, input: Tensor, dim: int, keepdim: bool = False) -> Tensor:
        """The limit of the logsumexp: all goes through the largest entry of the larger of the two maxima."""
        if not differentiable(input):
            return function(input, dim, keepdim)
        top = input.detach().max(dim, keepdim=True)
        at = torch.where(top.values >= partner(top.values), top.indices, partner(top.indices))
        picked = input.gather(dim, at)
        change = picked.detach() - partner(picked.detach())
        slope = torch.where(change == 0, 1, (top.values - partner(top.values)) / change)
        surrogate = picked * slope
        return straight(surrogate if keepdim else surrogate.squeeze(dim), function(input.detach(), dim, keepdim))

    def _divide(self, function: Function, input: Any, other: Any, **kwargs: Any) -> Tensor:
        if not differentiable(other):
            return function(input, other, **kwargs)
        inverse = self.statistic(torch.reciprocal, other)
        surrogate = self.product(torch.mul, input, inverse) if differentiable(input) else input * inverse
        return straight(surrogate, function(input, other, **kwargs))

    def _divided(self, function: Function, input: Tensor, other: Any) -> Tensor:
        return self._divide(torch.div, torch.as_tensor(other, device=input.device), input)


def partner(x: Tensor) -> Tensor:
    """For each row of a pair the other one."""
    return x.roll(len(x) // 2, 0)


def middle(x: Tensor) -> Tensor:
    """Halfway between the rows of each pair."""
    return (x + partner(x)) / 2


def precise(x: Tensor) -> Tensor:
    """A copy, cut from the graph, in which quotients of small differences keep their digits."""
    return x.detach().to(torch.float32 if x.device.type == "mps" else torch.float64)


def secant(function: Callable[[Tensor], Tensor], u: Tensor) -> Tensor:
    """(f(u) - f(v)) / (u - v) for the rows of each pair; where they nearly agree, the derivative between them."""
    with torch.no_grad():
        change, value = u - partner(u), function(u)
        near = _near(u, change)
        quotient = (value - partner(value)) / torch.where(near, 1, change)
    return torch.where(near, _derivative(function, middle(u)), quotient)


def logsumexp(x: Tensor, axis: int) -> Tensor:
    """A surrogate of the logsumexp: secants of the exponentials, the sum, and the secant of the logarithm."""

    def weights(part: Tensor) -> Tensor:
        u = precise(part)
        u = u - torch.maximum(u, partner(u)).amax(axis, keepdim=True)
        total, value = u.exp().sum(axis, keepdim=True), u.logsumexp(axis, keepdim=True)
        change = total - partner(total)
        near = _near(total, change)
        slope = torch.where(near, 1 / middle(total), (value - partner(value)) / torch.where(near, 1, change))
        return (secant(torch.exp, u) * slope).to(x.dtype)

    return (x * by_parts(weights, x, axis)).sum(axis, keepdim=True)


def by_parts(function: Callable[[Tensor], Tensor], x: Tensor, axis: int) -> Tensor:
    """A function of each line along an axis, of some lines at a time where there are many: it works in double precision."""
    lines = [i for i in range(1, x.ndim) if i != axis % x.ndim]
    if x.numel() <= PART or not lines:
        return function(x)
    longest = max(lines, key=lambda i: x.shape[i])
    found = torch.empty_like(x, requires_grad=False)
    size = max(1, PART * x.shape[longest] // x.numel())
    for part, into in zip(torch.split(x.detach(), size, longest), torch.split(found, size, longest), strict=True):
        into.copy_(function(part))
    return found


def _near(u: Tensor, change: Tensor) -> Tensor:
    """Return where the derivative is closer to the secant than the quotient is, and where both are infinite."""
    eps = torch.finfo(u.dtype).eps
    size = torch.maximum(u.abs(), partner(u).abs()).clamp_min(eps**0.5)
    return ~(change.abs() > eps ** (1 / 3) * size)


def _derivative(function: Callable[[Tensor], Tensor], u: Tensor) -> Tensor:
    with torch.enable_grad():
        u = u.detach().requires_grad_()
        (slope,) = torch.autograd.grad(function(u).sum(), u)
    return slope
