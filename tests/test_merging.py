"""Tokens merged by spans, by hand."""

from __future__ import annotations

import pytest
import torch
from results import NAN, continuation, translation

from inseq.errors import ArgumentError


def test_spans_merge_columns_then_rows() -> None:
    out = translation([[0.6, 0.0], [-0.9, 0.8], [0.1, 0.2]]).aggregate("spans", source_spans=(0, 2), target_spans=[(1, 3)])
    assert out.source_attributions is not None
    assert torch.allclose(out.source_attributions, torch.tensor([[-0.9], [0.2]]))
    assert ([t.id for t in out.source], out.attr_pos_start, out.attr_pos_end) == ([-1, 2], 1, 2)
    assert out.generated[0].text == " I like"


def test_a_span_over_the_start_keeps_its_explained_part() -> None:
    out = continuation(step_scores={"p": torch.tensor([0.5, 0.25])}).aggregate("spans", target_spans=(1, 3))
    assert out.target_attributions is not None
    assert torch.allclose(out.target_attributions, torch.tensor([[0.5, 0.1], [0.5, 0.7], [NAN, NAN]]), equal_nan=True)
    assert (out.attr_pos_start, out.attr_pos_end, out.step_scores["p"].tolist()) == (1, 3, [0.5, 0.25])


@pytest.mark.parametrize("given", [(0, 9), [(1, 2), (0, 1)], (2, 2)])
def test_spans_that_do_not_fit_are_refused(given: object) -> None:
    with pytest.raises(ArgumentError, match="spans"):
        translation().aggregate("spans", source_spans=given)


def test_the_encoder_s_own_matrix_is_merged_along() -> None:
    out = translation(sequence_scores={"encoder_self_attentions": torch.arange(9.0).reshape(3, 3)})
    found = out.aggregate("spans", source_spans=(1, 3)).sequence_scores["encoder_self_attentions"]
    assert found.tolist() == [[0.0, 2.0], [6.0, 8.0]]


def test_a_pair_is_this_one_minus_the_other() -> None:
    a, b = translation(), translation([[0.5, 0.0], [0.3, 0.8], [0.1, 0.2]])
    found = a.aggregate("pair", paired_attr=b).source_attributions
    assert found is not None
    assert torch.allclose(found, torch.tensor([[0.1, 0.0], [0.0, 0.0], [0.0, 0.0]]))
    with pytest.raises(ArgumentError, match="same shapes"):
        a.aggregate("pair", paired_attr=continuation())
