"""Reversible edits of a user's model. Each is a context manager that undoes itself on every path."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import RLock
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.activations import NewGELUActivation
from transformers.masking_utils import AttentionMaskInterface, eager_mask

from inseq.errors import UnsupportedModelError

AttentionFunction = Callable[..., tuple[Tensor, Tensor | None]]

_NAME = "inseq"
_adding = RLock()
_drawing = RLock()
_stances: list[Any] = []
PACKING = "support_avx512bf16_for_cpu"
"""By which name a 4-bit layer of bitsandbytes says that it may pack itself anew."""
_locks: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()
_visited: WeakSet[nn.Module] = WeakSet()
_function: ContextVar[AttentionFunction | None] = ContextVar("attention function", default=None)


@contextmanager
def guest(model: nn.Module) -> Iterator[None]:
    """Put a model in evaluation mode with frozen weights, and give it back with its own flags.

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
    """Let nothing run compiled; where several threads ask for it, until the last is done."""
    if "torch._dynamo" not in sys.modules:
        yield
        return
    with _adding:
        _stances.append(torch.compiler.set_stance("force_eager") if not _stances else None)
    try:
        yield
    finally:
        with _adding:
            first = _stances[0]
            _stances.pop()
            if not _stances:
                first.__exit__(None, None, None)


def _lock_of(model: nn.Module) -> Any:
    with _adding:
        return _locks.setdefault(model, RLock())


def _visit(model: nn.Module) -> Iterator[None]:
    chatty = logging.getLogger("bitsandbytes.autograd._functions")
    training = [module for module in model.modules() if module.training]
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    packing = [module for module in model.modules() if getattr(module, PACKING, False)]
    try:
        _visited.add(model)
        chatty.addFilter(_is_error)
        for module in packing:
            _unpack(module)
        for module in training:
            module.training = False
        for parameter in wanted:
            parameter.requires_grad_(False)
        yield
    finally:
        _visited.discard(model)
        chatty.removeFilter(_is_error)
        for module in packing:
            setattr(module, PACKING, True)
        for module in training:
            module.training = True
        for parameter in wanted:
            parameter.requires_grad_(True)


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR


def _unpack(module: Any) -> None:
    """Keep a 4-bit layer in the form that has a gradient.

    On some CPUs bitsandbytes packs it anew in the first forward without gradients, and from then on it passes none back,
    without an error. What is packed is unpacked when it is saved.
    """
    setattr(module, PACKING, False)
    if getattr(getattr(module.weight, "quant_state", None), "packing_format_for_cpu", False):
        module.state_dict()


@contextmanager
def dropout(model: nn.Module, seed: int) -> Iterator[None]:
    """Let a model drop units as in training, drawn with ``seed``; the global random state is left as it was."""
    training = [(module, module.training) for module in model.modules()]
    cuda = sorted({p.device.index for p in model.parameters() if p.device.type == "cuda"})
    with _drawing, torch.random.fork_rng(devices=cuda):
        torch.default_generator.manual_seed(seed)
        for device in cuda:
            torch.cuda.default_generators[device].manual_seed(seed)
        try:
            for module, _ in training:
                module.training = True
            yield
        finally:
            for module, flag in training:
                module.training = flag


def has_dropout(model: nn.Module) -> bool:
    """Whether a model drops units in training: by its modules, or by what its configuration says."""
    configs = {id(config): config for module in model.modules() if (config := getattr(module, "config", None)) is not None}
    rates = [module.p for module in model.modules() if isinstance(module, nn.Dropout)]
    for config in configs.values():
        rates += [v for k, v in vars(config).items() if "drop" in k and "classifier" not in k and isinstance(v, float)]
    return any(rate > 0 for rate in rates)


@contextmanager
def attention_implementation(model: nn.Module, name: str) -> Iterator[None]:
    """Let every part of a model use another attention implementation."""
    configs = {id(config): config for module in model.modules() if (config := getattr(module, "config", None)) is not None}
    before = [(c, c._attn_implementation_internal) for c in configs.values() if "_attn_implementation_internal" in vars(c)]
    try:
        for config, _ in before:
            config._attn_implementation_internal = name
        yield
    finally:
        for config, value in before:
            config._attn_implementation_internal = value


@contextmanager
def attention_function(model: nn.Module, function: AttentionFunction) -> Iterator[None]:
    """Route every attention that uses transformers' attention interface through ``function``.

    ``function`` gets what the interface gives: the module, query, key, value, mask and the family's own keywords.
    """
    token = _function.set(function)
    try:
        with attention_implementation(model, _NAME):
            yield
    finally:
        _function.reset(token)


def own_attention(module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
    """Call the eager attention of the module's own model file: output and weights."""
    for kind in type(module).__mro__:
        eager = getattr(sys.modules.get(kind.__module__), "eager_attention_forward", None)
        if eager is not None:
            return eager(module, *args, **kwargs)
    raise LookupError(f"{type(module).__name__} has no eager attention in its model file")


def _dispatch(module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
    function = _function.get()
    assert function is not None, "the attention implementation 'inseq' is active outside its context"
    return function(module, *args, **kwargs)


AttentionInterface.register(_NAME, _dispatch)
AttentionMaskInterface.register(_NAME, eager_mask)


@contextmanager
def rows_to_head(head: nn.Module, at: Tensor, differentiable: bool, n_predicted: int | None = None) -> Iterator[list[Tensor]]:
    """Let the vocabulary matrix see only the positions ``at`` of each row, or the first ``n_predicted`` of them.

    Yields a list that holds, after the forward, the hidden states of all positions (part of the graph) and the selected
    ones (cut from it, so that one small backward through the head serves all steps).
    """
    caught: list[Tensor] = []

    def select(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden = args[0]
        if hidden.ndim != 3:
            raise UnsupportedModelError(
                f"{type(head).__name__}, the output embeddings, gets hidden states of shape {tuple(hidden.shape)}; expected "
                "(row, position, dim): the model predicts more than the next token at each position, so no one prediction "
                "can be explained. Use a model with one next-token prediction."
            )
        index = at.to(hidden.device)[..., None].expand(-1, -1, hidden.shape[-1])
        chosen = hidden.detach().gather(1, index).requires_grad_(differentiable)
        caught[:] = [hidden, chosen]
        return (chosen if n_predicted is None else chosen[:, :n_predicted], *args[1:])

    handle = head.register_forward_pre_hook(select)
    try:
        yield caught
    finally:
        handle.remove()


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
    try:
        for parent, name, child in composed:
            fused: Any = nn.GELU(approximate="tanh")
            fused.stands_for = (child,)
            setattr(parent, name, fused)
        yield
    finally:
        for parent, name, child in composed:
            setattr(parent, name, child)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device has no memory left."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "allocate memory" in str(error)
    )
