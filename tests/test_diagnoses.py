"""A step function that cannot be a target is told what it returned, and what was expected."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import compared
import harness
import pytest
import torch
from compared import QUIET
from torch import Tensor

from inseq.engine.batches import pack
from inseq.engine.jobs import Job
from inseq.engine.scores.stepwise import step_values
from inseq.errors import ArgumentError
from inseq.registry import Entry
from inseq.requests import Score, Target
from inseq.targets import step_function


def last(args: Any) -> Tensor:
    return args.attribution_model.output2logits(args.forward_output)


def ones(p: Any) -> Tensor:
    return torch.ones_like(p.ids, dtype=torch.float32)


def unread(p: Any) -> Tensor:
    return ones(p).requires_grad_()


BAD: list[tuple[Callable[..., Any], str]] = [
    (lambda p: p.logits, r"returned a tensor of shape \[2, 97\]; expected a tensor of shape \[2\]"),
    (lambda p: p.logits.sum(), r"returned a tensor of shape \[\]; expected a tensor of shape \[2\]"),
    (lambda p: 3.0, r"returned float; expected a tensor of shape \[2\]"),
    (lambda p: None, r"returned NoneType; expected"),
    (lambda: 3.0, "raised TypeError"),
    (lambda p: p.ids, r"returned int64 numbers, which have no gradient: convert them with .float\(\)"),
    (lambda p: ones(p) * torch.nan, r"a value is not a number \(NaN\), in 2 of 2 entries"),
    (lambda p: p.logits[:, 0].abs().mul(-1).log(), r"a value is not a number \(NaN\)"),
    (lambda p: (p.logits[:, 0] * 0).sqrt() * 0, r"a gradient is not a number \(NaN\)"),
    (lambda p: p.logit, "raised AttributeError: 'Prediction' object has no attribute 'logit'"),
    (lambda p: p.contrast.logits, "raised AttributeError"),
    (lambda p: p.logits[:, 0].detach(), r"has no gradient: .* such as occlusion, lime, shapley_sampling"),
    (ones, "has no gradient"),
    (unread, "has no gradient"),
    (lambda args: args.forward_output.logits, r"returned a tensor of shape \[1, 1, 97\]; expected a tensor of shape \[1\]"),
    (lambda args: last(args)[:, 0].detach(), "has no gradient"),
    (lambda args: torch.ones(1).requires_grad_(), "has no gradient"),
    (lambda args: last(args)[:, 0] * torch.nan, r"a value is not a number \(NaN\)"),
    (lambda args: args.logits, "raised AttributeError: 'StepFunctionArgs' object has no attribute 'logits'"),
]


@pytest.mark.parametrize(("function", "message"), BAD, ids=[str(i) for i in range(len(BAD))])
def test_bad_targets_are_diagnosed(function: Callable[..., Any], message: str) -> None:
    model = compared.load("gpt2")
    with pytest.raises(ArgumentError, match=message):
        model.attribute("w1", "w1 w2 w3", attributed_fn=function, **QUIET)


def test_a_target_without_a_signature() -> None:
    with pytest.raises(ArgumentError, match=r"attributed_fn 'softmax' does not say what it takes"):
        compared.load("gpt2").attribute("w1", "w1 w2", attributed_fn=torch.softmax, **QUIET)


def test_step_scores_are_asked_of_the_text_alone() -> None:
    """Not of its variants, where they might have no value."""
    model, given = compared.load("gpt2"), []

    def counted(p: Any) -> Tensor:
        given.append(len(p.ids))
        return p.logits[:, 0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(step_function._entries, "test_counted", Entry("test_counted", counted, {}))
        model.attribute(["w1", "w4"], ["w1 w2 w3", "w4 w5 w6"], method="lime", step_scores=["test_counted"], **QUIET)
    assert given == [4]


@pytest.mark.parametrize("name", ["gpt2", "marian"])
def test_stepwise_functions_refuse_rows_with_tokens_left_out(name: str) -> None:
    made, _ = harness.adapter(name)
    case = harness.cases(name)[0]
    source = [] if case.source is None else case.source.tolist()
    x = made.example(source, case.target.tolist(), case.first, [case.first])
    packed = pack([Job(Score(x), range(1), range(1))])
    target = Target(lambda forward: forward.output.logits[:, -1, 0], "first", stepwise=True)
    inputs = packed.inputs
    assert step_values(target, made, packed, inputs, True)[0].shape == (1,)
    gaps = [replace(inputs, at=inputs.at - 1)]
    if inputs.source_keep is not None:
        gaps.append(replace(inputs, source_keep=inputs.source_keep & (torch.arange(case.n_source) > 0)))
    for gap in gaps:
        with pytest.raises(ArgumentError, match="'first' is run on whole prefixes, step by step, and this method leaves"):
            step_values(target, made, packed, gap, True)


@pytest.mark.parametrize("function", [lambda p: p.logits[:, 0].detach(), lambda args: last(args)[:, 0].detach()])
def test_methods_without_gradients_take_a_detached_target(function: Callable[..., Any]) -> None:
    (found,) = compared.load("gpt2").attribute("w1", "w1 w2 w3", attributed_fn=function, method="occlusion", **QUIET)
    assert compared.scores(found).abs().max() > 0
