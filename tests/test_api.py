"""The facade: what is attributed is what was generated or given, and bad input is named before anything runs."""

from __future__ import annotations

import re
from typing import Any

import pytest
import reference as ref
import torch
import zoo
from harness import relative
from reference import Case
from transformers import StoppingCriteria, StoppingCriteriaList

import inseq
from inseq.errors import ArgumentError
from inseq.models import generation

QUIET: dict[str, Any] = {"show_progress": False}
SHORT: dict[str, Any] = {"generation_args": {"max_new_tokens": 5}, **QUIET}


@pytest.fixture(scope="module")
def gpt2() -> inseq.AttributionModel:
    return inseq.load_model(zoo.build("gpt2", "sdpa"), tokenizer=zoo.tokenizer("words"))


@pytest.fixture(scope="module")
def marian() -> inseq.AttributionModel:
    return inseq.load_model(zoo.build("marian", "sdpa"), tokenizer=zoo.tokenizer("words_eos"))


@pytest.fixture(scope="module")
def bytes_model() -> inseq.AttributionModel:
    return inseq.load_model(zoo.build("gpt2", vocab=zoo.BYTES_VOCAB), tokenizer=zoo.tokenizer("bytes"))


def ids(tokens: list[Any]) -> list[int]:
    return [token.id for token in tokens]


@pytest.mark.parametrize("text", ["我喜歡", "Hello world", "🙂🙂 a<|endoftext|>b"])
def test_the_generated_ids_themselves_are_attributed(bytes_model: inseq.AttributionModel, text: str) -> None:
    """A random byte-level model writes bytes that are no characters: as text they would come back as other tokens."""
    (found,) = bytes_model.attribute(text, step_scores=["probability"], **SHORT)
    prompt = torch.tensor([bytes_model.tokenizer(text)["input_ids"]])
    everything = torch.ones_like(prompt)
    written = bytes_model.model.generate(prompt, attention_mask=everything, max_new_tokens=5, pad_token_id=0)[0]
    assert ids(found.target) == written.tolist()
    assert ids(found.source) == prompt[0].tolist()
    case = Case(bytes_model.model, None, written, prompt.shape[1])
    assert relative(found.step_scores["probability"], ref.step_scores(case, ref.probability)) < 1e-5


def test_shapes_of_a_decoder_only_output(gpt2: inseq.AttributionModel) -> None:
    (found,) = gpt2.attribute("w1 w2 w3", **SHORT)
    n, dim = len(found.target), 32
    assert (found.attr_pos_start, found.attr_pos_end) == (3, n)
    assert found.source_attributions is None
    assert found.target_attributions.shape == (n, n - 3, dim)
    for step in range(n - 3):
        assert not found.target_attributions[: 3 + step, step].isnan().any()
        assert found.target_attributions[3 + step :, step].isnan().all()


@pytest.mark.parametrize("attribute_target", [False, True])
def test_shapes_of_an_encoder_decoder_output(marian: inseq.AttributionModel, attribute_target: bool) -> None:
    (found,) = marian.attribute("w1 w2 w3", attribute_target=attribute_target, **SHORT)
    n = len(found.target)
    assert ids(found.source) == [5, 6, 7, zoo.EOS]
    assert found.target[0].id == zoo.ZOO["marian"].start
    assert (found.attr_pos_start, found.attr_pos_end) == (1, n)
    assert found.source_attributions.shape == (4, n - 1, 32)
    if not attribute_target:
        assert found.target_attributions is None
    else:
        assert found.target_attributions.shape == (n, n - 1, 32)
        assert found.target_attributions[-1].isnan().all()


def test_attention_keeps_layers_heads_and_the_encoder_s_own(marian: inseq.AttributionModel) -> None:
    (found,) = marian.attribute("w1 w2 w3", method="attention", attribute_target=True, **SHORT)
    steps = len(found.target) - 1
    assert found.source_attributions.shape == (4, steps, 2, 4)
    assert found.sequence_scores["encoder_self_attentions"].shape == (4, 4, 2, 4)
    aggregated = found.aggregate()
    total = aggregated.source_attributions.nansum(0) + aggregated.target_attributions.nansum(0)
    torch.testing.assert_close(total, torch.ones(steps))


@pytest.mark.parametrize("method", ["saliency", "attention", "input_x_gradient"])
def test_granular_decides_what_is_kept_and_not_what_is_shown(marian: inseq.AttributionModel, method: str) -> None:
    kept, reduced = (marian.attribute("w1 w2 w3", method=method, granular=g, **SHORT)[0] for g in (True, False))
    assert kept.source_attributions.ndim > 2
    assert reduced.source_attributions.ndim == 2
    assert relative(reduced.aggregate().source_attributions, kept.aggregate().source_attributions) < 1e-5
    assert reduced.aggregate().signed == kept.aggregate().signed


def test_scores_are_reduced_beyond_the_budget(gpt2: inseq.AttributionModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inseq.call.memory.GRANULAR_ENTRIES", 10)
    found = gpt2.attribute("w1 w2 w3", **SHORT)
    assert found[0].target_attributions.ndim == 2
    assert found.info["granular"] is False


@pytest.mark.parametrize("name", ["gpt2", "marian"])
def test_a_window_is_the_same_columns(name: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(name)
    whole = model.attribute("w1 w2 w3", step_scores=["entropy"], attribute_target=True, **SHORT)[0]
    start, end = whole.attr_pos_start, whole.attr_pos_end
    for a, b, args in [
        (start + 1, end - 1, {"attr_pos_start": start + 1, "attr_pos_end": -1}),
        (end - 2, end, {"attr_pos_start": -2}),
    ]:
        part = model.attribute("w1 w2 w3", step_scores=["entropy"], attribute_target=True, **args, **SHORT)[0]
        assert [t.token for t in part.generated] == [t.token for t in whole.target[a:b]]
        assert relative(part.step_scores["entropy"], whole.step_scores["entropy"][a - start : b - start]) < 1e-5
        columns = whole.target_attributions[:b, a - start : b - start].nan_to_num()
        assert relative(part.target_attributions.nan_to_num(), columns) < 1e-5


@pytest.mark.parametrize("name", ["gpt2", "marian"])
def test_texts_of_unequal_length_are_as_if_alone(name: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(name)
    texts = ["w1 w2 w3 w9 w8", "w4", "w5 w6"]
    together = model.attribute(texts, step_scores=["probability"], **SHORT)
    again = model.attribute(texts, step_scores=["probability"], batch_size=1, **SHORT)
    for text, batched, single in zip(texts, together, again, strict=True):
        (alone,) = model.attribute(text, step_scores=["probability"], **SHORT)
        assert alone == batched == single


def test_forced_outputs(gpt2: inseq.AttributionModel, marian: inseq.AttributionModel) -> None:
    (found,) = gpt2.attribute("w1 w2", "w1 w2 w3 w4", **QUIET)
    assert (ids(found.target), found.attr_pos_start) == ([5, 6, 7, 8], 2)
    (found,) = marian.attribute("w1 w2", "w3 w4", **QUIET)
    assert ids(found.target) == [zoo.ZOO["marian"].start, 7, 8, zoo.EOS]
    assert found.info["constrained_decoding"] is True


def test_a_tokenizer_that_adds_bos_is_simply_right() -> None:
    model = inseq.load_model(zoo.build("llama"), tokenizer=zoo.tokenizer("words_bos"))
    (found,) = model.attribute("w1 w2", **SHORT)
    assert ids(found.source) == [zoo.BOS, 5, 6]
    assert ids(found.target)[:3] == ids(found.source)
    (forced,) = model.attribute("w1 w2", "w1 w2 w3", **QUIET)
    assert ids(forced.target) == [zoo.BOS, 5, 6, 7]


def test_padding_that_is_also_the_end_drops_no_token(bytes_model: inseq.AttributionModel) -> None:
    text = "a<|endoftext|>b<|endoftext|>"
    (found,) = bytes_model.attribute(text, text + "c<|endoftext|>", **QUIET)
    assert [t.token for t in found.target].count("<|endoftext|>") == 3
    assert len(found.target) == found.target_attributions.shape[0] == 6


def test_generation_stops_at_the_end_token(bytes_model: inseq.AttributionModel) -> None:
    """Rows that end early are padded with the end token by transformers: one of it is what the model wrote."""
    prompts = [[5, 6, 7], [8, 9, 10]]
    eos = bytes_model.model.generate(torch.tensor(prompts[:1]), max_new_tokens=3, pad_token_id=0)[0, 4].item()
    outputs = generation.generate(bytes_model.adapter, prompts, {"max_new_tokens": 8, "eos_token_id": eos})
    assert outputs[0][-1] == eos
    assert outputs[0].count(eos) == 1
    assert len(outputs[0]) <= 5


def test_generation_ends_where_the_positions_do(gpt2: inseq.AttributionModel) -> None:
    """Where nobody asked for a length, the model's own (64 new tokens) would go beyond its 256 positions."""
    model = inseq.load_model("demo/gpt2", device="cpu")
    (found,) = model.attribute("Hello world " * 100, method="dummy", **QUIET)
    assert 200 < found.attr_pos_start < len(found.target) <= 256
    with pytest.raises(ArgumentError, match=r"needs 65 positions .* has 64. .* lower max_new_tokens"):
        gpt2.attribute(" ".join(["w1"] * 64), **QUIET)


def test_what_transformers_refuses_in_generation_is_named(gpt2: inseq.AttributionModel) -> None:
    with pytest.raises(ArgumentError, match=r"generation_args were refused by transformers: .*max_newtokens"):
        gpt2.attribute("w1", generation_args={"max_newtokens": 3}, **QUIET)


def test_a_tokenizer_of_another_model() -> None:
    model = inseq.load_model(zoo.build("gpt2"), tokenizer=zoo.tokenizer("bytes"))
    with pytest.raises(ArgumentError, match=r"has the id \d+, and GPT2LMHeadModel has embeddings for 97: the tokenizer"):
        model.attribute("我喜歡", **SHORT)


def test_step_scores_of_one_s_own(gpt2: inseq.AttributionModel) -> None:
    def doubled(p: Any) -> Any:
        return 2 * p.logits.gather(-1, p.ids[:, None])[:, 0]

    (found,) = gpt2.attribute("w1 w2", step_scores=[doubled, "logit"], **SHORT)
    assert torch.allclose(found.step_scores["doubled"], 2 * found.step_scores["logit"])


def test_a_row_that_stops_by_itself_gets_no_padding(bytes_model: inseq.AttributionModel) -> None:
    """transformers pads a row that a criterion ended, while others of its batch go on."""

    class StopsTheFirst(StoppingCriteria):
        def __call__(self, ids: torch.Tensor, scores: Any, **kwargs: Any) -> Any:
            return torch.tensor([row[0].item() == first and len(row) >= 5 for row in ids])

    texts = ["abc", "xyz"]
    first = bytes_model.tokenizer(texts[0])["input_ids"][0]
    arguments = {"generation_args": {"max_new_tokens": 6, "stopping_criteria": StoppingCriteriaList([StopsTheFirst()])}}
    together = bytes_model.attribute(texts, **arguments, **QUIET)
    assert [len(found.target) for found in together] == [5, 9]
    assert ids(together[0].target) == ids(bytes_model.attribute(texts[0], **arguments, **QUIET)[0].target)


def test_the_facts_of_a_sequence_are_its_own(gpt2: inseq.AttributionModel) -> None:
    """Else a file of n texts would hold n times n."""
    found = gpt2.attribute(["w1 w2", "w3"], **SHORT)
    assert found.info["input_texts"] == ["w1 w2", "w3"]
    assert [sequence.info["input_texts"] for sequence in found] == [["w1 w2"], ["w3"]]
    assert [[t] for t in found.info["generated_texts"]] == [sequence.info["generated_texts"] for sequence in found]


def test_paths_that_cannot_be_written(gpt2: inseq.AttributionModel, tmp_path: Any) -> None:
    found = gpt2.attribute("w1 w2", **SHORT)
    for write in (found.save, found.save_html):
        with pytest.raises(ArgumentError, match=r"Cannot write '.*nowhere.*': No such file or directory. Choose a path"):
            write(tmp_path / "nowhere" / "result")
    assert list(tmp_path.iterdir()) == []


def test_a_target_of_one_s_own(gpt2: inseq.AttributionModel) -> None:
    def doubled(p: Any, *, factor: float = 2.0) -> Any:
        return factor * p.logits.gather(-1, p.ids[:, None])[:, 0]

    own = gpt2.attribute("w1 w2", attributed_fn=doubled, factor=3.0, **SHORT)[0]
    logit = gpt2.attribute("w1 w2", attributed_fn="logit", **SHORT)[0]
    assert relative(own.target_attributions.nan_to_num(), 3 * logit.target_attributions.nan_to_num()) < 1e-5


def test_options_reach_method_target_and_step_score(gpt2: inseq.AttributionModel) -> None:
    found = gpt2.attribute("w1 w2", method="integrated_gradients", n_steps=3, logprob=True, step_scores="probability", **SHORT)
    assert found.info["options"]["n_steps"] == 3
    assert (found[0].step_scores["probability"] <= 0).all()
    assert found[0].diagnostics["delta"].shape == found[0].step_scores["probability"].shape


def test_options_given_at_load(gpt2: inseq.AttributionModel) -> None:
    model = inseq.load_model(gpt2.model, "integrated_gradients", tokenizer=gpt2.tokenizer, n_steps=4)
    assert model.attribute("w1 w2", **SHORT).info["options"]["n_steps"] == 4
    assert "n_steps" not in model.attribute("w1 w2", method="saliency", **SHORT).info["options"]


@pytest.mark.parametrize("baseline", ["unk", "pad", "zero", "mean", "w7", 9, torch.zeros(32)])
@pytest.mark.parametrize("name", ["gpt2", "marian"])
def test_baselines(name: str, baseline: Any, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(name)
    found = model.attribute(
        "w1 w2", method="integrated_gradients", attributed_fn="logit", baseline=baseline, n_steps=40, **SHORT
    )
    assert found[0].diagnostics["delta"].abs().max() < 0.05


def test_info_says_what_was_done(gpt2: inseq.AttributionModel) -> None:
    info = gpt2.attribute("w1 w2", step_scores=["entropy"], **SHORT).info
    assert info["attribution_method"] == "saliency"
    assert info["attributed_fn"] == "probability"
    assert info["step_scores"] == ["entropy"]
    assert info["counters"]["forwards"] == 1
    assert info["dtype"] == "float32"
    assert {"inseq", "torch", "transformers"} == set(info["versions"])


def test_options_are_recorded_shortly(gpt2: inseq.AttributionModel) -> None:
    block = gpt2.model.transformer.h[0]
    found = gpt2.attribute("w1 w2", method="layer_deeplift", target_layer=[block, "transformer.h.1"], **SHORT)
    assert found.info["options"]["target_layer"] == ["GPT2Block", "transformer.h.1"]
    found = gpt2.attribute("w1 w2", method="occlusion", baseline=torch.zeros(32), **SHORT)
    assert found.info["options"]["baseline"] == "tensor of shape (32,)"
    found = gpt2.attribute("w1 w2", method="lime", seed=5, n_samples=8, **SHORT)
    assert found.info["options"]["seed"] == 5
    assert gpt2.attribute("w1 w2", method="lime", n_samples=8, **SHORT).info["options"]["seed"] == 0


def test_the_result_survives_a_file(gpt2: inseq.AttributionModel, tmp_path: Any) -> None:
    found = gpt2.attribute(["w1 w2", "w3"], step_scores=["entropy"], **SHORT)
    found.save(tmp_path / "result.json")
    again = inseq.FeatureAttributionOutput.load(tmp_path / "result.json")
    assert again == found
    assert again.info["model_class"] == "GPT2LMHeadModel"
    assert again.aggregate() == found.aggregate()


def test_listings_are_in_order() -> None:
    assert inseq.list_feature_attribution_methods() == sorted(inseq.list_feature_attribution_methods())
    assert "probability" in inseq.list_step_functions()


def test_repr_and_generate(gpt2: inseq.AttributionModel) -> None:
    assert repr(gpt2) == "AttributionModel(GPT2LMHeadModel, method='saliency', device='cpu')"
    (text,) = gpt2.generate("w1 w2", max_new_tokens=3)
    assert re.fullmatch(r"(w\d+ ?)*", text)
