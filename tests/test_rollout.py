"""The aggregator ``rollout`` beside the method, and what it refuses."""

from __future__ import annotations

from typing import Any

import compared
import pytest
import results
import torch
from harness import relative
from rows import TOLERANCE

import inseq
from inseq.errors import ArgumentError

QUIET: dict[str, Any] = {"show_progress": False, "granular": True}
ENCODER_DECODERS = ("marian", "t5", "bart")
DECODERS = ("gpt2", "llama", "bloom")


@pytest.mark.parametrize("name", ENCODER_DECODERS)
def test_it_is_the_method_of_that_name(name: str) -> None:
    model, arguments = compared.load(name), {"attribute_target": True, **QUIET}
    texts = (["w1 w2 w8", "w3"], ["w3 w4 w5", "w6 w7"])
    found = model.attribute(*texts, method="attention", **arguments).aggregate("rollout")
    method = model.attribute(*texts, method="attention_rollout", **arguments)
    for one, other in zip(found, method, strict=True):
        assert relative(compared.scores(one), compared.scores(other)) < TOLERANCE
        assert one.target_attributions is not None
        assert other.target_attributions is not None
        assert torch.equal(one.target_attributions.isnan(), other.target_attributions.isnan())
        assert one.aggregate() == one
        assert one.reduced[-1] == "rollout over layer and head"


@pytest.mark.parametrize("name", DECODERS)
def test_a_prompt_of_one_token_hides_nothing(name: str) -> None:
    model, texts = compared.load(name), ("w1", "w1 w2 w3 w4")
    (found,) = model.attribute(*texts, method="attention", **QUIET).aggregate("rollout")
    (method,) = model.attribute(*texts, method="attention_rollout", **QUIET)
    assert relative(compared.scores(found), compared.scores(method)) < TOLERANCE


def test_it_may_be_a_stage() -> None:
    model = compared.load("marian")
    (found,) = model.attribute("w1 w2", "w3 w4", method="attention", attribute_target=True, **QUIET)
    merged = found.aggregate(["rollout", "spans"], source_spans=[(0, 2)])
    assert merged.source_attributions is not None
    assert merged.source_attributions.shape == (2, 3)


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "prompt": ("gpt2", {}, r"explained tokens alone, \[\(2, 3\), \(3, 4\)\], not of what stands before"),
    "mean": ("gpt2", {"granular": False}, r"every layer and head \(axes \(\)\)"),
    "layers": ("gpt2", {"layers": [0]}, r"every layer and head \(layers chosen\)"),
    "another method": ("gpt2", {"method": "saliency"}, "axes \\('dim',\\)"),
    "source alone": ("marian", {}, "pass attribute_target=True"),
    "a window": ("marian", {"attribute_target": True, "attr_pos_start": 2}, "not of what stands before"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_suffice_is_refused(case: str) -> None:
    name, options, message = REFUSED[case]
    texts = ("w1 w2", "w3 w4") if name == "marian" else ("w1 w2", "w1 w2 w3 w4")
    found = compared.load(name).attribute(*texts, **{"method": "attention", **QUIET, **options})
    with pytest.raises(ArgumentError, match=f"{message}.*method='attention_rollout'"):
        found.aggregate("rollout")


def test_what_is_missing_in_a_file_is_refused() -> None:
    weights = torch.full((3, 2, 1, 1), 1 / 3)
    own = torch.full((3, 2, 1, 1), 0.5)
    axes = ("layer", "head")
    bare = results.translation(weights, target_attributions=own, axes=axes)
    with pytest.raises(ArgumentError, match=r"sequence_scores\['encoder_self_attentions'\], is not in this output"):
        bare.aggregate("rollout")
    matrix = torch.tensor([[0.9, 0.9, 0.9], [0.1, 0.0, 0.1], [0.0, 0.1, 0.0]])[..., None, None]
    right = results.translation(
        weights, target_attributions=own / 2, axes=axes, sequence_scores={"encoder_self_attentions": matrix}
    )
    assert right.aggregate("rollout").axes == ()
    right.sequence_scores["encoder_self_attentions"] = matrix.transpose(0, 1)
    with pytest.raises(ArgumentError, match="encoder_self_attentions are no attention weights"):
        right.aggregate("rollout")


def test_it_is_listed_and_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert "rollout" in inseq.list_aggregators()
    inseq.explain("rollout")
    assert "attention_rollout" in capsys.readouterr().out
