"""The bundled models are real, right on their language, and explained by the words that decided."""

from __future__ import annotations

from pathlib import Path

import gold
import pytest
import torch
from transformers import GPT2LMHeadModel, MarianMTModel

import inseq
from inseq import demo
from inseq.demo.scenes import scenes
from inseq.demo.translations import translations

DECIDED = ("gave", "location", "lost", "password", "job", "story")


@pytest.fixture(scope="module")
def zh_en() -> inseq.AttributionModel:
    return inseq.load_model("demo/zh-en")


@pytest.fixture(scope="module")
def gpt2() -> inseq.AttributionModel:
    return inseq.load_model("demo/gpt2")


def test_they_are_what_they_say(zh_en: inseq.AttributionModel, gpt2: inseq.AttributionModel) -> None:
    assert type(zh_en.model) is MarianMTModel
    assert type(gpt2.model) is GPT2LMHeadModel
    for model, name in ((zh_en, "demo/zh-en"), (gpt2, "demo/gpt2")):
        assert next(model.model.parameters()).dtype == torch.float32
        card = (demo.directory(name) / "README.md").read_text()
        assert "controlled-language demonstration" in card


def test_they_are_small() -> None:
    files = [f for name in demo.MODELS for f in Path(demo.directory(name)).rglob("*") if f.is_file()]
    assert sum(f.stat().st_size for f in files) < 4_500_000


@pytest.mark.parametrize("text", ["我喜歡機器學習和人工智慧。", "我喜欢机器学习和人工智能。", "我喜歡機器學習和人工智慧"])
def test_the_tutorial_s_sentence(zh_en: inseq.AttributionModel, text: str) -> None:
    assert zh_en.generate(text) == ["I like machine learning and artificial intelligence."]


def test_fresh_sentences_are_translated_exactly(zh_en: inseq.AttributionModel) -> None:
    pairs = translations(200, seed=2026, script="mixed")
    written = zh_en.generate([pair.source for pair in pairs], batch_size=50)
    assert sum(got == pair.target for got, pair in zip(written, pairs, strict=True)) >= 0.98 * len(pairs)


@pytest.mark.parametrize(
    ("prompt", "continuation"),
    [
        ("Hello world", "! My name is"),
        ("Hello ladies and", " gentlemen, welcome to the show"),
        ("The capital of Japan is", " Tokyo."),
    ],
)
def test_continuations(gpt2: inseq.AttributionModel, prompt: str, continuation: str) -> None:
    assert gpt2.generate(prompt)[0].startswith(continuation)


LEAST = {"saliency": 0.80, "attention": 0.88, "occlusion": 0.85}


@pytest.mark.parametrize("method", [*LEAST, "random"])
def test_alignment(zh_en: inseq.AttributionModel, method: str) -> None:
    """Hit@1 on the gold alignments of forced translations; for attention, the last layer."""
    pairs = [pair for pair in translations(120, seed=7) if len(pair.source_words) >= 5][:80]
    found = zh_en.attribute(
        [pair.source for pair in pairs],
        [pair.target for pair in pairs],
        method="saliency" if method == "random" else method,
        show_progress=False,
    )
    noise = torch.Generator().manual_seed(0)
    hits: list[bool] = []
    for sequence, pair in zip(found, pairs, strict=True):
        if method == "attention":
            scores = sequence.source_attributions[:, :, -1].mean(-1)
        elif method == "random":
            scores = torch.rand(sequence.source_attributions.shape[:2], generator=noise)
        else:
            scores = sequence.aggregate().source_attributions
        hits += gold.aligned(sequence, scores, pair)
    rate = sum(hits) / len(hits)
    print(f"{method}: {rate:.3f} of {len(hits)}")
    assert len(hits) > 300
    assert rate <= 0.25 if method == "random" else rate >= LEAST[method]


@pytest.mark.parametrize("method", ["saliency", "random"])
def test_cues(gpt2: inseq.AttributionModel, method: str) -> None:
    """Where a word is decided by an earlier one, that one is the most salient; the word just before is left out."""
    hits = []
    noise = torch.Generator().manual_seed(0)
    for scene in scenes(60, seed=11, kinds=DECIDED):
        cue = scene.cues[-1]
        prompt, text = scene.text[: cue.word[0]].rstrip(), scene.text[: cue.word[1]]
        (found,) = gpt2.attribute(prompt, text, show_progress=False)
        scores = found.aggregate().target_attributions[: found.attr_pos_start, 0]
        words = prompt.split(" ")
        by_word = torch.stack([scores[rows].sum() for rows in gold.words_of(found.source, words)])[:-1]
        if method == "random":
            by_word = torch.rand(by_word.shape, generator=noise)
        starts = [len(" ".join(words[:i])) + (i > 0) for i in range(len(words) - 1)]
        best = int(by_word.argmax())
        span = range(starts[best], starts[best] + len(words[best]))
        hits.append(any(set(span) & set(range(*sure)) for sure in cue.sure))
    rate = sum(hits) / len(hits)
    print(f"{method}: {rate:.3f} of {len(hits)}")
    assert rate <= 0.35 if method == "random" else rate >= 0.65
