"""Inseq: which input tokens made a sequence-generation model write each of its output tokens.

Public names are loaded when they are first used, so that ``import inseq`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from inseq.version import __version__ as __version__

if TYPE_CHECKING:
    from inseq.api import (
        AttributionModel,
        explain,
        list_aggregation_functions,
        list_aggregators,
        list_feature_attribution_methods,
        list_step_functions,
        list_supported_frameworks,
        load_model,
        register_model_config,
        show_attributions,
        show_granular_attributions,
        show_token_attributions,
    )
    from inseq.context.reliance import attribute_context
    from inseq.dataset.attribute import attribute_dataset
    from inseq.methods import method
    from inseq.outputs.output import FeatureAttributionOutput, merge_attributions
    from inseq.outputs.sequence import FeatureAttributionSequenceOutput
    from inseq.requests import Prediction
    from inseq.results.aggregate import aggregator
    from inseq.targets import StepFunctionArgs, step_function
    from inseq.targets.register import register_step_function

_HOMES = {
    "AttributionModel": "inseq.api",
    "attribute_context": "inseq.context.reliance",
    "attribute_dataset": "inseq.dataset.attribute",
    "FeatureAttributionOutput": "inseq.outputs.output",
    "FeatureAttributionSequenceOutput": "inseq.outputs.sequence",
    "Prediction": "inseq.requests",
    "StepFunctionArgs": "inseq.targets",
    "list_aggregation_functions": "inseq.api",
    "list_aggregators": "inseq.api",
    "list_feature_attribution_methods": "inseq.api",
    "list_step_functions": "inseq.api",
    "list_supported_frameworks": "inseq.api",
    "aggregator": "inseq.results.aggregate",
    "explain": "inseq.api",
    "load_model": "inseq.api",
    "merge_attributions": "inseq.outputs.output",
    "method": "inseq.methods",
    "register_model_config": "inseq.api",
    "register_step_function": "inseq.targets.register",
    "show_attributions": "inseq.api",
    "show_granular_attributions": "inseq.api",
    "show_token_attributions": "inseq.api",
    "step_function": "inseq.targets",
}

__all__ = [
    "AttributionModel",
    "FeatureAttributionOutput",
    "FeatureAttributionSequenceOutput",
    "Prediction",
    "StepFunctionArgs",
    "aggregator",
    "attribute_context",
    "attribute_dataset",
    "explain",
    "list_aggregation_functions",
    "list_aggregators",
    "list_feature_attribution_methods",
    "list_step_functions",
    "list_supported_frameworks",
    "load_model",
    "merge_attributions",
    "method",
    "register_model_config",
    "register_step_function",
    "show_attributions",
    "show_granular_attributions",
    "show_token_attributions",
    "step_function",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'inseq' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
