"""Many gradients from one graph: the head first, then vector-Jacobian products through the body."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from inseq.models.adapter import Reading
from inseq.models.products import Body, pulled


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
    body: Body, n_steps: int, leaves: Sequence[Tensor], chunk: int, batched: bool
) -> Iterator[tuple[range, tuple[Tensor, ...]]]:
    """Yield, chunk by chunk of steps, the gradients to each leaf: Float["step row position dim"].

    Rows are independent, so one product serves the same step of every row.

    Args:
        body: the graph from the leaves on.
        n_steps: how many steps there are.
        leaves: embeddings of the encoder, the decoder, or both.
        chunk: how many products at a time.
        batched: whether a chunk goes backward as one batch, or one product after the other.
    """
    for a in range(0, n_steps, chunk):
        steps = range(a, min(a + chunk, n_steps))
        yield steps, pulled(body.outputs, leaves, body.seeds(steps, batched), batched)
