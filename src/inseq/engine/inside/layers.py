"""A model's layers, found by where its attentions are; each can be run again from the inputs it had."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from inseq.errors import UnsupportedModelError
from inseq.models.adapter import Adapter
from inseq.models.attention import attention_function, own_attention
from inseq.models.guest import UndoList
from inseq.models.inputs import Site
from inseq.models.layers import Stack, first, layers_of, stream_of
from inseq.models.probes import near


@dataclass(frozen=True, eq=False)
class Heads:
    """One attention's computation. ``output`` is the weighted sum of the values, from the model's own code."""

    weights: Float[Tensor, "row head query key"]
    values: Float[Tensor, "row group key width"]
    output: Float[Tensor, "row query head width"]

    @property
    def group_size(self) -> int:
        """Return the number of query heads that share a value head."""
        return self.weights.shape[1] // self.values.shape[1]


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a module: the tensor it got, the tensor it gave, and all it gave."""

    module: nn.Module
    given: Tensor
    found: Tensor
    output: Any = None


@dataclass(frozen=True, eq=False)
class Zeroing:
    """Zero one token's value vectors in each row, as some query heads read them. -1 leaves a row as it is.

    Where ``positions`` are given, the layer is run at those of its positions alone.
    """

    site: Site
    heads: Int[Tensor, " head"]
    rows: Int[Tensor, " variant"]
    tokens: Int[Tensor, " variant"]
    positions: Int[Tensor, "variant looked"] | None = None

    def to(self, device: torch.device) -> Zeroing:
        moved: dict[str, Any] = {name: part.to(device) for name, part in vars(self).items() if isinstance(part, Tensor)}
        return replace(self, **moved)


@dataclass(eq=False)
class CleanLayer:
    """A layer within a forward: what it computed, and the means to run it again.

    Attributes:
        stack: the encoder's layers or the decoder's.
        index: which layer of the stack.
        output: its output.
        heads: what its attentions computed, by site.
        attentions: the modules that did, by site.
        calls: those of its parts, in order.
    """

    stack: Stack
    index: int
    output: Float[Tensor, "row position dim"]
    heads: dict[Site, Heads]
    attentions: dict[Site, nn.Module] = field(repr=False)
    calls: list[Call] = field(repr=False)
    again: Callable[[Zeroing], Tensor] = field(repr=False)
    """The layer's output for variants of its rows, from the inputs it had: Float["variant position dim"]."""

    def reached(
        self, site: Site, row: int, heads: Int[Tensor, " head"], queries: Int[Tensor, " query"]
    ) -> Bool[Tensor, "key query"]:
        """Which queries zeroing a token can reach: those that give it a weight in one of the heads."""
        weights = self.heads[site].weights[row, heads.to(self.output.device)]
        return (weights[:, queries.to(weights.device)] != 0).any(0).T


@contextmanager
def replaying(adapter: Adapter, visit: Callable[[CleanLayer], None]) -> Iterator[None]:
    """Let ``visit`` see every layer when a forward has run it; what it holds is gone when the next layer runs.

    Raises:
        UnsupportedModelError: see :func:`layers_of`; and if an attention's output is not its weights times its values.
    """
    layers = layers_of(adapter)
    replays = _LayerWatch(adapter, visit)
    with UndoList() as undo:
        for key, module in layers.items():
            for part in module.modules():
                hook = partial(replays.after, key) if part is module else replays.record
                undo.hook(part.register_forward_hook, hook, with_kwargs=True)
        undo.enter(attention_function(adapter.model, replays.attend))
        yield


class _LayerWatch:
    """Within a forward: catches what the attentions of the running layer compute, and stands in for them in a replay."""

    def __init__(self, adapter: Adapter, visit: Callable[[CleanLayer], None]) -> None:
        self.sites = adapter.facts.attention_sites or {}
        self.visit = visit
        self.caught: dict[Site, Heads] = {}
        self.attentions: dict[Site, nn.Module] = {}
        self.calls: list[Call] = []
        self.watching = True
        self.zeroing: Zeroing | None = None

    def attend(self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
        site, order = self.sites[id(module)][0], list(self.caught)
        if self.zeroing is not None and order.index(site) <= order.index(self.zeroing.site):
            return _given_off(self.caught[site], self.zeroing, zeroed=site == self.zeroing.site), None
        output, weights = own_attention(module, query, key, value, *args, **kwargs)
        if self.zeroing is None:
            self.caught[site] = checked(Heads(weights, value, output), module)
            self.attentions[site] = module
        return output, weights

    def record(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """A part of a layer has run."""
        given = stream_of(args, kwargs) if self.watching else None
        found = output[0] if isinstance(output, tuple) and output else output
        if given is not None and isinstance(found, Tensor):
            self.calls.append(Call(module, given, found, output))

    def after(self, key: tuple[Stack, int], module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """A layer has run: replays happen now, within the forward."""
        if self.zeroing is None:
            again = partial(self.again, module, args, kwargs, first(output).shape)
            self.watching = False
            self.visit(CleanLayer(*key, first(output), self.caught, self.attentions, self.calls, again))
            self.watching = True
            self.caught, self.attentions, self.calls = {}, {}, []

    def again(self, module: nn.Module, args: Any, kwargs: Any, shape: torch.Size, zeroing: Zeroing) -> Tensor:
        vary = _Variation(zeroing, stream_of(args, kwargs), shape, crossed="cross" in self.caught)
        args, kwargs = tree_map(vary, (args, kwargs))
        self.zeroing = zeroing
        try:
            return first(module.forward(*args, **kwargs))
        finally:
            self.zeroing = None


@dataclass(frozen=True, eq=False)
class _Variation:
    """Turns a layer's arguments into those of variants of its rows; what all rows share stays.

    At chosen positions, the layer's own vectors and what goes with positions are cut on the second axis. Masks and biases
    are cut on the third where a cross-attention may read them; a self-attention is never computed anew.
    """

    zeroing: Zeroing
    stream: Tensor | None
    shape: torch.Size
    crossed: bool

    def __call__(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or value.ndim < 2 or len(value) not in (1, self.shape[0]):
            return value
        zeroing = self.zeroing.to(value.device)
        if zeroing.positions is None or not self._is_cut(value):
            return self._of_rows(value, zeroing.rows)
        value = value.expand(self.shape[0], *value.shape[1:])
        if value.ndim == 4:
            return value[zeroing.rows[:, None], :, zeroing.positions].transpose(1, 2)
        return value[zeroing.rows[:, None], zeroing.positions]

    def _is_cut(self, value: Tensor) -> bool:
        if value.ndim == 4:
            return self.crossed and value.shape[2] == self.shape[1]
        others = value.ndim == 3 and value.shape[2] == self.shape[2] and value is not self.stream
        return value.shape[1] == self.shape[1] and not others

    def _of_rows(self, value: Tensor, rows: Tensor) -> Tensor:
        if self.shape[0] == 1:
            return value.expand(len(rows), *value.shape[1:])
        return value if len(value) == 1 else value[rows]


def weights_on(heads: Heads, zeroing: Zeroing) -> Float[Tensor, "variant head query"]:
    """The weights of each variant's token at the positions that are looked at."""
    zeroing = zeroing.to(heads.weights.device)
    found = heads.weights[zeroing.rows[:, None], zeroing.heads, :, zeroing.tokens.clamp_min(0)[:, None]]
    if zeroing.positions is None:
        return found
    return found.gather(2, zeroing.positions[:, None].expand(-1, found.shape[1], -1))


def _given_off(heads: Heads, zeroing: Zeroing, *, zeroed: bool) -> Float[Tensor, "variant query head width"]:
    """An attention's clean output, less what zeroed vectors gave to it: it is linear in the values."""
    zeroing = zeroing.to(heads.output.device)
    rows, tokens, some = zeroing.rows, zeroing.tokens, zeroing.heads
    output = heads.output[rows] if zeroing.positions is None else heads.output[rows[:, None], zeroing.positions]
    if zeroed:
        weights = weights_on(heads, zeroing) * (tokens >= 0)[:, None, None]
        values = heads.values[rows[:, None], some // heads.group_size, tokens.clamp_min(0)[:, None]]
        output[:, :, some] -= torch.einsum("vhq,vhw->vqhw", weights, values).to(output)
    return output


def checked(heads: Heads, module: nn.Module) -> Heads:
    """Return an attention's output, if it is the weights times the values.

    Raises:
        UnsupportedModelError: if it is not.
    """
    values = heads.values.repeat_interleave(heads.group_size, 1)
    expected = torch.einsum("rhqk,rhkw->rqhw", heads.weights, values) if len(values[0]) == heads.weights.shape[1] else None
    if expected is None or expected.shape != heads.output.shape or not near(heads.output, expected):
        raise UnsupportedModelError(
            f"The output of {type(module).__name__} is not the sum of its values weighted by its attention: what one token "
            "gives to it cannot be told. Use 'attention' or 'attention_rollout' (weights alone), or 'occlusion'."
        )
    return heads
