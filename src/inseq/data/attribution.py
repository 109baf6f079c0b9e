"""Outputs under the import path of Inseq 0.7.1, for code that was written for it.

There is one class of sequence outputs here: what Inseq tells apart by class, its axes and defaults say.
"""

from inseq.outputs.output import FeatureAttributionOutput as FeatureAttributionOutput
from inseq.outputs.output import merge_attributions as merge_attributions
from inseq.outputs.sequence import FeatureAttributionSequenceOutput as FeatureAttributionSequenceOutput
from inseq.results.steps import FeatureAttributionStepOutput as FeatureAttributionStepOutput
from inseq.text.tokens import Token as TokenWithId

CoarseFeatureAttributionSequenceOutput = FeatureAttributionSequenceOutput
GranularFeatureAttributionSequenceOutput = FeatureAttributionSequenceOutput
MultiDimensionalFeatureAttributionSequenceOutput = FeatureAttributionSequenceOutput

__all__ = [
    "CoarseFeatureAttributionSequenceOutput",
    "FeatureAttributionOutput",
    "FeatureAttributionSequenceOutput",
    "FeatureAttributionStepOutput",
    "GranularFeatureAttributionSequenceOutput",
    "MultiDimensionalFeatureAttributionSequenceOutput",
    "TokenWithId",
    "merge_attributions",
]
