"""Bundled models, small and real, and the generators of the data they were trained on, with their gold explanations."""

from __future__ import annotations

from pathlib import Path

from inseq.errors import UnknownNameError, near

MODELS = {"demo/gpt2": "gpt2", "demo/zh-en": "zh_en"}


def directory(name: str) -> Path:
    """The directory of a bundled model.

    Raises:
        UnknownNameError: naming the bundled models.
    """
    if name not in MODELS:
        raise UnknownNameError(f"Unknown bundled model {name!r}.{near(name, MODELS)} Bundled: {', '.join(MODELS)}.")
    return Path(__file__).parent / MODELS[name]
