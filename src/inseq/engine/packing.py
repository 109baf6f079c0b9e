"""Requests are cut into jobs, jobs are packed into batches of padded rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from inseq.engine.placing import Memory, joined, padded, place
from inseq.engine.requests import Deleted, Gradient, Placed, Request
from inseq.errors import UnsupportedModelError
from inseq.models.adapter import Inputs
from inseq.text.example import Example, Role

OVERHEAD = {"cpu": 10**8}
"""Multiplications that the fixed work of one forward is worth, by kind of device; accelerators do more in that time."""

ACCELERATOR_OVERHEAD = 10**10


GRAPH = 0.3
"""What it costs to make a graph from what is known, in forwards."""

WHOLE = 2**30
"""A block of all steps."""


@dataclass(frozen=True, eq=False)
class Job:
    """A block of steps of some variants of one request.

    Attributes:
        start: the first feature in which any of the variants differs from the example, where what is before it is taken
            from ``memory``.
        memory: of the example; its own job, which has no ``start``, fills it.
        block: how many steps share a graph, where there is one graph for each block; 0 where one serves all.
    """

    request: Request[Any]
    variants: range
    steps: range
    start: int = 0
    memory: Memory | None = None
    block: int = 0

    @property
    def remembers(self) -> bool:
        """Whether the job fills the memory."""
        return self.memory is not None and not self.start

    def forget(self) -> None:
        """Empty the memory."""
        if self.memory is not None:
            self.memory.tensors = ()

    @property
    def skipped(self) -> int:
        """Features that are not run: of the encoder, all or none."""
        n = self.example.n_source
        return self.start if not n else n if self.start >= n else 0

    @property
    def example(self) -> Example:
        return self.request.example

    @property
    def rows(self) -> int:
        return len(self.variants)

    @property
    def n_decoder(self) -> int:
        """Decoder positions the block needs: none beyond the prefix of its last step."""
        return int(self.example.at[self.steps[-1]]) + 1

    @property
    def width(self) -> int:
        return self.example.n_source + self.n_decoder - self.skipped

    @property
    def n_features(self) -> int:
        return self.example.visible[self.steps[-1]]


@dataclass(frozen=True)
class Budget:
    """How much one forward may hold.

    Attributes:
        tokens: rows x padded length.
        logits: rows x steps x vocabulary.
        cotangents: vector-Jacobian products at a time x rows x padded length x dim.
        overhead: what a further forward costs beside its tokens, in tokens: short examples share one, padded.
        smallest: with fewer tokens a forward takes no less time, as the weights have to be read anyway.
    """

    tokens: int
    logits: int
    cotangents: int
    overhead: int = 64
    smallest: int = 16

    def halved(self) -> Budget:
        tokens, logits, cotangents = (max(1, size // 2) for size in (self.tokens, self.logits, self.cotangents))
        return replace(self, tokens=tokens, logits=logits, cotangents=cotangents)


def default_budget(device: torch.device, weights: int, dim: int) -> Budget:
    """Small batches fit a CPU's cache; accelerators want large ones.

    Args:
        device: where the model is.
        weights: how many weights each token is multiplied with.
        dim: how wide the model is.
    """
    overhead = OVERHEAD.get(device.type, ACCELERATOR_OVERHEAD) // max(1, weights)
    if device.type == "cpu":
        return Budget(tokens=max(512, 2**20 // dim), logits=2**25, cotangents=2**18, overhead=overhead)
    return Budget(tokens=2**15, logits=2**28, cotangents=2**27, overhead=overhead, smallest=512)


def jobs_of(
    request: Request[Any], causal: bool, overhead: int, *, stepwise: bool = False, beginnings: bool = False
) -> list[Job]:
    """Cut a request into jobs.

    Gradients are cut into blocks of steps of similar prefix length, so that a block's backward covers its own prefix and
    no more: into jobs with a forward each, or, where graphs over ``beginnings`` can be made from one forward, within a job.
    A model that is not causal needs a prefix of its own for every step.

    Raises:
        UnsupportedModelError: if features are deleted for a model that is not causal, which would see the padding.
    """
    if not causal and isinstance(request.variants, Deleted) and not stepwise:
        raise UnsupportedModelError(
            "This model is not causal: it would read the padding of a row that has become shorter, so that deleting a token "
            "cannot be right. Use removal='replace'."
        )
    n = len(request.example.steps)
    variants = range(len(request.variants))
    if beginnings:
        return [Job(request, variants, range(n), block=graph_size(request.example, overhead))]
    size = 1 if not causal else block_size(request.example, overhead) if isinstance(request, Gradient) else n
    return [Job(request, variants, range(a, min(a + size, n))) for a in range(0, n, size)]


def block_size(x: Example, overhead: int) -> int:
    """The block size of least work: one forward and one backward a step, each over the block's longest prefix."""
    lengths = (x.at + 1 + x.n_source).tolist()
    n = len(lengths)

    def work(size: int) -> int:
        ends = [min(a + size, n) for a in range(0, n, size)]
        return sum((b - a + 1) * lengths[b - 1] + overhead for a, b in zip(range(0, n, size), ends, strict=True))

    return min({-(-n // pieces) for pieces in range(1, min(n, 32) + 1)}, key=lambda size: (work(size), -size))


def graph_size(x: Example, overhead: int) -> int:
    """The size of blocks of least work, where each needs a graph and none a forward: a power of two, or all.

    Few sizes, so that examples of different lengths share batches.
    """
    lengths = (x.at + 1).tolist()
    n = len(lengths)

    def work(size: int) -> float:
        ends = [min(a + size, n) for a in range(0, n, size)]
        return sum((b - a + GRAPH) * lengths[b - 1] + overhead for a, b in zip(range(0, n, size), ends, strict=True))

    return min((*(2**k for k in range(1, n.bit_length()) if 2**k < n), WHOLE), key=lambda size: (work(size), -size))


def batches(jobs: Iterable[Job], budget: Callable[[], Budget], vocabulary: int, causal: bool) -> Iterator[list[Job]]:
    """Pack jobs of one kind into batches within a budget; jobs with many variants are cut, batches are filled.

    Blocks of one request follow each other, so that what was summed over variants can be handed on early.
    """
    batch: list[Job] = []
    for job in jobs:
        rest = job
        while rest.rows:
            room = _room(batch, rest, budget(), vocabulary, causal)
            if room <= 0 and batch:
                yield batch
                batch = []
                continue
            take = max(1, min(room, rest.rows))
            batch.append(replace(rest, variants=rest.variants[:take]))
            rest = replace(rest, variants=rest.variants[take:])
    if batch:
        yield batch


def _room(batch: Sequence[Job], job: Job, budget: Budget, vocabulary: int, causal: bool) -> int:
    """How many rows of a job a batch still takes."""
    if batch and (batch[0].skipped > 0 or job.skipped > 0) and not _go_on_together(batch[0], job):
        return 0
    if batch and batch[0].block != job.block:
        return 0
    if batch and not causal and batch[0].n_decoder != job.n_decoder:
        return 0
    together = [*batch, job]
    width = max(j.width for j in together)
    steps = max(len(j.steps) for j in together)
    rows = sum(j.rows for j in batch)
    real = sum(j.rows * j.width for j in batch) + job.width
    if (rows + 1) * width - real > max(budget.overhead, real // 16):
        return 0
    held = max(j.width + j.skipped for j in together)
    return min(budget.tokens // held, budget.logits // (steps * vocabulary)) - rows


def _go_on_together(a: Job, b: Job) -> bool:
    """Rows that go on from remembered keys and values share their number; any encoder outputs can be padded."""
    if a.example.n_source:
        return a.skipped > 0 and b.skipped > 0
    return a.skipped == b.skipped


@dataclass(frozen=True)
class Packed:
    """A batch ready to run: the model's inputs, and which rows belong to which job."""

    inputs: Inputs
    jobs: tuple[tuple[Job, range], ...]
    ids: Tensor
    real: Tensor

    def placed(self, side: Role) -> Float[Tensor, "row position width"] | None:
        """What the values of a layer on ``side`` are exchanged for, where that is what the variants alter."""
        parts = []
        for job, _ in self.jobs:
            if not isinstance(job.request.variants, Placed):
                return None
            values = job.request.variants.values(job.variants.start, job.variants.stop)
            n = job.example.n_source
            parts.append(values[:, :n] if side == "source" else values[:, n : n + job.n_decoder])
        return padded(parts)

    @property
    def tokens(self) -> int:
        source = self.inputs.source
        return self.inputs.decoder.shape[:2].numel() + (0 if source is None else source.shape[:2].numel())


def pack(jobs: Sequence[Job]) -> Packed:
    """Make the rows of a batch and pad them on the right."""
    rows = [place(job.request, job.variants, job.steps, job.n_decoder, job.start, job.memory) for job in jobs]
    ids = [job.example.step_ids[job.steps.start : job.steps.stop].expand(job.rows, -1) for job in jobs]
    ends = accumulate(job.rows for job in jobs)
    placed = tuple((job, range(end - job.rows, end)) for job, end in zip(jobs, ends, strict=True))
    real = padded([torch.ones_like(each, dtype=torch.bool) for each in ids])
    return Packed(joined(rows), placed, padded(ids), real)
