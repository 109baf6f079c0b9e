"""What users of Inseq 0.7.1 and captum 0.9 run. Read in the peers' environment alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from models import UNKNOWN, Text
from read import facts_of, scored, steps
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

import inseq

DEMO = Path(__file__).parent.parent / "src" / "inseq" / "demo"
QUIET = {"show_progress": False, "pretty_progress": False}
Act = tuple[Callable[[], Any], Callable[[Any], dict[str, Any]]]


def explain(subject: Any, order: dict[str, Any]) -> Act:
    """What to run, and how to read what it gives."""
    return {"inseq": with_inseq, "captum": with_captum}[order["tool"]](subject, order)


def with_inseq(subject: Any, order: dict[str, Any]) -> Act:
    """One call of `attribute`; a span's scores are summed from its tokens', which have to be found one by one."""
    method = order["method"]
    if method == "value_zeroing":
        repair_value_zeroing()
    if method not in subject.loaded:
        subject.loaded[method] = inseq.load_model(subject.model, method, tokenizer=subject.tokenizer)
    texts = subject.chosen(order)
    options = dict(order.get("options", {}))
    if "window" in order:
        start, end = (texts[0].first + position for position in order["window"])
        options.update(attr_pos_start=start, attr_pos_end=end)
    if order.get("span"):
        options["abs"] = False

    def act() -> Any:
        found = (
            subject.loaded[method]
            .attribute(
                input_texts=[text.given for text in texts],
                generated_texts=[text.output for text in texts],
                step_scores=order.get("step_scores", ["probability"]),
                **QUIET,
                **options,
            )
            .sequence_attributions
        )
        if order.get("span"):
            return found, [scored(each).nansum(1, keepdim=True) for each in found]
        return found, [scored(each) for each in found]

    def read(out: Any) -> dict[str, Any]:
        facts = {} if order.get("span") else facts_of(out[0])
        return {"scores": [steps(each) for each in out[1]], **facts}

    return act, read


def bundled(order: dict[str, Any]) -> tuple[Any, Any, list[Text]]:
    """A model that this package brings, read as any saved model is, and the texts that this package's side explains."""
    saved = DEMO / order["shape"].removeprefix("demo/").replace("-", "_")
    family = AutoModelForSeq2SeqLM if (saved / "source.spm").exists() else AutoModelForCausalLM
    model = family.from_pretrained(saved, attn_implementation=order["attention"])
    return model, AutoTokenizer.from_pretrained(saved), [Text(*each, 0, 0, 1) for each in order["texts"]]


def with_captum(subject: Any, order: dict[str, Any]) -> Act:
    """captum's wrappers for language models: the prompt's tokens alone get scores, of each token's log-probability."""
    from captum.attr import FeatureAblation, LayerGradientXActivation, LLMAttribution, LLMGradientAttribution, TextTokenInput

    (text,), model, tokenizer = subject.chosen(order), subject.model, subject.tokenizer
    given = TextTokenInput(text.given, tokenizer, baselines=UNKNOWN)
    target = text.output.removeprefix(text.given).strip()

    def act() -> Any:
        if order["method"] == "occlusion":
            wrapped = LLMAttribution(FeatureAblation(model), tokenizer, attr_target="log_prob")
            return wrapped.attribute(given, target=target, forward_in_tokens=False)
        wrapped = LLMGradientAttribution(LayerGradientXActivation(model, model.get_input_embeddings()), tokenizer)
        return wrapped.attribute(given, target=target)

    return act, lambda out: {"scores": [steps(out.token_attr.T)], "probabilities": []}


def repair_value_zeroing() -> None:
    """Name GPT-2's variable and take blocks that return a tensor: Inseq 0.7.1's value zeroing fails on transformers 5."""
    from inseq.attr.feat.ops.value_zeroing import ValueZeroing

    names = {"self_attention_module": "attn", "value_vector": "value_states"}
    inseq.register_model_config("GPT2LMHeadModel", names, overwrite=True, allow_partial=True)

    def hook_of(self: Any, block_idx: int, hidden_state_idx: int = 0) -> Any:
        def hook(_: Any, __: Any, output: Any) -> Any:
            plain = torch.is_tensor(output)
            states = output if plain else output[hidden_state_idx]
            self.corrupted_block_output_states[block_idx] = states.clone().float().detach().cpu()
            clean = self.clean_block_output_states[block_idx].to(states.device)
            return clean if plain else (*output[:hidden_state_idx], clean, *output[hidden_state_idx + 1 :])

        return hook

    ValueZeroing.get_states_extract_and_patch_hook = hook_of
