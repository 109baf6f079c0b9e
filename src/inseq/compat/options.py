"""Options of methods under the names that Inseq 0.7.1 has for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from inseq.errors import ArgumentError
from inseq.registry import Entry

_QUADRATURE = {"method": "quadrature"}
_RENAMED: Mapping[str, Mapping[str, str]] = {
    "discretized_integrated_gradients": {"method": "strategy"},
    "integrated_gradients": _QUADRATURE,
    "layer_integrated_gradients": _QUADRATURE,
    "occlusion": {"sliding_window_shapes": "window", "strides": "stride"},
    "reagent": {
        "max_probe_steps": "max_probes",
        "num_probes": "n_runs",
        "replacing_ratio": "replace_ratio",
        "stopping_condition_top_k": "top_k",
    },
    "sequential_integrated_gradients": _QUADRATURE,
    "value_zeroing": {"similarity_metric": "metric", "decoder_zeroed_units_indices": "heads"},
}

_PLANNED = ("internal_batch_size", "perturbations_per_eval")
_CACHES = ("cache_dir", "mode", "n_jobs", "overwrite_cache", "save_cache")
_IDLE: Mapping[str, tuple[str, ...]] = {
    "discretized_integrated_gradients": (*_PLANNED, *_CACHES),
    "gradient_shap": (),
    "integrated_gradients": _PLANNED,
    "layer_integrated_gradients": _PLANNED,
    "lime": ("perturbations_per_eval",),
    "occlusion": ("perturbations_per_eval",),
    "sequential_integrated_gradients": _PLANNED,
}
"""What changes no number: rows that run at once are planned, and nothing is cached on disk."""

_FIXED: Mapping[str, Mapping[str, tuple[Any, str]]] = {
    "saliency": {"abs": (True, "it is the magnitude of the gradient; 'input_x_gradient' has a sign")},
    **{
        name: {"multiply_by_inputs": (True, "its scores add up to the target's change; 'saliency' has the gradient alone")}
        for name in (
            "deeplift",
            "gradient_shap",
            "integrated_gradients",
            "layer_deeplift",
            "layer_gradient_x_activation",
            "layer_integrated_gradients",
            "sequential_integrated_gradients",
        )
    },
    "discretized_integrated_gradients": {
        "multiply_by_inputs": (False, "its way of words has its own lengths, by which gradients are multiplied")
    },
}
"""Options that have one value here, and why."""


@dataclass(frozen=True)
class Translated:
    """Options under our names.

    Attributes:
        options: the options.
        notes: what a user should know.
        deltas: whether completeness gaps are wanted among the step scores.
    """

    options: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    deltas: bool = False


def translated(entry: Entry[Callable[..., Any]], options: Mapping[str, Any]) -> Translated:
    """Options of a method under our names; all others are left as they are.

    Raises:
        ArgumentError: for a value that the method does not have here.
    """
    found = Translated({})
    deltas = False
    renamed, idle, fixed = _RENAMED.get(entry.name, {}), _IDLE.get(entry.name, ()), _FIXED.get(entry.name, {})
    for name, value in options.items():
        if name in entry.options:
            found.options[name] = value
        elif name in renamed:
            ours = renamed[name]
            if ours in options:
                raise ArgumentError(
                    f"Got {name} and {ours}, which are two names of one option of {entry.name!r}: pass {ours}."
                )
            found.options[ours] = _size(name, value) if ours in ("window", "stride") else value
        elif name in idle:
            if value is not None:
                found.notes.append(f"{name} has no effect: what runs at once is planned (memory=), and changes no number")
        elif name in fixed:
            only, why = fixed[name]
            if value is not only:
                raise ArgumentError(f"{name}={value!r} is not an option of {entry.name!r} here, where it is {only}: {why}.")
        elif name == "return_convergence_delta" and "baseline" in entry.options:
            deltas = bool(value)
        else:
            found.options[name] = value
    return Translated(found.options, found.notes, deltas)


def _size(name: str, value: Any) -> Any:
    """Tokens of a window, of ``(tokens, dim)``, or of such a pair for each side."""
    while isinstance(value, tuple | list) and value:
        value = value[0]
    if not isinstance(value, int) or isinstance(value, bool):
        raise ArgumentError(f"{name} must be (tokens, embedding dimensions) or a number of tokens, got {value!r}.")
    return value
