"""How right refined integrated gradients are: bundled models, each step's scores beside those of 800 even nodes.

Prints a table, and writes it to `benchmarks/results/refined_scores.json`. The error of a step is the L2 norm of the
difference, every dimension counted, over that of the scores.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from ours import bundled
from read import scored

import inseq

TEXTS = {"demo/zh-en": 24, "demo/gpt2": 8}
EVEN: dict[str, Any] = {"n_steps": 800, "quadrature": "riemann_middle"}
WAYS: dict[str, dict[str, Any]] = {
    "tolerance 0.01": {"n_steps": 800, "tolerance": 0.01},
    "tolerance 0.001": {"n_steps": 800, "tolerance": 0.001},
    "50 nodes": {"n_steps": 50},
}
QUANTILES = (0.5, 0.9, 0.97)


def explained(shape: str) -> dict[str, list[Any]]:
    """Each way's results on the texts of a model."""
    model, tokenizer, texts = bundled({"shape": shape}, TEXTS[shape])
    loaded = inseq.load_model(model, "integrated_gradients", tokenizer=tokenizer)
    given = {"input_texts": [text.given for text in texts], "generated_texts": [text.output for text in texts]}
    return {
        name: loaded.attribute(**given, show_progress=False, **options).sequence_attributions
        for name, options in {"even": EVEN, **WAYS}.items()
    }


def whole(found: Any) -> torch.Tensor:
    """All scores of a text: Float["step value"]; zeros where nothing was written yet."""
    sides = [scored(found)] if found.target_attributions is scored(found) else [scored(found), found.target_attributions]
    return torch.cat([side.double().nan_to_num(0).transpose(0, 1).flatten(1) for side in sides if side is not None], 1)


def errors(found: list[Any], right: list[Any]) -> torch.Tensor:
    """Of all steps of all texts."""
    pairs = [(whole(a), whole(b)) for a, b in zip(found, right, strict=True)]
    return torch.cat([(a - b).norm(dim=1) / b.norm(dim=1) for a, b in pairs])


def missing(found: list[Any]) -> torch.Tensor:
    """What scores fail to add up to, as a share of the target's change."""
    gaps = [(each.diagnostics["delta"].double().flatten(), whole(each).sum(1)) for each in found]
    return torch.cat([(delta / (total - delta)).abs() for delta, total in gaps])


def main() -> None:
    """Explain, compare, print and write."""
    table: list[dict[str, Any]] = []
    print("| model | way | nodes, mean | delta above 1 % | error: median | 90 % | 97 % |\n|" + "---|" * 7)
    for shape in TEXTS:
        ways = explained(shape)
        for name in WAYS:
            nodes = [each.diagnostics["nodes"].flatten() for each in ways[name] if "nodes" in each.diagnostics]
            row = {
                "model": shape,
                "way": name,
                "steps": len(missing(ways[name])),
                "nodes": torch.cat(nodes).double().mean().item() if nodes else 50,
                "incomplete": (missing(ways[name]) > 0.01).double().mean().item(),
                "errors": errors(ways[name], ways["even"]).quantile(torch.tensor(QUANTILES).double()).tolist(),
            }
            table.append(row)
            shares = [f"{each:.3f}" for each in row["errors"]]
            print(
                "| " + " | ".join([shape, name, f"{row['nodes']:.1f}", f"{row['incomplete']:.0%}", *shares]) + " |", flush=True
            )
    (Path(__file__).parent / "results" / "refined_scores.json").write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
