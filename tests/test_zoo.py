"""The referee is itself tested: the models are what they should be, and the slow definitions hold by calculus."""

from __future__ import annotations

import math

import pytest
import reference as ref
import torch
import zoo
from reference import Case
from torch import Tensor

N_SOURCE, N_TARGET, FIRST = 7, 11, 4
ENTRIES = [(name, kind) for name, recipe in zoo.ZOO.items() for kind in recipe.attention]
PROBES = ("gpt2", "marian")

torch.set_num_threads(1)
assert zoo.WINDOW < N_TARGET - 1


def make_case(name: str, attention: str = "eager", dtype: torch.dtype = torch.float32) -> Case:
    recipe = zoo.ZOO[name]
    target = zoo.random_ids(N_TARGET, seed=1, vocab=recipe.target_vocab)
    source = None
    if recipe.encoder_decoder:
        source = torch.cat([zoo.random_ids(N_SOURCE - 1, seed=2), torch.tensor([zoo.EOS])])
        target = torch.cat([torch.tensor([recipe.start]), target[1:]])
    return Case(zoo.build(name, attention, dtype), source, target, FIRST)


def relative(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize(("name", "attention"), ENTRIES)
def test_logits_from_embeddings_are_those_from_ids(name: str, attention: str) -> None:
    case = make_case(name, attention)
    x = ref.embeddings(case)
    assert len(x) == case.n_features
    for t in case.positions:
        assert relative(ref.logits(case, x, t).detach(), ref.logits_from_ids(case, t)) < 1e-5


@pytest.mark.parametrize(("name", "attention"), ENTRIES)
def test_the_full_forward_holds_every_prefix(name: str, attention: str) -> None:
    case = make_case(name, attention)
    with torch.no_grad():
        if case.source is None:
            full = case.model(input_ids=case.target[None], use_cache=False).logits[0]
        else:
            full = case.model(input_ids=case.source[None], decoder_input_ids=case.target[None]).logits[0]
    for t in case.positions:
        assert relative(full[t - 1], ref.logits_from_ids(case, t)) < 1e-5


@pytest.mark.parametrize("name", [name for name, recipe in zoo.ZOO.items() if "sdpa" in recipe.attention])
def test_attention_kinds_compute_the_same(name: str) -> None:
    eager, sdpa = (ref.step_scores(make_case(name, kind), ref.logit) for kind in ("eager", "sdpa"))
    assert relative(sdpa, eager) < 1e-5


@pytest.mark.parametrize("name", [name for name, recipe in zoo.ZOO.items() if "sdpa" not in recipe.attention])
def test_the_absence_of_sdpa_is_a_fact(name: str) -> None:
    with pytest.raises(ValueError, match="scaled_dot_product_attention"):
        zoo.build(name, "sdpa")


@pytest.mark.parametrize("name", zoo.ZOO)
def test_builds_are_deterministic_and_leave_the_random_state(name: str) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one = zoo.build.__wrapped__(name)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    other = zoo.build.__wrapped__(name)
    weights = other.state_dict()
    assert not one.training
    assert all(torch.equal(value, weights[key]) for key, value in one.state_dict().items())


@pytest.mark.parametrize("name", zoo.ZOO)
def test_models_are_neither_uniform_nor_certain(name: str) -> None:
    case = make_case(name)
    entropies = ref.step_scores(case, ref.entropy) / math.log(zoo.ZOO[name].target_vocab)
    assert 0.1 < entropies.mean() < 0.95
    strengths = ref.gradients(case, ref.log_probability).norm(dim=-1)
    for step, t in enumerate(case.positions):
        assert strengths[: case.seen(t), step].max() > 0.05
        assert not strengths[case.seen(t) :, step].any()


@pytest.mark.parametrize("name", PROBES)
@pytest.mark.parametrize("fn", ref.STEP_FUNCTIONS.values(), ids=ref.STEP_FUNCTIONS)
def test_saliency_is_the_size_of_a_finite_difference(name: str, fn: ref.StepFunction) -> None:
    case = make_case(name, dtype=torch.float64)
    x, eps = ref.embeddings(case), 1e-5
    found = ref.saliency(case, fn)
    for step in (0, len(case.positions) - 1):
        t = case.positions[step]
        for feature, dim in [(i, (5 * i + step) % x.shape[1]) for i in range(case.n_features)]:
            nudge = torch.zeros_like(x)
            nudge[feature, dim] = eps
            with torch.no_grad():
                up, down = (ref.score(case, x + sign * nudge, t, fn) for sign in (1, -1))
            difference = abs(float(up - down)) / (2 * eps)
            assert float(found[feature, step, dim]) == pytest.approx(difference, abs=2e-8, rel=1e-5)


@pytest.mark.parametrize("name", PROBES)
def test_step_functions_agree_with_torch(name: str) -> None:
    case = make_case(name)
    z, y = ref.logits_from_ids(case, FIRST), case.written(FIRST)
    plain = torch.distributions.Categorical(logits=z)
    expected = {
        "logit": z[y],
        "probability": plain.probs[y],
        "log_probability": plain.log_prob(torch.tensor(y)),
        "entropy": plain.entropy(),
        "crossentropy": torch.nn.functional.cross_entropy(z[None], torch.tensor([y])),
        "perplexity": 1 / plain.probs[y],
    }
    for key, value in expected.items():
        torch.testing.assert_close(ref.STEP_FUNCTIONS[key](z, y), value)


@pytest.mark.parametrize("name", PROBES)
@pytest.mark.parametrize("only_source", [False, True])
def test_integrated_gradients_are_complete(name: str, only_source: bool) -> None:
    case = make_case(name, dtype=torch.float64)
    if only_source and case.source is None:
        with pytest.raises(ValueError, match="encoder-decoders"):
            ref.saliency(case, ref.logit, only_source=True)
        return
    x = ref.embeddings(case)
    baseline = 0.7 * x
    n, count = (case.n_source if only_source else len(x)), 16
    midpoints = (torch.arange(count) + 0.5) / count
    found = ref.integrated_gradients(
        case, ref.log_probability, baseline, midpoints, [1 / count] * count, only_source=only_source
    )
    start = torch.cat([baseline[:n], x[n:]])
    with torch.no_grad():
        gaps = [
            ref.score(case, x, t, ref.log_probability) - ref.score(case, start, t, ref.log_probability) for t in case.positions
        ]
    torch.testing.assert_close(found.sum((0, 2)), torch.stack(gaps), atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("name", PROBES)
def test_occlusion_of_one_token_is_a_change_of_ids(name: str) -> None:
    case = make_case(name)
    other = 9
    ids = torch.full_like(case.target, other)
    replaced = Case(case.model, None if case.source is None else torch.full_like(case.source, other), ids, FIRST)
    found = ref.occlusion(case, ref.log_probability, ref.embeddings(replaced))
    changed = case.target.clone()
    changed[2] = other
    altered = Case(case.model, case.source, changed, FIRST)
    expected = ref.step_scores(case, ref.log_probability) - ref.step_scores(altered, ref.log_probability)
    torch.testing.assert_close(found[case.n_source + 2], expected, atol=2e-5, rtol=1e-4)
    for step, t in enumerate(case.positions):
        assert not found[case.seen(t) :, step].any()


@pytest.mark.parametrize("name", zoo.ZOO)
def test_attention_rows_are_distributions(name: str) -> None:
    case = make_case(name)
    found = ref.attention(case)
    n_layers = 1 if name.endswith("one_layer") else 2
    assert found.shape == (case.n_features, len(case.positions), n_layers, 4)
    for part in (found[: case.n_source], found[case.n_source :]):
        if len(part):
            torch.testing.assert_close(part.sum(0), torch.ones(part.shape[1:]))


@pytest.mark.parametrize("name", ["mistral", "gemma2", "gemma3", "gpt_neo"])
def test_windows_hide_what_lies_outside(name: str) -> None:
    case = make_case(name)
    found = ref.attention(case)
    for step, t in enumerate(case.positions):
        hidden_in_layer = ~found[: t - zoo.WINDOW, step].any(-1).any(0)
        assert hidden_in_layer.any()


@pytest.mark.parametrize("name", ["marian", "marian_separate", "marian_one_layer", "pegasus"])
def test_scaled_families_would_notice_a_raw_embedding(name: str) -> None:
    case = make_case(name)
    x = ref.embeddings(case)
    factor = case.model.config.d_model**0.5
    for rows in (slice(0, case.n_source), slice(case.n_source, None)):
        raw = x.clone()
        raw[rows] /= factor
        wrong, right = ref.logits(case, raw, FIRST).detach(), ref.logits_from_ids(case, FIRST)
        assert relative(wrong, right) > 1e-2


def test_m2m100_alone_counts_positions_by_ids() -> None:
    for name in zoo.ENCODER_DECODERS:
        case = make_case(name)
        padded = torch.where(torch.arange(case.n_source) == 2, zoo.PAD, case.source)
        case = Case(case.model, padded, case.target, FIRST)
        found = ref.logits(case, ref.embeddings(case), FIRST).detach()
        assert (relative(found, ref.logits_from_ids(case, FIRST)) > 1e-2) == (name == "m2m100")


@pytest.mark.parametrize("name", zoo.ZOO)
def test_double_precision_is_a_cast(name: str) -> None:
    single, double = (ref.step_scores(make_case(name, dtype=dtype), ref.logit) for dtype in (torch.float32, torch.float64))
    assert double.dtype == torch.float64
    assert relative(single.double(), double) < 1e-5


def test_attention_needs_eager_weights() -> None:
    with pytest.raises(ValueError, match="eager"):
        ref.attention(make_case("gpt2", "sdpa"))


def test_cases_refuse_what_cannot_be() -> None:
    model = zoo.build("gpt2")
    with pytest.raises(ValueError, match="first is 0"):
        Case(model, None, zoo.random_ids(4, 0), 0)
    with pytest.raises(ValueError, match="a source belongs"):
        Case(model, zoo.random_ids(3, 0), zoo.random_ids(4, 0), 1)


def test_word_tokenizers() -> None:
    assert zoo.tokenizer("words")("w0 w1 huh")["input_ids"] == [4, 5, zoo.UNK]
    assert zoo.tokenizer("words_bos")("w0")["input_ids"] == [zoo.BOS, 4]
    assert zoo.tokenizer("words_eos")("w0")["input_ids"] == [4, zoo.EOS]
    assert len(zoo.tokenizer("words")) == zoo.VOCAB


@pytest.mark.parametrize("text", [*zoo.SENTENCES, "unseen: żółć 漢字 🧪\n\ttab"])
def test_bytes_lose_nothing(text: str) -> None:
    tokenizer = zoo.tokenizer("bytes")
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert max(ids) < len(tokenizer) <= zoo.BYTES_VOCAB
    assert tokenizer.unk_token is None
    assert tokenizer.pad_token == tokenizer.eos_token


def test_a_model_may_take_the_vocabulary_of_bytes() -> None:
    ids = torch.tensor([zoo.tokenizer("bytes")(zoo.SENTENCES[3])["input_ids"]])
    assert zoo.build("gpt2", vocab=zoo.BYTES_VOCAB)(input_ids=ids).logits.shape[-1] == zoo.BYTES_VOCAB
