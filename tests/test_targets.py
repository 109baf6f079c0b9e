"""Step functions whose definition is shorter than any slow copy of it: on logits written by hand."""

from __future__ import annotations

import pytest
import torch

from inseq.engine.requests import Prediction
from inseq.errors import ArgumentError
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
