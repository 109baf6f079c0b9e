"""Keys and values of a forward, kept for others that begin alike."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer


class _Beginning(DynamicLayer):
    """Keys and values of one layer that come before those of a forward, and are not added to."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self.keys, self.values = keys, values

    def update(self, key_states: Tensor, value_states: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        """Return the whole keys and values."""
        assert self.keys is not None
        assert self.values is not None
        return torch.cat([self.keys, key_states], dim=-2), torch.cat([self.values, value_states], dim=-2)


def beginning(tensors: tuple[Tensor, ...]) -> Cache:
    """A cache that holds the keys and values of every layer, alternately given."""
    return Cache(layers=[_Beginning(*pair) for pair in zip(tensors[::2], tensors[1::2], strict=True)])


def empty() -> DynamicCache:
    """A cache that keeps everything, in layers with a sliding window too."""
    return DynamicCache()


def kept(cache: DynamicCache) -> tuple[Tensor, ...]:
    """Keys and values of every layer, alternately."""
    return tuple(tensor for layer in cache.layers for tensor in (layer.keys, layer.values))
