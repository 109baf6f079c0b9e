"""The engine on the zoo's models: what the property tables have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
import zoo
from reference import Case

from inseq.engine.budget import Budget
from inseq.engine.scheduler import Engine, StepScores
from inseq.methods import Attribution
from inseq.methods import method as methods
from inseq.models.adapter import Adapter, DecoderOnly, EncoderDecoder
from inseq.models.check import check
from inseq.models.facts import Capabilities
from inseq.requests import Target
from inseq.targets import step_function
from inseq.text.encode import Encoder

LENGTHS = ((7, 11, 4), (5, 14, 11), (9, 7, 2))
"""Source length, target length and first generated position of three unequal examples."""


@dataclass(frozen=True)
class OfModel:
    """An option that depends on the model: a function of it, and of whether the source alone is attributed."""

    choose: Callable[[Any, bool], Any]


def given(options: dict[str, Any], model: Any, only_source: bool = False) -> dict[str, Any]:
    """Options for one model."""
    return {k: v.choose(model, only_source) if isinstance(v, OfModel) else v for k, v in options.items()}


@cache
def adapter(name: str, attention: str = "eager", dtype: torch.dtype = torch.float32) -> tuple[Adapter, Capabilities]:
    recipe = zoo.ZOO[name]
    model = zoo.build(name, attention, dtype)
    made: Adapter
    if recipe.encoder_decoder:
        made = EncoderDecoder(model, Encoder(zoo.tokenizer("words_eos"), start=recipe.start))
    else:
        made = DecoderOnly(model, Encoder(zoo.tokenizer("words")))
    return made, check(made)


def cases(name: str, attention: str = "eager", dtype: torch.dtype = torch.float32) -> list[Case]:
    recipe = zoo.ZOO[name]
    found = []
    for seed, (n_source, n_target, first) in enumerate(LENGTHS):
        target = zoo.random_ids(n_target, seed=seed, vocab=recipe.target_vocab)
        source = None
        if recipe.encoder_decoder:
            source = torch.cat([zoo.random_ids(n_source - 1, seed=10 + seed), torch.tensor([zoo.EOS])])
            target[0] = recipe.start
        found.append(Case(zoo.build(name, attention, dtype), source, target, first))
    return found


def run(
    made: Adapter,
    chosen: Sequence[Case],
    method: str,
    target: str = "probability",
    *,
    only_source: bool = False,
    granular: bool = True,
    recorded: Sequence[str] = (),
    budget: Budget | None = None,
    spans: Sequence[Sequence[tuple[int, int]]] | None = None,
    **options: Any,
) -> tuple[list[tuple[Attribution, StepScores]], Engine]:
    engine = Engine(made, budget)
    examples = [
        made.example(
            [] if case.source is None else case.source.tolist(),
            case.target.tolist(),
            case.first,
            case.positions,
            attribute_target=not only_source,
            granular=granular,
            spans=None if spans is None else spans[i],
        )
        for i, case in enumerate(chosen)
    ]
    found = engine.run(
        [(x, methods[method].function(x, **given(options, made.model, only_source))) for x in examples],
        aimed_at(target),
        {name: aimed_at(name) for name in recorded},
    )
    return found, engine


def function(name: str) -> Any:
    if name == "log_probability":
        return partial(step_function["probability"].function, logprob=True)
    return step_function[name].function


def aimed_at(name: str) -> Target:
    """A step function with what it declares of itself."""
    facts = step_function["probability" if name == "log_probability" else name].facts
    return Target(function(name), name, of_written=facts.get("of_written", False))


def relative(got: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference, in units of the largest expected value."""
    assert got.shape == expected.shape, (got.shape, expected.shape)
    got, expected = got.detach().double(), expected.detach().double()
    return float((got - expected).abs().max() / expected.abs().max().clamp_min(1e-30))
