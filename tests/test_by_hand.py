"""The methods that edit the backward pass, against architectures written out by hand."""

from __future__ import annotations

import harness
import pytest
import reference as ref
import reference_by_hand as hand
import torch
from harness import relative
from rows import unknown_but_ends


@pytest.mark.parametrize("name", hand.MODELS)
def test_what_is_written_out_is_the_model(name: str) -> None:
    for case in harness.cases(name)[::2]:
        for t in case.positions:
            found = hand.prediction(name, case, t, "deeplift", unknown_but_ends(case))
            assert relative(found.value, ref.logits(case, ref.embeddings(case), t)) < 1e-5
            assert found.start is not None
            assert relative(found.start, ref.logits(case, unknown_but_ends(case), t)) < 1e-5


@pytest.mark.parametrize("method", hand.RULES)
@pytest.mark.parametrize("name", hand.MODELS)
def test_shares_forward_equal_gradients_backward(name: str, method: str) -> None:
    """The logit's, and with a target's ordinary gradient at the logits those of any target."""
    made, _ = harness.adapter(name)
    for case in harness.cases(name)[::2]:
        b = unknown_but_ends(case)
        shares = [hand.prediction(name, case, t, method, b) for t in case.positions]
        for target in ("logit",) if method == "deeplift" else ("logit", "probability"):
            ((found, _),), _ = harness.run(made, [case], method, target)
            expected = torch.zeros(case.n_features, len(case.positions)).double()
            for step, (t, share) in enumerate(zip(case.positions, shares, strict=True)):
                z = share.value.clone().requires_grad_()
                (seed,) = torch.autograd.grad(ref.STEP_FUNCTIONS[target](z, case.written(t)), z)
                expected[: case.seen(t), step] = share.parts @ seed
            got = found.scores.sum(-1) if method == "deeplift" else found.scores
            assert relative(got, expected) < 1e-4


@pytest.mark.parametrize("name", hand.MODELS)
def test_written_out_relevance_is_kept(name: str) -> None:
    """Of the definition itself: shares of DeepLIFT add up to the change; without biases, those of CP-LRP to the logit."""
    case = harness.cases(name)[0]
    t = case.positions[-1]
    found = hand.prediction(name, case, t, "deeplift", unknown_but_ends(case))
    torch.testing.assert_close(found.parts.sum(0), found.value - found.start)
    if name in ("llama", "mistral", "qwen3", "t5", "mt5"):
        for method in ("cp_lrp", "frozen"):
            found = hand.prediction(name, case, t, method, unknown_but_ends(case))
            torch.testing.assert_close(found.parts.sum(0), found.value)
