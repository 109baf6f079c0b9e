"""Attention functions exchanged through transformers' attention interface, reversibly."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, eager_mask

from inseq.models.guest import UndoList

AttentionFunction = Callable[..., tuple[Tensor, Tensor | None]]


_NAME = "inseq"


_function: ContextVar[AttentionFunction | None] = ContextVar("attention function", default=None)


@contextmanager
def attention_implementation(model: nn.Module, name: str) -> Iterator[None]:
    """Let every part of a model use another attention implementation."""
    configs = {id(config): config for module in model.modules() if (config := getattr(module, "config", None)) is not None}
    with UndoList() as undo:
        for config in configs.values():
            if "_attn_implementation_internal" in vars(config):
                undo.set(config, "_attn_implementation_internal", name)
        yield


@contextmanager
def attention_function(model: nn.Module, function: AttentionFunction) -> Iterator[None]:
    """Route every attention that uses transformers' attention interface through ``function``.

    ``function`` gets what the interface gives: the module, query, key, value, mask and the family's own keywords.
    """
    with UndoList() as undo:
        undo.add(partial(_function.set, _function.get()))
        _function.set(function)
        undo.enter(attention_implementation(model, _NAME))
        yield


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
