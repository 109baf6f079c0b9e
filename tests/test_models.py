"""Adapters against the models' own forwards, and what the checks at load find out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import harness
import pytest
import torch
import transformers
import zoo
from harness import relative
from transformers import GPT2LMHeadModel, GPT2Model

import inseq
import inseq.errors
from inseq.engine.batches import pack
from inseq.engine.jobs import jobs_of
from inseq.errors import UnsupportedModelError
from inseq.models.adapter import DecoderOnly
from inseq.models.check import check
from inseq.requests import Score
from inseq.text.encode import Encoder

ENTRIES = [(name, kind) for name, recipe in zoo.ZOO.items() for kind in recipe.attention]
THROUGH_OUTPUTS = {"gpt_neo", "bloom", "falcon"}
SCALED = {"marian", "marian_separate", "marian_one_layer", "pegasus"}


@pytest.mark.parametrize(("name", "attention"), ENTRIES)
def test_logits_are_those_of_the_model_s_own_forward(name: str, attention: str) -> None:
    """Three unequal examples in one padded batch, each against ``forward(input_ids)`` of its ids alone."""
    made, _ = harness.adapter(name, attention)
    chosen = harness.cases(name, attention)
    examples = [
        made.example(
            [] if c.source is None else c.source.tolist(), c.target.tolist(), c.first, c.positions, attribute_target=True
        )
        for c in chosen
    ]
    packed = pack([job for x in examples for job in jobs_of(Score(x), causal=True, overhead=0)])
    found = made.read(packed.inputs).logits
    for case, logits in zip(chosen, found, strict=True):
        ids = {"input_ids": case.target[None]}
        if case.source is not None:
            ids = {"input_ids": case.source[None], "decoder_input_ids": case.target[None]}
        with torch.no_grad():
            own = case.model(**ids, use_cache=False).logits[0, case.first - 1 : len(case.target) - 1]
        assert relative(logits[: len(own)], own) < 1e-5


@pytest.mark.parametrize(("name", "attention"), ENTRIES)
def test_what_is_found_out_at_load(name: str, attention: str) -> None:
    made, found = harness.adapter(name, attention)
    assert found.causal
    assert found.attention == ("outputs" if name in THROUGH_OUTPUTS else "interface")
    assert found.max_positions == (None if name in {"bloom", "t5", "mt5"} else 64)
    units = {side: (table.unit, table.feed) for side, table in made.tables.items()}
    if name in SCALED:
        root = 32**0.5
        assert units == {"source": (root, 1.0), "decoder": (root, 1 / root)}
    else:
        assert set(units.values()) == {(1.0, 1.0)}


class ReadsIds(GPT2LMHeadModel):
    """A model whose forward does something with the ids themselves."""

    def forward(self, input_ids: Any = None, **kwargs: Any) -> Any:
        outputs = super().forward(input_ids=input_ids, **kwargs)
        if input_ids is not None:
            outputs.logits = outputs.logits + input_ids[..., None] * torch.linspace(0, 1, outputs.logits.shape[-1])
        return outputs


def test_a_model_that_reads_its_ids_is_refused() -> None:
    model = ReadsIds(zoo.build("gpt2").config).eval()
    with pytest.raises(UnsupportedModelError, match="ReadsIds predicts something else from embeddings than from ids"):
        check(DecoderOnly(model, Encoder(zoo.tokenizer("words"))))


class Deaf(GPT2LMHeadModel):
    """A model whose attention cannot be listened to: its layers ignore the interface and return nothing."""

    def forward(self, **kwargs: Any) -> Any:
        kwargs.pop("output_attentions", None)
        before = self.config._attn_implementation_internal
        self.config._attn_implementation_internal = "sdpa"
        try:
            return super().forward(**kwargs)
        finally:
            self.config._attn_implementation_internal = before


def test_a_model_that_hides_its_attention_serves_the_other_methods() -> None:
    torch.manual_seed(0)
    model = inseq.load_model(Deaf(zoo.build("gpt2", "sdpa").config).eval(), tokenizer=zoo.tokenizer("words"))
    assert model.capabilities.attention is None
    assert len(model.attribute("w1 w2", "w1 w2 w3", show_progress=False)) == 1
    with pytest.raises(UnsupportedModelError, match="does not give its attention weights, which 'attention' needs"):
        model.attribute("w1 w2", "w1 w2 w3", method="attention", show_progress=False)


def test_a_model_without_a_head_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match=r"GPT2Model has no output embeddings.*AutoModelForCausalLM"):
        inseq.load_model(GPT2Model(zoo.build("gpt2").config), tokenizer=zoo.tokenizer("words"))


def test_a_model_that_does_not_generate_is_refused(tmp_path: Path) -> None:
    from transformers import ViTConfig

    ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8).save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModelError, match="'vit' model, which does not generate text"):
        inseq.load_model(tmp_path)


@pytest.mark.parametrize("name", ["gpt2", "marian"])
def test_a_directory_a_path_and_an_object_are_the_same_model(name: str, tmp_path: Path) -> None:
    model = zoo.build(name)
    tokenizer = zoo.tokenizer("words_eos" if name == "marian" else "words")
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    found = [
        inseq.load_model(given, tokenizer=chosen).attribute(
            "w1 w2", generation_args={"max_new_tokens": 3}, show_progress=False
        )
        for given, chosen in ((str(tmp_path), None), (tmp_path, str(tmp_path)), (model, tokenizer))
    ]
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("dtype", ["bfloat16", torch.float64])
def test_weights_are_loaded_in_the_type_that_was_asked_for(dtype: Any) -> None:
    model = inseq.load_model("demo/gpt2", dtype=dtype, device="cpu")
    found = model.attribute("Hello world", generation_args={"max_new_tokens": 3}, show_progress=False)
    assert found.info["dtype"] == str(dtype).removeprefix("torch.")
    assert found[0].target_attributions.dtype == (torch.float64 if dtype is torch.float64 else torch.float32)


def test_a_checkpoint_without_its_tokenizer_says_so(tmp_path: Path) -> None:
    zoo.build("gpt2").save_pretrained(tmp_path)
    with pytest.raises(inseq.errors.ArgumentError, match=r"No tokenizer could be loaded from .* pass tokenizer="):
        inseq.load_model(tmp_path)


NESTED = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
GEMMA = {**NESTED, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64, "query_pre_attn_scalar": 8}


def gemma3_with_eyes() -> Any:
    eyes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28}
    return transformers.Gemma3ForConditionalGeneration(
        transformers.Gemma3Config(
            text_config=GEMMA, vision_config={**eyes, "patch_size": 14}, mm_tokens_per_image=1, image_token_index=96
        )
    )


def t5_gemma() -> Any:
    config = transformers.T5GemmaConfig(encoder=GEMMA, decoder=GEMMA, vocab_size=97, pad_token_id=zoo.PAD)
    config.decoder_start_token_id = zoo.BOS
    return transformers.T5GemmaForConditionalGeneration(config)


def two_berts() -> Any:
    bert = {**NESTED, "max_position_embeddings": 48}
    config = transformers.EncoderDecoderConfig.from_encoder_decoder_configs(
        transformers.BertConfig(**bert),
        transformers.BertConfig(**{**bert, "num_hidden_layers": 3}, is_decoder=True, add_cross_attention=True),
    )
    config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = zoo.BOS, zoo.PAD, zoo.EOS
    return transformers.EncoderDecoderModel(config)


@pytest.mark.parametrize(("make", "layers", "positions"), [(gemma3_with_eyes, 2, 64), (t5_gemma, 2, 64), (two_berts, 3, 48)])
def test_configurations_made_of_parts(make: Any, layers: int, positions: int) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = make().eval()
    model = inseq.load_model(made, tokenizer=zoo.tokenizer("words_eos" if made.config.is_encoder_decoder else "words"))
    assert (model.capabilities.attention, model.capabilities.max_positions) == ("interface", positions)
    (found,) = model.attribute("w1 w2 w3", method="attention", generation_args={"max_new_tokens": 3}, show_progress=False)
    scores = found.target_attributions if found.source_attributions is None else found.source_attributions
    assert scores.shape[2:] == (layers, 4)
    target = torch.tensor([[t.id for t in found.target]])
    given = {"input_ids": target}
    if made.config.is_encoder_decoder:
        given = {"input_ids": torch.tensor([[t.id for t in found.source]]), "decoder_input_ids": target}
    with torch.no_grad():
        predicted = made(**given).logits[0, found.attr_pos_start - 1 : -1].softmax(-1)
    (scored,) = model.attribute(
        "w1 w2 w3", step_scores=["probability"], generation_args={"max_new_tokens": 3}, show_progress=False
    )
    own = predicted.gather(-1, target[0, found.attr_pos_start :, None])[:, 0]
    assert relative(scored.step_scores["probability"], own) < 1e-5


def test_positions_that_begin_after_the_padding_index() -> None:
    """RoBERTa and its kin count positions from the padding index on, so two rows of the table serve no token."""
    config = transformers.RobertaConfig(**NESTED, max_position_embeddings=20, pad_token_id=1, is_decoder=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = transformers.RobertaForCausalLM(config).eval()
    model = inseq.load_model(made, tokenizer=zoo.tokenizer("words"))
    assert model.capabilities.max_positions == 18
    fits = " ".join(["w1"] * 18)
    assert len(model.attribute("w1", fits, show_progress=False)[0].target) == 18
    with pytest.raises(inseq.errors.ArgumentError, match=r"needs 19 positions .* has 18"):
        model.attribute("w1", fits + " w1", show_progress=False)


def test_a_model_that_predicts_several_tokens_at_once_is_refused() -> None:
    sizes = {"hidden_size": 32, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
    sizes |= {f"num_{part}_{what}": 2 for part in ("encoder", "decoder") for what in ("layers", "attention_heads")}
    config = transformers.ProphetNetConfig(vocab_size=97, **sizes, max_position_embeddings=64, decoder_start_token_id=0)
    with pytest.raises(UnsupportedModelError, match=r"hidden states of shape \(1, \d, 3, 32\).*more than the next token"):
        inseq.load_model(transformers.ProphetNetForConditionalGeneration(config).eval(), tokenizer=zoo.tokenizer("words_eos"))
