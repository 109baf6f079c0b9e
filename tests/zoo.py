"""Tiny random models of many families, and small real tokenizers, made in code: no network, fixed seeds.

The weights are drawn wide, so that predictions are far from uniform and no gradient is trivially small; gains, biases
and the output bias are jittered, so that forgetting one of them changes numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

VOCAB = 97
TARGET_VOCAB = 89
BYTES_VOCAB = 320
BOS, EOS, PAD, UNK = 0, 1, 2, 3
FIRST_WORD = 4
WINDOW = 4
"""Of every sliding or local attention here: test sequences are to be longer."""

EAGER = ("eager",)
BOTH = ("eager", "sdpa")

TokenizerKind = Literal["words", "words_bos", "words_eos", "bytes"]


@dataclass(frozen=True)
class Recipe:
    """How to make one tiny model, and what is known about it.

    `attention` lists what transformers offers for the family; `start` is the decoder's first id (encoder-decoders);
    `spread` is the standard deviation of the token embeddings, chosen to give logits of a standard deviation near 2.
    """

    name: str
    config: str
    options: dict[str, Any] = field(hash=False)
    encoder_decoder: bool = False
    attention: tuple[str, ...] = BOTH
    vocab: int = VOCAB
    target_vocab: int = VOCAB
    start: int | None = None
    spread: float = 0.35


SPECIAL = {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD}
GPT = {**SPECIAL, "vocab_size": VOCAB, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
LLM = {
    **SPECIAL,
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "intermediate_size": 64,
}
GROUPED = {**LLM, "num_key_value_heads": 2}
GEMMA = {**GROUPED, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": WINDOW}
SEQ2SEQ = {
    **SPECIAL,
    "vocab_size": VOCAB,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 64,
}
T5 = {
    "vocab_size": VOCAB,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 2,
    "num_heads": 4,
    "pad_token_id": PAD,
    "eos_token_id": EOS,
    "decoder_start_token_id": PAD,
}


def _decoder(name: str, config: str, options: dict[str, Any], **facts: Any) -> Recipe:
    return Recipe(name, config, options, **facts)


def _seq2seq(name: str, config: str, options: dict[str, Any], start: int, **facts: Any) -> Recipe:
    options = {**options, "decoder_start_token_id": start}
    return Recipe(name, config, options, encoder_decoder=True, start=start, **facts)


_RECIPES = (
    _decoder("gpt2", "GPT2Config", GPT),
    _decoder("llama", "LlamaConfig", GROUPED),
    _decoder("llama_one_layer", "LlamaConfig", {**GROUPED, "num_hidden_layers": 1}),
    _decoder("mistral", "MistralConfig", {**GROUPED, "sliding_window": WINDOW}),
    _decoder("qwen2", "Qwen2Config", GROUPED),
    _decoder("qwen3", "Qwen3Config", {**GROUPED, "head_dim": 8}),
    _decoder(
        "gemma2",
        "Gemma2Config",
        {**GEMMA, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 4.0},
        attention=EAGER,
    ),
    _decoder("gemma3", "Gemma3TextConfig", {**GEMMA, "layer_types": ["sliding_attention", "full_attention"]}, spread=0.2),
    _decoder("phi3", "Phi3Config", GROUPED),
    _decoder("opt", "OPTConfig", {**LLM, "ffn_dim": 64, "word_embed_proj_dim": 32}),
    _decoder("opt_projected", "OPTConfig", {**LLM, "ffn_dim": 64, "word_embed_proj_dim": 24}),
    _decoder("gpt_neox", "GPTNeoXConfig", LLM),
    _decoder(
        "gpt_neo",
        "GPTNeoConfig",
        {
            **SPECIAL,
            "vocab_size": VOCAB,
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 4,
            "max_position_embeddings": 64,
            "attention_types": [[["global", "local"], 1]],
            "window_size": WINDOW,
        },
        attention=EAGER,
    ),
    _decoder(
        "bloom",
        "BloomConfig",
        {**SPECIAL, "vocab_size": VOCAB, "hidden_size": 32, "n_layer": 2, "n_head": 4},
        attention=EAGER,
    ),
    _decoder("falcon", "FalconConfig", {**LLM, "ffn_hidden_size": 64}),
    _decoder("gptj", "GPTJConfig", {**GPT, "rotary_dim": 4}),
    _decoder("mixtral", "MixtralConfig", {**GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2}),
    _seq2seq("marian", "MarianConfig", {**SEQ2SEQ, "decoder_vocab_size": VOCAB, "scale_embedding": True}, PAD),
    _seq2seq(
        "marian_separate",
        "MarianConfig",
        {
            **SEQ2SEQ,
            "decoder_vocab_size": TARGET_VOCAB,
            "scale_embedding": True,
            "share_encoder_decoder_embeddings": False,
        },
        PAD,
        target_vocab=TARGET_VOCAB,
    ),
    _seq2seq(
        "marian_one_layer",
        "MarianConfig",
        {**SEQ2SEQ, "decoder_layers": 1, "decoder_vocab_size": VOCAB, "scale_embedding": True},
        PAD,
    ),
    _seq2seq("bart", "BartConfig", SEQ2SEQ, EOS),
    _seq2seq("mbart", "MBartConfig", {**SEQ2SEQ, "scale_embedding": True}, BOS),
    _seq2seq("m2m100", "M2M100Config", {**SEQ2SEQ, "scale_embedding": True}, EOS, spread=0.25),
    _seq2seq("pegasus", "PegasusConfig", {**SEQ2SEQ, "scale_embedding": True}, PAD, spread=0.25),
    _seq2seq("t5", "T5Config", T5, PAD, spread=2.0),
    _seq2seq("mt5", "MT5Config", T5, PAD),
)

ZOO: dict[str, Recipe] = {recipe.name: recipe for recipe in _RECIPES}
DECODERS = tuple(name for name, recipe in ZOO.items() if not recipe.encoder_decoder)
ENCODER_DECODERS = tuple(name for name, recipe in ZOO.items() if recipe.encoder_decoder)


@cache
def build(
    name: str, attention: str = "eager", dtype: torch.dtype = torch.float32, vocab: int | None = None
) -> PreTrainedModel:
    """The model of a recipe, in evaluation mode; the same object for the same arguments.

    The weights depend on the recipe (and on `vocab`, which replaces its vocabulary) only: never on `attention`, and on
    `dtype` by a cast. The global random state is left as it was.
    """
    recipe = ZOO[name]
    options = recipe.options if vocab is None else {**recipe.options, **_vocabulary(recipe, vocab)}
    config = getattr(transformers, recipe.config)(**options)
    auto = transformers.AutoModelForSeq2SeqLM if recipe.encoder_decoder else transformers.AutoModelForCausalLM
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = auto.from_config(
            config, attn_implementation=attention, experts_implementation=_experts(dtype), dtype=torch.float32
        )
        _enliven(model, recipe.spread)
    return model.to(dtype).eval()


def random_ids(n: int, seed: int, vocab: int = VOCAB, low: int = FIRST_WORD) -> Tensor:
    """`n` ids of `low..vocab-1`, from a generator of their own."""
    return torch.randint(low, vocab, (n,), generator=torch.Generator().manual_seed(seed))


def _experts(dtype: torch.dtype) -> str | None:
    """The grouped product of experts, the default, has no double precision."""
    return "eager" if dtype == torch.float64 else None


def _vocabulary(recipe: Recipe, size: int) -> dict[str, int]:
    return {key: size for key in ("vocab_size", "decoder_vocab_size") if key in recipe.options}


@torch.no_grad()
def _enliven(model: PreTrainedModel, spread: float) -> None:
    sinusoidal = {
        id(parameter)
        for module in model.modules()
        if "Sinusoidal" in type(module).__name__
        for parameter in module.parameters()
    }
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    for parameter in model.parameters():
        if id(parameter) in sinusoidal:
            continue
        if id(parameter) in tables:
            parameter.normal_(std=spread)
        elif parameter.ndim == 1:
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
        else:
            parameter.normal_(std=1.2 * parameter.shape[-1] ** -0.5)
    _enliven_head(model, spread)


def _enliven_head(model: PreTrainedModel, spread: float) -> None:
    head = model.get_output_embeddings()
    if head.weight is not model.get_decoder().get_input_embeddings().weight:
        head.weight.normal_(std=spread)
    for name, buffer in model.named_buffers():
        if name == "final_logits_bias":
            buffer.normal_()


SENTENCES = (
    "I like machine learning and artificial intelligence.",
    "The developer argued with the designer because she did not like the design.",
    "Hello world! My name is Ada, and I am 36 years old.",
    "我喜歡機器學習和人工智慧。",
    "人工智慧和機器學習，我都喜歡。",
    "Good morning 👋🏽 how are you? 🙂🙂 naïve café",
)


@cache
def tokenizer(kind: TokenizerKind) -> PreTrainedTokenizerFast:
    """A small real tokenizer; the words kinds fit every model here, "bytes" needs `build(..., vocab=BYTES_VOCAB)`.

    words: "w0 w1" -> [4, 5]; <s> </s> <pad> <unk> are 0 to 3. words_bos puts <s> first, words_eos puts </s> last.
    bytes: byte-level pieces, no unknown token, <|endoftext|> is the end and the padding; what is encoded comes back.
    """
    makers: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
        "words": lambda: _words(None),
        "words_bos": lambda: _words("<s> $A"),
        "words_eos": lambda: _words("$A </s>"),
        "bytes": _bytes,
    }
    return makers[kind]()


def _words(template: str | None) -> PreTrainedTokenizerFast:
    pieces = ["<s>", "</s>", "<pad>", "<unk>", *(f"w{i}" for i in range(VOCAB - FIRST_WORD))]
    core = Tokenizer(models.WordLevel({piece: i for i, piece in enumerate(pieces)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if template is not None:
        core.post_processor = processors.TemplateProcessing(single=template, special_tokens=[("<s>", BOS), ("</s>", EOS)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )


def _bytes() -> PreTrainedTokenizerFast:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=BYTES_VOCAB,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator(SENTENCES, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
    )
