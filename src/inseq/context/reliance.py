"""PECoRe: which output tokens depend on the context, and on which of its tokens (sarti2024quantifying).

Context-sensitive target identification (CTI) compares the predictions of the same output with and without the context.
Contextual-cue imputation (CCI) attributes the sensitive tokens, with the context, to the context's tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor

from inseq.api import load_model
from inseq.call.functions import can_compare, step_function_entry
from inseq.compat.language import with_language
from inseq.context.arguments import AttributeContextArgs
from inseq.context.layout import Laid, lay_out
from inseq.errors import ArgumentError
from inseq.outputs.context import AttributeContextOutput
from inseq.outputs.sequence import FeatureAttributionSequenceOutput
from inseq.registry import bind
from inseq.requests import Prediction
from inseq.results.aggregate.pipeline import aggregate_at
from inseq.results.context import CCIOutput, selected
from inseq.targets import step_function as step_functions

if TYPE_CHECKING:
    from inseq.call.model import AttributionModel


def attribute_context(
    model: Any, input_current_text: str, input_context_text: str | None = None, **arguments: Any
) -> AttributeContextOutput:
    """Find which output tokens depend on the context, and on which of its tokens.

    Args:
        model: a loaded :class:`AttributionModel`, or what :func:`load_model` takes.
        input_current_text: the text that the output answers, translates or continues.
        input_context_text: what stands before it.
        **arguments: fields of :class:`AttributeContextArgs`.

    Raises:
        ArgumentError, UnknownArgumentError: for an argument that cannot be used.
    """
    known: dict[str, Any] = dict.fromkeys(AttributeContextArgs.__dataclass_fields__)
    bind(arguments, {"attribute_context": known})
    loaded = hasattr(model, "attribute")
    name = model.model_name if loaded else model if isinstance(model, str) else type(model).__name__
    arguments = {"model_name_or_path": name, **arguments}
    if loaded:
        arguments = {"attribution_method": model.method, **arguments}
    args = AttributeContextArgs(input_current_text, input_context_text, **arguments)
    return attribute_context_with_model(args, model if loaded else loaded_model(args, model))


def loaded_model(args: AttributeContextArgs, model: Any = None) -> AttributionModel:
    """The model that the arguments name."""
    return load_model(
        args.model_name_or_path if model is None else model,
        args.attribution_method,
        device=args.device,
        model_kwargs=args.model_kwargs or None,
        tokenizer_kwargs=args.tokenizer_kwargs or None,
    )


def attribute_context_with_model(
    args: AttributeContextArgs, model: AttributionModel, ask: Callable[[str], str] = input
) -> AttributeContextOutput:
    """:func:`attribute_context` with its arguments in one object; ``ask`` puts the questions where they are wanted."""
    metric = step_functions[args.context_sensitivity_metric]
    if not can_compare(metric):
        compared = [name for name in step_functions if can_compare(step_functions[name])]
        raise ArgumentError(
            f"context_sensitivity_metric={metric.name!r} does not compare with anything: choose from {', '.join(compared)}."
        )
    args = replace(args, generation_kwargs=with_language(args.generation_kwargs, args.tokenizer_kwargs, model.tokenizer))
    laid = lay_out(model, args, ask)
    if laid.plain_source == laid.source and laid.plain_prefix == laid.target[: laid.current[0]]:
        raise ArgumentError(
            "The model reads the same with and without context: pass input_context_text, output_context_text, or another "
            "contextless_input_current_text."
        )
    scores, choices = _sensitivity(model, args, laid)
    chosen = selected(scores, args.context_sensitivity_std_threshold, args.context_sensitivity_topk)
    encoder = model.adapter.encoder

    def pieces(ids: list[int]) -> list[str]:
        return [str(token) for token in encoder.tokens(ids, ["generated"] * len(ids))]

    in_ids = laid.source if model.is_encoder_decoder else laid.target
    output = AttributeContextOutput(
        input_context=args.input_context_text,
        input_context_tokens=pieces([in_ids[i] for i in laid.input_context]) if args.input_context_text is not None else None,
        output_context=laid.output_context_text,
        output_context_tokens=(
            pieces([laid.target[i] for i in laid.output_context]) if laid.output_context_text is not None else None
        ),
        output_current=laid.output_current_text,
        output_current_tokens=pieces([laid.target[i] for i in laid.current]),
        cti_scores=scores,
        info=args.to_dict() if args.add_output_info else None,
    )
    others = _others(model, args, laid, chosen, choices, ask)
    columns = _cues(model, args, laid, chosen, others) if chosen else []
    for k, other, (found, column) in zip(chosen, others, columns, strict=True):
        at = laid.current[k]
        rows = found.source_attributions if model.is_encoder_decoder else found.target_attributions
        targets = found.target_attributions
        written = laid.target[laid.current[0] : at]
        output.cci_scores.append(
            CCIOutput(
                cti_idx=k,
                cti_token=pieces([laid.target[at]])[0],
                cti_score=scores[k],
                contextual_output=_decoded(model, laid.target[: at + 1]),
                contrast_token=None if other is None else pieces([other])[0],
                contextless_output=None if other is None else _decoded(model, [*laid.plain_prefix, *written, other]),
                input_context_scores=_taken(rows, laid.input_context, column) if output.input_context is not None else None,
                output_context_scores=_taken(targets, laid.output_context, column)
                if output.output_context is not None
                else None,
            )
        )
    return output


def choice(p: Prediction) -> Float[Tensor, " n"]:
    """The id that the contrast's own prediction prefers."""
    return (p if p.contrast is None else p.contrast).logits.argmax(-1).double()


def _sensitivity(model: AttributionModel, args: AttributeContextArgs, laid: Laid) -> tuple[list[float], list[int]]:
    """For each current token: how much the context changes its prediction, and what is preferred without context."""
    start = len(laid.target) if model.is_encoder_decoder else laid.current[0]
    sources: dict[str, Any] = {"contrast_sources": [laid.plain_source]} if model.is_encoder_decoder else {}
    found = model.attribute(
        [laid.source if model.is_encoder_decoder else laid.target[:start]],
        [laid.target],
        method="dummy",
        step_scores=[args.context_sensitivity_metric, choice],  # type: ignore[list-item]
        positions=laid.current,
        contrast_targets=[laid.plain_prefix + laid.body],
        contrast_targets_alignments=[(i, laid.plain(i)) for i in laid.current],
        show_progress=False,
        **sources,
    )[0]
    if args.show_intermediate_outputs:
        found.show()
    values = found.step_scores
    return values[args.context_sensitivity_metric].tolist(), [int(i) for i in values["choice"].tolist()]


def _others(
    model: AttributionModel,
    args: AttributeContextArgs,
    laid: Laid,
    chosen: list[int],
    choices: list[int],
    ask: Callable[[str], str],
) -> list[int | None]:
    """For each selected token what a contrastive target compares it with; nothing where the target compares nothing."""
    target = step_function_entry(args.attributed_fn or model.default_attributed_fn_id, "attributed_fn")
    if not can_compare(target):
        return [None] * len(chosen)
    named: list[str] = args.contextless_output_next_tokens
    if args.prompt_user_for_contextless_output_next_tokens:
        said = [_decoded(model, laid.target[laid.current[0] : laid.current[k] + 1]) for k in chosen]
        named = [ask(f"Without context, what is written in place of the last token of {text!r}? ") for text in said]
    if not named:
        return [choices[k] for k in chosen]
    if len(named) != len(chosen):
        raise ArgumentError(f"contextless_output_next_tokens has {len(named)} tokens, and {len(chosen)} were selected.")
    return [_id_of(model, name, laid.target[laid.current[k]]) for k, name in zip(chosen, named, strict=True)]


def _id_of(model: AttributionModel, name: str, beside: int) -> int:
    """The id of a token given by its text: with a leading blank where the token that it replaces has one."""
    encoder = model.adapter.encoder
    blank = encoder.tokens([beside], ["generated"])[0].text.startswith(" ")
    for text in (f" {name}" if blank else name, name):
        found = encoder.id_of(text)
        if found is not None:
            return found
    raise ArgumentError(f"contextless_output_next_tokens: {name!r} is more than one token of this model.")


def _cues(
    model: AttributionModel, args: AttributeContextArgs, laid: Laid, chosen: list[int], others: list[int | None]
) -> list[tuple[FeatureAttributionSequenceOutput, int]]:
    """For each selected token its attribution: an output, and which of its columns.

    Tokens without a contrast are columns of one text. Those with one are texts of one call, or of two, where some compare
    predictions under both contexts (``contrast_force_inputs``), as their token is the same in both.
    """
    if others[0] is None:
        at = sorted(laid.current[k] for k in chosen)
        found = _attributed(model, args, [laid.target], [at], laid, None, forced=False)[0]
        return [(found, at.index(laid.current[k])) for k in chosen]
    facts = step_function_entry(args.attributed_fn or model.default_attributed_fn_id, "attributed_fn").facts
    columns: dict[int, tuple[FeatureAttributionSequenceOutput, int]] = {}
    same = {
        k: bool(facts.get("difference")) and laid.target[laid.current[k]] == o for k, o in zip(chosen, others, strict=True)
    }
    for forced in (False, True):
        group = [(k, o) for k, o in zip(chosen, others, strict=True) if same[k] == forced]
        if group:
            at = [laid.current[k] for k, _ in group]
            contrasts = [
                [*laid.plain_prefix, *laid.target[laid.current[0] : i], o] for i, (_, o) in zip(at, group, strict=True)
            ]
            targets = [laid.target[: i + 1] for i in at]
            found_all = _attributed(model, args, targets, [[i] for i in at], laid, contrasts, forced=forced)
            columns |= {k: (found, 0) for (k, _), found in zip(group, found_all, strict=True)}
    return [columns[k] for k in chosen]


def _attributed(
    model: AttributionModel,
    args: AttributeContextArgs,
    targets: list[list[int]],
    positions: list[list[int]],
    laid: Laid,
    contrasts: Any,
    *,
    forced: bool,
) -> list[FeatureAttributionSequenceOutput]:
    sourced = model.is_encoder_decoder
    more: dict[str, Any] = {}
    if contrasts is not None:
        more = {"contrast_targets": contrasts, "contrast_targets_alignments": [[(p[0], laid.plain(p[0]))] for p in positions]}
        more |= {"contrast_sources": [laid.plain_source] * len(targets)} if sourced else {}
        more |= {"contrast_force_inputs": True} if forced else {}
    found = model.attribute(
        [laid.source if sourced else laid.target[: laid.current[0]]] * len(targets),
        targets,
        method=args.attribution_method,
        attributed_fn=args.attributed_fn,
        attribute_target=sourced and bool(laid.output_context),
        positions=positions,
        show_progress=False,
        **more,
        **args.attribution_kwargs,
    )
    rescale = args.rescale_attributions
    scale = {"normalize": args.normalize_attributions and not rescale, "rescale": rescale}
    aggregators, selectors = args.attribution_aggregators, args.attribution_selectors
    sequences = [aggregate_at(sequence, aggregators, selectors, **scale) for sequence in found]
    if args.show_intermediate_outputs:
        replace(found, sequence_attributions=sequences).show(do_aggregation=False)
    return sequences


def _taken(scores: Tensor | None, rows: list[int], column: int) -> list[float]:
    """Scores of some rows; a method that scores nothing gives none."""
    return [] if scores is None else scores[rows, column].double().tolist()


def _decoded(model: AttributionModel, ids: list[int]) -> str:
    return str(model.tokenizer.decode(ids, skip_special_tokens=True))
