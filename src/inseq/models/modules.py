"""Modules of the model as sites: found by name, their values looked at or exchanged."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from inseq.errors import ArgumentError, UnknownNameError, UnsupportedModelError, near
from inseq.models.guest import UndoList
from inseq.text.tokens import Role


@dataclass(frozen=True)
class Tap:
    """A module whose values are looked at, and which side's positions it runs over."""

    module: nn.Module
    value: str
    side: Role


def find_taps(
    model: nn.Module, layers: Sequence[Any], encoder: nn.Module | None, head: nn.Module, tables: Sequence[nn.Module]
) -> list[Tap]:
    """The modules of layers.

    Raises:
        UnknownNameError: for a name the model does not have.
        ArgumentError: for a module that is not part of the model, or that no token's values pass through.
    """
    inside = set() if encoder is None else {id(module) for module in encoder.modules()}
    found = [(module_of(model, layer.module), layer.value) for layer in layers]
    for module, _ in found:
        if module is head:
            raise ArgumentError(
                "target_layer is the output layer, which runs over predictions and not over tokens: choose a block, its "
                "attention or its feed-forward part."
            )
        if any(module is table for table in tables):
            raise ArgumentError(
                "target_layer is the input embeddings, which the features' own scores are about: leave it out, or use "
                "'input_x_gradient', 'integrated_gradients' or 'deeplift'."
            )
    return [Tap(module, value, "source" if id(module) in inside else "generated") for module, value in found]


def module_of(model: nn.Module, layer: Any) -> nn.Module:
    """The module that ``layer`` is or names, as in ``"transformer.h[0].mlp"`` or ``"transformer.h.0.mlp"``.

    Raises:
        UnknownNameError: for a name the model does not have, with the near ones.
        ArgumentError: for a module that is not part of the model, and for what is neither.
    """
    modules = dict(model.named_modules())
    if isinstance(layer, nn.Module):
        stand_in = next((m for m in modules.values() if layer is m or layer in getattr(m, "stands_for", ())), None)
        if stand_in is None:
            raise ArgumentError(
                f"target_layer is a {type(layer).__name__} that is not part of this {type(model).__name__}: take it from the "
                "model that is attributed, or give its dotted name."
            )
        return stand_in
    if not isinstance(layer, str):
        raise ArgumentError(
            f"target_layer must be a module, its dotted name or a list of them, got {type(layer).__name__} ({layer!r})."
        )
    name = re.sub(r"\[(\d+)\]", r".\1", layer)
    if name not in modules or not name:
        ending = [known for known in modules if name and known.endswith(f".{name}")]
        meant = f" Did you mean {ending[0]!r}?" if ending else near(name or "?", modules)
        blocks = [known for known in modules if re.search(r"\.\d+$", known)] or list(modules)[1:]
        raise UnknownNameError(
            f"{type(model).__name__} has no module {layer!r}.{meant} Its blocks have names such as "
            f"{', '.join(repr(known) for known in blocks[:2])}; print(model) shows all."
        )
    return modules[name]


@contextmanager
def tapped(
    modules: Sequence[tuple[nn.Module, str]], placed: Tensor | None = None, found: list[Tensor] | None = None
) -> Iterator[list[Tensor]]:
    """Look at the values of modules while the model runs.

    Args:
        modules: modules, each with ``"output"`` or ``"input"``.
        placed: what the values of the first module are exchanged for, Float["row position width"].
        found: where the values are to be put; a new list by default.

    Yields:
        A list that holds, after the forward, the values of each module, Float["row position width"], part of the graph.
    """
    found = [] if found is None else found
    caught: dict[int, Tensor] = {}
    leaf = None if placed is None else placed.detach().requires_grad_()

    def look(i: int, value: Any, module: nn.Module) -> Tensor | None:
        tensor = _checked(value, module)
        if leaf is None or i:
            caught[i] = tensor
            return None
        caught[i] = leaf
        return leaf.to(tensor).clone()

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

    with UndoList() as undo:
        for i, (module, value) in enumerate(modules):
            if value == "input":
                undo.hook(module.register_forward_pre_hook, at_input(i), with_kwargs=True)
            else:
                undo.hook(module.register_forward_hook, at_output(i))
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


def _checked(value: Any, module: nn.Module) -> Tensor:
    if not isinstance(value, Tensor) or value.ndim != 3:
        got = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ArgumentError(
            f"target_layer: {type(module).__name__} has {got}; expected (row, position, width), one value for each token. "
            "Choose a module that runs over the sequence, such as a block, its attention or its feed-forward part."
        )
    return value
