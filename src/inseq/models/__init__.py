"""Models as guests: loaded by transformers, asked through an adapter, put back as they were."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def __getattr__(name: str) -> Any:
    # ``inseq.models`` is also an import path of Inseq 0.7.1. This is the one way up in the order of rooms.
    names: dict[str, str] = import_module("inseq.compat.model_names").MODEL_NAMES
    if name not in names:
        raise AttributeError(f"module 'inseq.models' has no attribute {name!r}")
    return getattr(import_module("inseq"), names[name])
