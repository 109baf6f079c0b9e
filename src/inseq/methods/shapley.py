"""Methods that share the target out among the features as Shapley does among players."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from inseq.engine.requests import Replaced, Score
from inseq.methods._checks import at_least
from inseq.methods._method import Attribution, method
from inseq.methods.baselines import Baseline, baseline_embeds
from inseq.text.example import Example


@method("shapley_sampling", paper="castro2009polynomial", signed=True, axes=(), reduce_by=(), normalize=False)
async def shapley_sampling(
    x: Example,
    *,
    n_permutations: int = 10,
    seed: int = 0,
    baseline: Baseline = "unk",
    include_eos_baseline: bool = True,
) -> Attribution:
    """What a token adds to the target when tokens join in random order, on average.

    Every drawn order is also walked backwards. The scores of a step sum to the target's change from the baseline to the
    whole input, however few orders are drawn. The diagnostic ``standard_error`` is the largest over the tokens;
    one order says nothing about it.

    Args:
        x: the example.
        n_permutations: how many orders are drawn; each counts twice, with its reverse.
        seed: of the draws.
        baseline: what a token is before it joins.
        include_eos_baseline: whether end-of-sequence tokens are replaced too; the decoder's start never is.
    """
    at_least("n_permutations", n_permutations, 1)
    orders = draw_orders(n_permutations, len(x.features), seed)
    replacement = baseline_embeds(x, baseline, include_eos_baseline=include_eos_baseline)
    values = await Score(x, Replaced(replacement, ~joined(orders)))
    full, empty = values[0], values[1]
    between = values[2:].reshape(len(orders), orders.shape[1] - 1, values.shape[1])
    ends = (empty.expand(len(orders), 1, -1), full.expand(len(orders), 1, -1))
    gains = torch.cat([ends[0], between, ends[1]], dim=1).diff(dim=1)
    by_feature = torch.zeros_like(gains).scatter(1, orders[..., None].expand_as(gains), gains)
    pairs = (by_feature[:n_permutations] + by_feature[n_permutations:]) / 2
    spread = pairs.std(0) if n_permutations > 1 else torch.full_like(pairs[0], torch.nan)
    error = (spread / n_permutations**0.5).amax(0)
    return Attribution(by_feature.mean(0).masked_fill(~x.seen, 0), {"standard_error": error})


def draw_orders(n_permutations: int, n_features: int, seed: int) -> Int[Tensor, "order feature"]:
    """Random orders of the features, followed by the same orders reversed."""
    draws = torch.Generator().manual_seed(seed)
    orders = torch.stack([torch.randperm(n_features, generator=draws) for _ in range(n_permutations)])
    return torch.cat([orders, orders.flip(1)])


def joined(orders: Int[Tensor, "order feature"]) -> Bool[Tensor, "variant feature"]:
    """The sets of features on the way: all, none, and for each order its first one, two, ... but not all."""
    n_orders, n = orders.shape
    arrival = torch.empty_like(orders).scatter(1, orders, torch.arange(n).expand(n_orders, -1))
    way = arrival[:, None] <= torch.arange(n - 1)[:, None]
    return torch.cat([torch.ones(1, n, dtype=torch.bool), torch.zeros(1, n, dtype=torch.bool), way.flatten(0, 1)])
