"""Methods that share the target out among the features as Shapley does among players."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from inseq.methods._method import Attribution, method
from inseq.methods._options import at_least
from inseq.methods.baselines import Baseline, baseline_embeds
from inseq.requests import Removed, Replaced, Score
from inseq.requests.example import Example


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
    values = await Score(x, Replaced(replacement, not_joined(orders)))
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


def not_joined(orders: Int[Tensor, "order feature"]) -> Removed:
    """What is missing on the way: nothing, all, and for each order all but its first one, two, ... but not all."""
    n_orders, n = orders.shape
    arrival = torch.empty_like(orders).scatter(1, orders, torch.arange(n).expand(n_orders, -1))

    def rows(i: int, j: int) -> Bool[Tensor, "row feature"]:
        place = torch.arange(i, j) - 2
        order, last = place.clamp_min(0) // max(1, n - 1), place % max(1, n - 1)
        last[place == -2], last[place == -1] = n, -1
        return arrival[order] > last[:, None]

    return Removed(2 + n_orders * (n - 1), rows)


@method("kernel_shap", paper="lundberg2017unified", signed=True, axes=(), reduce_by=(), normalize=False)
async def kernel_shap(
    x: Example,
    *,
    n_samples: int = 256,
    seed: int = 0,
    baseline: Baseline = "unk",
    include_eos_baseline: bool = True,
) -> Attribution:
    """Shapley values as the weights of a linear model of the target.

    The model is fitted by least squares to the target at sets of tokens that are kept while the others are replaced. Sets
    weigh as in the paper, and the weights of a step sum exactly to the target's change from the baseline to the whole
    input. Where there are no more sets than ``n_samples``, each is scored once and the values are exact; else sets are
    drawn, each with its complement, by the share of the paper's weights that their size has. A step's players are the
    tokens before it: a drawn set counts for as much as the paper weighs what the step sees of it, over the chance that
    this was drawn. The diagnostic ``fit`` is the weighted share of the target's variance that the linear model explains;
    it means little unless the sets are many more than the tokens.

    Args:
        x: the example.
        n_samples: how many altered inputs are scored, the whole and the empty one among them.
        seed: of the draws.
        baseline: what a token is replaced by.
        include_eos_baseline: whether end-of-sequence tokens are replaced too; the decoder's start never is.
    """
    at_least("n_samples", n_samples, 4)
    replacement = baseline_embeds(x, baseline, include_eos_baseline=include_eos_baseline)
    players = (replacement != x.embeds).any(1).cpu().nonzero()[:, 0]
    sets = draw_sets(n_samples, len(players), seed)
    kept = torch.ones(len(sets), len(x.features), dtype=torch.bool)
    kept[:, players] = sets
    values = await Score(x, Replaced(replacement, ~kept))
    scores = values.new_zeros(len(x.features), len(x.steps))
    fit = values.new_zeros(len(x.steps))
    for step, n in enumerate(x.visible):
        seen = players[players < n]
        z = sets[:, : len(seen)]
        weights = set_weights(z.sum(1), len(seen), len(players), drawn=len(sets) < 2 ** len(players))
        shares, fit[step] = constrained_fit(z[2:], values[2:, step], weights[2:], values[1, step], values[0, step])
        scores[seen, step] = shares.to(scores)
    return Attribution(scores, {"fit": fit})


def draw_sets(n_samples: int, n_players: int, seed: int) -> Bool[Tensor, "set player"]:
    """Sets of players: all, none, then either every other set or pairs of a set and its complement.

    A drawn set's size k is as likely as the paper's weight of all sets of that size together, 1 / (k (n - k)).
    """
    ends = torch.tensor([[True], [False]]).expand(2, n_players)
    if n_players <= 1:
        return ends
    if 2**n_players <= n_samples:
        codes = torch.arange(1, 2**n_players - 1)
        return torch.cat([ends, (codes[:, None] >> torch.arange(n_players)) % 2 == 1])
    draws = torch.Generator().manual_seed(seed)
    sizes = torch.arange(1, n_players, dtype=torch.float64)
    n_pairs = max(1, (n_samples - 2) // 2)
    drawn = 1 + torch.multinomial(1 / (sizes * (n_players - sizes)), n_pairs, replacement=True, generator=draws)
    ranks = torch.rand(n_pairs, n_players, generator=draws).argsort(1).argsort(1)
    half = ranks < drawn[:, None]
    return torch.cat([ends, torch.stack([half, ~half], 1).flatten(0, 1)])


def set_weights(sizes: Int[Tensor, " set"], n: int, n_players: int, *, drawn: bool) -> Float[Tensor, " set"]:
    """What sets weigh in the game of the first ``n`` players: the paper's weight, over the chance to be drawn.

    A set of all players was drawn; what the game sees of it has ``sizes`` members. All and none weigh nothing: the
    constraint holds them.
    """
    k = torch.arange(1, n, dtype=torch.float64)
    weight = -_log_choose(n, k) - (k * (n - k)).log()
    if drawn:
        beyond = torch.arange(n_players - n + 1, dtype=torch.float64)
        whole = k[:, None] + beyond
        of_size = -_log_choose(n_players, whole) - (whole * (n_players - whole)).log()
        weight = weight - (_log_choose(n_players - n, beyond) + of_size).logsumexp(1)
    share = torch.zeros(n + 1, dtype=torch.float64)
    share[1:n] = (weight - weight.amax()).exp() if n > 1 else weight
    return share[sizes]


def _log_choose(n: int, k: Float[Tensor, "*k"]) -> Float[Tensor, "*k"]:
    return math.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)


def constrained_fit(
    z: Bool[Tensor, "set player"],
    y: Float[Tensor, " set"],
    weights: Float[Tensor, " set"],
    empty: Float[Tensor, ""],
    full: Float[Tensor, ""],
) -> tuple[Float[Tensor, " player"], Float[Tensor, ""]]:
    """Weighted least squares through both ends: ``empty + z @ shares``, where the shares sum to ``full - empty``.

    Where the sets leave shares undecided, they are as equal as they can be. Also the weighted share of the variance of
    ``y`` that is explained; 0 where nothing varies.
    """
    n = z.shape[1]
    design, gain, change = z.to(weights), (y - empty).to(weights), (full - empty).to(weights)
    if n == 0:
        return design.new_zeros(0), design.new_zeros(())
    equal = (change / n).expand(n)
    centered = design - design.mean(1, keepdim=True)
    root = weights.sqrt()
    rest = gain - design @ equal
    own = torch.linalg.lstsq(root[:, None] * centered, root * rest, driver="gelsd").solution if len(z) else equal * 0
    shares = equal + own - own.mean()
    varied = weights @ (gain - weights @ gain / weights.sum().clamp_min(1e-300)) ** 2
    missed = weights @ (gain - design @ shares) ** 2
    return shares, torch.where(varied > 1e-12 * (weights @ gain**2), 1 - missed / varied, torch.zeros_like(varied))
