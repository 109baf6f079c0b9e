"""Many gradients from one graph: the head first, then batched vector-Jacobian products through the body."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from inseq.models.adapter import Reading


def head_cotangents(
    reading: Reading, scores: Float[Tensor, "row step"], real: Bool[Tensor, "row step"]
) -> Float[Tensor, "row step hidden"] | None:
    """Each score's gradient at its own hidden state: one small backward, the vocabulary matrix touched once.

    None where the scores do not depend on the hidden states, or have no gradient.
    """
    if not scores.requires_grad:
        return None
    total = scores.masked_fill(~real, 0).sum()
    (cotangents,) = torch.autograd.grad(total, reading.chosen, allow_unused=True)
    return cotangents


def body_gradients(
    hidden: Float[Tensor, "row decoder hidden"],
    cotangents: Float[Tensor, "row step hidden"],
    at: Int[Tensor, "row step"],
    sums: Sequence[tuple[Tensor, Tensor | int]],
    leaves: Sequence[Tensor],
    chunk: int,
    batched: bool,
    *,
    keep: bool = False,
) -> Iterator[tuple[range, tuple[Tensor, ...]]]:
    """Yield, chunk by chunk of sums, the gradients to each leaf: Float["sum row position dim"].

    Rows are independent, so one product serves the same step of every row; and the sum of several.

    Args:
        hidden: hidden states of all positions, differentiable to the leaves.
        cotangents: gradients of the scores at the hidden states ``at``.
        sums: what each product is of: the cotangents of some rows and steps, Int["pair"] and Int["pair"].
        leaves: embeddings of the encoder, the decoder, or both.
        chunk: how many products at a time.
        batched: whether a chunk goes backward as one batch, or one product after the other.
        keep: whether the graph is needed again.
    """
    at = at.to(hidden.device)
    for a in range(0, len(sums), chunk):
        steps = range(a, min(a + chunk, len(sums)))
        seeds = hidden.new_zeros(len(steps), *hidden.shape)
        for k, (rows, which) in enumerate(sums[steps.start : steps.stop]):
            seeds[k, rows, at[rows, which]] = cotangents[rows, which].to(hidden)
        more = keep or steps.stop < len(sums)
        if batched:
            grads = torch.autograd.grad(
                hidden, leaves, seeds, is_grads_batched=True, retain_graph=more, materialize_grads=True
            )
        else:
            grads = _one_by_one(hidden, leaves, seeds, more)
        yield steps, grads


def _one_by_one(hidden: Tensor, leaves: Sequence[Tensor], seeds: Tensor, more: bool) -> tuple[Tensor, ...]:
    last = len(seeds) - 1
    each = [
        torch.autograd.grad(hidden, leaves, seed, retain_graph=more or k < last, materialize_grads=True)
        for k, seed in enumerate(seeds)
    ]
    return tuple(torch.stack(parts) for parts in zip(*each, strict=True))
