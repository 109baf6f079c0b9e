"""Step functions of ``args``, under the names that Inseq 0.7.1 has for them, for functions that call them.

Ours, which see all predictions at once, are in ``inseq.targets``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from inseq.requests import Prediction
from inseq.targets import StepFunctionArgs as StepFunctionArgs
from inseq.targets import step_function

StepFunctionBaseArgs = StepFunctionDecoderOnlyArgs = StepFunctionEncoderDecoderArgs = StepFunctionArgs


def _of_args(name: str) -> Callable[..., Tensor]:
    entry = step_function[name]

    def function(args: StepFunctionArgs, **options: Any) -> Tensor:
        logits = args.attribution_model.output2logits(args.forward_output)
        found: Tensor = entry.function(Prediction(logits, args.target_ids), **options)
        return found

    function.__name__ = f"{name}_fn"
    function.__doc__ = entry.function.__doc__
    return function


logit_fn = _of_args("logit")
probability_fn = _of_args("probability")
entropy_fn = _of_args("entropy")
crossentropy_fn = _of_args("crossentropy")
perplexity_fn = _of_args("perplexity")
top_p_size_fn = _of_args("top_p_size")

STEP_SCORES_MAP = {
    "crossentropy": crossentropy_fn,
    "entropy": entropy_fn,
    "logit": logit_fn,
    "perplexity": perplexity_fn,
    "probability": probability_fn,
    "top_p_size": top_p_size_fn,
}
"""Those of one prediction. What compares two is asked for by name, as in ``attributed_fn="contrast_prob_diff"``."""


def get_step_function(name: str) -> Callable[..., Any]:
    """The function of ``args`` of that name, else the registered one."""
    return STEP_SCORES_MAP[name] if name in STEP_SCORES_MAP else step_function[name].function
