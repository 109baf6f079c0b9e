"""The facade: load a model, attribute its outputs."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping, Sequence
from inspect import Parameter
from pathlib import Path
from typing import Any

import torch

from inseq import demo
from inseq.call.functions import hint
from inseq.call.model import AttributionModel as AttributionModel
from inseq.compat.options import translated
from inseq.errors import ArgumentError, UnknownNameError, near
from inseq.methods import method as methods
from inseq.models.check import check
from inseq.models.loading import load_adapter
from inseq.outputs.output import FeatureAttributionOutput
from inseq.outputs.sequence import FeatureAttributionSequenceOutput
from inseq.registry import Registry, bind
from inseq.results.aggregate import aggregator as aggregators
from inseq.results.labelled import aggregation_functions
from inseq.targets import step_function as step_functions

DEFAULT_METHOD = "saliency"


def load_model(
    model: Any,
    attribution_method: str | None = None,
    framework: str = "hf_transformers",
    *,
    tokenizer: Any = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
    tokenizer_kwargs: Mapping[str, Any] | None = None,
    **method_options: Any,
) -> AttributionModel:
    """Load a model and prepare it for attribution.

    Args:
        model: a hub name, a local directory, a loaded transformers model, or a bundled one (``"demo/zh-en"``,
            ``"demo/gpt2"``).
        attribution_method: the default attribution method; ``"saliency"`` if none is given.
        framework: ``"hf_transformers"``, the only one.
        tokenizer: a tokenizer, its name or directory; by default the model's own.
        device: any torch device; by default CUDA where there is one, or where a loaded model already is.
        dtype: the weights' type; by default what transformers chooses.
        model_kwargs: further arguments of ``from_pretrained``; ``load_in_8bit=True`` is understood.
        tokenizer_kwargs: further arguments of the tokenizer's ``from_pretrained``.
        **method_options: options of the method for every call.

    Raises:
        ArgumentError, UnknownNameError, UnknownArgumentError: for an argument that cannot be used.
        UnsupportedModelError: for an architecture whose attributions would be wrong.
    """
    if framework not in list_supported_frameworks():
        raise ArgumentError(f"framework={framework!r} is not known: there is one, 'hf_transformers'.")
    entry = methods[DEFAULT_METHOD if attribution_method is None else attribution_method]
    own = translated(entry, method_options).options
    bind(own, {entry.name: entry.options}, also=set(load_model.__kwdefaults__ or ()), hint=hint)
    for argument, value in (("model_kwargs", model_kwargs), ("tokenizer_kwargs", tokenizer_kwargs)):
        if value is not None and not isinstance(value, Mapping):
            raise ArgumentError(f"{argument} must be a mapping, got {type(value).__name__} ({value!r}).")
    adapter = load_adapter(
        demo.directory(model) if isinstance(model, str) and model.startswith("demo/") else model,
        tokenizer,
        device=device,
        dtype=dtype,
        model_kwargs=model_kwargs,
        tokenizer_kwargs=tokenizer_kwargs,
    )
    name = str(model) if isinstance(model, str | Path) else getattr(adapter.model.config, "_name_or_path", "")
    return AttributionModel(adapter, check(adapter), entry.name, own, name or type(adapter.model).__name__)


def list_feature_attribution_methods() -> list[str]:
    """The names of all attribution methods, in alphabetical order."""
    return list(methods)


def list_step_functions() -> list[str]:
    """The names of all step functions, in alphabetical order."""
    return list(step_functions)


def list_aggregators() -> list[str]:
    """The names of all aggregators, in alphabetical order."""
    return sorted(["scores", *aggregators])


def list_aggregation_functions() -> list[str]:
    """The names of all functions that fold an axis or merge tokens, in alphabetical order."""
    return list(aggregation_functions)


def list_supported_frameworks() -> list[str]:
    """The frameworks whose models can be loaded: one."""
    return ["hf_transformers"]


def explain(name: str) -> None:
    """Print what a method, a step function, an aggregator or an aggregation function is.

    Raises:
        UnknownNameError: for a name that is none of them, with the near ones.
    """
    registries: tuple[Registry[Any], ...] = (methods, step_functions, aggregators, aggregation_functions)
    found = [registry for registry in registries if name in registry]
    if not found:
        known = sorted({each for registry in registries for each in registry})
        raise UnknownNameError(
            f"{name!r} is no method, step function or aggregator.{near(name, known)} Known: {', '.join(known)}."
        )
    for registry in found:
        entry = registry[name]
        taken = ", ".join(
            option if default is Parameter.empty else f"{option}={default!r}" for option, default in entry.options.items()
        )
        said = inspect.getdoc(entry.function) or "It has no description."
        print(f"{registry.kind} {name}({taken})\n\n{said}\n")


def register_model_config(
    model_type: str, config: Mapping[str, Any], overwrite: bool = False, allow_partial: bool = False
) -> None:
    """Accepted as in Inseq 0.7.1, where methods need to be told the names of a model's modules. Here they ask the model.

    Args:
        model_type: the name of a model class.
        config: names of its modules, which nothing needs.
        overwrite: whether an earlier one may be replaced.
        allow_partial: whether names may be missing.
    """
    if not isinstance(model_type, str) or not isinstance(config, Mapping):
        raise ArgumentError(
            f"register_model_config takes the name of a model class and a mapping, got {type(model_type).__name__} and "
            f"{type(config).__name__}."
        )
    warnings.warn(
        f"register_model_config({model_type!r}, ...) is no longer needed: methods find a model's attention by themselves.",
        stacklevel=2,
    )


Several = FeatureAttributionOutput | FeatureAttributionSequenceOutput | Sequence[Any]


def show_attributions(attributions: Several, *arguments: Any, **options: Any) -> Any:
    """Show one or several outputs in one view, where they can be compared; see :meth:`FeatureAttributionOutput.show`.

    Args:
        attributions: a sequence output or a container, or a list of them.
        arguments: those of ``show``, in its order.
        options: the same by name.
    """
    return _together(attributions).show(*arguments, **options)


def show_granular_attributions(attributions: Several, *arguments: Any, **options: Any) -> Any:
    """Show one or several outputs with their layers and heads; see :meth:`FeatureAttributionOutput.show_granular`."""
    return _together(attributions).show_granular(*arguments, **options)


def show_token_attributions(attributions: Several, *arguments: Any, **options: Any) -> Any:
    """Show the running text of one or several outputs; see :meth:`FeatureAttributionOutput.show_tokens`."""
    return _together(attributions).show_tokens(*arguments, **options)


def _together(given: Several) -> FeatureAttributionOutput:
    """One container, whose outputs keep the facts of their own calls."""
    listed: list[FeatureAttributionSequenceOutput] = []
    for each in [given] if isinstance(given, FeatureAttributionOutput | FeatureAttributionSequenceOutput) else given:
        if not isinstance(each, FeatureAttributionOutput | FeatureAttributionSequenceOutput):
            raise ArgumentError(
                f"Got {type(each).__name__}; expected outputs, as in show_attributions(out.sequence_attributions) or "
                "show_attributions([one, other])."
            )
        listed += [each] if isinstance(each, FeatureAttributionSequenceOutput) else list(each)
    if not listed:
        raise ArgumentError("show_attributions got no outputs, so there is nothing to show.")
    return FeatureAttributionOutput(listed)
