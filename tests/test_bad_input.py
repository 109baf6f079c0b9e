"""Bad input is named before anything runs: the argument, the value, what was expected, the remedy."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import zoo
from test_api import SHORT, gpt2

import inseq
from inseq.errors import ArgumentError, InseqError, UnknownArgumentError, UnknownNameError, UnsupportedModelError

__all__ = ["gpt2"]


BAD: list[tuple[dict[str, Any], type[InseqError], str]] = [
    ({"input_texts": None}, ArgumentError, "input_texts must be a text or a list of texts, got NoneType"),
    ({"input_texts": 3}, ArgumentError, "got int"),
    ({"input_texts": []}, ArgumentError, "input_texts is an empty list"),
    ({"input_texts": ""}, ArgumentError, "input_texts is empty"),
    ({"input_texts": ["w1", "  "]}, ArgumentError, r"input_texts\[1\] is empty"),
    ({"input_texts": ["w1", None]}, ArgumentError, r"input_texts\[1\] must be a text, got NoneType"),
    ({"generated_texts": ["w1 w2 w3", "w1"]}, ArgumentError, "generated_texts has 2 texts and input_texts 1"),
    ({"generated_texts": "w9 w2 w3"}, ArgumentError, r"generated_texts\[0\] must begin with its input text"),
    ({"generated_texts": "w1 w2"}, ArgumentError, r"generated_texts\[0\] adds no token"),
    ({"generated_texts": ""}, ArgumentError, "generated_texts is empty"),
    ({"method": "salency"}, UnknownNameError, "Unknown method 'salency'. Did you mean 'saliency'"),
    (
        {"attributed_fn": "probabilty"},
        UnknownNameError,
        "Unknown step function 'probabilty'. Did you mean 'probability'",
    ),
    ({"attributed_fn": 7}, ArgumentError, "attributed_fn must be a step function's name or a function, got int"),
    ({"step_scores": ["entropi"]}, UnknownNameError, "Did you mean 'entropy'"),
    ({"n_stepz": 3, "method": "integrated_gradients"}, UnknownArgumentError, "'n_stepz'. Did you mean 'n_steps'"),
    ({"attribute_targets": True}, UnknownArgumentError, "'attribute_targets'. Did you mean 'attribute_target'"),
    ({"n_steps": 3}, UnknownArgumentError, "saliency takes no options"),
    ({"n_steps": 0, "method": "integrated_gradients"}, ArgumentError, "n_steps=0 must be at least 1"),
    (
        {"baseline": "nope nope", "method": "occlusion"},
        ArgumentError,
        "is a text of 2 tokens, and there are",
    ),
    ({"baseline": torch.zeros(3), "method": "occlusion"}, ArgumentError, r"shape \(3,\), expected \(\d+, 32\)"),
    ({"method": 3}, UnknownNameError, "Unknown method 3"),
    ({"step_scores": None}, ArgumentError, "step_scores must be a list of step functions' names, got NoneType"),
    ({"step_scores": [3]}, ArgumentError, "step_scores must be a step function's name or a function, got int"),
    ({"generation_args": "long"}, ArgumentError, "generation_args must be a mapping, got str"),
    ({"attr_pos_start": "2"}, ArgumentError, "attr_pos_start must be a whole number, got str"),
    ({"attr_pos_end": 3.0}, ArgumentError, "attr_pos_end must be a whole number, got float"),
    ({"attr_pos_end": True}, ArgumentError, "attr_pos_end must be a whole number, got bool"),
    ({"attribute_target": "yes"}, ArgumentError, r"attribute_target must be True or False, got str \('yes'\)"),
    ({"granular": 2}, ArgumentError, "granular must be True or False, got int"),
    ({"show_progress": "no"}, ArgumentError, "show_progress must be True or False, got str"),
    ({"method": "lime", "n_samples": "5"}, ArgumentError, "n_samples must be a whole number, got str"),
    ({"method": "lime", "ridge": True}, ArgumentError, "ridge must be a number, got bool"),
    ({"logprob": "no"}, ArgumentError, "logprob must be True or False, got str"),
    ({"method": "lime", "kernel_width": 0.0}, ArgumentError, "kernel_width=0.0 must be above 0"),
    ({"batch_size": 0}, ArgumentError, "batch_size=0 must be a whole number of at least 1"),
    ({"attr_pos_start": 1}, ArgumentError, "attr_pos_start=1 is position 1, but the generated tokens stand at 2 to"),
    ({"attr_pos_end": 99}, ArgumentError, "attr_pos_end=99 is position 99"),
    ({"attr_pos_start": -99}, ArgumentError, "attr_pos_start=-99"),
    ({"attr_pos_start": 4, "attr_pos_end": 3}, ArgumentError, "leave no token to explain: 4 to 3"),
    ({"attributed_fn": ""}, UnknownNameError, "Unknown step function ''"),
    ({"method": ""}, UnknownNameError, "Unknown method ''"),
    ({"batch_size": True}, ArgumentError, "batch_size=True must be a whole number"),
    ({"granular": 0}, ArgumentError, "granular must be True or False, got int"),
    ({"generation_args": {"max_new_tokens": 0}}, ArgumentError, "max_new_tokens=0 must be a whole number of at least 1"),
    ({"generation_args": {"max_new_tokens": "a"}}, ArgumentError, "max_new_tokens='a' must be a whole number"),
    ({"output_step_attributions": 1}, ArgumentError, "output_step_attributions must be True or False, got int"),
    ({"attribution_args": ["n_steps"]}, ArgumentError, "attribution_args must be a mapping of options, got list"),
    ({"attribution_args": {"n_stes": 3}, "method": "integrated_gradients"}, UnknownArgumentError, "Did you mean 'n_steps'"),
    ({"step_scores_args": {"top_p": 0.5}}, UnknownArgumentError, "Unknown argument 'top_p'"),
    ({"abs": False}, ArgumentError, "abs=False is not an option of 'saliency' here.*'input_x_gradient' has a sign"),
    (
        {"method": "integrated_gradients", "multiply_by_inputs": False},
        ArgumentError,
        "multiply_by_inputs=False is not an option of 'integrated_gradients' here",
    ),
    (
        {"method": "occlusion", "sliding_window_shapes": "w"},
        ArgumentError,
        "sliding_window_shapes must be .tokens, embedding dimensions. or a number of tokens",
    ),
    ({"device": "tpu"}, ArgumentError, "device='tpu' is not a torch device of this machine"),
    ({"continuations": "w3", "generated_texts": "w1 w2 w3"}, ArgumentError, "Got generated_texts and continuations"),
    ({"continuations": ["w3", "w4"]}, ArgumentError, "continuations has 2 texts and input_texts 1"),
    ({"generate_from_target_prefix": True}, ArgumentError, "generate_from_target_prefix is for encoder-decoder models"),
    ({"generated_texts": "w1 w2 w3", "positions": []}, ArgumentError, "positions must be a list of positions of target"),
    (
        {"generated_texts": "w1 w2 w3", "positions": [1]},
        ArgumentError,
        "name position 1 of text 0, whose explained tokens",
    ),
    ({"generated_texts": "w1 w2 w3", "positions": [2, 2]}, ArgumentError, "name one of text 0 twice"),
    ({"generated_texts": "w1 w2 w3", "positions": [[2], [3]]}, ArgumentError, "positions has 2 lists and input_texts 1"),
    (
        {"generated_texts": "w1 w2 w3", "positions": [2], "target_spans": [(2, 3)]},
        ArgumentError,
        "Got positions and target_spans",
    ),
    ({"input_texts": [1, 10**6]}, ArgumentError, "input_texts.0. holds the id 1000000"),
    ({"input_texts": [{"role": "user"}]}, ArgumentError, "must be a message with the texts 'role' and 'content'"),
    ({"input_texts": [{"role": "user", "content": "w1"}]}, ArgumentError, "has no chat template"),
    ({"input_texts": "</s>", "skip_special_tokens": True}, ArgumentError, "holds special tokens alone"),
    ({"max_new_tokens": 5}, UnknownArgumentError, "It is an argument of generation: pass generation_args"),
    ({"attribution_method": "lime"}, UnknownArgumentError, "Did you mean 'method'"),
    ({"n_steps": 3, "method": "lime"}, UnknownArgumentError, "It is an option of .*integrated_gradients"),
    ({"n_step": 3}, UnknownArgumentError, "Did you mean 'n_steps'"),
    ({"generated_texts": "attention"}, ArgumentError, "is the name of a method: pass method='attention'"),
    ({"method": "lime", "ridge": float("inf")}, ArgumentError, "ridge must be a finite number, got inf"),
    ({"method": "lime", "seed": 2**70}, ArgumentError, "must be from 0 to 4294967295"),
    ({"method": "integrated_gradients", "tolerance": "a"}, ArgumentError, "tolerance=a must be above 0"),
    (
        {"method": "integrated_gradients", "tolerance": 0.1, "quadrature": "riemann_left"},
        ArgumentError,
        "With tolerance=0.1 points have places of their own: leave quadrature=.riemann_left. out",
    ),
    ({"method": "occlusion", "baseline": 10**30}, ArgumentError, "names an id far beyond every vocabulary"),
    ({"method": "occlusion", "baseline": "zeros"}, ArgumentError, "no token of this tokenizer.* Did you mean 'zero'"),
    ({"input_texts": " ".join(["w1"] * 65)}, ArgumentError, "needs 70 positions .* has 64. .* never cut silently"),
    ({"generation_args": {"max_new_tokens": 63}}, ArgumentError, "needs 65 positions"),
    ({"generation_args": {"num_return_sequences": 2}}, ArgumentError, "num_return_sequences must be 1"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD, ids=[str(list(b[0].items()))[:60] for b in BAD])
def test_bad_input_is_named(
    gpt2: inseq.AttributionModel, arguments: dict[str, Any], error: type[InseqError], message: str
) -> None:
    forwards = []
    handle = gpt2.model.register_forward_pre_hook(lambda *_: forwards.append(1))
    try:
        with pytest.raises(error, match=message):
            gpt2.attribute(**{"input_texts": "w1 w2", **SHORT, **arguments})
    finally:
        handle.remove()
    if (
        ("attr_pos" not in str(arguments) or "whole number" in message)
        and "baseline" not in arguments
        and "n_steps=0" not in message
        and "kernel" not in message
        and "tolerance" not in message
    ):
        assert not forwards


def test_bad_models() -> None:
    model = zoo.build("gpt2")
    with pytest.raises(ArgumentError, match=r"does not say where it came from.*pass tokenizer="):
        inseq.load_model(model)
    with pytest.raises(ArgumentError, match=r"tokenizer must be a transformers tokenizer or its name, got int"):
        inseq.load_model(model, tokenizer=3)
    with pytest.raises(ArgumentError, match=r"model must be a hub name, a directory or a loaded transformers model, got int"):
        inseq.load_model(3)
    for device in ("gpu", "cuda:99"):
        with pytest.raises(ArgumentError, match=rf"device={device!r} is not a torch device of this machine, which has cpu"):
            inseq.load_model("demo/gpt2", device=device)
        with pytest.raises(ArgumentError, match="is not a torch device of this machine"):
            inseq.load_model(model, tokenizer=zoo.tokenizer("words"), device=device)
    for name in ("nobody/no-such-model", "no-such-directory"):
        with pytest.raises(ArgumentError, match=rf"No model could be loaded from '{name}'.*Check the spelling, HF_ENDPOINT"):
            inseq.load_model(name)
    with pytest.raises(ArgumentError, match=r"model_kwargs must be a mapping, got str \('8bit'\)"):
        inseq.load_model("demo/gpt2", model_kwargs="8bit")
    with pytest.raises(ArgumentError, match="tokenizer_kwargs must be a mapping, got int"):
        inseq.load_model("demo/gpt2", tokenizer_kwargs=3)
    with pytest.raises(UnknownNameError, match=r"Unknown bundled model 'demo/gpt3'. Did you mean 'demo/gpt2'"):
        inseq.load_model("demo/gpt3")
    with pytest.raises(UnknownNameError, match=r"Unknown method 'saliancy'"):
        inseq.load_model(model, "saliancy", tokenizer=zoo.tokenizer("words"))
    with pytest.raises(UnknownArgumentError, match=r"'tokeniser'. Did you mean 'tokenizer'"):
        inseq.load_model(model, "saliency", tokeniser=zoo.tokenizer("words"))
    with pytest.raises(ArgumentError, match="this model is loaded already"):
        inseq.load_model(model, tokenizer=zoo.tokenizer("words"), dtype="float16")


def test_a_method_that_the_architecture_cannot_serve_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    model = inseq.load_model(zoo.build("gpt2"), "attention", tokenizer=zoo.tokenizer("words"))
    monkeypatch.setattr(model, "capabilities", replace(model.capabilities, attention=None))
    with pytest.raises(UnsupportedModelError, match=r"does not give its attention weights.*use 'saliency'"):
        model.attribute("w1 w2", **SHORT)
