"""The matrix whose output joins the stream below the last layer, taken by rank.

A step's gradient comes to that stream through keys and values: at each position it is a sum of one vector for each head's
query and one for each head's value, times numbers, and what the norm between makes of it, which adds a multiple of the
position's own normed vector. So the last matrix below is applied to these few vectors, once for all positions. An encoder's
output is reached by the last layer in the same way, past the matrices of its keys and values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from inseq.models.anatomy import freeze, is_norm
from inseq.models.edits import UndoList
from inseq.models.fused import Tape, is_product, matrix_of
from inseq.models.products import pulled


@dataclass(frozen=True, eq=False)
class Ranked:
    """What a forward leaves of the norm that the last layer's keys and values read, and of the matrix below.

    Attributes:
        normed: what the norm gave, with the graph from there to keys and values.
        unit: what it gave before its gain and its shift.
        scale: what the vectors were multiplied by for that.
        gain: of the norm.
        centered: whether it subtracts the mean.
        inner: what the matrix below read, with the graph below.
        matrix: takes a gradient at the stream to one at ``inner``.
        image: of ``unit`` under the matrix.
    """

    normed: Float[Tensor, "row position dim"]
    unit: Float[Tensor, "row position dim"]
    scale: Float[Tensor, "row position 1"]
    gain: Float[Tensor, " dim"]
    centered: bool
    inner: Float[Tensor, "row position inner"]
    matrix: Float[Tensor, "dim inner"]
    image: Float[Tensor, "row position inner"]

    def back(self, vectors: Float[Tensor, "*n dim"]) -> Float[Tensor, "*n dim"]:
        """What the norm makes of gradients, but for the position's own vector and its scale."""
        moved = vectors * self.gain
        return moved - moved.mean(-1, keepdim=True) if self.centered else moved


def last_matrix(layer: nn.Module) -> nn.Module | None:
    """The module that is likely to add the feed-forward part to the stream: the last product with weights that narrows."""
    narrowing = [m for m in layer.modules() if is_product(m) and matrix_of(m).shape[1] > len(matrix_of(m))]
    return narrowing[-1] if narrowing else None


@contextmanager
def ranked(
    last: nn.Module, below: nn.Module, stream: Callable[[], Tensor | None], tape: Tape | None
) -> Iterator[Callable[[], Ranked | None]]:
    """Cut the product with weights that ends the layer ``below`` out of the graph of a differentiable forward.

    Yields:
        What is known of it after the forward; None where the parts are of another kind.
    """
    product = last_matrix(below)
    inner: list[Tensor] = []
    found: list[Ranked] = []

    def cut(forward: Callable[..., Tensor], x: Tensor) -> Tensor:
        inner[:] = [x]
        return forward(x).detach()

    def read(norm: nn.Module, args: Any, y: Tensor) -> None:
        given = stream()
        if found or product is None or not inner or given is None or not args or args[0] is not given:
            return
        with torch.no_grad():
            frozen = freeze(norm, given, y)
            moved = given - given.mean(-1, keepdim=True) if frozen.centered else given
            unit, matrix = moved * frozen.scale[..., None], matrix_of(product)
            image = unit @ matrix if tape is None else tape.take(product, lambda: (unit @ matrix,))[0].narrow(1, 0, y.shape[1])
        found.append(Ranked(y, unit, frozen.scale[..., None], frozen.gain, frozen.centered, inner[0], matrix, image))

    with UndoList() as undo:
        if product is not None:
            undo.wrap_forward(product, cut)
            for module in last.modules():
                if is_norm(module):
                    undo.hook(module.register_forward_hook, read)
        yield lambda: found[0] if found else None


@dataclass(frozen=True, eq=False)
class Entry:
    """Gradients at the stream and at what the matrix below read, of predictions at one position of each row.

    Attributes:
        numbers: by which each head's vectors are multiplied at each position, those of queries before those of values.
        vectors: behind the norm.
        images: of the vectors under the matrix.
        direct: what reaches the stream at the predictions' own positions, past keys and values.
        images_direct: of these under the matrix.
    """

    known: Ranked
    numbers: Float[Tensor, "row prediction position rank"]
    vectors: Float[Tensor, "row prediction rank dim"]
    images: Float[Tensor, "row prediction rank inner"]
    direct: Float[Tensor, "row prediction dim"]
    images_direct: Float[Tensor, "row prediction inner"]
    at: Int[Tensor, "row prediction"]

    @classmethod
    def of(
        cls,
        known: Ranked,
        ends: tuple[Float[Tensor, "row group position width"], Float[Tensor, "row group position width"]],
        numbers: tuple[Float[Tensor, "row head prediction position"], Float[Tensor, "row head prediction position"]],
        given: tuple[Float[Tensor, "row head prediction width"], Float[Tensor, "row head prediction width"]],
        direct: Float[Tensor, "row prediction dim"],
        at: Int[Tensor, "row prediction"],
    ) -> Entry:
        """Find the vectors, by products that enter at a position each.

        Args:
            known: the norm and the matrix.
            ends: keys and values, with the graph from the norm.
            numbers: the gradients of keys and values are these times ``given``.
            given: see there.
            direct: what reaches the stream past keys and values.
            at: the predictions' positions.
        """
        found = torch.cat([known.back(_through(known.normed, *pair)) for pair in zip(ends, given, strict=True)], 2)
        by_position = torch.cat(numbers, 1).permute(0, 2, 3, 1) * known.scale[:, None]
        return cls(known, by_position, found, found @ known.matrix, direct, direct @ known.matrix, at)

    def seeds(self, which: Sequence[int]) -> tuple[Tensor, Tensor]:
        """For some predictions Float["prediction row position dim"] and Float["prediction row position inner"]."""
        some, known = list(which), self.known
        numbers, vectors, images = (t[:, some].transpose(0, 1) for t in (self.numbers, self.vectors, self.images))
        stream = numbers @ vectors
        own = (stream * known.unit).mean(-1, keepdim=True)
        stream.addcmul_(known.unit, own, value=-1)
        inner = (numbers @ images).addcmul_(known.image, own, value=-1)
        every = torch.arange(stream.shape[1], device=stream.device)
        for k, w in enumerate(some):
            stream[k, every, self.at[:, w]] += self.direct[:, w]
            inner[k, every, self.at[:, w]] += self.images_direct[:, w]
        return stream, inner


@dataclass(frozen=True, eq=False)
class Spread:
    """Gradients at an encoder's output, which predictions reach through the keys and values of one attention.

    Attributes:
        numbers: by which each head's vectors are multiplied at each position, those of queries before those of values.
        vectors: at the output.
    """

    numbers: Float[Tensor, "row prediction position rank"]
    vectors: Float[Tensor, "row prediction rank dim"]

    @classmethod
    def of(
        cls,
        output: Float[Tensor, "row position dim"],
        ends: tuple[Float[Tensor, "row group position width"], Float[Tensor, "row group position width"]],
        numbers: tuple[Float[Tensor, "row head prediction position"], Float[Tensor, "row head prediction position"]],
        given: tuple[Float[Tensor, "row head prediction width"], Float[Tensor, "row head prediction width"]],
    ) -> Spread:
        """Find the vectors, where ``ends`` are keys and values with the graph from the output; the rest as for ``Entry``."""
        found = torch.cat([_through(output, *pair) for pair in zip(ends, given, strict=True)], 2)
        return cls(torch.cat(numbers, 1).permute(0, 2, 3, 1), found)

    def seeds(self, which: Sequence[int]) -> Float[Tensor, "prediction row position dim"]:
        """For some predictions."""
        some = list(which)
        numbers, vectors = (t[:, some].transpose(0, 1) for t in (self.numbers, self.vectors))
        return numbers @ vectors


def _through(
    start: Float[Tensor, "row position dim"],
    end: Float[Tensor, "row group position width"],
    given: Float[Tensor, "row head prediction width"],
) -> Float[Tensor, "row prediction head dim"]:
    """What each vector at a head's key, or value, is at the start of its graph: as many at a time as there are positions."""
    rows, heads, n, width = given.shape
    groups, length = end.shape[1], end.shape[2]
    flat = given.transpose(1, 2).reshape(rows, n * heads, width)
    group = torch.arange(n * heads, device=flat.device) % heads // (heads // groups)
    found = []
    for first in range(0, n * heads, length):
        some = flat[:, first : first + length]
        place = torch.arange(some.shape[1], device=flat.device)
        seed = torch.zeros_like(end)
        seed[:, group[first : first + length], place] = some
        (gradient,) = pulled((end,), (start,), (seed[None],), False)
        found.append(gradient[0, :, : some.shape[1]])
    return torch.cat(found, 1).reshape(rows, n, heads, -1)
