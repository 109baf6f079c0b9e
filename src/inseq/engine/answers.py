"""Answers under construction: they take contributions batch by batch and become what a method awaits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from inseq.engine.jobs import Job
from inseq.requests import Activations, Capture, Direction, Gradient, Logits, Replay, Request, Score
from inseq.requests.example import Example
from inseq.text.tokens import Role


def wide(values: Tensor) -> Tensor:
    """At least float32, whatever the model computes in."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


@runtime_checkable
class Answer(Protocol):
    """The sum of the contributions of a request's jobs."""

    def add(self, job: Job, contribution: Any) -> None:
        """Take what one batch gave for one job."""

    def value(self) -> Any:
        """Return the answer that the method awaits."""


class ScoreAnswer:
    """Values of all variants and steps; a variant has the example's own where it changes nothing before."""

    def __init__(self, request: Score) -> None:
        self.example = request.example
        self.shape = (len(request.variants), len(request.example.at))
        self.values: Tensor | None = None

    def add(self, job: Job, contribution: Float[Tensor, "row prediction *extra"]) -> None:
        if self.values is None:
            self.values = contribution.new_zeros(*self.shape, *contribution.shape[2:])
        if job.remembers:
            self.values[:] = contribution
        self.values[job.variants.start : job.variants.stop, job.steps.start : job.steps.stop] = contribution

    def value(self) -> Tensor:
        assert self.values is not None
        return self.example.by_step(self.values, 1)


class LogitsAnswer:
    """Predictions joined over blocks of steps, off the device."""

    def __init__(self, request: Logits) -> None:
        self.blocks: dict[int, Tensor] = {}

    def add(self, job: Job, contribution: Float[Tensor, "step vocab"]) -> None:
        self.blocks[job.steps.start] = contribution.cpu()

    def value(self) -> Tensor:
        return torch.cat([self.blocks[k] for k in sorted(self.blocks)])


class GradientAnswer:
    """Gradients summed over variants, block of steps by block; a finished block is read, folded and leaves the device.

    What is read has its place from the beginning: pieces kept between the large tensors of products would keep the memory
    of these from being used again.
    """

    def __init__(self, request: Gradient) -> None:
        self.request = request
        self.sums: dict[int, Tensor] = {}
        self.rows: dict[int, int] = {}
        self.values: tuple[Tensor, ...] = ()

    def add(self, job: Job, contribution: Float[Tensor, "step feature *rest"]) -> None:
        start = job.sums.start
        total = _added(contribution, self.sums[start]) if start in self.sums else contribution
        rows = self.rows.get(start, 0) + job.rows
        if rows == len(self.request.variants) * job.n_blocks:
            self._keep(job.sums, self._read(total, job.sums))
            self.sums.pop(start, None)
        else:
            self.sums[start] = total
        self.rows[start] = rows

    def value(self) -> Any:
        return self.values[0] if len(self.values) == 1 else self.values

    def _read(self, gradient: Tensor, steps: range) -> tuple[Tensor, ...]:
        x = self.request.example
        values = self.request.read(_wider(gradient, len(x.features)), steps)
        return tuple(_folded(v, x) for v in (values if isinstance(values, tuple) else (values,)))

    def _keep(self, steps: range, read: tuple[Tensor, ...]) -> None:
        if not self.values:
            n = len(self.request.example.parts)
            self.values = tuple(v.new_zeros(n, *v.shape[1:], device="cpu") for v in read)
        for values, part in zip(self.values, read, strict=True):
            values[steps.start : steps.stop] = part


def _added(a: Tensor, b: Tensor) -> Tensor:
    """The sum of two gradients, perhaps of different prefixes; the first one is given up, the second stays as it is."""
    if a.shape == b.shape:
        return a.add_(b)
    n = max(a.shape[1], b.shape[1])
    return _wider(a, n) + _wider(b, n)


def _wider(gradient: Tensor, n_features: int) -> Tensor:
    """The same with zeros for the features that it lacks."""
    lacking = n_features - gradient.shape[1]
    return pad(gradient, (0, 0) * (gradient.ndim - 2) + (0, lacking)) if lacking else gradient


def by_feature(
    job: Job, rows: range, leaves: Sequence[Tensor], sides: Sequence[Role]
) -> Float[Tensor, "*lead row feature ..."]:
    """A job's rows of what stands at the model's positions, by feature.

    Args:
        job: whose rows.
        rows: which they are.
        leaves: Float["*lead row position width"] for each leaf: the two sides' embeddings, or layers.
        sides: for each leaf the side it runs over; none for the embeddings, which then follow each other as features.
    """
    x = job.example
    ends = {"source": x.n_source, "generated": job.n_decoder}
    own = [leaf[..., rows.start : rows.stop, :, :] for leaf in leaves]
    if not sides:
        decoder = [] if len(x.context) else [job.n_decoder]
        parts = [g[..., :end, :] for g, end in zip(own, ([x.n_source] if x.n_source else []) + decoder, strict=True)]
        return wide(torch.cat(parts, dim=-2) if len(parts) > 1 else parts[0])
    placed = []
    for leaf, side in zip(own, sides, strict=True):
        before = x.n_source if side == "generated" else 0
        end = ends[side]
        placed.append(pad(leaf[..., :end, :], (0, 0, before, job.n_features - before - end)))
    return wide(torch.stack(placed, dim=-2))


def _folded(values: Tensor, x: Example) -> Tensor:
    return values if x.granular or values.ndim < 3 else torch.linalg.vector_norm(values, dim=-1)


class ActivationsAnswer:
    """Values of layers, for all variants."""

    def __init__(self, request: Activations) -> None:
        self.rows: dict[int, Tensor] = {}

    def add(self, job: Job, contribution: Float[Tensor, "row feature layer width"]) -> None:
        self.rows[job.variants.start] = contribution

    def value(self) -> Tensor:
        return torch.cat([self.rows[k] for k in sorted(self.rows)])


class FoldedAnswer:
    """The folds' results, joined over blocks of steps."""

    def __init__(self, request: Request[Any]) -> None:
        self.blocks: dict[int, dict[str, Tensor]] = {}

    def add(self, job: Job, contribution: dict[str, Tensor]) -> None:
        self.blocks[job.steps.start] = {name: values.cpu() for name, values in contribution.items()}

    def value(self) -> dict[str, Tensor]:
        blocks = [self.blocks[k] for k in sorted(self.blocks)]
        if len(blocks) == 1:
            return blocks[0]
        return {
            name: first if name == "encoder" else torch.cat([block[name] for block in blocks])
            for name, first in blocks[0].items()
        }


ANSWERS: dict[type[Request[Any]], Any] = {
    Score: ScoreAnswer,
    Logits: LogitsAnswer,
    Gradient: GradientAnswer,
    Activations: ActivationsAnswer,
    Capture: FoldedAnswer,
    Direction: FoldedAnswer,
    Replay: FoldedAnswer,
}
