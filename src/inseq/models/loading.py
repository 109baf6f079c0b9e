"""From a name, a path or a loaded model to an adapter; and generation without a round trip through text."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from inseq.errors import ArgumentError, UnsupportedModelError, first_line, near
from inseq.models.adapter import Adapter, DecoderOnly, EncoderDecoder
from inseq.text.encode import Encoder


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
            f"({first_line(error)})"
        ) from error
    except TypeError as error:
        raise ArgumentError(f"model_kwargs={kwargs} were refused: {first_line(error)}") from error
    except ValueError as error:
        if "Unrecognized model" in str(error):
            raise ArgumentError(f"{name!r} holds no model that transformers knows. ({first_line(error)})") from error
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
            f"device={device!r} is not a torch device of this machine, which has {', '.join(here)}. ({first_line(error)})"
        ) from error


def _checked_dtype(dtype: Any) -> Any:
    """A torch type, its name, or ``"auto"``."""
    named = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if dtype == "auto" or (isinstance(named, torch.dtype) and named.is_floating_point):
        return dtype
    names = ("float16", "bfloat16", "float32", "float64", "auto")
    raise ArgumentError(f"dtype={dtype!r} is not a type of weights.{near(dtype, names)} Known: {', '.join(names)}.")


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
