"""The registry of step functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from inseq.registry import Registry

step_function: Registry[Callable[..., Any]] = Registry("step function")
"""``@step_function("name", merge="sum")`` on a function of a prediction; its keyword-only parameters are options.

Facts: ``merge`` says how the values of merged steps combine; ``contrast`` what it needs of a contrast: ``None`` nothing,
``"token"`` another token, ``"logits"`` predictions under another context (left out, it may use one); ``difference``
whether it is zero where both tokens and both predictions are the same; ``passes`` the option that says over how many
forwards with dropout it is averaged; ``of_written`` whether it asks of predictions no more than
:class:`~inseq.requests.WrittenLogits` has: the written tokens' logits and the normalizer.
"""
