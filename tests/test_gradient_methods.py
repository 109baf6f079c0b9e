"""What is true of the methods that follow gradients beyond the property table: oracles, refinement, layers, counts."""

from __future__ import annotations

from typing import Any

import captum.attr
import harness
import pytest
import reference as ref
import reference_gradient as slow
import torch
from harness import relative
from reference import Case
from rows import block, unknown_but_ends
from torch import Tensor, nn

from inseq.errors import ArgumentError, UnknownNameError, UnsupportedModelError
from inseq.methods import discretized, gradient, integrated
from inseq.models.check import check

TOLERANCE = 1e-4


@pytest.fixture
def case() -> Case:
    return harness.cases("gpt2")[2]


def run(case: Case, method: str, target: str = "logit", name: str = "gpt2", **options: Any) -> Any:
    ((found, _),), engine = harness.run(harness.adapter(name)[0], [case], method, target, **options)
    return found, engine.counters


def last(case: Case, embeds: Tensor) -> Tensor:
    """The last step's logit, for embeddings [row, feature, dim]: what captum explains."""
    return torch.stack([ref.score(case, row, len(case.target) - 1, ref.logit) for row in embeds])


def test_captum_agrees_on_integrated_gradients(case: Case) -> None:
    x, b = ref.embeddings(case)[None], unknown_but_ends(case)[None]
    oracle = captum.attr.IntegratedGradients(lambda rows: last(case, rows))
    found, _ = run(case, "integrated_gradients", n_steps=8)
    expected = oracle.attribute(x, b, n_steps=8, method="gausslegendre")
    assert relative(found.scores[:, -1], expected[0]) < TOLERANCE


def test_captum_agrees_on_input_x_gradient(case: Case) -> None:
    oracle = captum.attr.InputXGradient(lambda rows: last(case, rows))
    found, _ = run(case, "input_x_gradient")
    expected = oracle.attribute(ref.embeddings(case)[None].requires_grad_())
    assert relative(found.scores[:, -1], expected[0].detach()) < TOLERANCE


def test_captum_agrees_on_gradient_shap_with_the_same_draws(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    x, b = ref.embeddings(case)[None], unknown_but_ends(case)[None]
    shares = [gradient.draw(x[0], 5, k)[0] for k in range(6)]
    monkeypatch.setattr("numpy.random.uniform", lambda low, high, n: torch.tensor(shares[:n]).numpy())
    oracle = captum.attr.GradientShap(lambda rows: last(case, rows))
    expected = oracle.attribute(x, b, n_samples=6, stdevs=0.0)
    found, _ = run(case, "gradient_shap", n_samples=6, seed=5)
    assert relative(found.scores[:, -1], expected[0]) < TOLERANCE


@pytest.mark.parametrize("quadrature", integrated.QUADRATURES)
def test_every_quadrature(quadrature: str, case: Case) -> None:
    nodes, weights = integrated.QUADRATURES[quadrature](5)
    assert float(weights.sum()) == pytest.approx(1)
    expected = ref.integrated_gradients(case, ref.logit, unknown_but_ends(case), nodes, weights)
    found, _ = run(case, "integrated_gradients", n_steps=5, quadrature=quadrature)
    assert relative(found.scores, expected) < TOLERANCE
    fine, _ = run(case, "integrated_gradients", n_steps=200, quadrature=quadrature)
    assert fine.diagnostics["delta"].abs().max() < 0.2 * max(1e-3, found.diagnostics["delta"].abs().max())


def test_sequential_ways_are_complete_token_by_token(case: Case) -> None:
    """A token's scores sum to what the target really loses when that token is replaced."""
    found, _ = run(case, "sequential_integrated_gradients", n_steps=40)
    lost = ref.occlusion(case, ref.logit, unknown_but_ends(case))
    assert relative(found.scores.sum(-1), lost) < 2e-3
    assert found.diagnostics["delta"].max() < 2e-3 * lost.abs().max()


def test_noise_of_none_is_the_gradient_itself(case: Case) -> None:
    plain = ref.gradients(case, ref.logit)
    for statistic, expected in (("mean", plain), ("square", plain**2), ("variance", torch.zeros_like(plain))):
        found, _ = run(case, "smooth_grad", noise=0.0, n_samples=3, statistic=statistic)
        assert (found.scores - expected).abs().max() < 1e-5 * plain.abs().max()


@pytest.mark.parametrize("statistic", ["mean", "square", "variance"])
def test_every_statistic(statistic: str, case: Case) -> None:
    x = ref.embeddings(case)
    given = x[: case.first]
    spread = 0.2 * float(given.max() - given.min())
    noises = [spread * gradient.draw(x, 1, k)[1] for k in range(3)]
    found, counters = run(case, "smooth_grad", n_samples=3, noise=0.2, seed=1, statistic=statistic)
    assert relative(found.scores, slow.smooth_grad(case, ref.logit, noises, statistic)) < TOLERANCE
    assert counters.rows == 3


@pytest.mark.parametrize("method", ["smooth_grad", "gradient_shap"])
def test_a_sample_s_draws_depend_on_its_seed_alone(method: str, case: Case) -> None:
    one, same, other = (run(case, method, seed=s)[0].scores for s in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(gradient.draw(one[:, 0], 7, 3)[1], gradient.draw(one[:, 0], 7, 3)[1])


@pytest.mark.parametrize("strategy", discretized.STRATEGIES)
def test_ways_through_words(strategy: str, case: Case) -> None:
    x, b = ref.embeddings(case), unknown_but_ends(case)
    words = case.model.get_input_embeddings().weight.detach()
    found = discretized.way_through_words(x, b, case.target[:-1], words, 6, strategy, 7)
    expected = [slow.word_path(x[i], b[i], int(case.target[i]), words, 6, strategy, 7) for i in range(len(x))]
    torch.testing.assert_close(found, torch.stack(expected, 1))
    assert torch.equal(found[0], b)
    assert torch.equal(found[-1], x)
    onward = found.diff(dim=0)
    assert (onward * (x - b).sign() >= -1e-6).all()


@pytest.mark.parametrize("strategy", discretized.STRATEGIES)
def test_a_way_follows_words_that_lie_on_it(strategy: str) -> None:
    """Words on a monotonic curve, others far away: every point of the way is a word, unlike those of a straight line."""
    share = torch.linspace(0, 1, 8)[:, None]
    curve = torch.cat([share, share**2, -(share**3)], 1)
    words = torch.cat([curve, torch.full((20, 3), 9.0) + torch.arange(20)[:, None]])
    way = discretized.way_through_words(curve[-1:], curve[:1], torch.tensor([7]), words, 7, strategy, 1)
    torch.testing.assert_close(way[:, 0], curve)


def test_the_gap_of_a_way_through_words_is_said(case: Case) -> None:
    """It is large where few words lie between: the last step of such a way is a jump."""
    found, _ = run(case, "discretized_integrated_gradients", n_steps=12)
    x, b = ref.embeddings(case), unknown_but_ends(case)
    with torch.no_grad():
        change = [float(ref.score(case, x, t, ref.logit) - ref.score(case, b, t, ref.logit)) for t in case.positions]
    torch.testing.assert_close(found.diagnostics["delta"], found.scores.sum((0, 2)) - torch.tensor(change))


LAYERED = ("layer_gradient_x_activation", "layer_integrated_gradients", "layer_deeplift")


@pytest.mark.parametrize("method", LAYERED)
@pytest.mark.parametrize("name", ["gpt2", "marian"])
def test_several_layers_are_as_each_alone(name: str, method: str) -> None:
    made, _ = harness.adapter(name)
    chosen = harness.cases(name)
    model: Any = made.model
    names = (
        ["transformer.h[0].attn", "transformer.h.1"]
        if name == "gpt2"
        else ["model.encoder.layers[0]", "model.decoder.layers.1"]
    )
    together, engine = harness.run(
        made, chosen, method, target_layer=[names[0], model.get_submodule(names[1].replace("[0]", ".0"))]
    )
    assert method == "layer_integrated_gradients" or engine.counters.forwards == 1
    for i, layer in enumerate(names):
        alone, _ = harness.run(made, chosen, method, target_layer=layer)
        for (both, _), (one, _) in zip(together, alone, strict=True):
            assert relative(both.scores[:, :, i], one.scores[:, :, 0]) < 1e-5


@pytest.mark.parametrize("name", ["gpt2", "llama", "bart", "t5"])
def test_a_layer_s_scores_come_true_when_its_values_are_really_exchanged(name: str) -> None:
    """Verification by intervention: a hook on the user's own model puts the baseline's values there."""
    case = harness.cases(name)[0]
    module, x = block(case.model), ref.embeddings(case)
    values = slow.layer_values(case, module, unknown_but_ends(case))
    found, _ = run(case, "layer_integrated_gradients", name=name, target_layer=module, n_steps=60)
    for step, t in enumerate(case.positions):
        with torch.no_grad(), slow.exchanged(module, values, []):
            without = ref.score(case, x, t, ref.logit)
        change = float(ref.score(case, x, t, ref.logit).detach() - without)
        gap = float(found.diagnostics["delta"][step])
        assert abs(float(found.scores[:, step].sum()) - change) == pytest.approx(gap, abs=1e-4)
        assert gap < 0.02


def test_a_layer_s_input_is_the_output_of_the_one_before(case: Case) -> None:
    first, second = (f"transformer.h.{i}" for i in (0, 1))
    before, _ = run(case, "layer_gradient_x_activation", target_layer=first)
    after, _ = run(case, "layer_gradient_x_activation", target_layer=second, attribute_to_layer_input=True)
    assert relative(after.scores, before.scores) < 1e-5
    for method in LAYERED[1:]:
        before, _ = run(case, method, target_layer=first)
        after, _ = run(case, method, target_layer=second, attribute_to_layer_input=True)
        assert relative(after.scores, before.scores) < 1e-5


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "marian", "t5"])
def test_what_passes_through_a_block_is_everything(name: str) -> None:
    """A block's DeepLIFT scores sum to the target's change: of an encoder-decoder, through both sides' last blocks."""
    case = harness.cases(name)[2]
    x, b = ref.embeddings(case), unknown_but_ends(case)
    with torch.no_grad():
        change = torch.stack([ref.score(case, x, t, ref.logit) - ref.score(case, b, t, ref.logit) for t in case.positions])
    if case.source is None:
        found, _ = run(case, "layer_deeplift", name=name, target_layer=block(case.model))
        assert relative(found.scores.sum((0, 2, 3)), change) < 1e-3
        return
    both, _ = run(case, "layer_deeplift", name=name, target_layer=last_blocks(case.model))
    alone, _ = run(case, "layer_deeplift", name=name, target_layer=last_blocks(case.model)[1])
    assert relative(both.scores[:, :, 1], alone.scores[:, :, 0]) < 1e-5
    assert relative(alone.scores.sum((0, 2, 3)), change) < 1e-3


def last_blocks(model: Any) -> list[nn.Module]:
    stacks = (model.get_encoder(), model.get_decoder())
    return [next(m for m in s.modules() if isinstance(m, nn.ModuleList) and len(m) == 2)[-1] for s in stacks]


BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({}, ArgumentError, "target_layer=None names no layer: give a module, its dotted name"),
    ({"target_layer": []}, ArgumentError, r"target_layer=\[\] names no layer"),
    ({"target_layer": ["transformer.h.0", ["transformer.h.1"]]}, ArgumentError, "names no layer"),
    ({"target_layer": "lm_head"}, ArgumentError, "is the output layer, which runs over predictions"),
    ({"target_layer": "transformer.wpe"}, ArgumentError, "do not depend on the tokens at their positions"),
    ({"target_layer": "h.0"}, UnknownNameError, "Did you mean 'transformer.h.0'"),
    ({"target_layer": "transformer.h.7"}, UnknownNameError, r"GPT2LMHeadModel has no module 'transformer.h.7'. Did you mean"),
    ({"target_layer": 3}, ArgumentError, "target_layer=3 names no layer"),
    ({"target_layer": nn.Linear(2, 2)}, ArgumentError, "a Linear that is not part of this GPT2LMHeadModel"),
    ({"target_layer": "transformer.wte"}, ArgumentError, "is the input embeddings, which the features' own scores are about"),
    ({"target_layer": ["transformer.h.0", "transformer.h.0.mlp.c_fc"]}, ArgumentError, r"equally wide, got \[32, 128\] units"),
    ({"target_layer": "transformer.h"}, UnsupportedModelError, "ModuleList is never called in the model's forward"),
]


@pytest.mark.parametrize(("options", "error", "message"), BAD)
@pytest.mark.parametrize("method", LAYERED)
def test_bad_layers(method: str, options: dict[str, Any], error: type[Exception], message: str, case: Case) -> None:
    with pytest.raises(error, match=message):
        run(case, method, **options)


def test_a_layer_of_unscored_tokens() -> None:
    made, _ = harness.adapter("marian")
    with pytest.raises(ArgumentError, match="runs over the decoder's tokens, which receive no scores here: pass"):
        harness.run(made, harness.cases("marian"), LAYERED[0], only_source=True, target_layer="model.decoder.layers.0")


def test_layers_of_a_model_that_is_not_causal() -> None:
    made, _ = harness.adapter("gpt2")
    made.facts.causal = False
    try:
        with pytest.raises(UnsupportedModelError, match=r"layers have other values at every step. Use 'integrated_gradients'"):
            harness.run(made, harness.cases("gpt2"), LAYERED[0], target_layer="transformer.h.0")
    finally:
        made.facts.causal = True
        assert check(made).causal


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("integrated_gradients", {"quadrature": "gauslegendre"}, "Did you mean 'gausslegendre'"),
        ("integrated_gradients", {"tolerance": 0.0}, "tolerance=0.0 must be above 0; 0.01 asks for one per cent"),
        ("integrated_gradients", {"quadrature": "riemann_trapezoid", "n_steps": 1}, "n_steps=1 must be at least 2"),
        ("smooth_grad", {"statistic": "median"}, "statistic='median' is not one of 'mean', 'square', 'variance'"),
        ("smooth_grad", {"statistic": "variance", "n_samples": 1}, "n_samples=1 must be at least 2"),
        ("smooth_grad", {"noise": -0.1}, "noise=-0.1 must not be below 0"),
        ("gradient_shap", {"n_samples": 0}, "n_samples=0 must be at least 1"),
        ("gradient_shap", {"stdevs": -1.0}, "stdevs=-1.0 must not be below 0"),
        ("discretized_integrated_gradients", {"strategy": "max"}, "strategy='max' is not one of 'greedy', 'maxcount'"),
        ("discretized_integrated_gradients", {"n_neighbors": 0}, "n_neighbors=0 must be at least 1"),
        ("sequential_integrated_gradients", {"n_steps": 0}, "n_steps=0 must be at least 1"),
    ],
)
def test_bad_options(method: str, options: dict[str, Any], message: str, case: Case) -> None:
    with pytest.raises(ArgumentError, match=message):
        run(case, method, **options)


@pytest.mark.parametrize("n", [1, 3])
def test_rows_are_counted_as_the_formulas_say(n: int, case: Case) -> None:
    features = case.n_features
    expected = {
        "saliency": 1,
        "smooth_grad": n,
        "gradient_shap": n + 2,
        "integrated_gradients": n + 2,
        "discretized_integrated_gradients": n + 2,
        "sequential_integrated_gradients": n * features + features + 1,
        "layer_gradient_x_activation": 1,
        "layer_integrated_gradients": n + 2 + 2,
        "layer_deeplift": 2,
    }
    for method, rows in expected.items():
        counted = {"n_samples": n} if method in ("smooth_grad", "gradient_shap") else {"n_steps": n}
        options = {} if method in ("saliency", "layer_gradient_x_activation", "layer_deeplift") else counted
        if method in LAYERED:
            options["target_layer"] = "transformer.h.0"
        _, counters = run(case, method, **options)
        assert counters.rows == rows, method
        assert counters.vjps == len(case.positions), method


@pytest.mark.parametrize(("name", "layer"), [("llama", "model.layers.0.mlp.act_fn"), ("falcon", "transformer.h.0.mlp")])
@pytest.mark.parametrize("method", LAYERED)
def test_layers_of_every_kind(method: str, name: str, layer: str) -> None:
    """An activation, which rules replace; and a layer whose values the model adds to in place."""
    case = harness.cases(name)[2]
    found, _ = (
        run(case, method, name=name, target_layer=layer, n_steps=8)
        if "integrated" in method
        else run(case, method, name=name, target_layer=layer)
    )
    assert found.scores.isfinite().all()
    assert found.scores.abs().sum() > 0


@pytest.mark.parametrize("method", LAYERED)
def test_a_module_that_is_fused_while_the_model_runs(method: str, case: Case) -> None:
    act = case.model.transformer.h[0].mlp.act
    by_object, _ = run(case, method, target_layer=act)
    by_name, _ = run(case, method, target_layer="transformer.h.0.mlp.act")
    assert torch.equal(by_object.scores, by_name.scores)


def test_small_noise_has_an_exact_variance(case: Case) -> None:
    x = ref.embeddings(case)
    given = x[: case.first]
    spread = 1e-4 * float(given.max() - given.min())
    samples = torch.stack([ref.gradients(case, ref.logit, x + spread * gradient.draw(x, 0, k)[1]) for k in range(5)])
    found, _ = run(case, "smooth_grad", noise=1e-4, n_samples=5, statistic="variance")
    assert relative(found.scores, samples.double().var(0, unbiased=False)) < 1e-3


def test_noise_does_not_depend_on_later_tokens(case: Case) -> None:
    target = case.target.clone()
    target[-2:] = torch.tensor([5, 6])
    found = [
        run(Case(case.model, None, t, case.first), "smooth_grad")[0].scores[: case.first, 0] for t in (case.target, target)
    ]
    assert torch.equal(*found)
