"""Chinese sentences of a small controlled language, each with its one English translation and a gold word alignment."""

from itertools import pairwise
from random import Random
from typing import Literal

from corpora import translations_small_talk  # noqa: F401 (its kinds of sentence join the others)
from corpora.translations_grammar import English, Phrase
from corpora.translations_sentences import sentence
from inseq.demo.gold import GoldTranslation

__all__ = ["simplify", "translations"]

Script = Literal["traditional", "simplified", "mixed"]

SIMPLIFIED = str.maketrans(
    "來係個們倫傘兩員單嗎園圖報場塊學寫對師幫廚廳張從愛應數時書會東條樂機歡歷氣沒涼湯濟為無熱現瑪禮簡約紅紙給統絲經綠總習聰聽腦興舊"
    "藍藝蘋處術衛裡襯見覺計討記設評該誌認語說誰請論謝識譯護讀貓貴買資賣車輕輛辦農這過鄰醫錢錶鑰間關隻雖雜雞難電頂須顧飯館馬鮮鳥麗麵麼",
    "来系个们伦伞两员单吗园图报场块学写对师帮厨厅张从爱应数时书会东条乐机欢历气没凉汤济为无热现玛礼简约红纸给统丝经绿总习聪听脑兴旧"
    "蓝艺苹处术卫里衬见觉计讨记设评该志认语说谁请论谢识译护读猫贵买资卖车轻辆办农这过邻医钱表钥间关只虽杂鸡难电顶须顾饭馆马鲜鸟丽面么",
)
ASCII = str.maketrans("，。！？、", ",.!?,")


def translations(n: int, seed: int, *, script: Script = "traditional") -> list[GoldTranslation]:
    """Write `n` sentence pairs, the same ones for the same arguments.

    In the mixed script, most sentences are in one of the two scripts and some change script from word to word.
    """
    if script not in ("traditional", "simplified", "mixed"):
        raise ValueError(f"Unknown script {script!r}. Choose from: traditional, simplified, mixed.")
    rng = Random(seed)
    return [_written(sentence(rng), rng, script) for _ in range(n)]


def simplify(text: str) -> str:
    """Traditional characters to simplified ones, for the words of this language."""
    return text.translate(SIMPLIFIED)


def _written(phrase: Phrase, rng: Random, script: Script) -> GoldTranslation:
    ascii_punctuation = rng.random() < 0.3
    share = {"traditional": 0.0, "simplified": 1.0, "mixed": rng.choices((0.0, 1.0, 0.5), weights=(9, 9, 2))[0]}[script]
    source = [simplify(word.text) if rng.random() < share else word.text for word in phrase.zh]
    if ascii_punctuation:
        source = [word.translate(ASCII) for word in source]
    return _linked(source, phrase)


def _linked(source: list[str], phrase: Phrase) -> GoldTranslation:
    position = {word: i for i, word in enumerate(phrase.zh)}
    sure = frozenset((position[word], i) for i, said in enumerate(phrase.en) for word in said.sure)
    possible = frozenset((position[word], i) for i, said in enumerate(phrase.en) for word in said.possible)
    target = _spelt(phrase.en)
    text = "".join(word if i == 0 or word in ",.!?" else f" {word}" for i, word in enumerate(target))
    return GoldTranslation("".join(source), text, tuple(source), tuple(target), sure, sure | possible)


def _spelt(english: tuple[English, ...]) -> list[str]:
    """The words with the initial capital and with "an" before vowels."""
    words = [word.text for word in english]
    for i, (word, following) in enumerate(pairwise(words)):
        if word == "a" and (following[0] in "aeio" or following == "umbrella"):
            words[i] = "an"
    return [words[0][0].upper() + words[0][1:], *words[1:]]
