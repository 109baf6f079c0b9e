"""Attention's contribution to the residual stream, found by watching a layer and verified as it runs.

Nothing is known of an architecture beforehand. The output projection is the module that is called on the attention's
weighted values; a norm is a module without parts whose parameters, if any, are vectors. A norm's statistics are held as
they were, so that it is linear in the pieces of what it normalizes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import torch
from jaxtyping import Float
from torch import Tensor, nn

from inseq.engine.inside.layers import Call, Heads, checked
from inseq.errors import UnsupportedModelError
from inseq.models.adapter import Adapter
from inseq.models.attention import attention_function, own_attention
from inseq.models.guest import UndoList
from inseq.models.inputs import Reading, Site
from inseq.models.layers import first, layers_of, stream_of
from inseq.models.probes import near

PROBE = 128.0
"""The length of vectors that probe a norm: large enough for its epsilon to vanish."""


@dataclass(frozen=True, eq=False)
class FrozenNorm:
    """A norm with the statistics it had: ``gain * (v - mean(v)) * scale + shift``, without the mean for RMS norms."""

    gain: Float[Tensor, " dim"]
    shift: Float[Tensor, " dim"]
    scale: Float[Tensor, "row position"]
    centered: bool

    def linear(self, vectors: Float[Tensor, "*more dim"], scale: Float[Tensor, "*more"]) -> Float[Tensor, "*more dim"]:
        """The norm of pieces, which sum to the norm of their sum less the shift."""
        moved = vectors - vectors.mean(-1, keepdim=True) if self.centered else vectors
        return self.gain * moved * scale[..., None]

    def of(self, vectors: Float[Tensor, "row position dim"]) -> Float[Tensor, "row position dim"]:
        return self.linear(vectors, self.scale) + self.shift


@dataclass(frozen=True, eq=False)
class Sublayer:
    """One attention of a layer: ``total`` is its residual and, from every key, one piece, and what belongs to no token.

    Attributes:
        site: which attention.
        layer: index of the layer within its stack.
        heads: its weights and values.
        projection: what takes the heads' output to the model's dimension, less its bias.
        norms: what the projected output goes through, in order.
        before: the residual stream that it read.
        residual: the piece of it in ``total``.
        total: the residual stream with the attention's output.
        additive: whether the rest of the layer only adds to ``total``, and the layer read what the one before it gave.
    """

    site: Site
    layer: int
    heads: Heads
    projection: Float[Tensor, "inner dim"]
    norms: tuple[FrozenNorm, ...]
    before: Float[Tensor, "row position dim"]
    residual: Float[Tensor, "row position dim"]
    total: Float[Tensor, "row position dim"]
    additive: bool


@contextmanager
def dissecting(adapter: Adapter, visit: Callable[[Sublayer], None]) -> Iterator[None]:
    """Let ``visit`` see every attention of a layer when a forward has run the layer; nothing is kept after it.

    Raises:
        UnsupportedModelError: where the layer's attentions do not go through transformers' interface, or where the pieces
            found do not sum to what the model computed.
    """
    layers = layers_of(adapter)
    watch = _Watch(adapter, visit)
    with UndoList() as undo:
        for layer in layers.values():
            for part in layer.modules():
                hook = watch.dissect if part is layer else watch.record
                undo.hook(part.register_forward_hook, hook, with_kwargs=True)
        undo.enter(attention_function(adapter.model, watch.attend))
        yield


class _Watch:
    """Within a forward: keeps what the parts of the running layer got and gave, until the layer has run."""

    def __init__(self, adapter: Adapter, visit: Callable[[Sublayer], None]) -> None:
        self.adapter = adapter
        self.sites = adapter.facts.attention_sites or {}
        self.visit = visit
        self.calls: list[Call] = []
        self.heads: dict[int, Heads] = {}
        self.watching = True
        self.previous: Tensor | None = None

    def attend(self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
        output, weights = own_attention(module, query, key, value, *args, **kwargs)
        self.heads[id(module)] = checked(Heads(weights, value, output), module)
        return output, weights

    def record(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        given = stream_of(args, kwargs)
        found = output[0] if isinstance(output, tuple) and output else output
        if self.watching and given is not None and isinstance(found, Tensor):
            self.calls.append(Call(module, given, found))

    def dissect(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """A layer has run: the parts are called again, on probes, without being watched."""
        stream = stream_of(args, kwargs)
        assert stream is not None
        first_of_stack = all(self.sites[key][1] == 0 for key in self.heads)
        joined = first_of_stack or (self.previous is not None and same(stream, self.previous))
        self.watching = False
        for key, heads in self.heads.items():
            sublayer = _sublayer(self.adapter, self.sites[key], key, heads, self.calls, stream, first(output))
            self.visit(replace(sublayer, additive=sublayer.additive and joined))
            stream = sublayer.total.to(stream)
        self.watching = True
        self.previous = first(output)
        self.calls.clear()
        self.heads.clear()


def _sublayer(
    adapter: Adapter,
    site: tuple[Site, int],
    key: int,
    heads: Heads,
    calls: Sequence[Call],
    stream: Tensor,
    layer_output: Tensor,
) -> Sublayer:
    at = next((i for i, call in enumerate(calls) if id(call.module) == key), None)
    if at is None:
        _refuse(adapter, site, "its module is not called on a tensor, or does not give one")
    attention, later = calls[at], calls[at + 1 :]
    projection = _projection(adapter, site, heads, attention, calls[:at])
    added = attention.found
    norms: tuple[FrozenNorm, ...] = ()
    norm = _norm_of(later, added)
    if norm is not None:
        added, norms = norm.found, (_frozen(adapter, site, norm),)
    norm = _norm_of(later, stream + added) if same(attention.given, stream) else None
    if norm is None:
        total, residual = wide(stream) + wide(added), wide(stream)
        adds = any(_adds_up(layer_output, total, call.found) for call in later)
        seen = adds or any(_adds_up(given, stream, added) for given in (*(call.given for call in later), layer_output))
    else:
        frozen = _frozen(adapter, site, norm)
        total, residual, norms = wide(norm.found), frozen.linear(wide(stream), frozen.scale), (*norms, frozen)
        adds, seen = False, any(same(given, norm.found) for given in (*(call.given for call in later), layer_output))
    if not seen:
        _refuse(adapter, site, "what it adds to the residual stream was not seen again in the layer")
    additive = norm is None and (adds or (site[0] == "decoder" and "source" in adapter.tables))
    return Sublayer(*site, heads, projection, norms, wide(stream), residual, total, additive)


def _projection(
    adapter: Adapter, site: tuple[Site, int], heads: Heads, attention: Call, calls: Sequence[Call]
) -> Float[Tensor, "inner dim"]:
    """The matrix of the module that takes the heads' output to the attention's."""
    weighted = heads.output.flatten(2)
    inner = {id(part) for part in attention.module.modules()}
    projected = [call for call in calls if id(call.module) in inner and same(call.given, weighted)]
    if not projected:
        _refuse(adapter, site, "no output projection was seen on its weighted values")
    matrix, bias = linear_map(projected[-1].module, weighted)
    if not near(wide(weighted) @ matrix + bias, wide(attention.found), attention.found.dtype):
        _refuse(adapter, site, "the pieces do not sum to its output")
    return matrix


def _norm_of(calls: Sequence[Call], vectors: Tensor) -> Call | None:
    """The call of a norm on these vectors, if there is one; what hands them on as they are is none."""
    found = (call for call in calls if is_norm(call.module) and same(call.given, vectors))
    return next((call for call in found if not same(call.given, call.found)), None)


def is_norm(module: nn.Module) -> bool:
    return not list(module.children()) and all(parameter.ndim == 1 for parameter in module.parameters())


def same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a, b.to(a.device))


def _adds_up(total: Tensor, part: Tensor, other: Tensor) -> bool:
    """Return whether a sum is that of two parts, as far as the rounding of the larger shows the smaller.

    Some layers lay rows and positions out in one axis.
    """
    if total.numel() != part.numel() or other.numel() != part.numel() or other.shape[-1] != part.shape[-1]:
        return False
    total, other = total.reshape(part.shape), other.reshape(part.shape)
    rounding = 8 * max(torch.finfo(t.dtype).eps for t in (total, part, other)) * (part.abs() + other.abs())
    return bool(((total - part - other).abs() <= 1e-4 * other.abs().max() + rounding).all())


def _frozen(adapter: Adapter, site: tuple[Site, int], call: Call) -> FrozenNorm:
    found = freeze(call.module, call.given, call.found)
    if not near(found.of(wide(call.given)), wide(call.found), call.found.dtype):
        _refuse(adapter, site, f"{type(call.module).__name__} is not linear once its statistics are held")
    return found


def freeze(norm: nn.Module, given: Float[Tensor, "row position dim"], found: Tensor) -> FrozenNorm:
    """Find by probing what a norm does: its shift, its gain, whether it centers; and from one call its statistics."""
    dim = given.shape[-1]
    probe = torch.ones(dim, dtype=given.dtype, device=given.device)
    probe[1::2] = -1
    probe -= probe.mean()
    ones = torch.ones_like(probe)
    shift, alternating, flat = wide(norm(torch.stack([0 * ones, PROBE * probe, PROBE * ones])[None])[0])
    gain = (alternating - shift) * wide(probe).square().mean().sqrt() / wide(probe)
    centered = bool((flat - shift).abs().max() < 0.5 * gain.abs().max())
    vectors = wide(given)
    moved = gain * (vectors - vectors.mean(-1, keepdim=True) if centered else vectors)
    scale = ((wide(found) - shift) * moved).sum(-1) / moved.square().sum(-1).clamp_min(torch.finfo(moved.dtype).tiny)
    return FrozenNorm(gain, shift, scale, centered)


def linear_map(module: nn.Module, like: Tensor) -> tuple[Float[Tensor, "inner dim"], Float[Tensor, " dim"]]:
    """The matrix and the bias of an affine module, whatever it is made of, by calling it."""
    inner = like.shape[-1]
    basis = PROBE * torch.eye(inner, dtype=like.dtype, device=like.device)
    bias = wide(module(torch.zeros_like(basis[:1])[None])[0, 0])
    return (wide(module(basis[None])[0]) - bias) / PROBE, bias


def wide(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _refuse(adapter: Adapter, site: tuple[Site, int], reason: str) -> NoReturn:
    raise UnsupportedModelError(
        f"{type(adapter.model).__name__}, layer {site[1]}, {site[0]} attention: {reason}, so this layer's output cannot be "
        "divided among the tokens. Use 'attention_rollout' (weights alone) or 'value_zeroing' instead."
    )


@dataclass(frozen=True, eq=False)
class Readout:
    """The linear map from the last layer's output to written tokens' logits, with the final norm's statistics held fixed.

    Attributes:
        directions: what a vector added to the last layer's output adds to a step's logit, as a dot product.
        logits: of the written tokens, as the vocabulary matrix gives them.
    """

    directions: Float[Tensor, "row step dim"]
    logits: Float[Tensor, "row step"]


@contextmanager
def reading_out(adapter: Adapter) -> Iterator[Callable[[Reading, Tensor, Tensor], Readout]]:
    """Watch the end of a forward; yields what makes, of its reading, positions and written ids, the readout.

    Raises:
        UnsupportedModelError: where hidden states are not the last layer's output, normed and scaled.
    """
    layers = layers_of(adapter)
    last = layers[max(key for key in layers if key[0] == "decoder")]
    inside = {id(part) for layer in layers.values() for part in layer.modules()}
    calls: list[Call] = []

    def record(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        given = stream_of(args, kwargs)
        if given is not None and given.is_floating_point():
            calls.append(Call(module, given, first(output)))

    def read_out(reading: Reading, at: Tensor, ids: Tensor) -> Readout:
        stream = next(call.found for call in calls if call.module is last)
        norm = _norm_of(calls, stream)
        found = stream if norm is None else norm.found
        hidden = reading.hidden
        factor = (wide(hidden) * wide(found)).sum() / wide(found).square().sum() if hidden.shape == found.shape else None
        if factor is None or not near(wide(found) * factor, wide(hidden), hidden.dtype):
            raise UnsupportedModelError(
                f"{type(adapter.model).__name__} does more than norm and scale between its last layer and the vocabulary "
                "matrix, so a layer's part in a logit cannot be told. Use 'alti', or 'input_x_gradient'."
            )
        directions, logits = _into_head(adapter.head, reading.chosen, ids)
        directions = directions * factor
        if norm is not None:
            frozen = freeze(norm.module, norm.given, norm.found)
            directions = frozen.gain * directions * frozen.scale.gather(1, at.to(frozen.scale.device))[..., None]
            directions = directions - directions.mean(-1, keepdim=True) if frozen.centered else directions
        return Readout(directions, logits)

    with UndoList() as undo:
        for part in adapter.model.modules():
            if part is last or (is_norm(part) and id(part) not in inside):
                undo.hook(part.register_forward_hook, record, with_kwargs=True)
        yield read_out


def _into_head(head: nn.Module, hidden: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """The written tokens' logits, and their gradients at the hidden states."""
    with torch.enable_grad():
        leaf = hidden.detach().requires_grad_()
        logits = head(leaf).gather(-1, ids.to(leaf.device)[..., None])[..., 0]
        (directions,) = torch.autograd.grad(logits.sum(), leaf)
    return wide(directions), wide(logits.detach())
