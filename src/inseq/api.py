"""The facade: load a model, attribute its outputs."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import transformers

from inseq import __version__, demo
from inseq._assemble import sequence_output
from inseq._contrast import compare, with_contrasts
from inseq._memory import plan_of, room_of
from inseq._plan import Plan, plan_call
from inseq._registry import bind
from inseq._spans import Explained, explained
from inseq.engine.measures import Counters, StepScores
from inseq.engine.requests import StepFunction
from inseq.engine.scheduler import Engine
from inseq.errors import ArgumentError
from inseq.methods import method as methods
from inseq.models.adapter import Adapter
from inseq.models.check import Capabilities, check
from inseq.models.digest import digests
from inseq.models.edits import guest
from inseq.models.loading import generate, load_adapter
from inseq.result.labelled import aggregation_functions
from inseq.result.output import OF_EACH, FeatureAttributionOutput
from inseq.targets import step_function as step_functions
from inseq.text.encode import checked_texts
from inseq.text.example import Example

DEFAULT_METHOD = "saliency"


def load_model(
    model: Any,
    method: str | None = None,
    *,
    tokenizer: Any = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
    tokenizer_kwargs: Mapping[str, Any] | None = None,
    **method_options: Any,
) -> AttributionModel:
    """Load a model and prepare it for attribution.

    Args:
        model: a hub name, a local directory, a loaded transformers model, or a bundled one (``"demo/zh-en"``,
            ``"demo/gpt2"``).
        method: the default attribution method; ``"saliency"`` if none is given.
        tokenizer: a tokenizer, its name or directory; by default the model's own.
        device: any torch device; by default CUDA where there is one, or where a loaded model already is.
        dtype: the weights' type; by default what transformers chooses.
        model_kwargs: further arguments of ``from_pretrained``; ``load_in_8bit=True`` is understood.
        tokenizer_kwargs: further arguments of the tokenizer's ``from_pretrained``.
        **method_options: options of ``method`` for every call.

    Raises:
        ArgumentError, UnknownNameError, UnknownArgumentError: for an argument that cannot be used.
        UnsupportedModelError: for an architecture whose attributions would be wrong.
    """
    entry = methods[DEFAULT_METHOD if method is None else method]
    bind(method_options, {entry.name: entry.options}, also=set(load_model.__kwdefaults__ or ()))
    for argument, value in (("model_kwargs", model_kwargs), ("tokenizer_kwargs", tokenizer_kwargs)):
        if value is not None and not isinstance(value, Mapping):
            raise ArgumentError(f"{argument} must be a mapping, got {type(value).__name__} ({value!r}).")
    adapter = load_adapter(
        demo.directory(model) if isinstance(model, str) and model.startswith("demo/") else model,
        tokenizer,
        device=device,
        dtype=dtype,
        model_kwargs=model_kwargs,
        tokenizer_kwargs=tokenizer_kwargs,
    )
    name = str(model) if isinstance(model, str | Path) else getattr(adapter.model.config, "_name_or_path", "")
    return AttributionModel(adapter, check(adapter), entry.name, method_options, name or type(adapter.model).__name__)


def list_feature_attribution_methods() -> list[str]:
    """The names of all attribution methods, in alphabetical order."""
    return list(methods)


def list_step_functions() -> list[str]:
    """The names of all step functions, in alphabetical order."""
    return list(step_functions)


class AttributionModel:
    """A model whose outputs can be attributed. Made by :func:`load_model`.

    Attributes:
        capabilities: what was found out about the model when it was loaded.
        method: the default attribution method.
        model_name: what the model was loaded by.
    """

    def __init__(
        self, adapter: Adapter, capabilities: Capabilities, method: str, method_options: dict[str, Any], model_name: str
    ) -> None:
        self._adapter = adapter
        self._engine = Engine(adapter)
        self.capabilities = capabilities
        self.method = method
        self.model_name = model_name
        self._method_options = method_options

    @property
    def model(self) -> Any:
        """The transformers model, never changed."""
        return self._adapter.model

    @property
    def tokenizer(self) -> Any:
        """The tokenizer, never changed."""
        return self._adapter.encoder.tokenizer

    @property
    def device(self) -> torch.device:
        """Where the embeddings are."""
        return self._adapter.device

    @property
    def is_encoder_decoder(self) -> bool:
        """Whether the input is read by an encoder of its own."""
        return "source" in self._adapter.tables

    def __repr__(self) -> str:
        return f"AttributionModel({type(self.model).__name__}, method={self.method!r}, device={str(self.device)!r})"

    def attribute(
        self,
        input_texts: str | Sequence[str],
        generated_texts: str | Sequence[str] | None = None,
        method: str | None = None,
        *,
        attr_pos_start: int | None = None,
        attr_pos_end: int | None = None,
        target_spans: Sequence[Any] | None = None,
        attribute_target: bool = False,
        attributed_fn: str | StepFunction | None = None,
        step_scores: str | Sequence[str] = (),
        show_progress: bool = True,
        batch_size: int | None = None,
        generation_args: Mapping[str, Any] | None = None,
        granular: bool | None = None,
        memory: int | float | str | None = None,
        **options: Any,
    ) -> FeatureAttributionOutput:
        """Show which input tokens made the model write each output token.

        Args:
            input_texts: the sources or prompts.
            generated_texts: the outputs to explain instead of generating them; for a decoder-only model each begins with
                its prompt.
            method: an attribution method for this call.
            attr_pos_start: the first position of ``target`` to explain; by default the first generated token. Negative
                positions count from the end.
            attr_pos_end: the position after the last one to explain.
            target_spans: half-open spans of these positions, such as ``[(5, 9), (9, None)]``, that are explained at once:
                each is one step, and its scores are those of the target summed over its tokens. Both ends ascend, spans may
                overlap, and None is the first position or the end. A list for all texts, or one for each text in a list.
            attribute_target: whether the generated prefix receives scores beside an encoder's source.
            attributed_fn: the target, a step function's name or a function of a prediction (or of ``args``, as Inseq 0.7.1
                has them); the probability by default.
            step_scores: step functions to record for every explained token.
            show_progress: whether a bar is shown on long runs.
            batch_size: how many texts are generated at a time; it changes no number.
            generation_args: arguments of transformers' ``generate``.
            granular: whether scores are kept for every embedding dimension, layer and head; by default while they are few
                and take a quarter of the memory at most.
            memory: what the call may take beside the loaded model: a number of bytes, a text such as ``"2 GiB"``, or a share
                of what is free, as 0.3; by default half of it. Rows and products that run at once are chosen to fit.
            **options: options of the method, of the target and of the step scores. Contrastive step functions take
                ``contrast_targets`` (another output for each text, or its ids; of a decoder-only model prompt and
                continuation), ``contrast_sources`` (another source for each), ``contrast_targets_alignments`` (pairs of
                positions in ``target`` and in the contrast; automatic where none is given, see
                :func:`inseq.text.align.align`) and ``contrast_force_inputs`` (whether the target, too, compares with
                predictions under the contrast's own context).

        Returns:
            One sequence output per text, and what was done in ``info``; ``info["contrast"]`` says, for each text, which
            positions and tokens were compared, and ``info["plan"]`` what ran at once, and how much memory that took by
            estimate.

        Raises:
            ArgumentError, UnknownNameError, UnknownArgumentError: for an argument that cannot be used, and for a ``memory``
                that the smallest plan exceeds.
            UnsupportedModelError: if the method cannot be right on this architecture.
        """
        started = time.perf_counter()
        also = set(AttributionModel.attribute.__kwdefaults__ or ()) | {"method"}
        plan = plan_call(self, method, attributed_fn, step_scores, options, self._method_options, also)
        texts = checked_texts(input_texts, "input_texts")
        _check_kinds(generation_args, batch_size, {"attr_pos_start": attr_pos_start, "attr_pos_end": attr_pos_end})
        flags = {"attribute_target": attribute_target, "show_progress": show_progress}
        _check_flags(**flags, **({} if granular is None else {"granular": granular}))
        ids = self._ids(texts, generated_texts, dict(generation_args or {}), batch_size)
        jobs = explained(ids, attr_pos_start, attr_pos_end, target_spans)
        planned = plan_of(
            plan.method.name,
            plan.method.facts,
            jobs,
            self._adapter,
            room_of(memory, self._adapter),
            wanted=granular,
            decoder=attribute_target or not self.is_encoder_decoder,
        )
        examples = [
            self._adapter.example(
                job.source,
                job.target,
                job.first,
                job.positions,
                attribute_target=attribute_target,
                granular=planned.granular,
                spans=job.spans,
            )
            for job in jobs
        ]
        info = self._info(plan, jobs, generated_texts is not None, planned.granular, attribute_target, texts)
        if plan.compared.wanted:
            comparisons = compare(self._adapter, plan, jobs, texts)
            examples = with_contrasts(examples, comparisons)
            info["contrast"] = comparisons.facts
            info["notes"] += comparisons.notes
        with guest(self.model):
            self._engine.counters = Counters()
            found = self._engine.run(
                [(x, plan.method.function(x, **plan.method_options)) for x in examples],
                plan.target,
                plan.recorded,
                progress=show_progress,
                plan=planned,
            )
            counters = asdict(self._engine.counters)
        info["exec_time"] = time.perf_counter() - started
        info["counters"] = counters
        info["plan"] = planned.facts()
        info["notes"] += planned.notes
        outputs = [
            sequence_output(
                x, job, attribution, _merged(x, scores, plan), self._tokens(job), plan.method.facts, _info_of(info, i)
            )
            for i, (job, x, (attribution, scores)) in enumerate(zip(jobs, examples, found, strict=True))
        ]
        return FeatureAttributionOutput(outputs, info=info)

    def generate(self, input_texts: str | Sequence[str], batch_size: int | None = None, **generation_args: Any) -> list[str]:
        """Generate without attributing: the decoded outputs, special tokens left out; prompts are not repeated."""
        texts = checked_texts(input_texts, "input_texts")
        ids = self._ids(texts, None, generation_args, batch_size)
        return [self.tokenizer.decode(target[first:], skip_special_tokens=True) for _, target, first in ids]

    def _ids(
        self, texts: list[str], generated: Any, arguments: dict[str, Any], batch_size: int | None
    ) -> list[tuple[list[int], list[int], int]]:
        """For each text: source ids, the decoder's ids, and where the generated ones begin."""
        encoder = self._adapter.encoder
        if generated is not None:
            if isinstance(generated, str) and generated in methods and generated not in texts[0]:
                raise ArgumentError(f"generated_texts={generated!r} is the name of a method: pass method={generated!r}.")
            forced = checked_texts(generated, "generated_texts")
            if len(forced) != len(texts):
                raise ArgumentError(
                    f"generated_texts has {len(forced)} texts and input_texts {len(texts)}: pass one output for each input."
                )
            if self.is_encoder_decoder:
                ids = [(encoder.input_ids(t), encoder.target_ids(g), 1) for t, g in zip(texts, forced, strict=True)]
            else:
                pairs = enumerate(zip(texts, forced, strict=True))
                ids = [([], *encoder.continued_ids(t, g, f"generated_texts[{i}]")) for i, (t, g) in pairs]
            self._check_lengths(ids)
            return ids
        inputs = [encoder.input_ids(text) for text in texts]
        wanted = arguments.get("max_new_tokens")
        if wanted is not None and (not isinstance(wanted, int) or wanted < 1):
            raise ArgumentError(f"generation_args: max_new_tokens={wanted!r} must be a whole number of at least 1.")
        more = wanted or 1
        sourced = self.is_encoder_decoder
        self._check_lengths([(i, [0] * more, 1) if sourced else ([], i + [0] * more, len(i)) for i in inputs])
        outputs = generate(self._adapter, inputs, arguments, batch_size)
        ids = [(i, o, 1) if sourced else ([], o, len(i)) for i, o in zip(inputs, outputs, strict=True)]
        for i, (_, target, first) in enumerate(ids):
            if first >= len(target):
                raise ArgumentError(f"input_texts[{i}]: the model generated no token, so there is nothing to explain.")
        self._check_lengths(ids)
        return ids

    def _check_lengths(self, ids: Sequence[tuple[list[int], list[int], int]]) -> None:
        for i, (source, target, _) in enumerate(ids):
            for side, found in (("source", source), ("decoder", target)):
                if not found:
                    continue
                limit = self._adapter.max_positions(side)
                if limit is not None and len(found) > limit:
                    raise ArgumentError(
                        f"input_texts[{i}] needs {len(found)} positions (what is generated included), and "
                        f"{type(self.model).__name__} has {limit}. Shorten the text, or lower max_new_tokens in "
                        "generation_args: it is never cut silently."
                    )
                size = len(self._adapter.tables[side].weight)
                if (largest := max(found)) >= size:
                    raise ArgumentError(
                        f"input_texts[{i}] has the id {largest}, and {type(self.model).__name__} has embeddings for {size}: "
                        "the tokenizer is not this model's. Pass the one it was trained with as tokenizer=."
                    )

    def _tokens(self, job: Explained) -> tuple[Any, Any]:
        encoder = self._adapter.encoder
        given = "generated" if job.source else "prompt"
        roles = [given if i < job.first else "generated" for i in range(len(job.target))]
        target = encoder.tokens(job.target, roles)  # type: ignore[arg-type]
        return (encoder.tokens(job.source, ["source"] * len(job.source)) if job.source else target[: job.first]), target

    def _info(
        self, plan: Plan, jobs: Sequence[Explained], forced: bool, granular: bool, attribute_target: bool, texts: list[str]
    ) -> dict[str, Any]:
        uses_target = plan.method.facts.get("uses_target", True)
        spans = {} if jobs[0].spans is None else {"target_spans": [[list(span) for span in j.spans or ()] for j in jobs]}
        return {
            "attribution_method": plan.method.name,
            "attributed_fn": plan.target_name if uses_target else None,
            "step_scores": list(plan.recorded),
            "options": plan.options,
            "attribute_target": attribute_target,
            "granular": granular,
            "constrained_decoding": forced,
            "input_texts": texts,
            **spans,
            "generated_texts": [self.tokenizer.decode(j.target[j.first :], skip_special_tokens=True) for j in jobs],
            "model_name": self.model_name,
            "model_class": type(self.model).__name__,
            "tokenizer_class": type(self.tokenizer).__name__,
            "dtype": str(next(self.model.parameters()).dtype).removeprefix("torch."),
            "device": str(self.device),
            "digests": digests(self.model, self.tokenizer),
            "notes": [*self.capabilities.notes, *plan.notes],
            "versions": {"inseq": __version__, "torch": torch.__version__, "transformers": transformers.__version__},
        }


def _check_kinds(generation_args: Any, batch_size: Any, positions: dict[str, Any]) -> None:
    if generation_args is not None and not isinstance(generation_args, Mapping):
        raise ArgumentError(f"generation_args must be a mapping, got {type(generation_args).__name__}.")
    if batch_size is not None and (not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1):
        raise ArgumentError(f"batch_size={batch_size!r} must be a whole number of at least 1, or None for all at once.")
    for name, value in positions.items():
        if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
            raise ArgumentError(f"{name} must be a whole number, got {type(value).__name__} ({value!r}).")


def _check_flags(**flags: Any) -> None:
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise ArgumentError(f"{name} must be True or False, got {type(value).__name__} ({value!r}).")


def _info_of(info: dict[str, Any], i: int) -> dict[str, Any]:
    """The facts of one sequence: those of the call, with its own texts alone."""
    return {**info, **{key: info[key][i : i + 1] for key in OF_EACH if key in info}}


def _merged(x: Example, scores: StepScores, plan: Plan) -> StepScores:
    """Step scores of steps, from those of predictions: each function has a rule of its own."""
    return {name: x.by_step(values, 0, aggregation_functions[plan.merges[name]].function) for name, values in scores.items()}
