"""A way to the input, visited at points that steps share, as many as their scores need."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from inseq.requests import Combine, Gradient, Path, Score
from inseq.requests.example import Example

GLANCES = 12
"""How many times a way's target is looked at, without its gradient."""

FEWEST, ROOT = 8, 1 / 4
"""Points at first where the tolerance is 1 %; as this root of it more where it is less."""

MORE = 1.5
"""Times as many, again and again, for those steps whose scores disagree."""

EVEN = 0.3
"""What the length of a part counts; how far the steps' targets go on it counts the rest."""

LOOSE, POWER = 10.0, 2 / 3
"""How far apart the scores of every other point and of the rest may be, by half: as many times that power of the tolerance."""

MOST_MOVED = 0.5
"""By which share points may be given more or less than their gradients say, at most: the root of the mean square."""

TINY = 1e-30

LEAST_UNIT = 1e-20
"""Of what a target adds, as a share of how far that of any step goes: squares of less are lost in float32."""


class Refined(NamedTuple):
    """What the points of each step gave: scores, their sums, and how far to believe them."""

    scores: Float[Tensor, "step feature *dim"]
    total: Float[Tensor, " step"]
    nodes: Float[Tensor, " step"]
    apart: Float[Tensor, " step"]
    moved: Float[Tensor, " step"]
    change: Float[Tensor, " step"]


async def refined(x: Example, b: Float[Tensor, "feature dim"], tolerance: float, most: int) -> Refined:
    """Visit few points of the way from ``b`` to the input, more for steps whose scores disagree, and at most ``most``."""
    values = (await Score(x, Path(b, torch.linspace(0, 1, GLANCES + 1, dtype=torch.float64)))).cpu()
    change, far = values[-1] - values[0], values.diff(dim=0).abs().sum(0).clamp_min(TINY)
    left, n, limit = torch.arange(len(change)), min(at_first(tolerance), most), LOOSE * tolerance**POWER
    done: list[tuple[Tensor, Refined]] = []
    while len(left):
        found = await _visited(x.at_steps(left.tolist()), b, *parts(values[:, left], n), change[left], far[left])
        enough = (found.apart <= limit) & (found.moved.abs() <= MOST_MOVED) | (n == most)
        done.append((left[enough], Refined(*(each[enough] for each in found))))
        left, n = left[~enough], min(ceil(MORE * n), most)
    order = torch.cat([steps for steps, _ in done]).argsort()
    return Refined(*(torch.cat(pieces)[order] for pieces in zip(*(part for _, part in done), strict=True)))


def at_first(tolerance: float) -> int:
    """How many points all steps have, where nothing is known of their scores."""
    return max(2, round(FEWEST * (0.01 / tolerance) ** ROOT))


def parts(values: Float[Tensor, "look step"], n: int) -> tuple[Float[Tensor, " part"], Float[Tensor, " part"]]:
    """The middles and lengths of parts with equal shares of a way: by its length, and by how far the steps' targets go.

    Every step counts the same, however far its target goes.
    """
    moves = values.double().diff(dim=0).abs()
    moved = (moves / moves.sum(0).clamp_min(1e-300)).mean(1).numpy()
    looks, share = np.linspace(0, 1, len(values)), (1 - EVEN) * moved + EVEN / len(moved)
    reached = np.concatenate([[0], np.cumsum(share)]) / share.sum()
    ends, middles = (np.interp(places / n, reached, looks) for places in (np.arange(n + 1), np.arange(n) + 0.5))
    return torch.from_numpy(middles), torch.from_numpy(np.diff(ends))


async def _visited(
    x: Example,
    b: Float[Tensor, "feature dim"],
    middles: Float[Tensor, " part"],
    lengths: Float[Tensor, " part"],
    change: Float[Tensor, " step"],
    far: Float[Tensor, " step"],
) -> Refined:
    way, unit = x.embeds - b, max(far.min().item(), LEAST_UNIT * far.max().item())
    combine, read = four_sums(way, lengths, unit), told(way, lengths, change, unit)
    scores, total, apart, moved = await Gradient(x, Path(b, middles), combine, read, additive=False, held=4)
    return Refined(scores, total, torch.full_like(apart, len(lengths)), apart, moved, change)


def four_sums(way: Float[Tensor, "feature dim"], lengths: Float[Tensor, " part"], unit: float) -> Combine:
    """Of every other part, and of the rest: the gradients times the lengths, and these times what each adds to the total.

    The latter in a ``unit`` of the target's.
    """

    def combine(gradient: Float[Tensor, "step row feature dim"], values: Tensor, variants: range) -> Tensor:
        length = lengths[variants.start : variants.stop].to(gradient)
        added = torch.einsum("srfd,fd->sr", gradient, way[: gradient.shape[2]].to(gradient)) * length
        odd = torch.arange(variants.start, variants.stop, device=gradient.device) % 2
        each = torch.stack([length.expand_as(added), added / unit * length])
        kinds = torch.cat([each * (1 - odd), each * odd])
        return torch.einsum("srfd,ksr->sfkd", gradient, kinds).flatten(2)

    return combine


Told = tuple[Float[Tensor, "step feature dim"], Float[Tensor, " step"], Float[Tensor, " step"], Float[Tensor, " step"]]


def told(
    way: Float[Tensor, "feature dim"], lengths: Float[Tensor, " part"], change: Float[Tensor, " all"], unit: float
) -> Callable[[Float[Tensor, "step feature sums"], range], Told]:
    """Scores that add up to the change, their sum, how far apart those of both halves are, and by what share points moved."""
    n, of_odd = len(lengths), lengths[1::2].sum().item()
    halves = (-(-n // 2), max(1 - of_odd, TINY)), (n // 2, max(of_odd, TINY))

    def read(sums: Float[Tensor, "step feature sums"], steps: range) -> Told:
        wanted = change[steps.start : steps.stop].to(sums.device)
        each = sums.reshape(*sums.shape[:2], 4, -1)
        totals = (each @ way[..., None].to(each)).double().sum((1, 3))
        whole, moved = _complete(totals[:, :2] + totals[:, 2:], n, 1.0, wanted, unit)
        even, rest = (
            _complete(total, size, share, wanted, unit)[0]
            for total, (size, share) in zip((totals[:, :2], totals[:, 2:]), halves, strict=True)
        )
        weights = torch.cat([whole, whole], 1), torch.cat([even, -rest], 1)
        scores, gap = ((w[:, None, None].to(each) @ each)[:, :, 0] * way for w in weights)
        size = scores.norm(dim=(1, 2)).clamp_min(torch.finfo(scores.dtype).tiny)
        return scores, scores.sum((1, 2)), gap.norm(dim=(1, 2)) / (2 * size), moved.to(scores)

    return read


def _complete(
    totals: Float[Tensor, "step two"], n: int, share: float, change: Float[Tensor, " step"], unit: float
) -> tuple[Float[Tensor, "step two"], Float[Tensor, " step"]]:
    """By what some parts' two sums are multiplied so that together they add up to the change, and how far that moves them.

    Each part's weight moves in proportion to what it adds: the smallest move of all weights, by their squares.

    Args:
        totals: of both sums, added up over features and dim.
        n: how many parts they are of.
        share: of the way's length.
        change: the target's.
        unit: of the second sum.
    """
    total, squares = totals[:, 0] / share, totals[:, 1] * unit / share**2
    size = (n * squares).clamp_min(0).sqrt().clamp_min(TINY)
    moved = ((change.double() - total) / size).clamp(-1, 1)
    return torch.stack([torch.full_like(moved, 1 / share), moved * n / size * unit / share**2], 1), moved
