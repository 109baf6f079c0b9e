"""Words, sentences, patterns, slices and pipelines, on pieces of four kinds of tokenizers."""

from __future__ import annotations

import csv
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from results import continuation, tokens, translation

import inseq
from inseq.data.aggregator import AggregatorPipeline, ContiguousSpanAggregator, SubwordAggregator
from inseq.errors import ArgumentError, UnknownArgumentError
from inseq.outputs.sequence import FeatureAttributionSequenceOutput
from inseq.results.aggregate.pipeline import aggregated
from inseq.results.scores import SequenceScores
from inseq.text.pieces import Alphabet, readable
from inseq.text.tokens import Token
from inseq.views.tabulate import table

PIECES = {
    Alphabet.BYTES: ("Inter pret able Ġresults , Ġ æ ļ Ģ ĠO K", "Interpretable| results,| 暀| OK"),
    Alphabet.SENTENCEPIECE: ("▁Inter pret able ▁results ▁ OK 我 喜歡 ok", " Interpretable| results| OK|我|喜歡|ok"),
    Alphabet.WORDPIECE: ("inter ##pret ##able results [SEP] ok ##ay", " interpretable| results|[SEP]| okay"),
    Alphabet.PLAIN: ("inter pret able", "inter|pret|able"),
}


def made(pieces: list[str], alphabet: Alphabet, special: set[str] = frozenset({"[SEP]", "</s>"})) -> list[Token]:
    marks = [piece in special for piece in pieces]
    texts = readable(pieces, marks, alphabet)
    return [Token(p, i, "source", t, s) for i, (p, t, s) in enumerate(zip(pieces, texts, marks, strict=True))]


def of(source: list[Token], scores: Any = None, **info: Any) -> FeatureAttributionSequenceOutput:
    drawn = torch.randn(len(source), 2, generator=torch.Generator().manual_seed(0)) if scores is None else scores
    return FeatureAttributionSequenceOutput(
        source=source,
        target=tokens(["<pad>", "I", "like"], "generated"),
        source_attributions=drawn,
        attr_pos_start=1,
        attr_pos_end=3,
        info=info,
    )


@pytest.mark.parametrize("alphabet", PIECES)
def test_pieces_become_words(alphabet: Alphabet) -> None:
    """The last word too; a piece that completes a character belongs to it; scripts without spaces stand alone."""
    pieces, expected = PIECES[alphabet]
    out = of(made(pieces.split(" "), alphabet), alphabet=alphabet.value).aggregate("subwords")
    assert "|".join(t.text for t in out.source) == expected


def test_a_character_of_several_pieces_is_one() -> None:
    out = of(made(["Ġ", "æ", "ļ", "Ģ", "ok"], Alphabet.BYTES), alphabet="byte-level").aggregate("subwords")
    assert "".join(t.text for t in out.source) == " 暀ok"
    assert out.source[0].text == " 暀"


def test_without_facts_the_pieces_tell() -> None:
    assert len(of(made(["▁in", "ter"], Alphabet.SENTENCEPIECE)).aggregate("subwords").source) == 1
    assert len(of(made(["in", "ter"], Alphabet.PLAIN)).aggregate("subwords").source) == 2


def test_inseq_s_own_marks() -> None:
    source = made(["▁a", "b", "▁c"], Alphabet.SENTENCEPIECE)
    assert [t.text for t in of(source).aggregate("subwords", special_chars="▁").source] == [" ab", " c"]
    pieces = made(["a", "##b", "c"], Alphabet.WORDPIECE)
    assert len(of(pieces).aggregate("subwords", special_chars=("##",), is_suffix_symbol=True).source) == 2
    assert len(of(source).aggregate("subwords", aggregate_source=False).source) == 3
    with pytest.raises(ArgumentError, match="special_chars must be one or several texts"):
        of(source).aggregate("subwords", special_chars=3)


def test_words_leave_punctuation_apart() -> None:
    source = made(["▁do", "n", "'", "t", "▁stop", ",", "▁he", "▁said", "."], Alphabet.SENTENCEPIECE)
    assert [t.text for t in of(source).aggregate("words").source] == [" don't", " stop", ",", " he", " said", "."]


def test_sentences() -> None:
    source = made(["▁I", "▁am", ".", "▁Are", "▁you", "?", "是", "。", "對", "。", "</s>"], Alphabet.SENTENCEPIECE)
    assert [t.text for t in of(source).aggregate("sentences").source] == [" I am.", " Are you?", "是。", "對。", "</s>"]


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("single", [" a b", ";", " c", ";", " d"]), ("start", [" a b", "; c", "; d"]), ("end", [" a b;", " c;", " d"])],
)
def test_split(mode: str, expected: list[str]) -> None:
    source = made(["▁a", "▁b", ";", "▁c", ";", "▁d"], Alphabet.SENTENCEPIECE)
    found = of(source).aggregate("split", split_pattern=";", split_mode=mode)
    assert [t.text for t in found.source] == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "needs split_pattern"),
        ({"split_pattern": "("}, "is no regular expression"),
        ({"split_pattern": ";", "split_mode": "both"}, "must be 'single', 'start' or 'end'"),
    ],
)
def test_patterns_that_are_none(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        translation().aggregate("split", **options)


@given(st.integers(1, 9), st.data())
def test_spans_equal_a_plain_loop(n: int, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(0, n), min_size=2)) | {0, n})
    spans = list(pairwise(cuts))
    values = torch.tensor(
        data.draw(st.lists(st.lists(st.floats(-5, 5, width=32), min_size=2, max_size=2), min_size=n, max_size=n))
    )
    out = of(made([f"▁{i}" for i in range(n)], Alphabet.SENTENCEPIECE), values)
    for function, plain in ((None, lambda part: max(part, key=abs)), ("sum", sum), ("max", max)):
        found = out.aggregate("spans", aggregate_fn=function, source_spans=spans).source_attributions
        assert found is not None
        for row, (a, b) in zip(found.tolist(), spans, strict=True):
            for k, value in enumerate(row):
                assert abs(abs(value) - abs(plain(values[a:b, k].tolist()))) < 1e-4


def granular() -> FeatureAttributionSequenceOutput:
    return translation(
        torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(1)),
        axes=("dim",),
        reduce_by=("vnorm",),
        normalize=True,
        step_scores={"probability": torch.tensor([0.5, 0.25])},
        info={"merge": {"probability": "prod"}},
    )


def test_step_scores_merge_by_their_own_rule() -> None:
    merged = granular().aggregate("spans", target_spans=(1, 3))
    assert merged.step_scores["probability"].tolist() == [0.125]


def test_every_way_of_naming_stages() -> None:
    out = granular()
    options: dict[str, Any] = {"source_spans": (0, 2)}
    expected = out.aggregate().aggregate("spans", **options)
    for aggregator in (
        ["scores", "spans"],
        ["vnorm", "spans"],
        [None, "spans"],
        ["vnorm", ContiguousSpanAggregator],
        [("scores", "vnorm"), ("spans", None)],
        [("scores", "vnorm"), (ContiguousSpanAggregator, "absmax")],
        AggregatorPipeline(["scores", "spans"]),
        AggregatorPipeline(["scores", ContiguousSpanAggregator], ["vnorm", None]),
    ):
        assert out.aggregate(aggregator, **options) == expected, aggregator
    assert out.aggregate(["scores", "spans"], ["vnorm", "absmax"], **options) == expected
    first = out.aggregate(["spans", "scores"], normalize=False, **options)
    assert first == out.aggregate("spans", **options).aggregate(normalize=False)
    assert first != expected
    assert out.aggregate(SubwordAggregator).axes == ("dim",)
    assert out.aggregate().aggregate() == out.aggregate()


def test_data_alone_is_aggregated_into_data_alone() -> None:
    for out in (continuation(), translation(torch.rand(3, 2, 4), axes=("dim",))):
        data = SequenceScores(**vars(out))
        for stages in (None, "sum", "words", ["spans", "mean"]):
            made = aggregated(data, stages)
            assert type(made) is SequenceScores
            assert made == aggregated(out, stages)
        table(aggregated(data), granular=data)


def test_stages_that_do_not_fit() -> None:
    with pytest.raises(UnknownArgumentError, match="Did you mean 'source_spans'"):
        granular().aggregate(["scores", "spans"], source_span=(0, 2))
    with pytest.raises(ArgumentError, match="aggregate_fn must have an entry for each of 2 aggregators"):
        granular().aggregate(["scores", "spans"], ["vnorm"])
    with pytest.raises(ArgumentError, match="both name a function"):
        granular().aggregate([("vnorm", "mean"), ("spans", None)])
    with pytest.raises(ArgumentError, match="Expected a half-open span"):
        granular().aggregate("spans", source_spans=(3,))


def test_some_tokens_of_the_source() -> None:
    out = translation(sequence_scores={"encoder_self_attentions": torch.arange(9.0).reshape(3, 3)})
    part = out[1:]
    assert [str(t) for t in part.source] == ["喜欢", "</s>"]
    assert part.source_attributions is not None
    assert out.source_attributions is not None
    assert torch.equal(part.source_attributions, out.source_attributions[1:])
    assert part.sequence_scores["encoder_self_attentions"].tolist() == [[4.0, 5.0], [7.0, 8.0]]
    assert out[-1] == out[2:3] == out.aggregate("slices", source_spans=(2, 3))
    with pytest.raises(ArgumentError, match="out of range"):
        out[3]
    with pytest.raises(ArgumentError, match="leaves none"):
        out[2:1]
    with pytest.raises(ArgumentError, match="by a position or by first:last"):
        out[::2]


def test_some_tokens_of_the_prompt() -> None:
    out = continuation()
    part = out[1]
    assert [str(t) for t in part.target] == ["▁sky", "▁is", "▁blue"]
    assert [str(t) for t in part.source] == ["▁sky"]
    assert (part.attr_pos_start, part.attr_pos_end) == (1, 3)
    assert part.target_attributions is not None
    assert out.target_attributions is not None
    assert torch.equal(part.target_attributions.nan_to_num(0.0), out.target_attributions[1:].nan_to_num(0.0))
    with pytest.raises(ArgumentError, match="of a decoder-only model pass target_spans"):
        out.aggregate("slices", source_spans=(0, 1))


def test_differences_sums_and_copies() -> None:
    a, b = translation(), translation([[0.5, 0.0], [0.3, 0.8], [0.1, 0.4]])
    assert (a - b).source_attributions[2, 1] == pytest.approx(-0.2)
    whole = inseq.FeatureAttributionOutput([a], info={})
    assert len(sum([whole, whole, whole])) == 3
    twin = a.clone()
    twin.source_attributions[0, 0] = 9.0
    assert a.source_attributions[0, 0] == pytest.approx(0.6)
    assert (a.minimum, a.maximum) == (0.0, pytest.approx(0.8))
    assert a.to("cpu") is a
    assert a.detach() is a


def test_attributions_weighted_by_a_step_score() -> None:
    out = granular()
    expected = out.aggregate().source_attributions * torch.tensor([0.5, 0.25])
    held = out.source_attributions
    before = held.clone()
    assert out.weight_attributions("probability") is out
    assert torch.allclose(out.source_attributions, expected)
    assert torch.allclose(out.aggregate().source_attributions, expected)
    assert torch.equal(held, before)
    with pytest.raises(ArgumentError, match="'entropy' was not recorded"):
        out.weight_attributions("entropy")


def test_rows(tmp_path: Path) -> None:
    out = inseq.FeatureAttributionOutput([continuation(), translation()], info={})
    frame = out.to_pandas()
    assert list(frame.columns) == ["text", "step", "generated", "side", "position", "token", "score"]
    assert len(frame) == 5 + 6
    assert frame[(frame.text == 0) & (frame.step == 3)].score.tolist() == pytest.approx([0.1, 0.2, 0.7])
    out.to_csv(tmp_path / "a.csv")
    with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as file:
        read = list(csv.DictReader(file))
    assert [float(row["score"]) for row in read] == pytest.approx(frame.score.tolist())
    assert [[r["token"] for r in step] for step in out[1].top_k(2)] == [["我", "喜欢"], ["喜欢", "</s>"]]
    with pytest.raises(ArgumentError, match="k=0 must be a whole number"):
        out.top_k(0)


def test_a_file_of_rows_holds_no_formula(tmp_path: Path) -> None:
    translation(source=("=1+1", "@x", "</s>")).to_csv(tmp_path / "a.csv")
    assert "'=1+1" in (tmp_path / "a.csv").read_text()


def test_tokens_decoded_one_by_one() -> None:
    model = inseq.load_model("demo/gpt2")
    out = model.attribute("Anna thanked Tom because", show_progress=False)
    assert out.decode_tokens(model.tokenizer) is out
    assert [str(t) for t in out[0].source][:2] == ["Anna", " thanked"]


def test_words_of_the_bundled_models() -> None:
    out = inseq.load_model("demo/zh-en").attribute("我喜歡機器學習和人工智慧。", show_progress=False)
    merged = out.aggregate(["scores", "words"])[0]
    assert "".join(t.text for t in merged.target) == "".join(t.text for t in out[0].target)
    assert [t.text for t in merged.generated][:3] == [" I", " like", " machine"]
    page = merged.show(display=False, return_html=True)
    assert page is not None
    assert "machine" in page


def test_views_take_aggregators_and_their_options() -> None:
    """What is left of the trailing axes is folded as the method has it."""
    out = granular()
    pages = [
        out.show(display=False, return_html=True, aggregator=aggregator, source_spans=[(0, 2)])
        for aggregator in ("spans", ["spans"], ["spans", "scores"])
    ]
    assert pages[0] == pages[1] == pages[2]
    folded = out.show(display=False, return_html=True, aggregator=["scores", "spans"], source_spans=[(0, 2)])
    assert folded is not None
    assert "我喜欢" in folded
    with pytest.raises(UnknownArgumentError, match="Did you mean 'source_spans'"):
        out.show(display=False, aggregator="spans", source_span=[(0, 2)])


def test_functions_in_a_pipeline_fold_an_axis_each() -> None:
    scores = torch.randn(3, 2, 4, 5, generator=torch.Generator().manual_seed(2))
    out = translation(scores, axes=("layer", "head"), reduce_by=("mean", "mean"))
    options: dict[str, Any] = {"source_spans": (0, 2)}
    found = out.aggregate(["max", "min", "spans"], **options)
    assert found == out.aggregate(["max", "min"]).aggregate("spans", **options)
    assert found.source_attributions is not None
    assert torch.equal(found.source_attributions[1], scores[2].amax(-1).amin(-1))
    assert found != out.aggregate(["max", "spans"], **options)
