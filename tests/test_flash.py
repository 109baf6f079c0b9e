"""Attention that gives no weights, wants a mask of its own kind and cannot be batched, as flash attention: in small."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import harness
import pytest
import torch
import zoo
from harness import relative
from rows import METHODS
from test_devices import load, scores
from torch import Tensor
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, flash_attention_mask

NAME = "kernel_in_small"


class Kernel(torch.autograd.Function):
    """Attention that touches memory itself, as compiled kernels do, so that no batching rule helps."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float, hidden: Tensor) -> Tensor:
        weights = (query @ key.mT * scale).masked_fill(hidden, -1e9).softmax(-1)
        ctx.save_for_backward(query, key, value, weights)
        ctx.scale = scale
        return weights @ value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        grad.data_ptr()
        query, key, value, weights = ctx.saved_tensors
        at_weights = grad @ value.mT
        at_scores = weights * (at_weights - (at_weights * weights).sum(-1, keepdim=True)) * ctx.scale
        return at_scores @ key, at_scores.mT @ query, weights.mT @ grad, None, None


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """What transformers' flash attention does: the mask is None, or says by a one or a nought which keys are real."""
    n_queries, n_keys = query.shape[2], key.shape[2]
    key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], 1) for x in (key, value))
    hidden = torch.zeros(1, 1, n_queries, n_keys, dtype=torch.bool)
    if module.is_causal if is_causal is None else is_causal:
        hidden = torch.arange(n_keys) > torch.arange(n_keys - n_queries, n_keys)[:, None]
    if attention_mask is not None:
        assert attention_mask.ndim == 2
        hidden = hidden | ~attention_mask[:, None, None, -n_keys:].bool()
    found = Kernel.apply(query, key, value, query.shape[-1] ** -0.5 if scaling is None else scaling, hidden)
    return found.transpose(1, 2).contiguous(), None


@pytest.fixture(scope="module", autouse=True)
def kernel() -> Iterator[None]:
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, flash_attention_mask)
    yield
    for registry in (AttentionInterface, AttentionMaskInterface):
        registry._global_mapping.pop(NAME)


def with_kernel(name: str) -> Any:
    model = copy.deepcopy(zoo.build(name, "sdpa"))
    model.set_attn_implementation(NAME)
    return load(name, model)


@pytest.mark.parametrize("name", ["gpt2", "llama", "marian"])
def test_every_method(name: str) -> None:
    """Methods that need weights attend eagerly; the others go through the kernel, product by product."""
    plain, made = load(name, zoo.build(name, "eager")), with_kernel(name)
    for method, row in METHODS.items():
        if name not in row.refuses:
            found = (scores(model, method, **harness.given(row.options, model.model)) for model in (made, plain))
            assert relative(*found) < 1e-4, method
    assert made.adapter.facts.can_batch_products[None, "plain"] is False
    assert made.model.config._attn_implementation == NAME


@pytest.mark.parametrize("removal", ["hide", "delete"])
@pytest.mark.parametrize("name", ["gpt2", "llama", "marian"])
def test_tokens_are_hidden_by_a_mask_of_the_kernel_s_own_kind(name: str, removal: str) -> None:
    found = (
        scores(model, "occlusion", removal=removal) for model in (with_kernel(name), load(name, zoo.build(name, "eager")))
    )
    assert relative(*found) < 1e-4


def test_texts_of_unequal_length_in_one_batch() -> None:
    made = with_kernel("marian")
    texts, outputs = ["w1 w2 w3 w4", "w5 w6"], ["w7 w8 w9", "w7 w1 w2 w3 w4"]
    arguments: dict[str, Any] = {"show_progress": False, "attribute_target": True}
    together = made.attribute(texts, outputs, **arguments)
    for i, found in enumerate(together):
        (alone,) = made.attribute(texts[i], outputs[i], **arguments)
        for side in ("source_attributions", "target_attributions"):
            assert relative(getattr(found, side).nan_to_num(0), getattr(alone, side).nan_to_num(0)) < 1e-5
