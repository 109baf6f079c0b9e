"""Families beyond the zoo that compute something in a way of their own, for the methods that edit the backward pass."""

from __future__ import annotations

from functools import cache
from typing import Any

import harness
import pytest
import reference as ref
import torch
import transformers
import zoo
from harness import relative
from reference import Case

from inseq.errors import ArgumentError, UnsupportedModelError
from inseq.models.adapter import Adapter, DecoderOnly
from inseq.models.check import check
from inseq.requests import Gradient, Rescale
from inseq.text.encode import Encoder

RELEVANCE = ("attnlrp", "cp_lrp", "frozen", "gim")
EXPERTS = {"num_experts_per_tok": 2, "num_local_experts": 4, "head_dim": 8}
SMALL = {**zoo.SPECIAL, "vocab_size": zoo.VOCAB}
CONFIGS: dict[str, dict[str, Any]] = {
    "GptOss": {**zoo.GROUPED, **EXPERTS, "sliding_window": zoo.WINDOW},
    "Phimoe": {**zoo.GROUPED, "num_local_experts": 4},
    "XGLM": {**SMALL, "d_model": 32, "num_layers": 2, "attention_heads": 4, "ffn_dim": 64},
    "GPTBigCode": zoo.GPT,
    "Nemotron": zoo.GROUPED,
    "Cohere": zoo.GROUPED,
    "Mamba": {**SMALL, "hidden_size": 32, "num_hidden_layers": 2},
}


@cache
def made(name: str) -> tuple[Adapter, Case]:
    """A tiny model without biases, so that relevance has nowhere else to go."""
    config = getattr(transformers, f"{name}Config")(**CONFIGS[name])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
        zoo._enliven(model, 0.35)
    with torch.no_grad():
        for key, value in (*model.named_parameters(), *model.named_buffers()):
            if "bias" in key.split(".")[-1] or "wpe" in key or "embed_positions" in key:
                value.zero_()
    adapter = DecoderOnly(model, Encoder(zoo.tokenizer("words")))
    check(adapter)
    return adapter, Case(model, None, zoo.random_ids(9, seed=1), 3)


def run(name: str, method: str) -> Any:
    adapter, case = made(name)
    return harness.run(adapter, [case], method, "logit")[0][0][0]


@pytest.mark.parametrize("method", ["cp_lrp", "frozen"])
@pytest.mark.parametrize("name", ["Phimoe", "XGLM", "GPTBigCode", "Nemotron", "Cohere"])
def test_relevance_is_kept(name: str, method: str) -> None:
    """A floor under the scores, one head for all keys, a squared activation, norms of many kinds, chosen experts."""
    assert relative(run(name, method).scores.sum(0), ref.step_scores(made(name)[1], ref.logit)) < 1e-4


@pytest.mark.parametrize("name", ["XGLM", "GPTBigCode", "Nemotron", "Cohere"])
def test_differences_add_up(name: str) -> None:
    assert run(name, "deeplift").diagnostics["delta"].abs().max() < 1e-4


@pytest.mark.parametrize("method", RELEVANCE)
def test_sinks_and_written_out_gates_have_rules(method: str) -> None:
    """GPT-OSS subtracts the largest score itself, and writes its activation out."""
    assert run("GptOss", method).scores.isfinite().all()


@pytest.mark.parametrize("name", ["GptOss", "Phimoe"])
def test_routers_have_no_differences(name: str) -> None:
    with pytest.raises(UnsupportedModelError, match=f"{name}ForCausalLM: it chooses by its input"):
        run(name, "deeplift")


@pytest.mark.parametrize("method", [*RELEVANCE, "deeplift"])
def test_a_model_without_attention_is_refused(method: str) -> None:
    with pytest.raises(UnsupportedModelError, match="cannot be right on MambaForCausalLM"):
        run("Mamba", method)


def test_a_reference_belongs_to_the_rescale_rule() -> None:
    adapter, case = made("Cohere")
    x = adapter.example([], case.target.tolist(), case.first, case.positions)
    with pytest.raises(ArgumentError, match="a reference belongs to Rescale"):
        Gradient(x, edit=Rescale("deeplift"))
    with pytest.raises(ArgumentError, match="a reference belongs to Rescale"):
        Gradient(x, reference=x.embeds)
