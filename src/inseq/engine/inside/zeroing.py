"""Layers replayed with tokens zeroed: at which positions, in groups within the budget, and how far outputs move."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from inseq.engine.accelerators import pays
from inseq.engine.answers import wide
from inseq.engine.batches import Packed
from inseq.engine.budget import Budget
from inseq.engine.inside.capture import at_of, lengths
from inseq.engine.inside.choices import chosen, heads_by_layer
from inseq.engine.inside.layers import CleanLayer, Zeroing
from inseq.engine.inside.shortcut import shortcuts
from inseq.engine.jobs import Job
from inseq.errors import UnsupportedModelError
from inseq.models.adapter import Adapter
from inseq.models.guest import is_out_of_memory
from inseq.models.inputs import Site
from inseq.models.probes import near
from inseq.requests import Altered, Fold, Replay

SLACK = 32
"""Padded positions that cost no more than a further run of a layer."""

SHARE = 16
"""One in this many of the positions that are run may be padding."""

ROUNDING = 32
"""The allowed difference of two runs of a layer, in units of the largest value's last place."""


@dataclass(frozen=True, eq=False)
class _ZeroedJob:
    """One job of the batch: its row, its fold, and what of the model it is about."""

    job: Job
    request: Replay
    row: int
    fold: Fold
    layers: list[int]
    heads: dict[int, list[int]]

    def heads_of(self, layer: CleanLayer, site: Site) -> tuple[int, ...] | None:
        """The heads for which tokens are zeroed; None where the request does not ask for this attention."""
        if site not in self.request.sites or (site != "encoder" and layer.index not in self.layers):
            return None
        return tuple(range(layer.heads[site].weights.shape[1]) if site == "encoder" else self.heads[layer.index])

    def queries(self, site: Site) -> Tensor:
        """The positions that are looked at."""
        return torch.arange(self.job.example.n_source) if site == "encoder" else at_of(self.job).cpu()


@dataclass(frozen=True, eq=False)
class _Visit:
    """One attention of a layer, and the examples that ask for the same of its heads."""

    layer: CleanLayer
    site: Site
    heads: Tensor
    parts: Sequence[_ZeroedJob]

    @cached_property
    def looked_at(self) -> list[Tensor]:
        """The positions that each example looks at."""
        return [part.queries(self.site) for part in self.parts]

    @cached_property
    def reached(self) -> list[Bool[Tensor, "token query"]]:
        """Which of them each token reaches."""
        found = []
        for part, at in zip(self.parts, self.looked_at, strict=True):
            found.append(self.layer.reached(self.site, part.row, self.heads, at)[: lengths(part.job, self.site)[1]].cpu())
        return found

    def none_zeroed(self) -> Zeroing:
        """Every example as it was, at all the positions that are looked at."""
        rows = torch.tensor([part.row for part in self.parts])
        positions = pad_sequence(self.looked_at, batch_first=True)
        return Zeroing(self.site, self.heads[:1], rows, torch.full_like(rows, -1), positions)

    def zeroed(self, group: Sequence[_Span]) -> Zeroing:
        """Some tokens zeroed, one in each row, at the positions of their span; shorter spans repeat their last one."""
        width = max(span.width for span in group)
        rows, tokens, positions = [], [], []
        for span in group:
            n = len(span.tokens)
            rows.append(torch.full((n,), self.parts[span.part].row))
            tokens.append(torch.tensor(span.tokens))
            places = torch.arange(span.start, span.start + width).clamp_max(span.stop - 1)
            positions.append(self.looked_at[span.part][places].expand(n, -1))
        return Zeroing(self.site, self.heads, torch.cat(rows), torch.cat(tokens), torch.cat(positions))


@dataclass(frozen=True, eq=False)
class _Span:
    """Tokens of one example, and the looked-at positions from the first to the last that any of them reaches."""

    part: int
    tokens: list[int]
    start: int
    stop: int

    @property
    def width(self) -> int:
        return self.stop - self.start


class Replays:
    """Visits a forward's layers for a batch of requests.

    Attributes:
        folds: what the layers were folded into, for each job.
        n_positions: how many positions of single layers were run.

    Raises:
        ArgumentError: for layers or heads that the model does not have.
    """

    def __init__(self, adapter: Adapter, packed: Packed, budget: Budget) -> None:
        self.adapter = adapter
        self.budget = budget
        self.parts = [_part(adapter, job, rows.start) for job, rows in packed.jobs]
        self.n_positions = 0

    @property
    def folds(self) -> list[Fold]:
        return [part.fold for part in self.parts]

    def visit(self, layer: CleanLayer) -> None:
        for site in layer.heads:
            together: dict[tuple[int, ...], list[_ZeroedJob]] = defaultdict(list)
            for part in self.parts:
                heads = part.heads_of(layer, site)
                if heads is not None:
                    together[heads].append(part)
            for heads, parts in together.items():
                self._visit(_Visit(layer, site, torch.tensor(heads), parts))

    def _visit(self, visit: _Visit) -> None:
        """Run the layer on every token of some examples, at the positions that it reaches."""
        run, whole, outputs = self._way(visit)
        clean = [wide(out[at]) for out, at in zip(outputs, self._places(visit, whole), strict=True)]
        changes = [torch.zeros(reached.shape, dtype=c.dtype) for reached, c in zip(visit.reached, clean, strict=True)]
        n_positions = visit.layer.output.shape[1] if whole else None
        for group in _groups(visit.reached, self.budget.tokens, n_positions):
            outputs, first = self._run(run, visit.zeroed(group)), 0
            for span in group:
                rows = slice(first, first := first + len(span.tokens))
                some = slice(span.start, span.stop)
                at = visit.looked_at[span.part][some] if whole else slice(0, span.width)
                moved = visit.parts[span.part].request.distance(clean[span.part][some], wide(outputs[rows, at]))
                changes[span.part][span.tokens, some] = moved.cpu()
        for part, reached, change in zip(visit.parts, visit.reached, changes, strict=True):
            part.fold.add(Altered(visit.site, visit.layer.index, change.masked_fill(~reached, 0)))

    def _places(self, visit: _Visit, whole: bool) -> list[Tensor]:
        """Return the observed positions' indices in the run without zeroing."""
        return visit.looked_at if whole else [torch.arange(len(at)) for at in visit.looked_at]

    def _run(self, run: Callable[[Zeroing], Tensor], zeroing: Zeroing) -> Tensor:
        found = run(zeroing)
        self.n_positions += found.shape[:2].numel()
        return found

    def _way(self, visit: _Visit) -> tuple[Callable[[Zeroing], Tensor], bool, Tensor]:
        """How the layer is run again, whether that takes all its positions, and what it then gives with none zeroed.

        It is run at the looked-at positions alone where that gives what it gave, and by a shortcut where that gives the same
        as the layer itself.

        Raises:
            UnsupportedModelError: if the layer gives something else than it gave.
        """
        layer, none = visit.layer, visit.none_zeroed()
        before = [layer.output[part.row, at] for part, at in zip(visit.parts, visit.looked_at, strict=True)]

        def at_all_positions(zeroing: Zeroing) -> Tensor:
            return layer.again(replace(zeroing, positions=None))

        for run, whole in ((layer.again, False), (at_all_positions, True)):
            try:
                again = self._run(run, none)
            except (RuntimeError, ValueError, IndexError) as error:
                if whole or is_out_of_memory(error):
                    raise
                continue
            if all(near(out[at], old) for out, at, old in zip(again, self._places(visit, whole), before, strict=True)):
                found = self._shortcut(visit) if pays("zeroing_shortcut") and not whole else None
                return (run, whole, again) if found is None else (found, False, self._run(found, none))
        raise UnsupportedModelError(
            f"Layer {layer.index} of {type(self.adapter.model).__name__}'s {layer.stack} gives something else when it is "
            "run again from the inputs it had: it keeps a state, or changes its inputs. Use 'attention' or 'occlusion'."
        )

    def _shortcut(self, visit: _Visit) -> Callable[[Zeroing], Tensor] | None:
        """A shortcut that gives what the layer gives, if there is one: asked with a few tokens at a few positions."""
        layer = visit.layer
        group = next(_groups(visit.reached, self.budget.tokens), None)
        if group is None:
            return None
        asked = visit.zeroed(group)
        assert asked.positions is not None
        few = replace(asked, rows=asked.rows[:2], tokens=asked.tokens[:2], positions=asked.positions[:2, -4:])
        assert few.positions is not None
        expected = self._run(layer.again, few)
        clean = layer.output[few.rows[:, None], few.positions]
        for found in shortcuts(layer, visit.site, torch.unique(torch.cat(visit.looked_at))):
            gap = (self._run(found.again, few) - expected).abs().max()
            rounding = ROUNDING * torch.finfo(expected.dtype).eps * expected.abs().max()
            if bool(gap <= 1e-3 * (expected - clean).abs().max() + rounding):
                return found.again
        return None


def _groups(reached: Sequence[Tensor], size: int, n_positions: int | None = None) -> Iterator[list[_Span]]:
    """Cut the tokens of some examples into groups that are run at once: within a size, and with little padding.

    Args:
        reached: for each example which of its positions each token reaches: Bool["token query"].
        size: how many positions a group may have in all.
        n_positions: how many a row has, where all of the layer's are run.
    """
    group: list[_Span] = []
    real = 0
    for k, each in enumerate(reached):
        starts, stops = each.int().argmax(1), each.shape[1] - each.flip(1).int().argmax(1)
        tokens = each.any(1).nonzero()[:, 0]
        for token, start, stop in zip(*(values.tolist() for values in (tokens, starts[tokens], stops[tokens])), strict=True):
            span = _Span(k, [token], start, stop)
            more = _joined(group, span)
            n, width = sum(len(each.tokens) for each in more), n_positions or max(each.width for each in more)
            padding = 0 if n_positions else n * width - real - span.width
            if group and (n * width > size or padding > max(SLACK, real // SHARE)):
                yield group
                more, real = [span], 0
            group, real = more, real + span.width
    if group:
        yield group


def _joined(group: list[_Span], span: _Span) -> list[_Span]:
    """A group with one more token, in the span of its example where there is one."""
    if not group or group[-1].part != span.part:
        return [*group, span]
    last = group[-1]
    both = _Span(span.part, last.tokens + span.tokens, min(last.start, span.start), max(last.stop, span.stop))
    return [*group[:-1], both]


def _part(adapter: Adapter, job: Job, row: int) -> _ZeroedJob:
    request = job.request
    assert isinstance(request, Replay)
    n_layers, n_heads = adapter.axis_size("layer"), adapter.axis_size("head")
    layers, heads = chosen(request.layers, n_layers, "layers"), heads_by_layer(request.heads, n_layers, n_heads)
    return _ZeroedJob(job, request, row, request.fold(), layers, heads)
