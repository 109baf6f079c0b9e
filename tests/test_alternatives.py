"""The most probable tokens at each explained place: against plain forwards, through results, files and views."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
from browsing import needs_browser, open_page
from compared import load as tiny
from results import continuation, tokens, translation
from test_cli import RUN
from test_engine import Bidirectional

import inseq
from inseq.cli import app
from inseq.dataset import load_run
from inseq.errors import ArgumentError, FileFormatError
from inseq.models.head import LinearHead
from inseq.result import showing
from inseq.result.alternatives import Alternative, Alternatives
from inseq.result.output import FeatureAttributionOutput, FeatureAttributionSequenceOutput
from inseq.result.slices import dimensions
from inseq.views import html, terminal
from inseq.views.tabulate import table

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


@pytest.mark.parametrize("target", ["entropy", "rank", "mc_dropout_prob_avg", odds], ids=str)
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


# ----------------------------------------------------------------------------- results


def some(n: int, *names: str) -> Alternatives:
    """For each of ``n`` steps two tokens."""
    pairs = zip(tokens(names or (" yes", " no"), "generated"), (0.75, 0.125), strict=True)
    one = [Alternative(token, p) for token, p in pairs]
    return tuple(tuple(each.copy() for each in one) for _ in range(n))


def test_a_copy_has_tokens_of_its_own_and_edits_reach_them() -> None:
    out = translation(alternatives=some(2))
    twin = out.copy()
    assert twin == out
    twin.alternatives[0][0].token.token = "other"
    assert twin != out
    assert out.alternatives[0][0].token.token == "▁yes"
    assert translation(alternatives=some(1) + some(1, " yes", " never")) != out
    assert translation() != out


def test_probabilities_are_compared_like_scores() -> None:
    near, far = (tuple(tuple(Alternative(a.token, a.probability + d) for a in step) for step in some(2)) for d in (1e-7, 1e-3))
    assert translation(alternatives=near) == translation(alternatives=some(2))
    assert translation(alternatives=far) != translation(alternatives=some(2))


def test_clean_special_chars_and_decode_tokens_are_for_them_too() -> None:
    model = load("demo/zh-en")
    (out,) = model.attribute("他喜歡貓。", "He likes cats.", alternatives=2, clean_special_chars=True, **QUIET)
    assert out.alternatives[0][0].token.token == "He"
    (out,) = model.attribute("他喜歡貓。", "He likes cats.", alternatives=2, **QUIET)
    out.decode_tokens(model.tokenizer)
    assert out.alternatives[0][0].token.token == model.tokenizer.decode([out.alternatives[0][0].token.id])


def test_merged_columns_lose_them_and_others_keep_them() -> None:
    out = translation(torch.rand(3, 3), written=(" I", " like", " cats"), alternatives=some(3))
    merged = out.aggregate("spans", target_spans=[(2, 4)])
    assert [len(step) for step in merged.alternatives] == [2, 0]
    assert merged.alternatives[0] == out.alternatives[0]
    assert out.aggregate("spans", source_spans=[(0, 2)]).alternatives == out.alternatives
    begun = continuation(alternatives=some(2)).aggregate("spans", target_spans=[(1, 3)])
    assert [len(step) for step in begun.alternatives] == [0, 2], "its column says more than was predicted"
    assert translation().aggregate("spans", target_spans=[(1, 3)]).alternatives == ()


def test_words_lose_them_where_pieces_are_merged() -> None:
    out = translation(torch.rand(3, 3), written=(" un", "happy", " I"), alternatives=some(3))
    assert [len(step) for step in out.aggregate("words").alternatives] == [0, 2]


def test_folds_and_slices_keep_them_and_differences_do_not() -> None:
    out = translation(torch.rand(3, 2, 4), axes=("dim",), reduce_by=("vnorm",), alternatives=some(1) + some(1, " a", " b"))
    assert out.aggregate().alternatives == out.alternatives
    assert out[0:2].alternatives == out.alternatives
    assert (out - out).alternatives == ()
    assert dimensions(out, {"step": (1, 2)}).alternatives == out.alternatives[1:]


def test_numbers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ArgumentError, match="alternatives has 3 entries; expected 2, one for each explained token, or none"):
        translation(alternatives=some(3))


def test_plain_values() -> None:
    found = translation(alternatives=some(2)).to_dict()["alternatives"]
    token = {"token": "▁yes", "id": 0, "role": "generated", "text": " yes", "special": False}
    assert found[1][0] == {"token": token, "probability": 0.75}


# ----------------------------------------------------------------------------- files


@pytest.mark.parametrize("name", ["a.json", "a.json.gz", "a.safetensors"])
def test_files_hold_them(name: str, tmp_path: Path) -> None:
    (out,) = load("demo/zh-en").attribute("他喜歡貓。", "He likes cats.", alternatives=3, **QUIET)
    found = FeatureAttributionOutput([out, translation(alternatives=(some(1)[0], ())), translation()])
    found.save(tmp_path / name)
    back = FeatureAttributionOutput.load(tmp_path / name)
    assert back == found
    assert back[0].alternatives == out.alternatives, "to the last bit"
    assert [x.token.shown for x in back[0].alternatives[0]] == [x.token.shown for x in out.alternatives[0]]


@pytest.mark.parametrize("version", [1, 2])
def test_older_files_are_read_without_them(version: int, tmp_path: Path) -> None:
    out = FeatureAttributionOutput([continuation()])
    out.save(tmp_path / "a.json")
    document = json.loads((tmp_path / "a.json").read_text()) | {"version": version}
    assert "alternatives" not in document["sequences"][0]
    if version == 1:
        del document["written_by"]
    (tmp_path / "a.json").write_text(json.dumps(document))
    assert FeatureAttributionOutput.load(tmp_path / "a.json") == out


HOSTILE: list[tuple[tuple[Any, ...], Any, str]] = [
    ((), 3, "alternatives should be a list"),
    ((), [[]], "alternatives has 1 entries; expected 2"),
    ((0,), {}, r"alternatives\[0\] should be a list"),
    ((0, 0), ["x", 0.5], r"alternatives\[0\]\[0\] should be an object with the keys token, probability"),
    ((0, 0, "probability"), 1.5, r"probability should be a number from 0 to 1"),
    ((0, 0, "probability"), -0.5, r"probability should be a number from 0 to 1"),
    ((0, 0, "probability"), "0.5", r"probability should be a number"),
    ((0, 0, "probability"), True, r"probability should be a number"),
    ((0, 0, "probability"), 10**400, r"probability should be a number"),
    ((1, 0, "token"), None, r"alternatives\[1\]\[0\].token should be an object"),
    ((1, 0, "token", "id"), -5, r"alternatives\[1\]\[0\].token.id"),
    ((1, 0, "token", "role"), "owner", r"alternatives\[1\]\[0\].token.role"),
]


@pytest.mark.parametrize(("keys", "value", "said"), HOSTILE)
def test_hostile_values_are_refused(keys: tuple[Any, ...], value: Any, said: str, tmp_path: Path) -> None:
    FeatureAttributionOutput([translation(alternatives=some(2))]).save(tmp_path / "a.json")
    document = json.loads((tmp_path / "a.json").read_text())
    part, *path = document["sequences"][0], "alternatives", *keys
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    (tmp_path / "a.json").write_text(json.dumps(document))
    with pytest.raises(FileFormatError, match=said):
        FeatureAttributionOutput.load(tmp_path / "a.json")


# ----------------------------------------------------------------------------- views, command line


def test_views_show_them() -> None:
    out = load("demo/zh-en").attribute("他喜歡貓。", "He likes cats.", alternatives=3, **QUIET)
    expected = [[(a.token.shown, a.probability) for a in step] for step in out[0].alternatives]
    (made,) = showing.tables(out)
    assert [list(step) for step in made.alternatives] == expected
    page = html.page([made])
    data = json.loads(page.partition('class="data">')[2].partition("</script>")[0])
    assert [[p for _, p in step] for step in data["alternatives"]] == [[p for _, p in step] for step in expected]
    assert "likes" in data["alternatives"][1][0][0]


@needs_browser
def test_the_page_tells_them_where_a_token_is_pointed_at(browser: Any, tmp_path: Path) -> None:
    out = FeatureAttributionOutput([translation(alternatives=some(1) + some(1, "<b>x</b>", " no"))])
    opened = open_page(browser, html.page(showing.tables(out)), tmp_path)
    opened.token("output", 0).hover()
    assert "most probable: yes 0.75, no 0.125" in " ".join(opened.told().split())
    opened.token("output", 1).hover()
    assert "most probable: <b>x</b> 0.75" in " ".join(opened.told().split())
    assert not opened.problems


def test_a_merged_column_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    out = translation(torch.rand(3, 3), written=(" un", "happy", " I"), alternatives=some(3)).aggregate("words")
    terminal.render([table(out)], token=1)
    terminal.render([table(out)], token=2)
    first, second = capsys.readouterr().out.split("explained token 2")
    assert "most probable" not in first
    assert "most probable: yes 0.75 · no 0.12" in second


def test_exchanged_texts_reach_them() -> None:
    out = translation(alternatives=some(2))
    made = showing.tables(out, showing.Look(replace_char={"yes": "ja"}))
    assert made[0].alternatives[0][0][0] == " ja"
    assert out.alternatives[0][0].token.shown == " yes"


def test_the_command_line_records_them(tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("Hello\n")
    shared = ["-m", "demo/gpt2", "--alternatives", "2", "--max_new_tokens", "2"]
    one = ["attribute", *shared, "-i", "Hello", "-o", str(tmp_path / "a.json"), "--hide"]
    assert RUN.invoke(app, one, catch_exceptions=False).exit_code == 0
    many = ["attribute-dataset", *shared, "-d", str(tmp_path / "texts.txt"), "-o", str(tmp_path / "run")]
    assert RUN.invoke(app, many, catch_exceptions=False).exit_code == 0
    alone = FeatureAttributionOutput.load(tmp_path / "a.json")
    (row,) = load_run(tmp_path / "run")
    assert row.output is not None
    same(row.output[0], alone[0])
    assert [len(step) for step in alone[0].alternatives] == [2, 2]
    assert "most probable:" in RUN.invoke(app, ["show", str(tmp_path / "a.json"), "--token", "1"]).output


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
