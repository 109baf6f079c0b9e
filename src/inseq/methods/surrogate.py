"""Methods that fit a simple model of the target where many features are removed at once."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from inseq.errors import ArgumentError
from inseq.methods._method import Attribution, method
from inseq.methods._options import at_least
from inseq.methods.baselines import Baseline, baseline_embeds
from inseq.methods.removal import Removal, without
from inseq.methods.sources import Sources, find_sources
from inseq.requests import Prediction, Replaced, Score, Target
from inseq.requests.example import Example

LARGEST_ODDS = 100.0
"""Of log-odds: a token that alone is possible has infinite odds, which no fit survives."""

MOST_GUESSES = 10_000
"""Of which coefficients are not zero: rounding could make the search turn in circles."""


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
    at_least("n_samples", n_samples, 2)
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
    kept = torch.rand(n_samples, n_features, generator=torch.Generator().manual_seed(seed), dtype=torch.float32) < 0.5
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


@method(
    "context_cite", paper="cohenwang2024contextcite", signed=True, axes=(), reduce_by=(), normalize=False, uses_target=False
)
async def context_cite(
    x: Example,
    *,
    sources: Sources = "sentences",
    n_samples: int = 64,
    alpha: float = 0.01,
    seed: int = 0,
    removal: Removal = "replace",
    baseline: Baseline = "unk",
) -> Attribution:
    """The weights of a sparse linear model of the log-odds, fitted where many sources are removed at random.

    A source is a span of the prompt or of the encoder's text. Each is kept with equal chance; the target is the log-odds of
    the written token, ``ln p - ln(1 - p)``, and the model a LASSO on standardised masks. A token has its source's weight
    divided by the source's length, so that the scores of a source sum to its weight; what is in no source scores nothing.
    The sequence score ``response``, a single column, holds the same for the log-odds of all explained tokens together.
    The diagnostic ``fit`` is the rank correlation between the model and the target on a quarter as many further inputs,
    the whole one among them, which the fit has not seen: it is low where sources stand in for each other. It is 0 where
    the model or the target is constant.

    Args:
        x: the example.
        sources: what the prompt or source is divided into; see :data:`~inseq.methods.sources.Sources`.
        n_samples: how many altered inputs the model is fitted to.
        alpha: the penalty on the magnitude of the weights.
        seed: of the draws.
        removal: whether sources are replaced, deleted or hidden from attention; see :data:`~inseq.methods.removal.Removal`.
        baseline: what a source's tokens are replaced by.
    """
    at_least("n_samples", n_samples, 2)
    if not alpha >= 0:
        raise ArgumentError(f"alpha={alpha} must not be below 0.")
    held = find_sources(x, sources)
    kept = draw_sources(n_samples, len(held), seed, some=removal != "replace")
    removed = (~kept).float() @ held.float() > 0
    variants = without(x, removed, removal=removal, baseline=baseline)
    odds = await Score(x.apart(), variants, target=Target(log_odds, contrast="none"))
    lengths = torch.tensor([*map(len, x.parts), len(x.at)])
    y = torch.cat([x.by_step(odds, 1, joint_log_odds), joint_log_odds(odds)[:, None]], 1).double() / lengths
    n_held_out = len(kept) - n_samples
    weights = lasso(kept[n_held_out:].double(), y[n_held_out:], alpha)
    spread = held.double() / held.sum(1, keepdim=True)
    scores = (spread.T @ weights * lengths).to(odds)
    fit = rank_correlation(kept[:n_held_out].double() @ weights, y[:n_held_out])[:-1]
    return Attribution(scores[:, :-1], {"fit": fit.to(odds)}, {"response": scores[:, -1:]})


def log_odds(p: Prediction) -> Float[Tensor, " n"]:
    """``ln p - ln(1 - p)`` of the written token: its logit against the sum of all others, exact however sure the model is."""
    written = p.logits.gather(-1, p.ids[:, None])
    others = p.logits.scatter(-1, p.ids[:, None], -torch.inf).logsumexp(-1)
    return (written[:, 0] - others).clamp(-LARGEST_ODDS, LARGEST_ODDS)


def joint_log_odds(odds: Float[Tensor, "..."], dim: int = 1) -> Float[Tensor, "..."]:
    """The log-odds of all tokens together, from those of each along an axis."""
    log_p = logsigmoid(odds.double()).sum(dim).clamp_max(-torch.finfo(torch.float64).tiny)
    return (log_p - (-torch.expm1(log_p)).log()).to(odds)


def draw_sources(n_samples: int, n_sources: int, seed: int, *, some: bool) -> Bool[Tensor, "sample source"]:
    """Which sources each sample keeps: first those that are held out, beginning with the whole input.

    With ``some``, a sample that would keep none is drawn again.
    """
    draws = torch.Generator().manual_seed(seed)
    n = max(2, n_samples // 4) + n_samples
    kept = torch.rand(n, n_sources, generator=draws) < 0.5
    while some and (empty := ~kept.any(1)).any():
        kept[empty] = torch.rand(int(empty.sum()), n_sources, generator=draws) < 0.5
    kept[0] = True
    return kept


def lasso(
    z: Float[Tensor, "sample source"], y: Float[Tensor, "sample column"], alpha: float
) -> Float[Tensor, "source column"]:
    """Least squares with a penalty on the coefficients' magnitude, for each column of ``y``.

    Minimises ``|y - z w - c|^2 / (2 samples) + alpha |w|`` on ``z`` standardised; the coefficients are those of ``z`` itself.
    """
    scale = z.std(0, unbiased=False)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    design = (z - z.mean(0)) / scale
    gram, pull = design.T @ design / len(z), design.T @ (y - y.mean(0)) / len(z)
    return torch.stack([_sparse(gram, column, alpha) for column in pull.T], 1) / scale[:, None]


def _sparse(gram: Float[Tensor, "source source"], pull: Float[Tensor, " source"], alpha: float) -> Float[Tensor, " source"]:
    """The minimum of ``w gram w / 2 - pull w + alpha |w|``, by feature-sign search (lee2007efficient).

    The coefficients that are not zero and their signs are guessed: the minimum for them is a linear equation, and the best
    point on the way to it, where coefficients that would change their sign become zero, is the next guess. Once it is the
    minimum for its signs, the coefficient joins that would gain most. Each guess is better than the last: it ends.
    """
    w = torch.zeros_like(pull)
    tolerance = 1e-10 * pull.abs().amax().clamp_min(alpha)
    for _ in range(MOST_GUESSES):
        slope = pull - gram @ w
        signs = w.sign()
        settled = ((slope - alpha * signs).abs() <= tolerance) | (w == 0)
        if settled.all():
            joins = int((slope.abs() * (w == 0)).argmax())
            if slope[joins].abs() <= alpha + tolerance or w[joins] != 0:
                break
            signs[joins] = slope[joins].sign()
        on = signs.nonzero()[:, 0]
        part, reach, start = gram[on][:, on], pull[on], w[on]
        way = torch.linalg.lstsq(part, (reach - alpha * signs[on])[:, None], driver="gelsy").solution[:, 0] - start
        crossings = -start / way
        stops = torch.cat([crossings[(crossings > 0) & (crossings < 1)], crossings.new_ones(1)])
        points = start + stops[:, None] * way
        points[(stops[:, None] == crossings) & (start != 0)] = 0
        values = ((points @ part) * points).sum(1) / 2 - points @ reach + alpha * points.abs().sum(1)
        w[on] = points[values.argmin()]
    return w


def rank_correlation(a: Float[Tensor, "sample column"], b: Float[Tensor, "sample column"]) -> Float[Tensor, " column"]:
    """Spearman's correlation of each column; equal values share their rank, and a constant column correlates with nothing."""

    def ranks(values: Tensor) -> Tensor:
        below = (values[None] < values[:, None]).double().sum(1)
        level = (values[None] <= values[:, None]).double().sum(1)
        centered = (below + level) / 2
        return centered - centered.mean(0)

    p, q = ranks(a), ranks(b)
    both = (p**2).sum(0) * (q**2).sum(0)
    return torch.where(both > 0, (p * q).sum(0) / both.clamp_min(1e-300).sqrt(), torch.zeros_like(both))
