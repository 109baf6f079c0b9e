"""Methods judged by the gold explanations of the bundled models' data."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from inseq.demo.translations import Translation
from inseq.result.output import FeatureAttributionSequenceOutput
from inseq.text.example import Token


def words_of(tokens: Sequence[Token], words: Sequence[str]) -> list[list[int]]:
    """For each word the tokens that write it; special tokens belong to none."""
    found: list[list[int]] = [[] for _ in words]
    word, rest = 0, words[0]
    for i, token in enumerate(tokens):
        text = "" if token.special else token.text.strip()
        while text:
            assert rest.startswith(text[: len(rest)]), (text, rest)
            taken = min(len(text), len(rest))
            found[word].append(i)
            text, rest = text[taken:], rest[taken:]
            if not rest and word + 1 < len(words):
                word += 1
                rest = words[word]
    return found


def aligned(sequence: FeatureAttributionSequenceOutput, scores: Tensor, pair: Translation) -> list[bool]:
    """For each target word with sure links, whether its highest source word is one of them.

    Args:
        sequence: the output whose tokens are scored.
        scores: Float["source step"].
        pair: the gold alignment.
    """
    sources = words_of(sequence.source, pair.source_words)
    targets = words_of(sequence.generated, pair.target_words)
    by_word = torch.stack([scores[rows].sum(0) for rows in sources])
    hits = []
    for j, columns in enumerate(targets):
        links = {i for i, target in pair.sure if target == j}
        if links:
            hits.append(int(by_word[:, columns].sum(1).argmax()) in links)
    return hits
