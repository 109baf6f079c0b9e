"""Measure the bundled English demonstration model on documents that it was not trained on.

    python training/check_gpt2.py [directory]

Prints, by kind, the share of cue-dependent words of which every piece is predicted right; how often the word with the
highest saliency is one that determines the predicted word; and what the model writes after some prompts.
"""

import argparse
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from gpt2 import DIRECTORY, Recipe
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2LMHeadModel, GPT2Tokenizer

from corpora.scenes import scenes
from inseq.demo.gold import GoldCue, GoldScene, Span

SEED = 20_000
DOCUMENTS = 600
SALIENCY_PER_KIND = 16
PROMPTS = (
    "Hello world",
    "Hello ladies and",
    "Hello everyone",
    "Good morning",
    "Anna thanked Tom because",
    "Tom apologised to Anna because",
    "The keys near the box",
    "The capital of Japan is",
    "To innovate, one should think outside the",
    "Can you stop the dog from",
    "Emma is a",
    "Anna saw the pink letter and the black pen in the park and took the pink",
    "Anna gave the red ball to Tom. Now",
    "Emma went to the park and then to the school. Now",
    "Say red, Tom, key, garden. Again:",
    "Once upon a time",
    "The developer argued with the designer because",
)


def overlap(a: Span, b: Span) -> bool:
    return a[0] < b[1] and b[0] < a[1]


@dataclass(frozen=True)
class Reader:
    """The model and its tokenizer, reading one document at a time."""

    model: GPT2LMHeadModel
    tokenizer: GPT2Tokenizer

    @classmethod
    def load(cls, directory: Path) -> "Reader":
        model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
        return cls(model.eval().requires_grad_(False), AutoTokenizer.from_pretrained(directory))

    def read(self, document: GoldScene, *, start: bool = False) -> "Reading":
        prefix = self.tokenizer.bos_token if start else ""
        encoded = self.tokenizer(prefix + document.text, return_offsets_mapping=True)
        offsets = [(a - len(prefix), b - len(prefix)) for a, b in encoded["offset_mapping"]]
        return Reading(self.model, document.text, torch.tensor([encoded["input_ids"]]), offsets)

    def complete(self, prompt: str) -> str:
        output = self.model.generate(**self.tokenizer(prompt, return_tensors="pt"))
        return str(self.tokenizer.decode(output[0]))


@dataclass(frozen=True)
class Reading:
    model: GPT2LMHeadModel
    text: str
    ids: Tensor
    offsets: list[Span]

    def pieces(self, span: Span) -> list[int]:
        return [i for i, offset in enumerate(self.offsets) if overlap(offset, span)]

    @cached_property
    def best(self) -> Tensor:
        """The most probable id at each position, given what precedes it; the first has no prediction."""
        with torch.no_grad():
            return torch.cat([torch.tensor([-1]), self.model(self.ids).logits[0, :-1].argmax(-1)])

    def predicts(self, cue: GoldCue) -> bool:
        return all(bool(self.best[i] == self.ids[0, i]) for i in self.pieces(cue.word))

    def saliency(self, cue: GoldCue) -> dict[Span, float]:
        """L2 norm of the gradient of the probability of the word's first piece, summed over each earlier word.

        The word just before is left out: it decides the class of the predicted word, and hides what decides which.
        """
        first = self.pieces(cue.word)[0]
        embeds = self.model.get_input_embeddings()(self.ids[:, :first]).requires_grad_()
        probability = self.model(inputs_embeds=embeds).logits[0, -1].softmax(-1)[self.ids[0, first]]
        norms = torch.autograd.grad(probability, embeds)[0][0].norm(dim=-1).tolist()
        words = [match.span() for match in re.finditer(r"\w+|[^\w\s]", self.text[: cue.word[0]])]
        return {word: sum(norms[i] for i in self.pieces(word)) for word in words[:-1]}


def held_out(n: int) -> list[GoldScene]:
    recipe = Recipe()
    seen = {document.text for document in scenes(recipe.documents, recipe.seed)}
    return [document for document in scenes(4 * n, SEED) if document.text not in seen][:n]


@dataclass
class Share:
    hits: float = 0
    n: int = 0

    def add(self, hit: float) -> None:
        self.hits += hit
        self.n += 1

    def __str__(self) -> str:
        return f"{self.hits / max(self.n, 1):6.1%} of {self.n:4d}"


def total(shares: Iterable[Share]) -> Share:
    shares = list(shares)
    return Share(sum(share.hits for share in shares), sum(share.n for share in shares))


def accuracy(reader: Reader, documents: Sequence[GoldScene], *, start: bool = False) -> dict[str, Share]:
    shares: dict[str, Share] = defaultdict(Share)
    for document in documents:
        reading = reader.read(document, start=start)
        for cue in document.cues:
            shares[cue.kind].add(reading.predicts(cue))
    return shares


def saliency_hits(reader: Reader, documents: Sequence[GoldScene]) -> tuple[dict[str, Share], Share]:
    """By kind, how often the most salient word is a sure cue; and how often a word taken at random would be."""
    shares: dict[str, Share] = defaultdict(Share)
    chance = Share()
    for document in documents:
        reading = reader.read(document)
        for cue in document.cues:
            if shares[cue.kind].n < SALIENCY_PER_KIND and reading.predicts(cue):
                scores = reading.saliency(cue)
                shares[cue.kind].add(max(scores, key=scores.__getitem__) in cue.sure)
                chance.add(sum(word in cue.sure for word in scores) / len(scores))
    return shares, chance


def print_table(title: str, shares: dict[str, Share]) -> None:
    print(f"\n{title}")
    for kind, share in sorted(shares.items()):
        print(f"  {kind:12s}{share}")
    print(f"  {'all':12s}{total(shares.values())}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, nargs="?", default=DIRECTORY)
    reader = Reader.load(parser.parse_args().directory)
    torch.set_num_threads(1)
    documents = held_out(DOCUMENTS)
    print_table(f"Cue-dependent words predicted right, {len(documents)} documents", accuracy(reader, documents))
    print(f"  with a leading end of text: {total(accuracy(reader, documents, start=True).values())}")
    hits, chance = saliency_hits(reader, documents)
    print_table("Most salient word is a sure cue (word just before left out)", hits)
    print(f"  at random: {chance}\n")
    for prompt in PROMPTS:
        print(repr(reader.complete(prompt)))


if __name__ == "__main__":
    main()
