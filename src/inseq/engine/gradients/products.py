"""Vector-Jacobian products: where they enter a graph, and how several are taken."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

Sums = Sequence[tuple[Tensor, Tensor | int]]
"""The predictions that start each product: rows and predictions, Int["pair"] each, or one prediction of every row."""


@dataclass(frozen=True, eq=False)
class Body:
    """The part of a graph that products pass: the tensors they enter at, and the cotangents of a range of products there.

    Attributes:
        outputs: tensors of the graph.
        seeds: for some products the gradients at the outputs, each with the products in front.
    """

    outputs: tuple[Tensor, ...]
    seeds: Callable[[range, bool], tuple[Tensor, ...]]


def whole_body(
    hidden: Float[Tensor, "row decoder hidden"],
    cotangents: Float[Tensor, "row prediction hidden"],
    at: Int[Tensor, "row prediction"],
    sums: Sums,
) -> Body:
    """Products enter at the hidden states ``at``, where the scores' gradients are ``cotangents``."""

    def seeds(products: range, batched: bool) -> tuple[Tensor, ...]:
        found = hidden.new_zeros(len(products), *hidden.shape)
        for k, (rows, which) in enumerate(sums[products.start : products.stop]):
            found[k, rows, at[rows, which]] = cotangents[rows, which].to(hidden)
        return (found,)

    return Body((hidden,), seeds)


def pulled(outputs: Sequence[Tensor], leaves: Sequence[Tensor], seeds: Sequence[Tensor], batched: bool) -> tuple[Tensor, ...]:
    """Products of the seeds, Float["step *shape"] for each output, with the Jacobians to the leaves; the graph is kept."""
    if batched:
        return torch.autograd.grad(
            outputs, leaves, tuple(seeds), is_grads_batched=True, retain_graph=True, materialize_grads=True
        )
    each = [
        torch.autograd.grad(outputs, leaves, seed, retain_graph=True, materialize_grads=True)
        for seed in zip(*seeds, strict=True)
    ]
    return tuple(torch.stack(parts) for parts in zip(*each, strict=True))
