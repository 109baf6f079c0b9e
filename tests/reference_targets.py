"""Slow definitions of step functions, of contrasts and of dropout averages: plain forwards on the ids of both sequences."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import reference as ref
import torch
from reference import Case
from torch import Tensor

PairFunction = Callable[[Tensor, int, Tensor, int], Tensor]
"""A scalar of a prediction, [vocabulary], and the id written there; and of those they are compared with."""

Way = Literal["token", "differing", "own"]


def alone(fn: ref.StepFunction) -> PairFunction:
    """A function of one prediction as one of two."""
    return lambda z, y, other, foil: fn(z, y)


def distribution(z: Tensor) -> Tensor:
    odds = (z - z.max().detach()).exp()
    return odds / odds.sum()


def rank(z: Tensor, y: int) -> Tensor:
    return torch.tensor(1.0 + sum(bool(value > z[y]) for value in z), dtype=z.dtype)


def margin(z: Tensor, y: int) -> Tensor:
    return z[y] - torch.stack([value for v, value in enumerate(z) if v != y]).max()


def top_p_size(z: Tensor, y: int, top_p: float = 0.9) -> Tensor:
    total, n = 0.0, 0
    for share in sorted(distribution(z).tolist(), reverse=True):
        if total >= top_p:
            break
        total, n = total + share, n + 1
    return torch.tensor(float(n), dtype=z.dtype)


def contrast_logits(z: Tensor, y: int, other: Tensor, foil: int) -> Tensor:
    return other[foil]


def contrast_prob(z: Tensor, y: int, other: Tensor, foil: int) -> Tensor:
    return ref.probability(other, foil)


def contrast_logits_diff(z: Tensor, y: int, other: Tensor, foil: int) -> Tensor:
    return z[y] - other[foil]


def contrast_prob_diff(z: Tensor, y: int, other: Tensor, foil: int) -> Tensor:
    return ref.probability(z, y) - ref.probability(other, foil)


def pcxmi(z: Tensor, y: int, other: Tensor, foil: int) -> Tensor:
    """-ln (q(y | x) / q(y | x, C)): the contrast has no context (Fernandes et al. 2023)."""
    return -(ref.probability(other, foil) / ref.probability(z, y)).log()


def in_context_pvi(z: Tensor, y: int, other: Tensor, foil: int) -> Tensor:
    """-log2 p(y | nothing) + log2 p(y | prompt) (Lu et al. 2023)."""
    return -ref.probability(other, foil).log2() + ref.probability(z, y).log2()


def kl_divergence(
    z: Tensor, y: int, other: Tensor, foil: int, top_k: int = 0, top_p: float = 1.0, min_tokens_to_keep: int = 1
) -> Tensor:
    """sum_v P(v) (ln P(v) - ln Q(v)), over the tokens that are likeliest by the sum of both logits.

    In double precision: large terms of both signs leave a small sum.
    """
    z, other = z.double(), other.double()
    order = (z + other).argsort(descending=True).tolist()
    shares = distribution((z + other).detach()).tolist()
    kept, total = [], 0.0
    for place, v in enumerate(order):
        inside = total < top_p and (top_k == 0 or place < top_k)
        if inside or place < min_tokens_to_keep:
            kept.append(v)
        total += shares[v]
    p, q = distribution(z[kept]), distribution(other[kept])
    return sum((a * (a.log() - b.log()) for a, b in zip(p, q, strict=True)), z.new_zeros(()))


ONE: dict[str, ref.StepFunction] = {
    **{name: fn for name, fn in ref.STEP_FUNCTIONS.items() if name != "log_probability"},
    "rank": rank,
    "margin": margin,
    "top_p_size": top_p_size,
}
TWO: dict[str, PairFunction] = {
    f.__name__: f
    for f in (
        contrast_logits,
        contrast_prob,
        contrast_logits_diff,
        contrast_prob_diff,
        pcxmi,
        in_context_pvi,
        kl_divergence,
    )
}


def same_context(case: Case, t: int, contrast: Case, j: int) -> bool:
    sources = case.source is None or torch.equal(case.source, contrast.source)
    return sources and torch.equal(case.target[:t], contrast.target[:j])


def step_scores(case: Case, contrast: Case, pairs: Mapping[int, int], fn: PairFunction) -> Tensor:
    """[step]: each prediction from its own prefix, the contrast's from the contrast's prefix."""
    found = []
    for t in case.positions:
        j = pairs[t]
        other = ref.logits_from_ids(contrast, j)
        found.append(fn(ref.logits_from_ids(case, t), case.written(t), other, int(contrast.target[j])))
    return torch.stack(found)


def attribution(
    slow: Callable[..., Tensor],
    case: Case,
    contrast: Case,
    pairs: Mapping[int, int],
    fn: PairFunction,
    way: Way,
    **kwargs: Any,
) -> Tensor:
    """[feature, step, ...]: a method's slow definition, step by step.

    The contrast's prediction is the altered input's own (``token``), that of the contrast's prefix (``own``), or the
    latter where the contexts differ (``differing``).
    """
    n = case.n_source if kwargs.get("only_source") else case.n_features
    columns = []
    for t in case.positions:
        j = pairs[t]
        foil = int(contrast.target[j])
        taken = way == "own" or (way == "differing" and not same_context(case, t, contrast, j))
        fixed = ref.logits_from_ids(contrast, j) if taken else None

        def single(z: Tensor, y: int, fixed: Tensor | None = fixed, foil: int = foil) -> Tensor:
            return fn(z, y, z if fixed is None else fixed, foil)

        step = Case(case.model, case.source, case.target[: t + 1], t)
        found = slow(step, single, **kwargs)[:, 0]
        columns.append(torch.cat([found, found.new_zeros(n - len(found), *found.shape[1:])]))
    return torch.stack(columns, 1)


@dataclass(frozen=True)
class Dropout:
    """The mean of a value over whole forwards of a copy of the model in training mode, each from a seed of its own."""

    case: Case
    n_passes: int
    seed: int
    fn: ref.StepFunction = ref.probability

    def values(self, x: Tensor) -> Tensor:
        """[step]"""
        case = self.case
        twin = Case(copy.deepcopy(case.model).train(), case.source, case.target, case.first)
        passes = []
        with torch.random.fork_rng(devices=[]):
            for k in range(self.n_passes):
                torch.manual_seed(self.seed * 1_000_003 + k)
                logits = _whole(twin, x)
                passes.append(torch.stack([self.fn(logits[t - 1], case.written(t)) for t in case.positions]))
        return torch.stack(passes).mean(0)

    def scores(self) -> Tensor:
        """[step]"""
        return self.values(ref.embeddings(self.case)).detach()

    def gradients(self, x: Tensor) -> Tensor:
        """[feature, step, dim]"""
        x = x.clone().requires_grad_()
        return torch.stack([torch.autograd.grad(value, x, retain_graph=True)[0] for value in self.values(x)], 1)

    def saliency(self) -> Tensor:
        return self.gradients(ref.embeddings(self.case)).abs()

    def integrated_gradients(self, baseline: Tensor, nodes: Sequence[float], weights: Sequence[float]) -> Tensor:
        x = ref.embeddings(self.case)
        points = zip(nodes, weights, strict=True)
        total = sum(weight * self.gradients(baseline + node * (x - baseline)) for node, weight in points)
        return (x - baseline)[:, None] * total

    def occlusion(self, replacement: Tensor) -> Tensor:
        x = ref.embeddings(self.case)
        plain, rows = self.scores(), []
        for i in range(len(x)):
            altered = x.clone()
            altered[i] = replacement[i]
            rows.append(plain - self.values(altered).detach())
        return torch.stack(rows)


def _whole(case: Case, embeds: Tensor) -> Tensor:
    """[decoder position, vocabulary]: what one forward predicts after each decoder row of `embeds`."""
    if case.source is None:
        return case.model(inputs_embeds=embeds[None], use_cache=False).logits[0]
    source, prefix = embeds[: case.n_source], embeds[case.n_source :]
    decoder = prefix[None] / ref._factor(case.model)
    return case.model(inputs_embeds=source[None], decoder_inputs_embeds=decoder, use_cache=False).logits[0]
