"""The end of a forward without gradients: the last layer at the positions whose predictions are read, and at no other.

Of all positions the last layer needs keys and values alone. So it runs twice: at all positions as far as its attention, and
then at those that are read, where what is known is given and its attention reads the keys and values of all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from transformers import AttentionInterface
from transformers.cache_utils import Cache

from inseq.models import probes
from inseq.models.adapter import Adapter
from inseq.models.attention import attention_function, own_attention
from inseq.models.guest import UndoList
from inseq.models.inputs import Inputs, Site
from inseq.models.layers import first, layers_of, stream_of
from inseq.models.probes import answer, longest, near

WORTH = 64
"""The least number of positions to spare."""

ASLEEP = "transformers.utils.output_capturing"
"""The module of hooks that act only while attentions or hidden states are requested."""

ATTENTIONS = ("sdpa", "eager")
"""Implementations that take any mask."""

PROBED = 12
"""Positions of the rows that a model is asked with."""


def prepare_ending(adapter: Adapter) -> bool:
    """Return whether the last layer may run at some positions alone. Found by comparison, at first use.

    Not while hooks of others watch it, who want to see all of them, nor with an attention that may not take any mask.
    """
    if adapter.facts.can_end_early is None:
        adapter.facts.can_end_early = adapter.facts.causal and answer(adapter, partial(_equal, adapter), False)
    known = adapter.facts.can_end_early and _attention(adapter) in ATTENTIONS
    return known and not any(_is_watched(part) for part in _last(adapter).modules())


def is_worth(inputs: Inputs, overhead: int) -> bool:
    """Return whether enough is spared, for a model with a fixed work of ``overhead`` tokens in each layer."""
    (rows, n), n_read = inputs.decoder.shape[:2], inputs.at.shape[1]
    return 4 * n_read <= 3 * n and rows * (n - n_read) > max(WORTH, overhead)


@contextmanager
def ending_at(adapter: Adapter, at: Int[Tensor, "row read"]) -> Iterator[None]:
    """Let the decoder's last layer run at some positions of each row; what it gives elsewhere is nought.

    Raises:
        LookupError: if it is not of a kind for which that is known.
        UnsupportedModelError: see :func:`~inseq.models.layers.layers_of`.
    """
    name = _attention(adapter)
    if name not in ATTENTIONS:
        raise LookupError(f"the attention {name!r} is not known to take any mask")
    attend = AttentionInterface()[name] if name == "sdpa" else own_attention
    last = _last(adapter)
    with UndoList() as undo:
        undo.wrap_forward(last, partial(_ended, adapter, last, at, attend))
        yield


def _attention(adapter: Adapter) -> str:
    return str(adapter.config_of("decoder")._attn_implementation)


def _last(adapter: Adapter) -> nn.Module:
    layers = layers_of(adapter)
    return layers[max(key for key in layers if key[0] == "decoder")]


def _is_watched(module: nn.Module) -> bool:
    """Return whether a hook watches a module. transformers leaves hooks behind once attentions were requested."""
    hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    awake = any(getattr(hook, "__module__", "") != ASLEEP for hook in hooks)
    return awake or "forward" in vars(module) or hasattr(module, "_hf_hook")


class _Reached(Exception):
    """The first half of the layer has run."""


def _ended(
    adapter: Adapter,
    layer: nn.Module,
    at: Int[Tensor, "row read"],
    attend: Callable[..., tuple[Tensor, Any]],
    forward: Callable[..., Any],
    *args: Any,
    **kwargs: Any,
) -> Any:
    """The layer's forward, in two halves."""
    stream, sites = stream_of(args, kwargs), adapter.facts.attention_sites or {}
    if stream is None or stream.ndim != 3:
        raise LookupError("the last layer does not read one vector for each position")
    cut = _Cut(stream, at.to(stream.device))
    known: dict[nn.Module, list[Tensor]] = defaultdict(list)
    read: list[Tensor] = []

    def note(module: nn.Module, _: Any, found: Any) -> None:
        if isinstance(found, Tensor) and found.ndim == 3 and found.shape[:2] == stream.shape[:2]:
            known[module].append(cut(found, own=True))

    def reach(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Any:
        if sites[id(module)][0] != "decoder":
            raise LookupError("the last layer first attends to something else")
        read[:] = [key, value]
        raise _Reached

    def resume(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any = None, **more: Any) -> Any:
        site: Site = sites[id(module)][0]
        if site == "decoder":
            key, value = read
            if mask is None and attend is not own_attention:
                mask = cut.sees()
        return attend(module, query, key, value, mask, **more)

    with UndoList() as undo, attention_function(adapter.model, reach), suppress(_Reached):
        for part in layer.modules():
            if not list(part.children()):
                undo.hook(part.register_forward_hook, note)
        forward(*args, **kwargs)
    with UndoList() as undo, attention_function(adapter.model, resume):
        for part, found in known.items():
            undo.wrap_forward(part, partial(_given, found))
        output = forward(*tree_map(cut, args), **tree_map(cut, kwargs))
    whole = cut.spread(first(output))
    return whole if isinstance(output, Tensor) else (whole, *output[1:])


def _given(known: list[Tensor], forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Return a part's recorded outputs, call by call, and then its own."""
    return known.pop(0) if known else forward(*args, **kwargs)


@dataclass(frozen=True, eq=False)
class _Cut:
    """Turns a layer's arguments into those of a call at some of its positions.

    What goes with positions is cut on its second axis; masks and biases on their third. Nothing is remembered.
    """

    stream: Float[Tensor, "row position dim"]
    at: Int[Tensor, "row read"]

    def __call__(self, value: Any, *, own: bool = False) -> Any:
        if isinstance(value, Cache):
            return None
        if not isinstance(value, Tensor) or value.ndim < 2:
            return value
        rows, n, dim = self.stream.shape
        axis = 2 if value.ndim == 4 else 1
        others = value.ndim == 3 and value.shape[2] == dim and value is not self.stream and not own
        if value.shape[0] not in (1, rows) or value.shape[axis] != n or others:
            return value
        index = self.at.view(rows, *(1,) * (axis - 1), -1, *(1,) * (value.ndim - axis - 1))
        shape = [rows, *value.shape[1:]]
        return value.expand(shape).gather(axis, index.expand(*shape[:axis], self.at.shape[1], *shape[axis + 1 :]))

    def sees(self) -> Tensor:
        """Which keys each of the positions attends to, where no mask says so: Bool["row 1 read key"]."""
        return (torch.arange(self.stream.shape[1], device=self.at.device) <= self.at[..., None])[:, None]

    def spread(self, found: Float[Tensor, "row read dim"]) -> Float[Tensor, "row position dim"]:
        """Return vectors put back to the positions they were taken from, zero elsewhere."""
        return torch.zeros_like(self.stream).scatter_(1, self.at[..., None].expand_as(found), found)


def _equal(adapter: Adapter) -> bool:
    n = longest(adapter, PROBED)
    at = torch.tensor([[n - 4, n - 1], [n - 3, 1]])
    inputs = probes.inputs(adapter, n, at)
    plain = adapter.read(inputs).logits
    with ending_at(adapter, inputs.at):
        ended = adapter.read(inputs).logits
    return near(ended, plain)
