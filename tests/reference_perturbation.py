"""Slow definitions of the perturbation methods: one plain call of the model's public forward per step and variant."""

from __future__ import annotations

from collections.abc import Sequence

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
