"""Outputs made by hand, for the tests of results and views."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from inseq.outputs.output import FeatureAttributionOutput
from inseq.outputs.sequence import FeatureAttributionSequenceOutput
from inseq.text.tokens import Role, Token

NAN = float("nan")
SPECIAL = {"<pad>", "</s>"}
HOSTILE = [
    "<script>document.title='PWNED'</script>",
    "</style><img src=x onerror=document.title='PWNED'>",
    "</title></section><svg onload=alert(1)>",
    "\" onmouseover=\"document.title='PWNED'",
    "' style='color:red",
    "&lt;b&gt;",
    "{{7*7}}${7*7}",
    "[red]x[/red]",
    "\u202ecod.exe\u2066",
    "nul\x00\x1b[31mred\x07\u2028",
    "lone \ud800",
]


def tokens(texts: Sequence[str], role: Role = "source") -> list[Token]:
    return [Token(text.replace(" ", "▁"), i, role, text, text in SPECIAL) for i, text in enumerate(texts)]


def translation(
    scores: Any = ((0.6, 0.0), (0.3, 0.8), (0.1, 0.2)),
    source: Sequence[str] = ("我", "喜欢", "</s>"),
    written: Sequence[str] = (" I", " like"),
    **changes: Any,
) -> FeatureAttributionSequenceOutput:
    """An encoder-decoder output: only source scores."""
    return FeatureAttributionSequenceOutput(
        source=tokens(source),
        target=tokens(["<pad>", *written], "generated"),
        source_attributions=torch.as_tensor(scores, dtype=torch.float32),
        attr_pos_start=1,
        attr_pos_end=len(written) + 1,
        **changes,
    )


def continuation(scores: Any = None, **changes: Any) -> FeatureAttributionSequenceOutput:
    """A decoder-only output: two prompt tokens, two generated ones."""
    found = [[0.5, 0.1], [0.5, 0.2], [NAN, 0.7], [NAN, NAN]] if scores is None else scores
    target = tokens(["The", " sky"], "prompt") + tokens([" is", " blue"], "generated")
    return FeatureAttributionSequenceOutput(
        source=[token.copy() for token in target[:2]],
        target=target,
        target_attributions=torch.as_tensor(found, dtype=torch.float32),
        attr_pos_start=2,
        attr_pos_end=4,
        **changes,
    )


def everywhere(text: str) -> FeatureAttributionOutput:
    """A container with the same text in every field that holds one."""
    sequence = translation(
        source=[text, "喜欢", text],
        written=[text, "x"],
        step_scores={text: torch.ones(2)},
        diagnostics={text + "d": torch.ones(2)},
        info={text: text},
        reduced=(text,),
    )
    sequence.source[2] = Token("piece", 2, "source", text, True)
    sequence.target[2].token = text
    facts = ("attribution_method", "attributed_fn", "model_name", "dtype")
    return FeatureAttributionOutput(
        [sequence, sequence], info={**dict.fromkeys(facts, text), "options": {"baseline": text}, "notes": [text]}
    )
