"""The progress bar, and the announcement of a long run."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tqdm.auto import tqdm

from inseq.engine.jobs import Job
from inseq.engine.memory.plan import MemoryPlan, Work, size_text, work_of
from inseq.models.adapter import Adapter

DELAY = 0.5
"""Seconds before a bar appears: short runs show none."""

SURE = 2.0
"""Seconds after which the rate of a run's first batches is believed."""

LONG = 30.0
"""Seconds beyond which a run is announced."""


@dataclass(eq=False)
class Progress:
    """A bar, and one line on a run that is going to be long: rows, time and memory.

    Attributes:
        bar: shows how many rows and steps were run.
        adapter: the model.
        plan: takes account of the work, where there is one.
        shown: whether anything is shown.
        clock: seconds that only grow.
    """

    bar: Any
    adapter: Adapter
    plan: MemoryPlan | None
    shown: bool
    clock: Callable[[], float] = time.perf_counter
    asked: Work = field(default_factory=Work)
    done: Work = field(default_factory=Work)
    started: float | None = None
    said: bool = False

    def expect(self, jobs: Iterable[Job]) -> None:
        """More is to be run."""
        if self.started is None:
            self.started = self.clock()
        for job in jobs:
            self.bar.total += job.rows * len(job.steps)
            work = work_of(job, self.adapter)
            self.asked.add(work)
            if self.plan is not None:
                self.plan.work.add(work)

    def ran(self, job: Job) -> None:
        """A job was run: what is left is estimated by what the first ones took."""
        self.bar.update(job.rows * len(job.steps))
        self.done.add(work_of(job, self.adapter))
        if self.shown and not self.said and self.plan is not None and self.started is not None:
            passed = self.clock() - self.started
            expected = passed * self.asked.flops / self.done.flops
            if passed >= SURE and expected >= LONG:
                self.said = True
                self.bar.write(cost_line(self.plan, self.asked, expected), file=sys.stderr)


def cost_line(plan: MemoryPlan, work: Work, seconds: int | float) -> str:
    """Return the expected cost of a run: ``occlusion: 4128 rows, about 3 min, 1.2 GiB``."""
    rows = f"{work.rows} row{'s' if work.rows != 1 else ''}"
    products = f", {work.vjps} gradients" if work.vjps else ""
    return f"{plan.name}: {rows}{products}, about {time_text(seconds)}, {size_text(plan.peak)}"


def time_text(seconds: int | float) -> str:
    """A time as it is read: ``40 s``, ``3 min``, ``2.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@contextmanager
def shown_progress(adapter: Adapter, plan: MemoryPlan | None, shown: bool) -> Iterator[Progress]:
    """A bar for one run of the engine."""
    with tqdm(total=0, disable=not shown, delay=DELAY, unit="step", leave=False) as bar:
        yield Progress(bar, adapter, plan, shown)
