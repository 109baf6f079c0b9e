"""The layers of a model's stacks, found by the attentions in them."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn

from inseq.errors import UnsupportedModelError
from inseq.models.adapter import Adapter
from inseq.models.inputs import Site

Stack = Literal["encoder", "decoder"]


def layers_of(adapter: Adapter) -> dict[tuple[Stack, int], nn.Module]:
    """The module of every layer: the outermost element of a list that holds the attentions of this layer alone.

    Raises:
        UnsupportedModelError: if attentions do not go through transformers' interface, or no such modules are found.
    """
    sites = adapter.facts.attention_sites
    if sites is None:
        raise UnsupportedModelError(
            f"{type(adapter.model).__name__} does not route its attention through transformers' attention interface, so its "
            "value vectors cannot be reached. Use 'attention' or 'attention_rollout' (weights alone), or 'occlusion'."
        )
    modules = dict(adapter.model.named_modules(remove_duplicate=False))
    held = {
        path: {_layer(sites[id(part)]) for part in module.modules() if id(part) in sites}
        for path, module in modules.items()
        if isinstance(modules.get(path.rpartition(".")[0]), nn.ModuleList)
    }
    found: dict[tuple[Stack, int], nn.Module] = {}
    for path, inside in held.items():
        if len(inside) == 1:
            found.setdefault(next(iter(inside)), modules[path])
    if found.keys() != {_layer(site) for site in sites.values()}:
        raise UnsupportedModelError(
            f"{type(adapter.model).__name__} does not keep its layers in a list of modules, so a layer cannot be looked at "
            "by itself. Use 'attention' or 'attention_rollout' (weights alone), or 'occlusion'."
        )
    return found


def _layer(site: tuple[Site, int]) -> tuple[Stack, int]:
    return "encoder" if site[0] == "encoder" else "decoder", site[1]


def first(output: Any) -> Tensor:
    """The tensor that a module returns, or the first of several."""
    found: Tensor = output if isinstance(output, Tensor) else output[0]
    return found


def stream_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """The tensor that a module is called on."""
    if args:
        return args[0] if isinstance(args[0], Tensor) else None
    named = kwargs.get("hidden_states")
    return named if named is not None else next((v for v in kwargs.values() if isinstance(v, Tensor)), None)
