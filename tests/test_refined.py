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

from inseq.engine.scheduler import Engine
from inseq.methods import method as methods
from inseq.methods import refined
from inseq.requests import Prediction


def rounds(tolerance: float, most: int) -> list[int]:
    """How many points the steps of a text have, those whose scores disagree again and again."""
    found = [min(refined.at_first(tolerance), most)]
    while found[-1] < most:
        found.append(min(-(-3 * found[-1] // 2), most))
    return found


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
            assert set(few.diagnostics["nodes"].tolist()) <= set(rounds(tolerance, 384))
            change = right.scores.sum((0, 2)) - right.diagnostics["delta"]
            assert (few.diagnostics["delta"].abs() <= 1e-5 * change.abs() + 1e-6).all()
            early = few.diagnostics["nodes"] < 384
            assert (few.diagnostics["apart"][early] <= 10 * tolerance ** (2 / 3)).all()
            assert (few.diagnostics["moved"][early].abs() <= 0.5).all()
            errors += ((few.scores - right.scores).norm(dim=(0, 2)) / right.scores.norm(dim=(0, 2))).tolist()
        assert float(np.median(errors)) < tolerance**0.5
        worst[tolerance] = max(errors)
    assert worst[0.001] <= worst[0.01] < 0.35


def test_fewer_points_are_the_rule() -> None:
    """Rows are the glances at the way and the points of every round; each round's steps have a product for all its points."""
    made, _ = harness.adapter("marian")
    case = harness.cases("marian")[0]
    ((found, _),), engine = harness.run(made, [case], "integrated_gradients", "logit", n_steps=96, tolerance=0.001)
    nodes = found.diagnostics["nodes"]
    had = rounds(0.001, 96)
    assert had[0] == 14 == nodes.min() < nodes.max() < 96
    assert engine.counters.rows == refined.GLANCES + 1 + sum(n for n in had if n <= nodes.max())
    assert engine.counters.vjps == sum(had.index(int(n)) + 1 for n in nodes)


def test_the_most_points_are_the_last() -> None:
    made, _ = harness.adapter("gpt2")
    case = harness.cases("gpt2")[0]
    for most, tolerance in ((4, 1e-9), (30, 1e-9), (60, 1e-5)):
        ((found, _),), engine = harness.run(made, [case], "integrated_gradients", n_steps=most, tolerance=tolerance)
        nodes = set(found.diagnostics["nodes"].tolist())
        assert most in nodes <= set(rounds(tolerance, most))
        assert engine.counters.rows == refined.GLANCES + 1 + sum(rounds(tolerance, most))
        change = found.scores.sum((0, 2)) - found.diagnostics["delta"]
        assert (found.diagnostics["delta"].abs() <= 1e-5 * change.abs() + 1e-7).all()


@pytest.mark.parametrize("name", ["gpt2", "marian"])
def test_points_and_weights_are_those_of_the_definition(name: str) -> None:
    made, _ = harness.adapter(name)
    case = harness.cases(name)[0]
    for n in (5, 9):
        ((found, _),), _ = harness.run(made, [case], "integrated_gradients", "logit", n_steps=n, tolerance=1e-9)
        expected = refined_integrated_gradients(case, ref.logit, unknown_but_ends(case), n)
        assert relative(found.scores, expected) < 5e-5


def test_steps_whose_scores_disagree_share_points_of_their_own() -> None:
    """The other steps of the text have no say in where these lie."""
    made, _ = harness.adapter("marian")
    case = harness.cases("marian")[2]
    ((found, _),), _ = harness.run(made, [case], "integrated_gradients", "logit", n_steps=17, tolerance=0.003)
    again = (found.diagnostics["nodes"] == 17).nonzero()[:, 0].tolist()
    assert 0 < len(again) < len(case.positions)
    expected = refined_integrated_gradients(case, ref.logit, unknown_but_ends(case), 17, chosen=again)
    assert relative(found.scores[:, again], expected) < 5e-5


def test_the_first_points_follow_the_tolerance() -> None:
    assert [refined.at_first(tolerance) for tolerance in (1e300, 1.0, 0.1, 0.01, 0.001, 0.0001)] == [2, 3, 4, 8, 14, 25]


def test_parts_of_a_way_have_equal_shares_of_length_and_change() -> None:
    """Of two steps, one a thousand times as far as the other, the same part each."""
    values = torch.stack([torch.tensor([0.0] * 8 + [0.5, 0.25] + [1.0] * 7), 1000 * torch.tensor([0.0] * 3 + [1.0] * 14)], 1)
    middles, lengths = refined.parts(values, 4)
    ends = torch.cat([torch.zeros(1, dtype=torch.float64), lengths.cumsum(0)]).numpy()
    far = np.abs(np.diff(values.double().numpy(), axis=0))
    gone = np.concatenate([[0], np.cumsum((far / far.sum(0)).mean(1))])
    shares = 0.3 * ends + 0.7 * np.interp(ends, np.linspace(0, 1, 17), gone)
    np.testing.assert_allclose(shares, np.arange(5) / 4, atol=1e-12)
    assert ((middles.numpy() > ends[:-1]) & (middles.numpy() < ends[1:])).all()
    still, even = refined.parts(torch.ones(17, 1), 4)
    torch.testing.assert_close(still, torch.tensor([0.125, 0.375, 0.625, 0.875], dtype=torch.float64))
    torch.testing.assert_close(even, torch.full((4,), 0.25, dtype=torch.float64))


def test_what_is_missing_is_shared_by_all_points() -> None:
    """Points add 3, -2 and 1: for a change of 5 their weights grow by 3 / 14 of that, whatever the unit."""
    way, lengths = torch.tensor([[1.0], [2.0]]), torch.ones(3, dtype=torch.float64)
    gradient = torch.tensor([[[1.0], [1.0]], [[-2.0], [0.0]], [[1.0], [0.0]]])[None]
    for unit in (0.5, 7.0):
        sums = refined.four_sums(way, lengths, unit)(gradient, way, range(3))
        scores, total, apart, moved = refined.told(way, lengths / 3, torch.tensor([5.0]), unit)(sums, range(1))
        torch.testing.assert_close(moved, torch.tensor([3 / (3 * 14) ** 0.5]))
        torch.testing.assert_close(scores, torch.tensor([[[(23 - 2 * 8 + 17) / 14], [2 * 23 / 14]]]))
        torch.testing.assert_close(total, torch.tensor([5.0]))
        even = torch.tensor([0.8 * 1.5 + 14 / 15 * 1.5, 0.8 * 1.5 * 2])  # the rest, of one part, can lose no more than all
        torch.testing.assert_close(apart, even.norm()[None] / (2 * scores.norm()))


def test_scores_do_not_jump_where_a_point_adds_nothing() -> None:
    """A point whose gradient is large, and whose sum is nearly nought, on either side of it."""
    way, lengths, found = torch.ones(2, 1), torch.full((2,), 0.5, dtype=torch.float64), []
    for little in (-1e-6, 1e-6):
        gradient = torch.tensor([[[2.0], [1.0]], [[5.0 + little], [-5.0]]])[None]
        sums = refined.four_sums(way, lengths, 1.0)(gradient, way, range(2))
        found.append(refined.told(way, lengths, torch.tensor([2.0]), 1.0)(sums, range(1))[0])
    torch.testing.assert_close(*found, atol=1e-5, rtol=0)


def test_a_step_whose_target_hardly_moves_is_as_exact_as_the_one_beside_it() -> None:
    """A target in units of 1e-22: what its points add, squared, would not be told from nought."""
    made, _ = harness.adapter("gpt2")
    case = harness.cases("gpt2")[0]
    x = made.example([], case.target.tolist(), case.first, case.positions)
    logit = harness.function("logit")

    def faint(p: Prediction) -> torch.Tensor:
        return logit(p) * torch.where(p.ids % 2 == 0, 1e-22, 1)

    whole, faded = (
        Engine(made).run([(x, methods["integrated_gradients"].function(x, n_steps=9, tolerance=0.01))], target)[0][0].scores
        for target in (logit, faint)
    )
    even = x.written_ids % 2 == 0
    assert 0 < even.sum() < len(even)
    assert relative(1e22 * faded[:, even], whole[:, even]) < 1e-4
    assert relative(faded[:, ~even], whole[:, ~even]) < 1e-4


def test_points_that_say_nothing_have_no_scores() -> None:
    way, halves = torch.ones(2, 1), torch.full((2,), 0.5)
    for unit in (1.0, 1e-30, 1e6):
        sums = refined.four_sums(way, halves, unit)(torch.zeros(1, 2, 2, 1), way, range(2))
        scores, total, apart, moved = refined.told(way, halves, torch.tensor([1.0]), unit)(sums, range(1))
        assert torch.equal(scores, torch.zeros(1, 2, 1))
        assert (total.item(), apart.item(), moved.item()) == (0.0, 0.0, 1.0)
