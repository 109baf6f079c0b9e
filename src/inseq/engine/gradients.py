"""Many gradients from one graph: the head first, then vector-Jacobian products through the body."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from inseq.models.graphs import Graph
from inseq.models.inputs import Reading
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
    graph: Graph, body: Body, n_sums: int, leaves: Sequence[Tensor], room: int, batched: bool
) -> Iterator[tuple[range, tuple[Tensor, ...]]]:
    """Yield, some sums at a time, the gradients to each leaf: Float["sum row position dim"].

    Rows are independent, so one product serves the same step of every row; and the sum of several.

    Args:
        graph: from the leaves to the hidden states.
        body: where products enter it.
        n_sums: how many products there are, each of a prediction or of the sum of several.
        leaves: embeddings of the encoder, the decoder, or both; or the values of layers.
        room: how many numbers the products taken at a time may hold at the leaves, or at the hidden states.
        batched: whether they go backward as one batch, or one after the other.
    """
    encoded = graph.encoded
    first = leaves if encoded is None else [encoded.leaf, *leaves[1:]]
    size = graph.hidden.numel() if encoded is not None else max(graph.hidden.numel(), sum(leaf.numel() for leaf in leaves))
    for sums in _some(n_sums, room // size):
        found = pulled(body.outputs, first, body.seeds(sums, batched), batched)
        if encoded is None:
            yield sums, found
            continue
        for part in _some(len(sums), room // leaves[0].numel()):
            chosen = slice(part.start, part.stop)
            through = pulled((encoded.output,), leaves[:1], (found[0][chosen],), batched)
            yield (
                range(sums.start + part.start, sums.start + part.stop),
                (*through, *(gradient[chosen] for gradient in found[1:])),
            )


def _some(n: int, size: int) -> Iterator[range]:
    """As few ranges of at most a size as there can be, of about the same size."""
    pieces = -(-n // max(1, size))
    for i in range(pieces):
        yield range(n * i // pieces, n * (i + 1) // pieces)
