"""Methods that change the input and watch the target."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from inseq.engine.requests import Replaced, Score
from inseq.errors import ArgumentError
from inseq.methods._method import Attribution, method
from inseq.methods.baselines import Baseline, baseline_embeds
from inseq.text.example import Example


@method("occlusion", paper="zeiler2014visualizing", signed=True, axes=(), reduce_by=(), normalize=False)
async def occlusion(x: Example, *, baseline: Baseline = "unk", include_eos_baseline: bool = True) -> Attribution:
    """What the target loses when a token is replaced; below zero where it gains.

    Args:
        x: the example.
        baseline: what a token is replaced by.
        include_eos_baseline: whether end-of-sequence tokens are replaced too; the decoder's start never is.
    """
    n = len(x.features)
    removed = torch.cat([torch.zeros(1, n, dtype=torch.bool), torch.eye(n, dtype=torch.bool)])
    replacement = baseline_embeds(x, baseline, include_eos_baseline=include_eos_baseline)
    scores = await Score(x, Replaced(replacement, removed))
    return Attribution((scores[0] - scores[1:]).masked_fill(~x.seen, 0))


@method("lime", paper="ribeiro2016why", signed=True, axes=(), reduce_by=(), normalize=False)
async def lime(
    x: Example,
    *,
    n_samples: int = 200,
    kernel_width: float = 0.25,
    ridge: float = 1.0,
    seed: int = 0,
    baseline: Baseline = "unk",
    include_eos_baseline: bool = True,
) -> Attribution:
    """The weights of a linear model of the target, fitted where many tokens are replaced at random.

    A sample is binary: a token is kept or replaced, with equal chance. Samples weigh by their nearness to the whole
    input, ``exp(-(d / kernel_width)^2)`` with the cosine distance ``d``; a step's fit sees the tokens before the step
    alone. The diagnostic ``fit`` is the weighted share of the target's variance that the linear model explains.

    Args:
        x: the example.
        n_samples: how many altered inputs are scored, the whole input among them.
        kernel_width: how fast samples lose weight with their distance, which is between 0 and 1.
        ridge: the penalty on the squared weights.
        seed: of the draws.
        baseline: what a token is replaced by.
        include_eos_baseline: whether end-of-sequence tokens are replaced too; the decoder's start never is.
    """
    _at_least("n_samples", n_samples, 2)
    for name, value in (("kernel_width", kernel_width), ("ridge", ridge)):
        if not value > 0:
            raise ArgumentError(f"{name}={value} must be above 0.")
    replacement = baseline_embeds(x, baseline, include_eos_baseline=include_eos_baseline)
    never_replaced = (replacement == x.embeds).all(1).cpu()
    kept = draw_kept(n_samples, len(x.features), seed) | never_replaced
    values = await Score(x, Replaced(replacement, ~kept))
    scores = values.new_zeros(len(x.features), len(x.steps))
    fit = values.new_zeros(len(x.steps))
    for step, n in enumerate(x.visible):
        z, y = kept[:, :n].to(values), values[:, step]
        distance = 1 - (z.sum(1) / n).sqrt()
        scores[:n, step], fit[step] = weighted_ridge(z, y, (-((distance / kernel_width) ** 2)).exp(), ridge)
    return Attribution(scores, {"fit": fit})


def draw_kept(n_samples: int, n_features: int, seed: int) -> Bool[Tensor, "sample feature"]:
    """Which features each sample keeps: the first keeps all, the others each with equal chance."""
    kept = torch.rand(n_samples, n_features, generator=torch.Generator().manual_seed(seed)) < 0.5
    kept[0] = True
    return kept


def weighted_ridge(
    z: Float[Tensor, "sample feature"], y: Float[Tensor, " sample"], weights: Float[Tensor, " sample"], ridge: float
) -> tuple[Float[Tensor, " feature"], Float[Tensor, ""]]:
    """Weighted least squares with a free intercept and a penalty on the coefficients; also the share explained."""
    share = weights / weights.sum()
    z, y = z - share @ z, y - share @ y
    penalty = ridge * torch.eye(z.shape[1], dtype=z.dtype)
    coefficients = torch.linalg.solve(z.T @ (weights[:, None] * z) + penalty, z.T @ (weights * y))
    total = (share * y**2).sum()
    missed = (share * (y - z @ coefficients) ** 2).sum()
    return coefficients, torch.where(total > 0, 1 - missed / total, torch.zeros_like(total))


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
    _at_least("n_permutations", n_permutations, 1)
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


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ArgumentError(f"{name}={value} must be at least {least}.")
