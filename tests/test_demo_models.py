"""The bundled models are real, right on their language, and explained by the words that decided."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gold
import pytest
import torch
from rows import METHODS
from transformers import GPT2LMHeadModel, MarianMTModel

import inseq
from corpora.translations import translations
from inseq import demo


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
    assert gpt2.generate(prompt)[0].startswith(prompt + continuation)


LEAST = {"saliency": 0.80, "attention": 0.88, "occlusion": 0.85}


def last_layer(sequence: Any) -> torch.Tensor:
    return sequence.source_attributions[:, :, -1].mean(-1)


def source_scores(sequence: Any) -> torch.Tensor:
    return sequence.aggregate().source_attributions


def prompt_scores(sequence: Any) -> torch.Tensor:
    return sequence.aggregate().target_attributions


def rate_of(hits: gold.Hits) -> float:
    judged = [hit for text in hits for hit in text]
    print(f"{sum(judged) / len(judged):.3f} of {len(judged)}")
    return sum(judged) / len(judged)


@pytest.mark.parametrize("method", [*LEAST, "random"])
def test_alignment(zh_en: inseq.AttributionModel, method: str) -> None:
    """Hit@1 on the gold alignments of forced translations; for attention, the last layer."""
    pairs = gold.alignments(80)
    if method == "random":
        assert rate_of(gold.alignment_hits(zh_en, pairs, source_scores, gold.noise(0))) <= 0.25
        return
    read = last_layer if method == "attention" else source_scores
    hits = gold.alignment_hits(zh_en, pairs, read, method=method)
    assert sum(map(len, hits)) > 300
    assert rate_of(hits) >= LEAST[method]


OPTIONS = gold.OPTIONS | {
    "gradient_shap": {"n_samples": 10},
    "integrated_gradients": {"n_steps": 20},
    "layer_integrated_gradients": {"n_steps": 20},
    "sequential_integrated_gradients": {"n_steps": 3},
    "shapley_sampling": {"n_permutations": 5},
    "smooth_grad": {"n_samples": 10},
}
ALIGN = dict.fromkeys(METHODS, 0.80) | {
    "attention_rollout": 0.70,
    "discretized_integrated_gradients": 0.70,
    "reagent": 0.33,
    "sequential_integrated_gradients": 0.75,
}
"""Least shares of right words; below those of ``benchmarks/known_answers.py``, which explains more texts."""

CUES = {
    **dict.fromkeys(("saliency", "input_x_gradient", "deeplift", "layer_deeplift", "layer_gradient_x_activation"), 0.60),
    **dict.fromkeys(("attnlrp", "cp_lrp", "frozen", "gim", "lime", "kernel_shap", "occlusion", "shapley_sampling"), 0.50),
    **dict.fromkeys(("alti", "smooth_grad", "sequential_integrated_gradients"), 0.45),
    **dict.fromkeys(("integrated_gradients", "layer_integrated_gradients", "value_zeroing", "reagent"), 0.38),
    **dict.fromkeys(("gradient_shap", "context_cite", "attention"), 0.30),
}
NO_BETTER_THAN_RANDOM = {"alti_logit", "attention_rollout", "discretized_integrated_gradients"}
"""On the language model, for reasons that ``docs/methods.md`` gives or that are the method's own."""


def test_every_method_is_judged() -> None:
    assert set(CUES) | NO_BETTER_THAN_RANDOM == set(METHODS)


@pytest.mark.parametrize("method", [m for m in METHODS if m != "alti_logit"])
def test_every_method_finds_translated_words(zh_en: inseq.AttributionModel, method: str) -> None:
    options = dict(OPTIONS.get(method, {}))
    if method.startswith("layer_"):
        options["target_layer"] = "model.encoder.layers[1]"
    assert rate_of(gold.alignment_hits(zh_en, gold.alignments(24), source_scores, method=method, **options)) >= ALIGN[method]


LONG = {"sequential_integrated_gradients", "kernel_shap", "shapley_sampling", "lime"}


@pytest.mark.parametrize(
    "method", [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in (*CUES, "random")]
)
def test_cues(gpt2: inseq.AttributionModel, method: str) -> None:
    """Where a word is decided by an earlier one, that one has the highest score; the word just before is left out."""
    scenes = gold.decided_scenes(60)
    if method == "random":
        assert rate_of(gold.cue_hits(gpt2, scenes, prompt_scores, gold.noise(0))) <= 0.35
        return
    options = dict(OPTIONS.get(method, {}))
    if method.startswith("layer_"):
        options["target_layer"] = "transformer.drop"
    assert rate_of(gold.cue_hits(gpt2, scenes, prompt_scores, method=method, **options)) >= CUES[method]
