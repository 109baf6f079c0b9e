"""Import paths of Inseq 0.7.1, for code that was written for it; ours are in ``inseq`` itself."""

from inseq.api import list_aggregation_functions as list_aggregation_functions
from inseq.api import list_aggregators as list_aggregators
from inseq.api import show_attributions as show_attributions
from inseq.api import show_granular_attributions as show_granular_attributions
from inseq.api import show_token_attributions as show_token_attributions
from inseq.compat.aggregators import Aggregator as Aggregator
from inseq.compat.aggregators import AggregatorPipeline as AggregatorPipeline
from inseq.compat.aggregators import ContiguousSpanAggregator as ContiguousSpanAggregator
from inseq.compat.aggregators import PairAggregator as PairAggregator
from inseq.compat.aggregators import SequenceAttributionAggregator as SequenceAttributionAggregator
from inseq.compat.aggregators import SubwordAggregator as SubwordAggregator
from inseq.compat.batch import Batch as Batch
from inseq.compat.batch import BatchEmbedding as BatchEmbedding
from inseq.compat.batch import BatchEncoding as BatchEncoding
from inseq.compat.batch import DecoderOnlyBatch as DecoderOnlyBatch
from inseq.compat.batch import EncoderDecoderBatch as EncoderDecoderBatch
from inseq.data.attribution import FeatureAttributionOutput as FeatureAttributionOutput
from inseq.data.attribution import FeatureAttributionSequenceOutput as FeatureAttributionSequenceOutput
from inseq.data.attribution import FeatureAttributionStepOutput as FeatureAttributionStepOutput
from inseq.data.attribution import TokenWithId as TokenWithId
from inseq.data.attribution import merge_attributions as merge_attributions
