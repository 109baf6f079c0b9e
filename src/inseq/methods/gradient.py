"""Methods that follow the target's gradient at the input, or near it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from inseq.errors import ArgumentError
from inseq.methods._method import Attribution, method
from inseq.methods._options import at_least, one_of
from inseq.requests import Gradient, Points
from inseq.requests.example import Example

BY_DIM: dict[str, Any] = {"signed": True, "axes": ("dim",), "reduce_by": ("vnorm",), "normalize": True}
"""Facts of methods that score every dimension of an embedding."""


@method("saliency", paper="simonyan2014deep", **{**BY_DIM, "signed": False})
async def saliency(x: Example) -> Attribution:
    """How fast the target changes when a token's embedding moves: the gradient's magnitude."""
    return Attribution((await Gradient(x, read=lambda gradient, _: gradient.abs())).transpose(0, 1))


@method("input_x_gradient", paper="denil2014extraction", **BY_DIM)
async def input_x_gradient(x: Example) -> Attribution:
    """What a token's embedding contributes to a linear model of the target: the gradient times the embedding."""
    return Attribution((await Gradient(x, read=lambda gradient, _: gradient * x.embeds)).transpose(0, 1))


@method("smooth_grad", paper="smilkov2017smoothgrad", **BY_DIM)
async def smooth_grad(
    x: Example,
    *,
    n_samples: int = 20,
    noise: float = 0.1,
    statistic: str = "mean",
    seed: int = 0,
) -> Attribution:
    """The gradient's mean, mean square or variance over noisy copies of the input.

    The mean is SmoothGrad; the mean square is that of Hooker et al. (hooker2019benchmark), the variance VarGrad
    (adebayo2018local).

    Args:
        x: the example.
        n_samples: how many noisy copies are made.
        noise: the standard deviation of the noise, as a share of the embeddings' range in the source or prompt; the paper
            uses 0.1 to 0.2.
        statistic: what is taken over the copies: ``"mean"``, ``"square"`` or ``"variance"``.
        seed: of the draws; a sample's noise depends on nothing else.
    """
    at_least("n_samples", n_samples, 2 if statistic == "variance" else 1)
    one_of("statistic", statistic, ("mean", "square", "variance"))
    if not noise >= 0:
        raise ArgumentError(f"noise={noise} must not be below 0.")
    given = x.embeds[: x.n_source or sum(token.role == "prompt" for token in x.features)]
    spread = noise * float(given.max() - given.min())

    def points(i: int, j: int) -> Tensor:
        return x.embeds + spread * torch.stack([draw(x.embeds, seed, k)[1] for k in range(i, j)])

    def combine(gradient: Float[Tensor, "step row feature dim"], values: Tensor, variants: range) -> Tensor:
        exact = gradient.double()
        return torch.cat([exact.sum(1), (exact**2).sum(1)], -1) / n_samples

    def read(moments: Float[Tensor, "step feature moments"], steps: range) -> Tensor:
        mean, square = moments.chunk(2, -1)
        found = (square - mean**2).clamp_min(0) if statistic == "variance" else {"mean": mean, "square": square}[statistic]
        return found.to(torch.promote_types(x.embeds.dtype, torch.float32))

    found = await Gradient(x, Points(n_samples, points), combine, read, additive=statistic == "mean", held=4)
    return Attribution(found.transpose(0, 1))


def draw(like: Float[Tensor, "feature dim"], seed: int, sample: int) -> tuple[float, Float[Tensor, "feature dim"]]:
    """A uniform number and standard normal noise that belong to one sample, whatever is drawn beside it."""
    numbers = torch.Generator().manual_seed((seed * 1_000_003 + sample) % 2**63)
    share = torch.rand((), generator=numbers, dtype=torch.float64)
    return float(share), torch.randn(like.shape, generator=numbers, dtype=torch.float64).to(like)


def with_sum(scores: Float[Tensor, "step feature dim"], steps: range) -> tuple[Tensor, Tensor]:
    """Scores, and what they add up to before anything is folded."""
    return scores, scores.sum((1, 2))


def with_total(way: Float[Tensor, "feature dim"]) -> Callable[[Tensor, range], tuple[Tensor, Tensor]]:
    """The product of a step's gradient with a way, and its sum."""
    return lambda gradient, steps: with_sum(gradient * way, steps)
