"""One side of a comparison: explains with whichever `inseq` its environment has, one JSON line per order.

Read from standard input, answered on standard output:

    {"do": "build", "shape": "6x384", "attention": "sdpa", "lengths": [[128, 64]]}
    {"do": "run", "tool": "inseq", "method": "saliency", "options": {}, "window": [0, 64]}
    {"do": "rate"}
"""

from __future__ import annotations

import json
import sys
import traceback
from importlib.metadata import version
from typing import Any

import torch
import transformers
from limit import Sizes, of
from measure import Calls, measured, rate
from models import drawn_text, random_model, word_tokenizer

import inseq

VERSION = getattr(inseq, "__version__", None) or version("inseq")
PEER = VERSION.startswith("0.")


class Subject:
    """A model of random weights and random texts to explain, or a bundled model and texts of its language."""

    def __init__(self, order: dict[str, Any]) -> None:
        self.loaded: dict[str, Any] = {}
        if order["shape"].startswith("demo/"):
            if PEER:
                from peers import bundled
            else:
                from ours import bundled

            self.model, self.tokenizer, self.texts = bundled(order)
            self.short = self.texts[0]
        else:
            self.model = random_model(order["shape"], order["attention"])
            self.tokenizer = word_tokenizer(self.model)
            self.texts = [drawn_text(self.model, *each, seed=1 + i) for i, each in enumerate(order["lengths"])]
            self.short = drawn_text(self.model, 8, 4, seed=0)
        self.calls = Calls(self.model)

    def facts(self) -> dict[str, Any]:
        """What both sides must agree on, and what they cannot."""
        digest = sum(weight.double().abs().sum().item() for weight in self.model.parameters())
        known = {"inseq": VERSION, "torch": torch.__version__, "transformers": transformers.__version__}
        return {"weights": digest, "versions": known, "texts": [[text.given, text.output] for text in self.texts]}

    def chosen(self, order: dict[str, Any]) -> list[Any]:
        """The texts of an order: all, some by number, or a short one to get warm."""
        return [self.short] if order.get("warm") else [self.texts[i] for i in order.get("texts", range(len(self.texts)))]

    def run(self, order: dict[str, Any]) -> dict[str, Any]:
        """Explain some texts' generated tokens, and say what it cost."""
        if PEER:
            from peers import explain
        else:
            from ours import explain
        before = self.calls.seen()
        act, read = explain(self, order)
        out, cost = measured(act, order.get("trim", True))
        counted = {kind: n - before[kind] for kind, n in self.calls.seen().items()}
        return {**cost, **counted, **read(out)}

    def needed(self, order: dict[str, Any]) -> dict[str, Any]:
        """The operations of a kind of work on these texts."""
        lengths = [(text.prompt, text.generated) for text in self.texts]
        return {"operations": of(order["work"], Sizes.of(self.model.config), lengths, order.get("count", 1))}


def answer(order: dict[str, Any], subject: Subject | None) -> tuple[dict[str, Any], Subject | None]:
    """Carry out one order."""
    if order["do"] == "rate":
        return {"rate": rate()}, subject
    if order["do"] == "build":
        subject = Subject(order)
        return subject.facts(), subject
    assert subject is not None, "build comes first"
    return getattr(subject, order["do"])(order), subject


def main() -> None:
    """Serve orders until standard input ends; nothing else may write to standard output."""
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    lines, sys.stdout = sys.stdout, sys.stderr
    subject = None
    for line in sys.stdin:
        try:
            reply, subject = answer(json.loads(line), subject)
        except Exception as error:
            traceback.print_exc()
            reply = {"failed": f"{type(error).__name__}: {error}"[:500]}
        print(json.dumps(reply), file=lines, flush=True)


if __name__ == "__main__":
    main()
