"""Names under the import path of Inseq 0.7.1, for code that was written for it."""

from inseq.api import list_aggregation_functions as list_aggregation_functions
from inseq.api import list_aggregators as list_aggregators
from inseq.compat.aggregators import Aggregator as Aggregator
from inseq.compat.aggregators import AggregatorPipeline as AggregatorPipeline
from inseq.compat.aggregators import ContiguousSpanAggregator as ContiguousSpanAggregator
from inseq.compat.aggregators import PairAggregator as PairAggregator
from inseq.compat.aggregators import SequenceAttributionAggregator as SequenceAttributionAggregator
from inseq.compat.aggregators import SliceAggregator as SliceAggregator
from inseq.compat.aggregators import StringSplitAggregator as StringSplitAggregator
from inseq.compat.aggregators import SubwordAggregator as SubwordAggregator
