"""The rows of the property table: methods, each with its slow definition and what it is run with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import reference as ref
import reference_gradient as slow_gradient
import reference_internals as inside
import reference_perturbation as slow_perturbation
import reference_relevance as rel
import torch
import zoo
from harness import OfModel
from reference import Case
from torch import Tensor, nn

from inseq.engine.budget import Budget
from inseq.methods import gradient, reagent, shapley, surrogate
from inseq.methods import method as methods

N_STEPS = 6
TOLERANCE = 2e-5
TINY = Budget(tokens=30, logits=2 * zoo.VOCAB, cotangents=1500)
TARGETS = ("probability", "logit", "entropy", "crossentropy", "perplexity")
ENTRIES = [(name, kind) for name, recipe in zoo.ZOO.items() for kind in recipe.attention]


@dataclass(frozen=True)
class Row:
    """A method, its slow definition and what else is true of it.

    ``compared`` says which of the three examples a slow definition is evaluated on, the shortest alone where it is very slow;
    ``half`` holds options under which half precision takes the same decisions: what a method decides on a threshold, it may
    decide otherwise where numbers are rounded; ``alike`` how well scores of a bfloat16 model correlate with those of its
    float32 twin at least, and why that is less than usual stands at the row. ``forwards`` is what a batch takes without and
    with step scores; ``rows`` how many rows an example takes, by its numbers of features and steps, with the options of
    ``counted``, of which ``recorded_apart`` are for step scores alone; ``products`` whether each step takes a
    vector-Jacobian product; ``causal`` what is said of a model that is not
    causal, by a method that needs one; ``refuses`` names the models a method cannot be right on; ``eager``
    says that it always attends eagerly, so that one entry a model is enough: that models built for sdpa give the same is in
    test_relevance.py.
    """

    slow: Callable[..., Tensor]
    options: dict[str, Any] = field(default_factory=dict)
    compared: tuple[int, ...] = (0, 1, 2)
    half: dict[str, Any] = field(default_factory=dict)
    alike: float = 0.98
    forwards: tuple[int, int] = (1, 1)
    rows: Callable[[int, int], int] = lambda n, steps: 1
    counted: dict[str, Any] = field(default_factory=dict)
    recorded_apart: int = 0
    products: bool = False
    causal: str | None = None
    refuses: frozenset[str] = frozenset()
    eager: bool = False


def unknown(case: Case) -> Tensor:
    """What the default baseline is: every token ``<unk>``, except ends of sequence and the decoder's start."""
    target = torch.full_like(case.target, zoo.UNK)
    source = None if case.source is None else torch.full_like(case.source, zoo.UNK)
    embeds = ref.embeddings(Case(case.model, source, target, case.first))
    own = ref.embeddings(case)
    if case.source is not None:
        embeds[case.n_source] = own[case.n_source]
    return embeds


def unknown_but_ends(case: Case) -> Tensor:
    embeds, own = unknown(case), ref.embeddings(case)
    ids = case.target[:-1] if case.source is None else torch.cat([case.source, case.target[:-1]])
    return torch.where((ids == zoo.EOS)[:, None], own, embeds)


def slow_ig(case: Case, fn: ref.StepFunction, **kwargs: Any) -> Tensor:
    nodes, weights = np.polynomial.legendre.leggauss(N_STEPS)
    return ref.integrated_gradients(case, fn, unknown_but_ends(case), (nodes + 1) / 2, weights / 2, **kwargs)


def slow_attention(case: Case, fn: ref.StepFunction, *, only_source: bool = False) -> Tensor:
    found = ref.attention(_eager(case))
    return found[: case.n_source] if only_source else found


def _eager(case: Case) -> Case:
    """The same case on the model with eager attention: the others keep no weights."""
    if case.model.config._attn_implementation == "eager":
        return case
    return replace(case, model=zoo.build(_name(case), "eager", case.model.dtype))


def _name(case: Case) -> str:
    return next(n for n, kind in ENTRIES if zoo.build(n, kind, case.model.dtype) is case.model)


METHODS: dict[str, Row] = {
    "saliency": Row(ref.saliency, products=True),
    "input_x_gradient": Row(ref.input_x_gradient, products=True),
    "integrated_gradients": Row(
        slow_ig, {"n_steps": N_STEPS}, forwards=(2, 2), rows=lambda n, steps: N_STEPS + 2, products=True
    ),
    "occlusion": Row(lambda case, fn, **kwargs: ref.occlusion(case, fn, unknown(case), **kwargs), rows=lambda n, steps: n + 1),
    "attention": Row(slow_attention),
}
N_SAMPLES, N_ORDERS, N_SETS = 12, 2, 8


def slow_lime(case: Case, fn: ref.StepFunction, *, only_source: bool = False) -> Tensor:
    n = case.n_source if only_source else case.n_features
    never = (unknown(case) == ref.embeddings(case)).all(1)[:n]
    kept = surrogate.draw_kept(N_SAMPLES, n, seed=3) | never
    return ref.lime(case, fn, unknown(case), kept, width=0.25, ridge=1.0, only_source=only_source)


def slow_shapley(case: Case, fn: ref.StepFunction, *, only_source: bool = False) -> Tensor:
    n = case.n_source if only_source else case.n_features
    orders = shapley.draw_orders(N_ORDERS, n, seed=3)
    return ref.shapley_sampling(case, fn, unknown(case), orders, only_source=only_source)


METHODS["lime"] = Row(slow_lime, {"n_samples": N_SAMPLES, "seed": 3}, rows=lambda n, steps: N_SAMPLES)
METHODS["shapley_sampling"] = Row(
    slow_shapley, {"n_permutations": N_ORDERS, "seed": 3}, rows=lambda n, steps: 2 + 2 * N_ORDERS * (n - 1)
)


SHORTEST = (2,)
SAMPLES = 3


def slow_smooth(case: Case, fn: ref.StepFunction, statistic: str, *, only_source: bool = False) -> Tensor:
    x = ref.embeddings(case)[: case.n_source if only_source else None]
    given = x[: case.n_source or case.first]
    spread = 0.1 * float(given.max() - given.min())
    noises = [spread * gradient.draw(x, 3, k)[1] for k in range(SAMPLES)]
    return slow_gradient.smooth_grad(case, fn, noises, statistic, only_source=only_source)


def slow_gradient_shap(case: Case, fn: ref.StepFunction, *, only_source: bool = False) -> Tensor:
    x = ref.embeddings(case)[: case.n_source if only_source else None]
    draws = [(share, 0.05 * noise) for share, noise in (gradient.draw(x, 3, k) for k in range(SAMPLES))]
    return slow_gradient.gradient_shap(case, fn, unknown_but_ends(case), draws, only_source=only_source)


def slow_sequential(case: Case, fn: ref.StepFunction, **kwargs: Any) -> Tensor:
    nodes, weights = np.polynomial.legendre.leggauss(2)
    baseline = unknown_but_ends(case)
    return slow_gradient.sequential_integrated_gradients(case, fn, baseline, (nodes + 1) / 2, weights / 2, **kwargs)


def slow_discretized(case: Case, fn: ref.StepFunction, strategy: str, *, only_source: bool = False) -> Tensor:
    x, b = ref.embeddings(case), unknown_but_ends(case)
    tables = {source: vocabulary(case, source) for source in {i < case.n_source for i in range(case.n_features)}}
    ids = case.target[:-1] if case.source is None else torch.cat([case.source, case.target[:-1]])
    ways = [
        slow_gradient.word_path(x[i], b[i], int(ids[i]), tables[i < case.n_source], 4, strategy, 5)
        for i in range(case.n_source if only_source else case.n_features)
    ]
    return slow_gradient.along(case, fn, torch.stack(ways, 1), only_source=only_source)


def vocabulary(case: Case, source: bool) -> Tensor:
    """[word, dim]: every word as it enters the first layer."""
    side = case.model if case.source is None else case.model.get_encoder() if source else case.model.get_decoder()
    table = side.get_input_embeddings()
    with torch.no_grad():
        return table(torch.arange(table.num_embeddings)) * ref._factor(case.model)


def block(model: Any, only_source: bool = False) -> nn.Module:
    """The first block of the decoder, or of the encoder where its tokens alone are attributed."""
    stack = model.get_encoder() if only_source else model.get_decoder()
    return next(module for module in stack.modules() if isinstance(module, nn.ModuleList) and len(module) in (1, 2))[0]


def slow_layer(case: Case, fn: ref.StepFunction, *, only_source: bool = False) -> Tensor:
    module = block(case.model, only_source)
    found = slow_gradient.layer_gradient_x_activation(case, fn, module, source=only_source)
    return (found[: case.n_source] if only_source else found)[:, :, None]


def slow_layer_ig(case: Case, fn: ref.StepFunction, *, only_source: bool = False) -> Tensor:
    nodes, weights = np.polynomial.legendre.leggauss(3)
    module, b = block(case.model, only_source), unknown_but_ends(case)
    if only_source:
        b[case.n_source :] = ref.embeddings(case)[case.n_source :]
    found = slow_gradient.layer_integrated_gradients(case, fn, module, b, (nodes + 1) / 2, weights / 2, source=only_source)
    return (found[: case.n_source] if only_source else found)[:, :, None]


def with_(slow: Callable[..., Tensor], value: str) -> Callable[..., Tensor]:
    return lambda case, fn, **kwargs: slow(case, fn, value, **kwargs)


METHODS["smooth_grad"] = Row(
    with_(slow_smooth, "variance"),
    {"n_samples": SAMPLES, "seed": 3, "statistic": "variance"},
    forwards=(1, 2),
    rows=lambda n, steps: SAMPLES + 1,
    recorded_apart=1,
    products=True,
)
METHODS["gradient_shap"] = Row(
    slow_gradient_shap,
    {"n_samples": SAMPLES, "seed": 3, "stdevs": 0.05},
    forwards=(2, 2),
    rows=lambda n, steps: SAMPLES + 2,
    products=True,
)
METHODS["sequential_integrated_gradients"] = Row(
    slow_sequential, {"n_steps": 2}, SHORTEST, forwards=(2, 2), rows=lambda n, steps: 2 * n + n + 1, products=True
)
METHODS["discretized_integrated_gradients"] = Row(  # rounded embeddings have other nearest words, so the way is another one
    with_(slow_discretized, "greedy"),
    {"n_steps": 4, "n_neighbors": 5},
    SHORTEST,
    alike=0.8,
    forwards=(2, 2),
    rows=lambda n, steps: 4 + 2,
    products=True,
)
NO_LAYERS = "its layers have other values at every step. Use 'integrated_gradients'"
METHODS["layer_gradient_x_activation"] = Row(slow_layer, {"target_layer": OfModel(block)}, products=True, causal=NO_LAYERS)
METHODS["layer_integrated_gradients"] = Row(
    slow_layer_ig,
    {"target_layer": OfModel(block), "n_steps": 3},
    forwards=(3, 3),
    rows=lambda n, steps: 2 + 3 + 2,
    products=True,
    causal=NO_LAYERS,
)


def slow_kernel_shap(case: Case, fn: ref.StepFunction, *, only_source: bool = False) -> Tensor:
    n = case.n_source if only_source else case.n_features
    players = (unknown(case) != ref.embeddings(case)).any(1)[:n].nonzero()[:, 0].tolist()
    sets = shapley.draw_sets(N_SETS, len(players), seed=3)
    return slow_perturbation.kernel_shap(case, fn, unknown(case), sets, players, only_source=only_source)


def slow_context_cite(case: Case, fn: ref.StepFunction, *, only_source: bool = False) -> Tensor:
    """The sources are the tokens of the source but its end, or those of the prompt."""
    n = case.n_source if only_source else case.n_features
    held = torch.eye(n, dtype=torch.bool)[: case.first if case.source is None else case.n_source - 1]
    kept = surrogate.draw_sources(N_SAMPLES, len(held), 3, some=False)[-N_SAMPLES:]
    return slow_perturbation.context_cite(case, unknown(case), kept, held, 0.01, only_source=only_source)


def slow_reagent(case: Case, fn: ref.StepFunction, *, only_source: bool = False) -> Tensor:
    n = case.n_source if only_source else case.n_features
    draws = reagent.draw_probes(2, 2, n, 0.3, seed=3)
    found = slow_perturbation.reagent(case, draws, True, keep_top_n=3, top_k=20, only_source=only_source)
    return found.to(case.model.dtype)


METHODS["kernel_shap"] = Row(slow_kernel_shap, {"n_samples": N_SETS, "seed": 3}, rows=lambda n, steps: N_SETS)
METHODS["context_cite"] = Row(
    slow_context_cite,
    {"n_samples": N_SAMPLES, "sources": "tokens", "seed": 3},
    rows=lambda n, steps: N_SAMPLES + N_SAMPLES // 4,
)
METHODS["reagent"] = Row(
    slow_reagent,
    {"n_runs": 2, "max_probes": 2, "keep_top_n": 3, "top_k": 20, "seed": 3},
    half={"replacements": "vocabulary", "n_runs": 1, "max_probes": 1},
    forwards=(6, 6),
    rows=lambda n, steps: 2 + 2 + 2 * steps,
    counted={"max_probes": 1},
)


def slow_rollout(case: Case, fn: ref.StepFunction, *, only_source: bool = False) -> Tensor:
    return inside.attention_rollout(_eager(case), only_source=only_source)


def slow_value_zeroing(case: Case, fn: ref.StepFunction, *, only_source: bool = False) -> Tensor:
    return inside.value_zeroing(case, only_source=only_source, by_step=type(case.model).__name__ == "Bidirectional")


def slow_alti(case: Case, fn: ref.StepFunction, *, only_source: bool = False) -> Tensor:
    by_step = type(case.model).__name__ == "Bidirectional"
    return inside.alti(_eager(case), only_source=only_source, by_step=by_step)


def slow_alti_logit(case: Case, fn: ref.StepFunction, *, only_source: bool = False) -> Tensor:
    return inside.alti_logit(_eager(case), only_source=only_source)


NO_INTERFACE = frozenset({"gpt_neo", "bloom", "falcon"})
NO_SUM_OF_LAYERS = frozenset({"marian", "marian_separate", "marian_one_layer", "bart", "opt_projected"})
METHODS["attention_rollout"] = Row(slow_rollout)
METHODS["value_zeroing"] = Row(slow_value_zeroing, refuses=NO_INTERFACE)
METHODS["alti"] = Row(slow_alti, refuses=NO_INTERFACE)
METHODS["alti_logit"] = Row(slow_alti_logit, refuses=NO_INTERFACE | NO_SUM_OF_LAYERS, forwards=(2, 2), rows=lambda n, steps: 2)


def slow_relevance(method: str) -> Callable[..., Tensor]:
    def slow(case: Case, fn: ref.StepFunction, *, only_source: bool = False) -> Tensor:
        factor = ref.embeddings(case) - (unknown_but_ends(case) if method == "gim" else 0)
        found = rel.relevances(_eager(case), fn, rel.RULES[method], factor)
        return found[: case.n_source] if only_source else found

    return slow


def slow_deeplift(case: Case, fn: ref.StepFunction, **kwargs: Any) -> Tensor:
    return rel.deeplift(_eager(case), fn, unknown_but_ends(case), **kwargs)


for name in rel.RULES:
    METHODS[name] = Row(
        slow_relevance(name),
        forwards=(1, 2) if name == "gim" else (2, 2),
        rows=lambda n, steps: 1 + 1,
        recorded_apart=1 if name == "gim" else 0,
        products=True,
        eager=True,
    )
METHODS["deeplift"] = Row(
    slow_deeplift, forwards=(2, 2), rows=lambda n, steps: 2 + 2, products=True, refuses=frozenset({"mixtral"}), eager=True
)


def slow_layer_deeplift(case: Case, fn: ref.StepFunction, *, only_source: bool = False) -> Tensor:
    eager = _eager(case)
    module = block(eager.model, only_source)
    found = rel.layer_deeplift(eager, fn, module, unknown_but_ends(case), source=only_source, only_source=only_source)
    return (found[: case.n_source] if only_source else found)[:, :, None]


METHODS["layer_deeplift"] = Row(
    slow_layer_deeplift,
    {"target_layer": OfModel(block)},
    SHORTEST,
    forwards=(1, 2),
    rows=lambda n, steps: 2 + 1,
    recorded_apart=1,
    products=True,
    causal=NO_LAYERS,
    refuses=frozenset({"mixtral"}),
    eager=True,
)
DETERMINED = [m for m in METHODS if methods[m].facts.get("uses_target", True)]


def served(entries: Sequence[Any]) -> list[Any]:
    """Methods x models, without those that the method refuses: (method, name) or (method, name, attention)."""
    pairs = [(method, *((entry,) if isinstance(entry, str) else entry)) for method in METHODS for entry in entries]
    return [
        pair
        for pair in pairs
        if pair[1] not in METHODS[pair[0]].refuses and not (METHODS[pair[0]].eager and pair[2:] == ("sdpa",))
    ]


HEAVY = {
    *("sequential_integrated_gradients", "discretized_integrated_gradients", "smooth_grad"),
    *("reagent", "context_cite", "shapley_sampling", "value_zeroing"),
}


def spared(entries: Sequence[Any]) -> list[Any]:
    """The same; methods of many forwards have the second attention implementation of a model in the slow group."""
    return [
        pytest.param(*pair, marks=pytest.mark.slow) if pair[0] in HEAVY and pair[2:] == ("sdpa",) else pair
        for pair in served(entries)
    ]
