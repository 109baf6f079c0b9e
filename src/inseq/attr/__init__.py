"""Import paths of Inseq 0.7.1, for code that was written for it; ours are in ``inseq`` itself."""

from inseq.api import list_feature_attribution_methods as list_feature_attribution_methods
from inseq.api import list_step_functions as list_step_functions
from inseq.compat.methods import FeatureAttribution as FeatureAttribution
from inseq.compat.step_functions import STEP_SCORES_MAP as STEP_SCORES_MAP
from inseq.targets import StepFunctionArgs as StepFunctionArgs
from inseq.targets.register import register_step_function as register_step_function
