"""What every method costs, as formulas: a loop added by accident fails here the same day.

``source``, ``prefix`` and ``steps`` are the lengths of an example: encoder tokens, decoder tokens that are read, explained
tokens. A formula that is not in this file is a field of the method's row in rows.py.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import harness
import pytest
import torch
import zoo
from reference import Case
from rows import METHODS, served

from inseq.engine.budget import Budget
from inseq.engine.measures import Counters

AMPLE = Budget(tokens=2**16, logits=2**28, cotangents=2**24, overhead=2**12)
"""Everything in one batch, and no gradient cut into blocks."""

NAMES = ["gpt2", "marian"]
LAYERS = 2
"""Of every stack in the zoo."""


@dataclass(frozen=True)
class Sizes:
    """The lengths of one example, whose decoder's tokens are attributed too."""

    source: int
    prefix: int
    steps: int

    @property
    def width(self) -> int:
        """Token positions of a row."""
        return self.source + self.prefix


def case_of(name: str, target: int, first: int, source: int = 6) -> Case:
    recipe = zoo.ZOO[name]
    ids = zoo.random_ids(target, seed=3, vocab=recipe.target_vocab)
    if not recipe.encoder_decoder:
        return Case(zoo.build(name), None, ids, first)
    ids[0] = recipe.start
    return Case(zoo.build(name), torch.cat([zoo.random_ids(source - 1, seed=5), torch.tensor([zoo.EOS])]), ids, first)


def sizes_of(case: Case) -> Sizes:
    return Sizes(case.n_source, len(case.target) - 1, len(case.positions))


def count(name: str, method: str, case: Case, **options: Any) -> Counters:
    made, _ = harness.adapter(name)
    row = METHODS[method]
    _, engine = harness.run(made, [case], method, budget=AMPLE, **(row.options | row.counted | options))
    return engine.counters


TOKENS: dict[str, Callable[[Sizes], int]] = {
    # the model's own predictions and the example at its full width; the probes; a check of each step at its own prefix
    "reagent": lambda x: (x.width - 1) + x.width + 2 * x.width + 2 * x.steps * x.width,
}


@pytest.mark.parametrize(("method", "name"), served(NAMES))
@pytest.mark.parametrize(("target", "first"), [(9, 3), (9, 6), (14, 3)])
def test_costs_are_formulas_of_the_lengths(name: str, method: str, target: int, first: int) -> None:
    row, case = METHODS[method], case_of(name, target, first)
    x = sizes_of(case)
    rows = row.rows(x.width, x.steps) - row.recorded_apart
    counted = count(name, method, case)
    assert counted.rows == rows
    assert counted.tokens == TOKENS.get(method, lambda x: rows * x.width)(x)
    assert counted.vjps == (x.steps if row.products else 0)
    assert (counted.replays > 0) is (method == "value_zeroing"), "how many it has is in test_replays.py"


@pytest.mark.parametrize(("method", "name"), served(NAMES))
def test_forwards_do_not_grow_with_anything(name: str, method: str) -> None:
    """Nor do rows and tokens with the steps of a text of the same length."""
    short, few, long = (count(name, method, case_of(name, *lengths)) for lengths in ((9, 3), (9, 7), (16, 3)))
    assert short.forwards == few.forwards == long.forwards
    if method != "reagent":
        assert (short.rows, short.tokens) == (few.rows, few.tokens)


OF_N: dict[str, tuple[dict[str, Any], Callable[[Sizes], int]]] = {
    "integrated_gradients": ({"n_steps": 11}, lambda x: 11 + 2),
    "gradient_shap": ({"n_samples": 9}, lambda x: 9 + 2),
    "smooth_grad": ({"n_samples": 9, "statistic": "mean"}, lambda x: 9),
    "discretized_integrated_gradients": ({"n_steps": 7}, lambda x: 7 + 2),
    "sequential_integrated_gradients": ({"n_steps": 3}, lambda x: 3 * x.width + x.width + 1),
    "layer_integrated_gradients": ({"n_steps": 5}, lambda x: 2 + 5 + 2),
    "lime": ({"n_samples": 17}, lambda x: 17),
    "kernel_shap": ({"n_samples": 17}, lambda x: 16),
    "shapley_sampling": ({"n_permutations": 3}, lambda x: 2 + 2 * 3 * (x.width - 1)),
    "context_cite": ({"n_samples": 20}, lambda x: 20 + 5),
    "reagent": ({"n_runs": 3}, lambda x: 2 + 3 + 3 * x.steps),
    "occlusion": ({"window": 3, "stride": 3}, lambda x: 1 + -(-x.source // 3) + -(-x.prefix // 3)),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("method", OF_N)
def test_costs_are_formulas_of_the_options(name: str, method: str) -> None:
    options, rows = OF_N[method]
    case = case_of(name, 10, 4)
    counted = count(name, method, case, **options)
    assert counted.rows == rows(sizes_of(case))
    assert counted.vjps == (len(case.positions) if METHODS[method].products else 0)


@pytest.mark.parametrize("name", NAMES)
def test_step_scores_alone_cost_one_forward(name: str) -> None:
    made, _ = harness.adapter(name)
    case = case_of(name, 12, 3)
    recorded = ["probability", "entropy", "rank"]
    _, engine = harness.run(made, [case], "dummy", recorded=recorded, budget=AMPLE)
    assert engine.counters == Counters(forwards=1, rows=1, tokens=sizes_of(case).width)
    _, engine = harness.run(made, [case], "dummy", budget=AMPLE)
    assert engine.counters == Counters()


@pytest.mark.parametrize("name", NAMES)
def test_further_texts_and_methods_cost_no_further_forward(name: str) -> None:
    """Products are as many as the longest text has steps."""
    made, _ = harness.adapter(name)
    cases = [case_of(name, target, 3) for target in (6, 9, 12, 12)]
    _, engine = harness.run(made, cases, "saliency", recorded=["probability"], budget=AMPLE)
    assert engine.counters == Counters(forwards=1, rows=4, tokens=4 * sizes_of(cases[-1]).width, vjps=9)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("plain", [False, True])
def test_blocks_cost_no_product(name: str, plain: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor a forward, where graphs over beginnings can be made of one; else each costs one."""
    made, _ = harness.adapter(name)
    case = case_of(name, 40, 2)
    blocks = Budget(tokens=2**16, logits=2**28, cotangents=2**24, overhead=1)
    if plain:
        monkeypatch.setattr(made.facts, "graph_kind", "plain")
    _, engine = harness.run(made, [case], "saliency", budget=blocks)
    assert engine.counters.forwards == engine.counters.rows
    assert (engine.counters.forwards > 1) is plain
    assert engine.counters.vjps == len(case.positions)


@pytest.mark.parametrize("name", ["gpt2", "llama", "marian"])
def test_products_taken_together_multiply_in_one_piece(name: str) -> None:
    """What torch's batching has no rule for, it does one by one and stacks."""
    made, _ = harness.adapter(name)
    torch._C._debug_only_display_vmap_fallback_warnings(True)
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            harness.run(made, [case_of(name, 40, 2)], "saliency")
    finally:
        torch._C._debug_only_display_vmap_fallback_warnings(False)
    apart = {operation for warning in told for operation in re.findall(r"aten::\w+", str(warning.message))}
    assert apart <= {"aten::native_layer_norm_backward", "aten::mean", "aten::addcmul", "aten::mul_", "aten::sub_"}
