"""Names under the import path of Inseq 0.7.1, for code that was written for it."""

from inseq.compat.step_functions import STEP_SCORES_MAP as STEP_SCORES_MAP
from inseq.compat.step_functions import StepFunctionArgs as StepFunctionArgs
from inseq.compat.step_functions import StepFunctionBaseArgs as StepFunctionBaseArgs
from inseq.compat.step_functions import StepFunctionDecoderOnlyArgs as StepFunctionDecoderOnlyArgs
from inseq.compat.step_functions import StepFunctionEncoderDecoderArgs as StepFunctionEncoderDecoderArgs
from inseq.compat.step_functions import crossentropy_fn as crossentropy_fn
from inseq.compat.step_functions import entropy_fn as entropy_fn
from inseq.compat.step_functions import get_step_function as get_step_function
from inseq.compat.step_functions import logit_fn as logit_fn
from inseq.compat.step_functions import perplexity_fn as perplexity_fn
from inseq.compat.step_functions import probability_fn as probability_fn
from inseq.compat.step_functions import top_p_size_fn as top_p_size_fn
