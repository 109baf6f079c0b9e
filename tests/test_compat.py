"""Step functions of the user's own, in our form and as people wrote them for Inseq 0.7.1; and what is said of bad ones."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import compared
import pytest
import reference as ref
import reference_targets as slow
import torch
import zoo
from compared import FAMILIES, METHODS, QUIET
from harness import relative
from reference import Case
from rows import TOLERANCE
from test_guest import unchanged
from torch import Tensor

import inseq
from inseq.errors import ArgumentError
from inseq.targets import StepFunctionArgs, is_inseq_form


def last(args: Any) -> Tensor:
    return args.attribution_model.output2logits(args.forward_output)


def old_logit(args: Any) -> Tensor:
    return last(args)[torch.arange(len(args.target_ids)), args.target_ids]


def old_probability(args: Any, logprob: bool = False) -> Tensor:
    logits = args.forward_output.logits[:, -1, :]
    every = torch.log_softmax(logits, dim=-1) if logprob else torch.softmax(logits, dim=-1)
    return every.gather(1, args.target_ids.reshape(-1, 1)).squeeze(1)


def old_entropy(args: Any) -> Tensor:
    return torch.stack([torch.distributions.Categorical(logits=row).entropy() for row in last(args)])


def old_crossentropy(args: Any) -> Tensor:
    return torch.nn.functional.cross_entropy(last(args), args.target_ids, reduction="none")


def old_perplexity(args: Any) -> Tensor:
    return torch.exp(old_crossentropy(args))


def old_top_p_size(args: Any, top_p: float) -> Tensor:
    ranked = torch.softmax(last(args), -1).sort(descending=True).values
    return torch.tensor([float((row.cumsum(0) < top_p).sum()) + 1 for row in ranked])


OLD: dict[str, Callable[..., Tensor]] = {
    "logit": old_logit,
    "probability": old_probability,
    "entropy": old_entropy,
    "crossentropy": old_crossentropy,
    "perplexity": old_perplexity,
    "top_p_size": old_top_p_size,
}


@pytest.mark.parametrize("function", OLD)
@pytest.mark.parametrize("name", FAMILIES)
def test_old_functions_equal_ours(name: str, function: str, registered: Callable[..., str]) -> None:
    model, chosen = compared.load(name), compared.texts(name)
    old = registered(OLD[function])
    options = {"top_p": 0.8} if function == "top_p_size" else {}
    for method, (_, more) in METHODS.items():
        if function == "top_p_size" and method != "occlusion":
            continue
        arguments: dict[str, Any] = {"method": method, "attribute_target": True, **options, **more, **QUIET}
        theirs = model.attribute(chosen.inputs, chosen.outputs, attributed_fn=old, step_scores=[old], **arguments)
        ours = model.attribute(chosen.inputs, chosen.outputs, attributed_fn=function, step_scores=[function], **arguments)
        for one, other in zip(theirs, ours, strict=True):
            assert relative(one.step_scores[old], other.step_scores[function]) < 5 * TOLERANCE
            assert relative(compared.scores(one), compared.scores(other)) < 10 * TOLERANCE
            size = max(1.0, float(other.step_scores[function].abs().max()))
            for diagnostic, values in other.diagnostics.items():
                assert (one.diagnostics[diagnostic] - values).abs().max() < TOLERANCE * size


@pytest.mark.parametrize("name", ["gpt2", "marian"])
def test_an_old_function_costs_one_plain_forward_for_each_step(name: str, registered: Callable[..., str]) -> None:
    model, chosen = compared.load(name), compared.texts(name)
    seen: list[StepFunctionArgs] = []

    def watched(args: Any) -> Tensor:
        seen.append(args)
        return old_probability(args)

    found = model.attribute(chosen.inputs[0], chosen.outputs[0], method="dummy", step_scores=[registered(watched)], **QUIET)
    steps = found[0].attr_pos_end - found[0].attr_pos_start
    assert found.info["counters"]["forwards"] == len(seen) == steps
    target = [token.id for token in found[0].target]
    for args, t in zip(seen, range(found[0].attr_pos_start, found[0].attr_pos_end), strict=True):
        assert args.target_ids.tolist() == [target[t]]
        assert args.decoder_input_ids.tolist() == [target[:t]]
        assert args.decoder_attention_mask.tolist() == [[1] * t]
        assert args.forward_output.logits.shape[:2] == (1, t)
        assert args.is_attributed_fn is False
        if model.is_encoder_decoder:
            assert args.encoder_input_ids.tolist() == [[token.id for token in found[0].source]]
            assert args.encoder_attention_mask.tolist() == [[1] * len(found[0].source)]


@pytest.mark.parametrize("name", FAMILIES)
def test_the_embeddings_of_args_are_what_the_model_takes(name: str, registered: Callable[..., str]) -> None:
    """A function may call the model itself with them, or with the args, and gets the very same prediction."""
    model, chosen = compared.load(name), compared.texts(name)

    def own_forward(args: Any) -> Tensor:
        wrapped = args.attribution_model
        if wrapped.is_encoder_decoder:
            output = wrapped.model(
                inputs_embeds=args.encoder_input_embeds,
                attention_mask=args.encoder_attention_mask,
                decoder_inputs_embeds=args.decoder_input_embeds,
            )
        else:
            output = wrapped.model(inputs_embeds=args.decoder_input_embeds)
        again = wrapped.get_forward_output(args)
        by_ids = wrapped.get_forward_output(args, use_embeddings=False)
        torch.testing.assert_close(output.logits[:, -1], last(args), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(again.logits[:, -1], last(args), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(by_ids.logits[:, -1], last(args), atol=1e-4, rtol=1e-4)
        args.forward_output = again
        return old_probability(args)

    arguments: dict[str, Any] = {"attribute_target": True, **QUIET}
    theirs = model.attribute(chosen.inputs, chosen.outputs, attributed_fn=registered(own_forward), **arguments)
    ours = model.attribute(chosen.inputs, chosen.outputs, attributed_fn="probability", **arguments)
    for one, other in zip(theirs, ours, strict=True):
        assert relative(compared.scores(one), compared.scores(other)) < 10 * TOLERANCE


def prob_diff_with_its_own_forward(args: StepFunctionArgs, contrast_text: str, scale: float = 1.0) -> Tensor:
    """How people wrote a contrast: another prefix, encoded and run by the function itself."""
    model = args.attribution_model
    n = args.decoder_input_ids.shape[1]
    if model.is_encoder_decoder:
        contrast = model.encode(contrast_text, as_targets=True)
        output = model.model(
            inputs_embeds=args.encoder_input_embeds,
            attention_mask=args.encoder_attention_mask,
            decoder_input_ids=contrast.input_ids[:, :n].expand(len(args.target_ids), -1),
        )
    else:
        contrast = model.encode(contrast_text)
        output = model.get_forward_output(contrast[:n])
    foil = contrast.input_ids[:, n].expand(len(args.target_ids))
    written = old_probability(args)
    args.forward_output = output
    args.target_ids = foil
    theirs = model.output2logits(output).softmax(-1).expand(len(foil), -1)
    return scale * (written - theirs.gather(1, foil[:, None])[:, 0])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", FAMILIES)
def test_a_function_with_a_forward_of_its_own(name: str, method: str) -> None:
    """A plain callable, with options; where it feeds the altered source to its forward, gradients flow through both."""
    model = compared.load(name)
    sourced = model.is_encoder_decoder
    source, output, other = ("w1 w2 w8", "w3 w4 w5", "w3 w7 w9") if sourced else ("w1 w2", "w1 w2 w3 w4", "w9 w2 w7 w6")
    definition, options = METHODS[method]
    (found,) = model.attribute(
        source,
        output,
        method=method,
        attributed_fn=prob_diff_with_its_own_forward,
        contrast_text=other,
        scale=2.0,
        attribute_target=True,
        **options,
        **QUIET,
    )
    case = compared.case(model, source, output, 1 if sourced else 2)
    contrast = compared.case(model, source, other)
    expected = _own_forward(definition, case, contrast)
    assert relative(compared.scores(found), expected) < 10 * TOLERANCE


plain_logits = ref.logits


def _own_forward(definition: Callable[..., Tensor], case: Case, contrast: Case) -> Tensor:
    """[feature, step, ...]: the contrast's prefix is constant, the source as the method alters it."""
    columns = []
    for t in case.positions:
        step = Case(case.model, case.source, case.target[: t + 1], t)
        prefix = ref.embeddings(Case(case.model, case.source, contrast.target[: t + 1], t))[case.n_source :]
        foil = int(contrast.target[t])

        def both(twin: Case, x: Tensor, position: int, prefix: Tensor = prefix) -> Tensor:
            other = plain_logits(twin, torch.cat([x[: twin.n_source], prefix]), position)
            return torch.cat([plain_logits(twin, x, position), other])

        def diff(z: Tensor, y: int, foil: int = foil) -> Tensor:
            own, other = z.chunk(2)
            return 2.0 * (ref.probability(own, y) - ref.probability(other, foil))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ref, "logits", both)
            found = definition(step, diff)[:, 0]
        columns.append(torch.cat([found, found.new_zeros(case.n_features - len(found), *found.shape[1:])]))
    return torch.stack(columns, 1)


@pytest.mark.parametrize("name", ["gpt2", "marian"])
def test_what_else_such_functions_ask_of_the_model(name: str, registered: Callable[..., str]) -> None:
    model, chosen = compared.load(name), compared.texts(name)
    asked: list[Any] = []

    def curious(args: Any) -> Tensor:
        m = args.attribution_model
        asked.append(m)
        return old_logit(args)

    model.attribute(chosen.inputs[0], chosen.outputs[0], step_scores=[registered(curious)], **QUIET)
    m = asked[0]
    assert (m.model, m.tokenizer, m.device) == (model.model, model.tokenizer, model.device)
    encoded = m.encode(["w1 w2", "w3"])
    end = [zoo.EOS] if m.is_encoder_decoder else []
    assert encoded.input_ids.tolist() == [[5, 6, *end], [7, *end, zoo.PAD]]
    assert encoded.attention_mask.tolist() == [[1] * (2 + len(end)), [1] * (1 + len(end)) + [0]]
    assert len(encoded) == 2
    assert m.encode("w1", add_special_tokens=False).input_ids.tolist() == [[5]]
    baseline = m.encode(["w1 w2", "w3"], return_baseline=True).to("cpu")[:2].baseline_ids
    assert baseline.tolist() == [[zoo.UNK, zoo.UNK], [zoo.UNK, *(end or [zoo.UNK])]]
    assert m.decode(encoded.input_ids) == ["w1 w2", "w3"]
    assert m.convert_ids_to_tokens(torch.tensor([5, 6])) == m.convert_string_to_tokens("w1 w2") == ["w1", "w2"]
    assert m.convert_ids_to_tokens([[5], [6]]) == [["w1"], ["w2"]]
    assert m.convert_tokens_to_ids([["w1"], ["w2", "w3"]]) == [[5], [6, 7]]
    assert m.convert_tokens_to_string(["w1", "</s>"]) == "w1"
    assert (m.pad_token, m.eos_token_id) == ("<pad>", zoo.EOS)
    assert m.bos_token_id == (zoo.PAD if m.is_encoder_decoder else zoo.BOS)
    assert m.vocabulary_embeddings.shape == (zoo.VOCAB, 32)
    assert m.config is model.model.config
    if m.is_encoder_decoder:
        both = type("Batch", (), {"sources": m.encode("w1 w2"), "targets": m.encode("w3", as_targets=True)})()
        by_ids = model.model(input_ids=both.sources.input_ids, decoder_input_ids=both.targets.input_ids)
        torch.testing.assert_close(m.get_forward_output(both).logits, by_ids.logits)
        torch.testing.assert_close(
            model.model(inputs_embeds=m.embed("w1 w2"), decoder_inputs_embeds=m.embed("w3", as_targets=True)).logits,
            by_ids.logits,
            atol=1e-4,
            rtol=1e-4,
        )
        with pytest.raises(ArgumentError, match="needs both sides of an encoder-decoder"):
            m.get_forward_output(both.sources)
    else:
        embeds = m.embed_ids(encoded.input_ids[:1])
        torch.testing.assert_close(model.model(inputs_embeds=embeds).logits, m.get_forward_output(m.encode("w1 w2")).logits)
        with pytest.raises(ArgumentError, match=r"encode\(as_targets=True\) is for encoder-decoder models"):
            m.encode("w1", as_targets=True)


def test_what_inseq_takes_of_a_single_text_is_taken() -> None:
    """A squeezed batch of one, and counts as integers."""
    model = compared.load("gpt2")

    def squeezed(args: Any) -> Tensor:
        return old_probability(args).squeeze()

    def count(args: Any) -> Tensor:
        return (last(args) > old_logit(args)[:, None]).sum(-1) + 1

    arguments: dict[str, Any] = {"method": "occlusion", **QUIET}
    for theirs, ours in ((squeezed, "probability"), (count, "rank")):
        (one,), (other,) = (model.attribute("w1", "w1 w2 w3", attributed_fn=fn, **arguments) for fn in (theirs, ours))
        assert relative(compared.scores(one), compared.scores(other)) < 10 * TOLERANCE


@pytest.mark.parametrize("name", ["gpt2", "marian"])
def test_a_function_may_put_the_model_in_training_mode(name: str, registered: Callable[..., str]) -> None:
    """As Monte Carlo functions do, and never put it back: what is read after them is read in evaluation mode."""
    model, chosen = compared.load(name), compared.texts(name)

    def spread(args: Any) -> Tensor:
        args.attribution_model.train()
        batch = args.attribution_model.formatter.convert_args_to_batch(args)
        passes = []
        for _ in range(4):
            args.forward_output = args.attribution_model.get_forward_output(batch)
            passes.append(old_probability(args))
        return torch.stack(passes).std(0)

    noisy, plain = registered(spread, "test_a"), registered(old_probability, "test_b")
    with torch.random.fork_rng(devices=[]):
        found = model.attribute(chosen.inputs, chosen.outputs, step_scores=[noisy, plain, "probability"], **QUIET)
    assert not any(module.training for module in model.model.modules())
    for one in found:
        assert (one.step_scores[noisy] > 0).all()
        assert relative(one.step_scores[plain], one.step_scores["probability"]) < 5 * TOLERANCE


def test_the_two_forms_are_told_apart() -> None:
    def annotated(a: StepFunctionArgs, x: int = 1) -> None: ...

    def ours(p: inseq.Prediction) -> None: ...

    def quoted(a: inseq.targets.StepFunctionArgs) -> None: ...

    assert [is_inseq_form(f) for f in (old_logit, annotated, quoted, ours)] == [True, True, True, False]
    assert not is_inseq_form(partial(ours))
    assert not is_inseq_form(lambda: None)


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()])
def test_the_model_stays_as_it_was(error: BaseException, registered: Callable[..., str]) -> None:
    model, chosen = compared.load("marian"), compared.texts("marian")
    calls: list[int] = []

    def failing(args: Any) -> Tensor:
        calls.append(1)
        if len(calls) > 2:
            raise error
        return old_probability(args)

    expected = ArgumentError if isinstance(error, Exception) else type(error)
    with unchanged(model.model, model.tokenizer), pytest.raises(expected):
        model.attribute(chosen.inputs, chosen.outputs, attributed_fn=registered(failing), **QUIET)


def test_old_functions_and_contrasts_go_together(registered: Callable[..., str]) -> None:
    """One call may record both kinds; the old one never sees the contrast, and options of its own keep their names."""
    model, chosen = compared.load("gpt2"), compared.texts("gpt2")
    name = registered(old_probability)
    found = model.attribute(
        chosen.inputs,
        chosen.outputs,
        attributed_fn="contrast_prob_diff",
        step_scores=[name, "probability", "contrast_prob"],
        contrast_targets=list(chosen.contrasts),
        **QUIET,
    )
    for one, (case, contrast) in zip(found, compared.cases(model, "gpt2"), strict=True):
        assert relative(one.step_scores[name], one.step_scores["probability"]) < 5 * TOLERANCE
        pairs = compared.pairs(found.info["contrast"][found.sequence_attributions.index(one)]["positions"])
        expected = slow.step_scores(case, contrast, pairs, slow.contrast_prob)
        assert relative(one.step_scores["contrast_prob"], expected) < 5 * TOLERANCE
