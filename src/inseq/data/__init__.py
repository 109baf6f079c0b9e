"""Import paths of Inseq 0.7.1, for code that was written for it; ours are in ``inseq`` itself."""

from inseq.api import show_attributions as show_attributions
from inseq.api import show_granular_attributions as show_granular_attributions
from inseq.api import show_token_attributions as show_token_attributions
from inseq.data.aggregator import Aggregator as Aggregator
from inseq.data.aggregator import AggregatorPipeline as AggregatorPipeline
from inseq.data.aggregator import ContiguousSpanAggregator as ContiguousSpanAggregator
from inseq.data.aggregator import PairAggregator as PairAggregator
from inseq.data.aggregator import SequenceAttributionAggregator as SequenceAttributionAggregator
from inseq.data.aggregator import SubwordAggregator as SubwordAggregator
from inseq.data.aggregator import list_aggregation_functions as list_aggregation_functions
from inseq.data.aggregator import list_aggregators as list_aggregators
from inseq.data.attribution import FeatureAttributionOutput as FeatureAttributionOutput
from inseq.data.attribution import FeatureAttributionSequenceOutput as FeatureAttributionSequenceOutput
from inseq.data.attribution import FeatureAttributionStepOutput as FeatureAttributionStepOutput
from inseq.data.attribution import TokenWithId as TokenWithId
from inseq.data.attribution import merge_attributions as merge_attributions
from inseq.data.batch import Batch as Batch
from inseq.data.batch import BatchEmbedding as BatchEmbedding
from inseq.data.batch import BatchEncoding as BatchEncoding
from inseq.data.batch import DecoderOnlyBatch as DecoderOnlyBatch
from inseq.data.batch import EncoderDecoderBatch as EncoderDecoderBatch
