"""From a name, a path or a loaded model to an adapter; and generation without a round trip through text."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer, GenerationConfig

from inseq.errors import ArgumentError, UnsupportedModelError, near
from inseq.models.adapter import Adapter, DecoderOnly, EncoderDecoder
from inseq.models.edits import guest
from inseq.text.encode import Encoder

LENGTHS = ("max_new_tokens", "max_length", "generation_config")
"""Arguments of ``generate`` that say how long an output may be."""

USUAL_LENGTH = 20
"""New tokens that transformers generates where nothing says how many."""

STOP_A_ROW = ("stopping_criteria", "stop_strings")
"""Arguments of ``generate`` that may end one row of a batch before the others, which pads it with tokens nobody wrote."""


def load_adapter(
    model: Any,
    tokenizer: Any = None,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
    tokenizer_kwargs: Mapping[str, Any] | None = None,
) -> Adapter:
    """Load what is not loaded yet, and choose the adapter.

    Args:
        model: a hub name, a local directory, or a loaded model (PEFT and compiled ones too).
        tokenizer: a tokenizer, its name or directory; by default the model's own.
        device: any torch device; by default CUDA where there is one, or where a loaded model already is.
        dtype: the weights' type; by default what transformers chooses.
        model_kwargs: further arguments of ``from_pretrained``.
        tokenizer_kwargs: further arguments of the tokenizer's ``from_pretrained``.

    Raises:
        ArgumentError: for what is neither a name nor a model, and for a model whose tokenizer cannot be found.
        UnsupportedModelError: for architectures that do not generate text.
    """
    name = model if isinstance(model, str | Path) else None
    if name is not None:
        loaded = _load_model(str(name), device, dtype, dict(model_kwargs or {}))
    elif isinstance(model, nn.Module) and hasattr(model, "config"):
        if model_kwargs or dtype is not None:
            raise ArgumentError("model_kwargs and dtype are for models loaded by name: this model is loaded already.")
        loaded = getattr(model, "_orig_mod", model)
        loaded = loaded if device is None else loaded.to(checked_device(device))
    else:
        raise ArgumentError(
            f"model must be a hub name, a directory or a loaded transformers model, got {type(model).__name__}."
        )
    return _adapter(loaded, _load_tokenizer(loaded, tokenizer, name, dict(tokenizer_kwargs or {})))


def _load_model(name: str, device: Any, dtype: Any, kwargs: dict[str, Any]) -> nn.Module:
    device = None if device is None else checked_device(device)
    kwargs = _with_quantisation(kwargs)
    if dtype is not None:
        kwargs["dtype"] = _checked_dtype(dtype)
    trusted = {
        k: kwargs[k] for k in ("trust_remote_code", "revision", "token", "cache_dir", "subfolder", "gguf_file") if k in kwargs
    }
    try:
        config = kwargs.get("config") or AutoConfig.from_pretrained(name, **trusted)
        auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        model = auto.from_pretrained(name, **kwargs)
    except OSError as error:
        raise ArgumentError(
            f"No model could be loaded from {name!r}: it is neither a directory with a config.json and weights nor a name "
            f"that the hub knows and this machine can reach. Check the spelling, HF_ENDPOINT, HF_HUB_OFFLINE and your login. "
            f"({_first_line(error)})"
        ) from error
    except TypeError as error:
        raise ArgumentError(f"model_kwargs={kwargs} were refused: {_first_line(error)}") from error
    except ValueError as error:
        if "Unrecognized model" in str(error):
            raise ArgumentError(f"{name!r} holds no model that transformers knows. ({_first_line(error)})") from error
        if "Unrecognized configuration class" not in str(error):
            raise
        raise UnsupportedModelError(
            f"{name!r} is a {config.model_type!r} model, which does not generate text from text: expected one that "
            f"{auto.__name__} can load."
        ) from error
    placed = "device_map" in kwargs or "quantization_config" in kwargs
    return model if placed else model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))


def checked_device(device: Any) -> torch.device:
    """The device, after something was put on it.

    Raises:
        ArgumentError: for what is no device, or none of this machine.
    """
    try:
        return torch.empty(0, device=torch.device(device)).device
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        here = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        here += ["mps"] if torch.backends.mps.is_available() else []
        raise ArgumentError(
            f"device={device!r} is not a torch device of this machine, which has {', '.join(here)}. ({_first_line(error)})"
        ) from error


def _checked_dtype(dtype: Any) -> Any:
    """A torch type, its name, or ``"auto"``."""
    named = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if dtype == "auto" or (isinstance(named, torch.dtype) and named.is_floating_point):
        return dtype
    names = ("float16", "bfloat16", "float32", "float64", "auto")
    raise ArgumentError(f"dtype={dtype!r} is not a type of weights.{near(dtype, names)} Known: {', '.join(names)}.")


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _with_quantisation(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Translate ``load_in_8bit`` and ``load_in_4bit``, which transformers takes in a config alone."""
    flags = {k: kwargs.pop(k) for k in ("load_in_8bit", "load_in_4bit") if k in kwargs}
    if any(flags.values()):
        from transformers import BitsAndBytesConfig

        kwargs["quantization_config"] = BitsAndBytesConfig(**flags)
    return kwargs


def _load_tokenizer(model: Any, tokenizer: Any, name: str | Path | None, kwargs: dict[str, Any]) -> Any:
    if tokenizer is not None and not isinstance(tokenizer, str | Path):
        if not callable(tokenizer) or not hasattr(tokenizer, "convert_ids_to_tokens"):
            raise ArgumentError(f"tokenizer must be a transformers tokenizer or its name, got {type(tokenizer).__name__}.")
        return tokenizer
    origin = tokenizer or name or getattr(model.config, "_name_or_path", None) or getattr(model, "name_or_path", None)
    if not origin:
        raise ArgumentError(
            f"This {type(model).__name__} does not say where it came from, so its tokenizer cannot be found: "
            "pass tokenizer=, an object, a name or a directory."
        )
    reason = "it knows no ordinary token"
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Recommended: pip install sacremoses")
            found = AutoTokenizer.from_pretrained(str(origin), **kwargs)
        if set(found.get_vocab().values()) - set(found.all_special_ids):
            return found
    except (OSError, ValueError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
    raise ArgumentError(
        f"No tokenizer could be loaded from {str(origin)!r}: pass tokenizer=, an object, a name or a directory. ({reason})"
    )


def _adapter(model: Any, tokenizer: Any) -> Adapter:
    config = model.config
    if not config.is_encoder_decoder:
        return DecoderOnly(model, Encoder(tokenizer))
    start = getattr(model.generation_config, "decoder_start_token_id", None)
    start = start if start is not None else config.decoder_start_token_id
    start = start if start is not None else config.bos_token_id
    if start is None:
        raise UnsupportedModelError(
            f"{type(model).__name__} has no decoder_start_token_id: set it in the model's generation_config."
        )
    return EncoderDecoder(model, Encoder(tokenizer, start=int(start)))


def generate(
    adapter: Adapter,
    inputs: Sequence[Sequence[int]],
    arguments: Mapping[str, Any],
    batch_size: int | None = None,
    prefixes: Sequence[Sequence[int]] | None = None,
    told: Callable[[list[int], Any], None] | None = None,
) -> list[list[int]]:
    """Generate from ids to ids: for each input the decoder's whole sequence, cut after its end-of-sequence token.

    What the decoder reads first is batched by equal length, so that no padding can change a prediction; encoder inputs are
    padded and masked.

    Args:
        adapter: the model.
        inputs: ids of prompts, or of sources.
        arguments: keyword arguments of transformers' ``generate``; one sequence an input.
        batch_size: how many inputs at a time; all by default, and one where a row may stop by itself.
        prefixes: how each output of an encoder-decoder begins, the decoder's start first; by default with that alone.
        told: called after each batch with the places of its inputs and what transformers returned; only inputs that follow
            each other are then batched.
    """
    if arguments.get("num_return_sequences", 1) != 1:
        raise ArgumentError("generation_args: num_return_sequences must be 1, each input has one output to explain.")
    sourced = "source" in adapter.tables
    if any(arguments.get(name) for name in STOP_A_ROW):
        batch_size = 1
    read = [1] * len(inputs) if sourced and prefixes is None else [len(ids) for ids in prefixes or inputs]
    order = list(range(len(inputs)))
    if told is None:
        order.sort(key=lambda i: (read[i], len(inputs[i])))
    groups = [list(group) for _, group in groupby(order, key=lambda i: read[i])]
    results: dict[int, list[int]] = {}
    with guest(adapter.model), torch.no_grad():
        for group in groups:
            size = batch_size or len(group)
            for a in range(0, len(group), size):
                rows = group[a : a + size]
                begun = None if prefixes is None else [prefixes[i] for i in rows]
                output = _generate_rows(adapter, [inputs[i] for i in rows], arguments, begun)
                if told is not None:
                    told(rows, output)
                for i, ids in zip(rows, output.sequences.tolist(), strict=True):
                    results[i] = _cut(ids, read[i], _eos_ids(adapter, arguments))
    return [results[i] for i in range(len(inputs))]


def _generate_rows(
    adapter: Adapter,
    rows: Sequence[Sequence[int]],
    arguments: Mapping[str, Any],
    prefixes: Sequence[Sequence[int]] | None,
) -> Any:
    config = adapter.model.generation_config
    eos = next(iter(_eos_ids(adapter, arguments)), 0)
    padding = next(i for i in (config.pad_token_id, adapter.special_id("pad"), eos) if i is not None)
    length = max(len(row) for row in rows)
    ids = torch.tensor([[*row, *[padding] * (length - len(row))] for row in rows], device=adapter.device)
    keep = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows], device=adapter.device)
    begun = len(prefixes[0]) if prefixes else 1
    options = {
        "pad_token_id": padding,
        **_room(adapter, rows, arguments, begun),
        **arguments,
        "return_dict_in_generate": True,
    }
    if prefixes is not None:
        options["decoder_input_ids"] = torch.tensor([list(ids) for ids in prefixes], device=adapter.device)
    try:
        return adapter.model.generate(input_ids=ids, attention_mask=keep, **options)
    except (ValueError, TypeError) as error:
        known = [*GenerationConfig().to_dict(), *signature(adapter.model.generate).parameters]
        hints = "".join(near(name, known) for name in arguments if name not in known)
        raise ArgumentError(f"generation_args were refused by transformers: {_first_line(error)}{hints}") from error


def _room(adapter: Adapter, rows: Sequence[Sequence[int]], arguments: Mapping[str, Any], begun: int) -> dict[str, int]:
    """Where the caller sets no length, and the model's own would go beyond its positions: what is left of them.

    Args:
        adapter: the model.
        rows: what it reads.
        arguments: what the caller set.
        begun: how many tokens an encoder-decoder's output has already.
    """
    limit = adapter.max_positions()
    if limit is None or any(arguments.get(name) is not None for name in LENGTHS):
        return {}
    before = begun if "source" in adapter.tables else max(len(row) for row in rows)
    config = adapter.model.generation_config
    end = before + config.max_new_tokens if config.max_new_tokens else config.max_length or before + USUAL_LENGTH
    return {"max_new_tokens": limit - before} if max(end, before + 1) > limit else {}


def _eos_ids(adapter: Adapter, arguments: Mapping[str, Any]) -> frozenset[int]:
    config = arguments.get("generation_config") or adapter.model.generation_config
    eos = arguments.get("eos_token_id", config.eos_token_id)
    if eos is None:
        eos = adapter.special_id("eos")
    return frozenset([] if eos is None else [eos] if isinstance(eos, int) else eos)


def _cut(ids: list[int], first: int, eos: frozenset[int]) -> list[int]:
    end = next((i + 1 for i in range(first, len(ids)) if ids[i] in eos), len(ids))
    return ids[:end]
