"""Memory is planned: what a call may take, what it takes, and what it says about it. Bytes are counted, not timed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import harness
import pytest
import torch
import transformers
import zoo
from harness import relative

import inseq
from inseq.engine.batches import pack
from inseq.engine.budget import Budget
from inseq.engine.jobs import Job
from inseq.engine.measures import Measures, RunContext
from inseq.engine.memory.footprint import Allocated, guessed, measured
from inseq.engine.memory.plan import LOGITS, MemoryLimit, MemoryPlan, size_text
from inseq.engine.memory.room import _available, _left, free, room_of
from inseq.engine.progress import Progress, time_text
from inseq.engine.scheduler import Engine
from inseq.errors import ArgumentError
from inseq.methods import method as methods
from inseq.methods.flow import _Rollout
from inseq.methods.relevance import ATTNLRP, GIM
from inseq.models.guest import fused_activations, guest
from inseq.requests import Capture, Gradient, Request, Rescale, Score, Target

TOLERANCE = 1e-5


def thin(n_layers: int = 2, **options: Any) -> inseq.AttributionModel:
    """A GPT-2-shaped model with room for long texts."""
    config = transformers.GPT2Config(
        n_layer=n_layers, n_embd=32, n_head=4, n_positions=1024, vocab_size=zoo.VOCAB, **zoo.SPECIAL, **options
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.GPT2LMHeadModel(config).eval()
    return inseq.load_model(model, tokenizer=zoo.tokenizer("words"))


@pytest.fixture(scope="module")
def model() -> inseq.AttributionModel:
    return thin()


def words(n: int) -> str:
    return " ".join(f"w{i}" for i in (zoo.random_ids(n, 5) - zoo.FIRST_WORD).tolist())


def explain(model: inseq.AttributionModel, n: int = 200, t: int = 8, **options: Any) -> inseq.FeatureAttributionOutput:
    text = words(n + t)
    return model.attribute(" ".join(text.split()[:n]), text, show_progress=False, **options)


def counted(model: inseq.AttributionModel, **options: Any) -> tuple[inseq.FeatureAttributionOutput, int]:
    """An attribution, and the most bytes of tensors that stood at once."""
    with Allocated() as allocated:
        found = explain(model, **options)
    return found, max(allocated.moments)


@pytest.mark.parametrize(
    ("memory", "size"),
    [(5 * 10**6, 5 * 10**6), ("2 GiB", 2**31), ("500 MB", 5 * 10**8), ("1.5kib", 1536), ("  64mb ", 64 * 10**6), ("900", 900)],
)
def test_sizes(memory: Any, size: int) -> None:
    room = room_of(memory, harness.adapter("gpt2")[0])
    assert room.size == size
    assert room.strict


def test_shares_of_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inseq.engine.memory.room._free_on", lambda device: 10**9)
    made, _ = harness.adapter("gpt2")
    assert room_of(0.25, made) == MemoryLimit(25 * 10**7, "0.25 of what is free")
    assert room_of(None, made) == MemoryLimit(5 * 10**8, "half of what is free", strict=False)


@pytest.mark.parametrize("memory", ["lots", "2 XB", "-1 GB", "", True, 0, -5, 0.0, 1.5, float("nan"), [1], "1 GB 2"])
def test_what_is_no_size(model: inseq.AttributionModel, memory: Any) -> None:
    with pytest.raises(ArgumentError, match="a number of bytes, a text such as '2 GiB' or '500 MB', or a share"):
        explain(model, memory=memory)


def test_what_is_free_on_a_cpu(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    4000 kB\n")
    assert _available(str(tmp_path / "meminfo")) == 4000 * 1024
    assert _available(str(tmp_path / "none")) is None
    for name, text in (("memory.max", "5000\n"), ("memory.current", "3000\n"), ("memory.stat", "anon 1\ninactive_file 700\n")):
        (tmp_path / name).write_text(text)
    assert _left(tmp_path, "memory.max", "memory.current", "inactive_file") == 2700
    (tmp_path / "memory.max").write_text("max\n")
    assert _left(tmp_path, "memory.max", "memory.current", "inactive_file") is None
    assert free([torch.device("cpu")]) > 0
    assert free([torch.device("meta")]) == 2 * 2**30


def request_of(kind: str, x: Any) -> Request[Any]:
    made: dict[str, Any] = {
        "score": lambda: Score(x),
        "gradient": lambda: Gradient(x),
        "attnlrp": lambda: Gradient(x, edit=ATTNLRP),
        "gim": lambda: Gradient(x, edit=GIM),
        "deeplift": lambda: Gradient(x, edit=Rescale("deeplift"), reference=torch.zeros_like(x.embeds)),
        "attention": lambda: Capture(x, fold=lambda: _Rollout(x), sites=("encoder", "decoder", "cross")),
    }
    request: Request[Any] = made[kind]()
    return request


@pytest.mark.parametrize("kind", ["score", "gradient", "attnlrp", "deeplift", "attention"])
@pytest.mark.parametrize("name", ["gpt2", "llama", "marian", "t5"])
def test_bytes_of_long_rows_follow_from_short_ones(name: str, kind: str) -> None:
    """They are polynomials, so that what is counted at 8 to 32 tokens says what 60 take; what a fold keeps is its own."""
    made, _ = harness.adapter(name)
    sourced = zoo.ZOO[name].encoder_decoder
    n, m = 60, 45 if sourced else 0
    steps = [n - 1, n] if kind == "gradient" else [n]
    x = made.example([5 + i % 60 for i in range(m)], [5 + i % 70 for i in range(n + 1)], n - 1, steps, attribute_target=True)
    request = request_of(kind, x)
    own = range(len(steps))
    measures = Measures(made)
    run = RunContext(Target(harness.function("probability"), contrast="none"), {}, None)
    with guest(made.model), fused_activations(made.model):
        footprint = measured(measures, request)
        assert footprint is not None
        packed = pack([Job(request, range(1), own, sums=own, block=len(steps) - 1)])
        with Allocated() as allocated:
            found = list(measures.measure(packed, run, Budget(2**20, 2**20, 1)))
    assert found
    rough = 0.25 if kind == "attention" else 0.05
    assert max(allocated.moments) == pytest.approx(footprint.row(m, n), rel=rough)
    assert footprint.row(m, n) < guessed(made, request).row(m, n)
    assert measures.counters.forwards == 1


TABLES = 2**19
"""Bytes of what a method itself holds here: which features each variant lacks, noise, points of a way."""

UNDER = {
    "saliency": {},
    "integrated_gradients": {"n_steps": 6},
    "smooth_grad": {"n_samples": 4},
    "occlusion": {},
    "lime": {"n_samples": 20},
    "attention": {},
    "attention_rollout": {},
    "cp_lrp": {},
    "deeplift": {},
}


@pytest.mark.parametrize("method", UNDER)
def test_the_smallest_plan_is_named_and_holds(model: inseq.AttributionModel, method: str) -> None:
    """What the message asks for suffices, is not exceeded, and gives the numbers of an ample plan."""
    options = {"n": 100, "method": method, "granular": False, **UNDER[method]}
    ample, most = counted(model, **options)
    with pytest.raises(ArgumentError, match="beside the loaded model even with a single row") as refused:
        explain(model, memory=1000, **options)
    least = int(re.findall(r"memory=(\d+) or more", str(refused.value))[0])
    tight, used = counted(model, memory=least, **options)
    assert used <= 1.1 * least + TABLES
    assert used <= 1.02 * most
    assert tight.info["plan"]["memory"] == least
    assert tight.info["plan"]["peak"] <= 1.01 * least + 8 * 4 * LOGITS[False] * zoo.VOCAB, "more than the logits of 8 steps"
    assert tight.info["plan"]["rows"] <= ample.info["plan"]["rows"]
    assert relative(tight[0].target_attributions.nan_to_num(), ample[0].target_attributions.nan_to_num()) < TOLERANCE


def test_more_memory_means_more_at_once(model: inseq.AttributionModel) -> None:
    plans = [explain(model, method="occlusion", memory=memory).info["plan"] for memory in ("2 MB", "8 MB", "1 GB")]
    rows = [plan["rows"] for plan in plans]
    assert rows == sorted(set(rows))
    products = [explain(model, t=16, memory=memory).info["plan"]["products"] for memory in ("4.3 MB", "12 MB", "1 GB")]
    assert products == sorted(set(products))


@pytest.mark.parametrize("method", ["saliency", "occlusion"])
def test_a_plan_with_room_cuts_nothing(model: inseq.AttributionModel, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However unequal the texts are."""
    written = [words(12), words(40)]
    texts = {"input_texts": [words(10)] * 2, "generated_texts": written, "method": method, "show_progress": False}
    planned = model.attribute(**texts).info["counters"]
    monkeypatch.setattr(MemoryPlan, "limit", lambda *_: None)
    assert model.attribute(**texts).info["counters"] == planned


def test_the_plan_is_in_the_info_and_survives_a_file(model: inseq.AttributionModel, tmp_path: Path) -> None:
    found = explain(model, n=30, t=4, memory="64 MB")
    plan = found.info["plan"]
    assert json.loads(json.dumps(plan)) == plan
    assert plan == {
        "memory": 64 * 10**6,
        "memory_from": "'64 MB'",
        "peak": plan["peak"],
        "rows": 1,
        "products": 4,
        "granular": True,
        "tokens": 33,
        "vjps": 4,
        "flops": plan["flops"],
    }
    assert 10**4 < plan["peak"] <= 64 * 10**6
    found.save(tmp_path / "found.json")
    assert inseq.FeatureAttributionOutput.load(tmp_path / "found.json").info["plan"] == plan


def test_granular_scores_take_a_quarter_of_the_memory_at_most(model: inseq.AttributionModel) -> None:
    entries, texts = 100 * 40 * 32, {"n": 60, "t": 40}
    kept = explain(model, memory=4 * 3 * 4 * entries, **texts)
    reduced = explain(model, memory=4 * 3 * 4 * entries - 4, **texts)
    assert kept[0].target_attributions.ndim == 3
    assert kept.info["plan"]["granular"]
    assert not any("reduced" in note for note in kept.info["notes"])
    assert reduced[0].target_attributions.ndim == 2
    assert not reduced.info["plan"]["granular"]
    assert "scores were reduced over dim as they streamed: kept whole they would take 1 MiB" in reduced.info["notes"][-1]
    assert (
        relative(reduced.aggregate()[0].target_attributions.nan_to_num(), kept.aggregate()[0].target_attributions.nan_to_num())
        < 1e-5
    )


def test_granular_scores_that_do_not_fit_are_refused_where_asked_for(model: inseq.AttributionModel) -> None:
    with pytest.raises(ArgumentError, match=r"granular=True needs about 624 KiB .* may take 488 KiB .* granular=False"):
        explain(model, memory=500_000, granular=True)


def test_the_encoders_own_matrix_counts() -> None:
    assert methods["value_zeroing"].facts["encoder_matrix"]
    t5 = inseq.load_model(zoo.build("t5"), tokenizer=zoo.tokenizer("words_eos"))
    texts = {"input_texts": words(500), "generated_texts": "w1 w2", "method": "attention", "show_progress": False}
    assert t5.attribute(**texts, memory="1 GiB").info["plan"]["granular"]
    assert not t5.attribute(**texts, memory="90 MiB").info["plan"]["granular"]


@pytest.mark.parametrize("method", ["attention", "attention_rollout", "alti", "value_zeroing"])
def test_no_two_layers_stand_at_once(method: str) -> None:
    """Further layers add their part of the result, and not their weights."""
    weights = 4 * 4 * 127**2
    few, many = (counted(thin(n), n=120, method=method, granular=False)[1] for n in (2, 6))
    assert many - few < weights / 2


@pytest.mark.parametrize("memory", [3 * 10**6, 5 * 10**6])
@pytest.mark.parametrize(
    ("method", "options"), [("integrated_gradients", {"tolerance": 0.01}), ("smooth_grad", {"n_samples": 9})]
)
def test_what_is_kept_of_each_gradient_counts(
    model: inseq.AttributionModel, method: str, options: dict[str, Any], memory: int
) -> None:
    """Where that is more than one number, fewer steps are run at a time, of the same points and with the same scores."""
    options = {"n": 60, "t": 64, "method": method, "granular": False, **options}
    ample, tight = explain(model, **options), counted(model, memory=memory, **options)
    assert tight[1] <= memory
    assert tight[0].info["counters"]["forwards"] > ample.info["counters"]["forwards"]
    assert relative(tight[0][0].target_attributions.nan_to_num(), ample[0].target_attributions.nan_to_num()) < TOLERANCE
    if "tolerance" in options:
        torch.testing.assert_close(tight[0][0].diagnostics["nodes"], ample[0].diagnostics["nodes"])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["integrated_gradients", "gradient_shap", "smooth_grad"])
def test_the_peak_does_not_grow_with_the_number_of_points(model: inseq.AttributionModel, method: str) -> None:
    option = "n_steps" if method == "integrated_gradients" else "n_samples"
    options = {"n": 60, "method": method, "granular": False, "memory": "3 MB"}
    explain(model, **options, **{option: 2})
    few, many = (counted(model, **options, **{option: n})[1] for n in (30, 200))
    assert few <= 3 * 10**6
    assert many <= 1.02 * few


def test_shapley_sampling_keeps_no_table_of_what_is_missing() -> None:
    from inseq.methods.shapley import draw_orders, not_joined

    orders = draw_orders(3, 200, 0)
    with Allocated() as allocated:
        missing = not_joined(orders)
        rows = missing[500:504]
    assert len(missing) == 2 + 6 * 199
    assert max(allocated.moments) < len(missing) * 200 / 4
    assert rows.sum(1).tolist() == [200 - 1 - (k - 2) % 199 for k in range(500, 504)]
    assert missing[0:2].sum(1).tolist() == [0, 200]


def test_products_are_halved_before_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a device holds no more than two products at a time, rows stay as they are."""
    made, _ = harness.adapter("gpt2")
    chosen = harness.cases("gpt2")
    expected, _ = harness.run(made, chosen, "saliency")
    grad = torch.autograd.grad

    def small(outputs: Any, inputs: Any, grads: Any = None, **kwargs: Any) -> Any:
        if kwargs.get("is_grads_batched") and len(grads[0]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory (pretended)")
        return grad(outputs, inputs, grads, **kwargs)

    monkeypatch.setattr(torch.autograd, "grad", small)
    found, engine = harness.run(made, chosen, "saliency")
    assert engine.budget.tokens == Engine(made).budget.tokens
    assert engine.budget.cotangents < Engine(made).budget.cotangents
    for (one, _), (other, _) in zip(found, expected, strict=True):
        assert relative(one.scores, other.scores) < TOLERANCE


def test_the_plan_says_what_was_left_after_memory_ran_out(monkeypatch: pytest.MonkeyPatch) -> None:
    model = thin()
    read = model.adapter.read

    def small(inputs: Any, **kwargs: Any) -> Any:
        if len(inputs.decoder) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory (pretended)")
        return read(inputs, **kwargs)

    ample = explain(model, n=40, method="occlusion")
    monkeypatch.setattr(model.adapter, "read", small)
    found = explain(model, n=40, method="occlusion")
    assert ample.info["plan"]["rows"] > 3
    assert found.info["plan"]["rows"] <= 3
    assert relative(found[0].target_attributions.nan_to_num(), ample[0].target_attributions.nan_to_num()) < TOLERANCE


def test_an_interruption_leaves_no_plan_behind(model: inseq.AttributionModel, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = explain(model, n=40, method="occlusion")
    budget = model._engine.budget
    read, calls = model.adapter.read, []

    def interrupted(inputs: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return read(inputs, **kwargs)

    monkeypatch.setattr(model.adapter, "read", interrupted)
    with pytest.raises(KeyboardInterrupt):
        explain(model, n=40, method="occlusion", memory="2 MB")
    monkeypatch.undo()
    assert model._engine.budget == budget
    again = explain(model, n=40, method="occlusion")
    assert again.info["plan"]["rows"] == expected.info["plan"]["rows"]
    assert torch.equal(again[0].target_attributions.nan_to_num(), expected[0].target_attributions.nan_to_num())


def test_what_more_than_is_free_needs_is_tried_by_default(
    model: inseq.AttributionModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inseq.engine.memory.room._free_on", lambda device: 10**5)
    found = explain(model, n=60)
    assert any("more than half of what is free (49 KiB): it is tried" in note for note in found.info["notes"])


class Bar:
    total = 0

    def __init__(self) -> None:
        self.said: list[str] = []

    def update(self, n: int) -> None: ...

    def write(self, text: str, file: Any) -> None:
        self.said.append(text)


@pytest.mark.parametrize(("seconds", "shown", "said"), [(4.0, True, 1), (0.1, True, 0), (4.0, False, 0)])
def test_a_long_run_is_announced_by_the_rate_of_its_first_batches(seconds: float, shown: bool, said: int) -> None:
    made, _ = harness.adapter("gpt2")
    case = harness.cases("gpt2")[0]
    x = made.example([], case.target.tolist(), case.first, case.positions)
    job = Job(Score(x), range(1), range(len(x.steps)))
    now = [0.0]
    plan = MemoryPlan("occlusion", MemoryLimit(10**9, "a test"), peak=int(1.2 * 2**30))
    progress = Progress(Bar(), made, plan, shown, clock=lambda: now[0])
    progress.expect([job] * 60)
    for _ in range(60):
        now[0] += seconds
        progress.ran(job)
    assert progress.bar.said == ["occlusion: 60 rows, about 4 min, 1.2 GiB"] * said
    assert plan.work.rows == 60
    assert plan.work.flops == pytest.approx(progress.done.flops)


def test_times_and_sizes_are_short() -> None:
    assert [time_text(s) for s in (40, 200, 9000)] == ["40 s", "3 min", "2.5 h"]
    assert [size_text(s) for s in (10, 2048, 5 * 2**20, 1.25 * 2**30, 3 * 2**40)] == [
        "10 bytes",
        "2 KiB",
        "5 MiB",
        "1.2 GiB",
        "3.0 TiB",
    ]
