"""Outputs whose scores become arrays and tensors again, in place; what a call returns beside scores."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import results
import torch
import zoo

import inseq
from inseq.errors import ArgumentError
from inseq.outputs.output import FeatureAttributionOutput
from inseq.outputs.sequence import FeatureAttributionSequenceOutput

QUIET: dict[str, Any] = {"show_progress": False}


@pytest.fixture(scope="module")
def gpt2() -> inseq.AttributionModel:
    return inseq.load_model(zoo.build("gpt2"), "saliency", tokenizer=zoo.tokenizer("words"))


@pytest.fixture(scope="module")
def marian() -> inseq.AttributionModel:
    return inseq.load_model(zoo.build("marian"), "attention", tokenizer=zoo.tokenizer("words_eos"))


@pytest.fixture
def found(marian: inseq.AttributionModel) -> FeatureAttributionOutput:
    return marian.attribute(
        ["w1 w2 w3", "w4"],
        ["w5", "w6 w7 w8"],
        attribute_target=True,
        step_scores=["probability"],
        output_step_attributions=True,
        **QUIET,
    )


def test_numpy_and_torch_convert_in_place(found: FeatureAttributionOutput) -> None:
    twin, tensors = copy.deepcopy(found), found[0].source_attributions
    assert found.numpy() is found
    assert found[0].numpy() is found[0]
    assert isinstance(found[0].source_attributions, np.ndarray)
    assert isinstance(found[0].step_scores["probability"], np.ndarray)
    assert isinstance(found[0].sequence_scores["encoder_self_attentions"], np.ndarray)
    assert found.step_attributions is not None
    assert isinstance(found.step_attributions[0].target_attributions, np.ndarray)
    assert isinstance(found.step_attributions[0].step_scores["probability"], np.ndarray)
    assert np.array_equal(found[0].source_attributions, tensors)
    assert found == twin
    assert found.torch() is found
    assert isinstance(found[0].source_attributions, torch.Tensor)
    assert torch.equal(found[0].source_attributions, tensors)
    assert isinstance(found.step_attributions[0].target_attributions, torch.Tensor)


def test_what_numpy_has_no_type_for_is_float32() -> None:
    output = results.translation()
    output.source_attributions = output.source_attributions.bfloat16().requires_grad_()
    assert output.numpy().source_attributions.dtype == np.float32


COMPUTED: dict[str, Callable[[FeatureAttributionSequenceOutput], Any]] = {
    "aggregate": lambda x: x.aggregate(),
    "a pipeline": lambda x: x.aggregate(["subwords", "scores"]),
    "slices": lambda x: x[:2],
    "difference": lambda x: x - x,
    "scores": lambda x: x.get_scores_dicts(),
    "plain scores": lambda x: x.get_scores_dicts(do_aggregation=False),
    "page": lambda x: x.show(display=False, return_html=True),
    "plain page": lambda x: x.show(do_aggregation=False, display=False, return_html=True),
    "range": lambda x: (x.minimum, x.maximum),
    "values": lambda x: x.to_dict(),
    "best": lambda x: x.top_k(1),
    "weighted": lambda x: x.clone().weight_attributions("p"),
    "moved": lambda x: x.clone().detach().to("cpu"),
}


@pytest.mark.parametrize("name", COMPUTED)
def test_an_output_with_arrays_computes_as_before(name: str) -> None:
    output = results.continuation(step_scores={"p": torch.tensor([0.5, 0.25])})
    before = COMPUTED[name](output)
    assert COMPUTED[name](output.numpy()) == before
    assert isinstance(output.target_attributions, np.ndarray), "what is computed from it leaves it as it is"


@pytest.mark.parametrize("ending", [".json", ".safetensors", ".csv"])
def test_an_output_with_arrays_is_saved_as_before(tmp_path: Path, ending: str, found: FeatureAttributionOutput) -> None:
    found.save(tmp_path / f"a{ending}")
    found.numpy().save(tmp_path / f"b{ending}")
    assert (tmp_path / f"a{ending}").read_bytes() == (tmp_path / f"b{ending}").read_bytes()


def test_an_output_says_in_a_line_what_it_is(gpt2: inseq.AttributionModel, found: FeatureAttributionOutput) -> None:
    one = gpt2.attribute("w1 w2", "w1 w2 w3", **QUIET)
    assert repr(one) == (
        "FeatureAttributionOutput(1 sequence, method 'saliency', attributed_fn 'probability', model 'GPT2LMHeadModel')"
    )
    assert repr(found) == "FeatureAttributionOutput(2 sequences, method 'attention', model 'MarianMTModel', 4 steps)"
    assert repr(FeatureAttributionOutput([])) == "FeatureAttributionOutput(0 sequences)"


def test_steps_hold_the_matrices_of_their_texts(found: FeatureAttributionOutput) -> None:
    for step in found.step_attributions or []:
        matrix = step.sequence_scores["encoder_self_attentions"]
        for i, sequence in enumerate(found):
            own = sequence.sequence_scores["encoder_self_attentions"]
            n = len(own)
            assert torch.equal(matrix[i, :n, :n], own)
            assert matrix[i, n:].isnan().all()
            assert matrix[i, :, n:].isnan().all()
    assert (found.step_attributions or [])[0].to("cpu").detach().sequence_scores.keys() == {"encoder_self_attentions"}


def test_tokens_with_ids_of_a_batch(gpt2: inseq.AttributionModel, marian: inseq.AttributionModel) -> None:
    rows = gpt2.get_token_with_ids(gpt2.encode(["w1 w2", "w3"]))
    assert [[(token.token, token.id) for token in row] for row in rows] == [[("w1", 5), ("w2", 6)], [("w3", 7)]]
    both = type("Batch", (), {"sources": marian.encode("w1"), "targets": marian.encode("w2 w3", as_targets=True)})()
    assert [str(token) for token in marian.get_token_with_ids(both)[0]] == ["<pad>", "w2", "w3", "</s>"]
    assert marian.get_token_with_ids(marian.encode("w1"))[0][0].role == "source"


def test_tokens_beside_those_of_a_contrast(gpt2: inseq.AttributionModel) -> None:
    batch = gpt2.encode("w1 w2 w3")
    (row,) = gpt2.get_token_with_ids(batch, contrast_target_tokens=[["w1", "w9", "w2", "w3"]])
    assert [(token.token, token.id) for token in row] == [("w1", 5), ("w2", 6), ("w3", 7)]
    pairs = [(0, 0), (1, 1), (2, 3)][1:]
    (row,) = gpt2.get_token_with_ids(batch, ["w1", "w9", "w2", "w3"], contrast_targets_alignments=pairs)
    assert [(token.token, token.id) for token in row] == [("w1", 5), ("w9 → w2", -1), ("w3", 7)]
    with pytest.raises(ArgumentError, match="names position 9"):
        gpt2.get_token_with_ids(batch, ["w1"], contrast_targets_alignments=[(1, 9)])


def test_generation_returns_what_transformers_returned(gpt2: inseq.AttributionModel, marian: inseq.AttributionModel) -> None:
    arguments: dict[str, Any] = {"max_new_tokens": 3, "output_scores": True}
    ((texts, output),) = gpt2.generate("w1 w2", return_generation_output=True, **arguments)
    assert texts == gpt2.generate("w1 w2", max_new_tokens=3)
    assert output.sequences[0, :2].tolist() == [5, 6]
    assert len(output.scores) == output.sequences.shape[1] - 2
    assert output.scores[0].argmax(-1)[0] == output.sequences[0, 2]
    given = ["w1 w2 w3", "w4", "w5 w6"]
    ((texts, output),) = marian.generate(given, True, max_new_tokens=3)
    assert texts == marian.generate(given, max_new_tokens=3)
    assert [marian.decode(row)[0] for row in output.sequences] == texts
    assert [len(texts) for texts, _ in marian.generate(given, True, batch_size=2, max_new_tokens=3)] == [2, 1]


def test_prompts_of_one_length_share_a_batch_in_the_order_given(gpt2: inseq.AttributionModel) -> None:
    given = ["w1 w2", "w3 w4", "w5", "w6 w7"]
    batches: Any = gpt2.generate(given, True, max_new_tokens=2)
    assert [len(texts) for texts, _ in batches] == [2, 1, 1]
    assert [text for texts, _ in batches for text in texts] == gpt2.generate(given, max_new_tokens=2)


def test_what_encode_gives_can_be_generated_from(marian: inseq.AttributionModel) -> None:
    bos = inseq.load_model(zoo.build("llama"), tokenizer=zoo.tokenizer("words_bos"))
    for model, texts in ((bos, ["w1 w2", "w3"]), (marian, ["w1 w2", "w3"])):
        assert model.generate(model.encode(texts), max_new_tokens=3) == model.generate(texts, max_new_tokens=3)
