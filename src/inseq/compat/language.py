"""The language that a multilingual model is to write, as Inseq 0.7.1 takes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from inseq.errors import ArgumentError


def with_language(generation: Mapping[str, Any], tokenizer_kwargs: Mapping[str, Any], tokenizer: Any) -> dict[str, Any]:
    """Arguments of generation that begin with the token of ``tokenizer_kwargs["tgt_lang"]``, unless they say otherwise.

    Raises:
        ArgumentError: for a language that the tokenizer has no token for.
    """
    language = tokenizer_kwargs.get("tgt_lang")
    if language is None or "forced_bos_token_id" in generation:
        return dict(generation)
    table = getattr(tokenizer, "lang_code_to_id", None) or {}
    spelt = (getattr(tokenizer, "lang_code_to_token", None) or {}).get(language, language)
    found = table.get(language, tokenizer.convert_tokens_to_ids(spelt))
    if not isinstance(found, int) or found == tokenizer.unk_token_id:
        raise ArgumentError(
            f"tokenizer_kwargs: {type(tokenizer).__name__} has no token for tgt_lang={language!r}: pass "
            "forced_bos_token_id in generation_kwargs."
        )
    return {**generation, "forced_bos_token_id": found}
