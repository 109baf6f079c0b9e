"""Values with named axes: an aggregation is a map over one of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Shaped
from torch import Tensor

from inseq.errors import ArgumentError
from inseq.registry import Registry

AggregationFunction = Callable[[Tensor, int], Tensor]
Span = tuple[int, int]

aggregation_functions: Registry[AggregationFunction] = Registry("aggregation function")


@dataclass(frozen=True, eq=False)
class Labelled:
    """A tensor whose axes have names.

    NaN marks a token that the model had not read yet.

    Attributes:
        values: one dimension for each name.
        axes: names such as ``"feature"``, ``"step"``, ``"dim"``, ``"layer"``, ``"head"``; all different.

    Raises:
        ArgumentError: if there are not as many names as dimensions, or a name is there twice.
    """

    values: Shaped[Tensor, "..."] = field(repr=False)
    axes: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.axes) != self.values.ndim or len(set(self.axes)) != len(self.axes):
            raise ArgumentError(
                f"Got axes {self.axes} for values of shape {tuple(self.values.shape)}; "
                "expected one name for each dimension, all different."
            )

    def dim(self, axis: str) -> int:
        """Return the position of an axis.

        Raises:
            ArgumentError: if there is no such axis.
        """
        if axis not in self.axes:
            raise ArgumentError(f"There is no axis {axis!r}; the axes are {', '.join(self.axes)}.")
        return self.axes.index(axis)

    def reduce(self, axis: str, function: AggregationFunction) -> Labelled:
        """Fold an axis away. A NaN anywhere along the axis stays visible in the result."""
        dim = self.dim(axis)
        missing = _missing(self.values).any(dim)
        return Labelled(_blank(function(self.values, dim), missing), _without(self.axes, dim))

    def select(self, axis: str, indices: int | Sequence[int]) -> Labelled:
        """Keep some indices of an axis; a single integer also drops the axis. Negative ones count from the end.

        Raises:
            ArgumentError: for an index out of range, one given twice, or none at all.
        """
        dim = self.dim(axis)
        size = self.values.shape[dim]
        chosen = [_index(i, size, axis) for i in ([indices] if isinstance(indices, int) else indices)]
        if not chosen or len(set(chosen)) != len(chosen):
            raise ArgumentError(f"Got indices {indices} for axis {axis!r}; expected at least one, each once.")
        if isinstance(indices, int):
            return Labelled(self.values.select(dim, chosen[0]), _without(self.axes, dim))
        at = torch.tensor(chosen, device=self.values.device)
        return Labelled(self.values.index_select(dim, at), self.axes)

    def merge(self, axis: str, spans: Sequence[Span], function: AggregationFunction) -> Labelled:
        """Fold each half-open span of an axis into one index; what no span holds stays as it is.

        NaN inside a span is left out, and stays only where all of the span is NaN.

        Raises:
            ArgumentError: unless the spans ascend, hold something, do not overlap and lie within the axis.
        """
        dim = self.dim(axis)
        parts = [
            function(self.values.narrow(dim, start, end - start), dim) if merged else self.values.select(dim, start)
            for start, end, merged in tile(spans, self.values.shape[dim])
        ]
        return Labelled(torch.stack(parts, dim), self.axes) if parts else self


def tile(spans: Sequence[Span], size: int) -> list[tuple[int, int, bool]]:
    """Cover ``range(size)`` with the spans and, between them, single indices: (start, end, is a span).

    Raises:
        ArgumentError: unless the spans ascend, hold something, do not overlap and end within ``size``.
    """
    pieces: list[tuple[int, int, bool]] = []
    at = 0
    for start, end in spans:
        if not at <= start < end <= size:
            raise ArgumentError(
                f"Got spans {list(spans)} for {size} positions; expected half-open (start, end) pairs "
                "in ascending order that do not overlap."
            )
        pieces += [(i, i + 1, False) for i in range(at, start)] + [(start, end, True)]
        at = end
    return pieces + [(i, i + 1, False) for i in range(at, size)]


def _index(i: int, size: int, axis: str) -> int:
    if not -size <= i < size:
        raise ArgumentError(f"Index {i} is out of range for axis {axis!r} of size {size}.")
    return i % size


def _without(axes: tuple[str, ...], dim: int) -> tuple[str, ...]:
    return axes[:dim] + axes[dim + 1 :]


def _missing(values: Shaped[Tensor, "..."]) -> Bool[Tensor, "..."]:
    return values.isnan()


def _filled(values: Shaped[Tensor, "..."], value: float) -> Shaped[Tensor, "..."]:
    return values.masked_fill(_missing(values), value)


def _blank(values: Shaped[Tensor, "..."], missing: Bool[Tensor, "..."]) -> Shaped[Tensor, "..."]:
    return values.masked_fill(missing, float("nan")) if values.is_floating_point() else values


def _over_readable(values: Tensor, dim: int, neutral: float, fold: AggregationFunction) -> Tensor:
    return _blank(fold(_filled(values, neutral), dim), _missing(values).all(dim))


@aggregation_functions("mean")
def mean(values: Tensor, dim: int) -> Tensor:
    """The mean, sign kept."""
    return values.nanmean(dim)


@aggregation_functions("sum")
def total(values: Tensor, dim: int) -> Tensor:
    """The sum, sign kept."""
    return _over_readable(values, dim, 0.0, lambda v, d: v.sum(d))


@aggregation_functions("prod")
def product(values: Tensor, dim: int) -> Tensor:
    """The product, sign kept."""
    return _over_readable(values, dim, 1.0, lambda v, d: v.prod(d))


@aggregation_functions("max")
def largest(values: Tensor, dim: int) -> Tensor:
    """The largest value."""
    return _over_readable(values, dim, float("-inf"), lambda v, d: v.amax(d))


@aggregation_functions("min")
def smallest(values: Tensor, dim: int) -> Tensor:
    """The smallest value."""
    return _over_readable(values, dim, float("inf"), lambda v, d: v.amin(d))


@aggregation_functions("absmax")
def absmax(values: Tensor, dim: int) -> Tensor:
    """The value of the largest magnitude, sign kept."""
    at = _filled(values.abs(), -1.0).argmax(dim, keepdim=True)
    return values.gather(dim, at).squeeze(dim)


@aggregation_functions("vnorm", unsigned=True)
def vnorm(values: Tensor, dim: int) -> Tensor:
    """The Euclidean (L2) norm, which is never negative."""
    norm = torch.linalg.vector_norm(_filled(values, 0.0), dim=dim)
    return _blank(norm, _missing(values).all(dim))
