"""Methods judged by the gold explanations of the bundled models' data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from inseq.demo import GoldScene, GoldTranslation, gold_scenes, gold_translations
from inseq.outputs.sequence import FeatureAttributionSequenceOutput
from inseq.text.tokens import Token


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


def aligned(sequence: FeatureAttributionSequenceOutput, scores: Tensor, pair: GoldTranslation) -> list[bool]:
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


LOGIT = {"attributed_fn": "logit"}
OPTIONS: dict[str, dict[str, Any]] = {
    "attnlrp": LOGIT,
    "cp_lrp": LOGIT,
    "frozen": LOGIT,
    "gim": LOGIT,
    "context_cite": {"sources": "tokens"},
    "discretized_integrated_gradients": {"n_steps": 20},
}
"""What methods are judged with beside their defaults."""

Hits = list[list[bool]]
"""For each text, whether the highest word of each judged step is a gold one."""


def noise(seed: int) -> Callable[[Tensor], Tensor]:
    """Random scores of the same shape: the control of every table."""
    draws = torch.Generator().manual_seed(seed)
    return lambda scores: torch.rand(scores.shape, generator=draws)


def alignments(n: int) -> list[GoldTranslation]:
    """The first translations that are long enough to tell methods apart."""
    return [pair for pair in gold_translations() if len(pair.source_words) >= 5][:n]


def alignment_hits(
    model: Any,
    pairs: Sequence[GoldTranslation],
    read: Callable[[FeatureAttributionSequenceOutput], Tensor],
    change: Callable[[Tensor], Tensor] = lambda scores: scores,
    **arguments: Any,
) -> Hits:
    """Whether each target word's highest source word is one that it translates; of forced translations."""
    found = model.attribute([p.source for p in pairs], [p.target for p in pairs], show_progress=False, **arguments)
    return [aligned(sequence, change(read(sequence)), pair) for sequence, pair in zip(found, pairs, strict=True)]


def decided_scenes(n: int) -> Sequence[GoldScene]:
    """The first scenes whose last cue is decided by one earlier word."""
    return gold_scenes()[:n]


def cue_hits(
    model: Any,
    chosen: Sequence[GoldScene],
    read: Callable[[FeatureAttributionSequenceOutput], Tensor],
    change: Callable[[Tensor], Tensor] = lambda scores: scores,
    **arguments: Any,
) -> Hits:
    """Whether the highest word of the prompt is one that decided the word after it; the word just before is left out."""
    cues = [scene.cues[-1] for scene in chosen]
    prompts = [scene.text[: cue.word[0]].rstrip() for scene, cue in zip(chosen, cues, strict=True)]
    texts = [scene.text[: cue.word[1]] for scene, cue in zip(chosen, cues, strict=True)]
    found = model.attribute(prompts, texts, show_progress=False, **arguments)
    return [
        [_is_cue(change(_by_word(read(sequence), sequence, prompt)), prompt, cue.sure)]
        for sequence, prompt, cue in zip(found, prompts, cues, strict=True)
    ]


def _by_word(scores: Tensor, sequence: FeatureAttributionSequenceOutput, prompt: str) -> Tensor:
    first = scores[: sequence.attr_pos_start, 0]
    return torch.stack([first[rows].sum() for rows in words_of(sequence.source, prompt.split(" "))])[:-1]


def _is_cue(by_word: Tensor, prompt: str, sure: Sequence[tuple[int, int]]) -> bool:
    words = prompt.split(" ")
    start = sum(len(word) + 1 for word in words[: int(by_word.argmax())])
    span = set(range(start, start + len(words[int(by_word.argmax())])))
    return any(span & set(range(*cue)) for cue in sure)
