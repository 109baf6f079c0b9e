"""The user's model is a guest: after success, error and interruption everything of the user's is as it was."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import harness
import numpy as np
import pytest
import torch
import zoo
from rows import METHODS

import inseq
from inseq.engine.scheduler import Engine
from inseq.errors import UnsupportedModelError

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks")
PAIRS = [
    ("gpt2", "sdpa", "words"),
    ("llama", "eager", "words_bos"),
    ("marian", "sdpa", "words_eos"),
    ("llama_one_layer", "sdpa", "words"),
    ("marian_one_layer", "eager", "words_eos"),
]


def snapshot(model: Any, tokenizer: Any) -> dict[str, Any]:
    """Everything of a model, a tokenizer and the process that an attribution could leave changed."""
    return {
        "weights": {k: v.clone() for k, v in model.state_dict().items()},
        "identity": {k: id(v) for k, v in model.named_parameters()},
        "wanted": {k: v.requires_grad for k, v in model.named_parameters()},
        "gradients": [k for k, v in model.named_parameters() if v.grad is not None],
        "training": {k: m.training for k, m in model.named_modules()},
        "hooks": {k: [list(getattr(m, h)) for h in HOOKS] for k, m in model.named_modules()},
        "modules": {k: id(m) for k, m in model.named_modules()},
        "own forward": [k for k, m in model.named_modules() if "forward" in vars(m)],
        "configs": {k: _fields(m.config) for k, m in model.named_modules() if hasattr(m, "config")},
        "generation": copy.deepcopy(vars(model.generation_config)),
        "tokenizer": _fields(tokenizer),
        "backend": tokenizer.backend_tokenizer.to_str(),
        "own gradients": _own_gradients(model),
        "random": (str(np.random.get_state()), torch.get_rng_state().tolist()),
        "torch": (torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled()),
    }


def _own_gradients(model: Any) -> dict[str, str]:
    """The gradients that the user's own ``loss.backward()`` gives, and then none again."""
    if any(parameter.grad is not None for parameter in model.parameters()):
        return {}
    ids = torch.tensor([[5, 6, 7]])
    sides = {"input_ids": ids} | ({"decoder_input_ids": ids} if model.config.is_encoder_decoder else {})
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.enable_grad():
        torch.manual_seed(0)
        model(**sides, use_cache=False).logits.square().sum().backward()
    found = {name: str(parameter.grad) for name, parameter in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    return found


def _fields(thing: Any) -> dict[str, str]:
    return {key: repr(value) for key, value in sorted(vars(thing).items())}


def options(method: str, model: Any) -> dict[str, Any]:
    return harness.given(METHODS[method].options, model, model.config.is_encoder_decoder)


@contextmanager
def unchanged(model: Any, tokenizer: Any) -> Iterator[None]:
    before = snapshot(model, tokenizer)
    try:
        yield
    finally:
        after = snapshot(model, tokenizer)
        weights = before.pop("weights")
        assert all(torch.equal(value, weights[key]) for key, value in after.pop("weights").items())
        for what, state in before.items():
            assert after[what] == state, what


def fresh(name: str, attention: str) -> Any:
    """A model in an unusual state, all of which is the user's: training, some weights frozen, a hook of its own."""
    model = copy.deepcopy(zoo.build(name, attention))
    model.train()
    next(model.children()).training = False
    for i, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(i % 3 == 0)
    model.register_forward_hook(lambda *_: None)
    return model


@pytest.fixture(params=PAIRS, ids=lambda p: p[0])
def pair(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    name, attention, kind = request.param
    return fresh(name, attention), copy.deepcopy(zoo.tokenizer(kind))


def refuses(model: Any, method: str) -> bool:
    """Whether a method cannot be right on this architecture: then the refusal must leave no trace."""
    return model.config.model_type in METHODS[method].refuses


@pytest.mark.parametrize("method", METHODS)
def test_after_success(pair: tuple[Any, Any], method: str) -> None:
    model, tokenizer = pair
    texts, arguments, scores = ["w1 w2 w3", "w4 w5"], {"max_new_tokens": 4, "do_sample": False}, ["probability"]
    kept = copy.deepcopy((texts, arguments, scores))
    expected = pytest.raises(UnsupportedModelError) if refuses(model, method) else nullcontext()
    with unchanged(model, tokenizer), expected:
        loaded = inseq.load_model(model, method, tokenizer=tokenizer, **options(method, model))
        loaded.attribute(texts, step_scores=scores, generation_args=arguments, show_progress=False)
    assert (texts, arguments, scores) == kept


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt(), torch.OutOfMemoryError("full")])
@pytest.mark.parametrize("at", [1, 2])
@pytest.mark.parametrize("method", METHODS)
def test_after_an_error_or_an_interruption(
    pair: tuple[Any, Any], method: str, at: int, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Something goes wrong inside the ``at``-th module call of the forward, deep in the model."""
    model, tokenizer = pair
    loaded = inseq.load_model(model, method, tokenizer=tokenizer, **options(method, model))
    head = model.get_output_embeddings()
    armed, calls = [False], []

    def fail(*_: Any) -> None:
        if armed[0]:
            calls.append(1)
            if len(calls) >= at + 3:
                raise error

    handle = head.register_forward_hook(fail)

    def several() -> None:
        armed[0] = True
        try:
            for _ in range(8):
                loaded.attribute("w1 w2 w3", generation_args={"max_new_tokens": 2}, show_progress=False)
        finally:
            armed[0] = False

    expected = (type(error), UnsupportedModelError) if refuses(model, method) else type(error)
    with unchanged(model, tokenizer), pytest.raises(expected):
        several()
    handle.remove()


def test_python_s_own_random_state() -> None:
    """In a process of its own: the type checker of the tests draws random numbers itself."""
    script = """
import random, sys
sys.path.insert(0, "tests")
import zoo, inseq
before = random.getstate()
model = inseq.load_model(zoo.build("gpt2"), "integrated_gradients", tokenizer=zoo.tokenizer("words"))
model.attribute("w1 w2", generation_args={"max_new_tokens": 2}, show_progress=False)
assert random.getstate() == before
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parent.parent)


def test_the_check_can_fail(pair: tuple[Any, Any]) -> None:
    model, tokenizer = pair
    with pytest.raises(AssertionError, match="training"), unchanged(model, tokenizer):
        model.eval()
    with pytest.raises(AssertionError, match="tokenizer"), unchanged(model, tokenizer):
        tokenizer.padding_side = "left" if tokenizer.padding_side == "right" else "right"


def test_an_engine_survives_an_error(pair: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The next call after a failed one gives the numbers of an undisturbed model."""
    model, tokenizer = pair
    loaded = inseq.load_model(model, "saliency", tokenizer=tokenizer)
    arguments = {"generation_args": {"max_new_tokens": 3}, "show_progress": False}
    before = loaded.attribute("w1 w2", **arguments)

    def broken(*_: Any) -> None:
        raise RuntimeError("broken")

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "_run_batch", broken)
        with pytest.raises(RuntimeError, match="broken"):
            loaded.attribute("w1 w2", **arguments)
    assert loaded.attribute("w1 w2", **arguments) == before


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_inside_the_caller_s_own_gradient_mode(pair: tuple[Any, Any], mode: Any, method: str) -> None:
    model, tokenizer = pair
    loaded = inseq.load_model(model, method, tokenizer=tokenizer, **options(method, model))
    arguments = {"generation_args": {"max_new_tokens": 3}, "show_progress": False}
    if refuses(model, method):
        with mode(), pytest.raises(UnsupportedModelError):
            loaded.attribute("w1 w2", **arguments)
        return
    outside = loaded.attribute("w1 w2", **arguments)
    with mode():
        inside = loaded.attribute("w1 w2", **arguments)
        assert not torch.is_grad_enabled()
    assert inside == outside


def test_threads_share_a_model(pair: tuple[Any, Any]) -> None:
    model, tokenizer = pair
    loaded = [inseq.load_model(model, method, tokenizer=tokenizer) for method in ("saliency", "attention") * 3]
    arguments = {"generation_args": {"max_new_tokens": 4}, "show_progress": False}
    alone = [each.attribute("w1 w2 w3", **arguments) for each in loaded]
    with unchanged(model, tokenizer), ThreadPoolExecutor(len(loaded)) as pool:
        together = list(pool.map(lambda each: each.attribute("w1 w2 w3", **arguments), loaded))
    assert together == alone
