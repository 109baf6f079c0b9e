"""Step functions: what a prediction is worth. The same functions are targets and step scores."""

from inseq.targets import basic
from inseq.targets._step_function import step_function

__all__ = ["basic", "step_function"]
