"""Methods that follow the target's gradient."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from inseq.engine.requests import Gradient, Path, Score, gather
from inseq.errors import ArgumentError
from inseq.methods._method import Attribution, method
from inseq.methods.baselines import Baseline, baseline_embeds
from inseq.text.example import Example


@method("saliency", paper="simonyan2014deep", signed=False, axes=("dim",), reduce_by=("vnorm",), normalize=True)
async def saliency(x: Example) -> Attribution:
    """How fast the target changes when a token's embedding moves: the gradient's magnitude."""
    return Attribution((await Gradient(x, read=torch.abs)).transpose(0, 1))


@method("input_x_gradient", paper="denil2014extraction", signed=True, axes=("dim",), reduce_by=("vnorm",), normalize=True)
async def input_x_gradient(x: Example) -> Attribution:
    """What a token's embedding contributes to a linear model of the target: the gradient times the embedding."""
    return Attribution((await Gradient(x, read=lambda gradient: gradient * x.embeds)).transpose(0, 1))


@method(
    "integrated_gradients",
    paper="sundararajan2017axiomatic",
    signed=True,
    axes=("dim",),
    reduce_by=("vnorm",),
    normalize=True,
)
async def integrated_gradients(
    x: Example, *, n_steps: int = 50, baseline: Baseline = "unk", include_eos_baseline: bool = False
) -> Attribution:
    """The gradient collected on the straight way from a baseline to the input.

    The scores of a step, summed over features and dim, equal the target's change along the way; the diagnostic ``delta``
    is what is missing. Nodes and weights are Gauss-Legendre's.

    Args:
        x: the example.
        n_steps: how many points of the way are visited.
        baseline: where the way starts; a token by default, since models that normalise by the root mean square jump at a
            zero embedding.
        include_eos_baseline: whether end-of-sequence tokens are replaced too.
    """
    if n_steps < 1:
        raise ArgumentError(f"n_steps={n_steps} must be at least 1; 50 is usual.")
    b = baseline_embeds(x, baseline, include_eos_baseline=include_eos_baseline)
    alphas, weights = gauss_legendre(n_steps)

    def read(mean_gradient: Float[Tensor, "step feature dim"]) -> tuple[Tensor, Tensor]:
        scores = mean_gradient * (x.embeds - b)
        return scores, scores.sum((1, 2))

    (scores, total), ends = await gather(
        Gradient(x, Path(b, alphas), weights, read), Score(x, Path(b, torch.tensor([0.0, 1.0])))
    )
    return Attribution(scores.transpose(0, 1), {"delta": total - (ends[1] - ends[0])})


def gauss_legendre(n: int) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Nodes and weights of the Gauss-Legendre quadrature on [0, 1], exact for polynomials of degree 2n - 1."""
    nodes, weights = np.polynomial.legendre.leggauss(n)
    return torch.from_numpy((nodes + 1) / 2), torch.from_numpy(weights / 2)
