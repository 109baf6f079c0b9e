from itertools import pairwise

import pytest

from corpora import translations_lexicon as lexicon
from corpora.translations import ASCII, simplify, translations


@pytest.fixture(scope="module")
def pairs():
    return translations(20_000, 3, script="mixed")


def links(pair, kind):
    """The links of a pair as (source word, target word) texts."""
    return {(pair.source_words[i], pair.target_words[j]) for i, j in getattr(pair, kind)}


def test_same_arguments_write_the_same_sentences():
    assert translations(50, 7) == translations(50, 7)
    assert translations(50, 7) != translations(50, 8)


def test_fewer_sentences_are_a_prefix_of_more():
    assert translations(50, 7)[:20] == translations(20, 7)


def test_words_make_up_the_texts(pairs):
    for pair in pairs[:3000]:
        assert "".join(pair.source_words) == pair.source
        assert "".join(pair.target_words) == pair.target.replace(" ", "")
        assert pair.target[0].isupper()
        assert pair.target[-1] in ".?!"
        assert "  " not in pair.target


def test_links_join_words_of_the_pair_and_sure_ones_are_possible(pairs):
    for pair in pairs[:3000]:
        assert pair.sure
        assert pair.sure <= pair.possible
        for i, j in pair.possible:
            assert 0 <= i < len(pair.source_words)
            assert 0 <= j < len(pair.target_words)


def test_a_sentence_has_one_translation(pairs):
    found = {}
    for pair in pairs:
        typed = simplify(pair.source).translate(ASCII)
        assert found.setdefault(typed, pair.target) == pair.target


def test_scripts_write_the_same_sentences():
    traditional = translations(300, 5)
    simplified = translations(300, 5, script="simplified")
    assert [simplify(pair.source) for pair in traditional] == [pair.source for pair in simplified]
    assert [(pair.target, pair.sure) for pair in traditional] == [(pair.target, pair.sure) for pair in simplified]


def test_an_unknown_script_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"Unknown script 'latin'.*traditional, simplified, mixed"):
        translations(1, 0, script="latin")


@pytest.mark.parametrize(
    ("traditional", "simplified"),
    [
        ("我喜歡機器學習和人工智慧。", "我喜欢机器学习和人工智慧。"),
        ("這隻貓", "这只猫"),
        ("麵包", "面包"),
        ("Hello, 世界", "Hello, 世界"),
        ("", ""),
    ],
)
def test_simplify(traditional, simplified):
    assert simplify(traditional) == simplified
    assert simplify(simplified) == simplified


def test_a_field_is_surely_linked_to_each_word_of_its_name():
    seen = set()
    for pair in translations(2000, 9):
        for i, word in enumerate(pair.source_words):
            if word in lexicon.FIELDS:
                linked = [pair.target_words[j].lower() for i_, j in sorted(pair.sure) if i_ == i]
                assert linked == lexicon.FIELDS[word].lower().split()
                seen.add(word)
    assert len(seen) > 20


def test_names_are_linked_to_themselves(pairs):
    names = {simplify(zh): en for zh, en in lexicon.NAMES.items()}
    for pair in pairs[:3000]:
        for i, j in pair.sure:
            source, target = simplify(pair.source_words[i]), pair.target_words[j]
            if source in names and target not in ("his", "her", "our", "their"):
                assert target in (names[source], names[source] + "'s")


def test_reflexive_possessives_depend_on_the_subject_of_their_clause(pairs):
    possessives = {"我": "my", "她": "her", "湯姆": "his", "瑪麗": "her"}
    found = set()
    for pair in pairs:
        if "自己" in pair.source_words and pair.source_words[0] in possessives:
            possessive = next(word for word, after in pairwise(pair.target_words) if after == "own")
            subject_words = {source for source, target in links(pair, "sure") if target == possessive}
            if subject_words - {"自己"} == {pair.source_words[0]}:
                assert possessive == possessives[pair.source_words[0]]
                found.add(pair.source_words[0])
    assert found == set(possessives)


def test_the_language_covers_what_the_card_says(pairs):
    words = {word for pair in pairs for word in pair.source_words}
    assert {"只", "自己", "把", "被", "比", "因為", "雖然", "如果", "嗎", "什麼", "哪裡", "天氣", "你好", "謝謝"} <= words
    assert set("，。？！,.?!") <= words


def test_articles_agree_with_the_following_sound(pairs):
    for pair in pairs:
        for article, following in pairwise(pair.target_words):
            if article.lower() in ("a", "an"):
                assert (article.lower() == "an") == (following[0] in "aeio" or following == "umbrella")
