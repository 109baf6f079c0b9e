"""Rules that share a prediction out among what made it (layer-wise relevance propagation and its relatives).

For a surrogate that is linear in its input, the gradient times the input is a share of the value: relevance needs no
backward pass of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from inseq.engine.rules.base import Function, Rules, Scaled, differentiable, straight, wide
from inseq.requests.rules import Relevance

SMALL = 1e-6
"""Below it, phi(u) / u is taken where u is this: its limit."""


class RelevanceRules(Rules):
    """The rules of :class:`~inseq.requests.rules.Relevance`.

    Functions that model code composes of several operations on one tensor u, such as ``u * sigmoid(1.702 * u)``, are told
    by their factors: each remembers the tensor it is a function of.

    Args:
        model: the model, for messages.
        edit: which rules.
    """

    def __init__(self, model: nn.Module, edit: Relevance) -> None:
        Rules.__init__(self, model, edit.name)
        self.edit = edit

    def handlers(self) -> Iterator[tuple[Iterable[str], Any]]:
        yield from Rules.handlers(self)
        yield ("add", "sub", "div", "neg", "__rsub__", "true_divide"), self._remember
        yield ("amax",), self.peak
        yield ("topk",), self._chosen

    def softmax(self, function: Function, x: Tensor, axis: int) -> Tensor:
        if self.edit.softmax == "constant":
            return function(x.detach())
        if self.edit.softmax == "gradient":
            return self.allow(function(x), x)
        tempered = x / self.edit.temperature
        return straight(self.allow(function(tempered), tempered) * self.edit.temperature, function(x.detach()))

    def norm(self, x: Tensor, axes: tuple[int, ...], weight: Tensor | None, eps: float, centered: bool) -> Tensor:
        inner = x - x.mean(axes, keepdim=True) if centered else x
        if self.edit.norm == "constant":
            scale = (wide(inner).square().mean(axes, keepdim=True) + eps).rsqrt().to(x.dtype)
            return inner * (scale if weight is None else scale * weight)
        scale = (inner.square().mean(axes, keepdim=True) + eps).rsqrt()
        return self.allow(inner * scale if weight is None else inner * scale * weight, x)

    def statistic(self, function: Function, x: Tensor) -> Tensor:
        if self.edit.norm == "constant":
            return function(x.detach())
        return _mark(self.allow(function(x), x), statistic=True)

    def power(self, function: Function, x: Tensor) -> Tensor:
        out = function(x)
        return _mark(self.allow(out, x) if self.edit.norm == "gradient" else out, root=_root(x))

    def activation(self, function: Function, x: Tensor) -> Tensor:
        if self.edit.activation == "gradient":
            out = self.allow(function(x), x)
        else:
            u = wide(x)
            u = torch.where(u.abs() < SMALL, SMALL, u)
            ratio = (function(u) - function(torch.zeros_like(u))) / u
            out = straight(x * ratio.detach().to(x.dtype), function(x))
        return _mark(out, root=_root(x), gate=True)

    def product(self, function: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor) -> Tensor:
        if _has(a, "statistic") or _has(b, "statistic") or self.edit.product == "gradient":
            return self.allow(function(a, b), a, b)
        if function is torch.mul and _root(a) is _root(b):
            return self._composed(function(a, b), _root(a))
        if self.edit.product == "halved":
            a, b = _scaled(a, 0.5), _scaled(b, 0.5)
            return self.allow(function(a, b), a, b)
        if _has(a, "gate") != _has(b, "gate"):
            return function(a.detach(), b) if _has(a, "gate") else function(a, b.detach())
        return function(a, b)

    def with_constant(self, function: Function, input: Any, other: Any) -> Tensor:
        return self._remember(function, input, other)

    def peak(self, function: Function, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        out = function(x, *args, **kwargs)
        for values in out if isinstance(out, tuple) else (out,):
            _mark(values, peak_of=x)
        return out

    def _composed(self, out: Tensor, u: Tensor) -> Tensor:
        """An activation that ends in a product of two functions of one tensor."""
        if self.edit.activation == "gradient":
            return _mark(self.allow(out, u), root=u, gate=True)
        value = wide(u)
        ratio = torch.where(value == 0, 0, wide(out) / value).to(u.dtype)
        return _mark(straight(u * ratio, out), root=u, gate=True)

    def _chosen(self, function: Function, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """The weights of the chosen experts are held, as the choice itself is."""
        return function(x.detach(), *args, **kwargs)

    def _remember(self, function: Function, *args: Any, **kwargs: Any) -> Any:
        """Functions of one tensor and of numbers are functions of what the tensor is a function of.

        A softmax's input less its own maximum loses nothing: the gradient of what is added to all entries is zero.
        """
        if len(args) == 2 and function is Tensor.sub and getattr(args[1], "_inseq_peak_of", None) is args[0]:
            return function(args[0], args[1].detach())
        out = function(*args, **kwargs)
        operands = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor) and x.ndim]
        roots = {id(_root(x)) for x in operands}
        if len(roots) == 1 and differentiable(*operands) and out.shape == operands[0].shape:
            _mark(out, root=_root(operands[0]))
        return out


def _mark(x: Tensor, **facts: Any) -> Tensor:
    for name, fact in facts.items():
        setattr(x, f"_inseq_{name}", fact)
    return x


def _has(x: Tensor, name: str) -> bool:
    return bool(getattr(x, f"_inseq_{name}", False))


def _root(x: Tensor) -> Tensor:
    return getattr(x, "_inseq_root", x)


def _scaled(x: Tensor, factor: float) -> Tensor:
    return Scaled.apply(x, factor)  # type: ignore[no-untyped-call]
