"""One call: from what is explained of each text to the outputs."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import torch
import transformers

from inseq.call import alternatives as _alternatives
from inseq.call.assemble import sequence_output
from inseq.call.contrast import compare, with_contrasts
from inseq.call.functions import CallFunctions, described
from inseq.call.inputs import Input, RequestedOutput
from inseq.call.memory import plan_of
from inseq.call.positions import Explained
from inseq.compat.text_model import TextModel
from inseq.engine.measures import Counters, StepScores
from inseq.engine.memory.room import room_of
from inseq.engine.scheduler import Engine
from inseq.models.digest import digests
from inseq.models.facts import Capabilities
from inseq.models.guest import guest
from inseq.outputs.sequence import FeatureAttributionSequenceOutput
from inseq.requests.example import Example
from inseq.results.files.records import OF_EACH
from inseq.results.labelled import aggregation_functions
from inseq.version import __version__


@dataclass(frozen=True)
class AttributeCall:
    """What a call comes down to.

    Attributes:
        plan: its functions and their options.
        jobs: what is explained of each text.
        inputs: what was given.
        written: how the outputs came about.
        attribute_target: whether a decoder's prefix is scored beside the source.
        granular: whether all axes are kept; None where memory decides.
        memory: what the call may take.
        show_progress: whether there may be a bar.
        alternatives: how many of the most probable tokens are recorded for each explained one.
    """

    plan: CallFunctions
    jobs: list[Explained]
    inputs: list[Input]
    written: RequestedOutput
    attribute_target: bool
    granular: bool | None
    memory: int | float | str | None
    show_progress: bool
    alternatives: int = 0


def outputs_of(
    model: TextModel, engine: Engine, capabilities: Capabilities, run: AttributeCall, started: float
) -> tuple[list[FeatureAttributionSequenceOutput], dict[str, Any]]:
    """AttributeCall a call's method on its texts; their outputs, and the facts of the call."""
    plan, jobs = run.plan, run.jobs
    planned = plan_of(
        plan.method.name,
        plan.method.facts,
        jobs,
        model.adapter,
        room_of(run.memory, model.adapter),
        wanted=run.granular,
        decoder=run.attribute_target or not model.is_encoder_decoder,
    )
    examples = [
        model.adapter.example(
            job.source,
            job.target,
            job.first,
            job.positions,
            attribute_target=run.attribute_target,
            granular=planned.granular,
            spans=job.spans,
        )
        for job in jobs
    ]
    info = _info(model, capabilities, run, planned.granular)
    if plan.compared.wanted:
        comparisons = compare(model.adapter, plan, jobs, [x.text for x in run.inputs])
        examples = with_contrasts(examples, comparisons)
        info["contrast"] = comparisons.facts
        info["notes"] += comparisons.notes
    with guest(model.model):
        engine.counters = Counters()
        found = engine.run(
            [(x, plan.method.function(x, **plan.method_options)) for x in examples],
            plan.target,
            plan.recorded | _alternatives.recorded(run.alternatives),
            progress=run.show_progress,
            plan=planned,
        )
        counters = asdict(engine.counters)
    info |= {"exec_time": time.perf_counter() - started, "counters": counters, "plan": planned.facts()}
    info["notes"] += planned.notes
    outputs = [
        sequence_output(
            x,
            job,
            attribution,
            _merged(x, scores, plan),
            _tokens(model, job),
            plan.method.facts,
            _info_of(info, i),
            _alternatives.alternatives_of(x, scores.get(_alternatives.NAME), model.adapter.encoder),
        )
        for i, (job, x, (attribution, scores)) in enumerate(zip(jobs, examples, found, strict=True))
    ]
    for output in outputs:
        if plan.deltas and "delta" in output.diagnostics:
            output.step_scores["deltas"] = output.diagnostics["delta"]
    return outputs, info


def _tokens(model: TextModel, job: Explained) -> tuple[Any, Any]:
    encoder = model.adapter.encoder
    given = "generated" if job.source else "prompt"
    roles = [given if i < job.first else "generated" for i in range(len(job.target))]
    target = encoder.tokens(job.target, roles)  # type: ignore[arg-type]
    return (encoder.tokens(job.source, ["source"] * len(job.source)) if job.source else target[: job.first]), target


def _info(model: TextModel, capabilities: Capabilities, run: AttributeCall, granular: bool) -> dict[str, Any]:
    plan, jobs, inputs = run.plan, run.jobs, run.inputs
    uses_target = plan.method.facts.get("uses_target", True)
    spans = {} if jobs[0].spans is None else {"target_spans": [[list(span) for span in j.spans or ()] for j in jobs]}
    turns = {"turns": [[dict(turn) for turn in x.turns] for x in inputs]} if any(x.turns for x in inputs) else {}
    idle = bool(run.written.generation) and run.written.forced
    return {
        "attribution_method": plan.method.name,
        "attributed_fn": plan.target_name if uses_target else None,
        "step_scores": list(plan.recorded),
        "merge": dict(plan.merges),
        "alphabet": model.adapter.encoder.alphabet.value,
        "options": plan.options,
        "attribute_target": run.attribute_target,
        "granular": granular,
        "constrained_decoding": run.written.forced,
        "generation_args": {name: described(value) for name, value in (run.written.generation or {}).items()},
        "input_texts": [x.text for x in inputs],
        **spans,
        **turns,
        "generated_texts": [model.tokenizer.decode(j.target[j.first :], skip_special_tokens=True) for j in jobs],
        **model.info,
        "dtype": str(next(model.model.parameters()).dtype).removeprefix("torch."),
        "device": str(model.device),
        "notes": [
            *capabilities.notes,
            *plan.notes,
            *(["generation_args have no effect: the outputs were given"] if idle else []),
        ],
        "digests": digests(model.model, model.tokenizer),
        "versions": {"inseq": __version__, "torch": torch.__version__, "transformers": transformers.__version__},
    }


def _info_of(info: dict[str, Any], i: int) -> dict[str, Any]:
    """The facts of one sequence: those of the call, with its own texts alone."""
    return {**info, **{key: info[key][i : i + 1] for key in OF_EACH if key in info}}


def _merged(x: Example, scores: StepScores, plan: CallFunctions) -> StepScores:
    """Step scores of steps, from those of predictions: each function has a rule of its own."""
    return {name: x.by_step(scores[name], 0, aggregation_functions[plan.merges[name]].function) for name in plan.recorded}
