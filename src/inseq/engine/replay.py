"""Layers replayed with tokens zeroed: which rows, in chunks within the budget, and how far outputs move."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from inseq.engine.answers import wide
from inseq.engine.choices import chosen, heads_by_layer
from inseq.engine.inside import at_of, lengths
from inseq.engine.packing import Budget, Job, Packed
from inseq.engine.requests import Altered, Fold, Replay
from inseq.errors import UnsupportedModelError
from inseq.models.adapter import Adapter, Site
from inseq.models.layers import CleanLayer, Zeroing, near


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
        """Run the layer on every token of some examples: a row with none zeroed leads each example's."""
        rows = [(k, token) for k, part in enumerate(parts) for token in range(-1, lengths(part.job, site)[1])]
        size = max(1, self.budget.tokens // layer.output.shape[1])
        clean: dict[int, Tensor] = {}
        moved: dict[int, list[Tensor]] = defaultdict(list)
        for start in range(0, len(rows), size):
            chunk = rows[start : start + size]
            row_of = torch.tensor([parts[k].row for k, _ in chunk])
            zeroing = Zeroing(site, heads, row_of, torch.tensor([token for _, token in chunk]))
            outputs, reached = layer.again(zeroing), layer.read_by(zeroing)
            self.n_rows += len(chunk)
            for k in dict.fromkeys(k for k, _ in chunk):
                of_part = [i for i, (owner, _) in enumerate(chunk) if owner == k]
                queries = parts[k].queries(site).to(outputs.device)
                altered = wide(outputs[of_part][:, queries])
                if chunk[of_part[0]][1] < 0:
                    clean[k] = altered[0]
                    self._check(layer, layer.output[parts[k].row, queries], clean[k])
                changes = parts[k].request.distance(clean[k], altered)
                moved[k].append(changes.masked_fill(~reached[of_part][:, queries], 0))
        for k, part in enumerate(parts):
            part.fold.add(Altered(site, layer.index, torch.cat(moved[k])[1:]))

    def _check(self, layer: CleanLayer, before: Tensor, again: Tensor) -> None:
        if not near(before, again.to(before)):
            raise UnsupportedModelError(
                f"Layer {layer.index} of {type(self.adapter.model).__name__}'s {layer.stack} gives something else when it is "
                "run again from the inputs it had: it keeps a state, or changes its inputs. Use 'attention' or 'occlusion'."
            )


def _part(adapter: Adapter, job: Job, row: int) -> _Part:
    request = job.request
    assert isinstance(request, Replay)
    n_layers, n_heads = adapter.axis_size("layer"), adapter.axis_size("head")
    layers, heads = chosen(request.layers, n_layers, "layers"), heads_by_layer(request.heads, n_layers, n_heads)
    return _Part(job, request, row, request.fold(), layers, heads)
