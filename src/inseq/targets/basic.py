"""Step functions of one prediction."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from inseq.errors import ArgumentError
from inseq.requests import Prediction, WrittenLogits
from inseq.targets._step_function import step_function


@step_function("logit", merge="sum", contrast=None, of_written=True)
def logit(p: Prediction | WrittenLogits) -> Float[Tensor, " n"]:
    """The written token's logit: what the model says before it is normalised over the vocabulary."""
    return p.written


@step_function("probability", merge="prod", contrast=None, of_written=True)
def probability(p: Prediction | WrittenLogits, *, logprob: bool = False) -> Float[Tensor, " n"]:
    """The written token's probability, or its natural logarithm with ``logprob=True``."""
    log = p.written - p.normalizer
    return log if logprob else log.exp()


@step_function("entropy", merge="sum", contrast=None)
def entropy(p: Prediction) -> Float[Tensor, " n"]:
    """The entropy of the prediction, in nats: how undecided the model is."""
    log = p.logits.log_softmax(-1)
    return -(log.exp() * log.clamp_min(-1e30)).sum(-1)


@step_function("crossentropy", merge="sum", contrast=None, of_written=True)
def crossentropy(p: Prediction | WrittenLogits) -> Float[Tensor, " n"]:
    """The written token's surprisal, ``-ln p``, in nats."""
    return -probability(p, logprob=True)


@step_function("perplexity", merge="prod", contrast=None, of_written=True)
def perplexity(p: Prediction | WrittenLogits) -> Float[Tensor, " n"]:
    """``e`` to the surprisal in nats, which is one over the probability."""
    return crossentropy(p).exp()


@step_function("rank", merge="max", contrast=None)
def rank(p: Prediction) -> Float[Tensor, " n"]:
    """How many tokens the model prefers to the written one, plus one: 1 is the model's first choice. It has no gradient."""
    return (p.logits > logit(p)[:, None]).sum(-1).to(p.logits.dtype) + 1


@step_function("margin", merge="min", contrast=None)
def margin(p: Prediction) -> Float[Tensor, " n"]:
    """By how much the written token's logit exceeds the best other one; below zero where the model prefers another."""
    others = p.logits.scatter(-1, p.ids[:, None], -torch.inf)
    return logit(p) - others.amax(-1)


@step_function("top_p_size", merge="max", contrast=None)
def top_p_size(p: Prediction, *, top_p: float = 0.9) -> Float[Tensor, " n"]:
    """How many of the most probable tokens it takes to reach the probability ``top_p``. It has no gradient."""
    if not 0 < top_p <= 1:
        raise ArgumentError(f"top_p={top_p} must be above 0 and at most 1.")
    reached = p.logits.softmax(-1).sort(descending=True).values.cumsum(-1)
    return ((reached < top_p).sum(-1) + 1).clamp_max(p.logits.shape[-1]).to(p.logits.dtype)


@step_function("mc_dropout_prob_avg", merge="prod", contrast=None, passes="n_mcd_steps", of_written=True)
def mc_dropout_prob_avg(
    p: Prediction | WrittenLogits, *, n_mcd_steps: int = 5, logprob: bool = False, seed: int = 0
) -> Float[Tensor, " n"]:
    """The written token's probability, averaged over forwards in which the model drops units (gal2016dropout).

    The engine runs the forwards, each with draws of its own that are the same for every variant of a text; gradients are
    averaged too. A model without dropout gives the plain probability.

    Args:
        p: the predictions of one forward.
        n_mcd_steps: how many forwards are averaged.
        logprob: whether natural logarithms of probabilities are averaged.
        seed: of the draws.
    """
    return probability(p, logprob=logprob)
