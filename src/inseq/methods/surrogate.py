"""Methods that fit a simple model of the target where many features are removed at once."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from inseq.engine.requests import Replaced, Score
from inseq.errors import ArgumentError
from inseq.methods._checks import at_least
from inseq.methods._method import Attribution, method
from inseq.methods.baselines import Baseline, baseline_embeds
from inseq.text.example import Example


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
