"""Integrated gradients refined to a tolerance."""

from __future__ import annotations

import harness
import pytest
import torch

from inseq.methods import integrated


@pytest.mark.parametrize("name", ["gpt2", "llama", "marian"])
def test_a_refined_way_is_as_complete_as_asked_for_and_its_scores_are_right(name: str) -> None:
    """Either few points agree with each other and with the change, or all are visited."""
    made, _ = harness.adapter(name)
    chosen = harness.cases(name)
    exact, _ = harness.run(made, chosen, "integrated_gradients", "logit", n_steps=384)
    plain, _ = harness.run(made, chosen, "integrated_gradients", "logit", n_steps=96)
    for tolerance in (0.01, 0.001):
        errors: list[float] = []
        found, _ = harness.run(made, chosen, "integrated_gradients", "logit", n_steps=96, tolerance=tolerance)
        counts = torch.cat([f.diagnostics["nodes"] for f, _ in found])
        assert set(counts.tolist()) <= {4.0, 8.0, 96.0}
        assert (counts < 96).any() or name != "gpt2"
        for (refined, _), (whole, _), (right, _) in zip(found, plain, exact, strict=True):
            few = refined.diagnostics["nodes"] < 96
            change = right.scores.sum((0, 2)) - right.diagnostics["delta"]
            assert (refined.diagnostics["delta"].abs() <= tolerance * change.abs() + 1e-6)[few].all()
            error = (refined.scores - right.scores).norm(dim=(0, 2)) / right.scores.norm(dim=(0, 2))
            apart = refined.diagnostics["apart"]
            assert (apart[few] <= 3 * tolerance**0.5).all()
            assert apart[~few].isnan().all()
            errors += error[few].tolist()
            torch.testing.assert_close(refined.scores[:, ~few], whole.scores[:, ~few], atol=1e-5, rtol=1e-4)
        if name == "gpt2":  # others are hardly ever steady
            assert float(torch.tensor(errors).median()) < tolerance**0.5
            assert max(errors) < 0.25


def test_a_refined_way_costs_glances_and_few_gradients() -> None:
    made, _ = harness.adapter("gpt2")
    case = harness.cases("gpt2")[0]
    ((found, _),), engine = harness.run(made, [case], "integrated_gradients", "logit", n_steps=96, tolerance=0.01)
    nodes = [int(n) for n in found.diagnostics["nodes"]]
    assert min(nodes) < 96 == max(nodes)
    few = sum(2 * n - 2 for n in nodes if n < 96)
    beyond = engine.counters.rows - (integrated.GLANCES + 1 + few + 96)
    assert beyond in (14 * k for k in range(nodes.count(96) + 1))


def test_parts_of_a_way_have_equal_shares_of_its_change() -> None:
    values = torch.tensor([0.0] * 10 + [0.25, 0.5, 0.75] + [1.0] * 12)
    middles, lengths, changes = integrated.parts(values, 4)
    torch.testing.assert_close(lengths.sum(), torch.tensor(1.0, dtype=torch.float64))
    torch.testing.assert_close(changes.sum(), torch.tensor(1.0, dtype=torch.float64))
    assert (changes > 0.2).all()
    assert ((middles > 9 / 24) & (middles < 13 / 24)).all()
    still = integrated.parts(torch.ones(25), 4)
    torch.testing.assert_close(still[1], torch.full((4,), 0.25, dtype=torch.float64))


def test_a_part_shares_out_its_own_change_and_a_gradient_that_denies_it_is_not_believed() -> None:
    way = torch.tensor([[1.0], [3.0]])
    gradient = torch.tensor([[[2.0], [1.0]], [[-1.0], [-1.0]], [[0.0], [1e-9]]])[None]
    combine = integrated.by_change(way, torch.full((3,), 0.25), torch.tensor([10.0, 1.0, 1.0]))
    shared = combine(gradient, way, range(3)) * way
    expected = torch.tensor([[[2.0], [3.0]]]) * 2 + torch.tensor([[[-1.0], [-3.0]]]) * 0.25
    torch.testing.assert_close(shared, expected, atol=1e-6, rtol=1e-5)


def test_what_is_not_complete_within_the_most_points_says_so() -> None:
    made, _ = harness.adapter("gpt2")
    case = harness.cases("gpt2")[0]
    ((found, _),), engine = harness.run(made, [case], "integrated_gradients", n_steps=5, tolerance=1e-9)
    assert (found.diagnostics["nodes"] == 5).all()
    assert engine.counters.rows - 33 - 5 in (6 * k for k in range(len(case.positions) + 1))
