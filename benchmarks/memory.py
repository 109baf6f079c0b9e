"""Peak memory of every method on a long context, each in a process of its own.

A tiny model of random weights explains the last tokens of a long text, for each family: GPT-2-like, Llama-like, and an
encoder-decoder with relative positions. Prints a Markdown table and writes `benchmarks/results/memory.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SIZES = {"layers": 2, "dim": 64, "heads": 4, "vocabulary": 512}
OPTIONS: dict[str, dict[str, Any]] = {"context_cite": {"sources": "words"}}
LAYERS = {"gpt2": "transformer.h[0]", "llama": "model.layers[0]", "t5": "encoder.block[0]"}
FAMILIES = tuple(LAYERS)
SPECIAL = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
WARM = (24, 4)
"""The lengths of a first run: imports and first-use checks do not count."""


def model_of(family: str, longest: int) -> Any:
    """A tiny model with random weights, wide enough that no prediction is flat."""
    import torch
    import transformers

    layers, dim, heads, vocabulary = SIZES.values()
    configs: dict[str, Any] = {
        "gpt2": lambda: transformers.GPT2Config(
            n_layer=layers, n_embd=dim, n_head=heads, n_positions=longest, vocab_size=vocabulary, **SPECIAL
        ),
        "llama": lambda: transformers.LlamaConfig(
            num_hidden_layers=layers,
            hidden_size=dim,
            num_attention_heads=heads,
            num_key_value_heads=heads // 2,
            intermediate_size=4 * dim,
            max_position_embeddings=longest,
            vocab_size=vocabulary,
            **SPECIAL,
        ),
        "t5": lambda: transformers.T5Config(
            num_layers=layers,
            d_model=dim,
            num_heads=heads,
            d_kv=dim // heads,
            d_ff=4 * dim,
            vocab_size=vocabulary,
            decoder_start_token_id=2,
            pad_token_id=2,
            eos_token_id=1,
        ),
    }
    torch.manual_seed(0)
    auto = transformers.AutoModelForSeq2SeqLM if family == "t5" else transformers.AutoModelForCausalLM
    model = auto.from_config(configs[family]()).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(3)
    return model


def texts(family: str, n: int, t: int) -> dict[str, list[str]]:
    """A random input of ``n`` tokens and an output of ``t``."""
    import torch

    drawn = torch.randint(4, SIZES["vocabulary"], (n + t,), generator=torch.Generator().manual_seed(1)).tolist()
    words = [f"w{i}" for i in drawn]
    given, written = words[:n], words[n:]
    return {"input_texts": [" ".join(given)], "generated_texts": [" ".join(written if family == "t5" else words)]}


def run_one(family: str, method: str, n: int, t: int, memory: str, seconds: int) -> dict[str, Any]:
    """Explain one long text in this process: peak resident memory above the idle model in MiB, and CPU seconds."""
    import torch
    import transformers
    from measure import measured
    from models import word_tokenizer

    import inseq

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    model = model_of(family, n + t + 1)
    loaded = inseq.load_model(model, tokenizer=word_tokenizer(model))
    options = dict(OPTIONS.get(method, {}))
    if method.startswith("layer_"):
        options["target_layer"] = LAYERS[family]
    also = {"memory": memory} if memory else {}
    found: dict[str, Any] = {}

    def explain(n: int, t: int) -> None:
        out = loaded.attribute(
            **texts(family, n, t), method=method, step_scores=["probability"], show_progress=False, **also, **options
        )
        found["info"] = out.info

    explain(*WARM)
    found.clear()
    signal.signal(signal.SIGPROF, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_PROF, seconds)

    def until_stopped() -> None:
        with suppress(KeyboardInterrupt):
            explain(n, t)

    _, cost = measured(until_stopped)
    signal.setitimer(signal.ITIMER_PROF, 0)
    info = found.get("info", {})
    return {
        "family": family,
        "method": method,
        "peak_mib": round(cost["peak"] - cost["idle"]),
        "seconds": round(cost["cpu"], 1),
        "finished": bool(found),
        "granular": info.get("granular"),
        "counters": info.get("counters"),
        "plan": info.get("plan"),
        "notes": info.get("notes"),
    }


def main() -> None:
    """Run every method of every family, and write what each took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--families", nargs="+", default=FAMILIES)
    parser.add_argument("--methods", nargs="+")
    parser.add_argument("--input", type=int, default=4096, help="tokens of the input")
    parser.add_argument("--generated", type=int, default=32, help="tokens that are explained")
    parser.add_argument("--memory", default="2 GiB", help="the plan's memory; empty for the default")
    parser.add_argument("--seconds", type=int, default=600, help="CPU seconds that a run gets; its peak counts")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "memory.json")
    parser.add_argument("--one", nargs=2, metavar=("FAMILY", "METHOD"), help="run one in this process")
    given = parser.parse_args()
    if given.one:
        print(json.dumps(run_one(*given.one, given.input, given.generated, given.memory, given.seconds)))
        return
    import inseq

    results: list[dict[str, Any]] = []
    print("| family | method | peak MiB | s | finished |\n|---|---|---|---|---|")
    for family in given.families:
        for method in given.methods or inseq.list_feature_attribution_methods():
            found = _in_a_process(family, method, given)
            results.append(found)
            row = (family, method, found.get("peak_mib"), found.get("seconds"), found.get("finished", found.get("error")))
            print("|", " | ".join(map(str, row)), "|", flush=True)
            about = {"input": given.input, "generated": given.generated, "memory": given.memory, **SIZES}
            machine = {"processor": platform.processor() or platform.machine(), "python": platform.python_version()}
            given.output.write_text(json.dumps({**about, **machine, "results": results}, indent=1) + "\n")


def _in_a_process(family: str, method: str, given: argparse.Namespace) -> dict[str, Any]:
    numbers = {"--input": given.input, "--generated": given.generated, "--memory": given.memory, "--seconds": given.seconds}
    command = [sys.executable, str(Path(__file__)), "--one", family, method]
    command += [str(part) for pair in numbers.items() for part in pair]
    threads = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, env=os.environ | threads, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"family": family, "method": method, "error": done.stderr.strip().splitlines()[-1:] or done.returncode}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
