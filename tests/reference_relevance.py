"""Slow definitions of the methods that edit the backward pass, straight from the papers' rules.

One plain forward of the model for each generated token, over the growing prefix; then its autograd graph is walked by
hand, node after node, from the logits to the embeddings. At a node with a rule the rule's formula is applied to the values
that the node has saved; at every other node the node's own vector-Jacobian product. Nothing is intercepted, detached or
batched, and references run in a forward of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import reference as ref
import torch
from reference import Case
from reference_gradient import as_features, exchanged
from torch import Tensor, nn
from torch.nn import functional
from transformers.activations import NewGELUActivation

Node = Any
Rule = Callable[[Node, Tensor], Any]
ACTIVATIONS = ("Gelu", "GeLUFunction", "Silu", "Relu", "Tanh")
PRODUCTS = ("Mul", "Bmm", "Baddbmm")


def kind(node: Node) -> str:
    return node.name().split("::")[-1].split("Backward")[0]


def factors(node: Node) -> tuple[int, int]:
    """Where a product's factors stand among its inputs."""
    return (1, 2) if kind(node) == "Baddbmm" else (0, 1)


def is_product(node: Node) -> bool:
    return kind(node) in PRODUCTS and all(node.next_functions[i][0] is not None for i in factors(node))


def origin(node: Node) -> str:
    """What computed the values that reach a node by views alone."""
    while kind(node) in ("View", "UnsafeView", "ReshapeAlias", "Expand", "Clone", "ToCopy", "Index", "Unsqueeze"):
        node = node.next_functions[0][0]
    return kind(node)


@contextmanager
def plain_activations(model: nn.Module) -> Iterator[None]:
    """One node for an activation that transformers composes of eight."""
    composed = [
        (m, name, child) for m in model.modules() for name, child in m.named_children() if isinstance(child, NewGELUActivation)
    ]
    for parent, name, _ in composed:
        setattr(parent, name, nn.GELU(approximate="tanh"))
    yield
    for parent, name, child in composed:
        setattr(parent, name, child)


@contextmanager
def noting() -> Iterator[dict[Node, Tensor]]:
    """What functions were given whose nodes save only the result."""
    given: dict[Node, Tensor] = {}
    own = [(functional, "softmax"), (functional, "relu"), (torch, "tanh")]
    own = [(space, name, getattr(space, name)) for space, name in own]

    def noted(function: Callable[..., Tensor], values: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        out = function(values, *args, **kwargs)
        given[out.grad_fn] = values.detach()
        return out

    try:
        for space, name, function in own:
            setattr(space, name, partial(noted, function))
        yield given
    finally:
        for space, name, function in own:
            setattr(space, name, function)


def forward(case: Case, x: Tensor, t: int) -> tuple[Tensor, Tensor, dict[Node, Tensor]]:
    """Leaf, logits, and what some functions on the way were given."""
    leaf = x.detach().clone().requires_grad_()
    wanted = [(p, p.requires_grad) for p in case.model.parameters()]
    for parameter, _ in wanted:
        parameter.requires_grad_(False)
    with plain_activations(case.model), noting() as given:
        z = ref.logits(case, leaf, t)
    for parameter, flag in wanted:
        parameter.requires_grad_(flag)
    return leaf, z, given


def ordered(output: Node) -> list[Node]:
    """Every node after all nodes that it sends gradients to."""
    done, found, waiting = set(), [], [(output, False)]
    while waiting:
        node, left = waiting.pop()
        if left:
            found.append(node)
        elif node not in done:
            done.add(node)
            waiting.append((node, True))
            waiting += [(parent, False) for parent, _ in node.next_functions if parent is not None]
    return found[::-1]


@torch.no_grad()
def backward(output: Tensor, seed: Tensor, leaf: Tensor, rule: Rule) -> Tensor:
    """The gradient of ``output`` at ``leaf``, or at a tensor on the way to it.

    ``rule`` may answer in a node's place, with None where it has nothing to say.
    """
    sums: dict[tuple[Node, int], Tensor] = {(output.grad_fn, 0): seed}
    total = torch.zeros_like(leaf)
    for node in ordered(output.grad_fn):
        gradients = [sums.get((node, k)) for k in range(len(node._input_metadata))]
        if all(g is None for g in gradients):
            continue
        if node is leaf.grad_fn:
            return gradients[leaf.output_nr]
        if kind(node) == "AccumulateGrad":
            assert node.variable is leaf
            total = total + gradients[0]
            continue
        answer = rule(node, gradients[0])
        vjp = node if callable(node) else node.apply
        sent = vjp(*gradients) if answer is None else answer
        for (parent, k), gradient in zip(node.next_functions, sent if isinstance(sent, tuple) else (sent,), strict=False):
            if parent is not None and gradient is not None:
                gradient = gradient.sum_to_size(parent._input_metadata[k].shape)
                sums[parent, k] = sums[parent, k] + gradient if (parent, k) in sums else gradient
    return total


def given_to(node: Node, given: dict[Node, Tensor]) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """An activation's function, and what it was applied to."""
    if kind(node) == "Gelu":
        return partial(functional.gelu, approximate=node._saved_approximate), node._saved_self
    if kind(node) == "GeLUFunction":
        return partial(functional.gelu, approximate="tanh"), node.saved_tensors[0]
    if kind(node) == "Silu":
        return functional.silu, node._saved_self
    return {"Relu": torch.relu, "Tanh": torch.tanh}[kind(node)], given[node]


def relevance_rule(node: Node, g: Tensor, *, given: dict[Node, Tensor], softmax: Any, gated: bool, activation: bool) -> Any:
    """The rules of AttnLRP (Achtibat et al. 2024), CP-LRP (Ali et al. 2022), GIM (Edin et al. 2025) and of freezing.

    ``softmax``: "gradient", "constant" or a temperature. ``gated``: hold gates rather than halve. ``activation``: phi(u) / u.
    """
    parents = [parent for parent, _ in node.next_functions]
    if kind(node) == "NativeLayerNorm":
        scaled = g * node._saved_weight * node._saved_result2
        return (scaled - scaled.mean(-1, keepdim=True), None, None)
    if kind(node) in ("Rsqrt", "Topk"):
        return (None,)
    if kind(node) in ACTIVATIONS and activation:
        phi, u = given_to(node, given)
        return (g * phi(u) / u,)
    if kind(node) == "Softmax" and softmax == "constant":
        return (None,)
    if kind(node) == "Softmax" and softmax != "gradient":
        p = (given[node].to(g.dtype) / softmax).softmax(-1)
        return (p * (g - (g * p).sum(-1, keepdim=True)),)
    constant = ("Rsqrt", "Topk", "Div") + (("Softmax",) if softmax == "constant" else ())
    if is_product(node) and not any(origin(p) in constant for p in parents if p is not None):
        sent = node(g)
        if not gated:
            return tuple(None if s is None else s / 2 for s in sent)
        held = [p is not None and kind(p) in ACTIVATIONS for p in parents]
        return tuple(None if held[i] else s for i, s in enumerate(sent))
    return None


def seeds(z: Tensor, y: int, fn: ref.StepFunction) -> Tensor:
    """[vocabulary]: the target's ordinary gradient at the logits."""
    z = z.detach().clone().requires_grad_()
    return torch.autograd.grad(fn(z, y), z)[0]


def relevances(case: Case, fn: ref.StepFunction, rules: dict[str, Any], factor: Tensor | None = None) -> Tensor:
    """[feature, step]: the edited gradient times ``factor``, the embeddings by default."""
    x = ref.embeddings(case)
    found = torch.zeros(case.n_features, len(case.positions), dtype=x.dtype)
    for step, t in enumerate(case.positions):
        leaf, z, given = forward(case, x, t)
        gradient = backward(z, seeds(z, case.written(t), fn), leaf, partial(relevance_rule, given=given, **rules))
        found[:, step] = (gradient * (x if factor is None else factor)).sum(-1)
    return found


RULES: dict[str, dict[str, Any]] = {
    "attnlrp": {"softmax": "gradient", "gated": False, "activation": True},
    "cp_lrp": {"softmax": "constant", "gated": False, "activation": True},
    "frozen": {"softmax": "constant", "gated": True, "activation": True},
    "gim": {"softmax": 2.0, "gated": False, "activation": False},
}


def slope(phi: Callable[[Tensor], Tensor], u: Tensor, v: Tensor) -> Tensor:
    """(phi(u) - phi(v)) / (u - v), and phi'(u) where u is v."""
    u, v = u.detach().double(), v.detach().double()
    with torch.enable_grad():
        at = u.clone().requires_grad_()
        (derivative,) = torch.autograd.grad(phi(at).sum(), at)
    same = u == v
    return torch.where(same, derivative, (phi(u) - phi(v)) / torch.where(same, 1, u - v))


def logsumexp_slopes(u: Tensor, v: Tensor) -> Tensor:
    """Multipliers of ln sum_j exp(u_j), last axis: those of the logarithm times those of the exponentials."""
    u, v = u.double(), v.double()
    top = torch.maximum(u, v).amax(-1, keepdim=True)
    u, v = u - top, v - top
    return slope(torch.exp, u, v) * slope(torch.log, u.exp().sum(-1, keepdim=True), v.exp().sum(-1, keepdim=True))


def through_log_softmax(g: Tensor, u: Tensor, v: Tensor) -> Tensor:
    return g - g.sum(-1, keepdim=True) * logsumexp_slopes(u, v)


def through_softmax(g: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """p = exp(u - ln sum_j exp(u_j))."""
    log_p, log_q = (w.double().log_softmax(-1) for w in (u, v))
    return through_log_softmax(g * slope(torch.exp, log_p, log_q), u, v)


def through_layer_norm(g: Tensor, node: Node, other: Node) -> Tensor:
    """c = x - mean; y = c r, split at the midpoint; r = m^(-1/2); m = mean of c^2 + eps."""
    c, d = ((n._saved_input - n._saved_result1).double() for n in (node, other))
    r, s = (n._saved_result2.double() for n in (node, other))
    g = g.double() * node._saved_weight
    to_r = (g * (c + d) / 2).sum(-1, keepdim=True) * slope(torch.rsqrt, r**-2, s**-2)
    to_c = g * (r + s) / 2 + to_r * (c + d) / c.shape[-1]
    return to_c - to_c.mean(-1, keepdim=True)


def rescale_rule(node: Node, g: Tensor, *, twin: dict[Node, Node], given: dict[Node, Tensor]) -> Any:
    """The rescale rule (Shrikumar et al. 2017) on the values of two runs; products are split at their midpoints."""
    other = twin[node]
    if kind(node) == "NativeLayerNorm":
        return (through_layer_norm(g, node, other).to(g.dtype), None, None)
    if kind(node) == "Softmax":
        return (through_softmax(g, given[node], given[other]).to(g.dtype),)
    if kind(node) in ACTIVATIONS:
        phi, u = given_to(node, given)
        return ((g * slope(phi, u, given_to(other, given)[1])).to(g.dtype),)
    if kind(node) == "Pow":
        return ((g * slope(lambda u: u**node._saved_exponent, node._saved_self, other._saved_self)).to(g.dtype),)
    if kind(node) == "Rsqrt":
        return ((g * slope(torch.rsqrt, *(n._saved_result.double() ** -2 for n in (node, other)))).to(g.dtype),)
    if is_product(node):
        return tuple(None if a is None else (a + b) / 2 for a, b in zip(node(g), other(g), strict=True))
    return None


def twins(node: Node, other: Node) -> dict[Node, Node]:
    """The nodes of one graph and those at the same places of another."""
    found, waiting = {}, [(node, other)]
    while waiting:
        node, other = waiting.pop()
        if node is not None and node not in found:
            assert kind(node) == kind(other)
            found[node] = other
            waiting += [(a, b) for (a, _), (b, _) in zip(node.next_functions, other.next_functions, strict=True)]
    return found


def target_slopes(z: Tensor, w: Tensor, y: int, name: str) -> Tensor:
    """[vocabulary]: multipliers of a step function between two predictions."""
    written = torch.zeros_like(z, dtype=torch.float64)
    written[y] = 1
    if name == "logit":
        return written
    p, q = (v.double().log_softmax(-1) for v in (z, w))
    if name == "entropy":
        return through_log_softmax(-((p.exp() + q.exp()) / 2 + (p + q) / 2 * slope(torch.exp, p, q)), z, w)
    outer = {"probability": torch.exp, "crossentropy": torch.neg, "perplexity": lambda u: (-u).exp()}[name]
    return through_log_softmax(written * slope(outer, p, q), z, w)


def deeplift(case: Case, fn: ref.StepFunction, baseline: Tensor, *, only_source: bool = False) -> Tensor:
    """[feature, step, dim]: multipliers times the difference of the input from a baseline."""
    x = ref.embeddings(case)
    n = case.n_source if only_source else case.n_features
    start = torch.cat([baseline[:n], x[n:]])
    found = torch.zeros(n, len(case.positions), x.shape[1], dtype=x.dtype)
    for step, t in enumerate(case.positions):
        leaf, z, given = forward(case, x, t)
        _, w, others = forward(case, start, t)
        rule = partial(rescale_rule, twin=twins(z.grad_fn, w.grad_fn), given={**given, **others})
        seed = target_slopes(z.detach(), w.detach(), case.written(t), fn.__name__).to(x.dtype)
        found[:, step] = (backward(z, seed, leaf, rule) * (x - start))[:n]
    return found


def layer_deeplift(
    case: Case, fn: ref.StepFunction, module: nn.Module, baseline: Tensor, *, source: bool, only_source: bool = False
) -> Tensor:
    """[feature, step, width]: multipliers at what a module gives, times its difference from what it gives at a baseline."""
    x = ref.embeddings(case)
    n = case.n_source if only_source else case.n_features
    start = torch.cat([baseline[:n], x[n:]])
    columns = []
    for t in case.positions:
        seen: list[Tensor] = []
        with exchanged(module, None, seen):
            _, z, given = forward(case, x, t)
            _, w, others = forward(case, start, t)
        rule = partial(rescale_rule, twin=twins(z.grad_fn, w.grad_fn), given={**given, **others})
        seed = target_slopes(z.detach(), w.detach(), case.written(t), fn.__name__).to(x.dtype)
        rows = backward(z, seed, seen[0], rule) * (seen[0] - seen[1]).detach()
        columns.append(as_features(case, rows[0], source))
    return torch.stack(columns, 1)
