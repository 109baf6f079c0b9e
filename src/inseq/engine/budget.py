"""Limits on the size of one forward."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from inseq.requests import Gradient, Request

OVERHEAD = {"cpu": 10**8}
"""Multiplications that the fixed work of one forward is worth, by kind of device; accelerators do more in that time."""


ACCELERATOR_OVERHEAD = 10**10


@dataclass(frozen=True)
class Budget:
    """Limits on the size of one forward.

    Attributes:
        tokens: rows x padded length.
        logits: rows x steps x vocabulary.
        cotangents: vector-Jacobian products at a time x rows x padded length x dim.
        overhead: what a further forward costs beside its tokens, in tokens: short examples share one, padded.
        smallest: with fewer tokens a forward takes no less time, as the weights have to be read anyway.
        rows: of all jobs together.
        results: steps of a block x features x dim, of gradients that are not folded yet.
        weights: rows x heads x pairs of a query and a key, beyond which an edited attention is computed by blocks.
        graph: the tokens of a forward whose graph is kept: each of them holds far more, and few are as fast.
    """

    tokens: int
    logits: int
    cotangents: int
    overhead: int = 64
    smallest: int = 16
    rows: int = 2**62
    results: int = 2**62
    weights: int = 2**62
    graph: int = 2**62

    def within(self, other: Budget) -> Budget:
        """The smaller of two."""
        sizes = ("tokens", "logits", "cotangents", "rows", "results", "weights", "graph")
        return replace(self, **{size: min(getattr(self, size), getattr(other, size)) for size in sizes})

    def steps(self, request: Request[Any], vocabulary: int) -> int:
        """Return the number of a request's steps that one row may serve."""
        x = request.example
        if isinstance(request, Gradient):
            return max(1, self.results // max(1, x.embeds.numel()))
        return max(1, self.logits // vocabulary)

    def halved(self) -> Budget:
        tokens, logits, cotangents = (max(1, size // 2) for size in (self.tokens, self.logits, self.cotangents))
        return replace(self, tokens=tokens, logits=logits, cotangents=cotangents)


def default_budget(device: torch.device, weights: int, dim: int) -> Budget:
    """Small batches fit a CPU's cache; accelerators want large ones.

    Args:
        device: where the model is.
        weights: how many weights each token is multiplied with.
        dim: how wide the model is.
    """
    overhead = OVERHEAD.get(device.type, ACCELERATOR_OVERHEAD) // max(1, weights)
    if device.type == "cpu":
        tokens, graph = max(512, 2**20 // dim), max(256, 2**18 // dim)
        return Budget(tokens=tokens, logits=2**25, cotangents=2**19, overhead=overhead, graph=graph)
    return Budget(tokens=2**15, logits=2**28, cotangents=2**27, overhead=overhead, smallest=512)
