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
from inseq.errors import ArgumentError, UnsupportedModelError
from inseq.models.inputs import Inputs
from inseq.requests import Activations, Deleted, Gradient, Placed, Request, Score
from inseq.requests.example import Example
from inseq.text.tokens import Role

OVERHEAD = {"cpu": 10**8}
"""Multiplications that the fixed work of one forward is worth, by kind of device; accelerators do more in that time."""

ACCELERATOR_OVERHEAD = 10**10


GRAPH = 0.3
"""What it costs to make a graph from what is known, in forwards."""

SHARED = 4
"""Variants that share the fixed work of a block, at most: many of them are divided between batches."""

WHOLE = 2**30
"""A block of all steps."""


@dataclass(frozen=True, eq=False)
class Job:
    """A block of predictions of some variants of one request.

    Attributes:
        steps: the predictions.
        sums: for a gradient, which of the example's steps are sums of them; a step is never divided between blocks, except
            where every prediction is run by itself.
        start: the first feature in which any of the variants differs from the example, where what is before it is taken
            from ``memory``.
        memory: of the example; its own job, which has no ``start``, fills it.
        block: how many sums share a graph, where there is one graph for each block; 0 where one serves all.
    """

    request: Request[Any]
    variants: range
    steps: range
    start: int = 0
    memory: Memory | None = None
    block: int = 0
    sums: range = range(0)

    @property
    def parts(self) -> list[range]:
        """For each of the ``sums``, which of the block's predictions it is the sum of."""
        if self.example.spans is None:
            return [range(i, i + 1) for i in range(len(self.sums))]
        first, n = self.steps.start, len(self.steps)
        spans = self.example.spans[self.sums.start : self.sums.stop]
        return [range(max(0, span.start - first), min(n, span.stop - first)) for span in spans]

    def of_sums(self, sums: range) -> Job:
        """The same for some of the sums."""
        parts = self.example.parts
        steps = range(parts[sums[0]].start, parts[sums[-1]].stop) if sums else range(0)
        return replace(self, sums=sums, steps=steps)

    @property
    def n_blocks(self) -> int:
        """How many blocks its sums are divided between."""
        if len(self.sums) != 1:
            return 1
        return len(self.example.parts[self.sums[0]]) // len(self.steps)

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
        """Decoder positions the block needs: none beyond the prefix of its last prediction."""
        return int(self.example.at[self.steps[-1]]) + 1

    @property
    def width(self) -> int:
        return self.example.n_source + self.n_decoder - self.skipped

    @property
    def n_features(self) -> int:
        return self.example.n_source + (0 if len(self.example.context) else self.n_decoder)


@dataclass(frozen=True)
class Budget:
    """How much one forward may hold.

    Attributes:
        tokens: rows x padded length.
        logits: rows x steps x vocabulary.
        cotangents: vector-Jacobian products at a time x rows x padded length x dim.
        overhead: what a further forward costs beside its tokens, in tokens: short examples share one, padded.
        smallest: with fewer tokens a forward takes no less time, as the weights have to be read anyway.
        rows: of all jobs together.
        results: steps of a block x features x dim, of gradients that are not folded yet.
        weights: rows x heads x pairs of a query and a key, beyond which an edited attention is computed by blocks.
        graph: the tokens of a forward whose graph is kept: each of them holds far more, and few are as fast.
    """

    tokens: int
    logits: int
    cotangents: int
    overhead: int = 64
    smallest: int = 16
    rows: int = 2**62
    results: int = 2**62
    weights: int = 2**62
    graph: int = 2**62

    def within(self, other: Budget) -> Budget:
        """The smaller of two."""
        sizes = ("tokens", "logits", "cotangents", "rows", "results", "weights", "graph")
        return replace(self, **{size: min(getattr(self, size), getattr(other, size)) for size in sizes})

    def steps(self, request: Request[Any], vocabulary: int) -> int:
        """How many steps of a request one row may serve."""
        x = request.example
        if isinstance(request, Gradient):
            return max(1, self.results // max(1, x.embeds.numel()))
        return max(1, self.logits // vocabulary)

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
        tokens, graph = max(512, 2**20 // dim), max(256, 2**18 // dim)
        return Budget(tokens=tokens, logits=2**25, cotangents=2**19, overhead=overhead, graph=graph)
    return Budget(tokens=2**15, logits=2**28, cotangents=2**27, overhead=overhead, smallest=512)


def jobs_of(
    request: Request[Any],
    causal: bool,
    overhead: int,
    *,
    stepwise: bool = False,
    beginnings: bool = False,
    most: int | None = None,
) -> list[Job]:
    """Cut a request into jobs, of at most so many steps.

    Gradients are cut into blocks of steps of similar prefix length, so that a block's backward covers its own prefix and
    no more: into jobs with a forward each, or, where graphs over ``beginnings`` can be made from one forward, within a job.
    A model that is not causal needs a prefix of its own for every prediction.

    Raises:
        ArgumentError: if something else than the target is asked of steps that are spans.
        UnsupportedModelError: if features are deleted for a model that is not causal, which would see the padding; and if
            what becomes of a span's gradient is not the sum of what becomes of each prediction's, which are then run apart.
    """
    x, variants = request.example, range(len(request.variants))
    if x.spans is not None and not isinstance(request, Score | Gradient | Activations):
        raise ArgumentError(
            "target_spans explains the sum of a target over the tokens of a span, and this method has no target: it looks at "
            "what the model computes inside for each token by itself. Leave target_spans out and combine the tokens' scores "
            "afterwards, or use a method that has a target, such as 'saliency' or 'occlusion'."
        )
    if not causal and isinstance(request.variants, Deleted) and not stepwise:
        raise UnsupportedModelError(
            "This model is not causal: it would read the padding of a row that has become shorter, so that deleting a token "
            "cannot be right. Use removal='replace'."
        )
    n = len(x.at)
    if not isinstance(request, Gradient):
        size = n if most is None or isinstance(request, Activations) else min(n, most)
        size = size if causal else 1
        return [Job(request, variants, range(a, min(a + size, n))) for a in range(0, n, size)]
    parts = x.parts
    if not causal:
        if not request.additive and any(len(part) > 1 for part in parts):
            raise UnsupportedModelError(
                "Every prediction is run by itself here, since the model is not causal or the target wants to see it so, and "
                "this method needs the gradient of a whole span before it goes on. Leave target_spans out, or use 'saliency' "
                "or 'integrated_gradients' without a tolerance."
            )
        return [Job(request, variants, range(i, i + 1), sums=range(k, k + 1)) for k, part in enumerate(parts) for i in part]
    if beginnings:
        size, block = len(parts), graph_size(x, overhead // min(len(request.variants), SHARED))
    else:
        size, block = block_size(x, overhead), 0
    size = size if most is None else min(size, most)
    blocks = [range(a, min(a + size, len(parts))) for a in range(0, len(parts), size)]
    return [Job(request, variants, range(parts[s[0]].start, parts[s[-1]].stop), sums=s, block=block) for s in blocks]


def block_size(x: Example, overhead: int) -> int:
    """The block size of least work: one forward and one backward a step, each over the block's longest prefix."""
    lengths = [int(x.at[part.stop - 1]) + 1 + x.n_source for part in x.parts]
    n = len(lengths)

    def work(size: int) -> int:
        ends = [min(a + size, n) for a in range(0, n, size)]
        return sum((b - a + 1) * lengths[b - 1] + overhead for a, b in zip(range(0, n, size), ends, strict=True))

    return min({-(-n // pieces) for pieces in range(1, min(n, 32) + 1)}, key=lambda size: (work(size), -size))


def graph_size(x: Example, overhead: int) -> int:
    """The size of blocks of least work, where each needs a graph and none a forward: a power of two, or all.

    Few sizes, so that examples of different lengths share batches.
    """
    lengths = [int(x.at[part.stop - 1]) + 1 for part in x.parts]
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
    tokens = min(budget.tokens, budget.graph) if job.sums else budget.tokens
    return min(tokens // held, budget.logits // (steps * vocabulary), budget.rows) - rows


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
    def sums(self) -> list[tuple[Tensor, Tensor | int]]:
        """For each product, in which rows it starts at which predictions: as many pairs as there are."""
        if all(job.example.spans is None for job, _ in self.jobs):
            every = torch.arange(len(self.ids), device=self.ids.device)
            return [(every, step) for step in range(self.ids.shape[1])]
        pairs: list[list[Tensor]] = [[] for _ in range(max(len(job.sums) for job, _ in self.jobs))]
        for job, rows in self.jobs:
            for of_sum, part in zip(pairs, job.parts, strict=False):
                of_sum.append(torch.cartesian_prod(torch.tensor(rows), torch.tensor(part)))
        joined_pairs = [torch.cat(of_sum).to(self.ids.device) for of_sum in pairs]
        return [(pair[:, 0], pair[:, 1]) for pair in joined_pairs]

    @property
    def tokens(self) -> int:
        source = self.inputs.source
        return self.inputs.decoder.shape[:2].numel() + (0 if source is None else source.shape[:2].numel())


def pack(jobs: Sequence[Job]) -> Packed:
    """Make the rows of a batch and pad them on the right."""
    rows = [place(job.request, job.variants, job.steps, job.n_decoder, job.start, job.memory) for job in jobs]
    ids = [job.example.written_ids[job.steps.start : job.steps.stop].expand(job.rows, -1) for job in jobs]
    ends = accumulate(job.rows for job in jobs)
    placed = tuple((job, range(end - job.rows, end)) for job, end in zip(jobs, ends, strict=True))
    real = padded([torch.ones_like(each, dtype=torch.bool) for each in ids])
    return Packed(joined(rows), placed, padded(ids), real)
