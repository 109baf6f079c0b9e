"""The vocabulary matrix in closed form: what is asked of predictions, without a row of logits ever standing whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import linear

from inseq.models.adapter import Adapter
from inseq.models.guest import UndoList
from inseq.models.probes import answer, inputs

TILE = {"cpu": (512, 1024)}
"""Predictions and tokens of the vocabulary at a time, by kind of device: a processor's tile stays in its cache."""

ACCELERATOR_TILE = (2**11, 2**15)

MAGNITUDES = (0.0, 1.0, 8.0, 64.0, 256.0)
"""Sizes of the logits that the question uses: a soft cap shows at large ones, a bias at small ones."""

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}
TOLERANCE_HALF = 3e-2


@dataclass(frozen=True, eq=False)
class LinearHead:
    """A vocabulary matrix whose product is the model's logits, with nothing done to them afterwards but a shift.

    Attributes:
        module: the matrix and its bias.
        shift: what the model adds to the logits afterwards.
    """

    module: nn.Linear
    shift: Float[Tensor, " vocab"] | None = None

    def logits(self, hidden: Float[Tensor, "*n hidden"]) -> Float[Tensor, "*n vocab"]:
        """All predictions, in the model's own type."""
        return self._part(hidden, slice(None))

    def chosen(self, hidden: Float[Tensor, "n hidden"], ids: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """One token's logit of each prediction, rounded as the model rounds it."""
        weight, bias, ids = self.module.weight, self.module.bias, ids.to(hidden.device)
        found = (_wide(hidden) * _wide(weight[ids])).sum(-1)
        found = (found if bias is None else found + _wide(bias[ids])).to(hidden.dtype)
        return _wide(found if self.shift is None else found + self.shift[ids])

    def normalizer(self, hidden: Float[Tensor, "n hidden"]) -> Float[Tensor, " n"]:
        """The logarithm of the sum of all exponentiated logits, summed over tiles of the vocabulary as they come.

        They are taken against the largest of the first tile; where that is too low for another's exponentials, online.
        """
        found = _wide(hidden.new_empty(len(hidden)))
        for rows, columns in self._tiles(hidden):
            tiles = (_wide(self._part(hidden[rows], some)) for some in columns)
            first = next(tiles)
            held = first.amax(-1).clamp_min(torch.finfo(first.dtype).min)
            total = first.sub_(held[:, None]).exp_().sum(-1)
            for tile in tiles:
                total += tile.sub_(held[:, None]).exp_().sum(-1)
            found[rows] = total.log_() + held
        (beyond,) = (~found.isfinite()).nonzero(as_tuple=True)
        if len(beyond):
            found[beyond] = self._online(hidden[beyond])
        return found

    def _online(self, hidden: Float[Tensor, "n hidden"]) -> Float[Tensor, " n"]:
        """The same, whatever the logits are: against the largest that has come."""
        found = _wide(hidden.new_empty(len(hidden)))
        for rows, columns in self._tiles(hidden):
            largest = torch.full_like(found[rows], -torch.inf)
            total = torch.zeros_like(largest)
            for some in columns:
                tile = _wide(self._part(hidden[rows], some))
                above = torch.maximum(largest, tile.amax(-1))
                held = above.clamp_min(torch.finfo(above.dtype).min)
                total = total * (largest - held).exp_() + tile.sub_(held[:, None]).exp_().sum(-1)
                largest = above
            found[rows] = total.log_() + held
        return found

    def top(self, hidden: Float[Tensor, "n hidden"], k: int) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
        """The ``k`` largest logits of each prediction in falling order and their tokens, chosen tile by tile."""
        logits = _wide(hidden.new_empty(len(hidden), k))
        ids = torch.empty(logits.shape, dtype=torch.long, device=hidden.device)
        for rows, columns in self._tiles(hidden):
            largest = logits.new_empty(len(logits[rows]), 0)
            whose = ids.new_empty(largest.shape)
            for some in columns:
                tile = _wide(self._part(hidden[rows], some))
                found, at = tile.topk(min(k, tile.shape[1]))
                largest, whose = torch.cat([largest, found], 1), torch.cat([whose, at + some.start], 1)
                largest, order = largest.topk(min(k, largest.shape[1]))
                whose = whose.gather(1, order)
            logits[rows], ids[rows] = largest, whose
        return logits, ids

    def cotangents(
        self,
        hidden: Float[Tensor, "n hidden"],
        normalizer: Float[Tensor, " n"],
        by_normalizer: Float[Tensor, " n"],
        by_chosen: Sequence[tuple[Int[Tensor, " n"], Float[Tensor, " n"]]],
    ) -> Float[Tensor, "n hidden"]:
        """The gradient at the hidden states of any function of chosen logits and normalizers.

        A logit's gradient is its token's row of the matrix, the normalizer's the mean row under the prediction; so that of a
        probability is ``p_y (W_y - sum_v p_v W_v)``.

        Args:
            hidden: what enters the matrix.
            normalizer: see :meth:`normalizer`.
            by_normalizer: the function's derivative by it.
            by_chosen: ids, and the function's derivative by their logits.
        """
        weight = self.module.weight
        found = torch.zeros_like(_wide(hidden))
        for rows, columns in self._tiles(hidden) if by_normalizer.any() else ():
            for some in columns:
                share = _wide(self._part(hidden[rows], some)).sub_(normalizer[rows, None]).exp_()
                found[rows] += share.mul_(by_normalizer[rows, None]) @ _wide(weight[some])
        for ids, derivative in by_chosen:
            found += derivative[:, None] * _wide(weight[ids.to(weight.device)])
        return found

    def _part(self, hidden: Tensor, columns: slice) -> Tensor:
        bias = None if self.module.bias is None else self.module.bias[columns]
        found = linear(hidden, self.module.weight[columns], bias)
        return found if self.shift is None else found + self.shift[columns]

    def _tiles(self, hidden: Tensor) -> Iterator[tuple[slice, list[slice]]]:
        """Some predictions at a time, and for these all parts of the vocabulary."""
        size, width = TILE.get(hidden.device.type, ACCELERATOR_TILE)
        columns = [slice(start, start + width) for start in range(0, len(self.module.weight), width)]
        for start in range(0, len(hidden), size):
            yield slice(start, start + size), columns


def prepare_head(adapter: Adapter) -> LinearHead | None:
    """The model's head in closed form, where it has one; found out by comparison, at first use.

    None where the head is no plain matrix, or where the model does more to its logits than to shift them, as a soft cap or
    a scale does: then its own head has to be run.
    """
    head = _plain(adapter.head)
    if head is None:
        return None
    if adapter.facts.linear_logits is None:
        shifts = [None, *(b for b in adapter.model.buffers(recurse=False) if b.numel() == len(head.weight))]
        closed = {s: LinearHead(head, None if s is None else s.flatten()) for s in shifts}
        proven = [s for s in shifts if answer(adapter, partial(_is_linear, adapter, closed[s]), False)]
        adapter.facts.linear_logits = bool(proven)
        adapter.facts.logits_shift = proven[0] if proven else None
    shift = adapter.facts.logits_shift
    return LinearHead(head, None if shift is None else shift.flatten()) if adapter.facts.linear_logits else None


def _plain(head: nn.Module) -> nn.Linear | None:
    """The head, if it is a matrix that nobody has changed: no hook, no function of its own, its weights in place."""
    watched = head._forward_hooks or head._forward_pre_hooks or "forward" in vars(head)
    plain = type(head) is nn.Linear and not watched and head.weight.device.type != "meta"
    return cast("nn.Linear", head) if plain else None


def _is_linear(adapter: Adapter, head: LinearHead) -> bool:
    """Return whether the model's own logits equal the closed form, for hidden states that give logits of all sizes."""
    weight = head.module.weight
    n = len(MAGNITUDES)
    drawn = torch.randn(n, weight.shape[1], generator=torch.Generator().manual_seed(0)).to(weight)
    sizes = torch.tensor(MAGNITUDES).to(drawn)
    probes = drawn * (sizes / linear(drawn, weight).abs().amax(-1).clamp_min(1e-6))[:, None]

    def exchange(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (probes[None].to(args[0]), *args[1:])

    asked = inputs(adapter, n, torch.arange(n)[None], n_source=n)
    with UndoList() as undo:
        undo.hook(head.module.register_forward_pre_hook, exchange)
        own = adapter.read(asked).logits
        none = adapter.read(asked, n_predicted=0).logits
    closed = head.logits(probes)
    if own.shape != (1, *closed.shape) or none.shape[1] != 0:
        return False
    gap = (_wide(own[0].to(closed.device)) - _wide(closed)).abs()
    allowed = TOLERANCE.get(closed.dtype, TOLERANCE_HALF) * sizes.clamp_min(1).to(gap)
    return bool(((gap <= allowed[:, None]) | (own[0].to(closed.device) == closed)).all())


def _wide(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))
