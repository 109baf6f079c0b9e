"""Step functions: what a prediction is worth. The same functions are targets and step scores."""

from inseq.targets import basic, contrastive
from inseq.targets._step_function import step_function
from inseq.targets.inseq_form import InseqForm, StepFunctionArgs, is_inseq_form

__all__ = [
    "InseqForm",
    "StepFunctionArgs",
    "basic",
    "contrastive",
    "is_inseq_form",
    "step_function",
]
