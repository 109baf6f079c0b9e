"""What users of this package run."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from models import Text
from read import facts_of, scored, steps

import inseq
from inseq.demo import gold_documents, gold_translations
from inseq.engine.accelerators import without

Act = tuple[Callable[[], Any], Callable[[Any], dict[str, Any]]]


def explain(subject: Any, order: dict[str, Any]) -> Act:
    """What to run, and how to read what it gives."""
    return {"ours": attributed, "plain": plain, "body": body}[order.get("tool", "ours")](subject, order)


def attributed(subject: Any, order: dict[str, Any]) -> Act:
    """One call of `attribute`."""
    if "ours" not in subject.loaded:
        subject.loaded["ours"] = inseq.load_model(subject.model, tokenizer=subject.tokenizer)
    texts = subject.chosen(order)
    options = dict(order.get("options", {}))
    if order.get("span"):
        options["target_spans"] = [(text.first, text.first + text.generated) for text in texts]

    def act() -> Any:
        with without(order["without"]) if "without" in order else nullcontext():
            return subject.loaded["ours"].attribute(
                input_texts=[text.given for text in texts],
                generated_texts=[text.output for text in texts],
                method=order["method"],
                step_scores=order.get("step_scores", ["probability"]),
                show_progress=False,
                **options,
            )

    def read(out: Any) -> dict[str, Any]:
        found = list(out.sequence_attributions)
        return {
            "scores": [steps(scored(each)) for each in found],
            **facts_of(found),
            **{name: n for name, n in out.info["counters"].items() if name in ("forwards", "rows", "tokens", "vjps")},
        }

    return act, read


def plain(subject: Any, order: dict[str, Any]) -> Act:
    """One forward of the whole text with gradients, and one backward of its last prediction to the embeddings."""
    (text,) = subject.chosen(order)
    ids = torch.tensor([subject.tokenizer(text.output).input_ids[:-1]])

    def act() -> None:
        embeddings = subject.model.get_input_embeddings()(ids).detach().requires_grad_()
        logits = subject.model(inputs_embeds=embeddings, use_cache=False).logits
        torch.autograd.grad(logits[0, -1].log_softmax(-1)[0], embeddings)

    return act, lambda _: {}


def body(subject: Any, order: dict[str, Any]) -> Act:
    """One forward of the whole text without gradients and without the vocabulary matrix, by the model's own code alone."""
    (text,) = subject.chosen(order)
    ids = torch.tensor([subject.tokenizer(text.output).input_ids[:-1]])

    def act() -> None:
        with torch.no_grad():
            subject.model.base_model(ids, use_cache=False)

    return act, lambda _: {}


def bundled(order: dict[str, Any], count: int = 8) -> tuple[Any, Any, list[Text]]:
    """A bundled model, its tokenizer, and texts of its language with what it writes."""
    model = inseq.load_model(order["shape"], device="cpu")
    if model.is_encoder_decoder:
        given = [pair.source for pair in gold_translations()[:count]]
        written = model.generate(given)
    else:
        written = [document.text for document in gold_documents()[:count]]
        given = [" ".join(text.split(" ")[:-8]) for text in written]
    return model.model, model.tokenizer, [Text(*each, 0, 0, 1) for each in zip(given, written, strict=True)]
