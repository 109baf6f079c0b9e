"""Methods that collect the gradient on a way from a baseline to the input."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from inseq.errors import ArgumentError
from inseq.methods._method import Attribution, method
from inseq.methods._options import at_least, one_of
from inseq.methods.baselines import Baseline, baseline_embeds
from inseq.methods.gradient import BY_DIM, draw, with_sum, with_total
from inseq.methods.refined import refined
from inseq.requests import Gradient, Path, Points, Replaced, Score, between, gather, weighted
from inseq.requests.example import Example

Quadrature = Callable[[int], tuple[Float[Tensor, " n"], Float[Tensor, " n"]]]


def gauss_legendre(n: int) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Nodes and weights of the Gauss-Legendre quadrature on [0, 1], exact for polynomials of degree 2n - 1."""
    nodes, weights = np.polynomial.legendre.leggauss(n)
    return torch.from_numpy((nodes + 1) / 2), torch.from_numpy(weights / 2)


def riemann(offset: float) -> Quadrature:
    """Equal weights at one place of each of n equal parts: its left end at 0, its middle at 0.5, its right end at 1."""

    def quadrature(n: int) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        return (torch.arange(n, dtype=torch.float64) + offset) / n, torch.full((n,), 1 / n, dtype=torch.float64)

    return quadrature


def trapezoid(n: int) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Equal distances from 0 to 1, half weight at either end."""
    at_least("n_steps", n, 2)
    weights = torch.full((n,), 1 / (n - 1), dtype=torch.float64)
    weights[[0, -1]] /= 2
    return torch.linspace(0, 1, n, dtype=torch.float64), weights


QUADRATURES: dict[str, Quadrature] = {
    "gausslegendre": gauss_legendre,
    "riemann_left": riemann(0.0),
    "riemann_middle": riemann(0.5),
    "riemann_right": riemann(1.0),
    "riemann_trapezoid": trapezoid,
}


@method("integrated_gradients", paper="sundararajan2017axiomatic", **BY_DIM)
async def integrated_gradients(
    x: Example,
    *,
    n_steps: int = 50,
    quadrature: str = "gausslegendre",
    tolerance: float | None = None,
    baseline: Baseline = "unk",
    include_eos_baseline: bool = False,
) -> Attribution:
    """The gradient collected on the straight way from a baseline to the input.

    The scores of a step, summed over features and dim, equal the target's change along the way; the diagnostic ``delta``
    is what is missing.

    Args:
        x: the example.
        n_steps: how many points of the way are visited; with ``tolerance`` the most.
        quadrature: where on the way the points lie, and their weights: ``"gausslegendre"``, ``"riemann_left"``,
            ``"riemann_middle"``, ``"riemann_right"`` or ``"riemann_trapezoid"``. With ``tolerance``, points have places of
            their own.
        tolerance: visit few points, and more until the scores are complete and agree; see below.
        baseline: where the way starts; a token by default, since models that normalise by the root mean square jump at a
            zero embedding.
        include_eos_baseline: whether end-of-sequence tokens are replaced too.

    With a ``tolerance``, the target is first looked at along the way, which takes forwards alone. The way is then cut into
    parts, three tenths by their length and the rest by how far the steps' targets go on them, and the gradient in the middle
    of each part stands for it: few points for all steps (8 for 1 %, 14 for 0.1 %), then half as many again, and so on, for
    those steps whose scores disagree, placed by their targets alone, up to ``n_steps``. What they leave of a target's change
    is made good by giving the points other weights, each moved in proportion to what the point adds, which is the least that
    does it; the diagnostic ``moved`` is by how much, the root of the mean square. Such scores are complete by construction,
    so that ``delta`` is no proof of them. Instead, those of every other point and those of the rest must agree; half their
    distance, as a share of the scores' L2 norm, is the diagnostic ``apart``, which may be 10 times the tolerance to the power
    of 2 / 3 (46 % for 1 %, 10 % for 0.1 %: a half has few points, and the whole is far closer). ``nodes`` says how many
    points a step took.

    On the bundled models 1 % takes 8 to 9 points and 0.1 % 16 to 18 (means over steps); 50 fixed ones leave more than 1 %
    at six steps of ten. Beside 800 points, scores for 1 % differ by 2 and 7 % (language and translation model, median over
    steps, every dimension counted), those for 0.1 % by 0.4 and 3 %, and those of 50 fixed points by 2 %
    (`benchmarks/refined.py`). Where the points lie follows the targets of all steps that are explained together, as the model
    rounds them; so the same step beside others, or the same text in another batch, may have scores that differ by a part of
    ``apart``, and not by rounding alone.
    """
    at_least("n_steps", n_steps, 1)
    one_of("quadrature", quadrature, QUADRATURES)
    if tolerance is not None and (isinstance(tolerance, bool | str) or not tolerance > 0):
        raise ArgumentError(f"tolerance={tolerance} must be above 0; 0.01 asks for one per cent of the target's change.")
    if tolerance is not None and quadrature != "gausslegendre":
        raise ArgumentError(
            f"With tolerance={tolerance} points have places of their own: leave quadrature={quadrature!r} out."
        )
    b = baseline_embeds(x, baseline, include_eos_baseline=include_eos_baseline)
    way = x.embeds - b
    if tolerance is not None:
        found = await refined(x, b, float(tolerance), n_steps)
        facts = {"delta": found.total - found.change, "nodes": found.nodes, "apart": found.apart, "moved": found.moved}
        return Attribution(found.scores.transpose(0, 1), facts)
    alphas, weights = QUADRATURES[quadrature](n_steps)
    (scores, total), values = await gather(
        Gradient(x, Path(b, alphas), weighted(weights), with_total(way)), Score(x, Path(b, torch.tensor([0.0, 1.0])))
    )
    return Attribution(scores.transpose(0, 1), {"delta": total - (values[1] - values[0])})


@method("gradient_shap", paper="lundberg2017unified", **BY_DIM)
async def gradient_shap(
    x: Example,
    *,
    n_samples: int = 20,
    stdevs: float = 0.0,
    seed: int = 0,
    baseline: Baseline = "unk",
    include_eos_baseline: bool = False,
) -> Attribution:
    """The gradient at random points of the straight way from a baseline to the input, or to noisy copies of it.

    An estimate of ``integrated_gradients``; the diagnostic ``delta`` is what the scores fail to add up to.

    Args:
        x: the example.
        n_samples: how many points are drawn.
        stdevs: the standard deviation of what is added to each copy's embeddings, in their own units.
        seed: of the draws; a sample's draws depend on nothing else.
        baseline: where the way starts.
        include_eos_baseline: whether end-of-sequence tokens are replaced too.
    """
    at_least("n_samples", n_samples, 1)
    if not stdevs >= 0:
        raise ArgumentError(f"stdevs={stdevs} must not be below 0.")
    b = baseline_embeds(x, baseline, include_eos_baseline=include_eos_baseline)

    def ways(i: int, j: int) -> tuple[Float[Tensor, " row"], Float[Tensor, "row feature dim"]]:
        draws = [draw(x.embeds, seed, k) for k in range(i, j)]
        return torch.tensor([share for share, _ in draws], dtype=torch.float64), torch.stack(
            [x.embeds + stdevs * noise - b for _, noise in draws]
        )

    def points(i: int, j: int) -> Float[Tensor, "row feature dim"]:
        shares, way = ways(i, j)
        return b + shares[:, None, None].to(way) * way

    def combine(gradient: Float[Tensor, "step row feature dim"], values: Tensor, variants: range) -> Tensor:
        way = ways(variants.start, variants.stop)[1][:, : gradient.shape[2]].to(gradient)
        return torch.einsum("srfd,rfd->sfd", gradient, way) / n_samples

    (scores, total), (start, end) = await gather(
        Gradient(x, Points(n_samples, points), combine, with_sum), Score(x, Path(b, torch.tensor([0.0, 1.0])))
    )
    return Attribution(scores.transpose(0, 1), {"delta": total - (end - start)})


@method("sequential_integrated_gradients", paper="enguehard2023sequential", **BY_DIM)
async def sequential_integrated_gradients(
    x: Example,
    *,
    n_steps: int = 20,
    quadrature: str = "gausslegendre",
    baseline: Baseline = "unk",
    include_eos_baseline: bool = False,
) -> Attribution:
    """Integrated gradients of one token at a time: its way starts at the input with that token alone replaced.

    A token's scores of a step, summed over dim, equal what the target loses when the token is replaced; the diagnostic
    ``delta`` is the largest gap of a token.

    Args:
        x: the example.
        n_steps: how many points of each token's way are visited.
        quadrature: see ``integrated_gradients``.
        baseline: what a token is replaced by at the start of its way.
        include_eos_baseline: whether end-of-sequence tokens are replaced too.
    """
    at_least("n_steps", n_steps, 1)
    one_of("quadrature", quadrature, QUADRATURES)
    b = baseline_embeds(x, baseline, include_eos_baseline=include_eos_baseline)
    alphas, weights = QUADRATURES[quadrature](n_steps)
    n = len(x.features)

    def points(i: int, j: int) -> Float[Tensor, "row feature dim"]:
        rows = x.embeds.repeat(j - i, 1, 1)
        feature, node = torch.arange(i, j) // n_steps, torch.arange(i, j) % n_steps
        rows[range(j - i), feature] = between(b, x.embeds, alphas)[node, feature]
        return rows

    def combine(gradient: Float[Tensor, "step row feature dim"], values: Tensor, variants: range) -> Tensor:
        feature = torch.arange(variants.start, variants.stop) // n_steps
        seen = (feature < gradient.shape[2]).nonzero()[:, 0]
        own = gradient[:, seen, feature[seen]] * weights[torch.tensor(variants)[seen] % n_steps][:, None].to(gradient)
        total = torch.zeros_like(gradient[:, 0])
        return total.index_add(1, feature[seen].to(total.device), own)

    def read(gradient: Float[Tensor, "step feature dim"], steps: range) -> tuple[Tensor, Tensor]:
        scores = gradient * (x.embeds - b)
        return scores, scores.sum(-1)

    removed = torch.cat([torch.zeros(1, n, dtype=torch.bool), torch.eye(n, dtype=torch.bool)])
    (scores, by_feature), values = await gather(
        Gradient(x, Points(n * n_steps, points), combine, read), Score(x, Replaced(b, removed))
    )
    gap = (by_feature - (values[0] - values[1:]).masked_fill(~x.seen, 0).T).abs()
    return Attribution(scores.transpose(0, 1), {"delta": gap.amax(1)})
