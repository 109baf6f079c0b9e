"""Slow definitions of the methods that follow gradients, in plain loops: one forward for each step, variant and point."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
import reference as ref
import torch
from reference import Case, StepFunction
from torch import Tensor, nn


def _varied(case: Case, only_source: bool) -> int:
    return case.n_source if only_source else case.n_features


def smooth_grad(
    case: Case, fn: StepFunction, noises: Sequence[Tensor], statistic: str, *, only_source: bool = False
) -> Tensor:
    """[feature, step, dim]: a statistic of the gradients at x + noise (Smilkov et al. 2017)."""
    x, n = ref.embeddings(case), _varied(case, only_source)
    found = []
    for noise in noises:
        noisy = x.clone()
        noisy[:n] += noise[:n]
        found.append(ref.gradients(case, fn, noisy, only_source=only_source))
    samples = torch.stack(found)
    statistics = {"mean": samples.mean(0), "square": (samples**2).mean(0), "variance": samples.var(0, unbiased=False)}
    return statistics[statistic]


def gradient_shap(
    case: Case,
    fn: StepFunction,
    baseline: Tensor,
    draws: Sequence[tuple[float, Tensor]],
    *,
    only_source: bool = False,
) -> Tensor:
    """[feature, step, dim]: the mean of (x' - b) d f_t / d x at b + a (x' - b), with x' = x + noise (Lundberg 2017)."""
    x, n = ref.embeddings(case), _varied(case, only_source)
    total = torch.zeros(n, len(case.positions), x.shape[1], dtype=x.dtype)
    for share, noise in draws:
        way = torch.zeros_like(x)
        way[:n] = x[:n] + noise[:n] - baseline[:n]
        at = x.clone()
        at[:n] = baseline[:n] + share * way[:n]
        total += way[:n, None] * ref.gradients(case, fn, at, only_source=only_source) / len(draws)
    return total


def sequential_integrated_gradients(
    case: Case,
    fn: StepFunction,
    baseline: Tensor,
    nodes: Sequence[float],
    weights: Sequence[float],
    *,
    only_source: bool = False,
) -> Tensor:
    """[feature, step, dim]: for each token integrated gradients from the input with it alone replaced (Enguehard 2023)."""
    x, n = ref.embeddings(case), _varied(case, only_source)
    total = torch.zeros(n, len(case.positions), x.shape[1], dtype=x.dtype)
    for i in range(n):
        for node, weight in zip(nodes, weights, strict=True):
            at = x.clone()
            at[i] = baseline[i] + float(node) * (x[i] - baseline[i])
            own = ref.gradients(case, fn, at, only_source=only_source)[i]
            total[i] += float(weight) * own * (x[i] - baseline[i])
    return total


def along(case: Case, fn: StepFunction, points: Tensor, *, only_source: bool = False) -> Tensor:
    """[feature, step, dim]: sum_k (p_{k+1} - p_k) d f_t / d x at p_k, with p [point, feature, dim] (Sanyal and Ren 2021)."""
    x, n = ref.embeddings(case), _varied(case, only_source)
    total = torch.zeros(n, len(case.positions), x.shape[1], dtype=x.dtype)
    for here, onward in pairwise(points):
        at = x.clone()
        at[:n] = here[:n]
        total += (onward - here)[:n, None] * ref.gradients(case, fn, at, only_source=only_source)
    return total


def word_path(start: Tensor, end: Tensor, own: int, words: Tensor, n_steps: int, strategy: str, neighbors: int) -> Tensor:
    """[point, dim]: one token's way, from ``end`` to ``start``, found word by word and dimension by dimension."""
    points, here, anchor, passed = [start], start, start, {own}
    for _ in range(n_steps - 1):
        free = [i for i in range(len(words)) if i not in passed]
        near = sorted(free, key=lambda i, a=anchor: float((words[i] - a).norm()))[:neighbors]
        options = {}
        for i in near:
            kept, moved = 0, words[i].clone()
            for d in range(len(moved)):
                low, high = sorted((float(here[d]), float(end[d])))
                if low <= float(moved[d]) <= high:
                    kept += 1
                else:
                    moved[d] = here[d] + (end[d] - here[d]) / n_steps
            cost = float((words[i] - moved).norm()) if strategy == "greedy" else -kept
            options[i] = (cost, moved)
        best = min(near, key=lambda i: options[i][0])
        passed.add(best)
        anchor, here = words[best], options[best][1]
        points.append(here)
    return torch.stack([*points, end]).flip(0)


@contextmanager
def exchanged(module: nn.Module, values: Tensor | None, seen: list[Tensor]) -> Any:
    """Look at what a module gives, and let it give ``values`` instead."""

    def hook(_: nn.Module, __: Any, output: Any) -> Any:
        own = output[0] if isinstance(output, tuple) else output
        given = own if values is None else values[None, : own.shape[1]].clone().requires_grad_()
        seen.append(given)
        return (given, *output[1:]) if isinstance(output, tuple) else given

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def layer_values(case: Case, module: nn.Module, embeds: Tensor) -> Tensor:
    """[position, width]: what a module gives at every position."""
    seen: list[Tensor] = []
    with torch.no_grad(), exchanged(module, None, seen):
        ref.logits(case, embeds, len(case.target) - 1)
    return seen[0][0]


def layer_gradient(case: Case, module: nn.Module, t: int, fn: StepFunction, values: Tensor | None) -> tuple[Tensor, Tensor]:
    """What a module gives at every position that position ``t`` is predicted from, and the gradient of f_t to it."""
    seen: list[Tensor] = []
    x = ref.embeddings(case).requires_grad_()
    with exchanged(module, values, seen):
        score = ref.score(case, x, t, fn)
    (gradient,) = torch.autograd.grad(score, seen[0])
    return seen[0][0].detach(), gradient[0]


def layer_gradient_x_activation(case: Case, fn: StepFunction, module: nn.Module, *, source: bool) -> Tensor:
    """[feature, step, width]: a layer's values times the gradient; on the source's side or the decoder's."""
    columns = []
    for t in case.positions:
        values, gradient = layer_gradient(case, module, t, fn, None)
        columns.append(as_features(case, values * gradient, source))
    return torch.stack(columns, 1)


def layer_integrated_gradients(
    case: Case,
    fn: StepFunction,
    module: nn.Module,
    baseline: Tensor,
    nodes: Sequence[float],
    weights: Sequence[float],
    *,
    source: bool,
) -> Tensor:
    """[feature, step, width]: integrated gradients of a layer's values, the rest of the model at the input."""
    start, end = (layer_values(case, module, embeds) for embeds in (baseline, ref.embeddings(case)))
    columns = []
    for t in case.positions:
        column = torch.zeros_like(end)
        for node, weight in zip(nodes, weights, strict=True):
            values, gradient = layer_gradient(case, module, t, fn, start + float(node) * (end - start))
            column[: len(values)] += float(weight) * gradient
        columns.append(as_features(case, column * (end - start), source))
    return torch.stack(columns, 1)


def as_features(case: Case, rows: Tensor, source: bool) -> Tensor:
    found = rows.new_zeros(case.n_features, rows.shape[1])
    first = 0 if source else case.n_source
    found[first : first + len(rows)] = rows
    return found


def refined_integrated_gradients(
    case: Case, fn: StepFunction, baseline: Tensor, n: int, chosen: Sequence[int] | None = None, looks: int = 12
) -> Tensor:
    """[feature, step, dim]: the middles of n parts of the chosen steps' way, made complete.

    Parts have equal shares of u(a) = 0.3 a + 0.7 v(a), where v is the steps' mean of how far, as a share, the target went,
    between looks in equal proportion. What a part contributes is its length times the gradient in its middle (of u) times the
    way. Contributions get weights that add up to the change, of all such weights those with the least squares of their
    differences from 1.
    """
    x = ref.embeddings(case)
    way = x - baseline
    positions = [case.positions[k] for k in (range(len(case.positions)) if chosen is None else chosen)]
    with torch.no_grad():
        seen = [[float(ref.score(case, baseline + k / looks * way, t, fn)) for k in range(looks + 1)] for t in positions]
    u = [0.0]
    for k in range(looks):
        shares = [abs(each[k + 1] - each[k]) / sum(abs(b - a) for a, b in pairwise(each)) for each in seen]
        u.append(u[-1] + 0.3 / looks + 0.7 * sum(shares) / len(shares))

    def place(share: float) -> float:
        k = max(k for k in range(looks) if u[k] <= share)
        return (k + (share - u[k]) / (u[k + 1] - u[k])) / looks

    found = x.new_zeros(len(x), len(positions), x.shape[1])
    for step, t in enumerate(positions):
        pieces = []
        for k in range(n):
            length = place(min((k + 1) / n, u[-1])) - place(k / n)
            at = baseline + place((k + 0.5) / n) * way
            pieces.append(length * way * ref.gradient(case, t, fn, at))
        sums = np.array([[float(piece.sum()) for piece in pieces]])
        weights = 1 + np.linalg.lstsq(sums, np.array([seen[step][-1] - seen[step][0] - sums.sum()]), rcond=None)[0]
        found[:, step] = sum(float(weight) * piece for weight, piece in zip(weights, pieces, strict=True))
    return found
