"""Integrated gradients refined to a tolerance."""

from __future__ import annotations

import harness
import numpy as np
import pytest
import reference as ref
import torch
from harness import relative
from reference_gradient import refined_integrated_gradients
from rows import unknown_but_ends

from inseq.methods import refined


@pytest.mark.parametrize("name", ["gpt2", "llama", "marian"])
def test_a_refined_way_is_complete_and_its_scores_are_right(name: str) -> None:
    made, _ = harness.adapter(name)
    chosen = harness.cases(name)
    exact, _ = harness.run(made, chosen, "integrated_gradients", "logit", n_steps=384)
    worst = {}
    for tolerance in (0.01, 0.001):
        found, _ = harness.run(made, chosen, "integrated_gradients", "logit", n_steps=384, tolerance=tolerance)
        errors = []
        for (few, _), (right, _) in zip(found, exact, strict=True):
            assert set(few.diagnostics["nodes"].tolist()) <= {5.0 * 2**k for k in range(7)} | {384.0}
            change = right.scores.sum((0, 2)) - right.diagnostics["delta"]
            assert (few.diagnostics["delta"].abs() <= 1e-5 * change.abs() + 1e-6).all()
            early = few.diagnostics["nodes"] < 384
            assert (few.diagnostics["apart"][early] <= 3 * tolerance**0.5).all()
            assert (few.diagnostics["moved"][early].abs() <= 0.5).all()
            errors += ((few.scores - right.scores).norm(dim=(0, 2)) / right.scores.norm(dim=(0, 2))).tolist()
        assert float(np.median(errors)) < tolerance**0.5
        worst[tolerance] = max(errors)
    assert worst[0.001] <= worst[0.01] < 0.35


def test_fewer_points_are_the_rule() -> None:
    """Rows are the glances at the way and each step's points, of every round."""
    made, _ = harness.adapter("gpt2")
    case = harness.cases("gpt2")[0]
    ((found, _),), engine = harness.run(made, [case], "integrated_gradients", "logit", n_steps=96, tolerance=0.01)
    nodes = [int(n) for n in found.diagnostics["nodes"]]
    assert min(nodes) == refined.FEWEST
    assert engine.counters.rows == refined.GLANCES + 1 + sum(2 * n - refined.FEWEST for n in nodes)


def test_the_most_points_are_the_last() -> None:
    made, _ = harness.adapter("gpt2")
    case = harness.cases("gpt2")[0]
    for most, rounds in ((4, [4]), (18, [5, 10, 18])):
        ((found, _),), engine = harness.run(made, [case], "integrated_gradients", n_steps=most, tolerance=1e-9)
        assert (found.diagnostics["nodes"] == most).all()
        assert engine.counters.rows == refined.GLANCES + 1 + sum(rounds) * len(case.positions)
        change = found.scores.sum((0, 2)) - found.diagnostics["delta"]
        assert (found.diagnostics["delta"].abs() <= 1e-5 * change.abs() + 1e-7).all()


@pytest.mark.parametrize("name", ["gpt2", "marian"])
def test_points_and_weights_are_those_of_the_definition(name: str) -> None:
    made, _ = harness.adapter(name)
    case = harness.cases(name)[0]
    for n in (5, 10):
        ((found, _),), _ = harness.run(made, [case], "integrated_gradients", "logit", n_steps=n, tolerance=1e-9)
        expected = refined_integrated_gradients(case, ref.logit, unknown_but_ends(case), n)
        assert relative(found.scores, expected) < 5e-5


def test_parts_of_a_way_have_equal_shares_of_length_and_change() -> None:
    values = torch.tensor([0.0] * 8 + [0.5, 0.25] + [1.0] * 7)
    middles, lengths = refined.parts(values, 4)
    ends = torch.cat([torch.zeros(1, dtype=torch.float64), lengths.cumsum(0)]).numpy()
    far = np.concatenate([[0], np.cumsum(np.abs(np.diff(values.double().numpy())))])
    shares = 0.5 * ends + 0.5 * np.interp(ends, np.linspace(0, 1, 17), far) / far[-1]
    np.testing.assert_allclose(shares, np.arange(5) / 4, atol=1e-12)
    assert ((middles.numpy() > ends[:-1]) & (middles.numpy() < ends[1:])).all()
    still, even = refined.parts(torch.ones(17), 4)
    torch.testing.assert_close(still, torch.tensor([0.125, 0.375, 0.625, 0.875], dtype=torch.float64))
    torch.testing.assert_close(even, torch.full((4,), 0.25, dtype=torch.float64))


def test_what_is_missing_is_shared_by_all_points() -> None:
    """Two points add 3 and 1, one takes 2 away: for a change of 5 all move by half, towards it."""
    way = torch.tensor([[1.0], [2.0]])
    gradient = torch.tensor([[[1.0], [1.0]], [[-2.0], [0.0]], [[1.0], [0.0]]])[None]
    sums = refined.four_sums(way, torch.ones(3, dtype=torch.float64))(gradient, way, range(3))
    scores, total, apart, moved = refined.told(way, torch.ones(3, dtype=torch.float64) / 3, torch.tensor([5.0]))(sums)
    torch.testing.assert_close(moved, torch.tensor([0.5]))
    torch.testing.assert_close(scores, torch.tensor([[[1.5 - 1.0 + 1.5], [3.0]]]))
    torch.testing.assert_close(total, torch.tensor([5.0]))
    assert apart > 0


def test_points_that_say_nothing_have_no_scores() -> None:
    way = torch.ones(2, 1)
    read = refined.told(way, torch.full((2,), 0.5), torch.tensor([1.0]))
    scores, total, apart, moved = read(refined.four_sums(way, torch.full((2,), 0.5))(torch.zeros(1, 2, 2, 1), way, range(2)))
    assert not scores.any()
    assert (total.item(), apart.item(), moved.item()) == (0.0, 0.0, 1.0)
