"""What the benchmarks claim: the operations a result needs are those a model does, and the page shows what was measured."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

cases, limit, models, sides, table = map(import_module, ("cases", "limit", "models", "sides", "table"))

SMALL = {
    "GPT2": {"n_layer": 2, "n_embd": 32, "n_head": 4, "vocab_size": 60},
    "Llama": {
        "hidden_size": 32,
        "intermediate_size": 56,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 60,
    },
    "Marian": {
        "d_model": 32,
        "vocab_size": 60,
        "decoder_vocab_size": 60,
        "activation_function": "swish",
        "decoder_start_token_id": 2,
        **{f"{side}_layers": 2 for side in ("encoder", "decoder")},
        **{f"{side}_attention_heads": 4 for side in ("encoder", "decoder")},
        **{f"{side}_ffn_dim": 48 for side in ("encoder", "decoder")},
    },
}


@pytest.fixture(params=["GPT2", "Llama"])
def small(request: Any, monkeypatch: Any) -> Any:
    """A model whose products can be counted, its weights without gradients."""
    monkeypatch.setitem(models.SHAPES, "small", (request.param, SMALL[request.param]))
    return models.random_model("small", "eager").requires_grad_(False)


def counted(act: Any) -> int:
    with FlopCounterMode(display=False) as counter:
        act()
    return counter.get_total_flops()


def later(sizes: Any, tokens: int, layers: int, products: int = 2) -> int:
    """Operations for pairs of a token and a later one, which a model does and then masks."""
    return layers * 2 * products * sizes.queries * (tokens * tokens - limit.pairs(tokens))


def test_a_forward_and_a_gradient_need_what_a_model_does(small: Any) -> None:
    sizes, tokens = limit.Sizes.of(small.config), 11
    inputs = small.get_input_embeddings()(torch.arange(tokens)[None] + 4).requires_grad_()

    def run() -> Any:
        return small.base_model(inputs_embeds=inputs, use_cache=False).last_hidden_state

    hidden = run()
    assert counted(run) == limit.body(sizes, tokens) + later(sizes, tokens, sizes.layers)
    gradient = counted(lambda: torch.autograd.grad(hidden[0, -1].sum(), inputs))
    assert gradient == limit.backward(sizes, tokens) + later(sizes, tokens, sizes.layers, products=4)


@pytest.mark.parametrize("tokens", [1, 5])
def test_a_source_needs_what_a_model_does(monkeypatch: Any, tokens: int) -> None:
    monkeypatch.setitem(models.SHAPES, "small", ("Marian", SMALL["Marian"]))
    model, n = models.random_model("small", "eager").requires_grad_(False), 7
    sizes = limit.Sizes.of(model.config)
    source = model.get_input_embeddings()(torch.arange(n)[None] + 4).requires_grad_()
    ids = torch.arange(tokens)[None] + 4

    def run() -> Any:
        return model.base_model(inputs_embeds=source, decoder_input_ids=ids, use_cache=False).last_hidden_state

    hidden = run()
    forward = limit.encoded(sizes, n) + limit.decoded(sizes, n, tokens)
    assert counted(run) == forward + later(sizes, tokens, sizes.layers)
    backward = limit.encoded(sizes, n, products=4) + limit.decoded_backward(sizes, n, tokens)
    gradient = counted(lambda: torch.autograd.grad(hidden[0, -1].sum(), source))
    assert gradient == backward + later(sizes, tokens, sizes.layers - 1, products=4)


def test_texts_of_several_tokens_and_nodes_add_up() -> None:
    sizes = limit.Sizes(2, 0, 32, 4, 32, 16, 56, True, 60)
    once = limit.of("gradients", sizes, [(7, 5)])
    assert limit.of("gradients", sizes, [(7, 5)] * 3, count=10) == 30 * once
    assert limit.of("span", sizes, [(7, 1)]) == limit.of("gradients", sizes, [(7, 1)])
    assert limit.of("samples", sizes, [(7, 5)], count=2) == 2 * limit.of("scores", sizes, [(7, 5)])
    forwards = [limit.body(sizes, 11 - j, before=j) for j in range(11)]
    assert forwards[0] == limit.attention(sizes, 7, 5)
    heads = 5 + 7 * 5 + 4 + 3 + 2 + 1
    assert limit.of("occlusion", sizes, [(7, 5)]) == forwards[0] + sum(forwards) + limit.head(sizes, heads)


def test_value_zeroing_needs_less_than_whole_layers() -> None:
    sizes = limit.Sizes(6, 0, 384, 6, 384, 384, 1536, False, 50257)
    whole = limit.attention(sizes, 128, 64) + sizes.layers * limit.pairs(191) * 2 * sizes.feed_forward
    assert limit.attention(sizes, 128, 64) < limit.of("value_zeroing", sizes, [(128, 64)]) < whole


def test_straight_lines_between_the_steps_that_ran() -> None:
    assert sides.integrate([0, 3, 5], [1.0, 4.0, 2.0], 6) == 1 + 2 + 3 + 4 + 3 + 2
    assert sides.integrate([2], [1.5], 4) == 6


def test_a_difference_is_relative_to_the_largest_score() -> None:
    assert sides.gap([1.0, 2.0, 5.0], [1.0, -2.5]) == pytest.approx(0.2)
    assert sides.gap([float("nan")], [1.0]) != sides.gap([1.0], [1.0])


def test_every_case_has_a_name_of_its_own_and_a_table() -> None:
    named = [case.name for case in cases.every()]
    assert len(set(named)) == len(named)
    assert {name.split("/")[0] for name in named} == {group for group, _ in table.TABLES.values()}
    assert all(case.peer or case.group in ("growth", "memory") for case in cases.every())


def test_the_page_shows_what_was_measured() -> None:
    text = table.PAGE.read_text()
    assert table.page(text) == text, "run `python benchmarks/table.py`"
    assert all(f"<!-- {name} -->" in text for name in table.TABLES)


def test_a_failure_and_a_missing_number_stand_in_the_table() -> None:
    assert "failed: no room" in table.line({"name": "reach/x", "failed": "no room\nat all"}, table.PRINTED)
    found = {"name": "call/x", "ours": {"cpu": 0.0123}, "wanted": (None, None)}
    assert table.line(found, table.TABLES["call"][1]) == "| x | 12.3 | – | – |"
