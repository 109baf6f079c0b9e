"""The most probable tokens at each explained place: against plain forwards, what they cost, and the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
from command import succeed
from compared import load as tiny
from test_engine import Bidirectional

import inseq
from inseq.dataset.attribute import load_run
from inseq.engine.scores.head import LinearHead
from inseq.errors import ArgumentError
from inseq.outputs.output import FeatureAttributionOutput
from inseq.outputs.sequence import FeatureAttributionSequenceOutput

QUIET: dict[str, Any] = {"show_progress": False}
TOLERANCE = 1e-5
DEMOS = {
    "demo/zh-en": (["他喜歡貓。", "我喜歡機器學習和人工智慧。"], ["He likes cats.", "I like dogs."]),
    "demo/gpt2": (["Anna gave the red ball to", "Hello"], ["Anna gave the red ball to Tom.", "Hello world!"]),
}
TINY = {
    "gpt2": (["w1 w2 w8", "w3"], ["w1 w2 w8 w3 w4 w5", "w3 w9 w10"]),
    "gemma2": (["w1 w2 w8", "w3"], ["w1 w2 w8 w3 w4 w5", "w3 w9 w10"]),
    "marian": (["w1 w2 w8", "w3"], ["w3 w4 w5", "w9 w10"]),
    "t5": (["w1 w2 w8", "w3"], ["w3 w4 w5", "w9 w10"]),
}
TEXTS = DEMOS | TINY
LOADED: dict[str, inseq.AttributionModel] = {}


def load(name: str) -> inseq.AttributionModel:
    if name not in LOADED:
        LOADED[name] = inseq.load_model(name, "saliency") if name in DEMOS else tiny(name)
    return LOADED[name]


def plain(model: inseq.AttributionModel, out: FeatureAttributionSequenceOutput, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities and ids by one public forward of the model on ids, for each explained token."""
    target = torch.tensor([[token.id for token in out.target]])
    inputs: dict[str, Any] = {"input_ids": target}
    if model.is_encoder_decoder:
        inputs = {"input_ids": torch.tensor([[token.id for token in out.source]]), "decoder_input_ids": target}
    with torch.no_grad():
        logits = model.model(**inputs).logits[0]
    found = logits[[end - 2 for _, end in out.positions]].softmax(-1).topk(k)
    return found.values, found.indices


def agree(model: inseq.AttributionModel, out: FeatureAttributionSequenceOutput, k: int) -> None:
    values, ids = plain(model, out, k)
    assert [[each.token.id for each in step] for step in out.alternatives] == ids.tolist()
    got = torch.tensor([[each.probability for each in step] for step in out.alternatives])
    torch.testing.assert_close(got, values, atol=TOLERANCE, rtol=TOLERANCE)


def probabilities(out: FeatureAttributionSequenceOutput) -> torch.Tensor:
    return torch.tensor([[each.probability for each in step] for step in out.alternatives])


def same(a: FeatureAttributionSequenceOutput, b: FeatureAttributionSequenceOutput) -> None:
    assert [[x.token for x in step] for step in a.alternatives] == [[x.token for x in step] for step in b.alternatives]
    torch.testing.assert_close(probabilities(a), probabilities(b), atol=1e-6, rtol=1e-5)


# ----------------------------------------------------------------------------- what is recorded


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("forced", [True, False])
def test_they_are_the_top_of_a_plain_forward_s_softmax(name: str, forced: bool) -> None:
    model, (texts, written) = load(name), TEXTS[name]
    generation = None if forced else {"max_new_tokens": 4}
    out = model.attribute(texts, written if forced else None, alternatives=5, generation_args=generation, **QUIET)
    for sequence in out:
        agree(model, sequence, 5)
        assert len(sequence.alternatives) == len(sequence.generated)


@pytest.mark.parametrize("method", ["integrated_gradients", "deeplift", "attention", "value_zeroing", "occlusion", "lime"])
@pytest.mark.parametrize("name", ["gpt2", "marian"])
def test_every_method_has_them(name: str, method: str) -> None:
    model, (texts, written) = load(name), TEXTS[name]
    for sequence in model.attribute(texts, written, method, alternatives=3, **QUIET):
        agree(model, sequence, 3)


def odds(args: Any) -> torch.Tensor:
    """In Inseq's form: it is run step by step."""
    p = args.forward_output.logits[:, -1].softmax(-1).gather(-1, args.target_ids.reshape(-1, 1))[:, 0]
    return p / (1 - p)


@pytest.mark.parametrize(
    "target", ["entropy", "rank", "mc_dropout_prob_avg", odds], ids=lambda target: getattr(target, "__name__", target)
)
def test_every_target_leaves_them_as_they_are(target: Any) -> None:
    """Also those that want all logits, are run with dropout, or see each step by itself."""
    model, (texts, written) = load("gpt2"), TEXTS["gpt2"]
    for sequence in model.attribute(texts, written, "occlusion", attributed_fn=target, alternatives=4, **QUIET):
        agree(model, sequence, 4)


def test_a_model_that_is_not_causal_has_those_of_each_prefix() -> None:
    twin = zoo.build("llama")
    made = Bidirectional(twin.config)
    made.load_state_dict(twin.state_dict())
    model = inseq.load_model(made.eval(), tokenizer=zoo.tokenizer("words"))
    (out,) = model.attribute("w1 w2", "w1 w2 w3 w4", alternatives=2, **QUIET)
    ids = [token.id for token in out.target]
    for (start, _), step in zip(out.positions, out.alternatives, strict=True):
        with torch.no_grad():
            expected = made(input_ids=torch.tensor([ids[:start]])).logits[0, -1].softmax(-1).topk(2)
        assert [each.token.id for each in step] == expected.indices.tolist()
        assert [each.probability for each in step] == pytest.approx(expected.values.tolist(), abs=TOLERANCE)


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("method", ["saliency", "attention"])
def test_a_batch_changes_nothing(name: str, method: str) -> None:
    model, (texts, written) = load(name), TEXTS[name]
    together = model.attribute(texts, written, method, alternatives=3, **QUIET)
    for text, target, sequence in zip(texts, written, together, strict=True):
        same(sequence, model.attribute(text, target, method, alternatives=3, **QUIET)[0])


def test_positions_have_their_own() -> None:
    model, (texts, written) = load("gpt2"), TEXTS["gpt2"]
    whole = model.attribute(texts[0], written[0], alternatives=2, **QUIET)[0]
    some = model.attribute(texts[0], written[0], positions=[3, -1], alternatives=2, **QUIET)[0]
    assert [a.token for step in some.alternatives for a in step] == [
        a.token for step in (whole.alternatives[0], whole.alternatives[-1]) for a in step
    ]
    agree(model, some, 2)


def test_a_span_of_several_tokens_has_none() -> None:
    model, (texts, written) = load("gpt2"), TEXTS["gpt2"]
    whole = model.attribute(texts[0], written[0], alternatives=2, **QUIET)[0]
    out = model.attribute(texts[0], written[0], target_spans=[(3, 5), (5, 6)], alternatives=2, **QUIET)[0]
    assert out.alternatives[0] == ()
    assert [a.token for a in out.alternatives[1]] == [a.token for a in whole.alternatives[2]]


def test_the_written_token_stands_where_it_ranks() -> None:
    (out,) = load("demo/gpt2").attribute(
        "Hello", "Hello world!", alternatives=896, step_scores=["probability", "rank"], **QUIET
    )
    for i, (token, step) in enumerate(zip(out.generated, out.alternatives, strict=True)):
        rank = int(out.step_scores["rank"][i])
        assert step[rank - 1].token.id == token.id
        assert step[rank - 1].probability == pytest.approx(float(out.step_scores["probability"][i]), abs=TOLERANCE)
        assert sum(each.probability for each in step) == pytest.approx(1, abs=1e-4)


def test_they_are_float32_and_read_as_text() -> None:
    (out,) = load("demo/zh-en").attribute("他喜歡貓。", "He likes cats.", alternatives=3, **QUIET)
    first = out.alternatives[0][0]
    assert (first.token.token, first.token.shown, first.token.role) == ("▁He", " He", "generated")
    assert first.probability == float(torch.tensor(first.probability, dtype=torch.float32))
    half = inseq.load_model(zoo.build("gpt2", dtype=torch.bfloat16), tokenizer=zoo.tokenizer("words"))
    (out,) = half.attribute("w1 w2", "w1 w2 w3", alternatives=3, **QUIET)
    torch.testing.assert_close(probabilities(out), plain(half, out, 3)[0].float(), atol=2e-2, rtol=5e-2)


def test_an_id_beyond_the_tokenizer_is_shown_as_it_is() -> None:
    model = inseq.load_model(zoo.build("gpt2", vocab=120), tokenizer=zoo.tokenizer("words"))
    (out,) = model.attribute("w1 w2", "w1 w2 w3", alternatives=120, **QUIET)
    beyond = [each.token for each in out.alternatives[0] if each.token.id >= len(model.tokenizer)]
    assert len(beyond) == 120 - len(model.tokenizer) > 0
    assert all(token.shown == f"<{token.id}>" for token in beyond)


def test_none_are_recorded_unless_they_are_asked_for() -> None:
    (out,) = load("gpt2").attribute("w1", "w1 w2", **QUIET)
    assert out.alternatives == ()
    assert out.to_dict()["alternatives"] == []


# ----------------------------------------------------------------------------- what it costs


@pytest.mark.parametrize("name", ["gpt2", "marian"])
@pytest.mark.parametrize(
    "method", ["saliency", "integrated_gradients", "occlusion", "attention", "value_zeroing", "shapley_sampling"]
)
def test_no_forward_is_added_where_one_holds_the_text_itself(name: str, method: str) -> None:
    model, (texts, written) = load(name), TEXTS[name]
    without, beside = (
        model.attribute(texts, written, method, step_scores=["entropy"], alternatives=k, **QUIET).info["counters"]
        for k in (0, 5)
    )
    alone = model.attribute(texts, written, method, alternatives=5, **QUIET).info["counters"]
    assert without == beside == alone
    if method in ("saliency", "attention"):
        assert alone["forwards"] == 1


@pytest.mark.parametrize("method", ["deeplift", "dummy"])
def test_elsewhere_they_share_the_forward_of_step_scores(method: str) -> None:
    model, (texts, written) = load("gpt2"), TEXTS["gpt2"]
    scores, both, alone = (
        model.attribute(texts, written, method, step_scores=names, alternatives=k, **QUIET).info["counters"]
        for names, k in ((["entropy"], 0), (["entropy"], 5), ([], 5))
    )
    assert scores == both == alone


def test_no_row_of_logits_stands_where_the_head_is_a_plain_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> torch.Tensor:
        raise AssertionError("all logits were made")

    model, (texts, written) = load("gpt2"), TEXTS["gpt2"]
    model.attribute(texts, written, "occlusion", **QUIET)
    monkeypatch.setattr(LinearHead, "logits", refuse)
    model.attribute(texts, written, "occlusion", alternatives=3, **QUIET)
    with pytest.raises(AssertionError, match="all logits"):
        model.attribute(texts, written, "occlusion", step_scores=["entropy"], **QUIET)


# ----------------------------------------------------------------------------- errors


@pytest.mark.parametrize("given", [-1, 2.0, "5", True, None])
def test_what_is_no_number_of_tokens_is_refused(given: Any) -> None:
    with pytest.raises(ArgumentError, match=rf"alternatives={given!r} must be a whole number: how many of the most probable"):
        load("gpt2").attribute("w1", "w1 w2", alternatives=given, **QUIET)


def test_more_than_the_vocabulary_has_are_refused() -> None:
    said = r"alternatives=98 is more than there are: the model's vocabulary has 97 tokens"
    with pytest.raises(ArgumentError, match=said):
        load("gpt2").attribute("w1", "w1 w2", alternatives=98, **QUIET)
    (out,) = load("gpt2").attribute("w1", "w1 w2", alternatives=97, **QUIET)
    assert len(out.alternatives[0]) == 97


# ----------------------------------------------------------------------------- command line


def test_the_command_line_records_them(tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("Hello\n")
    shared = ["-m", "demo/gpt2", "--alternatives", "2", "--max_new_tokens", "2"]
    one = ["attribute", *shared, "-i", "Hello", "-o", str(tmp_path / "a.json"), "--hide"]
    succeed(*one)
    many = ["attribute-dataset", *shared, "-d", str(tmp_path / "texts.txt"), "-o", str(tmp_path / "run")]
    succeed(*many)
    alone = FeatureAttributionOutput.load(tmp_path / "a.json")
    (row,) = load_run(tmp_path / "run")
    assert row.output is not None
    same(row.output[0], alone[0])
    assert [len(step) for step in alone[0].alternatives] == [2, 2]
    assert "most probable:" in succeed("show", str(tmp_path / "a.json"), "--token", "1")
