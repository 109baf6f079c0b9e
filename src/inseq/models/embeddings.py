"""Embedding tables, and how their output is scaled before the first layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn


@dataclass
class EmbeddingTable:
    """An embedding table: ``unit`` takes its output to first-layer units, ``feed`` takes those to what the model expects."""

    module: nn.Module
    unit: float = 1.0
    feed: float = 1.0

    @property
    def weight(self) -> Float[Tensor, "vocab dim"]:
        weight = self.module.weight
        assert isinstance(weight, Tensor)
        return weight

    @property
    def device(self) -> torch.device:
        """Return the device it computes on. Accelerate may keep the weights themselves elsewhere."""
        hook = getattr(self.module, "_hf_hook", None)
        offloaded = self.weight.is_meta and getattr(hook, "execution_device", None) is not None
        return torch.device(hook.execution_device) if offloaded else self.weight.device  # type: ignore[union-attr]

    def embed(self, ids: Tensor) -> Tensor:
        with torch.inference_mode(False), torch.no_grad():
            return self.module(ids.to(self.device)) * self.unit


def table_of(stack: Any, model: Any) -> EmbeddingTable:
    try:
        module = stack.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        module = model.get_input_embeddings()
    inner = getattr(stack, "embed_scale", None)
    if stack is model:
        inner = next((s for name in ("model", "transformer", "decoder") if (s := _scale_of(model, name)) is not None), None)
    scales_itself = hasattr(module, "embed_scale")
    return EmbeddingTable(module, unit=1.0 if inner is None or scales_itself else float(inner))


def _scale_of(model: Any, name: str) -> float | None:
    part = getattr(model, name, None)
    return getattr(part, "embed_scale", None)
