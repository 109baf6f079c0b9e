"""The registry of step functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from inseq._registry import Registry

step_function: Registry[Callable[..., Any]] = Registry("step function")
"""``@step_function("name", merge="sum")``: ``merge`` says how the values of merged steps combine."""
