"""A layer run again after one of its attentions: what a zeroed value takes away is of low rank, and so cheap to follow.

A token's values add to an attention's output one vector for each head, times a weight for each query. So nothing before the
attention is run again, its output projection is applied to these vectors alone; and where a norm follows, which is linear but
for its statistics, so are the matrices that read the norm's output. All this is found by watching the layer run; whoever uses
it compares it with the layer itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from inseq.engine.inside.layers import Call, CleanLayer, Heads, Zeroing, weights_on
from inseq.engine.inside.pieces import PROBE, freeze, is_norm, same
from inseq.models.guest import UndoList
from inseq.models.inputs import Site
from inseq.models.probes import near

SMALL = 1e-2
"""The size of values that show a norm's epsilon."""


@dataclass(frozen=True, eq=False)
class _Norm:
    """A norm after the attention: ``gain * (v - mean(v)) / sqrt(mean square + epsilon) + shift``."""

    module: nn.Module
    gain: Float[Tensor, " dim"]
    shift: Float[Tensor, " dim"]
    epsilon: float
    centered: bool

    def scale(self, vectors: Float[Tensor, "*n dim"]) -> Float[Tensor, "*n 1"]:
        moved = vectors - vectors.mean(-1, keepdim=True) if self.centered else vectors
        square = torch.linalg.vector_norm(moved, dim=-1, keepdim=True).square() / vectors.shape[-1]
        return (square + self.epsilon).rsqrt_()


@dataclass(frozen=True, eq=False)
class _Reader:
    """A matrix that reads the norm's output, the norm's gain in it; and what it gives of the clean vectors, not yet scaled."""

    module: nn.Module
    matrix: Float[Tensor, "dim inner"]
    constant: Float[Tensor, " inner"]
    clean: Float[Tensor, "row at inner"]


@dataclass(eq=False)
class _Zeroed:
    """The tensors that parts of one replay share."""

    zeroing: Zeroing
    weights: Float[Tensor, "variant looked head"]
    pieces: Float[Tensor, "variant head dim"]
    normed: Tensor | None = None
    scale: Tensor | None = None


class Shortcut:
    """Runs a layer again at chosen positions, with values zeroed in one of its attentions.

    Args:
        layer: the layer.
        site: the attention.
        before: the calls of the attentions up to this one.
        projection: the matrix of its output projection.
        norm: the norm that reads the stream with its output, if there is one.
        at: the positions that are ever looked at, ascending.
    """

    def __init__(
        self,
        layer: CleanLayer,
        site: Site,
        before: Sequence[Call],
        projection: Float[Tensor, "inner dim"],
        norm: Call | None,
        at: Int[Tensor, " at"],
    ) -> None:
        self.layer = layer
        self.heads: Heads = layer.heads[site]
        self.before = before
        self.projection = projection.reshape(self.heads.weights.shape[1], -1, projection.shape[1])
        self.at = at.to(projection.device)
        self.norm = None if norm is None else _norm(norm)
        self.readers = [] if norm is None or self.norm is None else _readers(layer.calls, norm, self.norm, self.at)

    def again(self, zeroing: Zeroing) -> Float[Tensor, "variant looked dim"]:
        """The layer's output; see :attr:`CleanLayer.again`."""
        zeroing = zeroing.to(self.projection.device)
        rows, tokens, some = zeroing.rows, zeroing.tokens, zeroing.heads
        weights = weights_on(self.heads, zeroing) * (tokens >= 0)[:, None, None]
        values = self.heads.values[rows[:, None], some // self.heads.group_size, tokens.clamp_min(0)[:, None]]
        pieces = torch.einsum("vhw,hwd->vhd", values, self.projection[some])
        zeroed = _Zeroed(zeroing, weights.transpose(1, 2).contiguous(), pieces)
        functions = [(call.module, partial(self._attention, zeroed, call)) for call in self.before]
        if self.norm is not None and self.readers:
            functions.append((self.norm.module, partial(self._normed, zeroed, self.norm.module.forward)))
            functions += [(r.module, partial(self._read, zeroed, r, r.module.forward)) for r in self.readers]
        with _instead(functions):
            return self.layer.again(zeroing)

    def _attention(self, zeroed: _Zeroed, call: Call, *_: Any, **__: Any) -> Any:
        zeroing = zeroed.zeroing
        found = call.found[zeroing.rows[:, None], zeroing.positions]
        if call is self.before[-1]:
            found = torch.baddbmm(found, zeroed.weights, zeroed.pieces, alpha=-1)
        return (found, *call.output[1:]) if isinstance(call.output, tuple) else found

    def _normed(self, zeroed: _Zeroed, forward: Callable[..., Tensor], vectors: Tensor) -> Tensor:
        assert self.norm is not None
        zeroed.normed, zeroed.scale = forward(vectors), self.norm.scale(vectors)
        return zeroed.normed

    def _read(self, zeroed: _Zeroed, reader: _Reader, forward: Callable[..., Tensor], given: Tensor) -> Tensor:
        if given is not zeroed.normed or zeroed.scale is None or zeroed.zeroing.positions is None:
            return forward(given)
        scale, rows = zeroed.scale, zeroed.zeroing.rows
        taken = torch.cat([zeroed.weights * -scale, torch.ones_like(scale)], -1)
        constant = reader.constant.expand(len(rows), 1, -1)
        found = taken @ torch.cat([zeroed.pieces @ reader.matrix, constant], 1)
        places = torch.searchsorted(self.at, zeroed.zeroing.positions.contiguous())
        if bool((rows == rows[0]).all()) and bool((places == places[0]).all()):
            return found.addcmul_(reader.clean[rows[0], places[0]], scale)
        return found.addcmul_(reader.clean[rows[:, None], places], scale)


def shortcuts(layer: CleanLayer, site: Site, at: Int[Tensor, " at"]) -> Iterator[Shortcut]:
    """Ways to run a layer again from one of its attentions on, the shortest first, for layers of parts that are known here.

    Args:
        layer: the layer, which has just run.
        site: the attention.
        at: the positions that will be looked at, ascending.
    """
    order = list(layer.heads)
    calls = [next((c for c in layer.calls if c.module is layer.attentions[s]), None) for s in order[: order.index(site) + 1]]
    before = [call for call in calls if call is not None and "forward" not in vars(call.module)]
    if len(before) < len(calls) or torch.finfo(layer.output.dtype).bits < 32:
        return
    own, after = before[-1], layer.calls[layer.calls.index(before[-1]) + 1 :]
    inside = {id(part) for part in own.module.modules()}
    weighted = layer.heads[site].output.flatten(2)
    projected = next((c for c in layer.calls if id(c.module) in inside and same(c.given, weighted)), None)
    linear = None if projected is None else _matrix(projected.module)
    if linear is None or not near(weighted @ linear[0] + linear[1], own.found):
        return
    norm = next((c for c in after if is_norm(c.module) and not same(c.given, c.found)), None)
    if norm is not None and "forward" not in vars(norm.module) and norm.given.shape == own.found.shape:
        yield Shortcut(layer, site, before, linear[0], norm, at)
    yield Shortcut(layer, site, before, linear[0], None, at)


def _matrix(module: nn.Module) -> tuple[Tensor, Tensor] | None:
    """The matrix and the bias of a plain linear module that nobody has changed."""
    if "forward" in vars(module) or type(module) not in (nn.Linear, Conv1D):
        return None
    weight, bias = module.weight, module.bias
    assert isinstance(weight, Tensor)
    if not weight.is_floating_point() or weight.device.type == "meta":
        return None
    matrix = weight.T if type(module) is nn.Linear else weight
    return matrix, bias if isinstance(bias, Tensor) else matrix.new_zeros(matrix.shape[1])


def _norm(call: Call) -> _Norm | None:
    """Return a norm's gain, shift and scale, found by probing, if they explain its output."""
    frozen = freeze(call.module, call.given, call.found)
    if not near(frozen.of(call.given), call.found):
        return None
    probe = torch.ones_like(frozen.gain)
    probe[1::2] = -1
    probe = SMALL * (probe - probe.mean())
    linear = frozen.gain * probe
    found = call.module(probe[None, None])[0, 0] - frozen.shift
    scale = (found * linear).sum() / linear.square().sum()
    epsilon = float((1 / scale.square() - probe.square().mean()).clamp_min(0))
    gain = frozen.gain * (1 + epsilon / (PROBE**2 * float((probe / SMALL).square().mean()))) ** 0.5
    return _Norm(call.module, gain, frozen.shift, epsilon, frozen.centered)


def _readers(calls: Sequence[Call], norm: Call, known: _Norm, at: Tensor) -> list[_Reader]:
    found = []
    vectors = norm.given[:, at]
    vectors = vectors - vectors.mean(-1, keepdim=True) if known.centered else vectors
    for call in calls:
        linear = _matrix(call.module) if call.given is norm.found else None
        if linear is not None:
            matrix = known.gain[:, None] * linear[0]
            matrix = matrix - matrix.mean(0) if known.centered else matrix
            found.append(_Reader(call.module, matrix, known.shift @ linear[0] + linear[1], vectors @ matrix))
    return found


@contextmanager
def _instead(functions: Sequence[tuple[nn.Module, Callable[..., Any]]]) -> Iterator[None]:
    """Let modules compute something else."""
    with UndoList() as undo:
        for module, function in functions:
            undo.forward(module, function)
        yield
