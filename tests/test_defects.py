"""Defects found in other packages, where they could be ours: regression tests by the number of each.

Held elsewhere: D1, D13 (edits work on this transformers and are undone) and D2, D14 (each rule is active, by its paper's
formula) in test_relevance.py, test_rules.py and test_by_hand.py; D5, D9 (model and tokenizer untouched) in test_guest.py;
D6 (attention is the model's own) in test_internals.py; D7 (targets of sure answers stay finite) in test_surrogates.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import harness
import pytest
import torch
import zoo

import inseq

QUIET: dict[str, Any] = {"show_progress": False}


@pytest.mark.parametrize("name", ["gpt2", "llama", "marian"])
def test_d3_integrated_gradients_are_signed_and_complete(name: str) -> None:
    """Elsewhere: the mean magnitude of gradient times point, which has no sign and adds up to nothing."""
    made, _ = harness.adapter(name)
    case = harness.cases(name)[2]
    ((found, _),), _ = harness.run(made, [case], "integrated_gradients", "logit", n_steps=100)
    totals = found.scores.sum((0, 2))
    assert (found.scores.sum(2) < 0).any()
    assert (found.diagnostics["delta"].abs() < 0.02 * (totals - found.diagnostics["delta"]).abs() + 1e-3).all()


@pytest.mark.parametrize("method", ["saliency", "occlusion", "attention"])
def test_d4_control_tokens_of_a_prompt_are_explained_and_not_stripped(method: str) -> None:
    model = inseq.load_model(zoo.build("gpt2", vocab=zoo.BYTES_VOCAB), method, tokenizer=zoo.tokenizer("bytes"))
    prompt = "<|endoftext|>ab<|endoftext|>"
    (found,) = model.attribute(prompt, prompt + " cd", **QUIET)
    kept = [i for i, token in enumerate(found.target) if token.special]
    assert [found.target[i].token for i in kept] == ["<|endoftext|>"] * 2
    scores = found.aggregate().target_attributions
    assert not scores[kept].isnan().any()
    (bare,) = model.attribute("ab", "ab cd", **QUIET)
    assert len(bare.target) == len(found.target) - 2


def test_d8_a_token_is_the_baseline_since_zero_is_none_on_models_that_normalise_by_the_root_mean_square() -> None:
    made, _ = harness.adapter("llama")
    chosen = harness.cases("llama")

    def missing(baseline: str) -> float:
        found, _ = harness.run(made, chosen, "integrated_gradients", "logit", n_steps=50, baseline=baseline)
        shares = []
        for attribution, _ in found:
            delta = attribution.diagnostics["delta"]
            shares.append(delta.abs() / (attribution.scores.sum((0, 2)) - delta).abs())
        return float(torch.cat(shares).median())

    assert missing("unk") < 0.01
    assert missing("zero") > 10 * missing("unk")


@pytest.mark.parametrize("folder", ["llama-3-of-my-own", "t5"])
def test_d11_what_a_model_is_does_not_hang_on_its_folder_s_name(folder: str, tmp_path: Path) -> None:
    zoo.build("gpt2").save_pretrained(tmp_path / folder)
    zoo.tokenizer("words").save_pretrained(tmp_path / folder)
    renamed = inseq.load_model(tmp_path / folder, device="cpu")
    original = inseq.load_model(zoo.build("gpt2"), tokenizer=zoo.tokenizer("words"))
    assert type(renamed.model).__name__ == "GPT2LMHeadModel"
    assert renamed.attribute("w1 w2", "w1 w2 w3", **QUIET) == original.attribute("w1 w2", "w1 w2 w3", **QUIET)
