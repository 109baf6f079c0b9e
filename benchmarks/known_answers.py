"""Every method on data whose explanations are known: the bundled models' gold alignments and gold cues.

Prints, with a random row on top, how often a method's highest word is a right one, with 95 % intervals (percentiles of
2000 resamplings of the texts), and what that took. Writes the same to ``results/known_answers.json``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))

import gold

import inseq
from inseq.errors import UnsupportedModelError

LAYERS = {"demo/zh-en": "model.encoder.layers[1]", "demo/gpt2": "transformer.drop"}
DATA = {"demo/zh-en": (gold.alignments, gold.alignment_hits), "demo/gpt2": (gold.decided_scenes, gold.cue_hits)}


def aggregated(sequence: Any) -> torch.Tensor:
    """What a user sees: the default aggregation."""
    found = sequence.aggregate()
    return found.target_attributions if found.source_attributions is None else found.source_attributions


def interval(hits: gold.Hits) -> tuple[float, float, float]:
    """The share of hits, and 95 % of the shares over resampled texts."""
    right, n = torch.tensor([[sum(h), len(h)] for h in hits], dtype=torch.float64).T
    drawn = torch.randint(len(hits), (2000, len(hits)), generator=torch.Generator().manual_seed(0))
    low, high = (right[drawn].sum(1) / n[drawn].sum(1)).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return float(right.sum() / n.sum()), low, high


def row(name: str, model: Any, texts: Any, judge: Callable[..., gold.Hits], method: str | None) -> dict[str, Any]:
    options = dict(gold.OPTIONS.get(method or "", {}))
    if (method or "").startswith("layer_"):
        options["target_layer"] = LAYERS[name]
    change = gold.noise(0) if method is None else lambda scores: scores
    started = time.process_time()
    try:
        hits = judge(model, texts, aggregated, change, method=method or "saliency", **options)
    except UnsupportedModelError as error:
        return {"method": method, "refused": str(error)}
    rate, low, high = interval(hits)
    found = {"method": method or "random", "rate": rate, "low": low, "high": high, "words": sum(map(len, hits))}
    return found | {"cpu_seconds": round(time.process_time() - started, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=80, help="how many texts each method explains")
    parser.add_argument("--methods", nargs="*", default=inseq.list_feature_attribution_methods())
    parser.add_argument("--output", type=Path, default=HERE / "results" / "known_answers.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tables = {}
    for name, (texts, judge) in DATA.items():
        model, chosen = inseq.load_model(name, device="cpu"), texts(arguments.texts)
        print(f"\n{name}: hit@1, {len(chosen)} texts\n\n| method | hit@1 | 95 % | CPU s |\n|---|---|---|---|")
        tables[name] = []
        for method in [None, *(m for m in arguments.methods if m != "dummy")]:
            tables[name].append(found := row(name, model, chosen, judge, method))
            values = "refused | | " if "refused" in found else "{rate:.3f} | {low:.3f} to {high:.3f} | {cpu_seconds:.1f}"
            print(f"| `{found['method']}` | {values.format(**found)} |", flush=True)
    arguments.output.write_text(json.dumps(tables, indent=1) + "\n")


if __name__ == "__main__":
    main()
