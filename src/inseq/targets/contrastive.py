"""Step functions of two predictions: what was written, and what it is compared with.

Where the two differ by a context, the output that is explained is the one with the context.
"""

from __future__ import annotations

import math
from typing import TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from inseq.errors import ArgumentError
from inseq.requests import Prediction, WrittenLogits
from inseq.targets._step_function import step_function
from inseq.targets.basic import logit, probability

P = TypeVar("P", Prediction, Prediction | WrittenLogits)


@step_function("contrast_logits", merge="sum", contrast="token", of_written=True)
def contrast_logits(p: Prediction | WrittenLogits) -> Float[Tensor, " n"]:
    """The contrast token's logit."""
    return logit(_contrast(p))


@step_function("contrast_prob", merge="prod", contrast="token", of_written=True)
def contrast_prob(p: Prediction | WrittenLogits, *, logprob: bool = False) -> Float[Tensor, " n"]:
    """The contrast token's probability, or its natural logarithm with ``logprob=True``."""
    return probability(_contrast(p), logprob=logprob)


@step_function("contrast_logits_diff", merge="sum", contrast="token", difference=True, of_written=True)
def contrast_logits_diff(p: Prediction | WrittenLogits) -> Float[Tensor, " n"]:
    """By how much the written token's logit exceeds the contrast token's (yin2022interpreting)."""
    return logit(p) - logit(_contrast(p))


@step_function("contrast_prob_diff", merge="absmax", contrast="token", difference=True, of_written=True)
def contrast_prob_diff(p: Prediction | WrittenLogits, *, logprob: bool = False) -> Float[Tensor, " n"]:
    """By how much the written token's probability exceeds the contrast token's; of logarithms with ``logprob=True``."""
    return probability(p, logprob=logprob) - probability(_contrast(p), logprob=logprob)


@step_function("pcxmi", merge="sum", contrast="token", difference=True, of_written=True)
def pcxmi(p: Prediction | WrittenLogits) -> Float[Tensor, " n"]:
    """Pointwise conditional cross-mutual information, ``ln p - ln p'``, in nats: above zero where the context helps.

    The natural logarithm is that of the authors' own measurements (fernandes2023when).
    """
    return probability(p, logprob=True) - probability(_contrast(p), logprob=True)


@step_function("in_context_pvi", merge="sum", contrast="token", difference=True, of_written=True)
def in_context_pvi(p: Prediction | WrittenLogits) -> Float[Tensor, " n"]:
    """Pointwise usable information of a prompt, ``log2 p - log2 p'``, in bits: above zero where it helps (lu2023measuring)."""
    return pcxmi(p) / math.log(2)


@step_function("kl_divergence", merge="sum", contrast="logits")
def kl_divergence(p: Prediction, *, top_k: int = 0, top_p: float = 1.0, min_tokens_to_keep: int = 1) -> Float[Tensor, " n"]:
    """How far the prediction is from the contrast's, ``KL(P || P')``, in nats.

    With ``top_k`` or ``top_p`` both predictions are first confined to the tokens that are likeliest by the sum of their
    logits, and normalised again.

    Args:
        p: the predictions.
        top_k: how many tokens are kept; 0 for all.
        top_p: the tokens that it takes to reach this probability are kept; 1 for all.
        min_tokens_to_keep: how many are kept at least.
    """
    _check_filters(top_k, top_p, min_tokens_to_keep)
    other = _contrast(p).logits
    kept = p.logits.detach() > -torch.inf
    if top_k or top_p < 1:
        kept = kept & likeliest(p.logits.detach() + other.detach(), top_k, top_p, min_tokens_to_keep)
    log = p.logits.masked_fill(~kept, -torch.inf).log_softmax(-1)
    log_other = other.masked_fill(~kept, -torch.inf).log_softmax(-1)
    return (log.exp() * (log - log_other).masked_fill(~kept, 0)).sum(-1)


def likeliest(scores: Float[Tensor, "n vocab"], top_k: int, top_p: float, at_least: int) -> Bool[Tensor, "n vocab"]:
    """Which tokens are among the ``top_k`` best, and among those that it takes to reach ``top_p``."""
    ranked = scores.softmax(-1).sort(-1, descending=True)
    before = ranked.values.cumsum(-1) - ranked.values
    kept = before < top_p if top_p < 1 else torch.ones_like(before, dtype=torch.bool)
    if top_k:
        kept[:, top_k:] = False
    kept[:, :at_least] = True
    return torch.zeros_like(kept).scatter(-1, ranked.indices, kept)


def _check_filters(top_k: int, top_p: float, at_least: int) -> None:
    if top_k < 0:
        raise ArgumentError(f"top_k={top_k} must be at least 1, or 0 for all tokens.")
    if not 0 < top_p <= 1:
        raise ArgumentError(f"top_p={top_p} must be above 0 and at most 1.")
    if at_least < 1:
        raise ArgumentError(f"min_tokens_to_keep={at_least} must be at least 1.")


def _contrast(p: P) -> P:
    if p.contrast is None:
        raise ArgumentError(
            "A contrastive step function compares the output with another one, and there is none: pass contrast_targets= "
            "(a text or ids for each input)."
        )
    return p.contrast
