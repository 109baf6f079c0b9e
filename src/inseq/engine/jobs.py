"""Requests are cut into jobs: blocks of predictions of some variants."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from inseq.errors import ArgumentError, UnsupportedModelError
from inseq.requests import Activations, Deleted, Gradient, Request, Score
from inseq.requests.example import Example


@dataclass(eq=False)
class ExampleCache:
    """Keys and values, or an encoder's output, that variants of an example continue from. Empty until the example has run."""

    tensors: tuple[Tensor, ...] = ()


GRAPH = 0.3
"""The cost of a graph made from a cached forward, in forwards (measured on GPT-2 shapes)."""


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
    memory: ExampleCache | None = None
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
        """Return the number of blocks that its sums are divided between."""
        if len(self.sums) != 1:
            return 1
        return len(self.example.parts[self.sums[0]]) // len(self.steps)

    @property
    def remembers(self) -> bool:
        """Return whether the job fills the cache."""
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
