"""Methods that edit the backward pass, so that the gradient times the embedding is a token's share of the target.

Layer-wise relevance propagation is covered by a patent claim of its inventors: see the notice in the documentation.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from inseq.errors import ArgumentError
from inseq.methods._method import Attribution, method
from inseq.methods.baselines import Baseline, baseline_embeds
from inseq.methods.gradient import BY_DIM, with_total
from inseq.requests import Edit, Gradient, Path, Relevance, Rescale, Score, gather
from inseq.requests.example import Example

ATTNLRP = Relevance("attnlrp", norm="constant", activation="ratio", softmax="gradient", product="halved")
CP_LRP = Relevance("cp_lrp", norm="constant", activation="ratio", softmax="constant", product="halved")
FROZEN = Relevance("frozen", norm="constant", activation="ratio", softmax="constant", product="gated")
GIM = Relevance("gim", norm="constant", activation="gradient", softmax="tempered", product="halved", temperature=2.0)

FACTS: dict[str, Any] = {"signed": True, "axes": (), "reduce_by": (), "normalize": False}


@method("attnlrp", paper="achtibat2024attnlrp", **FACTS)
async def attnlrp(x: Example) -> Attribution:
    """A token's relevance for the target, passed back layer by layer, through attention weights too.

    Norms keep their statistic, activations the ratio of output to input, factors of a product get half each, and the
    softmax passes its gradient, which is a Taylor expansion at the input. The diagnostic ``unassigned`` is the part of
    the target that no token has: that of biases, positions and an unscored prefix, and what the softmax does not keep.
    The target it is meant for is ``logit``.
    """
    return await _shared_out(x, ATTNLRP)


@method("cp_lrp", paper="ali2022xai", **FACTS)
async def cp_lrp(x: Example) -> Attribution:
    """A token's relevance for the target, passed back layer by layer, with attention weights held constant.

    Relevance is kept: with the target ``logit``, the scores of a step and its ``unassigned`` part, which biases,
    positions and an unscored prefix have, sum to the logit.
    """
    return await _shared_out(x, CP_LRP)


@method("frozen", paper="elhage2021mathematical", **FACTS)
async def frozen(x: Example) -> Attribution:
    """What a token contributes where attention weights, norm statistics and gates are held constant.

    The model is then linear in its embeddings, and its logit the sum of the tokens' contributions and of the
    ``unassigned`` part, which biases, positions and an unscored prefix have.
    """
    return await _shared_out(x, FROZEN)


@method("gim", paper="edin2025gim", **FACTS)
async def gim(
    x: Example, *, temperature: float = 2.0, baseline: Baseline = "unk", include_eos_baseline: bool = False
) -> Attribution:
    """The gradient, corrected where factors hide each other, times the difference from a baseline.

    Norms keep their statistic, factors of a product get half each, and the softmax passes the gradient that it would have
    at a higher temperature, so that saturated attention still answers.

    Args:
        x: the example.
        temperature: of the softmax in the backward pass; 1 is the model's own.
        baseline: what a token is compared with.
        include_eos_baseline: whether end-of-sequence tokens are replaced too.
    """
    if not temperature > 0:
        raise ArgumentError(f"temperature={temperature} must be above 0; 2 is usual.")
    b = baseline_embeds(x, baseline, include_eos_baseline=include_eos_baseline)
    edit = replace(GIM, temperature=float(temperature))
    return Attribution((await Gradient(x, read=lambda gradient, _: (gradient * (x.embeds - b)).sum(-1), edit=edit)).T)


async def _shared_out(x: Example, edit: Edit) -> Attribution:
    shares, values = await gather(Gradient(x, read=lambda gradient, _: (gradient * x.embeds).sum(-1), edit=edit), Score(x))
    return Attribution(shares.T, {"unassigned": values[0] - shares.sum(1)})


@method("deeplift", paper="shrikumar2017learning", **BY_DIM)
async def deeplift(x: Example, *, baseline: Baseline = "unk", include_eos_baseline: bool = False) -> Attribution:
    """How the target's difference from a baseline is made of the differences of the tokens.

    Every operation passes back the quotient of differences in place of a derivative (the rescale rule), products are
    split evenly, softmax and norms are taken apart into exponentials, sums, logarithms, powers and products. The scores of
    a step, summed over features and dim, equal the target's change; the diagnostic ``delta`` is what is missing.

    Args:
        x: the example.
        baseline: what the input is compared with; a token by default, as for ``integrated_gradients``.
        include_eos_baseline: whether end-of-sequence tokens are replaced too.
    """
    b = baseline_embeds(x, baseline, include_eos_baseline=include_eos_baseline)

    request = Gradient(x, read=with_total(x.embeds - b), edit=Rescale("deeplift"), reference=b)
    (scores, total), ends = await gather(request, Score(x, Path(b, torch.tensor([0.0, 1.0]))))
    return Attribution(scores.transpose(0, 1), {"delta": total - (ends[1] - ends[0])})
