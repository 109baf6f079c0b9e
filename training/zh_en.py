"""Train the bundled Chinese-English demonstration model `demo/zh-en` from nothing, in one run with fixed seeds.

    python training/zh_en.py [directory]

Every Chinese sentence of the controlled language has one English translation, so that a small model can get them right.
The tutorial's sentence is held out in both scripts; a few source words are hidden behind `<unk>`, so that hiding a word
is nothing the model has never seen.
"""

import argparse
import json
import random
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import sentencepiece
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig, MarianConfig, MarianMTModel, MarianTokenizer

from corpora.translations import simplify, translations
from inseq.demo import GoldTranslation

DIRECTORY = Path(__file__).parents[1] / "src/inseq/demo/zh_en"
HELD_OUT = "我喜歡機器學習和人工智慧"
JOINT = "|"


@dataclass(frozen=True)
class Recipe:
    seed: int = 1
    sentences: int = 160_000
    source_pieces: int = 900
    target_pieces: int = 800
    width: int = 128
    steps: int = 4000
    batch: int = 96
    peak_rate: float = 2e-3
    warm_up: int = 300
    final_share: float = 0.02
    smoothing: float = 0.05
    hidden_words: float = 0.02


def is_held_out(translation: GoldTranslation) -> bool:
    """Whether a sentence is the tutorial's, in any script and with any punctuation."""
    held = {HELD_OUT, HELD_OUT.replace("智慧", "智能")}
    return simplify(translation.source.rstrip("。.！!")) in {simplify(text) for text in held}


def training_sentences(recipe: Recipe) -> list[GoldTranslation]:
    written = translations(recipe.sentences, recipe.seed, script="mixed")
    return [translation for translation in written if not is_held_out(translation)]


def train_pieces(texts: Sequence[str], prefix: Path, **options: object) -> None:
    """Identity normalisation keeps the file small and the text as it is."""
    listing = prefix.with_suffix(".txt")
    listing.write_text("\n".join(texts), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(listing),
        model_prefix=str(prefix),
        normalization_rule_name="identity",
        character_coverage=1.0,
        bos_id=-1,
        pad_id=-1,
        eos_id=0,
        unk_id=1,
        hard_vocab_limit=False,
        minloglevel=2,
        **options,
    )


def make_tokenizer(sentences: Sequence[GoldTranslation], recipe: Recipe, directory: Path) -> MarianTokenizer:
    """Source pieces are words; target pieces are those of byte-pair encoding."""
    words = sorted({word for sentence in sentences for word in sentence.source_words})
    joined = [JOINT.join(sentence.source_words) for sentence in sentences[:20_000]]
    train_pieces(
        joined + words * 40,
        directory / "source",
        vocab_size=recipe.source_pieces,
        model_type="unigram",
        add_dummy_prefix=False,
        pretokenization_delimiter=JOINT,
    )
    targets = [sentence.target for sentence in sentences[:20_000]]
    train_pieces(targets, directory / "target", vocab_size=recipe.target_pieces, model_type="bpe")
    pieces = ["</s>", "<unk>"]
    for side in ("source", "target"):
        model = sentencepiece.SentencePieceProcessor(model_file=str(directory / f"{side}.model"))
        pieces += [model.id_to_piece(i) for i in range(model.get_piece_size())]
        (directory / f"{side}.model").rename(directory / f"{side}.spm")
    ids = {piece: i for i, piece in enumerate(dict.fromkeys([*pieces, "<pad>"]))}
    (directory / "vocab.json").write_text(json.dumps(ids, ensure_ascii=False), encoding="utf-8")
    files = (str(directory / name) for name in ("source.spm", "target.spm", "vocab.json"))
    return MarianTokenizer(*files, source_lang="zh", target_lang="en", model_max_length=128)


def new_model(tokenizer: MarianTokenizer, width: int) -> MarianMTModel:
    config = MarianConfig(
        vocab_size=len(tokenizer),
        decoder_vocab_size=len(tokenizer),
        d_model=width,
        encoder_layers=3,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=2 * width,
        decoder_ffn_dim=2 * width,
        activation_function="relu",
        dropout=0.0,
        scale_embedding=True,
        init_std=width**-0.5,
        max_position_embeddings=128,
        pad_token_id=tokenizer.pad_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        forced_eos_token_id=tokenizer.eos_token_id,
    )
    return MarianMTModel(config)


def encode(sentences: Sequence[GoldTranslation], tokenizer: MarianTokenizer) -> list[tuple[list[int], list[int]]]:
    sources = tokenizer([sentence.source for sentence in sentences])["input_ids"]
    targets = tokenizer(text_target=[sentence.target for sentence in sentences])["input_ids"]
    return list(zip(sources, targets, strict=True))


def make_batches(pairs: Sequence[tuple[list[int], list[int]]], size: int, rng: random.Random) -> Iterator[list]:
    """Endless batches of pairs of similar length."""
    pool = 50 * size
    while True:
        shuffled = rng.sample(pairs, len(pairs))
        for start in range(0, len(pairs) - pool + 1, pool):
            by_length = sorted(shuffled[start : start + pool], key=lambda pair: (len(pair[1]), len(pair[0])))
            batches = [by_length[i : i + size] for i in range(0, pool, size)]
            yield from rng.sample(batches, len(batches))


def padded(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (longest - len(row))] for row in rows])


def loss_of(model: MarianMTModel, batch: Sequence[tuple[list[int], list[int]]], recipe: Recipe) -> Tensor:
    config = model.config
    source = padded([pair[0] for pair in batch], config.pad_token_id)
    target = padded([pair[1] for pair in batch], -100)
    keep = source != config.pad_token_id
    hidden = (torch.rand(source.shape) < recipe.hidden_words) & keep & (source != config.eos_token_id)
    start = torch.full_like(target[:, :1], config.decoder_start_token_id)
    shifted = torch.cat([start, target[:, :-1].clamp_min(0)], 1)
    logits = model(
        input_ids=source.masked_fill(hidden, 1), attention_mask=keep.long(), decoder_input_ids=shifted, use_cache=False
    ).logits
    return cross_entropy(logits.flatten(0, 1), target.flatten(), label_smoothing=recipe.smoothing)


def rate(step: int, recipe: Recipe) -> float:
    """Linear warm-up, then linear decay; relative to the peak."""
    if step < recipe.warm_up:
        return (step + 1) / recipe.warm_up
    done = (step - recipe.warm_up) / (recipe.steps - recipe.warm_up)
    return 1 - done * (1 - recipe.final_share)


def train(model: MarianMTModel, batches: Iterator[list], recipe: Recipe) -> None:
    optimiser = torch.optim.AdamW(model.parameters(), lr=recipe.peak_rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: rate(step, recipe))
    for step in range(1, recipe.steps + 1):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = loss_of(model, next(batches), recipe)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % 200 == 0:
            print(f"step {step}  loss {loss.item():.3f}  {time.process_time():.0f} CPU s", flush=True)


def save(model: MarianMTModel, tokenizer: MarianTokenizer, directory: Path) -> None:
    """Weights are stored in 16 bits; the configuration says that they are computed with in 32."""
    padding = model.config.pad_token_id
    model.generation_config = GenerationConfig(
        pad_token_id=padding,
        decoder_start_token_id=padding,
        eos_token_id=model.config.eos_token_id,
        forced_eos_token_id=model.config.eos_token_id,
        bad_words_ids=[[padding]],
        num_beams=1,
        max_length=128,
    )
    model.half().save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    file = directory / "config.json"
    file.write_text(file.read_text().replace('"dtype": "float16"', '"dtype": "float32"'))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path, nargs="?", default=DIRECTORY)
    directory = parser.parse_args().directory
    recipe = Recipe()
    torch.set_num_threads(1)
    torch.manual_seed(recipe.seed)
    sentences = training_sentences(recipe)
    with tempfile.TemporaryDirectory() as scratch:
        tokenizer = make_tokenizer(sentences, recipe, Path(scratch))
        model = new_model(tokenizer, recipe.width)
        pairs = encode(sentences, tokenizer)
        print(f"{len(pairs)} sentences, {len(tokenizer)} pieces, {model.num_parameters()} parameters", flush=True)
        train(model.train(), make_batches(pairs, recipe.batch, random.Random(recipe.seed)), recipe)
        if directory.exists():
            shutil.rmtree(directory)
        save(model.eval(), tokenizer, directory)


if __name__ == "__main__":
    main()
