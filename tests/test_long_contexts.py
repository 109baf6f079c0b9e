"""Long contexts within a stated memory, enforced by the system: a process that may take no more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

WITHIN = """
import json, resource, sys
sys.path.insert(0, sys.argv[1])
from memory import WARM, model_of, texts
from measure import resident
from models import word_tokenizer
import inseq, torch

torch.set_num_threads(1)
family, n, t, memory = sys.argv[2], 4096, 8, int(sys.argv[3])
model = model_of(family, n + t + 1)
loaded = inseq.load_model(model, tokenizer=word_tokenizer(model))
methods = sys.argv[4:]
for method in methods:
    loaded.attribute(**texts(family, *WARM), method=method, show_progress=False)
limit = int(resident("VmData") * 2**20) + memory
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
for method in methods:
    found = loaded.attribute(**texts(family, n, t), method=method, memory=memory, granular=False, show_progress=False)
    scores = found.aggregate()[0]
    side = scores.source_attributions if family == "t5" else scores.target_attributions
    print(json.dumps([method, list(side.shape), bool(side[:4096].isfinite().all()), found.info["plan"]["peak"] <= memory]))
"""

METHODS = {"gpt2": ("saliency", "attention", "value_zeroing", "gim"), "t5": ("saliency", "attention", "gim")}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
@pytest.mark.parametrize(("family", "memory"), [("gpt2", 2**30), ("t5", 2**31)])
def test_4096_tokens_within_a_stated_memory(family: str, memory: int) -> None:
    """T5's biases of positions are as large as attention weights: it gets twice as much. Its texts end with a token."""
    benchmarks = str(Path(__file__).parent.parent / "benchmarks")
    command = [sys.executable, "-c", WITHIN, benchmarks, family, str(memory), *METHODS[family]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    shape = [4097, 9] if family == "t5" else [4104, 8]
    assert done.stdout.splitlines() == [f'["{method}", {shape}, true, true]' for method in METHODS[family]]
