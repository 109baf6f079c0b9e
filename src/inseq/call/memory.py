"""The memory plan of a call: what its texts and its result take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from inseq.call.positions import Explained
from inseq.engine.memory.plan import GRANULAR_SHARE, RESULTS, MemoryLimit, MemoryPlan, size_text
from inseq.errors import ArgumentError
from inseq.models.adapter import Adapter

GRANULAR_ENTRIES = 2**26
"""How many scores a call keeps unreduced (256 MiB of float32) unless ``granular`` decides."""


def plan_of(
    name: str,
    facts: dict[str, Any],
    jobs: Sequence[Explained],
    adapter: Adapter,
    room: MemoryLimit,
    *,
    wanted: bool | None,
    decoder: bool,
) -> MemoryPlan:
    """The plan of a call as far as it is known beforehand: whether scores are kept granular, and what they take.

    Args:
        name: of the method.
        facts: what it declares.
        jobs: what is explained.
        adapter: the model.
        room: what the call may take.
        wanted: whether granular scores are asked for; None to decide.
        decoder: whether the decoder's tokens receive scores.

    Raises:
        ArgumentError: if granular scores are asked for that do not fit.
    """
    entries, reduced = _entries(facts, jobs, adapter, decoder)
    most = int(GRANULAR_SHARE * room.size) if wanted is None else room.size
    needed = 4 * RESULTS * entries
    fits = needed <= most
    if wanted and not fits and entries > reduced:
        raise ArgumentError(
            f"granular=True needs about {size_text(needed)} for the scores of every {', '.join(facts['axes'])}, and the call "
            f"may take {size_text(room.size)} (memory: {room.origin}). Pass granular=False, which reduces them as they "
            f"stream, a larger memory=, or fewer tokens to explain."
        )
    granular = wanted if wanted is not None else fits and entries <= GRANULAR_ENTRIES
    plan = MemoryPlan(name, room, kept=4 * RESULTS * (entries if granular else reduced), granular=granular)
    if wanted is None and not granular and entries > reduced:
        plan.notes.append(
            f"scores were reduced over {', '.join(facts['axes'])} as they streamed: kept whole they would take "
            f"{size_text(needed)}; granular=True keeps them where memory= allows it"
        )
    return plan


def _entries(facts: dict[str, Any], jobs: Sequence[Explained], adapter: Adapter, decoder: bool) -> tuple[int, int]:
    """How many scores there are, with all axes and without."""
    cells = sum((len(j.source) + decoder * j.window[1]) * j.n_steps for j in jobs)
    within = sum(len(j.source) ** 2 for j in jobs) if facts["encoder_matrix"] else 0
    entries = cells + within
    for axis in facts["axes"]:
        entries *= adapter.axis_size(axis)
    return entries, cells
