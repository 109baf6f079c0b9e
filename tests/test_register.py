"""Step functions, methods and aggregators that users register."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import compared
import pytest
import torch
from compared import QUIET
from test_compat import old_entropy, old_logit, old_top_p_size
from torch import Tensor

import inseq
from inseq.errors import ArgumentError, UnknownArgumentError, UnknownNameError
from inseq.methods import Attribution
from inseq.targets import step_function


def test_ours_by_name_and_by_decorator(registered: Callable[..., str]) -> None:
    model = compared.load("gpt2")

    def doubled(p: inseq.Prediction, factor: float = 2.0) -> Tensor:
        return factor * p.logits.gather(-1, p.ids[:, None])[:, 0]

    name = registered(doubled, aggregate_map={"spans": "prod"})
    assert step_function[name].facts["merge"] == "prod"
    assert step_function[registered(doubled, "test_other")].facts["merge"] == "absmax"
    (found,) = model.attribute("w1", "w1 w2 w3", step_scores=[name, "logit"], factor=3.0, **QUIET)
    torch.testing.assert_close(found.step_scores[name], 3 * found.step_scores["logit"])
    assert name in inseq.list_step_functions()

    @inseq.step_function("test_third", merge="sum")
    def third(p: inseq.Prediction) -> Tensor:
        assert p.contrast is not None
        return p.contrast.logits.gather(-1, p.contrast.ids[:, None])[:, 0]

    arguments: dict[str, Any] = {"contrast_targets": "w1 w4 w3", "step_scores": ["test_third", "contrast_logits"], **QUIET}
    (found,) = model.attribute("w1", "w1 w2 w3", attributed_fn="test_third", **arguments)
    torch.testing.assert_close(found.step_scores["test_third"], found.step_scores["contrast_logits"])


def test_registering_is_careful(registered: Callable[..., str]) -> None:
    registered(old_logit)
    with pytest.raises(ArgumentError, match="'test_function' exists: choose another identifier, or pass overwrite=True"):
        registered(old_entropy)
    registered(old_entropy, overwrite=True)
    assert step_function["test_function"].function.function is old_entropy
    with pytest.raises(UnknownNameError, match=r"Unknown aggregation function 'product'.*Known: .*prod"):
        registered(old_logit, "test_a", aggregate_map={"spans": "product"})
    with pytest.raises(ArgumentError, match=r"the aggregator 'span'. Did you mean 'spans'"):
        registered(old_logit, "test_a", aggregate_map={"span": "prod"})
    with pytest.raises(ArgumentError, match=r"aggregate_map must be a mapping .*, got str"):
        registered(old_logit, "test_a", aggregate_map="prod")
    with pytest.raises(ArgumentError, match="fn must be a function, got int"):
        registered(3, "test_a")
    with pytest.raises(ArgumentError, match="identifier must be a name, got 3"):
        inseq.register_step_function(old_logit, 3)  # type: ignore[arg-type]
    assert "test_a" not in step_function
    with pytest.raises(ValueError, match="already registered"):
        inseq.step_function("test_function")(old_logit)


def test_options_of_old_functions_are_routed_and_required(registered: Callable[..., str]) -> None:
    model = compared.load("gpt2")
    name = registered(old_top_p_size)
    with pytest.raises(ArgumentError, match="Step function 'test_function' needs top_p="):
        model.attribute("w1", "w1 w2", step_scores=[name], **QUIET)
    with pytest.raises(UnknownArgumentError, match=r"'top_q'. Did you mean 'top_p'"):
        model.attribute("w1", "w1 w2", step_scores=[name], top_q=0.5, **QUIET)


def test_methods_and_aggregators_of_one_s_own(registered: Any) -> None:
    gpt2 = compared.load("gpt2")

    @inseq.method("spread", signed=False)
    async def spread(x: Any, *, factor: float = 1.0) -> Attribution:
        """Every token that was read, alike."""
        return Attribution(factor * x.seen.float())

    @inseq.aggregator("first")
    def first(output: Any, *, n: int = 1) -> Any:
        """The first rows alone."""
        rows = output.target_attributions.clone()
        rows[n:] = 0
        return replace(output, target_attributions=rows)

    found = gpt2.attribute("w1 w2 w3", method="spread", factor=2.0, generation_args={"max_new_tokens": 3}, **QUIET)
    assert (found[0].target_attributions.nan_to_num(2.0) == 2).all()
    assert "spread" in inseq.list_feature_attribution_methods()
    assert found.aggregate("first", n=2)[0].target_attributions[:, 0].tolist()[:3] == [2, 2, 0]
    assert "<html" in (found.show(aggregator="first", n=1, display=False, return_html=True) or "")
    with pytest.raises(UnknownArgumentError, match=r"'m'.*first takes n"):
        found.aggregate("first", m=2)
    with pytest.raises(ArgumentError, match="aggregate_fn goes with aggregator='scores'; 'first' combines"):
        found.aggregate("first", "mean")
    inseq.aggregator("broken")(lambda output: 3)
    with pytest.raises(ArgumentError, match=r"Aggregator 'broken' returned int; expected a FeatureAttributionSequenceOutput"):
        found.aggregate("broken")


def test_what_cannot_be_registered(registered: Any) -> None:
    async def nothing(x: Any) -> Attribution:
        return Attribution(None)

    with pytest.raises(ArgumentError, match=r"method 'saliency' is already registered; choose another name"):
        inseq.method("saliency")(nothing)
    with pytest.raises(ArgumentError, match=r"A method has no fact 'sined'. Did you mean 'signed'"):
        inseq.method("nothing", sined=True)(nothing)
    with pytest.raises(ArgumentError, match="method 'plain' must be an async def that awaits requests, got function"):
        inseq.method("plain")(lambda x: None)
    with pytest.raises(ArgumentError, match=r"A method is registered under a name, as in @method\('name'\)"):
        inseq.method(nothing)
    inseq.method("nothing")(nothing)
    inseq.method("nothing", overwrite=True)(nothing)


def test_what_a_method_of_one_s_own_returns_is_checked(registered: Any) -> None:
    gpt2 = compared.load("gpt2")

    @inseq.method("nothing")
    async def nothing(x: Any) -> Any:
        return None

    @inseq.method("flat")
    async def flat(x: Any) -> Attribution:
        return Attribution(torch.zeros(1, 5))

    with pytest.raises(ArgumentError, match=r"Method 'nothing' returned NoneType; expected an inseq.methods.Attribution"):
        gpt2.attribute("w1 w2", "w1 w2 w3", method="nothing", **QUIET)
    with pytest.raises(ArgumentError, match=r"Method 'flat' returned scores of shape \(1, 5\); expected \(2, 1\)"):
        gpt2.attribute("w1 w2", "w1 w2 w3", method="flat", **QUIET)
