"""How Chinese and English phrases are composed side by side, with links between their words.

A phrase holds its Chinese words and its English words. Each English word names the Chinese words that it translates
(sure) and those that merely decide its form (possible). Composition only concatenates and reorders, so the links hold.

>>> from corpora.translations_lexicon import PRONOUNS
>>> subject, aspect = pronoun(PRONOUNS[3]), NOT
>>> she_does_not_swim = clause(subject, aspect, (Verb("游泳", "swim swims swam swum swimming"),))
>>> " ".join(word.text for word in she_does_not_swim.zh), " ".join(word.text for word in she_does_not_swim.statement)
('她 不 游泳', 'she does not swim')
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from corpora.translations_lexicon import (
    Agreement,
    Determiner,
    Noun,
    Place,
    Pronoun,
    Verb,
)


@dataclass(frozen=True, eq=False)
class Word:
    """A Chinese word of one sentence: two occurrences of a word are two objects."""

    text: str


@dataclass(frozen=True)
class English:
    """An English word with the Chinese words that it translates (sure) or depends on (possible)."""

    text: str
    sure: tuple[Word, ...] = ()
    possible: tuple[Word, ...] = ()


@dataclass(frozen=True)
class Phrase:
    zh: tuple[Word, ...] = ()
    en: tuple[English, ...] = ()

    def __add__(self, other: "Phrase") -> "Phrase":
        return Phrase(self.zh + other.zh, self.en + other.en)


NOTHING = Phrase()


def say(text: str, sure: Sequence[Word] = (), possible: Sequence[Word] = ()) -> tuple[English, ...]:
    return tuple(English(word, tuple(sure), tuple(possible)) for word in text.split())


def lexical(zh: str, en: str) -> Phrase:
    """One Chinese word and all the English words that translate it; an article only depends on it."""
    word = Word(zh)
    article, rest = ("the", en[4:]) if en.startswith("the ") else ("", en)
    return Phrase((word,), say(article, possible=[word]) + say(rest, sure=[word]))


def hinted(words: Iterable[English], *cues: Word) -> tuple[English, ...]:
    """The same words, which may depend on more cues."""
    return tuple(replace(word, possible=word.possible + cues) for word in words)


@dataclass(frozen=True)
class Nominal:
    """A noun phrase in its three cases; `own` is the possessive pronoun that refers back to it, where there is one."""

    subject: Phrase
    object: Phrase
    possessive: Phrase
    heads: tuple[Word, ...]
    agreement: Agreement = "she"
    plural: bool = False
    own: str = ""


def third_person(phrase: Phrase, heads: Sequence[Word], *, plural: bool = False, own: str = "") -> Nominal:
    *others, last = phrase.en or say("it")
    suffix = "'" if last.text.endswith("s") and plural else "'s"
    owner = Phrase(phrase.zh, (*others, replace(last, text=last.text + suffix)))
    return Nominal(phrase, phrase, owner, tuple(heads), "they" if plural else "she", plural, own)


def pronoun(entry: Pronoun) -> Nominal:
    word = Word(entry.zh)
    subject, object_, possessive = (Phrase((word,), say(form, sure=[word])) for form in entry[1:4])
    return Nominal(subject, object_, possessive, (word,), entry.agreement, entry.plural, entry.possessive)


def simple(zh: str, en: str, *, own: str = "", plural: bool = False) -> Nominal:
    phrase = lexical(zh, en)
    return third_person(phrase, phrase.zh, own=own, plural=plural)


def dummy(en: str, *cues: Word) -> Nominal:
    """A subject that Chinese leaves out."""
    return third_person(Phrase((), say(en, possible=cues)), ())


def coordinated(nominals: Sequence[Nominal], joint: str = "和") -> Nominal:
    """`joint` links the last two; the others are separated by an enumeration comma. English names "I" last."""
    zh: list[Word] = []
    subject: list[English] = []
    object_: list[English] = []
    spoken = sorted(nominals, key=lambda nominal: nominal.agreement == "I")
    joints = [*(Word("、") for _ in nominals[2:]), Word(joint)]
    for nominal, separator in zip(nominals, [None, *joints], strict=True):
        zh += [separator, *nominal.subject.zh] if separator else nominal.subject.zh
    for nominal, separator in zip(spoken, [None, *joints], strict=True):
        between = say("and" if separator is joints[-1] else ",", sure=[separator]) if separator else ()
        subject += [*between, *nominal.subject.en]
        object_ += [*between, *nominal.object.en]
    heads = [head for nominal in nominals for head in nominal.heads]
    own = "our" if any(nominal.agreement == "I" for nominal in nominals) else "their"
    whole = third_person(Phrase(tuple(zh), tuple(subject)), heads, plural=True, own=own)
    return replace(whole, object=Phrase(tuple(zh), tuple(object_)))


def determined(determiner: Determiner, classifier: str) -> Phrase:
    word = Word(determiner.zh)
    counters = (Word(classifier),) if determiner.classifier else ()
    return Phrase((word, *counters), say(determiner.en, sure=[word], possible=counters))


def possessed(owner: Phrase) -> Phrase:
    de = Word("的")
    *others, last = owner.en
    return Phrase((*owner.zh, de), (*others, replace(last, sure=(*last.sure, de))))


def own_of(subject: Nominal) -> Phrase:
    """自己的: the subject of the clause decides which possessive it is in English."""
    self_, de = Word("自己"), Word("的")
    en = say(subject.own, sure=[*subject.heads, self_], possible=[de]) + say("own", sure=[self_], possible=[de])
    return Phrase((self_, de), en)


def attributive(zh: str, en: str) -> Phrase:
    adjective = lexical(zh, en)
    de = Word("的")
    return Phrase((*adjective.zh, de), hinted(adjective.en, de))


def noun_phrase(before: Phrase, noun: Noun, *, plural: bool, article: bool = False) -> Nominal:
    """`article` adds the definite article, which Chinese leaves out."""
    word = Word(noun.zh)
    the = say("the" if article else "", possible=[word])
    en = say(noun.plural if plural else noun.singular, sure=[word], possible=before.zh[:2] if plural else ())
    return third_person(Phrase((*before.zh, word), the + before.en + en), [word], plural=plural)


def at(place: Place) -> Phrase:
    zai = Word("在")
    where = lexical(place.zh, place.en)
    return Phrase((zai, *where.zh), say(place.preposition, sure=[zai], possible=where.zh) + where.en)


def unmarked(place: Place, preposition: str) -> Phrase:
    """A place without 在: after a verb of motion, or before one of weather."""
    where = lexical(place.zh, place.en)
    return Phrase(where.zh, say(preposition, possible=where.zh) + where.en)


def towards(place: Place) -> Phrase:
    return unmarked(place, "to")


class Aspect(NamedTuple):
    """How a verb is placed in time, negated or qualified.

    `before` lists the Chinese words in front of the verb, each with its English words (joined by `_`): those equal to
    the auxiliary translate as the auxiliary, the others follow it. `form` indexes the forms of a verb, and `times`
    names the time words that suit.
    """

    before: str
    after: str
    auxiliary: str
    form: int
    times: str
    weight: int
    stative: bool = False


BASE, THIRD, PAST, PARTICIPLE, GERUND = range(5)

PRESENT = Aspect("", "", "do", BASE, "always", 8, stative=True)
NOT = Aspect("不:not", "", "do", BASE, "always", 4, stative=True)
DONE = Aspect("", "了", "did", BASE, "past", 8)
NOT_DONE = Aspect("沒有:not", "", "did", BASE, "past", 4)
WILL = Aspect("會:will", "", "will", BASE, "future", 5)
WILL_NOT = Aspect("不:not 會:will", "", "will", BASE, "future", 2)
DOING = Aspect("正在", "", "be", GERUND, "now", 4)
HAS_DONE = Aspect("", "過", "have", PARTICIPLE, "", 2)
HAS_NOT_DONE = Aspect("沒有:not", "過", "have", PARTICIPLE, "", 1)
CAN = Aspect("可以:can", "", "can", BASE, "future", 2)
ABLE = Aspect("能:can", "", "can", BASE, "future", 1)
CANNOT = Aspect("不:cannot 能:cannot", "", "cannot", BASE, "future", 1)
SHOULD = Aspect("應該:should", "", "should", BASE, "future", 2)
SHOULD_NOT = Aspect("不:not 應該:should", "", "should", BASE, "future", 1)
MUST = Aspect("必須:must", "", "must", BASE, "future", 1)
ONLY = Aspect("只:only", "", "do", BASE, "", 4, stative=True)
ONLY_DONE = Aspect("只:only", "了", "did", BASE, "past", 3)
FREQUENCIES = tuple(
    Aspect(f"{zh}:{en}", "", "do", BASE, "", 1, stative=True)
    for zh, en in {
        "常常": "often",
        "總是": "always",
        "有時候": "sometimes",
        "通常": "usually",
        "很少": "rarely",
        "從來不": "never",
    }.items()
)
ASPECTS = (
    PRESENT, NOT, DONE, NOT_DONE, WILL, WILL_NOT, DOING, HAS_DONE, HAS_NOT_DONE, CAN, ABLE, CANNOT, SHOULD, SHOULD_NOT,
    MUST, ONLY, ONLY_DONE, *FREQUENCIES,
)  # fmt: skip
ASKED = (PRESENT, DONE, WILL, DOING, HAS_DONE, CAN, ABLE, SHOULD)
MANAGED = (DONE, DONE, NOT_DONE, WILL, SHOULD)

HAS_NO = Aspect("沒有:not_have", "", "do", BASE, "", 1)
UNMARKED_PAST = Aspect("", "", "did", BASE, "", 1)
IS = Aspect("", "", "be", BASE, "today", 6)
IS_NOT = Aspect("不:not", "", "be", BASE, "today", 2)
WAS = Aspect("", "", "was", BASE, "yesterday", 2)
WILL_BE = Aspect("會:will", "", "will", BASE, "future", 2)
EQUALS = Aspect("是:be", "", "be", BASE, "", 6)
EQUALS_NOT = Aspect("不:not 是:be", "", "be", BASE, "", 2)
WAS_DONE = Aspect("", "了", "was", PARTICIPLE, "past", 6)
WAS_NOT_DONE = Aspect("沒有:not", "", "was", PARTICIPLE, "past", 2)

AGREEING: dict[str, dict[Agreement, str]] = {
    "be": {"I": "am", "she": "is", "they": "are"},
    "was": {"I": "was", "she": "was", "they": "were"},
    "have": {"I": "have", "she": "has", "they": "have"},
    "do": {"I": "do", "she": "does", "they": "do"},
}


@dataclass(frozen=True)
class Clause:
    """A clause that can be stated or asked. `finite` is None where the auxiliary is always said."""

    zh: tuple[Word, ...]
    subject: tuple[English, ...]
    auxiliary: tuple[English, ...]
    infinite: tuple[English, ...]
    finite: tuple[English, ...] | None
    rest: tuple[English, ...]

    @property
    def statement(self) -> tuple[English, ...]:
        predicate = self.auxiliary + self.infinite if self.finite is None else self.finite
        return self.subject + predicate + self.rest

    def question(self, *cues: Word) -> tuple[English, ...]:
        return hinted(self.auxiliary, *cues) + self.subject + self.infinite + self.rest


@dataclass(frozen=True)
class _Verbs:
    """A chain of verbs, the first of which is inflected."""

    verbs: tuple[Verb, ...]
    zh: tuple[Word, ...]

    def english(self, form: int, cues: tuple[Word, ...]) -> tuple[English, ...]:
        said: tuple[English, ...] = ()
        for i, (verb, word) in enumerate(zip(self.verbs, self.zh, strict=True)):
            text = verb.forms.split()[BASE if i else form]
            particle = "possible" if len(self.verbs) > i + 1 else "sure"
            said += hinted(say(text, sure=[word]), *(() if i else cues)) + say(verb.particle, **{particle: [word]})
        return said


def clause(
    subject: Nominal,
    aspect: Aspect,
    verbs: tuple[Verb, ...] = (),
    *,
    object: Phrase = NOTHING,
    fronted: Phrase = NOTHING,
    complement: Phrase = NOTHING,
    place: Phrase = NOTHING,
    time: Phrase = NOTHING,
    time_first: bool = False,
) -> Clause:
    """Chinese order: subject, time, aspect, helping verbs, place, fronted, verb, complement, particle, object."""
    before = [(Word(zh), en.replace("_", " ")) for zh, _, en in (pair.partition(":") for pair in aspect.before.split())]
    marks = tuple(word for word, _ in before)
    after = tuple(map(Word, aspect.after.split()))
    chain = _Verbs(verbs, tuple(Word(verb.zh) for verb in verbs))
    opening = time.zh + subject.subject.zh if time_first else subject.subject.zh + time.zh
    core = chain.zh[:-1] + place.zh + fronted.zh + chain.zh[-1:]

    translated = [word for word, en in before if en == aspect.auxiliary]
    qualifiers = tuple(word for mark, en in before if en != aspect.auxiliary for word in say(en, sure=[mark]))
    cues = subject.heads + marks + after + fronted.zh[:1] + (chain.zh or object.zh[:1] + time.zh)
    forms = AGREEING.get(aspect.auxiliary, {})
    auxiliary = say(forms.get(subject.agreement, aspect.auxiliary), sure=translated, possible=cues)
    copula = say("be" if aspect.auxiliary == "will" and not verbs else "", possible=marks)
    silent = aspect.auxiliary in ("do", "did") and all(word.text != "not" for word in qualifiers)
    return Clause(
        zh=opening + marks + core + complement.zh + after + object.zh,
        subject=subject.subject.en,
        auxiliary=auxiliary,
        infinite=qualifiers + copula + chain.english(aspect.form, after),
        finite=qualifiers + _finite(chain, aspect, subject, after) if silent else None,
        rest=fronted.en + object.en + complement.en + place.en + time.en,
    )


def _finite(chain: _Verbs, aspect: Aspect, subject: Nominal, after: tuple[Word, ...]) -> tuple[English, ...]:
    if aspect.auxiliary == "did":
        return chain.english(PAST, after)
    return chain.english(THIRD if subject.agreement == "she" else BASE, subject.heads)
