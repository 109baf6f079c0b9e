"""Shapes in signatures are executed in tests; one thread per worker; nothing is ever fetched."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from jaxtyping import install_import_hook

SHAPED = ["text.example", "models", "engine", "methods", "targets", "result.labelled", "result.aggregate"]
install_import_hook([f"inseq.{room}" for room in SHAPED], "beartype.beartype")

import torch  # noqa: E402

torch.set_num_threads(1)
