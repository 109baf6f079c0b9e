"""What a call may hold, and what it is going to cost: made before anything runs, mended where memory runs out."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from inseq.engine.budget import Budget
from inseq.engine.jobs import Job
from inseq.engine.measures import Measures
from inseq.engine.memory.footprint import Footprint, by_blocks, guessed, measured, memory_efficient
from inseq.errors import ArgumentError
from inseq.models.adapter import Adapter
from inseq.requests import Capture, Gradient, Replay, Request, Rescale

LOGITS = {True: 6, False: 4}
"""How many copies of its logits, in float32, a target needs with a graph and without."""

PIECE = 128
"""Bytes for each number of a vector that a layer run again, or a piece of its output, takes."""

RESULTS = 3
"""How many copies of a result stand while it is joined and laid out."""

GRANULAR_SHARE = 0.25
"""Of the memory: what a granular result may take, its copies included."""

LARGE = 2**26
"""Bytes up to which a guess is good enough, where they are a small part of the memory."""

SMALL_PART = 0.25


@dataclass(frozen=True)
class MemoryLimit:
    """How much memory a call may take beside the loaded model.

    Attributes:
        size: in bytes.
        origin: where that number comes from.
        strict: whether a call that needs more is refused; else it is noted, and tried.
    """

    size: int
    origin: str
    strict: bool = True


@dataclass
class Work:
    """What is to be run.

    Attributes:
        rows: rows of forwards.
        tokens: token positions in them.
        vjps: vector-Jacobian products, each of one row and one step.
        flops: floating-point operations.
    """

    rows: int = 0
    tokens: int = 0
    vjps: int = 0
    flops: float = 0.0

    def add(self, other: Work) -> None:
        self.rows += other.rows
        self.tokens += other.tokens
        self.vjps += other.vjps
        self.flops += other.flops


def work_of(job: Job, adapter: Adapter) -> Work:
    """What one job costs."""
    request, steps = job.request, len(job.sums) if isinstance(job.request, Gradient) else len(job.steps)
    layers, dim = adapter.axis_size("layer"), adapter.axis_size("dim")
    per_token = 2 * adapter.n_weights + 4 * layers * dim * (job.width + job.skipped)
    one = float(job.width * per_token)
    backward = one * steps if isinstance(request, Gradient) else 0.0
    inside = 0.0
    if isinstance(request, Replay):
        inside = float(job.n_features * steps * per_token)
    elif isinstance(request, Capture) and request.pieces:
        inside = 16.0 * layers * dim * job.width**2
    paired = 2 if isinstance(request, Gradient) and isinstance(request.edit, Rescale) else 1
    head = 2.0 * steps * adapter.vocabulary_size * dim
    flops = job.rows * paired * (one + backward + inside + head)
    return Work(job.rows, job.rows * job.width, job.rows * steps if isinstance(request, Gradient) else 0, flops)


@dataclass(eq=False)
class MemoryPlan:
    """The plan of one call of the engine.

    Attributes:
        name: of the method, for what is said about the call.
        room: what the call may take.
        kept: bytes of the results, which stand beside whatever runs.
        granular: whether these keep all their axes.
        work: what was planned so far.
        rows: the most rows that a forward had.
        products: the most products that were made at a time.
        peak: the most bytes that stand at once, as far as can be told.
        notes: what a user should know.
    """

    name: str
    room: MemoryLimit
    kept: int = 0
    granular: bool = True
    work: Work = field(default_factory=Work)
    rows: int = 0
    products: int = 0
    peak: int = 0
    notes: list[str] = field(default_factory=list)
    limits: dict[Hashable, Budget] = field(default_factory=dict)
    footprints: dict[Hashable, Footprint] = field(default_factory=dict)

    def limit(
        self, requests: Sequence[Request[Any]], budget: Budget, measures: Measures, known: dict[Hashable, Footprint]
    ) -> None:
        """Decide what a forward may hold when it answers requests of one kind.

        Args:
            requests: all in one company.
            budget: what suits the device.
            measures: what runs them.
            known: footprints that were counted before on this model.

        Raises:
            ArgumentError: if not even one row with one product at a time fits.
        """
        request, adapter = requests[0], measures.adapter
        shapes = {(r.example.n_source, int(r.example.at[-1]) + 1, len(r.example.steps)) for r in requests}
        footprint = self._footprint(request, shapes, measures, known)
        weights = budget.weights
        least = max(self._least(request, footprint, shape, adapter) for shape in shapes)
        if least > self.room.size and (split := by_blocks(footprint, adapter, request)) is not None:
            smaller = max(self._least(request, split, shape, adapter) for shape in shapes)
            if smaller < least:
                footprint, weights, least = split, 0, smaller
        if least > self.room.size:
            self._too_small(least, request, adapter)
        found = replace(budget, weights=weights, cotangents=budget.cotangents if weights else 2**62)
        n_rows = sum(len(r.variants) for r in requests)
        for shape in shapes:
            found = found.within(self._fitted(request, footprint, shape, n_rows, found, adapter))
        self.footprints[request.company], self.limits[request.company] = footprint, found

    def _footprint(
        self,
        request: Request[Any],
        shapes: set[tuple[int, int, int]],
        measures: Measures,
        known: dict[Hashable, Footprint],
    ) -> Footprint:
        """A guess where it fits easily; else the tensors of a few small rows are counted, once for a model."""
        adapter = measures.adapter
        guess = guessed(adapter, request)
        if max(guess.row(m, n) for m, n, _ in shapes) <= min(LARGE, SMALL_PART * self.room.size):
            return guess
        key = kind(request)
        if key not in known:
            known[key] = measured(measures, request) or guess
        return known[key]

    def _least(self, request: Request[Any], footprint: Footprint, shape: tuple[int, int, int], adapter: Adapter) -> int:
        """What a single row with a single step and a single product takes."""
        source, decoder, _ = shape
        return self.kept + footprint.row(source, decoder) + _of_step(request, source + decoder, adapter)

    def _fitted(
        self,
        request: Request[Any],
        footprint: Footprint,
        shape: tuple[int, int, int],
        n_rows: int,
        budget: Budget,
        adapter: Adapter,
    ) -> Budget:
        source, decoder, n_steps = shape
        graph = isinstance(request, Gradient)
        width, dim, step = source + decoder, adapter.axis_size("dim"), _of_step(request, source + decoder, adapter)
        free = self.room.size - self.kept
        row, product = footprint.row(source, decoder), footprint.product(source, decoder)
        steps = max(1, min(n_steps, (free - row) // (2 * step))) if graph else n_steps
        each = row + steps * step
        fitting = max(1, free // each)
        tokens = min(budget.tokens, budget.graph) if graph else budget.tokens
        rows = max(1, min(fitting, tokens // width, n_rows))
        products = 1 + max(0, (free - rows * each) // max(1, rows * product)) if graph else 1
        inside = isinstance(request, Capture | Replay)
        return replace(
            budget,
            tokens=max(width, min(budget.tokens, (free - rows * each) // (PIECE * dim) if inside else fitting * width)),
            rows=rows,
            logits=max(1, (free - rows * row) // (4 * LOGITS[graph])),
            cotangents=min(budget.cotangents, rows * products * width * dim),
            results=budget.results if steps == n_steps else steps * width * dim,
        )

    def _too_small(self, least: int, request: Request[Any], adapter: Adapter) -> None:
        whole = isinstance(request, Capture | Replay) or (isinstance(request, Gradient) and request.edit is not None)
        other = "" if whole or memory_efficient(adapter) else ", or load the model with attn_implementation='sdpa'"
        if self.room.strict:
            raise ArgumentError(
                f"memory={self.room.origin} is {size_text(self.room.size)}, and {self.name!r} needs about {size_text(least)} "
                f"beside the loaded model even with a single row and a single product at a time. Pass memory={least} or "
                f"more, or a shorter text{other}."
            )
        note = (
            f"the smallest plan needs about {size_text(least)}, more than {self.room.origin} ({size_text(self.room.size)}): "
            "it is tried"
        )
        if note not in self.notes:
            self.notes.append(note)

    def ran(self, batch: Sequence[Job], budget: Budget, adapter: Adapter) -> None:
        """Take account of a batch that is run."""
        rows, width = sum(job.rows for job in batch), max(job.width for job in batch)
        steps = max(len(job.steps) for job in batch)
        request, dim = batch[0].request, adapter.axis_size("dim")
        products = 0
        if isinstance(request, Gradient):
            products = max(1, min(budget.cotangents // (rows * width * dim), steps))
        self.rows, self.products = max(self.rows, rows), max(self.products, products)
        footprint = self.footprints.get(request.company)
        if footprint is not None:
            source, decoder = max(job.example.n_source for job in batch), max(job.n_decoder for job in batch)
            each = footprint.row(source, decoder) + max(0, products - 1) * footprint.product(source, decoder)
            each += steps * _of_step(request, width, adapter)
            self.peak = max(self.peak, self.kept + rows * each)

    def shrink(self, budget: Budget) -> None:
        """Go on with less, as the device had less than was planned."""
        self.limits = {company: limit.within(budget) for company, limit in self.limits.items()}

    def facts(self) -> dict[str, Any]:
        """The plan as it was carried out, for ``info``."""
        return {
            "memory": self.room.size,
            "memory_from": self.room.origin,
            "peak": self.peak,
            "rows": self.rows,
            "products": self.products,
            "granular": self.granular,
            "tokens": self.work.tokens,
            "vjps": self.work.vjps,
            "flops": self.work.flops,
        }


def _of_step(request: Request[Any], width: int, adapter: Adapter) -> int:
    """What each step of a row adds: its logits; its unfolded gradients; what enters past the last layer's keys and values."""
    numbers = LOGITS[isinstance(request, Gradient)] * adapter.vocabulary_size
    if isinstance(request, Gradient):
        dim, ends = adapter.axis_size("dim"), 2 * adapter.axis_size("head") if adapter.facts.attention_sites else 0
        numbers += 2 * request.held * width * dim + ends * width + 2 * dim
    return 4 * numbers


def kind(request: Request[Any]) -> Hashable:
    """Requests of one kind take the same bytes."""
    if isinstance(request, Gradient):
        return Gradient, request.edit, request.at
    if isinstance(request, Capture):
        return Capture, request.pieces
    return (type(request),)


def size_text(size: int | float) -> str:
    """Bytes as they are read: ``1.2 GiB``."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return f"{size:.0f} {unit}" if unit in ("bytes", "KiB", "MiB") else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def smaller_than(batch: Sequence[Job], budget: Budget, adapter: Adapter) -> Budget | None:
    """What is left to a batch that did not fit: half of its products, then half of its rows; None where nothing is."""
    request, rows, width = batch[0].request, sum(job.rows for job in batch), max(job.width for job in batch)
    steps, unit = max(len(job.steps) for job in batch), rows * width * adapter.axis_size("dim")
    products = min(budget.cotangents // unit, steps) if isinstance(request, Gradient) else 1
    if products > 1:
        return replace(budget, cotangents=products // 2 * unit)
    inside = isinstance(request, Capture | Replay) and budget.tokens > 1
    if rows == 1 and not inside:
        return None
    used = replace(budget, tokens=rows * width, logits=rows * steps * adapter.vocabulary_size, cotangents=unit)
    return replace(budget.halved(), rows=max(1, rows // 2)) if inside else budget.within(used).halved()
