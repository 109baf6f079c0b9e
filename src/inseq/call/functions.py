"""The options of one call, bound before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from inspect import Parameter
from typing import Any

from torch import Tensor, nn
from transformers import GenerationConfig

from inseq.compat.options import translated
from inseq.compat.text_model import TextModel, call
from inseq.errors import ArgumentError, UnknownArgumentError, UnsupportedModelError
from inseq.methods import method as methods
from inseq.models.facts import Capabilities
from inseq.models.guest import has_dropout
from inseq.registry import Entry, bind
from inseq.requests import ContrastKind, Target
from inseq.targets import InseqForm, is_inseq_form
from inseq.targets import step_function as step_functions
from inseq.targets.register import DEFAULT_MERGE

DEFAULT_TARGET = "probability"


@dataclass(frozen=True)
class Compared:
    """What the outputs are compared with, as it was asked for.

    Attributes:
        contrast_targets: the other outputs.
        contrast_sources: the other sources.
        contrast_targets_alignments: which of their tokens the steps are compared with.
        contrast_force_inputs: whether the target compares with predictions under the contrast's own context.
    """

    contrast_targets: Any = None
    contrast_sources: Any = None
    contrast_targets_alignments: Any = None
    contrast_force_inputs: bool = False

    @property
    def wanted(self) -> bool:
        """Whether there is anything to compare with."""
        return self.contrast_targets is not None or self.contrast_sources is not None


@dataclass(frozen=True)
class CallFunctions:
    """The functions of one call with their options.

    Attributes:
        method: the attribution method.
        method_options: its options.
        target_name: the name of the attributed function.
        target: what is attributed.
        target_facts: what is declared with it.
        recorded: the step scores, by name.
        merges: for each of them, how the values of a span's tokens combine.
        options: what the call was given, and the method's defaults.
        compared: what outputs are compared with.
        notes: what a user should know.
        deltas: whether completeness gaps are wanted among the step scores.
    """

    method: Entry[Callable[..., Any]]
    method_options: dict[str, Any]
    target_name: str
    target: Target
    target_facts: dict[str, Any]
    recorded: dict[str, Target]
    merges: dict[str, str]
    options: dict[str, Any]
    compared: Compared
    notes: tuple[str, ...]
    deltas: bool


@dataclass(frozen=True)
class Options:
    """The options of a call.

    Attributes:
        free: by name, for whatever takes them.
        method: of the method alone.
        target: of the attributed function alone.
        scores: of the step scores alone.
        include_eos_baseline: whether the baseline replaces ends; as the method has it if None.
    """

    free: Mapping[str, Any]
    method: Mapping[str, Any] = field(default_factory=dict)
    target: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, Any] = field(default_factory=dict)
    include_eos_baseline: bool | None = None


@dataclass(frozen=True)
class Defaults:
    """The functions that a call of a model uses where it names none.

    Attributes:
        method: the attribution method.
        options: the method's options.
        target: the attributed step function.
    """

    method: str
    options: dict[str, Any]
    target: str


def resolve_functions(
    model: TextModel,
    defaults: Defaults,
    capabilities: Capabilities,
    name: str | None,
    target: Any,
    scores: str | Sequence[str],
    options: Options,
    also: set[str],
) -> CallFunctions:
    """Find the functions that a call names and give each its options.

    Args:
        model: the model.
        defaults: its own method, options and target.
        capabilities: the model's facts.
        name: the method; the default if None.
        target: the attributed function, by name or itself; the default if None.
        scores: names of the step scores.
        options: the options of the call.
        also: arguments of the call itself.

    Raises:
        ArgumentError, UnknownNameError, UnknownArgumentError: for an argument that cannot be used.
        UnsupportedModelError: if the method cannot be right on this architecture.
    """
    entry = methods[defaults.method if name is None else name]
    if entry.facts.get("needs") == "attention" and capabilities.attention is None:
        raise UnsupportedModelError(
            f"{type(model.model).__name__} does not give its attention weights, which {entry.name!r} needs. Load it with "
            "attn_implementation='eager', or use 'saliency', which needs none."
        )
    if entry.facts.get("needs") == "values" and capabilities.attention != "interface":
        raise UnsupportedModelError(
            f"{type(model.model).__name__} does not route its attention through transformers' attention interface, so "
            f"{entry.name!r} cannot reach its value vectors. Use 'attention' or 'attention_rollout', or 'occlusion'."
        )
    target = step_function_entry(defaults.target if target is None else target, "attributed_fn")
    if not isinstance(scores, str | list | tuple):
        raise ArgumentError(f"step_scores must be a list of step functions' names, got {type(scores).__name__}.")
    recorded = [step_function_entry(s, "step_scores") for s in ([scores] if isinstance(scores, str) else scores)]
    own = defaults.options if entry.name == defaults.method else {}
    free, alone = translated(entry, options.free), translated(entry, options.method)
    if options.include_eos_baseline is not None and "include_eos_baseline" in entry.options:
        alone.options["include_eos_baseline"] = options.include_eos_baseline
    elif options.include_eos_baseline:
        alone.notes.append(f"include_eos_baseline has no effect: {entry.name} has no baseline")
    takers = {entry.name: entry.options, f"target {target.name}": target.options}
    takers |= {f"step score {step.name}": step.options for step in recorded}
    comparing = [step for step in (target, *recorded) if can_compare(step)]
    if comparing:
        takers["contrast"] = {each.name: each.default for each in fields(Compared)}
    _refuse_idle_contrast({**options.free, **options.target, **options.scores}, takers)
    bound = _bound(replace(options, free=free.options, method=alone.options), takers, also)
    compared = Compared(**bound.get("contrast", {}))
    _require_contrast(comparing, compared)
    forced = compared.contrast_force_inputs
    if forced and target.facts.get("contrast") == "token" and not target.facts.get("difference"):
        raise ArgumentError(
            f"attributed_fn {target.name!r} with contrast_force_inputs=True does not depend on the input at all: the "
            "contrast's prediction is then constant. Use 'contrast_prob_diff' or 'contrast_logits_diff', or leave it False."
        )
    prepared = _Preparation(model, [])
    return CallFunctions(
        method=entry,
        method_options={**own, **bound[entry.name]},
        target_name=target.name,
        target=prepared.target(target, bound[f"target {target.name}"], _contrast_of_target(target, forced)),
        target_facts=target.facts,
        recorded={
            s.name: prepared.target(s, bound[f"step score {s.name}"], "differing" if can_compare(s) else "none")
            for s in recorded
        },
        merges={s.name: _merge(s, bound[f"step score {s.name}"]) for s in recorded},
        options=_recorded(
            (entry, target, *recorded),
            {**own, **free.options, **alone.options, **options.target, **options.scores},
        ),
        compared=compared,
        notes=tuple(dict.fromkeys([*free.notes, *alone.notes, *prepared.notes])),
        deltas=free.deltas or alone.deltas,
    )


def _bound(options: Options, takers: dict[str, dict[str, Any]], also: set[str]) -> dict[str, dict[str, Any]]:
    """Each taker's options: those given by name, and those given for it alone.

    Raises:
        ArgumentError: for an option that is given in both ways, or to two kinds of functions that share it, differently.
    """
    others = {option for other in methods for option in methods[other].options}
    bound = bind(dict(options.free), takers, also=also, hint=hint, elsewhere=others)
    first = next(iter(takers))
    groups = {
        "attribution_args": (options.method, [first]),
        "attributed_fn_args": (options.target, [n for n in takers if n == "contrast" or n.startswith("target ")]),
        "step_scores_args": (options.scores, [n for n in takers if n == "contrast" or n.startswith("step score ")]),
    }
    for argument, (given, names) in groups.items():
        for taker, values in bind(dict(given), {name: takers[name] for name in names}, hint=hint).items():
            for option, value in values.items():
                if option in bound[taker] and bound[taker][option] is not value:
                    raise ArgumentError(f"{option} of {taker} is given twice, the second time in {argument}: pass it once.")
                bound[taker][option] = value
    return bound


@dataclass
class _Preparation:
    """Makes step functions ready for the engine, and notes what a user should know."""

    model: TextModel
    notes: list[str]

    def target(self, step: Entry[Callable[..., Any]], options: dict[str, Any], contrast: ContrastKind) -> Target:
        missing = [name for name, default in step.options.items() if default is Parameter.empty and name not in options]
        if missing:
            raise ArgumentError(f"Step function {step.name!r} needs {', '.join(f'{name}=' for name in missing)}.")
        if isinstance(step.function, InseqForm):
            return Target(partial(call, step.function, self.model, options), step.name, stepwise=True)
        passes = self._passes(step, options)
        seed = options.get("seed", step.options.get("seed", 0)) if passes else 0
        of_written = bool(step.facts.get("of_written"))
        return Target(partial(step.function, **options), step.name, contrast, passes, seed, of_written=of_written)

    def _passes(self, step: Entry[Callable[..., Any]], options: dict[str, Any]) -> int:
        option = step.facts.get("passes")
        if option is None:
            return 0
        n = int(options.get(option, step.options[option]))
        if n < 1:
            raise ArgumentError(f"{option}={n} must be at least 1.")
        if has_dropout(self.model.model):
            return n
        self.notes.append(f"{step.name}: {type(self.model.model).__name__} has no dropout, so it is the plain value")
        return 0


def _merge(step: Entry[Callable[..., Any]], options: dict[str, Any]) -> str:
    """How values of a step function combine; logarithms of what is multiplied are added."""
    declared: str = step.facts.get("merge", DEFAULT_MERGE)
    return "sum" if declared == "prod" and options.get("logprob") else declared


def _recorded(entries: Sequence[Entry[Callable[..., Any]]], given: dict[str, Any]) -> dict[str, Any]:
    """What a call was given, and the defaults of everything in it."""
    defaults = {name: value for entry in entries for name, value in entry.options.items() if value is not Parameter.empty}
    return {name: described(value) for name, value in {**defaults, **given}.items()}


def described(value: Any) -> Any:
    """An option as it is recorded: what has no short text of its own by what it is."""
    if isinstance(value, Tensor):
        return f"tensor of shape {tuple(value.shape)}"
    if isinstance(value, nn.Module):
        return type(value).__name__
    if isinstance(value, list | tuple):
        return [described(item) for item in value]
    return getattr(value, "__name__", repr(value)) if callable(value) else value


MEANT = {"attribution_method": "method", "step_score": "step_scores"}


def hint(name: str) -> str:
    """What can be said of an argument that nothing in a call takes."""
    if name in MEANT:
        return f" Did you mean {MEANT[name]!r}?"
    if hasattr(GenerationConfig(), name):
        return f" It is an argument of generation: pass generation_args={{{name!r}: ...}}."
    takers = [other for registry in (methods, step_functions) for other in registry if name in registry[other].options]
    if takers:
        more = " and others" if len(takers) > 4 else ""
        return f" It is an option of {', '.join(takers[:4])}{more}, none of which is in this call."
    return ""


def step_function_entry(target: Any, argument: str) -> Entry[Callable[..., Any]]:
    if isinstance(target, str):
        return step_functions[target]
    if callable(target):
        name = getattr(target, "__name__", "custom")
        try:
            return Entry(name, InseqForm(target) if is_inseq_form(target) else target, {})
        except ValueError as error:
            raise ArgumentError(
                f"{argument} {name!r} does not say what it takes; call it in a function of your own."
            ) from error
    raise ArgumentError(f"{argument} must be a step function's name or a function, got {type(target).__name__}.")


def can_compare(step: Entry[Callable[..., Any]]) -> bool:
    """Whether a contrast can matter to a step function; one of the user's own may use it."""
    return step.facts.get("contrast", "maybe") is not None and not isinstance(step.function, InseqForm)


def _contrast_of_target(step: Entry[Callable[..., Any]], forced: bool) -> ContrastKind:
    if not can_compare(step):
        return "none"
    if forced:
        return "own"
    return "differing" if step.facts.get("contrast") == "logits" else "token"


def _refuse_idle_contrast(options: dict[str, Any], takers: dict[str, dict[str, Any]]) -> None:
    """Say what is missing where a contrast is given and nothing compares."""
    taken = {name for taker in takers.values() for name in taker}
    for each in fields(Compared):
        if each.name in options and each.name not in taken:
            raise UnknownArgumentError(
                f"Unknown argument {each.name!r}: nothing in this call compares outputs. Name a contrastive step function in "
                "attributed_fn or step_scores, such as 'contrast_prob_diff'."
            )


def _require_contrast(comparing: Sequence[Entry[Callable[..., Any]]], compared: Compared) -> None:
    needing = next((step.name for step in comparing if "contrast" in step.facts), None)
    if needing is not None and not compared.wanted:
        raise ArgumentError(
            f"Step function {needing!r} compares the output with another one: pass contrast_targets= (a text or ids for each "
            "input; of a decoder-only model, prompt and continuation), or, for an encoder-decoder, contrast_sources=."
        )
    if not compared.wanted and compared != Compared():
        raise ArgumentError(
            "contrast_targets_alignments and contrast_force_inputs go with contrast_targets=, which is missing."
        )
