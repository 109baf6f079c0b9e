"""Shapes in signatures are executed in tests; one thread per worker; nothing is ever fetched."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from jaxtyping import install_import_hook

SHAPED = [
    "text.tokens",
    "requests",
    "models",
    "engine",
    "methods",
    "targets.basic",
    "targets.contrastive",
    "results.labelled",
    "results.aggregate",
]
install_import_hook([f"inseq.{room}" for room in SHAPED], "beartype.beartype")

from collections.abc import Callable, Iterator  # noqa: E402
from typing import Any  # noqa: E402

import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import settings  # noqa: E402

from inseq.engine.accelerators import ACCELERATORS  # noqa: E402

torch.set_num_threads(1)
SIZES = {name: row.pays_from for name, row in ACCELERATORS.items()}
for row in ACCELERATORS.values():
    row.pays_from = 0  # tiny models, too, go through everything that makes the engine fast
settings.register_profile("clockless", deadline=None)
settings.load_profile("clockless")


@pytest.fixture
def registered() -> Iterator[Callable[..., str]]:
    """Register step functions under names of their own, for one test; what else is registered goes with it."""
    import inseq
    from inseq.methods import method
    from inseq.results.aggregate import aggregator
    from inseq.targets import step_function

    registries: list[Any] = [step_function, method, aggregator]
    before = [dict(registry._entries) for registry in registries]

    def add(function: Callable[..., Any], name: str = "test_function", **arguments: Any) -> str:
        inseq.register_step_function(function, name, **arguments)
        return name

    yield add
    for registry, entries in zip(registries, before, strict=True):
        registry._entries.clear()
        registry._entries.update(entries)


@pytest.fixture(scope="module")
def usual_sizes() -> Iterator[None]:
    """Small work is done plainly, as users have it: for tests that compare bits with another process."""
    for name, size in SIZES.items():
        ACCELERATORS[name].pays_from = size
    yield
    for accelerator in ACCELERATORS.values():
        accelerator.pays_from = 0


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless Chromium, started where the first test of a process needs it."""
    from browsing import chromium

    with chromium() as started:
        yield started
