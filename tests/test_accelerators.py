"""Every accelerator can be turned off and changes no number; small work is done plainly, and asks the model nothing."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import harness
import pytest
import zoo
from harness import relative
from rows import METHODS, TOLERANCE

import inseq
from inseq.engine.accelerators import ACCELERATORS, without

FAMILIES = ("gpt2", "llama", "marian", "t5")
USERS = {
    "last_layer": ("saliency", "integrated_gradients"),
    "saved_slopes": ("saliency", "integrated_gradients"),
    "beginnings": ("saliency",),
    "batched_products": ("saliency", "attnlrp", "layer_gradient_x_activation"),
    "streamed_predictions": ("lime", "occlusion", "attention"),
    "early_end": ("lime", "occlusion"),
    "cache_reuse": ("occlusion", "shapley_sampling"),
    "zeroing_shortcut": ("value_zeroing",),
}
"""The methods that go through each."""


def test_every_accelerator_has_its_methods() -> None:
    assert set(USERS) == set(ACCELERATORS)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "method"), [(name, method) for name, methods in USERS.items() for method in methods])
@pytest.mark.parametrize("family", FAMILIES)
def test_numbers_are_the_same_without_it(family: str, name: str, method: str) -> None:
    made, _ = harness.adapter(family, "sdpa" if "sdpa" in zoo.ZOO[family].attention else "eager")
    chosen = harness.cases(family)
    options = METHODS[method].options
    fast, _ = harness.run(made, chosen, method, recorded=["probability"], **options)
    with without(name):
        plain, _ = harness.run(made, chosen, method, recorded=["probability"], **options)
    for (one, scores), (other, other_scores) in zip(fast, plain, strict=True):
        assert relative(one.scores, other.scores) < 5 * TOLERANCE
        assert relative(scores["probability"], other_scores["probability"]) < TOLERANCE


SHORT = """
import sys
sys.path[:0] = {path!r}
import zoo, inseq
model = inseq.load_model(zoo.build({name!r}), {method!r}, tokenizer=zoo.tokenizer("words"))
facts = model.adapter.facts
forwards = []
model.model.register_forward_pre_hook(lambda *_: forwards.append(1))
out = model.attribute("w1 w2 w3", "w1 w2 w3 w4 w5 w6", show_progress=False)
print(facts.graph_kind, facts.linear_logits, len(forwards), out.info["counters"]["forwards"])
"""


@pytest.mark.parametrize("method", ["saliency", "attention"])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_short_text_asks_a_model_nothing(name: str, method: str) -> None:
    """In a process of its own, where the sizes of the table hold: the forwards are those of the answer."""
    path = [str(Path(module.__file__).parent) for module in (zoo, inseq)]  # type: ignore[type-var]
    code = SHORT.format(path=[path[0], str(Path(path[1]).parent)], name=name, method=method)
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *facts, run, counted = ran.stdout.split()[-4:]
    assert facts == ["None", "None"]
    assert run == counted == "1"


def test_a_model_is_asked_once_whatever_is_loaded_after(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second load of the same object, or one for another method, runs no forward."""
    model, tokenizer = copy.deepcopy(zoo.build("gpt2")), zoo.tokenizer("words")
    first = inseq.load_model(model, "saliency", tokenizer=tokenizer)
    runs: list[int] = []
    own = type(model).forward

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        runs.append(1)
        return own(self, *args, **kwargs)

    monkeypatch.setattr(type(model), "forward", counted)
    again = inseq.load_model(model, "occlusion", tokenizer=tokenizer)
    assert runs == []
    assert again.adapter.facts is first.adapter.facts
    model.transformer.h[0].mlp.act = copy.deepcopy(model.transformer.h[0].mlp.act)
    inseq.load_model(model, "saliency", tokenizer=tokenizer)
    assert runs
