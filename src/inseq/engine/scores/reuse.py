"""Continue forwards from another one's keys and values, or from its encoder's output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from inseq.engine.budget import Budget
from inseq.engine.jobs import ExampleCache, Job
from inseq.models import probes
from inseq.models.adapter import Adapter
from inseq.models.inputs import Inputs
from inseq.models.probes import answer, gap, tolerance_of
from inseq.requests import Local, Request, Score

N_PREDICTIONS = 8
"""The number of predictions that are compared: all would take much memory over a whole vocabulary."""

NAMES = ("cache", "past_key_values")
"""Names of the argument in transformers, now and before."""


def prepare_reuse(adapter: Adapter, length: int) -> bool:
    """Return whether forwards may continue from another one's cache, for sequences up to a length.

    Two rows that begin alike are run whole, and from where they part on: the predictions must be equal. Windows show beyond
    a length only, so that longer sequences are asked again, each time twice as long.
    """
    if adapter.facts.can_reuse_cache is False or length <= adapter.facts.reuse_length:
        return bool(adapter.facts.can_reuse_cache)
    size = 8
    while size < length:
        size *= 2
    size = max(length, min(size, adapter.max_positions() or size))
    names = NAMES if not adapter.facts.cache_name else (adapter.facts.cache_name,)
    adapter.facts.can_reuse_cache = any(answer(adapter, partial(_equal, adapter, name, size), False) for name in names)
    adapter.facts.reuse_length = size
    return adapter.facts.can_reuse_cache


def _equal(adapter: Adapter, name: str, size: int) -> bool:
    adapter.facts.cache_name = name
    sourced = "source" in adapter.tables
    half = size // 2
    rows = _rows(adapter, "decoder", size, half)
    source = _rows(adapter, "source", 4, 4)[:1] if sourced else None
    keep = None if source is None else torch.ones_like(source[:, :, 0], dtype=torch.bool)
    at = torch.linspace(half, size - 1, min(N_PREDICTIONS, size - half), device=adapter.device).long()[None]
    one = Inputs(source, keep, rows[:1], at)
    both = replace(
        one,
        source=None if source is None else source.expand(2, -1, -1),
        source_keep=None if keep is None else keep.expand(2, -1),
        decoder=rows,
        at=at.expand(2, -1),
    )
    plain = adapter.read(both).logits
    memory = adapter.read(one, remember=True).memory
    if sourced:
        tail = replace(both, source=None, memory=tuple(t.expand(2, -1, -1) for t in memory))
    else:
        cut = tuple(t[:, :, :half].expand(2, -1, -1, -1) for t in memory)
        tail = replace(both, decoder=rows[:, half:], at=both.at - half, memory=cut)
    return gap(adapter.read(tail).logits, plain) <= tolerance_of(plain.dtype)


def _rows(adapter: Adapter, side: str, size: int, half: int) -> Tensor:
    """Return two rows of tokens that are the same up to a half and differ from there on."""
    both = probes.rows(adapter, side, size, 2)
    return torch.cat([both[:1, :half].expand(2, -1, -1), both[:, half:]], 1)


OVERHEADS = 5
"""The fixed cost of a continued forward, in those of a whole one: it reads all weights for few tokens and copies the cache."""


def reusing(request: Request[Any], budget: Budget) -> tuple[Job, list[Job]] | None:
    """The job of the example itself, and those of its variants from where they change on.

    A decoder's variants need the positions from their first change on: keys and values before it are those of the example.
    An encoder's output serves all variants that change the decoder's tokens alone. Steps that are predicted before a change
    have the example's own scores.

    Variants stay in their order, so that one that changes late gains nothing before one that changes early.

    Returns:
        None where that is no less work than to run every variant whole, and where the variants do not begin with the example.
    """
    x, variants = request.example, request.variants
    if not isinstance(request, Score) or not isinstance(variants, Local) or request.variants.original != 0:
        return None
    firsts = variants.changed_from[1:].flip(0).cummin(0).values.flip(0).tolist()
    if not firsts or firsts[-1] < max(1, x.n_source):
        return None
    every = range(len(x.at))
    whole = Job(request, range(len(variants)), every)
    memory = ExampleCache()
    first = Job(request, range(1), every, memory=memory)
    jobs = _source_jobs(request, firsts, memory) if x.n_source else _cheapest_jobs(request, firsts, memory, budget)
    return (first, jobs) if _work([first, *jobs], budget) < _work([whole], budget) else None


def _source_jobs(request: Request[Any], firsts: Sequence[int], memory: ExampleCache) -> list[Job]:
    n = request.example.n_source
    inside = sum(first < n for first in firsts)
    jobs = [_job(request, range(1, 1 + inside), 0, memory)] if inside else []
    return [job for job in (*jobs, _job(request, range(1 + inside, 1 + len(firsts)), firsts[inside], memory)) if job.steps]


def _cheapest_jobs(request: Request[Any], firsts: Sequence[int], memory: ExampleCache, budget: Budget) -> list[Job]:
    """Groups of neighbours, all of one size: large ones run more than they need, small ones are many forwards."""
    n = len(firsts)

    def cut(size: int) -> list[Job]:
        starts = range(0, n, size)
        jobs = [_job(request, range(1 + a, 1 + min(a + size, n)), firsts[a], memory) for a in starts]
        return [job for job in jobs if job.steps]

    sizes = sorted({n, *(2**k for k in range(n.bit_length()))})
    return min((cut(size) for size in sizes), key=lambda jobs: _work(jobs, budget))


def _job(request: Request[Any], variants: range, start: int, memory: ExampleCache) -> Job:
    x = request.example
    unchanged = int((x.at < start - x.n_source).sum())
    return Job(request, variants, range(unchanged, len(x.at)), start, memory if start else None)


def _work(jobs: Sequence[Job], budget: Budget) -> int:
    """In tokens."""
    sizes = [job.rows * job.width for job in jobs]
    return sum(max(size, budget.smallest) + OVERHEADS * budget.overhead * -(-size // budget.tokens) for size in sizes)


def portions(plans: Sequence[tuple[Job, list[Job]]], budget: Budget) -> list[list[tuple[Job, list[Job]]]]:
    """As many examples at a time as their memories fit the budget."""
    found: list[list[tuple[Job, list[Job]]]] = []
    room = 0
    for plan in plans:
        width = plan[0].width
        if width > room:
            found.append([])
            room = budget.tokens
        found[-1].append(plan)
        room -= width
    return found
