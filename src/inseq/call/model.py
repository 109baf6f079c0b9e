"""The model that users hold: it explains what it writes."""

from __future__ import annotations

import inspect
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from inseq.call.alternatives import checked
from inseq.call.functions import DEFAULT_TARGET, Defaults, Options, resolve_functions
from inseq.call.inputs import RequestedOutput, read_inputs, read_outputs
from inseq.call.positions import explained
from inseq.call.run import AttributeCall, outputs_of
from inseq.compat.text_model import BatchEncoding, TextModel, ids_of
from inseq.engine.scheduler import Engine
from inseq.errors import ArgumentError
from inseq.models.adapter import Adapter
from inseq.models.check import check
from inseq.models.facts import Capabilities
from inseq.models.loading import checked_device, load_adapter
from inseq.outputs.output import FeatureAttributionOutput
from inseq.requests import StepFunction
from inseq.results.steps import step_outputs
from inseq.targets import step_function as step_functions
from inseq.text.tokens import Token


class AttributionModel(TextModel):
    """A model whose outputs can be attributed. Made by :func:`load_model`.

    Attributes:
        capabilities: what was found out about the model when it was loaded.
        method: the default attribution method.
        method_options: its options.
        model_name: what the model was loaded by.
    """

    def __init__(
        self, adapter: Adapter, capabilities: Capabilities, method: str, method_options: dict[str, Any], model_name: str
    ) -> None:
        self.adapter = adapter
        self._engine = Engine(adapter)
        self._target = DEFAULT_TARGET
        self.capabilities = capabilities
        self.method = method
        self.method_options = method_options
        self.model_name = model_name

    @property
    def device(self) -> torch.device:
        """Where the embeddings are. Setting it moves the model."""
        return self.adapter.device

    @device.setter
    def device(self, device: str | torch.device) -> None:
        self.model.to(self._movable(device))
        self.adapter = load_adapter(self.model, self.tokenizer)
        self._engine, self.capabilities = Engine(self.adapter), check(self.adapter)

    @property
    def default_attributed_fn_id(self) -> str:
        """The step function that is attributed where a call names none; ``"probability"`` until it is set."""
        return self._target

    @default_attributed_fn_id.setter
    def default_attributed_fn_id(self, name: str) -> None:
        self._target = step_functions[name].name

    def __repr__(self) -> str:
        return f"AttributionModel({type(self.model).__name__}, method={self.method!r}, device={str(self.device)!r})"

    def attribute(
        self,
        input_texts: Any,
        generated_texts: Any = None,
        method: str | None = None,
        override_default_attribution: bool = False,
        attr_pos_start: int | None = None,
        attr_pos_end: int | None = None,
        show_progress: bool = True,
        pretty_progress: bool = True,
        output_step_attributions: bool = False,
        attribute_target: bool = False,
        step_scores: str | Sequence[str] = (),
        include_eos_baseline: bool | None = None,
        attributed_fn: str | StepFunction | None = None,
        device: str | torch.device | None = None,
        batch_size: int | None = None,
        generate_from_target_prefix: bool = False,
        skip_special_tokens: bool = False,
        clean_special_chars: bool = False,
        generation_args: Mapping[str, Any] | None = None,
        *,
        continuations: Any = None,
        positions: Sequence[Any] | None = None,
        target_spans: Sequence[Any] | None = None,
        alternatives: int = 0,
        granular: bool | None = None,
        memory: int | float | str | None = None,
        attribution_args: Mapping[str, Any] | None = None,
        attributed_fn_args: Mapping[str, Any] | None = None,
        step_scores_args: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> FeatureAttributionOutput:
        """Show which input tokens made the model write each output token.

        Args:
            input_texts: the sources or prompts: a text, its ids, a chat (messages with ``"role"`` and ``"content"``, put into
                the model's own template), or a list of these.
            generated_texts: the outputs to explain instead of generating them, texts or ids; for a decoder-only model each
                begins with its prompt.
            method: an attribution method for this call.
            override_default_attribution: whether the method and its options are the model's own from now on.
            attr_pos_start: the first position of ``target`` to explain; by default the first generated token. Negative
                positions count from the end.
            attr_pos_end: the position after the last one to explain.
            show_progress: whether a bar is shown on long runs.
            pretty_progress: as in Inseq; there is one kind of bar here.
            output_step_attributions: whether the result has an output for each step, too, in ``step_attributions``.
            attribute_target: whether the generated prefix receives scores beside an encoder's source.
            step_scores: step functions to record for every explained token.
            include_eos_baseline: whether the baseline replaces end-of-sequence tokens, too; by default as the method has it.
            attributed_fn: the target, a step function's name or a function of a prediction (or of ``args``, as Inseq 0.7.1
                has them); the model's ``default_attributed_fn_id`` by default.
            device: where this call runs; the model is then moved back.
            batch_size: how many texts are generated at a time; it changes no number.
            generate_from_target_prefix: whether the model goes on from the ``generated_texts`` of an encoder-decoder.
            skip_special_tokens: whether texts are read without special tokens: none is added, those in them are removed.
            clean_special_chars: whether the result's tokens are written as a reader wants to see them, without ``▁`` or ``Ġ``.
            generation_args: arguments of transformers' ``generate``.
            continuations: for a decoder-only model, the outputs to explain without their prompts, texts or ids.
            positions: the positions of ``target`` to explain, such as ``[5, 8, -1]``: all texts', or a list for each text.
            target_spans: half-open spans of these positions, such as ``[(5, 9), (9, None)]``, that are explained at once:
                each is one step, and its scores are those of the target summed over its tokens. Both ends ascend, spans may
                overlap, and None is the first position or the end. A list for all texts, or one for each text in a list.
            alternatives: how many of the most probable tokens are recorded for each explained one, with their probabilities:
                the output's ``alternatives``, which views show beside its scores. A span of several tokens has none.
            granular: whether scores are kept for every embedding dimension, layer and head; by default while they are few
                and take a quarter of the memory at most.
            memory: what the call may take beside the loaded model: a number of bytes, a text such as ``"2 GiB"``, or a share
                of what is free, as 0.3; by default half of it. Rows and products that run at once are chosen to fit.
            attribution_args: options of the method alone, for names that several functions take.
            attributed_fn_args: options of the target alone.
            step_scores_args: options of the step scores alone.
            **options: options of the method, of the target and of the step scores. Contrastive step functions take
                ``contrast_targets`` (another output for each text, or its ids; of a decoder-only model prompt and
                continuation), ``contrast_sources`` (another source for each), ``contrast_targets_alignments`` (pairs of
                positions in ``target`` and in the contrast; automatic where none is given, see
                :func:`inseq.text.align.align`) and ``contrast_force_inputs`` (whether the target, too, compares with
                predictions under the contrast's own context).

        Returns:
            One sequence output per text, and what was done in ``info``; ``info["contrast"]`` says, for each text, which
            positions and tokens were compared, ``info["turns"]`` where a chat's messages stand, and ``info["plan"]`` what
            ran at once, and how much memory that took by estimate.

        Raises:
            ArgumentError, UnknownNameError, UnknownArgumentError: for an argument that cannot be used, and for a ``memory``
                that the smallest plan exceeds.
            UnsupportedModelError: if the method cannot be right on this architecture.
        """
        given = {name: value for name, value in locals().items() if name not in ("self", "options", "device")}
        if device is not None and self._movable(device) != self.device:
            with self._moved(device) as there:
                found = there.attribute(**given, **options)
            self.method, self.method_options = there.method, there.method_options
            return found
        started = time.perf_counter()
        _check_kinds(generation_args, batch_size, {"attr_pos_start": attr_pos_start, "attr_pos_end": attr_pos_end})
        _check_flags(given)
        n_alternatives = checked(alternatives, self.adapter.vocabulary_size)
        asked = Options(
            options,
            method=_mapping("attribution_args", attribution_args),
            target=_mapping("attributed_fn_args", attributed_fn_args),
            scores=_mapping("step_scores_args", step_scores_args),
            include_eos_baseline=include_eos_baseline,
        )
        defaults = Defaults(self.method, self.method_options, self._target)
        plan = resolve_functions(self, defaults, self.capabilities, method, attributed_fn, step_scores, asked, set(ARGUMENTS))
        inputs = read_inputs(self.adapter, input_texts, special=not skip_special_tokens)
        written = RequestedOutput(
            texts=generated_texts,
            continuations=continuations,
            is_prefix=generate_from_target_prefix,
            special=not skip_special_tokens,
            generation=generation_args,
            batch_size=batch_size,
        )
        jobs = explained(read_outputs(self.adapter, inputs, written), attr_pos_start, attr_pos_end, target_spans, positions)
        if override_default_attribution:
            self.method, self.method_options = plan.method.name, plan.method_options
        run = AttributeCall(plan, jobs, inputs, written, attribute_target, granular, memory, show_progress, n_alternatives)
        outputs, info = outputs_of(self, self._engine, self.capabilities, run, started)
        for output in outputs if clean_special_chars else ():
            _clean(output.tokens)
        return FeatureAttributionOutput(outputs, step_outputs(outputs) if output_step_attributions else None, info)

    def generate(
        self,
        input_texts: Any,
        return_generation_output: bool = False,
        skip_special_tokens: bool | None = None,
        output_generated_only: bool = False,
        batch_size: int | None = None,
        **generation_args: Any,
    ) -> list[str] | list[tuple[list[str], Any]]:
        """Generate without attributing.

        Args:
            input_texts: texts, ids or chats, as ``attribute`` takes them, or what :meth:`encode` gives.
            return_generation_output: whether what transformers returned is returned, too.
            skip_special_tokens: whether special tokens are left out of the texts, as they are by default.
            output_generated_only: whether the prompt of a decoder-only model is left out.
            batch_size: how many are generated at a time.
            **generation_args: arguments of transformers' ``generate``.

        Returns:
            A text for each input. That of a decoder-only model begins with its prompt, as ``generated_texts`` does. With
            ``return_generation_output`` a pair for each batch, in the order of the inputs: their texts, and the output of
            transformers. As no prompt is padded, prompts share a batch that follow each other and are equally long.
        """
        _check_flags({"return_generation_output": return_generation_output, "output_generated_only": output_generated_only})
        batches: list[tuple[list[int], Any]] = []
        told = (lambda rows, output: batches.append((rows, output))) if return_generation_output else None
        inputs = read_inputs(self.adapter, ids_of(input_texts))
        written = RequestedOutput(generation=generation_args, batch_size=batch_size, told=told)
        skip = skip_special_tokens is not False
        texts = []
        for given, (_, target, first) in zip(inputs, read_outputs(self.adapter, inputs, written), strict=True):
            whole = self.tokenizer.decode(target, skip_special_tokens=skip)
            if self.is_encoder_decoder:
                texts.append(self.tokenizer.decode(target[first:], skip_special_tokens=skip))
                continue
            before = self.tokenizer.decode(target[:first], skip_special_tokens=skip)
            added = whole[len(before) :]
            prompt = before if isinstance(input_texts, BatchEncoding) else given.text
            texts.append(added if output_generated_only else prompt + added)
        return [([texts[i] for i in rows], output) for rows, output in batches] if return_generation_output else texts

    def _movable(self, device: str | torch.device) -> torch.device:
        """The device, where the whole model can go there.

        Raises:
            ArgumentError: for what is no device of this machine, and for a model that is spread or quantised.
        """
        checked = checked_device(device)
        if self.device_map is not None or getattr(self.model, "is_quantized", False):
            raise ArgumentError(
                f"device={str(device)!r}: this {type(self.model).__name__} was placed when it was loaded (device_map, or "
                "quantised weights) and stays there. Load it on the device that it should be on."
            )
        return checked

    @contextmanager
    def _moved(self, device: str | torch.device) -> Iterator[AttributionModel]:
        """The model on another device, until the end."""
        before = self.device
        try:
            self.model.to(device)
            adapter = load_adapter(self.model, self.tokenizer)
            there = AttributionModel(adapter, check(adapter), self.method, self.method_options, self.model_name)
            there.default_attributed_fn_id = self.default_attributed_fn_id
            yield there
        finally:
            self.model.to(before)


ARGUMENTS = inspect.signature(AttributionModel.attribute).parameters.keys() - {"self", "options"}
"""What a call takes beside options."""

FLAGS = tuple(
    name
    for name, parameter in inspect.signature(AttributionModel.attribute).parameters.items()
    if parameter.annotation in ("bool", "bool | None")
)


def _check_kinds(generation_args: Any, batch_size: Any, positions: dict[str, Any]) -> None:
    if generation_args is not None and not isinstance(generation_args, Mapping):
        raise ArgumentError(f"generation_args must be a mapping, got {type(generation_args).__name__}.")
    if batch_size is not None and (not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1):
        raise ArgumentError(f"batch_size={batch_size!r} must be a whole number of at least 1, or None for all at once.")
    for name, value in positions.items():
        if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
            raise ArgumentError(f"{name} must be a whole number, got {type(value).__name__} ({value!r}).")


def _mapping(argument: str, given: Any) -> Mapping[str, Any]:
    if given is not None and not isinstance(given, Mapping):
        raise ArgumentError(f"{argument} must be a mapping of options, got {type(given).__name__} ({given!r}).")
    return given or {}


def _check_flags(given: Mapping[str, Any]) -> None:
    for name in FLAGS:
        value = given.get(name)
        optional = name in ("granular", "include_eos_baseline") and value is None
        if not isinstance(value, bool) and not optional and name in given:
            raise ArgumentError(f"{name} must be True or False, got {type(value).__name__} ({value!r}).")


def _clean(tokens: Sequence[Token]) -> None:
    """Write tokens as a reader wants to see them, and as they are where that is nothing."""
    for token in tokens:
        token.token = token.text.strip() or token.token
