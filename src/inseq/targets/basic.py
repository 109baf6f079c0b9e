"""Step functions of one prediction."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from inseq.engine.requests import Prediction
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
