"""Bundled models, small and real, and gold explanations of sentences of their languages."""

from __future__ import annotations

from pathlib import Path

from inseq.demo.gold import GoldCue, GoldScene, GoldTranslation, gold_documents, gold_scenes, gold_translations
from inseq.errors import UnknownNameError, near

__all__ = [
    "MODELS",
    "GoldCue",
    "GoldScene",
    "GoldTranslation",
    "directory",
    "gold_documents",
    "gold_scenes",
    "gold_translations",
]

MODELS = {"demo/gpt2": "gpt2", "demo/zh-en": "zh_en"}


def directory(name: str) -> Path:
    """The directory of a bundled model.

    Raises:
        UnknownNameError: naming the bundled models.
    """
    if name not in MODELS:
        raise UnknownNameError(f"Unknown bundled model {name!r}.{near(name, MODELS)} Bundled: {', '.join(MODELS)}.")
    return Path(__file__).parent / MODELS[name]
