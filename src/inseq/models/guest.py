"""Reversible edits of a user's model. Each is a context manager that undoes itself on every path."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from threading import RLock
from typing import Any, TypeVar
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import nn
from transformers.activations import NewGELUActivation

_adding = RLock()
_drawing = RLock()
_stances: list[Any] = []
_eager_visits: list[object] = []
PACKING = "support_avx512bf16_for_cpu"
"""By which name a 4-bit layer of bitsandbytes says that it may pack itself anew."""
_locks: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()
_visited: WeakSet[nn.Module] = WeakSet()

T = TypeVar("T")


class UndoList:
    """Undo what was done to a user's model, the last change first.

    Each method registers its undo before it acts, so that an error between the two leaves nothing behind. Entries are
    independent: one that raises does not stop the others, and its error is raised when all have run.
    """

    def __init__(self) -> None:
        self._entries = ExitStack()

    def __enter__(self) -> UndoList:
        return self

    def __exit__(self, *error: Any) -> None:
        self._entries.__exit__(*error)

    def add(self, undo: Callable[[], object]) -> None:
        """Register a function that undoes what is about to be done."""
        self._entries.callback(undo)

    def enter(self, context: AbstractContextManager[T]) -> T:
        """Enter a context and leave it when the list is undone."""
        return self._entries.enter_context(context)

    def hook(self, register: Callable[..., Any], function: Callable[..., Any], **options: Any) -> None:
        """Add a hook by ``register``, such as ``module.register_forward_hook``."""
        handles: list[Any] = []
        self.add(lambda: [handle.remove() for handle in handles])
        handles.append(register(function, **options))

    def set(self, owner: Any, name: str, value: Any) -> None:
        """Set an attribute that ``owner`` has."""
        self.add(partial(setattr, owner, name, getattr(owner, name)))
        setattr(owner, name, value)

    def forward(self, module: nn.Module, function: Callable[..., Any]) -> None:
        """Replace a module's forward. Its class's own shows again afterwards, or what an owner had put in its place."""
        if "forward" in vars(module):
            self.set(module, "forward", function)
        else:
            self.add(lambda: vars(module).pop("forward", None))
            module.forward = function

    def wrap_forward(self, module: nn.Module, function: Callable[..., Any]) -> None:
        """Replace a module's forward by ``function``, which gets the former one as its first argument."""
        self.forward(module, partial(function, module.forward))


@contextmanager
def guest(model: nn.Module) -> Iterator[None]:
    """Put a model in evaluation mode with frozen weights, and restore its own flags afterwards.

    One thread at a time has the model; within a visit a further one finds it as it is to be. Meanwhile bitsandbytes does not
    say at every layer that it casts to float16, as an 8-bit model always does, and does not pack 4-bit layers into a form
    without gradient; and what was compiled runs as it was written, as each hook would compile it again.
    """
    with _lock_of(model):
        if model in _visited:
            yield
        else:
            with uncompiled():
                yield from _visit(model)


@contextmanager
def uncompiled() -> Iterator[None]:
    """Run everything as it was written, not compiled, until the last thread that wants so is done."""
    if "torch._dynamo" not in sys.modules:
        yield
        return
    with UndoList() as undo:
        visit = object()
        undo.add(partial(_leave_stance, visit))
        with _adding:
            _eager_visits.append(visit)
            if not _stances:
                _stances.append(torch.compiler.set_stance("force_eager"))
        yield


def _leave_stance(visit: object) -> None:
    with _adding:
        if visit in _eager_visits:
            _eager_visits.remove(visit)
        if _stances and not _eager_visits:
            _stances.pop().__exit__(None, None, None)


def _lock_of(model: nn.Module) -> Any:
    with _adding:
        return _locks.setdefault(model, RLock())


def _visit(model: nn.Module) -> Iterator[None]:
    chatty = logging.getLogger("bitsandbytes.autograd._functions")
    training = [module for module in model.modules() if module.training]
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    packing = [module for module in model.modules() if getattr(module, PACKING, False)]
    with UndoList() as undo:
        undo.add(lambda: _visited.discard(model))
        _visited.add(model)
        undo.add(lambda: chatty.removeFilter(_is_error))
        chatty.addFilter(_is_error)
        for module in packing:
            undo.set(module, PACKING, False)
            _unpack(module)
        for module in training:
            undo.set(module, "training", False)
        for parameter in wanted:
            undo.set(parameter, "requires_grad", False)
        yield


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR


def _unpack(module: Any) -> None:
    """Keep a 4-bit layer in the form that has a gradient.

    On some CPUs bitsandbytes packs it anew in the first forward without gradients, and from then on it passes none back,
    without an error. What is packed is unpacked when it is saved.
    """
    if getattr(getattr(module.weight, "quant_state", None), "packing_format_for_cpu", False):
        module.state_dict()


@contextmanager
def dropout(model: nn.Module, seed: int) -> Iterator[None]:
    """Let a model drop units as in training, drawn with ``seed``; the global random state is left as it was."""
    cuda = sorted({p.device.index for p in model.parameters() if p.device.type == "cuda"})
    with _drawing, torch.random.fork_rng(devices=cuda), UndoList() as undo:
        torch.default_generator.manual_seed(seed)
        for device in cuda:
            torch.cuda.default_generators[device].manual_seed(seed)
        for module in model.modules():
            undo.set(module, "training", True)
        yield


def has_dropout(model: nn.Module) -> bool:
    """Return whether a model has dropout, by its modules or its configuration."""
    configs = {id(config): config for module in model.modules() if (config := getattr(module, "config", None)) is not None}
    rates = [module.p for module in model.modules() if isinstance(module, nn.Dropout)]
    for config in configs.values():
        rates += [v for k, v in vars(config).items() if "drop" in k and "classifier" not in k and isinstance(v, float)]
    return any(rate > 0 for rate in rates)


@contextmanager
def fused_activations(model: nn.Module) -> Iterator[None]:
    """Let torch compute in one operation an activation that transformers composes of eight; the numbers are the same.

    Most of its cost is in the backward. Modules that carry hooks stay.
    """
    composed = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if type(child) is NewGELUActivation and not (child._forward_hooks or child._forward_pre_hooks or child._backward_hooks)
    ]
    with UndoList() as undo:
        for parent, name, child in composed:
            fused: Any = nn.GELU(approximate="tanh")
            fused.stands_for = (child,)
            undo.set(parent, name, fused)
        yield


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that a device is out of memory."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "allocate memory" in str(error)
    )
