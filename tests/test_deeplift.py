"""DeepLIFT adds up exactly, whatever is asked, and equals arithmetic on pairs of numbers written out by hand."""

from __future__ import annotations

from functools import partial
from typing import Any

import harness
import pytest
import reference as ref
import torch
import torch.nn.functional as F
import zoo
from harness import relative
from rows import METHODS, unknown_but_ends
from torch import Tensor, nn

from inseq.engine.rules.rescale import RescaleRules
from inseq.engine.scheduler import Engine
from inseq.errors import UnsupportedModelError
from inseq.methods import method as methods
from inseq.requests import Prediction, Rescale


def margin(z: Tensor, y: int) -> Tensor:
    return z[y] - torch.cat([z[:y], z[y + 1 :]]).max()


TARGETS = {**ref.STEP_FUNCTIONS, "margin": margin}
TARGETS.pop("log_probability")


@pytest.mark.parametrize("name", [name for name in zoo.ZOO if name not in METHODS["deeplift"].refuses])
def test_scores_sum_to_the_change_from_the_baseline(name: str) -> None:
    made, _ = harness.adapter(name)
    chosen = harness.cases(name)[::2]
    for target in TARGETS if name in ("gpt2", "gemma2", "t5") else ("logit", "probability", "entropy"):
        found, _ = harness.run(made, chosen, "deeplift", target)
        for case, (attribution, _) in zip(chosen, found, strict=True):
            x, b = ref.embeddings(case), unknown_but_ends(case)
            with torch.no_grad():
                fn = TARGETS[target]
                ends = [torch.stack([ref.score(case, e, t, fn) for t in case.positions]) for e in (x, b)]
            tolerance = 2e-5 * float(torch.stack(ends).abs().max())
            torch.testing.assert_close(attribution.scores.sum((0, 2)), ends[0] - ends[1], atol=tolerance, rtol=1e-4)
            assert attribution.diagnostics["delta"].abs().max() <= tolerance


@pytest.mark.parametrize(("name", "baseline"), [(n, b) for n in ("gpt2", "llama") for b in ("zero", "mean", "pad")])
def test_any_baseline_is_complete_or_the_diagnostic_says_so(name: str, baseline: str) -> None:
    """At zero a root mean square is the root of its epsilon: multipliers of both signs drown what they add up to."""
    made, _ = harness.adapter(name)
    case = harness.cases(name)[0]
    ((found, _),), _ = harness.run(made, [case], "deeplift", "logit", baseline=baseline)
    complete = bool(found.diagnostics["delta"].abs().max() < 1e-4)
    assert complete is ((name, baseline) != ("llama", "zero"))


def test_an_input_that_is_its_own_baseline_scores_nothing() -> None:
    made, _ = harness.adapter("gpt2")
    case = harness.cases("gpt2")[0]
    ((found, _),), _ = harness.run(made, [case], "deeplift", "logit", baseline=ref.embeddings(case))
    assert not found.scores.any()
    assert found.scores.isfinite().all()


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize("near", [1e-4, 1e-6])
def test_a_near_baseline_gives_the_gradient_times_the_difference(name: str, near: float) -> None:
    made, _ = harness.adapter(name)
    case = harness.cases(name)[0]
    x = ref.embeddings(case)
    b = x + near * drawn(*x.shape)
    ((found, _),), _ = harness.run(made, [case], "deeplift", "logit", baseline=b, include_eos_baseline=True)
    middle = ref.gradients(case, ref.logit, (x + b) / 2)
    assert relative(found.scores, middle * (x - b)[:, None]) < 1e-4


def test_a_target_without_a_rule_is_refused() -> None:
    made, _ = harness.adapter("gpt2")
    x = made.example([], harness.cases("gpt2")[0].target.tolist(), 4, range(4, 11))
    with pytest.raises(UnsupportedModelError, match="the attributed function uses the operation 'CosBackward0'"):
        Engine(made).run([(x, methods["deeplift"].function(x))], lambda p: p.logits[:, 0].cos())


class Rules(RescaleRules):
    """The rules alone, on any function of pairs."""

    def __init__(self) -> None:
        RescaleRules.__init__(self, nn.Linear(1, 1), Rescale("test"))

    def multipliers(self, function: Any, x: Tensor, b: Tensor) -> Tensor:
        """Those of the function's sum, from ``b`` to ``x``, both Float["row ..."]."""
        leaf = torch.cat([x, b]).requires_grad_()
        with self:
            out = function(leaf)
        self.check(out, "it")
        (found,) = torch.autograd.grad(out[: len(x)].sum(), leaf)
        assert not found[len(x) :].any()
        return found[: len(x)]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_a_linear_model_gets_its_weights() -> None:
    first, second = drawn(8, 5, seed=1), drawn(3, 8, seed=2)
    found = Rules().multipliers(lambda x: F.linear(F.linear(x, first, drawn(8)), second), drawn(2, 5), drawn(2, 5, seed=3))
    torch.testing.assert_close(found, (second @ first).sum(0).expand(2, -1), atol=1e-5, rtol=1e-5)


def test_a_small_network_equals_differences_written_out() -> None:
    """Two layers of tanh: at each unit the quotient of differences, in between the weights."""
    first, second = drawn(6, 4, seed=1), drawn(1, 6, seed=2)
    x, b = drawn(3, 4, seed=3), drawn(3, 4, seed=4)
    expected = torch.zeros(3, 4)
    for row in range(3):
        for i in range(4):
            for unit in range(6):
                u, v = first[unit] @ x[row], first[unit] @ b[row]
                expected[row, i] += second[0, unit] * (torch.tanh(u) - torch.tanh(v)) / (u - v) * first[unit, i]
    found = Rules().multipliers(lambda x: F.linear(torch.tanh(F.linear(x, first)), second), x, b)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_a_gate_equals_the_shapley_values_of_two_players() -> None:
    """a b - a' b' is split into what a brings when it joins first and last, on average, and so for b."""
    x, b = drawn(1, 2, seed=3), drawn(1, 2, seed=4)
    found = Rules().multipliers(lambda x: x[:, 0] * x[:, 1], x, b) * (x - b)
    (p, q), (r, s) = x[0].tolist(), b[0].tolist()
    first = ((p * s - r * s) + (p * q - r * q)) / 2
    second = ((r * q - r * s) + (p * q - p * s)) / 2
    torch.testing.assert_close(found[0], torch.tensor([first, second]))


@pytest.mark.parametrize("least", [-torch.inf, torch.finfo(torch.float32).min])
@pytest.mark.parametrize("spread", [1.0, 60.0])
def test_masked_scores_get_exactly_nothing(least: float, spread: float) -> None:
    """Not even where both rows are masked, or where one row's scores are far above the other's."""
    mask = torch.tensor([[0.0, 0.0, least], [0.0, 0.0, 0.0]])
    x, b = spread * drawn(1, 2, 3, seed=1), spread * drawn(1, 2, 3, seed=2) + 3 * spread
    weights = drawn(3, seed=3)
    found = Rules().multipliers(lambda s: ((s + mask).softmax(-1) * weights).sum(-1), x, b)
    assert found.isfinite().all()
    assert found[0, 0, 2] == 0
    change = (((x + mask).softmax(-1) - (b + mask).softmax(-1)) * weights).sum()
    torch.testing.assert_close((found * (x - b)).sum(), change, atol=1e-4, rtol=1e-4)


FUNCTIONS: dict[str, Any] = {
    "softmax": lambda x: F.softmax(x, dim=-1)[..., 1],
    "log_softmax": lambda x: x.log_softmax(-1)[..., 1],
    "logsumexp": lambda x: x.logsumexp(-1),
    "amax": lambda x: x.amax(-1),
    "layer_norm": lambda x: F.layer_norm(x, (4,), drawn(4, seed=8), drawn(4, seed=9)),
    "rms_norm": lambda x: F.rms_norm(x, (4,), drawn(4, seed=8)),
    "composed norm": lambda x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6),
    "quotient": lambda x: x[..., :2] / (2 + x[..., 2:] ** 2),
    "one over": lambda x: 1 / (2 + x**2),
    "gelu": F.gelu,
    "relu": F.relu,
    "clamp": lambda x: x.clamp(-0.5, 0.5),
    "matmul": lambda x: x @ x.transpose(-2, -1),
    "einsum": lambda x: torch.einsum("rid,rjd->rij", x, x * x),
    "attention": lambda x: F.scaled_dot_product_attention(x, 2 * x, x * x, is_causal=True),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_rule_is_complete(name: str) -> None:
    function = FUNCTIONS[name]
    x, b = drawn(2, 3, 4, seed=1), drawn(2, 3, 4, seed=2)
    found = Rules().multipliers(function, x, b)
    torch.testing.assert_close((found * (x - b)).sum(), (function(x) - function(b)).sum(), atol=1e-5, rtol=1e-5)


def test_flat_and_kinked_places() -> None:
    """Equal inputs get the derivative; a kink between them, the secant across it."""
    x, b = torch.tensor([[1.0, -1.0, 2e-6]]), torch.tensor([[1.0, -1.0, -2e-6]])
    torch.testing.assert_close(Rules().multipliers(F.relu, x, b), torch.tensor([[1.0, 0.0, 0.5]]))


def of_rows(name: str, logits: Tensor) -> Tensor:
    return harness.function(name)(Prediction(logits, torch.arange(len(logits)) % 4))


def test_step_functions_get_pairs_of_predictions() -> None:
    """Of the built-in targets each is complete on its own, far from and near to the other prediction."""
    for name in ("logit", "probability", "entropy", "crossentropy", "perplexity", "margin"):
        for scale in (1e-3, 1.0, 8.0):
            z, w = drawn(4, 11, seed=5), drawn(4, 11, seed=5) + scale * drawn(4, 11, seed=6)
            target = partial(of_rows, name)
            found = Rules().multipliers(target, z, w)
            change = target(z) - target(w)
            torch.testing.assert_close((found * (z - w)).sum(-1), change, atol=1e-5, rtol=1e-4)
