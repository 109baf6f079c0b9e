"""Aggregators by their classes, under the import path of Inseq 0.7.1, for code that was written for it.

Here an aggregator is a function with a name; a class stands for the name, in every place where one may be given.
"""

from inseq.results.aggregate.pipeline import Aggregator as Aggregator
from inseq.results.aggregate.pipeline import AggregatorPipeline as AggregatorPipeline


class SequenceAttributionAggregator(Aggregator):
    """Folds the trailing axes: ``"scores"``."""


class ContiguousSpanAggregator(Aggregator):
    """Merges spans of tokens."""

    aggregator_name = "spans"


class SubwordAggregator(Aggregator):
    """Merges the pieces of words."""

    aggregator_name = "subwords"


class StringSplitAggregator(Aggregator):
    """Merges the tokens between matches of a pattern."""

    aggregator_name = "split"


class PairAggregator(Aggregator):
    """Takes the difference of two outputs."""

    aggregator_name = "pair"


class SliceAggregator(Aggregator):
    """Keeps some of the input's tokens."""

    aggregator_name = "slices"
