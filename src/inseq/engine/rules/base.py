"""Rules for the backward pass, at the operations that model code calls; what no rule covers is refused.

A rule is a *surrogate*: an expression with the wanted gradient. :class:`Straight` puts the exact forward value in its
place, so a model predicts the same bits with and without rules.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers.activations import ACT2CLS

from inseq.errors import UnsupportedModelError
from inseq.models.guest import UndoList

Function = Callable[..., Any]

_LINEAR = """Add Sub Neg View UnsafeView ReshapeAlias Reshape Transpose T Permute Expand Cat Stack Slice Select Split
SplitWithSizes Unbind Index IndexSelect IndexAdd IndexPut IndexCopy Gather Scatter ScatterAdd Squeeze Unsqueeze Clone ToCopy
Copy Alias AsStrided Sum Mean Where MaskedFill CopySlices ConstantPadNd Repeat Roll Flip Cumsum Tril Triu Unfold Diagonal
AccumulateGrad MatMul4Bit MatMul8bitLt MatMul8bitFp"""
LINEAR = frozenset(_LINEAR.split())
"""The last three are bitsandbytes' products with a quantised matrix."""

FACTORS = dict.fromkeys(("Mul", "Mm", "Bmm", "Mv", "Dot", "GroupedMm", "Convolution"), (0, 1))
FACTORS |= dict.fromkeys(("Addmm", "Baddbmm", "Addbmm", "Addmv"), (1, 2))
"""Operations that are linear in one factor where the other is constant, and where in their inputs the factors stand."""

_ACTIVATIONS = """gelu silu relu tanh sigmoid expit softplus mish elu selu celu leaky_relu relu6 hardswish hardtanh hardsigmoid
logsigmoid clamp clip clamp_min clamp_max"""
ACTIVATION_MODULES = {entry[0] if isinstance(entry, tuple) else entry for entry in ACT2CLS.values()} - {nn.Identity}
FURTHER_ACTIVATION_MODULES = {"BloomGelu"}
"""By name, since importing one model file only to look at it takes long."""

NAMESPACES = (torch, torch.Tensor, F, torch.special)


class Straight(torch.autograd.Function):
    """The value of one tensor with the gradient of another."""

    @staticmethod
    def forward(ctx: Any, surrogate: Tensor, exact: tuple[Tensor]) -> Tensor:
        return exact[0]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


class Scaled(torch.autograd.Function):
    """A tensor unchanged, its gradient times a factor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.factor, None


OURS = {function._backward_cls for function in (Straight, Scaled)}
"""Operations with rules of their own."""


def straight(surrogate: Tensor, exact: Tensor) -> Tensor:
    """``exact``, with the gradient of ``surrogate``; both have one shape."""
    return Straight.apply(surrogate.to(exact.dtype), (exact.detach(),))  # type: ignore[no-untyped-call]


def wide(x: Tensor) -> Tensor:
    """At least float32, and cut from the graph: what rules are computed in."""
    return x.detach().to(torch.promote_types(x.dtype, torch.float32))


def differentiable(*values: Any) -> bool:
    """Return whether all values are tensors that depend on the leaves."""
    return torch.is_grad_enabled() and all(isinstance(v, Tensor) and v.requires_grad for v in values)


class Rules(TorchFunctionMode, ABC):
    """While active, passes what model code calls through rules, and afterwards says what none of them covered.

    Args:
        model: the model, for messages.
        name: the method that asks, for messages.
    """

    def __init__(self, model: nn.Module, name: str) -> None:
        self.model_class = type(model).__name__
        self.name = name
        self.met: Counter[str] = Counter()
        self._allowed: set[Any] = set()
        self._inside = 0
        self._handlers = {
            function: handler.__func__  # not the bound method: a cycle would keep the graph until the collector comes
            for names, handler in self.handlers()
            for space in NAMESPACES
            for name in names
            if (function := getattr(space, name, None)) is not None
        }

    def __torch_function__(self, function: Function, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        handler = None if self._inside else self._handlers.get(function)
        call = function if handler is None else partial(handler, self, function)
        return call(*args, **(kwargs or {}))

    def handlers(self) -> Iterator[tuple[Iterable[str], Any]]:
        """Names of functions and methods of torch, and what is called in their place."""
        yield ("softmax",), self._softmax
        yield ("layer_norm",), self._layer_norm
        yield ("rms_norm",), self._rms_norm
        yield ("rsqrt", "sqrt"), self._statistic
        yield ("pow", "__pow__", "square"), self._power
        yield _ACTIVATIONS.split(), self._activation
        yield ("mul", "multiply"), self._multiply
        yield ("matmul", "bmm", "mm"), self._matmul
        yield ("baddbmm",), self._baddbmm
        yield ("einsum",), self._einsum
        yield ("scaled_dot_product_attention",), self._attention
        yield ("maximum", "minimum", "max", "min"), self._larger

    @abstractmethod
    def softmax(self, function: Function, x: Tensor, axis: int) -> Tensor:
        """``function`` is the softmax along ``axis``."""

    @abstractmethod
    def norm(self, x: Tensor, axes: tuple[int, ...], weight: Tensor | None, eps: float, centered: bool) -> Tensor:
        """The surrogate of a norm whose module does not show what it computes."""

    @abstractmethod
    def statistic(self, function: Function, x: Tensor) -> Tensor:
        """A root, or one over a root: what norms multiply with."""

    @abstractmethod
    def activation(self, function: Function, x: Tensor) -> Tensor:
        """A function of every number by itself."""

    @abstractmethod
    def product(self, function: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor) -> Tensor:
        """``function`` is linear in each of two factors, both of which depend on what is differentiated."""

    @abstractmethod
    def peak(self, function: Function, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """The largest or smallest entry along an axis."""

    def power(self, function: Function, x: Tensor) -> Tensor:
        """A power that is no norm's statistic."""
        return function(x)

    def check(self, output: Tensor, what: str) -> None:
        """Walk the graph of an output to its leaves.

        Raises:
            UnsupportedModelError: for the first operation that is not linear and that no rule covered.
        """
        seen: set[Any] = {None}
        waiting: list[Any] = [output.grad_fn]
        while waiting:
            node = waiting.pop()
            if node not in seen:
                seen.add(node)
                parents = [parent for parent, _ in node.next_functions]
                if type(node) not in OURS and node not in self._allowed and not _linear(node.name(), parents):
                    self.refuse(f"{what} uses the operation {node.name()!r}, for which it has no rule")
                waiting += parents

    def check_met(self) -> None:
        """Every transformer has attention, norms and activations: where one was not met, another code path made it.

        Raises:
            UnsupportedModelError: if one was not met since the rules were made.
        """
        for part in ("softmax", "norm", "activation"):
            if not self.met[part]:
                self.refuse(f"no {part} passed its rules, so the model computes it in a way they do not see")

    def refuse(self, reason: str) -> None:
        raise UnsupportedModelError(
            f"{self.name!r} cannot be right on {self.model_class}: {reason}. Its scores would be silently partial, so it is "
            "refused. 'saliency' and 'integrated_gradients' need no rules."
        )

    def allow(self, output: Tensor, *inputs: Tensor) -> Tensor:
        """Let the ordinary gradient pass between inputs and output."""
        passed = {x.grad_fn for x in inputs}
        waiting = [output.grad_fn]
        while waiting:
            node = waiting.pop()
            if node is not None and node not in passed:
                passed.add(node)
                self._allowed.add(node)
                waiting += [parent for parent, _ in node.next_functions]
        return output

    def _softmax(self, function: Function, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        self.met["softmax"] += 1
        call = partial(on_first, function, args, kwargs)
        axis = kwargs["dim"] if "dim" in kwargs else args[0]
        return self.softmax(call, input, axis) if differentiable(input) else call(input)

    def _layer_norm(
        self,
        function: Function,
        input: Tensor,
        normalized_shape: Any,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        eps: float = 1e-5,
        **more: Any,
    ) -> Tensor:
        self.met["norm"] += 1
        call = partial(function, normalized_shape=normalized_shape, weight=weight, bias=bias, eps=eps, **more)
        return self._normed(call, input, normalized_shape, weight, eps, True)

    def _rms_norm(
        self, function: Function, input: Tensor, normalized_shape: Any, weight: Tensor | None = None, eps: float | None = None
    ) -> Tensor:
        self.met["norm"] += 1
        call = partial(function, normalized_shape=normalized_shape, weight=weight, eps=eps)
        small = torch.finfo(input.dtype).eps if eps is None else eps
        return self._normed(call, input, normalized_shape, weight, small, False)

    def _normed(self, call: Function, x: Tensor, shape: Any, weight: Tensor | None, eps: float, centered: bool) -> Tensor:
        if not differentiable(x):
            return call(x)
        axes = tuple(range(-len(tuple(shape)), 0))
        return straight(self.norm(x, axes, weight, eps, centered), call(x.detach()))

    def _statistic(self, function: Function, input: Tensor) -> Tensor:
        self.met["norm"] += 1
        return self.statistic(function, input) if differentiable(input) else function(input)

    def _power(self, function: Function, input: Tensor, *exponent: Any) -> Tensor:
        call = partial(on_first, function, exponent, {})
        if any(isinstance(e, float) and abs(e) == 0.5 for e in exponent):
            return self._statistic(call, input)
        return self.power(call, input) if differentiable(input) else call(input)

    def _activation(self, function: Function, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        self.met["activation"] += 1
        kwargs.pop("inplace", None)
        call = partial(on_first, function, args, kwargs)
        return self.activation(call, input) if differentiable(input) else call(input)

    def _larger(self, function: Function, input: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Against a constant it is a function of every number by itself, as a clamp is."""
        other = kwargs.get("other", args[0] if args else None)
        if isinstance(other, Tensor) and differentiable(input) and not differentiable(other):
            return self.activation(partial(on_first, function, args, kwargs), input)
        call = function if isinstance(other, Tensor) else partial(self.peak, function)
        return call(input, *args, **kwargs)

    def _multiply(self, function: Function, input: Any, other: Any, **kwargs: Any) -> Tensor:
        both = differentiable(input, other)
        return self.product(torch.mul, input, other) if both else self.with_constant(function, input, other)

    def with_constant(self, function: Function, input: Any, other: Any) -> Tensor:
        """A product with a constant."""
        return function(input, other)

    def _matmul(self, function: Function, input: Tensor, other: Any = None, *, mat2: Any = None) -> Tensor:
        second = mat2 if other is None else other
        return self.product(function, input, second) if differentiable(input, second) else function(input, second)

    def _baddbmm(self, function: Function, input: Tensor, batch1: Tensor, batch2: Tensor, **kwargs: Any) -> Tensor:
        def call(a: Tensor, b: Tensor) -> Tensor:
            return function(input, a, b, **kwargs)

        return self.product(call, batch1, batch2) if differentiable(batch1, batch2) else call(batch1, batch2)

    def _einsum(self, function: Function, *args: Any) -> Tensor:
        equation, *operands = args
        operands = list(operands[0]) if len(operands) == 1 and isinstance(operands[0], list | tuple) else operands
        if len(operands) == 2 and differentiable(*operands):
            return self.product(partial(function, equation), *operands)
        return function(*args)

    def _attention(
        self,
        function: Function,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """Attention in one operation, taken apart; its value stays the operation's own."""
        if not any(differentiable(x) for x in (query, key, value)):
            return function(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
        more = {"attn_mask": attn_mask, "dropout_p": dropout_p, "is_causal": is_causal, "scale": scale}
        exact = function(query.detach(), key.detach(), value.detach(), enable_gqa=enable_gqa, **more)
        if enable_gqa:
            key, value = (x.repeat_interleave(query.shape[-3] // x.shape[-3], -3) for x in (key, value))
        scores = self._matmul(torch.matmul, query, key.transpose(-2, -1)) * (
            query.shape[-1] ** -0.5 if scale is None else scale
        )
        if is_causal:
            attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        if attn_mask is not None:
            hidden = attn_mask.dtype == torch.bool
            least = torch.finfo(scores.dtype).min
            scores = scores.masked_fill(~attn_mask, least) if hidden else scores + attn_mask
        mixed = self._matmul(torch.matmul, self._softmax(torch.softmax, scores, -1), value)
        return straight(mixed, exact) if differentiable(mixed) else exact

    @contextmanager
    def whole_activations(self, model: nn.Module) -> Iterator[None]:
        """Treat modules that are known to be activations as one function each, however they are composed."""

        def enter(module: nn.Module, args: tuple[Any, ...]) -> None:
            self._inside += 1

        def leave(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            self.met["activation"] += 1
            call = partial(_known, module, args[0], output)
            found = self.activation(call, args[0]) if differentiable(args[0]) else output
            self._inside -= 1
            return found

        with UndoList() as undo:
            for module in model.modules():
                if type(module) in ACTIVATION_MODULES or type(module).__name__ in FURTHER_ACTIVATION_MODULES:
                    undo.hook(module.register_forward_pre_hook, enter)
                    undo.hook(module.register_forward_hook, leave)
            yield


@cache
def _operation(node: str) -> str:
    return re.sub(r"Backwards?\d*$", "", node.split("::")[-1])


def _linear(node: str, parents: Sequence[Any]) -> bool:
    """Return whether an operation is linear in the inputs that pass gradients on."""
    kind = _operation(node)
    if kind in FACTORS:
        return not all(parents[i] for i in FACTORS[kind])
    return kind in LINEAR or (kind == "Div" and parents[1] is None)


def on_first(function: Function, args: tuple[Any, ...], kwargs: dict[str, Any], x: Tensor) -> Tensor:
    """Call a function whose other arguments are known."""
    return function(x, *args, **kwargs)


def _known(module: nn.Module, x: Tensor, output: Tensor, at: Tensor) -> Tensor:
    """A module's function: at its own input, what it has given already."""
    return output if at is x else module.forward(at)
