"""Methods that collect the gradient on a way from a baseline to the input."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from inseq.engine.requests import Combine, Gradient, Path, Points, Replaced, Score, between, gather, weighted
from inseq.errors import ArgumentError
from inseq.methods._method import Attribution, method
from inseq.methods._options import at_least, one_of
from inseq.methods.baselines import Baseline, baseline_embeds
from inseq.methods.gradient import BY_DIM, draw, with_sum, with_total
from inseq.text.example import Example

Quadrature = Callable[[int], tuple[Float[Tensor, " n"], Float[Tensor, " n"]]]

GLANCES = 32
"""How many times a refined way's target is looked at, without its gradient."""

STEADY = 1.2
"""How far the target may go on a refined way, in units of its change: further, and it goes forth and back."""

LOOSE = 3.0
"""How far apart the scores of a way and of twice as many parts may be, in roots of the tolerance."""

MOST_PARTS = 8
"""Into how many parts a refined way is cut at most."""

EVEN = 0.1
"""What the length of a part counts, beside its change."""

LARGEST_WEIGHT = 10.0
"""Of a part's gradient, in units of its length: more is asked of a gradient that says nothing about its part."""


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
            ``"riemann_middle"``, ``"riemann_right"`` or ``"riemann_trapezoid"``.
        tolerance: visit few points of each step's own way, and more until ``|delta|`` is at most this share of the target's
            change; see below. The diagnostic ``nodes`` says how many points its scores come from; ``quadrature`` is then that
            of the steps which take all.
        baseline: where the way starts; a token by default, since models that normalise by the root mean square jump at a
            zero embedding.
        include_eos_baseline: whether end-of-sequence tokens are replaced too.

    With a ``tolerance``, the target is first looked at along the way, which takes forwards alone. Where it rises or falls
    steadily, the way is cut into parts of about equal change, and each part's own change is shared among the features as the
    gradient in its middle says: the integral over the target in place of the way, whose few points lie where something
    happens. Such scores are nearly complete whatever their points, so that ``delta`` is no proof of them. A second condition
    goes with the tolerance: half as many parts must have given much the same scores, up to three of its roots (30 % for 1 %,
    9 % for 0.1 %); the diagnostic ``apart`` is their distance in the L2 norm. Steps for which eight parts do not suffice, and
    those whose target goes forth and back, are visited at all ``n_steps`` points, complete or not.

    On the bundled models, 1 % takes 4 to 8 points at 97 % (a language model) and 75 % (a translation model) of the steps;
    50 fixed points leave more than 1 % at half of them. The scores then differ from those of 200 points by 1 and 10 %
    (median, every dimension counted), those of 50 fixed points by 1 and 3 %.
    """
    at_least("n_steps", n_steps, 1)
    one_of("quadrature", quadrature, QUADRATURES)
    if tolerance is not None and (isinstance(tolerance, bool | str) or not tolerance > 0):
        raise ArgumentError(f"tolerance={tolerance} must be above 0; 0.01 asks for one per cent of the target's change.")
    b = baseline_embeds(x, baseline, include_eos_baseline=include_eos_baseline)

    way = x.embeds - b

    def whole(steps: Example) -> Gradient:
        alphas, weights = QUADRATURES[quadrature](n_steps)
        return Gradient(steps, Path(b, alphas), weighted(weights), with_total(way))

    looks = torch.linspace(0, 1, 2 if tolerance is None else GLANCES + 1, dtype=torch.float64)
    if tolerance is None:
        (scores, total), values = await gather(whole(x), Score(x, Path(b, looks)))
        return Attribution(scores.transpose(0, 1), {"delta": total - (values[1] - values[0])})
    values = await Score(x, Path(b, looks))
    change = values[-1] - values[0]
    found: dict[int, tuple[Tensor, Tensor]] = {}
    nodes, apart = torch.full_like(change, n_steps), torch.full_like(change, torch.inf)
    steady = values.diff(dim=0).abs().sum(0) <= STEADY * change.abs()
    rest, rough, n = (~steady).nonzero()[:, 0].tolist(), steady.nonzero()[:, 0].tolist(), 2
    while rough and n <= min(MOST_PARTS, n_steps):
        ways = {t: parts(values[:, t], n) for t in rough}
        requests = [Gradient(x.at_steps([t]), Path(b, w[0]), by_change(way, *w[1:]), with_total(way)) for t, w in ways.items()]
        answers = dict(zip(rough, await gather(*requests), strict=True))
        for t in found.keys() & answers:
            apart[t] = (answers[t][0] - found[t][0]).norm() / answers[t][0].norm()
        near = apart <= LOOSE * tolerance**0.5
        done = [t for t in rough if near[t] and (answers[t][1] - change[t]).abs() <= tolerance * change[t].abs()]
        found |= answers
        nodes[done] = n
        rough, n = [t for t in rough if t not in done], 2 * n
    if rest := sorted([*rest, *rough]):
        apart[rest] = torch.nan
        scores, total = await whole(x.at_steps(rest))
        found |= {t: (scores[k : k + 1], total[k : k + 1]) for k, t in enumerate(rest)}
    scores, total = (torch.cat(pieces) for pieces in zip(*(found[t] for t in range(len(change))), strict=True))
    return Attribution(scores.transpose(0, 1), {"delta": total - change, "nodes": nodes, "apart": apart})


def parts(
    values: Float[Tensor, " look"], n: int
) -> tuple[Float[Tensor, " part"], Float[Tensor, " part"], Float[Tensor, " part"]]:
    """Cut a way into parts that the target changes about equally on: their middles, their lengths and their changes."""
    seen = values.double().numpy()
    looks, moves = np.linspace(0, 1, len(seen)), np.abs(np.diff(seen))
    share = (1 - EVEN) * moves / max(moves.sum(), 1e-300) + EVEN / len(moves)
    reached = np.concatenate([[0], np.cumsum(share)]) / share.sum()
    ends = np.interp(np.arange(n + 1) / n, reached, looks)
    middles = np.interp((np.arange(n) + 0.5) / n, reached, looks)
    return torch.from_numpy(middles), torch.from_numpy(np.diff(ends)), torch.from_numpy(np.diff(np.interp(ends, looks, seen)))


def by_change(way: Float[Tensor, "feature dim"], lengths: Float[Tensor, " part"], changes: Float[Tensor, " part"]) -> Combine:
    """The sum of the parts' gradients, each with the weight at which its product with the way is the part's own change.

    A gradient that points the other way has at most the weight of its part's length.
    """

    def combine(gradient: Float[Tensor, "step row feature dim"], values: Tensor, variants: range) -> Tensor:
        own = slice(variants.start, variants.stop)
        length, change = lengths[own].to(gradient), changes[own].to(gradient)
        expected = length * torch.einsum("srfd,fd->sr", gradient, way[: gradient.shape[2]].to(gradient))
        ratio = change / torch.where(expected == 0, 1, expected)
        weight = torch.where(ratio > 0, ratio.clamp_max(LARGEST_WEIGHT), ratio.abs().clamp_max(1))
        return torch.einsum("srfd,sr->sfd", gradient, weight * length)

    return combine


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

    def read(gradient: Float[Tensor, "step feature dim"]) -> tuple[Tensor, Tensor]:
        scores = gradient * (x.embeds - b)
        return scores, scores.sum(-1)

    removed = torch.cat([torch.zeros(1, n, dtype=torch.bool), torch.eye(n, dtype=torch.bool)])
    (scores, by_feature), values = await gather(
        Gradient(x, Points(n * n_steps, points), combine, read), Score(x, Replaced(b, removed))
    )
    gap = (by_feature - (values[0] - values[1:]).masked_fill(~x.seen, 0).T).abs()
    return Attribution(scores.transpose(0, 1), {"delta": gap.amax(1)})
