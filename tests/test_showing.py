"""What `show` and its neighbours take, as in Inseq."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import zoo
from test_guest import unchanged

import inseq
from inseq.errors import ArgumentError
from inseq.views.look import Look

QUIET: dict[str, Any] = {"show_progress": False}


@pytest.fixture(scope="module")
def gpt2() -> inseq.AttributionModel:
    return inseq.load_model("demo/gpt2", "saliency")


@pytest.fixture
def words() -> Iterator[inseq.AttributionModel]:
    model, tokenizer = zoo.build("gpt2"), zoo.tokenizer("words")
    with unchanged(model, tokenizer):
        yield inseq.load_model(model, "saliency", tokenizer=tokenizer)


TEXT = "Anna thanked Tom because"


def test_attributions_are_shown_together(words: inseq.AttributionModel) -> None:
    out = words.attribute(["w1 w2", "w3 w4"], ["w1 w2 w5", "w3 w4 w6"], **QUIET)
    page = inseq.show_attributions(out.sequence_attributions, display=False, return_html=True)
    assert page is not None
    assert "w5" in page
    assert "w6" in page
    with pytest.raises(ArgumentError, match="got no outputs"):
        inseq.show_attributions([])
    with pytest.raises(ArgumentError, match=r"Got str; expected outputs, as in show_attributions\(out"):
        inseq.show_attributions(["x"])


def test_results_of_several_calls_are_named_by_what_differs(words: inseq.AttributionModel) -> None:
    one, other = (words.attribute("w1 w2", "w1 w2 w5", method=m, **QUIET) for m in ("saliency", "input_x_gradient"))
    page = inseq.show_attributions([one, other], display=False, return_html=True)
    assert "<h2>saliency</h2>" in page
    assert "<h2>input_x_gradient</h2>" in page
    tokens = inseq.show_token_attributions([one, other], display=False, return_html=True, wrap_after=1)
    assert "w1\n</span>" in tokens
    assert inseq.show_granular_attributions(one, None, None, 5, display=False, return_html=True)


def test_granular_views_choose_axes_and_ranges(gpt2: inseq.AttributionModel) -> None:
    out = gpt2.attribute(TEXT, f"{TEXT} was kind", method="attention", granular=True, **QUIET)
    layers, heads = out[0].target_attributions.shape[2:]
    assert out.tables()[0].axes == (("layer", layers), ("head", heads))
    assert out[0].tables(Look(show_dim=3))[0].axes == (("head", heads),)
    page = out.show_granular(display=False, return_html=True, show_dim="layer", slice_dims={"layer": (0, 1), 1: (0, 1)})
    assert '"columns":["was"]' in page
    for dim in ("dim", 7, 0):
        with pytest.raises(ArgumentError, match=r"not an axis that can be looked at; there is layer \(2\), head \(3\)"):
            out.show_granular(display=False, show_dim=dim)
    for given, said in (
        ({"x": (0, 1)}, "slice_dims has 'x'"),
        ([1], "must be a mapping"),
        ({1: (5, 6)}, "leave none of 3 explained"),
    ):
        with pytest.raises(ArgumentError, match=said):
            out.show_granular(display=False, slice_dims=given)


def test_what_cannot_be_shown_is_said(words: inseq.AttributionModel) -> None:
    out = words.attribute("w1 w2", "w1 w2 w5", **QUIET)
    for options, said in (
        ({"return_html": True, "return_figure": True}, "a call returns one of them"),
        ({"theme": "blue"}, "theme='blue' must be"),
        ({"max_show_size": 0}, "max_show_size=0 must be"),
    ):
        with pytest.raises(ArgumentError, match=said):
            out.show(display=False, **options)
    for options, said in (({"wrap_after": 0}, "wrap_after=0 must"), ({"step_score_highlight": "x"}, "no step score 'x' to")):
        with pytest.raises(ArgumentError, match=said):
            out.show_tokens(display=False, **options)
