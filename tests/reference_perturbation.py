"""Slow definitions of the perturbation methods: one plain call of the model's public forward per step and variant."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import reference as ref
import torch
from reference import Case, StepFunction
from torch import Tensor


def logits_without(case: Case, gone: Sequence[int], t: int, removal: str) -> Tensor:
    """[vocabulary]: the prediction of position `t` from ids, where some features are deleted or hidden."""
    n = case.n_source
    decoder = [i for i in gone if n <= i < case.seen(t)]
    arguments: dict[str, Tensor]
    if removal == "delete":
        arguments = {"input_ids": _left(case.target[:t], [i - n for i in decoder])[None]}
    else:
        arguments = {"input_ids": case.target[None, :t]}
        if decoder:
            arguments["attention_mask"] = _mask(t, [i - n for i in decoder])
    if case.source is None:
        if "attention_mask" in arguments:
            arguments["position_ids"] = torch.arange(t)[None]
        with torch.no_grad():
            return case.model(**arguments, use_cache=False).logits[0, -1]
    source = [i for i in gone if i < n]
    arguments = {f"decoder_{name}": value for name, value in arguments.items()}
    if removal == "delete":
        arguments["input_ids"] = _left(case.source, source)[None]
    else:
        arguments |= {"input_ids": case.source[None], "attention_mask": _mask(n, source)}
    with torch.no_grad():
        return case.model(**arguments, use_cache=False).logits[0, -1]


def _left(ids: Tensor, gone: Sequence[int]) -> Tensor:
    return ids[[i for i in range(len(ids)) if i not in gone]]


def _mask(n: int, hidden: Sequence[int]) -> Tensor:
    return torch.tensor([[int(i not in hidden) for i in range(n)]])


def windows(length: int, window: int, stride: int) -> list[list[int]]:
    """Windows of one sequence, each `stride` after the last; the first to reach the end is the last, and may be cut."""
    found, start = [], 0
    while True:
        found.append(list(range(start, min(start + window, length))))
        if start + window >= length:
            return found
        start += stride


def occlusion_without(
    case: Case, fn: StepFunction, removal: str, window: int = 1, stride: int = 1, *, only_source: bool = False
) -> Tensor:
    """[feature, step]: the mean loss of f_t over the windows that cover a token, from ids (Zeiler and Fergus 2014)."""
    n, n_source = case.n_source if only_source else case.n_features, case.n_source
    covers = windows(n_source, window, stride) if n_source else []
    if not only_source:
        covers += [[n_source + i for i in w] for w in windows(case.n_features - n_source, window, stride)]
    found = torch.zeros(n, len(case.positions))
    for step, t in enumerate(case.positions):
        plain = fn(ref.logits_from_ids(case, t), case.written(t))
        losses: dict[int, list[Tensor]] = {i: [] for i in range(n)}
        for cover in covers:
            gone = [i for i in cover if not (n_source and i == n_source)]
            loss = plain - fn(logits_without(case, gone, t, removal), case.written(t))
            for i in cover:
                losses[i].append(loss)
        for i in range(n):
            if i < case.seen(t) and not (n_source and i == n_source):
                found[i, step] = torch.stack(losses[i]).mean()
    return found


def kernel_shap(
    case: Case, fn: StepFunction, replacement: Tensor, sets: Tensor, players: Sequence[int], *, only_source: bool = False
) -> Tensor:
    """[feature, step]: least squares of f_t at given sets, weighted by the Shapley kernel over the chance of each set.

    (Lundberg and Lee 2017, with the sum of the weights held by a Lagrange multiplier.) `sets` is [set, player]; the first
    two are all and none. The chance that a step's part of a set was drawn is counted over all sets of all players.
    """
    x = ref.embeddings(case)
    n = case.n_source if only_source else case.n_features
    found = torch.zeros(n, len(case.positions), dtype=x.dtype)
    every = len(sets) == 2 ** len(players)
    for step, t in enumerate(case.positions):
        seen = [p for p in players if p < case.seen(t)]
        m = len(seen)
        values = []
        for row in sets:
            kept = torch.ones(n, dtype=torch.bool)
            kept[torch.tensor(players)] = row
            values.append(ref.value(case, x, replacement, kept, t, fn).double())
        y, z = torch.stack(values), sets[:, :m].double()
        weights = torch.tensor([_weight(int(k), m, len(players), every) for k in z.sum(1)]).double()
        left = torch.zeros(m + 1, m + 1).double()
        left[:m, :m], left[m, :m], left[:m, m] = z.T @ (weights[:, None] * z), 1.0, 1.0
        right = torch.cat([z.T @ (weights * (y - y[1])), (y[0] - y[1])[None]])
        solved = torch.linalg.lstsq(left, right[:, None], driver="gelsd").solution[:m, 0]
        found[seen, step] = solved.to(x.dtype)
    return found


def _weight(k: int, m: int, n_players: int, every: bool) -> float:
    if k in (0, m):
        return 0.0
    kernel = (m - 1) / (math.comb(m, k) * k * (m - k))
    if every:
        return kernel
    chance = 0.0
    for more in range(n_players - m + 1):
        size = k + more
        if size < n_players:
            of_size = 1 / (size * (n_players - size))
            chance += of_size * math.comb(n_players - m, more) / math.comb(n_players, size)
    return kernel / chance


def log_odds(z: Tensor, y: int) -> Tensor:
    """ln p - ln(1 - p), in double precision."""
    log_p = torch.log_softmax(z.double(), 0)
    others = torch.cat([log_p[:y], log_p[y + 1 :]])
    return log_p[y] - torch.logsumexp(others, 0)


def context_cite(
    case: Case, replacement: Tensor, kept: Tensor, held: Tensor, alpha: float, *, only_source: bool = False
) -> Tensor:
    """[feature, step]: a source's LASSO weight for the log-odds, shared among its tokens (Cohen-Wang et al. 2024).

    `kept` is [sample, source], `held` [source, feature].
    """
    x, n = ref.embeddings(case), case.n_source if only_source else case.n_features
    found = torch.zeros(n, len(case.positions), dtype=x.dtype)
    for step, t in enumerate(case.positions):
        y = []
        for row in kept:
            gone = {int(i) for source in range(len(held)) if not row[source] for i in held[source].nonzero()[:, 0]}
            stay = torch.tensor([i not in gone for i in range(n)])
            y.append(ref.value(case, x, replacement, stay, t, log_odds))
        weights = lasso(kept.double(), torch.stack(y), alpha)
        for source, features in enumerate(held):
            found[features, step] = (weights[source] / features.sum()).to(x.dtype)
    return found


def lasso(z: Tensor, y: Tensor, alpha: float) -> Tensor:
    """[source]: the minimum of |y - z w - c|^2 / (2 samples) + alpha |w| on standardised z.

    A minimum is known by its derivative: -alpha sign(w) where w is not zero, and no steeper than alpha elsewhere. Which are
    not zero is found by accelerated proximal gradient steps.
    """
    n = len(z)
    deviation = ((z - z.mean(0)) ** 2).mean(0).sqrt()
    design = torch.where(deviation > 0, (z - z.mean(0)) / deviation.clamp_min(1e-300), 0.0)
    size = 1 / (torch.linalg.matrix_norm(design, 2) ** 2 / n)
    y = y - y.mean()
    w = ahead = torch.zeros(z.shape[1]).double()
    for _ in range(100):
        for k in range(100):
            down = ahead + size * design.T @ (y - design @ ahead) / n
            before, w = w, down.sign() * (down.abs() - size * alpha).clamp_min(0)
            ahead = w + k / (k + 3) * (w - before)
        on = w != 0
        part = design[:, on]
        exact = torch.zeros_like(w)
        exact[on] = torch.linalg.pinv(part.T @ part) @ (part.T @ y - n * alpha * w[on].sign())
        slope = design.T @ (y - design @ exact) / n
        if (exact.sign() == w.sign()).all() and (slope.abs() <= alpha + 1e-9).all():
            return torch.where(deviation > 0, exact / deviation.clamp_min(1e-300), 0.0)
        ahead = w
    raise ArithmeticError("the proximal gradient steps have not found the minimum")


def reagent(case: Case, draws: Any, model: bool, keep_top_n: int, top_k: int, *, only_source: bool = False) -> Tensor:
    """[feature, step]: the softmax of learned importance, averaged over the runs that converged (Zhao and Shan 2024).

    Each step is probed by itself. `draws` says which tokens every probe replaces, and by which candidate.
    """
    n = case.n_source if only_source else case.n_features
    candidates = [_candidates(case, i, draws, model) for i in range(n)]
    start = case.n_source if case.source is not None else -1
    found = torch.zeros(n, len(case.positions)).double()
    for step, t in enumerate(case.positions):
        seen = [i for i in range(min(n, case.seen(t))) if i != start]
        whole = _rewritten(case, {}, t)
        columns, ended = [], []
        for run in range(len(draws.start)):
            importance = draws.start[run].clone()
            done = False
            for probe in range(draws.replaced.shape[1]):
                taken = [i for i in seen if draws.replaced[run, probe, i]]
                row = _rewritten(case, {i: candidates[i][draws.choice[run, probe, i]] for i in taken}, t)
                fall = float(_p(whole, case.written(t)) - _p(row, case.written(t)))
                for i in seen:
                    importance[i] += 2 * math.atanh(fall) * (1 if i in taken else -1)
                best = sorted(seen, key=lambda i: -float(importance[i]))[:keep_top_n]
                rest = {i: candidates[i][draws.check[run, probe, i]] for i in seen if i not in best}
                row = _rewritten(case, rest, t)
                if done := int((row > row[case.written(t)]).sum()) < top_k:
                    break
            column = torch.zeros(n).double()
            column[seen] = torch.softmax(importance[seen], 0)
            columns.append(column)
            ended.append(done)
        counted = [c for c, e in zip(columns, ended, strict=True) if e] or columns
        found[:, step] = torch.stack(counted).mean(0)
    return found


def _candidates(case: Case, i: int, draws: Any, model: bool) -> list[int]:
    """By what feature i may be replaced."""
    if i <= case.n_source or not model:
        side = case.model.get_encoder() if i < case.n_source else case.model.get_decoder()
        return [int(share * len(side.get_input_embeddings().weight)) for share in draws.uniform[i]]
    below = torch.softmax(ref.logits_from_ids(case, i - case.n_source).double(), 0).cumsum(0)
    return [int((below < level).sum()) for level in draws.levels]


def _rewritten(case: Case, ids: dict[int, int], t: int) -> Tensor:
    """[vocabulary]: the prediction of position t from ids, some of them others."""
    target, source = case.target.clone(), None if case.source is None else case.source.clone()
    for i, token in ids.items():
        (target if source is None or i >= case.n_source else source)[i - (i >= case.n_source) * case.n_source] = token
    with torch.no_grad():
        if source is None:
            return case.model(input_ids=target[None, :t], use_cache=False).logits[0, -1]
        return case.model(input_ids=source[None], decoder_input_ids=target[None, :t], use_cache=False).logits[0, -1]


def _p(z: Tensor, y: int) -> Tensor:
    return torch.softmax(z.double(), 0)[y]
