"""What cannot be compared is named."""

from __future__ import annotations

from typing import Any

import compared
import pytest
from compared import QUIET

import inseq
from inseq.errors import ArgumentError, UnknownArgumentError

DIFF = {"attributed_fn": "contrast_prob_diff"}
KL = {"attributed_fn": "kl_divergence"}
BAD: list[tuple[str, dict[str, Any], type[Exception], str]] = [
    ("gpt2", DIFF, ArgumentError, r"'contrast_prob_diff' compares the output with another one: pass contrast_targets="),
    ("gpt2", {"step_scores": ["pcxmi"]}, ArgumentError, "'pcxmi' compares the output with another one"),
    ("gpt2", {**DIFF, "contrast_sources": "w1"}, ArgumentError, "put the other prompt, followed by its continuation, into"),
    ("gpt2", {"contrast_targets": "w1 w2"}, UnknownArgumentError, "'contrast_targets': nothing in this call compares outputs"),
    ("gpt2", {**DIFF, "contrast_target": "w1 w2"}, UnknownArgumentError, "Did you mean 'contrast_targets'"),
    ("gpt2", {**DIFF, "contrast_targets": "w1 w2", "top_k": 3}, UnknownArgumentError, "Unknown argument 'top_k'"),
    ("gpt2", {**DIFF, "contrast_force_inputs": True}, ArgumentError, r"pass contrast_targets="),
    ("gpt2", {**DIFF, "contrast_targets": ["w1", "w2"]}, ArgumentError, "contrast_targets has 2 entries and input_texts 1"),
    ("gpt2", {**DIFF, "contrast_targets": 3.0}, ArgumentError, "contrast_targets must be a text or ids for each input"),
    ("gpt2", {**DIFF, "contrast_targets": [[5, 999]]}, ArgumentError, r"contrast_targets\[0\] holds the id 999"),
    ("gpt2", {**DIFF, "contrast_targets": "w1"}, ArgumentError, r"contrast_targets\[0\] has 1 token"),
    ("gpt2", {**DIFF, "contrast_targets": " "}, ArgumentError, r"contrast_targets\[0\] is empty"),
    (
        "gpt2",
        {**DIFF, "contrast_targets": [["w1 w2"]]},
        ArgumentError,
        r"contrast_targets\[0\] must be a text or ids, got list",
    ),
    ("gpt2", {**DIFF, "contrast_targets": " ".join(["w1"] * 65)}, ArgumentError, "contrast of text 0 needs 65 positions"),
    (
        "gpt2",
        {**KL, "contrast_targets": "w1 w2 w3"},
        ArgumentError,
        r"of text 0 are the same, so it is 0.*_force_inputs",
    ),
    ("gpt2", {**KL, "contrast_targets": "w9 w2 w3", "top_p": 0.0}, ArgumentError, "top_p=0.0 must be above 0"),
    ("gpt2", {**KL, "contrast_targets": "w9 w2 w3", "top_k": -1}, ArgumentError, "top_k=-1 must be at least 1, or 0"),
    ("gpt2", {**KL, "contrast_targets": "w9 w2 w3", "min_tokens_to_keep": 0}, ArgumentError, "min_tokens_to_keep=0 must be"),
    ("gpt2", {"attributed_fn": "mc_dropout_prob_avg", "n_mcd_steps": 0}, ArgumentError, "n_mcd_steps=0 must be at least 1"),
    ("gpt2", {"attributed_fn": "mc_dropout_prob_avg", "n_mcd_step": 2}, UnknownArgumentError, "Did you mean 'n_mcd_steps'"),
    ("gpt2", {"attributed_fn": "rank"}, ArgumentError, r"'rank' has no gradient.*such as occlusion, lime, shapley_sampling"),
    ("gpt2", {"attributed_fn": "top_p_size"}, ArgumentError, r"'top_p_size' has no gradient"),
]
BAD += [
    (
        "gpt2",
        {"attributed_fn": function, "contrast_targets": "w9 w2 w3", "contrast_force_inputs": True},
        ArgumentError,
        f"'{function}' with contrast_force_inputs=True does not depend on the input at all",
    )
    for function in ("contrast_prob", "contrast_logits")
]
ALIGNMENTS: list[tuple[Any, str]] = [
    ("manual", "must be 'auto', a list of pairs .* got str"),
    (3, "must be 'auto', a list of pairs .* got int"),
    ([(1, 2, 3)], r"got \(1, 2, 3\) for text 0"),
    ([[(1, 1)], [(1, 1)]], "got 2 entries for 1 texts"),
    ([(2, 1), (2, 2)], "position 2 of text 0 is paired with 1 and with 2"),
    ([(9, 1)], r"the pair \(9, 1\) of text 0 names position 9 of the target, which has predicted tokens at 1 to 2"),
    ([(2, 0)], r"names position 0 of the contrast, which has predicted tokens at 1 to 2"),
]
BAD += [
    ("gpt2", {**DIFF, "contrast_targets": "w1 w2 w4", "contrast_targets_alignments": value}, ArgumentError, message)
    for value, message in ALIGNMENTS
]


@pytest.mark.parametrize(("name", "arguments", "error", "message"), BAD, ids=[str(b[1])[:70] for b in BAD])
def test_what_cannot_be_compared_is_named(name: str, arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        compared.load(name).attribute("w1 w2", "w1 w2 w3", **arguments, **QUIET)


def test_the_methods_that_are_named_exist() -> None:
    from inseq.engine.scores.evaluate import FREE_OF_GRADIENTS

    assert set(FREE_OF_GRADIENTS) <= set(inseq.list_feature_attribution_methods())
