"""Step functions as people wrote them for Inseq 0.7.1: of ``args``, one step at a time."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor


@dataclass
class StepFunctionArgs:
    """What such a function is given at one step, for a batch of texts or of variants of one.

    Attributes:
        attribution_model: the model and its tokenizer, with Inseq's names for what can be asked of them.
        forward_output: what the model returned for the prefixes; the step's prediction is that of the last position.
        target_ids: the written tokens.
        decoder_input_ids: the prefixes: of a decoder-only model, prompts included.
        decoder_input_embeds: the same as embeddings, altered where a method alters them, as the model's forward takes them.
        decoder_attention_mask: ones.
        is_attributed_fn: whether the function is attributed, and not recorded.
        encoder_input_ids: the sources, padded on the right; None for a decoder-only model.
        encoder_input_embeds: the same as embeddings, as the model's forward takes them.
        encoder_attention_mask: which source positions are real.
    """

    attribution_model: Any
    forward_output: Any
    target_ids: Int[Tensor, " row"]
    decoder_input_ids: Int[Tensor, "row decoder"]
    decoder_input_embeds: Float[Tensor, "row decoder dim"]
    decoder_attention_mask: Int[Tensor, "row decoder"]
    is_attributed_fn: bool = False
    encoder_input_ids: Int[Tensor, "row source"] | None = None
    encoder_input_embeds: Float[Tensor, "row source dim"] | None = None
    encoder_attention_mask: Int[Tensor, "row source"] | None = None


class InseqForm:
    """A function of :class:`StepFunctionArgs`, marked so that it is run step by step; its other parameters are options."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.__name__ = getattr(function, "__name__", "custom")
        self.__doc__ = function.__doc__
        self.__signature__ = _options(function)

    def __call__(self, args: StepFunctionArgs, **options: Any) -> Any:
        return self.function(args, **options)


def is_inseq_form(function: Callable[..., Any]) -> bool:
    """Whether a function is written for Inseq 0.7.1: its first parameter is called ``args``, or annotated so."""
    if isinstance(function, InseqForm):
        return True
    first = next(iter(inspect.signature(function).parameters.values()), None)
    if first is None:
        return False
    annotation = first.annotation if isinstance(first.annotation, str) else getattr(first.annotation, "__name__", "")
    return first.name == "args" or ("StepFunction" in annotation and annotation.rstrip("'\"").endswith("Args"))


def _options(function: Callable[..., Any]) -> inspect.Signature:
    """The signature with every parameter after the first by keyword only."""
    first, *others = inspect.signature(function).parameters.values()
    named = [p.replace(kind=p.KEYWORD_ONLY) for p in others if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    return inspect.Signature([first.replace(kind=first.POSITIONAL_ONLY), *named])
