"""Methods that remove features one by one and watch the target."""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor

from inseq.errors import ArgumentError
from inseq.methods._method import Attribution, method
from inseq.methods._options import at_least
from inseq.methods.baselines import Baseline, kept
from inseq.methods.removal import Removal, without
from inseq.requests import Score
from inseq.requests.example import Example


@method("occlusion", paper="zeiler2014visualizing", signed=True, axes=(), reduce_by=(), normalize=False)
async def occlusion(
    x: Example,
    *,
    baseline: Baseline = "unk",
    removal: Removal = "replace",
    window: int = 1,
    stride: int = 1,
    include_eos_baseline: bool = True,
) -> Attribution:
    """What the target loses when tokens are removed; below zero where it gains.

    With windows of several tokens, a token has the mean loss of the windows that cover it.

    Args:
        x: the example.
        baseline: what a token is replaced by.
        removal: whether tokens are replaced, deleted or hidden from attention; see :data:`~inseq.methods.removal.Removal`.
        window: how many neighbouring tokens are removed at once; never tokens of the source and of the decoder together.
        stride: how far each window stands from the one before, at most ``window``; the last one may be cut.
        include_eos_baseline: whether end-of-sequence tokens are removed too; the decoder's start never is.
    """
    removed = windows(x, window, stride)
    nothing = torch.zeros(1, len(x.features), dtype=torch.bool)
    variants = without(
        x, torch.cat([nothing, removed]), removal=removal, baseline=baseline, include_eos_baseline=include_eos_baseline
    )
    scores = await Score(x, variants)
    losses = scores.new_zeros(len(x.features), len(x.steps))
    for covered, loss in zip(removed, scores[0] - scores[1:], strict=True):
        losses[covered] += loss
    removable = ~kept(x, include_eos=include_eos_baseline).cpu()
    return Attribution((losses / removed.sum(0)[:, None]).masked_fill(~(x.seen & removable[:, None]), 0))


def windows(x: Example, window: int, stride: int) -> Bool[Tensor, "window feature"]:
    """Which features each window covers: every feature is in one at least.

    Raises:
        ArgumentError: if a window is empty, or tokens would stand between windows.
    """
    at_least("window", window, 1)
    at_least("stride", stride, 1)
    if stride > window:
        raise ArgumentError(f"stride={stride} is more than window={window}: the tokens between windows would have no score.")
    covered = []
    for _, side in x.sides:
        n = side.stop - side.start
        for start in range(0, max(n - window + stride, 1), stride):
            row = torch.zeros(len(x.features), dtype=torch.bool)
            row[side.start + start : min(side.start + start + window, side.stop)] = True
            covered.append(row)
    return torch.stack(covered)
