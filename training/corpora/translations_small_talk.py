"""Weather, greetings, fixed phrases and introductions of the Chinese-English demonstration grammar."""

from corpora import translations_grammar as grammar
from corpora import translations_lexicon as lexicon
from corpora.translations_grammar import NOTHING, English, Phrase, Word, clause, lexical, say
from corpora.translations_sentences import asked, ended, joined, kind_of_sentence
from corpora.translations_speaker import Speaker


@kind_of_sentence(6)
def weather(speaker: Speaker) -> Phrase:
    if speaker.maybe(0.45):
        return precipitation(speaker)
    aspect = speaker.aspect((grammar.IS, grammar.IS_NOT, grammar.WAS, grammar.WILL_BE))
    named = speaker.maybe(0.65)
    subject = grammar.simple("天氣", "the weather") if named else grammar.dummy("it")
    adjectives = [
        adjective for adjective in lexicon.ADJECTIVES if adjective.kinds == "weather" or (adjective.zh == "好" and named)
    ]
    certain = 1.0 if aspect is grammar.WAS or not named else 0.6
    said = clause(
        subject,
        aspect,
        object=speaker.degree(speaker.rng.choice(adjectives), plain=aspect is grammar.IS_NOT),
        time=speaker.time(aspect.times, certain),
        time_first=speaker.maybe(0.85),
    )
    return ended(speaker, Phrase(said.zh, said.statement), exclaimed=0.1)


def precipitation(speaker: Speaker) -> Phrase:
    aspect = speaker.aspect((grammar.DONE, grammar.NOT_DONE, grammar.WILL, grammar.WILL, grammar.WILL_NOT, grammar.DOING))
    verb = speaker.rng.choice((lexicon.RAIN, lexicon.SNOW))
    city = speaker.rng.choice(lexicon.CITIES)
    where = grammar.unmarked(city, city.preposition) if speaker.maybe(0.3) else NOTHING
    when = speaker.time(aspect.times, 0.7)
    said = clause(grammar.dummy("it"), aspect, (verb,), time=when)
    zh, en = when.zh + where.zh + said.zh[len(when.zh) :], said.statement[: len(said.statement) - len(when.en)]
    if aspect in grammar.ASKED and speaker.maybe(0.25):
        ma = Word("嗎")
        question = said.question(ma)
        return asked(speaker, (*zh, ma), question[: len(question) - len(when.en)] + where.en + when.en, ma)
    return ended(speaker, Phrase(zh, en + where.en + when.en))


@kind_of_sentence(5)
def greeting(speaker: Speaker) -> Phrase:
    opening = lexical(*speaker.rng.choice(list(lexicon.OPENINGS.items())))
    if speaker.maybe(0.3):
        return ended(speaker, opening, exclaimed=0.5)
    addressed = lexical(*speaker.rng.choice(list(lexicon.ADDRESSED.items())))
    called = joined(opening, ",", addressed)
    if speaker.maybe(0.15):
        called = Phrase(opening.zh + addressed.zh, opening.en + say(",", possible=opening.zh + addressed.zh) + addressed.en)
    if speaker.maybe(0.25):
        who = grammar.pronoun(lexicon.PRONOUNS[0])
        said = clause(who, grammar.EQUALS, object=speaker.name().object)
        called = joined(opening, ",", Phrase(said.zh, said.statement))
    return ended(speaker, called, exclaimed=0.5)


@kind_of_sentence(1)
def phrase(speaker: Speaker) -> Phrase:
    """Fixed phrases with a single translation, linked word by word where that is possible."""
    en, zh, positions, mark = speaker.rng.choice(lexicon.PHRASES)
    words = tuple(map(Word, zh.split()))
    said = tuple(English(text, (words[int(i)],)) for text, i in zip(en.split(), positions.split(), strict=True))
    return asked(speaker, words, said) if mark == "?" else ended(speaker, Phrase(words, said), exclaimed=0.3)


@kind_of_sentence(2)
def introduction(speaker: Speaker) -> Phrase:
    """My name is ..., or Welcome to ..."""
    if speaker.maybe(0.4):
        welcome, place = lexical("歡迎", "welcome"), lexical(*speaker.rng.choice(lexicon.PLACES)[:2])
        to = Word("來到")
        return ended(speaker, welcome + Phrase((to, *place.zh), say("to", sure=[to]) + place.en), exclaimed=0.5)
    who, named, name = grammar.pronoun(speaker.rng.choice(lexicon.PRONOUNS[:4])), Word("叫"), speaker.name().object
    en = who.possessive.en + say("name is", sure=[named]) + name.en
    return ended(speaker, Phrase((*who.subject.zh, named, *name.zh), en))
