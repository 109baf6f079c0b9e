"""The models of the benchmarks: known shapes, random weights from one seed, and texts to explain. For both environments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

SPECIAL = ("<s>", "</s>", "<pad>", "<unk>")
UNKNOWN = SPECIAL.index("<unk>")
_ROLES = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}

SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2-small": ("GPT2", {"n_layer": 12, "n_embd": 768, "n_head": 12}),
    "6x384": ("GPT2", {"n_layer": 6, "n_embd": 384, "n_head": 6}),
    "llama": (
        "Llama",
        {
            "hidden_size": 512,
            "intermediate_size": 1376,
            "num_hidden_layers": 8,
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
            "vocab_size": 32000,
            "max_position_embeddings": 2048,
        },
    ),
    "marian": (
        "Marian",
        {
            "d_model": 512,
            "vocab_size": 32000,
            "decoder_vocab_size": 32000,
            "max_position_embeddings": 1024,
            **{f"{side}_layers": 6 for side in ("encoder", "decoder")},
            **{f"{side}_attention_heads": 8 for side in ("encoder", "decoder")},
            **{f"{side}_ffn_dim": 2048 for side in ("encoder", "decoder")},
            "activation_function": "swish",
            "decoder_start_token_id": 2,
            "forced_eos_token_id": None,
        },
    ),
    "thin": ("GPT2", {"n_layer": 1, "n_embd": 768, "n_head": 12, "vocab_size": 1000, "n_positions": 2048}),
    "tiny": ("GPT2", {"n_layer": 2, "n_embd": 64, "n_head": 4, "vocab_size": 1000}),
}
"""Marian's embeddings are not scaled, since Inseq 0.7.1 scales those of its decoder twice."""

_CLASSES = {"GPT2": "GPT2LMHeadModel", "Llama": "LlamaForCausalLM", "Marian": "MarianMTModel"}


def random_model(shape: str, attention: str = "sdpa") -> Any:
    """A model of random weights; larger than at the start of training, so that no layer is nearly linear."""
    torch.manual_seed(0)
    family, sizes = SHAPES[shape]
    config = getattr(transformers, f"{family}Config")(attn_implementation=attention, **_ROLES, **sizes)
    model = getattr(transformers, _CLASSES[family])(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 1:
                weight.add_(0.02 * torch.randn(weight.shape))
            elif not any(part in name for part in ("wte", "wpe", "embed", "shared", "lm_head")):
                weight.mul_(2)
    return model


def word_tokenizer(model: Any) -> transformers.PreTrainedTokenizerFast:
    """A tokenizer with a word for each id of a model: `w7` is 7. For an encoder it ends each text."""
    size = model.config.vocab_size
    vocabulary = {SPECIAL[i] if i < len(SPECIAL) else f"w{i}": i for i in range(size)}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if model.config.is_encoder_decoder:
        inner.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    names = dict(zip(("bos_token", "eos_token", "pad_token", "unk_token"), SPECIAL, strict=True))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=inner, **names)


@dataclass(frozen=True)
class Text:
    """An input and its forced output: of a decoder-only model the output begins with the input.

    Attributes:
        prompt: tokens of the input.
        generated: tokens that are explained.
        first: the position of the first of them on the decoder's side.
    """

    given: str
    output: str
    prompt: int
    generated: int
    first: int


def drawn_text(model: Any, prompt: int, generated: int, seed: int = 1) -> Text:
    """Random words, as many as asked for, an encoder-decoder's end tokens counted."""
    ends = 1 if model.config.is_encoder_decoder else 0
    drawn = torch.Generator().manual_seed(seed)
    size = (prompt + generated - 2 * ends,)
    words = [f"w{i}" for i in torch.randint(len(SPECIAL), model.config.vocab_size, size, generator=drawn).tolist()]
    given, continued = " ".join(words[: prompt - ends]), words[prompt - ends :] if ends else words
    return Text(given, " ".join(continued), prompt, generated, 1 if ends else prompt)
