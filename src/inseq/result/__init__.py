"""What was found: scores with named axes, their aggregation, and files that are data."""

from inseq.result import pair, rollout, slices, spans, words
from inseq.result.aggregate import aggregators as aggregator

__all__ = ["aggregator", "pair", "rollout", "slices", "spans", "words"]
