"""Drive methods, gather their outstanding requests, run them in full batches, hand the answers back."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from inseq.engine.answers import ANSWERS, Answer, CaptureAnswer, GradientAnswer, wide
from inseq.engine.evaluate import cotangents_of, evaluate
from inseq.engine.gradients import body_gradients, head_cotangents
from inseq.engine.packing import Budget, Job, Packed, batches, default_budget, jobs_of, pack
from inseq.engine.requests import Capture, Gradient, Logits, Request, Score, StepFunction, Target
from inseq.engine.stepwise import step_gradients, step_values
from inseq.models.adapter import Adapter, Inputs, Reading, Site
from inseq.models.edits import dropout, fused_activations, guest, is_out_of_memory
from inseq.text.example import Example

PROGRESS_DELAY = 0.5
"""Seconds before a bar appears: short runs show none."""

UNCUT = 10**12
"""A forward's fixed work, in tokens, at which no gradient is cut into blocks: dropout draws by the length of a row."""

StepScores = dict[str, Float[Tensor, " step"]]


@dataclass
class Counters:
    """What a run cost: model calls, rows and token positions in them, vector-Jacobian products."""

    forwards: int = 0
    rows: int = 0
    tokens: int = 0
    vjps: int = 0


@dataclass
class Run:
    """What one call of the engine needs to know beside the requests."""

    target: Target
    recorded: Mapping[str, Target]
    bar: Any
    step_scores: dict[int, StepScores] = field(default_factory=dict)
    contrasts: dict[int, Tensor] = field(default_factory=dict)
    attributing: bool = True


class Engine:
    """Answers requests about one model.

    Args:
        adapter: the model.
        budget: how much one forward may hold; by default what suits the device.
    """

    def __init__(self, adapter: Adapter, budget: Budget | None = None) -> None:
        self.adapter = adapter
        self.budget = budget or default_budget(adapter.device, adapter.n_weights, adapter.axis_size("dim"))
        self.counters = Counters()
        self._batched: bool | None = None
        self._added: list[Job] = []

    def run(
        self,
        plans: Sequence[tuple[Example, Coroutine[Any, Any, Any]]],
        target: StepFunction | Target,
        step_functions: Mapping[str, StepFunction | Target] | None = None,
        *,
        progress: bool = False,
    ) -> list[tuple[Any, StepScores]]:
        """Drive one method per example, all at once: their outstanding requests share batches.

        Args:
            plans: examples and the methods started on them.
            target: what scores and gradients are of.
            step_functions: what to record for every step of every example, by name.
            progress: whether a bar is shown.

        Returns:
            For each plan what its method returned, and the recorded step scores.
        """
        functions = {name: Target.of(function) for name, function in (step_functions or {}).items()}
        shared = {name: f for name, f in functions.items() if not (f.stepwise or f.passes)}
        examples = [x for x, _ in plans]
        shown = {"disable": not progress, "delay": PROGRESS_DELAY, "unit": "step", "leave": False}
        model = self.adapter.model
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            guest(model),
            fused_activations(model),
            tqdm(total=0, **shown) as bar,
        ):
            run = Run(Target.of(target), shared, bar, {id(x): _unrecorded(x, functions) for x in examples})
            try:
                run.contrasts = self._contrasts(examples, [run.target, *functions.values()], run)
                results = self._drive([plan for _, plan in plans], run)
                self._record_missing(examples, run)
                for name in functions:
                    if name not in shared:
                        self._record_alone(name, functions[name], examples, run)
            finally:
                for _, plan in plans:
                    plan.close()
        return [(result, run.step_scores[id(x)]) for result, (x, _) in zip(results, plans, strict=True)]

    def _drive(self, plans: Sequence[Coroutine[Any, Any, Any]], run: Run) -> list[Any]:
        done: dict[int, Any] = {}
        waiting: dict[int, tuple[Request[Any], ...]] = {}

        def advance(k: int, answers: tuple[Any, ...] | None) -> None:
            try:
                waiting[k] = plans[k].send(answers)
            except StopIteration as stop:
                waiting.pop(k, None)
                done[k] = stop.value

        for k in range(len(plans)):
            advance(k, None)
        while waiting:
            answers = self._answer([request for requests in waiting.values() for request in requests], run)
            for k, requests in list(waiting.items()):
                advance(k, tuple(answers[id(request)] for request in requests))
        return [done[k] for k in range(len(plans))]

    def _contrasts(self, examples: Sequence[Example], targets: Sequence[Target], run: Run) -> dict[int, Tensor]:
        """Predictions of the contrasts under their own contexts, where a target asks for them: all in full batches."""
        kinds = {target.contrast for target in targets}
        asked = {
            id(x.contrast): Logits(x.contrast.example)
            for x in examples
            if x.contrast is not None and ("own" in kinds or ("differing" in kinds and x.contrast.differs.any()))
        }
        answers = self._answer(list(asked.values()), run)
        return {key: answers[id(request)] for key, request in asked.items()}

    def _record_missing(self, examples: Sequence[Example], run: Run) -> None:
        if run.recorded:
            missing = [x for x in examples if any(run.step_scores[id(x)][name].isnan().all() for name in run.recorded)]
            any_target = next(iter(run.recorded.values()))
            self._answer([Score(x) for x in missing], replace(run, target=any_target, attributing=False))

    def _record_alone(self, name: str, function: Target, examples: Sequence[Example], run: Run) -> None:
        """Record a step function that needs forwards of its own."""
        requests = [Score(x) for x in examples]
        answers = self._answer(requests, replace(run, target=function, recorded={}, attributing=False))
        for request in requests:
            run.step_scores[id(request.example)][name] = answers[id(request)][0]

    def _answer(self, requests: Sequence[Request[Any]], run: Run) -> dict[int, Any]:
        """Answer all requests, kind by kind, in batches of similar length."""
        answers: dict[int, Answer] = {id(r): ANSWERS[type(r)](r) for r in requests}
        kinds = [(type(r), self._apart(r, run) is not None) for r in requests]
        for kind in dict.fromkeys(kinds):
            of_kind = [r for r, k in zip(requests, kinds, strict=True) if k == kind]
            apart = self._apart(of_kind[0], run)
            overhead = UNCUT if apart and apart.passes else self.budget.overhead
            jobs = [job for r in of_kind for job in jobs_of(r, self._in_one(apart), overhead)]
            run.bar.total += sum(job.rows * len(job.steps) for job in jobs)
            jobs.sort(key=lambda job: job.width)
            self._run_jobs(jobs, answers, run)
        return {key: answer.value() for key, answer in answers.items()}

    def _run_jobs(self, jobs: Sequence[Job], answers: Mapping[int, Answer], run: Run) -> None:
        """Run jobs batch by batch; out of memory halves the budget and goes on with what is left."""
        if not jobs:
            return
        apart, vocabulary = self._apart(jobs[0].request, run), self.adapter.vocabulary_size
        for batch in batches(jobs, lambda: self._room(apart), vocabulary, self._in_one(apart)):
            self._added = []
            if not self._fits(batch, answers, run):
                added = {id(job) for job in self._added}
                self._run_jobs([job for job in batch if id(job) not in added], answers, run)

    def _apart(self, request: Request[Any], run: Run) -> Target | None:
        """The target, where it wants forwards of a kind of its own for this request."""
        wanted = isinstance(request, Score | Gradient) and (run.target.passes > 0 or run.target.stepwise)
        return run.target if wanted else None

    def _room(self, apart: Target | None) -> Budget:
        """What a forward may hold: one row, of which dropout draws; or every position's predictions, for stepwise targets."""
        if apart and apart.passes:
            return replace(self.budget, tokens=1)
        if apart and apart.stepwise:
            return replace(self.budget, tokens=min(self.budget.tokens, self.budget.logits // self.adapter.vocabulary_size))
        return self.budget

    def _in_one(self, apart: Target | None) -> bool:
        """Whether one forward serves several steps."""
        return self.adapter.causal and not (apart and apart.stepwise)

    def _fits(self, batch: Sequence[Job], answers: Mapping[int, Answer], run: Run) -> bool:
        """Run a batch; where the memory does not suffice, halve the budget and answer no."""
        try:
            self._run_batch(batch, answers, run)
        except (RuntimeError, MemoryError) as error:
            smaller = self.budget.halved()
            if not is_out_of_memory(error) or smaller == self.budget:
                raise
            self.budget = smaller
            return False
        return True

    def _run_batch(self, batch: Sequence[Job], answers: Mapping[int, Answer], run: Run) -> None:
        packed = pack(batch)
        apart = self._apart(batch[0].request, run)
        stepwise = apart is not None and apart.stepwise
        measures: dict[type[Any], Callable[[Packed, Run], Sequence[Any]]] = {
            Score: self._step_scores if stepwise else self._scores,
            Logits: self._logits,
            Gradient: self._step_gradients if stepwise else self._gradients,
            Capture: self._captured,
        }
        contributions = measures[type(batch[0].request)](packed, run)
        for (job, _), contribution in zip(packed.jobs, contributions, strict=True):
            answers[id(job.request)].add(job, contribution)
            self._added.append(job)
            run.bar.update(job.rows * len(job.steps))

    def _count(self, packed: Packed) -> None:
        self.counters.forwards += 1
        self.counters.rows += len(packed.inputs.decoder)
        self.counters.tokens += packed.tokens

    def _record(self, logits: Tensor, packed: Packed, run: Run) -> None:
        """Step scores cost nothing where the original example ran anyway."""
        wanted = [
            (job, rows[job.variants.index(original)])
            for job, rows in packed.jobs
            if (original := job.request.variants.original) is not None and original in job.variants
        ]
        if not wanted:
            return
        rows = [row for _, row in wanted]
        placed = tuple((job, range(k, k + 1)) for k, (job, _) in enumerate(wanted))
        originals = replace(packed, jobs=placed, ids=packed.ids[rows], real=packed.real[rows])
        for name, function in run.recorded.items():
            values = wide(evaluate(function, logits.detach()[rows], originals, run.contrasts)).cpu()
            for k, (job, _) in enumerate(wanted):
                scores = run.step_scores[id(job.example)]
                scores[name] = scores[name].to(values.dtype)
                scores[name][job.steps.start : job.steps.stop] = values[k, : len(job.steps)]

    def _scores(self, packed: Packed, run: Run) -> list[Tensor]:
        apart = self._apart(packed.jobs[0][0].request, run)
        mean: Tensor | None = None
        for k in range(apart.passes if apart else 1):
            self._count(packed)
            with self._pass(apart, k):
                reading = self.adapter.read(packed.inputs)
            if apart is None:
                self._record(reading.logits, packed, run)
            with torch.no_grad():
                values = wide(evaluate(run.target, reading.logits, packed, run.contrasts)).cpu()
            mean = values if mean is None else mean + (values - mean) / (k + 1)
        assert mean is not None
        return [mean[rows.start : rows.stop, : len(job.steps)] for job, rows in packed.jobs]

    def _pass(self, apart: Target | None, k: int) -> AbstractContextManager[None]:
        """The ``k``-th forward of an average, with draws of its own."""
        return dropout(self.adapter.model, apart.seed + k) if apart else nullcontext()

    def _logits(self, packed: Packed, run: Run) -> list[Tensor]:
        self._count(packed)
        logits = self.adapter.read(packed.inputs).logits
        return [logits[rows.start, : len(job.steps)] for job, rows in packed.jobs]

    def _step_scores(self, packed: Packed, run: Run) -> list[Tensor]:
        self._count(packed)
        with torch.no_grad():
            values, logits = step_values(run.target, self.adapter, packed, packed.inputs, run.attributing)
        self._record(logits, packed, run)
        return [wide(values)[rows.start : rows.stop, None].cpu() for _, rows in packed.jobs]

    def _step_gradients(self, packed: Packed, run: Run) -> list[Tensor]:
        self._count(packed)
        inputs, leaves = _with_leaves(packed)
        values, logits = step_values(run.target, self.adapter, packed, inputs, run.attributing)
        self._record(logits, packed, run)
        self.counters.vjps += 1
        return step_gradients(run.target, packed, values, leaves)

    def _captured(self, packed: Packed, run: Run) -> list[dict[Site, list[Tensor]]]:
        """Read the attention of every layer as it comes; no layer waits for another."""
        self._count(packed)
        found: list[dict[Site, list[Tensor]]] = [{} for _ in packed.jobs]

        def sink(site: Site, layer: int, weights: Tensor) -> None:
            for (job, rows), sites in zip(packed.jobs, found, strict=True):
                if isinstance(job.request, Capture) and site in job.request.sites:
                    sites.setdefault(site, []).append(CaptureAnswer.read(job, site, weights[rows.start]))

        reading = self.adapter.read(packed.inputs, attention=sink)
        self._record(reading.logits, packed, run)
        return found

    def _gradients(self, packed: Packed, run: Run) -> list[Tensor]:
        apart = self._apart(packed.jobs[0][0].request, run)
        sums = [GradientAnswer.empty(job) for job, _ in packed.jobs]
        for k in range(apart.passes if apart else 1):
            with self._pass(apart, k):
                self._add_gradients(packed, run, sums)
        return [total / apart.passes for total in sums] if apart else sums

    def _add_gradients(self, packed: Packed, run: Run, sums: Sequence[Tensor]) -> None:
        self._count(packed)
        inputs, leaves = _with_leaves(packed)
        reading = self.adapter.read(inputs, differentiable=True)
        if not run.target.passes:
            self._record(reading.logits, packed, run)
        scores = evaluate(run.target, reading.logits, packed, run.contrasts)
        real = packed.real.to(scores.device)
        cotangents = cotangents_of(run.target, real, head_cotangents(reading, scores, real))
        per_product = inputs.decoder.numel() + (0 if inputs.source is None else inputs.source.numel())
        chunk = max(1, min(self.budget.cotangents // per_product, inputs.at.shape[1]))
        batched = chunk > 1 and self._can_batch(reading, cotangents, inputs.at, leaves)
        for steps, grads in body_gradients(reading.hidden, cotangents, inputs.at, leaves, chunk, batched):
            self.counters.vjps += len(steps)
            for (job, rows), total in zip(packed.jobs, sums, strict=True):
                GradientAnswer.accumulate(job, rows, steps, grads, total)

    def _can_batch(self, reading: Reading, cotangents: Tensor, at: Tensor, leaves: Sequence[Tensor]) -> bool:
        """Whether batched products equal single ones on this model: measured once, at first use."""
        if self._batched is None:
            first = slice(0, min(2, at.shape[1]))
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    pair = [
                        next(
                            body_gradients(reading.hidden, cotangents[:, first], at[:, first], leaves, 2, batched, keep=True)
                        )[1]
                        for batched in (True, False)
                    ]
                self._batched = all(_close(a, b) for a, b in zip(*pair, strict=True))
            except (RuntimeError, NotImplementedError) as error:
                if is_out_of_memory(error):
                    raise
                self._batched = False
        return self._batched


def _with_leaves(packed: Packed) -> tuple[Inputs, list[Tensor]]:
    """Make the features' embeddings leaves of the graph: the encoder's, the decoder's, or both."""
    source, decoder = packed.inputs.source, packed.inputs.decoder
    leaves = []
    if source is not None:
        leaves.append(source := source.detach().requires_grad_())
    if not len(packed.jobs[0][0].example.context):
        leaves.append(decoder := decoder.detach().requires_grad_())
    return replace(packed.inputs, source=source, decoder=decoder), leaves


def _unrecorded(x: Example, functions: Mapping[str, Target]) -> StepScores:
    return {name: torch.full((len(x.steps),), torch.nan) for name in functions}


def _close(a: Tensor, b: Tensor) -> bool:
    scale = b.abs().max().clamp_min(1e-12)
    return bool((a - b).abs().max() <= 1e-2 * scale)
