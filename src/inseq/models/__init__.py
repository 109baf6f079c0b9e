"""Models as guests: loaded by transformers, asked through an adapter, put back as they were."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_OF_INSEQ = {
    "AttributionModel": "AttributionModel",
    "HuggingfaceDecoderOnlyModel": "AttributionModel",
    "HuggingfaceEncoderDecoderModel": "AttributionModel",
    "HuggingfaceModel": "AttributionModel",
    "list_supported_frameworks": "list_supported_frameworks",
    "load_model": "load_model",
    "register_model_config": "register_model_config",
}
"""What code written for Inseq 0.7.1 imports from here; ours is in ``inseq`` itself."""


def __getattr__(name: str) -> Any:
    if name not in _OF_INSEQ:
        raise AttributeError(f"module 'inseq.models' has no attribute {name!r}")
    return getattr(import_module("inseq"), _OF_INSEQ[name])
