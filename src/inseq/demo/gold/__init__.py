"""Gold explanations: sentences of the bundled models' languages, with the words that decide other words marked."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Span = tuple[int, int]


@dataclass(frozen=True)
class GoldTranslation:
    """A sentence pair with its word alignment.

    A link is a pair of positions: of a source word, and of the target word that depends on it. A sure link joins
    translation equivalents. A possible link joins an English word to a Chinese word that decides its form or its
    presence, such as the "does" of a question to 嗎. Every sure link is possible too.
    """

    source: str
    target: str
    source_words: tuple[str, ...]
    target_words: tuple[str, ...]
    sure: frozenset[tuple[int, int]]
    possible: frozenset[tuple[int, int]]


@dataclass(frozen=True)
class GoldCue:
    """A word that earlier words decide: the sure ones determine it, the possible ones may contribute.

    Spans are half-open character ranges of the text.
    """

    kind: str
    word: Span
    sure: tuple[Span, ...]
    possible: tuple[Span, ...]


@dataclass(frozen=True)
class GoldScene:
    """An English text with its cues."""

    text: str
    cues: tuple[GoldCue, ...]


def gold_translations() -> tuple[GoldTranslation, ...]:
    """Read sentence pairs of the language of `demo/zh-en`."""
    return tuple(_translation(row) for row in _rows("translations"))


def gold_scenes() -> tuple[GoldScene, ...]:
    """Read single scenes of the language of `demo/gpt2`; the last cue of each is decided by one earlier word."""
    return tuple(_scene(row) for row in _rows("scenes"))


def gold_documents() -> tuple[GoldScene, ...]:
    """Read documents of one to three scenes of any kind, as `demo/gpt2` was trained on."""
    return tuple(_scene(row) for row in _rows("documents"))


def _rows(name: str) -> list[dict[str, Any]]:
    lines = (Path(__file__).parent / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def _translation(row: dict[str, Any]) -> GoldTranslation:
    return GoldTranslation(
        source=row["source"],
        target=row["target"],
        source_words=tuple(row["source_words"]),
        target_words=tuple(row["target_words"]),
        sure=frozenset(_pairs(row["sure"])),
        possible=frozenset(_pairs(row["possible"])),
    )


def _scene(row: dict[str, Any]) -> GoldScene:
    return GoldScene(row["text"], tuple(_cue(cue) for cue in row["cues"]))


def _cue(row: dict[str, Any]) -> GoldCue:
    start, end = row["word"]
    return GoldCue(row["kind"], (start, end), _pairs(row["sure"]), _pairs(row["possible"]))


def _pairs(rows: list[list[int]]) -> tuple[tuple[int, int], ...]:
    return tuple((first, second) for first, second in rows)
