"""Measure the bundled Chinese-English model on sentences that are not among its training sentences, in either script.

python training/check_zh_en.py [directory]
"""

import argparse
import warnings
from pathlib import Path

import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
from zh_en import DIRECTORY, Recipe, training_sentences

from corpora.translations import simplify, translations
from inseq.demo import GoldTranslation

COUNT = 1000
SHORTEST = 5
PROBES = (
    "我喜歡機器學習和人工智慧。",
    "我喜欢机器学习和人工智能。",
    "我喜欢機器學習和人工智慧",
    "我喜歡機器學習和人工智慧.",
    "你好，世界！",
    "今天天氣很好。",
    "老師喜歡學生。",
    "機器學習和人工智慧很有趣。",
    "湯姆和瑪麗在圖書館讀這本書。",
    "她把自己的帽子放在桌子上了。",
    "因為她很忙，所以她不想去學校。",
    "安娜買的書很有趣。",
)


def held_out(recipe: Recipe) -> list[GoldTranslation]:
    seen = {simplify(sentence.source) for sentence in training_sentences(recipe)}
    fresh = translations(3 * COUNT, recipe.seed + 1, script="mixed")
    unseen = [t for t in fresh if simplify(t.source) not in seen and len(t.source_words) >= SHORTEST]
    return list({t.source: t for t in unseen}.values())[:COUNT]


def translate(model: AutoModelForSeq2SeqLM, tokenizer: AutoTokenizer, texts: list[str]) -> list[str]:
    written = []
    for start in range(0, len(texts), 100):
        with torch.no_grad():
            ids = model.generate(**tokenizer(texts[start : start + 100], return_tensors="pt", padding=True))
        written += tokenizer.batch_decode(ids, skip_special_tokens=True)
    return written


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path, nargs="?", default=DIRECTORY)
    directory = parser.parse_args().directory
    warnings.filterwarnings("ignore", message="Recommended: pip install sacremoses")
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForSeq2SeqLM.from_pretrained(directory)
    sentences = held_out(Recipe())
    written = translate(model, tokenizer, [sentence.source for sentence in sentences])
    wrong = [(s, got) for s, got in zip(sentences, written, strict=True) if got != s.target]
    for sentence, got in wrong:
        print(f"{sentence.source}\n  expected {sentence.target}\n  got      {got}")
    print(f"{100 * (1 - len(wrong) / len(sentences)):.1f} % of {len(sentences)} held-out sentences exactly right\n")
    for source, target in zip(PROBES, translate(model, tokenizer, list(PROBES)), strict=True):
        print(f"{source} -> {target}")


if __name__ == "__main__":
    main()
