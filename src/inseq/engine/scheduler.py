"""Drive methods, gather their outstanding requests, run them in full batches, hand the answers back."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from inseq.engine.answers import ANSWERS, Answer, CaptureAnswer, GradientAnswer, wide
from inseq.engine.edited import edited_reading, with_references
from inseq.engine.gradients import body_gradients, head_cotangents
from inseq.engine.packing import Budget, Job, Packed, batches, default_budget, jobs_of, pack
from inseq.engine.requests import Capture, Edit, Gradient, Prediction, Request, Rescale, Score, StepFunction
from inseq.models.adapter import Adapter, Inputs, Reading, Site
from inseq.models.edits import fused_activations, guest, is_out_of_memory
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
        self._batched: dict[Edit | None, bool] = {}
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
        for kind in dict.fromkeys(r.kind for r in requests):
            jobs = [job for r in requests if r.kind == kind for job in jobs_of(r, self.adapter.causal, self.budget.overhead)]
            run.bar.total += sum(job.rows * len(job.steps) for job in jobs)
            jobs.sort(key=lambda job: job.width)
            self._run_jobs(jobs, answers, run)
        return {key: answer.value() for key, answer in answers.items()}

    def _run_jobs(self, jobs: Sequence[Job], answers: Mapping[int, Answer], run: Run) -> None:
        """Run jobs batch by batch; out of memory halves the budget and goes on with what is left."""
        for batch in batches(jobs, lambda: self._room(jobs), self.adapter.vocabulary_size, self.adapter.causal):
            self._added = []
            if not self._fits(batch, answers, run):
                added = {id(job) for job in self._added}
                self._run_jobs([job for job in batch if id(job) not in added], answers, run)

    def _room(self, jobs: Sequence[Job]) -> Budget:
        """What rows may fill: a row with a reference counts twice."""
        paired = isinstance(jobs[0].request, Gradient) and jobs[0].request.reference is not None
        return self.budget.halved() if paired else self.budget

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

    def _evaluate(self, function: StepFunction, logits: Tensor, packed: Packed) -> Float[Tensor, "row step"]:
        prediction = Prediction(wide(logits).flatten(0, 1), packed.ids.to(logits.device).flatten())
        return function(prediction).reshape(packed.ids.shape)

    def _record(self, logits: Tensor, packed: Packed, run: Run) -> None:
        """Step scores cost nothing where the original example ran anyway."""
        wanted = [
            (job, rows[job.variants.index(original)])
            for job, rows in packed.jobs
            if (original := job.request.variants.original) is not None and original in job.variants
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
        reading = self.adapter.read(packed.inputs)
        self._record(reading.logits, packed, run)
        with torch.no_grad():
            values = wide(self._evaluate(run.target, reading.logits, packed)).cpu()
        return [values[rows.start : rows.stop, : len(job.steps)] for job, rows in packed.jobs]

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
        request = packed.jobs[0][0].request
        assert isinstance(request, Gradient)
        packed = with_references(packed) if isinstance(request.edit, Rescale) else packed
        self._count(packed)
        inputs, leaves = _with_leaves(packed, request.edit)
        if request.edit is None:
            reading = self.adapter.read(inputs, differentiable=True)
            self._record(reading.logits, packed, run)
            scores = self._evaluate(run.target, reading.logits, packed)
        else:
            evaluate = partial(self._evaluate, run.target, packed=packed)
            reading, scores = edited_reading(self.adapter, request.edit, inputs, evaluate)
        cotangents = head_cotangents(reading, scores, packed.real.to(scores.device))
        sums = [GradientAnswer.empty(job) for job, _ in packed.jobs]
        per_product = inputs.decoder.numel() + (0 if inputs.source is None else inputs.source.numel())
        chunk = max(1, min(self.budget.cotangents // per_product, inputs.at.shape[1]))
        batched = chunk > 1 and self._can_batch(request.edit, reading, cotangents, inputs.at, leaves)
        for steps, grads in body_gradients(reading.hidden, cotangents, inputs.at, leaves, chunk, batched):
            self.counters.vjps += len(steps)
            for (job, rows), total in zip(packed.jobs, sums, strict=True):
                GradientAnswer.accumulate(job, rows, steps, grads, total)
        return sums

    def _can_batch(
        self, edit: Edit | None, reading: Reading, cotangents: Tensor, at: Tensor, leaves: Sequence[Tensor]
    ) -> bool:
        """Whether batched products equal single ones on this model under this edit: measured once, at first use."""
        if edit not in self._batched:
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
                self._batched[edit] = all(_close(a, b) for a, b in zip(*pair, strict=True))
            except (RuntimeError, NotImplementedError) as error:
                if is_out_of_memory(error):
                    raise
                self._batched[edit] = False
        return self._batched[edit]


def _with_leaves(packed: Packed, edit: Edit | None) -> tuple[Inputs, list[Tensor]]:
    """Make the features' embeddings leaves of the graph: the encoder's, the decoder's, or both.

    An edit's rules ask what depends on the input; the context does, though nobody asks for its gradient.
    """
    source, decoder = packed.inputs.source, packed.inputs.decoder
    leaves = []
    if source is not None:
        leaves.append(source := source.detach().requires_grad_())
    if not len(packed.jobs[0][0].example.context):
        leaves.append(decoder := decoder.detach().requires_grad_())
    elif edit is not None:
        decoder = decoder.detach().requires_grad_()
    return replace(packed.inputs, source=source, decoder=decoder), leaves


def _unrecorded(x: Example, functions: Mapping[str, StepFunction]) -> StepScores:
    return {name: torch.full((len(x.steps),), torch.nan) for name in functions}


def _close(a: Tensor, b: Tensor) -> bool:
    scale = b.abs().max().clamp_min(1e-12)
    return bool((a - b).abs().max() <= 1e-2 * scale)
