"""Layers replayed with tokens zeroed: which rows, in chunks within the budget, and how far outputs move."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from inseq.engine.answers import wide
from inseq.engine.choices import chosen, heads_by_layer
from inseq.engine.inside import at_of, lengths
from inseq.engine.packing import Budget, Job, Packed
from inseq.engine.requests import Altered, Fold, Replay
from inseq.errors import UnsupportedModelError
from inseq.models.adapter import Adapter, Site
from inseq.models.edits import is_out_of_memory
from inseq.models.replays import CleanLayer, Zeroing, near


@dataclass(frozen=True, eq=False)
class _Part:
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


class Replays:
    """Visits a forward's layers for a batch of requests.

    Attributes:
        folds: what the layers were folded into, for each job.
        n_rows: how many rows of single layers were run.

    Raises:
        ArgumentError: for layers or heads that the model does not have.
    """

    def __init__(self, adapter: Adapter, packed: Packed, budget: Budget) -> None:
        self.adapter = adapter
        self.budget = budget
        self.parts = [_part(adapter, job, rows.start) for job, rows in packed.jobs]
        self.n_rows = 0

    @property
    def folds(self) -> list[Fold]:
        return [part.fold for part in self.parts]

    def visit(self, layer: CleanLayer) -> None:
        for site in layer.heads:
            together: dict[tuple[int, ...], list[_Part]] = defaultdict(list)
            for part in self.parts:
                heads = part.heads_of(layer, site)
                if heads is not None:
                    together[heads].append(part)
            for heads, parts in together.items():
                self._visit(layer, site, torch.tensor(heads), parts)

    def _visit(self, layer: CleanLayer, site: Site, heads: Tensor, parts: Sequence[_Part]) -> None:
        """Run the layer on every token of some examples: first with none zeroed, as a check and to compare with."""
        looked_at = [part.queries(site) for part in parts]
        positions, clean = self._clean(layer, site, parts, looked_at)
        rows = [(k, token) for k, part in enumerate(parts) for token in range(lengths(part.job, site)[1])]
        width = layer.output.shape[1] if positions is None else positions.shape[1]
        moved: dict[int, list[Tensor]] = defaultdict(list)
        for chunk in _split(rows, max(1, self.budget.tokens // width)):
            owners = torch.tensor([k for k, _ in chunk])
            zeroing = Zeroing(
                site,
                heads,
                torch.tensor([parts[k].row for k, _ in chunk]),
                torch.tensor([token for _, token in chunk]),
                None if positions is None else positions[owners],
            )
            outputs, reached = self._again(layer, zeroing), layer.read_by(zeroing)
            for k in dict.fromkeys(k for k, _ in chunk):
                where = _at(looked_at[k], positions)
                own = (owners == k).to(outputs.device)
                changes = parts[k].request.distance(clean[k], wide(outputs[own][:, where]))
                moved[k].append(changes.masked_fill(~reached[own][:, where], 0))
        for k, part in enumerate(parts):
            part.fold.add(Altered(site, layer.index, torch.cat(moved[k])))

    def _again(self, layer: CleanLayer, zeroing: Zeroing) -> Tensor:
        self.n_rows += len(zeroing.rows)
        return layer.again(zeroing)

    def _clean(
        self, layer: CleanLayer, site: Site, parts: Sequence[_Part], looked_at: Sequence[Tensor]
    ) -> tuple[Tensor | None, list[Tensor]]:
        """The layer's output at the looked-at positions, run again with none zeroed.

        It is run at these positions alone where they are fewer, and where that gives the same: then so do the others.

        Raises:
            UnsupportedModelError: if the layer gives something else than it gave.
        """
        rows = torch.tensor([part.row for part in parts])
        zeroing = Zeroing(site, torch.zeros(1, dtype=torch.long), rows, torch.full((len(parts),), -1))
        fewer = pad_sequence(list(looked_at), batch_first=True)
        for positions in (fewer, None) if fewer.shape[1] < layer.output.shape[1] else (None,):
            try:
                again = self._again(layer, replace(zeroing, positions=positions))
            except (RuntimeError, ValueError, IndexError) as error:
                if positions is None or is_out_of_memory(error):
                    raise
                continue
            clean = [again[k, _at(at, positions)] for k, at in enumerate(looked_at)]
            before = [layer.output[part.row, at] for part, at in zip(parts, looked_at, strict=True)]
            if all(near(found, old) for found, old in zip(clean, before, strict=True)):
                return positions, [wide(found) for found in clean]
        raise UnsupportedModelError(
            f"Layer {layer.index} of {type(self.adapter.model).__name__}'s {layer.stack} gives something else when it is "
            "run again from the inputs it had: it keeps a state, or changes its inputs. Use 'attention' or 'occlusion'."
        )


def _at(looked_at: Tensor, positions: Tensor | None) -> Tensor:
    """Where the looked-at positions stand in what the layer gave."""
    return looked_at if positions is None else torch.arange(len(looked_at))


def _split(rows: list[tuple[int, int]], size: int) -> Iterator[list[tuple[int, int]]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _part(adapter: Adapter, job: Job, row: int) -> _Part:
    request = job.request
    assert isinstance(request, Replay)
    n_layers, n_heads = adapter.axis_size("layer"), adapter.axis_size("head")
    layers, heads = chosen(request.layers, n_layers, "layers"), heads_by_layer(request.heads, n_layers, n_heads)
    return _Part(job, request, row, request.fold(), layers, heads)
