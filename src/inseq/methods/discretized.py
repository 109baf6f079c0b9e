"""Integrated gradients on a way through words."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from inseq.methods._method import Attribution, method
from inseq.methods._options import at_least, one_of
from inseq.methods.baselines import Baseline, baseline_embeds
from inseq.methods.gradient import BY_DIM, with_sum
from inseq.requests import Gradient, Path, Points, Score, gather
from inseq.requests.example import Example
from inseq.text.tokens import Role

STRATEGIES = ("greedy", "maxcount")

PART = 2**24
"""Distances to words that are computed at a time."""


@method("discretized_integrated_gradients", paper="sanyal2021discretized", **BY_DIM)
async def discretized_integrated_gradients(
    x: Example,
    *,
    n_steps: int = 50,
    strategy: str = "greedy",
    n_neighbors: int = 50,
    baseline: Baseline = "unk",
    include_eos_baseline: bool = False,
) -> Attribution:
    """The gradient collected on a way from a baseline to the input that passes close to words of the vocabulary.

    Every token has a way of its own, monotonic in each dimension; all advance together. A point's gradient is multiplied by
    the step to the next point. The diagnostic ``delta`` is what the scores fail to add up to: the ways are coarse.

    Args:
        x: the example.
        n_steps: how many points each way has.
        strategy: which neighbor of the last word is passed next: the one that has to move least to keep the way monotonic
            (``"greedy"``), or the one that keeps it so in most dimensions (``"maxcount"``).
        n_neighbors: how many words nearest to the last one are considered.
        baseline: where the ways start.
        include_eos_baseline: whether end-of-sequence tokens are replaced too.
    """
    at_least("n_steps", n_steps, 1)
    at_least("n_neighbors", n_neighbors, 1)
    one_of("strategy", strategy, STRATEGIES)
    b = baseline_embeds(x, baseline, include_eos_baseline=include_eos_baseline)
    ways = torch.cat(
        [
            way_through_words(wide(x.embeds[some]), wide(b[some]), x.ids[some], vocabulary, n_steps, strategy, n_neighbors)
            for role, side in x.sides
            for vocabulary in [words(x, role)]
            for some in parts(side, max(1, PART // len(vocabulary)))
        ],
        dim=1,
    )
    steps = ways.diff(dim=0)

    def combine(gradient: Float[Tensor, "step row feature dim"], values: Tensor, variants: range) -> Tensor:
        onward = steps[variants.start : variants.stop, : gradient.shape[2]].to(gradient)
        return torch.einsum("srfd,rfd->sfd", gradient, onward)

    (scores, total), (start, end) = await gather(
        Gradient(x, Points(n_steps, lambda i, j: ways[i:j].to(x.embeds)), combine, with_sum),
        Score(x, Path(b, torch.tensor([0.0, 1.0]))),
    )
    return Attribution(scores.transpose(0, 1), {"delta": total - (end - start)})


def parts(side: slice, size: int) -> list[slice]:
    """Some features at a time: each is compared with every word."""
    return [slice(start, min(start + size, side.stop)) for start in range(side.start, side.stop, size)]


def words(x: Example, role: Role) -> Float[Tensor, "word dim"]:
    """The vocabulary's embeddings on one side."""
    return wide(x.vocabulary.embed(torch.arange(x.vocabulary.size(role)), role))


def wide(values: Tensor) -> Tensor:
    """At least float32: words are told apart by their distances."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def way_through_words(
    start: Float[Tensor, "feature dim"],
    end: Float[Tensor, "feature dim"],
    ids: Int[Tensor, " feature"],
    words: Float[Tensor, "word dim"],
    n_steps: int,
    strategy: str,
    n_neighbors: int,
) -> Float[Tensor, "point feature dim"]:
    """The points from ``end`` to ``start``, ``n_steps + 1`` of them, monotonic in each dimension.

    The way is made backwards, from ``start`` on. Each of its points is the word chosen among the nearest to the last one
    passed, with those dimensions that leave the way's direction moved on by ``1 / n_steps`` of what is left. A word is
    passed once, and the token itself, ``ids``, is the first.
    """
    points, here, anchor = [start], start, start
    passed = torch.zeros(len(start), len(words), dtype=torch.bool, device=start.device).scatter(1, ids[:, None], True)
    for _ in range(n_steps - 1):
        near = nearest(anchor, words, passed, min(n_neighbors, len(words)))
        candidates = words[near]
        inside = between_ends(candidates, here[:, None], end[:, None])
        moved = torch.where(inside, candidates, (here + (end - here) / n_steps)[:, None])
        cost = (candidates - moved).norm(dim=-1) if strategy == "greedy" else -inside.sum(-1).to(candidates)
        best = cost.masked_fill(passed.gather(1, near), torch.inf).argmin(1, keepdim=True)
        chosen = near.gather(1, best)
        passed.scatter_(1, chosen, True)
        anchor = words[chosen[:, 0]]
        here = moved.gather(1, best[..., None].expand(-1, -1, moved.shape[-1]))[:, 0]
        points.append(here)
    return torch.stack([*points, end]).flip(0)


def nearest(
    anchor: Float[Tensor, "feature dim"], words: Float[Tensor, "word dim"], passed: Bool[Tensor, "feature word"], n: int
) -> Int[Tensor, "feature neighbor"]:
    """The words nearest to an anchor that were not passed yet, or as many of them as there are."""
    return torch.cdist(anchor, words).masked_fill(passed, torch.inf).topk(n, largest=False).indices


def between_ends(
    values: Float[Tensor, "feature neighbor dim"], a: Float[Tensor, "feature one dim"], b: Float[Tensor, "feature one dim"]
) -> Bool[Tensor, "feature neighbor dim"]:
    """Where values lie between two ends, which themselves belong to them."""
    return (values >= torch.minimum(a, b)) & (values <= torch.maximum(a, b))
