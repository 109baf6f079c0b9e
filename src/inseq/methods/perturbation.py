"""Methods that change the input and watch the target."""

from __future__ import annotations

import torch

from inseq.engine.requests import Replaced, Score
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
