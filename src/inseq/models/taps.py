"""Modules of the model as sites: found by name, their values looked at or exchanged."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from inseq.errors import ArgumentError, UnknownNameError, UnsupportedModelError, near


def module_of(model: nn.Module, layer: Any) -> nn.Module:
    """The module that ``layer`` is or names, as in ``"transformer.h[0].mlp"`` or ``"transformer.h.0.mlp"``.

    Raises:
        UnknownNameError: for a name the model does not have, with the near ones.
        ArgumentError: for a module that is not part of the model, and for what is neither.
    """
    modules = dict(model.named_modules())
    if isinstance(layer, nn.Module):
        if all(layer is not module for module in modules.values()):
            raise ArgumentError(
                f"target_layer is a {type(layer).__name__} that is not part of this {type(model).__name__}: take it from the "
                "model that is attributed, or give its dotted name."
            )
        return layer
    if not isinstance(layer, str):
        raise ArgumentError(
            f"target_layer must be a module, its dotted name or a list of them, got {type(layer).__name__} ({layer!r})."
        )
    name = re.sub(r"\[(\d+)\]", r".\1", layer)
    if name not in modules or not name:
        raise UnknownNameError(
            f"{type(model).__name__} has no module {layer!r}.{near(name, modules)} The modules have names such as "
            f"{', '.join(repr(known) for known in list(modules)[1:4])}; print(model) shows all."
        )
    return modules[name]


@contextmanager
def tapped(modules: Sequence[tuple[nn.Module, str]], placed: Tensor | None = None) -> Iterator[list[Tensor]]:
    """Look at the values of modules while the model runs.

    Args:
        modules: modules, each with ``"output"`` or ``"input"``.
        placed: what the values of the first module are exchanged for, Float["row position width"].

    Yields:
        A list that holds, after the forward, the values of each module, Float["row position width"], part of the graph.
    """
    found: list[Tensor] = []
    caught: dict[int, Tensor] = {}
    leaf = None if placed is None else placed.detach().requires_grad_()

    def look(i: int, value: Any, module: nn.Module) -> Tensor | None:
        tensor = _checked(value, module)
        if leaf is None or i:
            caught[i] = tensor
            return None
        caught[i] = leaf
        return leaf.to(tensor)

    def at_input(i: int) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            name = next((k for k, v in kwargs.items() if isinstance(v, Tensor)), "")
            exchanged = look(i, args[0] if args else kwargs.get(name), module)
            if exchanged is None:
                return None
            return ((exchanged, *args[1:]), kwargs) if args else (args, {**kwargs, name: exchanged})

        return hook

    def at_output(i: int) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            exchanged = look(i, output[0] if isinstance(output, tuple) else output, module)
            return exchanged if exchanged is None or not isinstance(output, tuple) else (exchanged, *output[1:])

        return hook

    handles = [
        module.register_forward_pre_hook(at_input(i), with_kwargs=True)
        if value == "input"
        else module.register_forward_hook(at_output(i))
        for i, (module, value) in enumerate(modules)
    ]
    try:
        yield found
        if len(caught) < len(modules):
            missing = next(module for i, (module, _) in enumerate(modules) if i not in caught)
            raise UnsupportedModelError(f"target_layer: {type(missing).__name__} is never called in the model's forward.")
        found.extend(caught[i] for i in range(len(modules)))
        if len({tensor.shape[-1] for tensor in found}) > 1:
            raise ArgumentError(
                f"target_layer: layers taken together must be equally wide, got {[t.shape[-1] for t in found]} units: take "
                "them in calls of their own."
            )
    finally:
        for handle in handles:
            handle.remove()


def _checked(value: Any, module: nn.Module) -> Tensor:
    if not isinstance(value, Tensor) or value.ndim != 3:
        got = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ArgumentError(
            f"target_layer: {type(module).__name__} has {got}; expected (row, position, width), one value for each token. "
            "Choose a module that runs over the sequence, such as a block, its attention or its feed-forward part."
        )
    return value
