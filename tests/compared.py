"""Pairs of unequal texts through the facade, and the same as cases of the slow definitions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import reference as ref
import reference_targets as slow
import torch
import zoo
from reference import Case
from rows import slow_ig, unknown
from torch import Tensor

import inseq

QUIET: dict[str, Any] = {"show_progress": False}
FAMILIES = ("gpt2", "llama", "marian", "t5")


FUNCTIONS: dict[str, slow.PairFunction] = {name: slow.alone(fn) for name, fn in slow.ONE.items()} | slow.TWO
COUNTS = ("rank", "top_p_size")
METHODS: dict[str, tuple[Callable[..., Tensor], dict[str, Any]]] = {
    "saliency": (ref.saliency, {}),
    "integrated_gradients": (slow_ig, {"n_steps": 6}),
    "occlusion": (lambda case, fn: ref.occlusion(case, fn, unknown(case)), {}),
}


@dataclass(frozen=True)
class Texts:
    """Inputs, forced outputs and what they are compared with; of unequal lengths, with prefixes that differ."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    contrasts: tuple[str, ...]


DECODER_ONLY = Texts(("w1 w2 w8", "w3"), ("w1 w2 w8 w3 w4 w5", "w3 w9 w10"), ("w6 w2 w8 w3 w7 w5", "w3 w8 w9 w11 w10"))
ENCODER_DECODER = Texts(("w1 w2 w8", "w3"), ("w3 w4 w5", "w9 w10"), ("w3 w7 w5 w6", "w11"))


def texts(name: str) -> Texts:
    return ENCODER_DECODER if zoo.ZOO[name].encoder_decoder else DECODER_ONLY


@cache
def load(name: str, dtype: torch.dtype = torch.float32) -> inseq.AttributionModel:
    kind: Any = "words_eos" if zoo.ZOO[name].encoder_decoder else "words"
    return inseq.load_model(zoo.build(name, dtype=dtype), tokenizer=zoo.tokenizer(kind))


def ids(model: inseq.AttributionModel, text: str, *, output: bool) -> list[int]:
    """Ids by the tokenizer itself: the words kinds have one side."""
    start = [model.model.generation_config.decoder_start_token_id] if output and model.is_encoder_decoder else []
    return start + list(model.tokenizer(text)["input_ids"])


def case(model: inseq.AttributionModel, source: str, target: str, first: int = 1) -> Case:
    """A sequence as a case; of a decoder-only model the source is part of the target, and left out."""
    encoded = torch.tensor(ids(model, source, output=False)) if model.is_encoder_decoder else None
    return Case(model.model, encoded, torch.tensor(ids(model, target, output=True)), first)


def cases(model: inseq.AttributionModel, name: str) -> list[tuple[Case, Case]]:
    """Each output with its contrast."""
    found = []
    chosen = texts(name)
    for source, output, contrast in zip(chosen.inputs, chosen.outputs, chosen.contrasts, strict=True):
        first = 1 if model.is_encoder_decoder else len(source.split())
        found.append((case(model, source, output, first), case(model, source, contrast)))
    return found


def scores(found: inseq.FeatureAttributionSequenceOutput) -> Tensor:
    """[feature, step, ...]: both sides on one axis, zero where a step has not read."""
    parts = [part for part in (found.source_attributions, found.target_attributions) if part is not None]
    if found.target_attributions is not None:
        parts[-1] = parts[-1][:-1]
    return torch.cat(parts).nan_to_num(0.0)


def pairs(positions: Sequence[Sequence[int]]) -> dict[int, int]:
    """As ``info["contrast"]`` has them: the contrast's position by position."""
    return {pair[0]: pair[1] for pair in positions}
