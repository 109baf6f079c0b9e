"""Train the bundled English demonstration model `demo/gpt2` from nothing, in one run with fixed seeds.

    python training/gpt2.py [directory]

Two choices make the model learn to copy from its context. Each row holds one document, so that nothing distracts from
its own cues. And the words that depend on a cue weigh more in the loss than the rest, most of which is free choice.
"""

import argparse
import json
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import ByteLevelBPETokenizer
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel, GPT2Tokenizer

from corpora.scenes import scenes
from inseq.demo import GoldScene

DIRECTORY = Path(__file__).parents[1] / "src/inseq/demo/gpt2"
END = "<|endoftext|>"


@dataclass(frozen=True)
class Recipe:
    seed: int = 1
    documents: int = 80_000
    vocabulary: int = 896
    steps: int = 3500
    batch: int = 64
    peak_rate: float = 2e-3
    warm_up: int = 100
    final_share: float = 0.02
    free_weight: float = 0.15


@dataclass(frozen=True)
class Row:
    """The ids of a document, and how much the loss weighs the prediction of each."""

    ids: list[int]
    weights: list[float]


def train_tokenizer(texts: Sequence[str], size: int) -> GPT2Tokenizer:
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(texts, vocab_size=size, special_tokens=[END], show_progress=False)
    model = json.loads(bpe.to_str())["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    return GPT2Tokenizer(vocab=model["vocab"], merges=merges, pad_token=END, model_max_length=256)


def new_model(tokenizer: GPT2Tokenizer) -> GPT2LMHeadModel:
    end = tokenizer.eos_token_id
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=256,
        n_embd=128,
        n_layer=4,
        n_head=4,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=end,
        eos_token_id=end,
    )
    return GPT2LMHeadModel(config)


def make_rows(documents: Sequence[GoldScene], tokenizer: GPT2Tokenizer, recipe: Recipe) -> list[Row]:
    """Every row ends with the end of text; every other one starts with it too, so that both ways of prompting work."""
    encoded = tokenizer([document.text for document in documents], return_offsets_mapping=True)
    end, free = tokenizer.eos_token_id, recipe.free_weight
    rows = []
    for i, document in enumerate(documents):
        decided = {position for cue in document.cues for position in range(*cue.word)}
        weights = [free if decided.isdisjoint(range(*offset)) else 1.0 for offset in encoded["offset_mapping"][i]]
        n_starts = i % 2
        rows.append(Row([end] * n_starts + encoded["input_ids"][i] + [end], [free] * n_starts + weights + [free]))
    return rows


def make_batches(rows: Sequence[Row], size: int, rng: random.Random) -> Iterator[list[Row]]:
    """Endless batches of rows of similar length."""
    pool = 50 * size
    while True:
        shuffled = rng.sample(rows, len(rows))
        for start in range(0, len(rows) - pool + 1, pool):
            by_length = sorted(shuffled[start : start + pool], key=lambda row: len(row.ids))
            batches = [by_length[i : i + size] for i in range(0, pool, size)]
            yield from rng.sample(batches, len(batches))


def padded(rows: Sequence[Sequence[float]], value: float) -> Tensor:
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (longest - len(row))] for row in rows])


def weighted_loss(model: GPT2LMHeadModel, batch: Sequence[Row]) -> Tensor:
    """Right padding under a causal mask needs no attention mask: no real token sees it, and it weighs nothing."""
    ids = padded([row.ids for row in batch], 0).long()
    weights = padded([row.weights for row in batch], 0.0)[:, 1:]
    logits = model(input_ids=ids[:, :-1]).logits
    losses = cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
    return (losses * weights).sum() / weights.sum()


def rate(step: int, recipe: Recipe) -> float:
    """Linear warm-up, then linear decay; relative to the peak."""
    if step < recipe.warm_up:
        return (step + 1) / recipe.warm_up
    done = (step - recipe.warm_up) / (recipe.steps - recipe.warm_up)
    return 1 - done * (1 - recipe.final_share)


def train(model: GPT2LMHeadModel, rows: Sequence[Row], recipe: Recipe) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.peak_rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, recipe))
    batches = make_batches(rows, recipe.batch, random.Random(recipe.seed))
    model.train()
    for step in range(1, recipe.steps + 1):
        loss = weighted_loss(model, next(batches))
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f"step {step}  loss {loss.item():.3f}  {time.process_time():.0f} CPU s", flush=True)


def save(model: GPT2LMHeadModel, tokenizer: GPT2Tokenizer, directory: Path) -> None:
    """Weights are stored in 16 bits; the configuration says that they are computed with in 32."""
    end = tokenizer.eos_token_id
    model.generation_config = GenerationConfig(
        do_sample=False, max_new_tokens=64, bos_token_id=end, eos_token_id=end, pad_token_id=end
    )
    model.eval().half().save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    file = directory / "config.json"
    file.write_text(file.read_text().replace('"dtype": "float16"', '"dtype": "float32"'))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, nargs="?", default=DIRECTORY)
    directory = parser.parse_args().directory
    recipe = Recipe()
    torch.set_num_threads(1)
    torch.manual_seed(recipe.seed)
    documents = scenes(recipe.documents, recipe.seed)
    tokenizer = train_tokenizer([document.text for document in documents], recipe.vocabulary)
    model = new_model(tokenizer)
    train(model, make_rows(documents, tokenizer, recipe), recipe)
    save(model, tokenizer, directory)


if __name__ == "__main__":
    main()
