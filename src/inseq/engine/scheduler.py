"""Drive methods, gather their outstanding requests, run them in full batches, hand the answers back."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from inseq.engine.answers import ANSWERS, Answer, CaptureAnswer, GradientAnswer, wide
from inseq.engine.gradients import body_gradients, head_cotangents
from inseq.engine.packing import Budget, Job, Packed, batches, default_budget, jobs_of, pack
from inseq.engine.requests import Capture, Gradient, Hidden, Prediction, Request, Score, StepFunction
from inseq.engine.reuse import portions, reusing
from inseq.models.adapter import Adapter, Inputs, Reading, Site
from inseq.models.edits import fused_activations, guest, is_out_of_memory
from inseq.models.hiding import prepare_hiding
from inseq.models.reuse import prepare_reuse
from inseq.text.example import Example

PROGRESS_DELAY = 0.5
"""Seconds before a bar appears: short runs show none."""

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

    target: StepFunction
    recorded: Mapping[str, StepFunction]
    bar: Any
    step_scores: dict[int, StepScores] = field(default_factory=dict)


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
        target: StepFunction,
        step_functions: Mapping[str, StepFunction] | None = None,
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
        functions = step_functions or {}
        shown = {"disable": not progress, "delay": PROGRESS_DELAY, "unit": "step", "leave": False}
        model = self.adapter.model
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            guest(model),
            fused_activations(model),
            tqdm(total=0, **shown) as bar,
        ):
            run = Run(target, functions, bar, {id(x): _unrecorded(x, functions) for x, _ in plans})
            try:
                results = self._drive([plan for _, plan in plans], run)
                self._record_missing([x for x, _ in plans], run)
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

    def _record_missing(self, examples: Sequence[Example], run: Run) -> None:
        if run.recorded:
            missing = [x for x in examples if any(v.isnan().all() for v in run.step_scores[id(x)].values())]
            self._answer([Score(x) for x in missing], run)

    def _answer(self, requests: Sequence[Request[Any]], run: Run) -> dict[int, Any]:
        """Answer all requests, kind by kind, in batches of similar length."""
        answers: dict[int, Answer] = {id(r): ANSWERS[type(r)](r) for r in requests}
        for kind in dict.fromkeys(type(r) for r in requests):
            of_kind = [r for r in requests if type(r) is kind]
            plans = {id(r): plan for r in of_kind if (plan := self._reusing(r)) is not None}
            whole = [r for r in of_kind if id(r) not in plans]
            self._run_sorted([j for r in whole for j in jobs_of(r, self.adapter.causal, self.budget.overhead)], answers, run)
            for portion in portions(list(plans.values()), self.budget):
                self._run_sorted([first for first, _ in portion], answers, run)
                self._run_sorted([job for _, jobs in portion for job in jobs], answers, run)
                for first, _ in portion:
                    first.forget()
        return {key: answer.value() for key, answer in answers.items()}

    def _reusing(self, request: Request[Any]) -> tuple[Job, list[Job]] | None:
        """How a request is answered from where its variants change on, where the model and the work allow it."""
        plan = reusing(request, self.budget) if self.adapter.causal else None
        return plan if plan is not None and prepare_reuse(self.adapter, plan[0].n_decoder) else None

    def _run_sorted(self, jobs: list[Job], answers: Mapping[int, Answer], run: Run) -> None:
        run.bar.total += sum(job.rows * len(job.steps) for job in jobs)
        self._run_jobs(sorted(jobs, key=lambda job: (job.skipped, job.width)), answers, run)

    def _run_jobs(self, jobs: Sequence[Job], answers: Mapping[int, Answer], run: Run) -> None:
        """Run jobs batch by batch; out of memory halves the budget and goes on with what is left."""
        for batch in batches(jobs, lambda: self.budget, self.adapter.vocabulary_size, self.adapter.causal):
            self._added = []
            if not self._fits(batch, answers, run):
                added = {id(job) for job in self._added}
                self._run_jobs([job for job in batch if id(job) not in added], answers, run)

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
        if any(isinstance(job.request.variants, Hidden) for job in batch):
            prepare_hiding(self.adapter)
        measures: dict[type[Any], Callable[[Packed, Run], Sequence[Any]]] = {
            Score: self._scores,
            Gradient: self._gradients,
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

    def _evaluate(
        self, function: Callable[[Prediction], Tensor], logits: Tensor, packed: Packed
    ) -> Float[Tensor, "row step *extra"]:
        prediction = Prediction(wide(logits).flatten(0, 1), packed.ids.to(logits.device).flatten())
        values = function(prediction)
        return values.reshape(*packed.ids.shape, *values.shape[1:])

    def _record(self, logits: Tensor, packed: Packed, run: Run) -> None:
        """Step scores cost nothing where the original example ran anyway."""
        wanted = [
            (job, rows[job.variants.index(original)])
            for job, rows in packed.jobs
            if (original := job.request.variants.original) is not None
            and original in job.variants
            and id(job.example) in run.step_scores
        ]
        if not wanted:
            return
        for name, function in run.recorded.items():
            values = wide(self._evaluate(function, logits.detach(), packed)).cpu()
            for job, row in wanted:
                scores = run.step_scores[id(job.example)]
                scores[name] = scores[name].to(values.dtype)
                scores[name][job.steps.start : job.steps.stop] = values[row, : len(job.steps)]

    def _scores(self, packed: Packed, run: Run) -> list[Tensor]:
        self._count(packed)
        reading = self.adapter.read(packed.inputs, remember=packed.jobs[0][0].remembers)
        self._record(reading.logits, packed, run)
        for job, rows in packed.jobs:
            if job.memory is not None and job.remembers:
                job.memory.tensors = tuple(tensor[rows.start : rows.stop] for tensor in reading.memory)
        with torch.no_grad():
            functions = [_function(job.request, run) for job, _ in packed.jobs]
            values = {f: wide(self._evaluate(f, reading.logits, packed)).cpu() for f in dict.fromkeys(functions)}
        return [
            values[f][rows.start : rows.stop, : len(job.steps)] for f, (job, rows) in zip(functions, packed.jobs, strict=True)
        ]

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
        self._count(packed)
        inputs, leaves = _with_leaves(packed)
        reading = self.adapter.read(inputs, differentiable=True)
        self._record(reading.logits, packed, run)
        scores = self._evaluate(run.target, reading.logits, packed)
        cotangents = head_cotangents(reading, scores, packed.real.to(scores.device))
        sums = [GradientAnswer.empty(job) for job, _ in packed.jobs]
        per_product = inputs.decoder.numel() + (0 if inputs.source is None else inputs.source.numel())
        chunk = max(1, min(self.budget.cotangents // per_product, inputs.at.shape[1]))
        batched = chunk > 1 and self._can_batch(reading, cotangents, inputs.at, leaves)
        for steps, grads in body_gradients(reading.hidden, cotangents, inputs.at, leaves, chunk, batched):
            self.counters.vjps += len(steps)
            for (job, rows), total in zip(packed.jobs, sums, strict=True):
                GradientAnswer.accumulate(job, rows, steps, grads, total)
        return sums

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


def _function(request: Request[Any], run: Run) -> Callable[[Prediction], Tensor]:
    return request.target if isinstance(request, Score) and request.target is not None else run.target


def _with_leaves(packed: Packed) -> tuple[Inputs, list[Tensor]]:
    """Make the features' embeddings leaves of the graph: the encoder's, the decoder's, or both."""
    source, decoder = packed.inputs.source, packed.inputs.decoder
    leaves = []
    if source is not None:
        leaves.append(source := source.detach().requires_grad_())
    if not len(packed.jobs[0][0].example.context):
        leaves.append(decoder := decoder.detach().requires_grad_())
    return replace(packed.inputs, source=source, decoder=decoder), leaves


def _unrecorded(x: Example, functions: Mapping[str, StepFunction]) -> StepScores:
    return {name: torch.full((len(x.steps),), torch.nan) for name in functions}


def _close(a: Tensor, b: Tensor) -> bool:
    scale = b.abs().max().clamp_min(1e-12)
    return bool((a - b).abs().max() <= 1e-2 * scale)
