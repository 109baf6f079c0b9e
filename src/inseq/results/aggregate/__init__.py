"""Aggregation: an aggregator is a map over an axis of every tensor that has it."""

from inseq.results.aggregate import pair, rollout, slices, spans, words
from inseq.results.aggregate.axes import aggregators as aggregator

__all__ = ["aggregator", "pair", "rollout", "slices", "spans", "words"]
