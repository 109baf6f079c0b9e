"""The undo list: what was changed is put back, last first, whatever fails."""

from __future__ import annotations

from typing import Any

import pytest
import zoo
from torch import nn

from inseq.engine.gradients import graphs
from inseq.models.guest import UndoList


def test_one_entry_that_fails_does_not_stop_the_others() -> None:
    model, order = nn.Linear(2, 2), []

    def fail() -> None:
        raise OSError("cannot be undone")

    undo = UndoList()
    undo.add(lambda: order.append("first"))
    undo.set(model, "training", False)
    undo.hook(model.register_forward_hook, lambda *_: None)
    undo.add(fail)
    undo.add(lambda: order.append("last"))
    with pytest.raises(OSError, match="cannot be undone"):
        undo.__exit__(None, None, None)
    assert order == ["last", "first"]
    assert model.training
    assert not model._forward_hooks


@pytest.mark.parametrize("owned", [False, True])
def test_a_forward_is_the_class_s_again_or_what_the_user_put_there(owned: bool) -> None:
    model = nn.Linear(2, 2)
    if owned:
        model.forward = lambda x: x  # type: ignore[method-assign]
    before = vars(model).get("forward")
    with UndoList() as undo:
        undo.wrap_forward(model, lambda forward, x: forward(x) + 1)
        undo.wrap_forward(model, lambda forward, x: forward(x) * 2)
    assert vars(model).get("forward") is before


def test_a_probe_that_fails_after_it_has_hooked_a_layer_leaves_no_hook(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every line of a cut can fail: the model is then asked for its plain graph, and holds no hook of ours."""
    import harness

    from inseq.engine.gradients import last_layer

    made, _ = harness.adapter("llama")

    def broken(*_: Any, **__: Any) -> Any:
        raise LookupError("no such layer")

    monkeypatch.setattr(last_layer, "attention_function", broken)
    monkeypatch.setattr(made.facts, "graph_kind", None)
    graphs.prepare_graphs(made)
    assert not any(module._forward_pre_hooks for module in zoo.build("llama").modules())
