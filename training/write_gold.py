"""Write the gold explanations that travel with the package, in one run with fixed seeds.

    python training/write_gold.py [directory]

The models were trained with another seed. Short sentences come up with every seed: prints how many of the rows are also
among the training sentences.
"""

import argparse
import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import gpt2
import zh_en

from corpora.scenes import scenes
from corpora.translations import simplify, translations
from inseq.demo import GoldScene, GoldTranslation

DIRECTORY = Path(__file__).parents[1] / "src/inseq/demo/gold"
TRANSLATIONS_SEED, SCENES_SEED = 7, 11
DECIDED = ("gave", "location", "lost", "password", "job", "story")
"""Kinds of scenes in which one earlier word decides the last cue."""


def gold() -> dict[str, list[GoldTranslation] | list[GoldScene]]:
    return {
        "translations": translations(300, TRANSLATIONS_SEED),
        "scenes": scenes(300, SCENES_SEED, kinds=DECIDED),
        "documents": scenes(200, SCENES_SEED),
    }


def lines(rows: Iterable[GoldTranslation | GoldScene]) -> str:
    """One JSON object a line; the links of an alignment, which are sets, are sorted."""
    return "".join(json.dumps(asdict(row), ensure_ascii=False, default=sorted) + "\n" for row in rows)


def training_texts() -> set[str]:
    """Everything that either model was trained on; Chinese in simplified characters."""
    recipe = gpt2.Recipe()
    documents = {document.text for document in scenes(recipe.documents, recipe.seed)}
    return documents | {simplify(pair.source) for pair in zh_en.training_sentences(zh_en.Recipe())}


def text_of(row: GoldTranslation | GoldScene) -> str:
    return row.text if isinstance(row, GoldScene) else simplify(row.source)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, nargs="?", default=DIRECTORY)
    directory = parser.parse_args().directory
    directory.mkdir(parents=True, exist_ok=True)
    seen = training_texts()
    for name, rows in gold().items():
        (directory / f"{name}.jsonl").write_text(lines(rows), encoding="utf-8", newline="\n")
        print(f"{name}: {len(rows)}, {sum(text_of(row) in seen for row in rows)} of them also among the training sentences")


if __name__ == "__main__":
    main()
