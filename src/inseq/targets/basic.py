"""Step functions of one prediction."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from inseq.engine.requests import Prediction
from inseq.errors import ArgumentError
from inseq.targets._step_function import step_function


@step_function("logit", merge="sum")
def logit(p: Prediction) -> Float[Tensor, " n"]:
    """The written token's logit: what the model says before it is normalised over the vocabulary."""
    return p.logits.gather(-1, p.ids[:, None])[:, 0]


@step_function("probability", merge="prod")
def probability(p: Prediction, *, logprob: bool = False) -> Float[Tensor, " n"]:
    """The written token's probability, or its natural logarithm with ``logprob=True``."""
    log = logit(p) - p.logits.logsumexp(-1)
    return log if logprob else log.exp()


@step_function("entropy", merge="sum")
def entropy(p: Prediction) -> Float[Tensor, " n"]:
    """The entropy of the prediction, in nats: how undecided the model is."""
    log = p.logits.log_softmax(-1)
    return -(log.exp() * log.clamp_min(-1e30)).sum(-1)


@step_function("crossentropy", merge="sum")
def crossentropy(p: Prediction) -> Float[Tensor, " n"]:
    """The written token's surprisal, ``-ln p``, in nats."""
    return -probability(p, logprob=True)


@step_function("perplexity", merge="prod")
def perplexity(p: Prediction) -> Float[Tensor, " n"]:
    """``e`` to the surprisal in nats, which is one over the probability."""
    return crossentropy(p).exp()


@step_function("rank", merge="max")
def rank(p: Prediction) -> Float[Tensor, " n"]:
    """How many tokens the model prefers to the written one, plus one: 1 is the model's first choice. It has no gradient."""
    return (p.logits > logit(p)[:, None]).sum(-1).to(p.logits.dtype) + 1


@step_function("margin", merge="min")
def margin(p: Prediction) -> Float[Tensor, " n"]:
    """By how much the written token's logit exceeds the best other one; below zero where the model prefers another."""
    others = p.logits.scatter(-1, p.ids[:, None], -torch.inf)
    return logit(p) - others.amax(-1)


@step_function("top_p_size", merge="max")
def top_p_size(p: Prediction, *, top_p: float = 0.9) -> Float[Tensor, " n"]:
    """How many of the most probable tokens it takes to reach the probability ``top_p``. It has no gradient."""
    if not 0 < top_p <= 1:
        raise ArgumentError(f"top_p={top_p} must be above 0 and at most 1.")
    reached = p.logits.softmax(-1).sort(descending=True).values.cumsum(-1)
    return ((reached < top_p).sum(-1) + 1).clamp_max(p.logits.shape[-1]).to(p.logits.dtype)
