"""Short names of a model and of a tokenizer by what they hold, so that a file tells which ones it came from."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Int
from torch import Tensor

TENSORS, VALUES = 16, 64
"""The number of tensors that are sampled over the model, and of values that are sampled over each."""

VOLATILE = ("_name_or_path", "transformers_version", "_attn_implementation", "attn_implementation", "architectures")
"""Fields of a configuration about the model's origin or the way it is run, which leave its function alone."""

_vocabularies: WeakKeyDictionary[Any, tuple[int, str]] = WeakKeyDictionary()


def digests(model: Any, tokenizer: Any) -> dict[str, str]:
    """Return a digest of the model and one of the tokenizer, 16 hexadecimal digits each.

    The model's is of its configuration, of the name, type and shape of each parameter, and of some values of some: equal
    for equal models wherever they are, and different after training. It is no protection against forgery.
    """
    return {"model": _model(model), "tokenizer": _tokenizer(tokenizer)}


def _model(model: Any) -> str:
    facts = {key: value for key, value in model.config.to_dict().items() if key not in VOLATILE}
    parameters = sorted(model.named_parameters())
    shapes = [(name, str(values.dtype), list(values.shape)) for name, values in parameters]
    digest = hashlib.sha256(json.dumps([facts, shapes], sort_keys=True, default=str).encode())
    held = [values for _, values in parameters if not values.is_meta and values.numel()]
    for values in held[:: max(1, -(-len(held) // TENSORS))]:
        digest.update(_sample(values).numpy().tobytes())
    return digest.hexdigest()[:16]


def _sample(values: Tensor) -> Tensor:
    flat = values.detach().reshape(-1) if values.is_contiguous() else values.detach().flatten()
    return flat[_places(flat.numel()).to(flat.device)].double().cpu()


@lru_cache
def _places(n: int) -> Int[Tensor, " place"]:
    """Return the indices of sampled values among ``n``."""
    return torch.linspace(0, n - 1, min(VALUES, n), dtype=torch.float64).long()


def _tokenizer(tokenizer: Any) -> str:
    size = len(tokenizer)
    known = _vocabularies.get(tokenizer)
    if known is None or known[0] != size:
        facts = [type(tokenizer).__name__, sorted(tokenizer.get_vocab().items()), tokenizer.special_tokens_map]
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]
        known = _vocabularies[tokenizer] = (size, digest)
    return known[1]
