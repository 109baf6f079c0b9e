"""Answers under construction: they take contributions batch by batch and become what a method awaits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from inseq.engine.packing import Job
from inseq.engine.requests import Capture, Direction, Gradient, Replay, Request, Score
from inseq.text.example import Example


def wide(values: Tensor) -> Tensor:
    """At least float32, whatever the model computes in."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


@runtime_checkable
class Answer(Protocol):
    """What a request's jobs add up to."""

    def add(self, job: Job, contribution: Any) -> None:
        """Take what one batch gave for one job."""

    def value(self) -> Any:
        """What the method gets."""


class ScoreAnswer:
    """Values of all variants and steps."""

    def __init__(self, request: Score) -> None:
        self.shape = (len(request.variants), len(request.example.steps))
        self.values: Tensor | None = None

    def add(self, job: Job, contribution: Float[Tensor, "row step"]) -> None:
        if self.values is None:
            self.values = contribution.new_zeros(self.shape)
        self.values[job.variants.start : job.variants.stop, job.steps.start : job.steps.stop] = contribution

    def value(self) -> Tensor:
        assert self.values is not None
        return self.values


class GradientAnswer:
    """Gradients summed over variants, block of steps by block; a finished block is read, folded and leaves the device."""

    def __init__(self, request: Gradient) -> None:
        self.request = request
        self.sums: dict[int, Tensor] = {}
        self.rows: dict[int, int] = {}
        self.blocks: dict[int, tuple[Tensor, ...]] = {}

    def add(self, job: Job, contribution: Float[Tensor, "step feature dim"]) -> None:
        start = job.steps.start
        total = self.sums[start] + contribution if start in self.sums else contribution
        rows = self.rows.get(start, 0) + job.rows
        if rows == len(self.request.variants):
            self.blocks[start] = self._read(total, job)
            self.sums.pop(start, None)
        else:
            self.sums[start] = total
        self.rows[start] = rows

    def value(self) -> Any:
        parts = [torch.cat(pieces) for pieces in zip(*(self.blocks[k] for k in sorted(self.blocks)), strict=True)]
        return parts[0] if len(parts) == 1 else tuple(parts)

    def _read(self, gradient: Tensor, job: Job) -> tuple[Tensor, ...]:
        x = self.request.example
        gradient = pad(gradient, (0, 0, 0, len(x.features) - gradient.shape[1]))
        values = self.request.read(gradient)
        return tuple(_folded(v, x).cpu() for v in (values if isinstance(values, tuple) else (values,)))

    @staticmethod
    def empty(job: Job) -> Tensor:
        """Room for one job's contribution."""
        embeds = job.example.embeds
        return wide(embeds.new_empty(0)).new_zeros(len(job.steps), job.n_features, embeds.shape[1])

    @staticmethod
    def accumulate(job: Job, rows: range, steps: range, grads: Sequence[Tensor], total: Tensor) -> None:
        """Add up the weighted rows of some steps' gradients, one tensor per leaf, into ``total``."""
        n = min(len(steps), len(job.steps) - steps.start)
        if n <= 0:
            return
        x = job.example
        ends = ([x.n_source] if x.n_source else []) + ([] if len(x.context) else [job.n_decoder])
        parts = [g[:n, rows.start : rows.stop, :end] for g, end in zip(grads, ends, strict=True)]
        gradient = wide(torch.cat(parts, dim=2) if len(parts) > 1 else parts[0])
        assert isinstance(job.request, Gradient)
        weights = job.request.weights
        if weights is None:
            gradient = gradient.sum(1)
        else:
            chosen = weights[job.variants.start : job.variants.stop].to(gradient)
            gradient = torch.einsum("srfd,r->sfd", gradient, chosen)
        total[steps.start : steps.start + n] += gradient.to(total.device)


def _folded(values: Tensor, x: Example) -> Tensor:
    return values if x.granular or values.ndim < 3 else torch.linalg.vector_norm(values, dim=-1)


class FoldedAnswer:
    """What folds made of the layers, joined over blocks of steps."""

    def __init__(self, request: Request[Any]) -> None:
        self.blocks: dict[int, dict[str, Tensor]] = {}

    def add(self, job: Job, contribution: dict[str, Tensor]) -> None:
        self.blocks[job.steps.start] = {name: values.cpu() for name, values in contribution.items()}

    def value(self) -> dict[str, Tensor]:
        blocks = [self.blocks[k] for k in sorted(self.blocks)]
        return {
            name: first if name == "encoder" else torch.cat([block[name] for block in blocks])
            for name, first in blocks[0].items()
        }


ANSWERS: dict[type[Request[Any]], Any] = {
    Score: ScoreAnswer,
    Gradient: GradientAnswer,
    Capture: FoldedAnswer,
    Direction: FoldedAnswer,
    Replay: FoldedAnswer,
}
