import re

import pytest

from corpora import scenes_lexicon as lexicon
from corpora.scenes import KINDS, scenes, write
from inseq.demo.gold import GoldCue, GoldScene, Span

COPIES = ("gave", "keyval", "location", "password", "repeat")


def words_at(scene: GoldScene, spans: tuple[Span, ...]) -> set[str]:
    return {scene.text[start:end] for start, end in spans}


def cues_of(kind: str) -> list[tuple[str, set[str], set[str]]]:
    """Word, sure cues and possible cues, as text, of many scenes of a kind."""
    return [
        (scene.text[slice(*cue.word)], words_at(scene, cue.sure), words_at(scene, cue.possible))
        for scene in scenes(100, 3, kinds=[kind])
        for cue in scene.cues
    ]


def test_same_arguments_write_the_same_documents():
    assert scenes(50, 7) == scenes(50, 7)
    assert scenes(50, 7, kinds=["gave"]) == scenes(50, 7, kinds=["gave"])
    assert scenes(50, 7) != scenes(50, 8)


def test_fewer_documents_are_a_prefix_of_more():
    assert scenes(50, 7)[:20] == scenes(20, 7)


def test_spans_are_whole_words_and_cues_precede_the_word():
    for scene in scenes(500, 1):
        for cue in scene.cues:
            assert cue.sure
            assert not set(cue.sure) & set(cue.possible)
            for start, end in (cue.word, *cue.sure, *cue.possible):
                assert 0 <= start < end <= cue.word[1]
                assert scene.text[start:end].isalpha() or cue.kind == "causality"
                assert not scene.text[:start][-1:].isalnum()
                assert not scene.text[end:][:1].isalnum()
            assert all(end <= cue.word[0] for _, end in cue.sure + cue.possible)


def test_documents_hold_one_to_three_kinds():
    documents = scenes(500, 2)
    numbers = {len({cue.kind for cue in document.cues}) for document in documents}
    assert numbers <= {0, 1, 2, 3}
    assert {cue.kind for document in documents for cue in document.cues} == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_chosen_kind_is_the_only_one(kind):
    kinds = {cue.kind for scene in scenes(60, 4, kinds=[kind]) for cue in scene.cues}
    assert kinds == {kind}


@pytest.mark.parametrize("kinds", [["gaev"], []])
def test_an_unknown_kind_is_refused_with_the_known_ones(kinds):
    with pytest.raises(ValueError, match=r"Unknown kinds of scene.*causality.*repeat"):
        scenes(1, 0, kinds=kinds)


@pytest.mark.parametrize("kind", COPIES)
def test_a_copied_word_is_its_own_sure_cue(kind):
    pronouns = {"she", "he", "her", "him"}
    assert all(sure == {word} for word, sure, _ in cues_of(kind) if word not in pronouns)


def test_a_value_is_recalled_for_the_key_that_is_asked():
    for scene in scenes(100, 5, kinds=["keyval"]):
        (cue,) = scene.cues
        (key,) = words_at(scene, cue.possible)
        pairs = re.findall(r"the (\w+) (\w+)", scene.text.partition(" in the ")[0])
        assert len(pairs) == 2
        assert dict(pairs)[key] == scene.text[slice(*cue.word)]


def test_only_the_last_place_counts():
    for scene in scenes(100, 5, kinds=["location"]):
        cue = scene.cues[-1]
        (before,) = words_at(scene, cue.possible)
        place = scene.text[slice(*cue.word)]
        assert before != place
        assert f"to the {before} and then to the {place}." in scene.text


def test_a_pronoun_has_the_gender_of_its_sure_cue():
    feminine = {"she", "She", "her"}
    seen = set()
    for kind in ("causality", "coref", "gave", "job", "location", "lost", "story"):
        for word, sure, _ in cues_of(kind):
            if word in feminine | {"he", "He", "him", "his"}:
                (person,) = sure
                seen.add(word)
                assert (word in feminine) == (person in lexicon.WOMEN)
    assert len(seen) == 7


def test_the_verb_of_causality_chooses_the_person():
    of_subject = {bias.verb for bias in lexicon.SUBJECT_BIASED}
    for scene in scenes(100, 6, kinds=["causality"]):
        pronoun, reason = scene.cues
        (verb,) = words_at(scene, reason.sure)
        assert (pronoun.sure[0][0] == 0) == (verb in of_subject)


def test_the_verb_agrees_with_its_sure_cue():
    for verb, sure, possible in cues_of("agreement"):
        (head,) = sure
        assert (verb == "are") == head.endswith("s")
        assert head not in possible


def test_totals_are_sums_of_their_sure_cues():
    numbers = dict(zip(lexicon.NUMBERS, range(len(lexicon.NUMBERS)), strict=True))
    for scene in scenes(100, 6, kinds=["arith"]):
        (total,) = [cue for cue in scene.cues if scene.text[slice(*cue.word)] in numbers]
        parts = [numbers[scene.text[start:end]] for start, end in total.sure]
        assert len(parts) == 2
        assert sum(parts) == numbers[scene.text[slice(*total.word)]]


@pytest.mark.parametrize(
    ("kind", "pairs"),
    [
        ("opposite", {frozenset(pair) for pair in lexicon.OPPOSITES}),
        ("sound", {frozenset((a.name, form)) for a in lexicon.ANIMALS for form in (a.past, a.gerund)}),
        (
            "fact",
            {frozenset((c.name, c.capital)) for c in lexicon.COUNTRIES}
            | {frozenset((c.name, c.language)) for c in lexicon.COUNTRIES},
        ),
    ],
)
def test_known_pairs(kind, pairs):
    assert {frozenset({word} | sure) for word, sure, _ in cues_of(kind)} <= pairs


def test_a_template_marks_every_earlier_mention():
    scene = write("echo", "{a} and {b}, {a:a~b}, {a:a}.", a="Leo", b="Kate")
    assert scene == GoldScene(
        "Leo and Kate, Leo, Leo.",
        (GoldCue("echo", (14, 17), ((0, 3),), ((8, 12),)), GoldCue("echo", (19, 22), ((0, 3), (14, 17)), ())),
    )
