"""Every step function, as step score and as target, against slow definitions; some on logits written by hand."""

from __future__ import annotations

from typing import Any

import compared
import numpy as np
import pytest
import reference as ref
import reference_targets as slow
import torch
from compared import COUNTS, FAMILIES, FUNCTIONS, METHODS, QUIET
from harness import relative
from rows import TOLERANCE, unknown, unknown_but_ends
from test_guest import unchanged
from torch import Tensor

from inseq.errors import ArgumentError
from inseq.requests import Prediction
from inseq.targets import step_function

LOGITS = torch.tensor([[0.5, 0.3, 0.15, 0.05], [0.05, 0.6, 0.3, 0.05]]).log()


def values(name: str, ids: list[int], **options: float) -> list[float]:
    found = step_function[name].function(Prediction(LOGITS, torch.tensor(ids)), **options)
    return [round(value, 4) for value in found.tolist()]


def test_rank() -> None:
    assert values("rank", [0, 1]) == [1, 1]
    assert values("rank", [2, 2]) == [3, 2]
    assert values("rank", [3, 0]) == [4, 3]


def test_margin() -> None:
    expected = [float(LOGITS[0, 0] - LOGITS[0, 1]), float(LOGITS[1, 2] - LOGITS[1, 1])]
    assert values("margin", [0, 2]) == pytest.approx(expected, abs=1e-4)


def test_top_p_size() -> None:
    assert values("top_p_size", [0, 0], top_p=0.45) == [1, 1]
    assert values("top_p_size", [0, 0], top_p=0.7) == [2, 2]
    assert values("top_p_size", [0, 0], top_p=0.85) == [3, 2]
    assert values("top_p_size", [0, 0]) == values("top_p_size", [0, 0], top_p=0.9)
    assert values("top_p_size", [0, 0], top_p=1.0) == [4, 4]
    with pytest.raises(ArgumentError, match=r"top_p=1.5 must be above 0 and at most 1"):
        values("top_p_size", [0, 0], top_p=1.5)


def test_every_step_function_is_here() -> None:
    assert set(FUNCTIONS) | {"mc_dropout_prob_avg"} == {name for name in step_function if not name.startswith("test_")}


def contrasting(name: str, function: str) -> dict[str, Any]:
    return {"contrast_targets": list(compared.texts(name).contrasts)} if function in slow.TWO else {}


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("name", FAMILIES)
def test_as_a_step_score_and_as_a_target_of_every_kind_of_method(name: str, function: str) -> None:
    """Two unequal texts at once, and the first alone; the contrast's prefixes differ and it has another length."""
    model, chosen = compared.load(name), compared.texts(name)
    asked = contrasting(name, function)
    way: slow.Way = "differing" if function == "kl_divergence" else "token"
    for method, (definition, options) in METHODS.items():
        if function in COUNTS and method != "occlusion":
            continue
        arguments: dict[str, Any] = {
            "method": method,
            "attributed_fn": function,
            "step_scores": [function],
            "attribute_target": True,
            **options,
            **QUIET,
        }
        found = model.attribute(chosen.inputs, chosen.outputs, **arguments, **asked)
        alone = model.attribute(
            chosen.inputs[0], chosen.outputs[0], **arguments, **{key: value[0] for key, value in asked.items()}
        )
        assert relative(compared.scores(alone[0]), compared.scores(found[0])) < TOLERANCE
        for i, (case, contrast) in enumerate(compared.cases(model, name)):
            pairs = compared.pairs(found.info["contrast"][i]["positions"]) if asked else dict.fromkeys(case.positions, 1)
            expected = slow.attribution(definition, case, contrast, pairs, FUNCTIONS[function], way)
            assert relative(compared.scores(found[i]), expected) < 10 * TOLERANCE
            if method == "saliency" or function in COUNTS:
                recorded = slow.step_scores(case, contrast, pairs, FUNCTIONS[function])
                assert relative(found[i].step_scores[function], recorded) < 5 * TOLERANCE


@pytest.mark.parametrize("name", FAMILIES)
def test_dropout_averages(name: str) -> None:
    """A mean of probabilities, each from draws of its own; without dropout it is the plain one, and the result says so."""
    model, chosen = compared.load(name), compared.texts(name)
    arguments: dict[str, Any] = {"attribute_target": True, **QUIET}
    model.attribute(chosen.inputs, chosen.outputs, method="occlusion", **arguments)
    found = model.attribute(
        chosen.inputs,
        chosen.outputs,
        attributed_fn="mc_dropout_prob_avg",
        step_scores=["mc_dropout_prob_avg", "probability"],
        n_mcd_steps=3,
        seed=7,
        **arguments,
    )
    if name == "llama":
        plain = model.attribute(chosen.inputs, chosen.outputs, **arguments)
        assert "mc_dropout_prob_avg: LlamaForCausalLM has no dropout, so it is the plain value" in found.info["notes"]
        for one, other in zip(found, plain, strict=True):
            assert torch.equal(one.step_scores["mc_dropout_prob_avg"], one.step_scores["probability"])
            assert torch.equal(compared.scores(one), compared.scores(other))
        return
    assert found.info["notes"] == []
    assert found.info["counters"]["forwards"] == 2 * 3 + 2 * 3 + 1
    nodes, weights = np.polynomial.legendre.leggauss(6)
    others = {
        method: model.attribute(
            chosen.inputs,
            chosen.outputs,
            method=method,
            attributed_fn="mc_dropout_prob_avg",
            n_mcd_steps=3,
            seed=7,
            **METHODS[method][1],
            **arguments,
        )
        for method in ("integrated_gradients", "occlusion")
    }
    for i, (case, _) in enumerate(compared.cases(model, name)):
        averages = slow.Dropout(case, 3, 7)
        assert relative(found[i].step_scores["mc_dropout_prob_avg"], averages.scores()) < 5 * TOLERANCE
        assert relative(found[i].step_scores["probability"], ref.step_scores(case, ref.probability)) < 5 * TOLERANCE
        expected = {
            "saliency": averages.saliency(),
            "integrated_gradients": averages.integrated_gradients(unknown_but_ends(case), (nodes + 1) / 2, weights / 2),
            "occlusion": averages.occlusion(unknown(case)),
        }
        for method, scores in expected.items():
            got = (others | {"saliency": found})[method][i]
            assert relative(compared.scores(got), scores) < 10 * TOLERANCE


def test_dropout_does_not_depend_on_batch_or_order_and_converges() -> None:
    model, chosen = compared.load("gpt2"), compared.texts("gpt2")

    def averages(which: list[int], n: int, seed: int = 0) -> list[Tensor]:
        inputs, outputs = [chosen.inputs[i] for i in which], [chosen.outputs[i] for i in which]
        found = model.attribute(
            inputs, outputs, method="dummy", step_scores="mc_dropout_prob_avg", n_mcd_steps=n, seed=seed, **QUIET
        )
        return [one.step_scores["mc_dropout_prob_avg"] for one in found]

    together, backwards, again = averages([0, 1], 4), averages([1, 0], 4), averages([0, 1], 4)
    assert torch.equal(together[0], backwards[1])
    assert torch.equal(together[1], averages([1], 4)[0])
    assert torch.equal(together[0], again[0])
    assert not torch.equal(together[0], averages([0], 4, seed=99)[0])
    few, many, other = (averages([0], n, seed=s)[0] for n, s in ((2, 0), (80, 0), (80, 1000)))
    assert (many - other).abs().max() < (few - other).abs().max()


@pytest.mark.parametrize("name", ["gpt2", "marian"])
def test_dropout_is_undone_after_an_error(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, chosen = compared.load(name), compared.texts(name)
    seen = []

    def fail(module: Any, *_: Any) -> None:
        seen.append(module.training)
        raise KeyboardInterrupt

    with unchanged(model.model, model.tokenizer):
        handle = model.model.get_output_embeddings().register_forward_hook(fail)
        try:
            with pytest.raises(KeyboardInterrupt):
                model.attribute(chosen.inputs, chosen.outputs, attributed_fn="mc_dropout_prob_avg", **QUIET)
        finally:
            handle.remove()
    assert seen == [True]
