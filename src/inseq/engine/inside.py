"""What the model computes inside, handed to folds: one per example and block of steps."""

from __future__ import annotations

from torch import Tensor

from inseq.engine.answers import wide
from inseq.engine.choices import chosen
from inseq.engine.packing import Job, Packed
from inseq.engine.requests import Attended, Capture, Fold
from inseq.models.adapter import Adapter, AttentionSink, Site


def folding(adapter: Adapter, packed: Packed) -> tuple[list[Fold], AttentionSink]:
    """The folds of a batch of captures, and a sink that cuts each layer's weights for them.

    Raises:
        ArgumentError: for layers or heads that the model does not have.
    """
    folds, layers, heads = [], [], []
    for job, _ in packed.jobs:
        assert isinstance(job.request, Capture)
        folds.append(job.request.fold())
        layers.append(chosen(job.request.layers, adapter.axis_size("layer"), "layers"))
        heads.append(None if job.request.heads is None else chosen(job.request.heads, adapter.axis_size("head"), "heads"))

    def sink(site: Site, layer: int, weights: Tensor) -> None:
        for (job, rows), fold, some_layers, some_heads in zip(packed.jobs, folds, layers, heads, strict=True):
            assert isinstance(job.request, Capture)
            if site not in job.request.sites or (site != "encoder" and layer not in some_layers):
                continue
            of_row = weights[rows.start]
            kept = of_row if some_heads is None or site == "encoder" else of_row[some_heads]
            n_queries, n_keys = lengths(job, site)
            fold.add(Attended(site, layer, wide(kept[:, :n_queries, :n_keys]), at_of(job)))

    return folds, sink


def lengths(job: Job, site: Site) -> tuple[int, int]:
    """How many queries and keys of an attention are the example's own."""
    n_source = job.example.n_source
    return {"encoder": (n_source, n_source), "decoder": (job.n_decoder, job.n_decoder), "cross": (job.n_decoder, n_source)}[
        site
    ]


def at_of(job: Job) -> Tensor:
    """The decoder positions that predict the block's steps."""
    return job.example.at[job.steps.start : job.steps.stop]
