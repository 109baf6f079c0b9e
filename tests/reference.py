"""Slow definitions, straight from the papers: the referee of the fast engine.

One call of the model's own public forward for each generated token (and each variant), over the growing prefix, one row
at a time. Nothing is cached, batched, hooked or replaced.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

StepFunction = Callable[[Tensor, int], Tensor]
"""A scalar of the logits of one prediction, [vocabulary], and of the id that was written."""

SCALED_INSIDE_FORWARD = ("marian", "pegasus")
"""Families that multiply embeddings outside the embedding module: on the decoder's side always, on the encoder's side
with `input_ids` only."""


@dataclass(frozen=True)
class Case:
    """What is explained: steps are the positions `first` .. `len(target) - 1` of `target`.

    Decoder-only: `source` is None, `target` is prompt and generated ids. Encoder-decoder: `target` is the decoder's
    start and the generated ids, `first` is at least 1 (more: the positions between were given, not generated).
    """

    model: PreTrainedModel
    source: Tensor | None
    target: Tensor
    first: int

    def __post_init__(self) -> None:
        if not 1 <= self.first < len(self.target):
            raise ValueError(f"first is {self.first}, the target has {len(self.target)} tokens")
        if (self.source is not None) != bool(self.model.config.is_encoder_decoder):
            raise ValueError("a source belongs to an encoder-decoder, and to no other model")

    @property
    def n_source(self) -> int:
        return 0 if self.source is None else len(self.source)

    @property
    def n_features(self) -> int:
        """Source tokens, then decoder inputs: every target token but the last."""
        return self.n_source + len(self.target) - 1

    @property
    def positions(self) -> range:
        return range(self.first, len(self.target))

    def written(self, t: int) -> int:
        return int(self.target[t])

    def seen(self, t: int) -> int:
        """How many features the prediction of position `t` depends on."""
        return self.n_source + t


def embeddings(case: Case) -> Tensor:
    """[feature, dim]: each token as it enters the first layer, before positions are added.

    M2M100 numbers positions by counting the ids that are not padding, and embeddings have no ids: a case of that family
    must not contain the padding id, or the model's two paths differ.
    """
    with torch.no_grad():
        if case.source is None:
            return case.model.get_input_embeddings()(case.target[:-1])
        scale = _factor(case.model)
        source = _table(case.model.get_encoder())(case.source) * scale
        target = _table(case.model.get_decoder())(case.target[:-1]) * scale
        return torch.cat([source, target])


def logits(case: Case, embeds: Tensor, t: int) -> Tensor:
    """[vocabulary]: the prediction of position `t` from the first `case.seen(t)` rows of `embeds`."""
    if case.source is None:
        return case.model(inputs_embeds=embeds[None, :t], use_cache=False).logits[0, -1]
    source, prefix = embeds[: case.n_source], embeds[case.n_source : case.seen(t)]
    output = case.model(
        inputs_embeds=source[None],
        decoder_inputs_embeds=prefix[None] / _factor(case.model),
        use_cache=False,
    )
    return output.logits[0, -1]


def logits_from_ids(case: Case, t: int) -> Tensor:
    """[vocabulary]: the prediction of position `t` as a user would get it; no embedding is touched."""
    prefix = case.target[None, :t]
    with torch.no_grad():
        if case.source is None:
            return case.model(input_ids=prefix, use_cache=False).logits[0, -1]
        return case.model(input_ids=case.source[None], decoder_input_ids=prefix, use_cache=False).logits[0, -1]


def step_scores(case: Case, fn: StepFunction) -> Tensor:
    """[step], from ids."""
    return torch.stack([fn(logits_from_ids(case, t), case.written(t)) for t in case.positions])


def logit(z: Tensor, y: int) -> Tensor:
    return z[y]


def probability(z: Tensor, y: int) -> Tensor:
    return _distribution(z)[y]


def log_probability(z: Tensor, y: int) -> Tensor:
    return _log_distribution(z)[y]


def entropy(z: Tensor, y: int) -> Tensor:
    """- sum_v p_v ln p_v, in nats."""
    return -(_distribution(z) * _log_distribution(z)).sum()


def crossentropy(z: Tensor, y: int) -> Tensor:
    """- ln p_y: against the distribution that is 1 at the written token."""
    return -log_probability(z, y)


def perplexity(z: Tensor, y: int) -> Tensor:
    """e to the cross-entropy, which is 1 / p_y."""
    return crossentropy(z, y).exp()


STEP_FUNCTIONS: dict[str, StepFunction] = {
    f.__name__: f for f in (logit, probability, log_probability, entropy, crossentropy, perplexity)
}


def score(case: Case, embeds: Tensor, t: int, fn: StepFunction) -> Tensor:
    """f_t(embeds): the step function of the prediction of position `t`."""
    return fn(logits(case, embeds, t), case.written(t))


def gradient(case: Case, t: int, fn: StepFunction, at: Tensor | None = None, *, only_source: bool = False) -> Tensor:
    """[feature, dim]: d f_t / d x at `at` (the input itself if None); zeros for tokens not yet seen.

    With `only_source`, the rows of the source alone: the decoder's prefix is held constant at the rows of `at`.
    """
    x = (embeddings(case) if at is None else at).detach().clone().requires_grad_()
    (found,) = torch.autograd.grad(score(case, x, t, fn), x)
    return found[: _n_varied(case, only_source)]


def gradients(case: Case, fn: StepFunction, at: Tensor | None = None, *, only_source: bool = False) -> Tensor:
    """[feature, step, dim], signed."""
    return torch.stack([gradient(case, t, fn, at, only_source=only_source) for t in case.positions], dim=1)


def saliency(case: Case, fn: StepFunction, *, only_source: bool = False) -> Tensor:
    """[feature, step, dim]: |d f_t / d x| (Simonyan et al. 2013)."""
    return gradients(case, fn, only_source=only_source).abs()


def input_x_gradient(case: Case, fn: StepFunction, *, only_source: bool = False) -> Tensor:
    """[feature, step, dim]: x d f_t / d x (Shrikumar et al. 2016)."""
    x = embeddings(case)[: _n_varied(case, only_source)]
    return x[:, None] * gradients(case, fn, only_source=only_source)


def integrated_gradients(
    case: Case,
    fn: StepFunction,
    baseline: Tensor,
    nodes: Sequence[float] | Tensor,
    weights: Sequence[float] | Tensor,
    *,
    only_source: bool = False,
) -> Tensor:
    """[feature, step, dim]: (x - b) sum_k w_k d f_t / d x at b + a_k (x - b) (Sundararajan et al. 2017).

    `baseline` is [feature, dim] in the units of `embeddings`; with `only_source` it may be [source, dim]. Nodes lie on
    [0, 1] and the weights add up to 1, for the quadrature to be one of the paper's integral.
    """
    x = embeddings(case)
    n = _n_varied(case, only_source)
    start = torch.cat([baseline[:n], x[n:]]).to(x.dtype)
    difference = x - start
    total = x.new_zeros(n, len(case.positions), x.shape[1])
    for node, weight in zip(torch.as_tensor(nodes).tolist(), torch.as_tensor(weights).tolist(), strict=True):
        total += weight * gradients(case, fn, start + node * difference, only_source=only_source)
    return difference[:n, None] * total


def occlusion(case: Case, fn: StepFunction, replacement: Tensor, *, only_source: bool = False) -> Tensor:
    """[feature, step]: f_t(x) - f_t(x with the row of one token replaced), signed (Zeiler and Fergus 2014)."""
    x = embeddings(case)
    n = _n_varied(case, only_source)
    found = x.new_zeros(n, len(case.positions))
    with torch.no_grad():
        for step, t in enumerate(case.positions):
            plain = score(case, x, t, fn)
            for i in range(min(n, case.seen(t))):
                altered = x.clone()
                altered[i] = replacement[i]
                found[i, step] = plain - score(case, altered, t, fn)
    return found


def attention(case: Case) -> Tensor:
    """[feature, step, layer, head]: the weights by which the last query row reads each token.

    Source rows hold the decoder's cross-attention, decoder rows its self-attention; the model must be built with eager
    attention, for the others keep no weights.
    """
    if case.model.config._attn_implementation != "eager":
        raise ValueError("attention weights need a model with eager attention")
    columns = []
    with torch.no_grad():
        for t in case.positions:
            seen = torch.cat(_last_rows(case, t))
            unseen = seen.new_zeros(case.n_features - case.seen(t), *seen.shape[1:])
            columns.append(torch.cat([seen, unseen]))
    return torch.stack(columns, dim=1)


def _last_rows(case: Case, t: int) -> list[Tensor]:
    prefix = case.target[None, :t]
    if case.source is None:
        output = case.model(input_ids=prefix, output_attentions=True, use_cache=False)
        return [_last_row(output.attentions)]
    output = case.model(input_ids=case.source[None], decoder_input_ids=prefix, output_attentions=True, use_cache=False)
    return [_last_row(output.cross_attentions), _last_row(output.decoder_attentions)]


def _last_row(layers: Sequence[Tensor]) -> Tensor:
    """One [1, head, query, key] for each layer -> [key, layer, head]."""
    return torch.stack([weights[0, :, -1].T for weights in layers], dim=1)


def _n_varied(case: Case, only_source: bool) -> int:
    if only_source and case.source is None:
        raise ValueError("only_source is for encoder-decoders")
    return case.n_source if only_source else case.n_features


def _table(side: nn.Module) -> nn.Module:
    return side.get_input_embeddings()


def _factor(model: PreTrainedModel) -> float:
    config = model.config
    outside = config.model_type in SCALED_INSIDE_FORWARD and config.scale_embedding
    return config.d_model**0.5 if outside else 1.0


def _log_distribution(z: Tensor) -> Tensor:
    shifted = z - z.max().detach()
    return shifted - shifted.exp().sum().log()


def _distribution(z: Tensor) -> Tensor:
    odds = (z - z.max().detach()).exp()
    return odds / odds.sum()


def value(case: Case, x: Tensor, replacement: Tensor, kept: Tensor, t: int, fn: StepFunction) -> Tensor:
    """f_t where the features that are not kept are replaced; `kept` is [feature], further features stay."""
    rows = x.clone()
    for i in range(len(kept)):
        if not kept[i]:
            rows[i] = replacement[i]
    with torch.no_grad():
        return score(case, rows, t, fn)


def lime(
    case: Case, fn: StepFunction, replacement: Tensor, kept: Tensor, width: float, ridge: float, *, only_source: bool = False
) -> Tensor:
    """[feature, step]: weights of a linear model of f_t in the binary features (Ribeiro et al. 2016).

    `kept` is [sample, feature]. Least squares of the weighted samples, with rows sqrt(ridge) I for the penalty, which
    leaves the intercept free.
    """
    x, n = embeddings(case), _n_varied(case, only_source)
    found = torch.zeros(n, len(case.positions), dtype=x.dtype)
    for step, t in enumerate(case.positions):
        seen = min(n, case.seen(t))
        z = kept[:, :seen].double()
        y = torch.stack([value(case, x, replacement, row[:seen], t, fn) for row in kept]).double()
        cosine = z.sum(1) / (z.norm(dim=1).clamp_min(1e-300) * seen**0.5)
        root = (-(((1 - cosine) / width) ** 2)).exp().sqrt()[:, None]
        design = torch.cat([root * z, root], 1)
        penalty = torch.cat([ridge**0.5 * torch.eye(seen), torch.zeros(seen, 1)], 1).double()
        target = torch.cat([root[:, 0] * y, torch.zeros(seen).double()])
        found[:seen, step] = torch.linalg.lstsq(torch.cat([design, penalty]), target[:, None]).solution[:seen, 0].to(x.dtype)
    return found


def shapley_sampling(
    case: Case, fn: StepFunction, replacement: Tensor, orders: Tensor, *, only_source: bool = False
) -> Tensor:
    """[feature, step]: the mean gain of f_t when a feature joins those before it (Castro et al. 2009)."""
    x, n = embeddings(case), _n_varied(case, only_source)
    found = torch.zeros(n, len(case.positions), dtype=x.dtype)
    for step, t in enumerate(case.positions):
        for order in orders.tolist():
            kept = torch.zeros(n, dtype=torch.bool)
            before = value(case, x, replacement, kept, t, fn)
            for i in (i for i in order if i < case.seen(t)):
                kept[i] = True
                after = value(case, x, replacement, kept, t, fn)
                found[i, step] += (after - before) / len(orders)
                before = after
    return found


def shapley_values(case: Case, fn: StepFunction, replacement: Tensor) -> Tensor:
    """[feature, step]: the sum over all sets of other features, each by its share of all orders (Shapley 1953)."""
    x, n = embeddings(case), case.n_features
    found = torch.zeros(n, len(case.positions), dtype=x.dtype)
    for step, t in enumerate(case.positions):
        seen = case.seen(t)
        sets = [torch.tensor([bool(code >> i & 1) for i in range(seen)]) for code in range(2**seen)]
        values = [value(case, x, replacement, kept, t, fn) for kept in sets]
        for i in range(seen):
            for code, kept in enumerate(sets):
                if not kept[i]:
                    size = int(kept.sum())
                    share = math.factorial(size) * math.factorial(seen - size - 1) / math.factorial(seen)
                    found[i, step] += share * (values[code | 1 << i] - values[code])
    return found
