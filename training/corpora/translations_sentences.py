"""The kinds of sentence of the Chinese-English demonstration grammar."""

from collections.abc import Callable
from random import Random

from corpora import translations_grammar as grammar
from corpora import translations_lexicon as lexicon
from corpora.translations_grammar import NOTHING, English, Nominal, Phrase, Word, clause, hinted, lexical, say
from corpora.translations_speaker import INTRANSITIVE, TRANSITIVE, Speaker

HANDLED = tuple(verb for verb in lexicon.VERBS if verb.zh in lexicon.HANDLED)
THINGS = ("text", "food", "thing")

Kind = Callable[[Speaker], Phrase]
_KINDS: dict[Kind, int] = {}


def sentence(rng: Random) -> Phrase:
    """A whole sentence, with its final punctuation."""
    kind = rng.choices(list(_KINDS), weights=list(_KINDS.values()))[0]
    return kind(Speaker(rng))


def kind_of_sentence(weight: int) -> Callable[[Kind], Kind]:
    """Register a kind of sentence; `weight` is how often it is chosen, relative to the others."""

    def register(kind: Kind) -> Kind:
        _KINDS[kind] = weight
        return kind

    return register


def joined(*parts: Phrase | str) -> Phrase:
    """Phrases one after the other; a comma stands for itself in both languages."""
    whole = NOTHING
    for part in parts:
        if isinstance(part, str):
            comma = Word("，")
            part = Phrase((comma,), say(part, sure=[comma]))
        whole += part
    return whole


def ended(speaker: Speaker, phrase: Phrase, exclaimed: float = 0.04) -> Phrase:
    """A statement. Chinese may leave the full stop out and English never does, so that it is not a translation."""
    if speaker.maybe(0.18):
        return phrase + Phrase((), say("."))
    if speaker.maybe(exclaimed):
        return phrase + lexical("！", "!")
    stop = Word("。")
    return phrase + Phrase((stop,), say(".", possible=[stop]))


def asked(speaker: Speaker, zh: tuple[Word, ...], en: tuple[English, ...], *cues: Word) -> Phrase:
    """The question mark, which Chinese may leave out, is decided by the particle or the question word as well."""
    mark = () if speaker.maybe(0.1) else (Word("？"),)
    return Phrase((*zh, *mark), (*en, *say("?", sure=[*mark, *cues])))


@kind_of_sentence(24)
def action(speaker: Speaker) -> Phrase:
    said = speaker.action()
    return ended(speaker, Phrase(said.zh, said.statement))


@kind_of_sentence(11)
def quality(speaker: Speaker) -> Phrase:
    said = speaker.quality()
    return ended(speaker, Phrase(said.zh, said.statement))


@kind_of_sentence(7)
def yes_or_no(speaker: Speaker) -> Phrase:
    said = speaker.quality(asked=True) if speaker.maybe(0.3) else speaker.action(grammar.ASKED)
    ma = Word("嗎")
    return asked(speaker, (*said.zh, ma), said.question(ma), ma)


@kind_of_sentence(5)
def what(speaker: Speaker) -> Phrase:
    """什麼 and 誰 stay where the object is; their translations lead."""
    verb = speaker.rng.choice(TRANSITIVE)
    who = verb.objects == "person"
    word = Word("誰" if who else "什麼")
    aspect = speaker.aspect(grammar.ASKED, stative=verb.stative)
    helping = lexicon.CATENATIVES[:1] if aspect is grammar.PRESENT and not verb.stative and speaker.maybe(0.6) else ()
    said = clause(speaker.person(), aspect, (*helping, verb), object=Phrase((word,)), time=speaker.time(aspect.times, 0.25))
    return asked(speaker, said.zh, say("who" if who else "what", sure=[word]) + said.question(word), word)


@kind_of_sentence(3)
def who(speaker: Speaker) -> Phrase:
    subject = grammar.simple("誰", "who")
    said = speaker.quality(subject, asked=True) if speaker.maybe(0.2) else speaker.action(grammar.ASKED, subject)
    return asked(speaker, said.zh, said.statement, *subject.heads)


@kind_of_sentence(5)
def where(speaker: Speaker) -> Phrase:
    """在哪裡, 為什麼 and 什麼時候 stay where places and times are; their translations lead."""
    zh, en = speaker.rng.choice((("哪裡", "where"), ("為什麼", "why"), ("什麼時候", "when")))
    word = Word(zh)
    is_place = zh == "哪裡"
    verb = speaker.rng.choice([verb for verb in INTRANSITIVE + TRANSITIVE if not verb.stative or zh == "為什麼"])
    subject = speaker.person()
    said = clause(
        subject,
        speaker.aspect((grammar.PRESENT, grammar.WILL) if zh == "什麼時候" else grammar.ASKED, stative=verb.stative),
        (verb,),
        object=speaker.object_of(verb, subject) if verb.objects else NOTHING,
        place=Phrase((Word("在"), word)) if is_place else NOTHING,
        time=NOTHING if is_place else Phrase((word,)),
    )
    return asked(speaker, said.zh, say(en, sure=[word]) + said.question(word), word)


@kind_of_sentence(4)
def location(speaker: Speaker) -> Phrase:
    subject = speaker.person()
    if speaker.maybe(0.7):
        said = clause(subject, grammar.IS, object=speaker.place(1), time=speaker.time("now", 0.2))
        return ended(speaker, Phrase(said.zh, said.statement))
    word = Word("哪裡")
    said = clause(subject, grammar.IS, object=Phrase((Word("在"), word)))
    return asked(speaker, said.zh, say("where", sure=[word]) + said.question(word), word)


@kind_of_sentence(7)
def identity(speaker: Speaker) -> Phrase:
    """A bare noun after 是 is one of its kind, or several, as the subject is one or several."""
    subject, complement = demonstrated(speaker) if speaker.maybe(0.3) else professed(speaker)
    aspect = speaker.aspect((grammar.EQUALS, grammar.EQUALS_NOT))
    said = clause(subject, aspect, object=complement)
    if aspect is grammar.EQUALS and speaker.maybe(0.15):
        ma = Word("嗎")
        return asked(speaker, (*said.zh, ma), said.question(ma), ma)
    return ended(speaker, Phrase(said.zh, said.statement))


def demonstrated(speaker: Speaker) -> tuple[Nominal, Phrase]:
    zh, en = speaker.rng.choice((("這", "this"), ("那", "that")))
    noun = speaker.noun("text", "food", "thing", "animal")
    before = grammar.possessed(speaker.person().possessive)
    owned = grammar.noun_phrase(before if speaker.maybe(0.5) else speaker.owner(), noun, plural=False)
    one = grammar.determined(lexicon.DETERMINERS[0], speaker.rng.choice(noun.classifiers))
    described = speaker.description(noun) if speaker.maybe(0.4) else NOTHING
    return grammar.simple(zh, en), speaker.rng.choice((owned, grammar.noun_phrase(one + described, noun, plural=False))).object


def professed(speaker: Speaker) -> tuple[Nominal, Phrase]:
    subject, noun = speaker.person(), speaker.noun("person")
    if subject.plural or speaker.maybe(0.4):
        bare = grammar.noun_phrase(NOTHING, noun, plural=subject.plural)
        article = say("" if subject.plural else "a", possible=bare.heads)
        return subject, Phrase(bare.subject.zh, article + bare.subject.en)
    described = speaker.description(noun) if speaker.maybe(0.5) else NOTHING
    one = grammar.determined(lexicon.DETERMINERS[0], speaker.rng.choice(noun.classifiers))
    return subject, grammar.noun_phrase(speaker.rng.choice((one, speaker.owner())) + described, noun, plural=False).object


@kind_of_sentence(8)
def relative(speaker: Speaker) -> Phrase:
    if speaker.maybe(0.3):
        said = speaker.action(subject=speaker.related_person())
        return ended(speaker, Phrase(said.zh, said.statement))
    kind = speaker.rng.choice(("text", "food", "thing", "film", "song", "person"))
    subject = speaker.related_person() if kind == "person" and speaker.maybe(0.5) else speaker.related(kind)
    adjective = speaker.adjective(kind)
    aspect = speaker.aspect((grammar.IS, grammar.IS_NOT))
    said = clause(subject, aspect, object=speaker.degree(adjective, plain=aspect is grammar.IS_NOT))
    return ended(speaker, Phrase(said.zh, said.statement))


def handled(speaker: Speaker, subject: Nominal, kinds: tuple[str, ...]) -> Nominal:
    """What 把 puts before the verb is definite."""
    noun = speaker.noun(*kinds)
    if subject.own and speaker.maybe(0.35):
        return speaker.own(noun, subject)
    if speaker.maybe(0.4):
        return speaker.the(noun)
    determiner = speaker.rng.choice(lexicon.DETERMINERS[1:3])
    this = grammar.determined(determiner, speaker.rng.choice(noun.classifiers))
    return grammar.noun_phrase(speaker.rng.choice((this, speaker.owner())), noun, plural=False)


@kind_of_sentence(7)
def handling(speaker: Speaker) -> Phrase:
    """把 puts the object before the verb."""
    subject, aspect = speaker.person(), speaker.rng.choice(grammar.MANAGED)
    how = speaker.rng.choice(("put", "give", "plain"))
    verb = {"put": lexicon.PUT, "give": lexicon.GIVING[1]}.get(how) or speaker.rng.choice(HANDLED)
    kinds = {"put": ("text", "food", "thing"), "give": ("text", "food", "thing")}.get(how) or tuple(
        kind for kind in verb.objects.split() if kind in THINGS
    )
    object_ = handled(speaker, subject, kinds).object
    ba = Word("把")
    said = clause(
        subject,
        aspect,
        (verb,),
        fronted=Phrase((ba, *object_.zh), hinted(object_.en, ba)),
        complement=inside(speaker) if how == "put" else NOTHING,
        object=recipient(speaker, subject) if how == "give" else NOTHING,
        time=speaker.time(aspect.times),
        time_first=speaker.maybe(0.2),
    )
    return ended(speaker, Phrase(said.zh, said.statement))


def recipient(speaker: Speaker, subject: Nominal) -> Phrase:
    person = other(speaker, subject).object
    return Phrase(person.zh, say("to", possible=person.zh[-1:]) + person.en)


def other(speaker: Speaker, subject: Nominal) -> Nominal:
    """Somebody else than the subject."""
    person = speaker.person()
    return speaker.somebody() if person.own == subject.own else person


def inside(speaker: Speaker) -> Phrase:
    """在 … 上 and 在 … 裡: the preposition surrounds the noun in Chinese."""
    zai = Word("在")
    spot = on_or_in(speaker)
    return Phrase((zai, *spot.zh), hinted(spot.en[:1], zai) + spot.en[1:])


def on_or_in(speaker: Speaker) -> Phrase:
    zh, en, nouns = speaker.rng.choice((("上", "on", lexicon.SURFACES), ("裡", "in", lexicon.CONTAINERS)))
    position = Word(zh)
    noun = lexical(*speaker.rng.choice(list(nouns.items())))
    return Phrase((*noun.zh, position), say(en, sure=[position]) + say("the", possible=noun.zh) + noun.en)


@kind_of_sentence(6)
def passive(speaker: Speaker) -> Phrase:
    verb = speaker.rng.choice(HANDLED)
    noun = speaker.noun(*(kind for kind in verb.objects.split() if kind in THINGS))
    patient = speaker.the(noun) if speaker.maybe(0.5) else speaker.counted(noun)
    agent = speaker.person().object
    bei = Word("被")
    aspect = speaker.aspect((grammar.WAS_DONE, grammar.WAS_NOT_DONE))
    by = Phrase((bei, *agent.zh), say("by", sure=[bei]) + agent.en)
    said = clause(patient, aspect, (verb,), fronted=by, time=speaker.time(aspect.times, 0.25))
    return ended(speaker, Phrase(said.zh, said.statement))


@kind_of_sentence(8)
def because(speaker: Speaker) -> Phrase:
    """因為 A，所以 B, or B，因為 A: English says B first."""
    cause, effect = speaker.any_clause(), speaker.any_clause()
    because_, so = Word("因為"), Word("所以")
    if speaker.maybe(0.7):
        zh = (because_, *cause.zh, Word("，"), so, *effect.zh)
        en = effect.statement + say("because", sure=[because_, so]) + cause.statement
    else:
        zh = (*effect.zh, Word("，"), because_, *cause.zh)
        en = effect.statement + say("because", sure=[because_]) + cause.statement
    return ended(speaker, Phrase(zh, en))


@kind_of_sentence(7)
def contrast(speaker: Speaker) -> Phrase:
    first, second = speaker.any_clause(), speaker.any_clause()
    one, two = Phrase(first.zh, first.statement), Phrase(second.zh, second.statement)
    if speaker.maybe(0.4):
        although = lexical("雖然", "although")
        return ended(speaker, joined(although, one, ",", Phrase((Word("但是"),)), two))
    return ended(speaker, joined(one, ",", lexical("但是", "but"), two))


@kind_of_sentence(5)
def condition(speaker: Speaker) -> Phrase:
    """如果 A，B, with or without 就 after the second subject, which is then a person's."""
    first = raining(speaker) if speaker.maybe(0.2) else condition_clause(speaker)
    second = speaker.action((grammar.WILL, grammar.WILL_NOT, grammar.CAN, grammar.SHOULD))
    premise = Phrase(first.zh, first.statement)
    return ended(speaker, joined(lexical("如果", "if"), premise, ",", Phrase(second.zh, second.statement)))


def condition_clause(speaker: Speaker) -> grammar.Clause:
    return speaker.action((grammar.PRESENT, grammar.NOT)) if speaker.maybe(0.7) else speaker.quality(asked=True)


def raining(speaker: Speaker) -> grammar.Clause:
    verb = speaker.rng.choice((lexicon.RAIN, lexicon.SNOW))
    return clause(grammar.dummy("it"), grammar.PRESENT, (verb,), time=speaker.time("tomorrow", 0.6))


@kind_of_sentence(6)
def comparison(speaker: Speaker) -> Phrase:
    kind = speaker.rng.choice(("person", "person", "field", "text", "food", "thing", "animal"))
    one, two = (compared(speaker, kind) for _ in range(2))
    adjective = speaker.adjective(kind)
    bi, word = Word("比"), Word(adjective.zh)
    *more, last = adjective.comparative.split()
    en = say(" ".join(more), possible=[bi, word]) + say(last, sure=[word], possible=[bi])
    object_ = Phrase((bi, *two.object.zh, word), en + say("than", sure=[bi]) + two.object.en)
    said = clause(one, grammar.IS, object=object_)
    return ended(speaker, Phrase(said.zh, said.statement))


def compared(speaker: Speaker, kind: str) -> Nominal:
    return speaker.person() if kind == "person" else speaker.something(kind)


@kind_of_sentence(6)
def giving(speaker: Speaker) -> Phrase:
    subject, verb = speaker.person(), speaker.rng.choice(lexicon.GIVING)
    aspect = speaker.aspect((grammar.DONE, grammar.NOT_DONE, grammar.WILL, grammar.WILL_NOT, grammar.ONLY_DONE))
    thing = speaker.something(speaker.rng.choice(("text", "food", "thing")), subject)
    said = clause(
        subject,
        aspect,
        (verb,),
        object=other(speaker, subject).object + thing.object,
        time=speaker.time(aspect.times),
    )
    return ended(speaker, Phrase(said.zh, said.statement))


@kind_of_sentence(5)
def existence(speaker: Speaker) -> Phrase:
    spot = on_or_in(speaker)
    noun = speaker.noun("text", "food", "thing", "animal")
    if speaker.maybe(0.2):
        return existence_of(speaker, spot, "沒有", speaker.bare(noun))
    determiner = speaker.rng.choice((lexicon.DETERMINERS[0], lexicon.DETERMINERS[-1], *lexicon.COUNTED))
    before = grammar.determined(determiner, speaker.rng.choice(noun.classifiers))
    described = speaker.description(noun) if speaker.maybe(0.4) else NOTHING
    several = grammar.noun_phrase(before + described, noun, plural=determiner.plural)
    return existence_of(speaker, spot, "有", speaker.bare(noun) if speaker.maybe(0.2) else several)


def existence_of(speaker: Speaker, spot: Phrase, verb: str, nominal: Nominal) -> Phrase:
    you = Word(verb)
    be = "are" if nominal.plural else "is"
    en = say("there", sure=[you], possible=spot.zh) + say(be, sure=[you], possible=nominal.heads)
    no = say("no" if verb == "沒有" else "", sure=[you])
    return ended(speaker, Phrase((*spot.zh, you, *nominal.object.zh), en + no + nominal.object.en + spot.en))


@kind_of_sentence(5)
def having(speaker: Speaker) -> Phrase:
    subject = speaker.person()
    object_ = speaker.something(speaker.rng.choice(("text", "food", "thing", "animal"))).object
    if speaker.maybe(0.25):
        said = clause(subject, grammar.HAS_NO, object=object_)
        return ended(speaker, Phrase(said.zh, said.statement))
    aspect = speaker.rng.choice((grammar.PRESENT, grammar.PRESENT, grammar.ONLY))
    said = clause(subject, aspect, (lexicon.HAVE,), object=object_)
    if speaker.maybe(0.15) and "只" not in [word.text for word in said.zh]:
        ma = Word("嗎")
        return asked(speaker, (*said.zh, ma), said.question(ma), ma)
    return ended(speaker, Phrase(said.zh, said.statement))


@kind_of_sentence(6)
def going(speaker: Speaker) -> Phrase:
    subject = speaker.person()
    if speaker.maybe(0.15):
        said = clause(subject, grammar.PRESENT, (lexicon.LIVE,), object=grammar.at(speaker.rng.choice(lexicon.CITIES)))
        return ended(speaker, Phrase(said.zh, said.statement))
    wanted = speaker.maybe(0.3)
    moved = (grammar.DONE, grammar.NOT_DONE, grammar.WILL, grammar.WILL_NOT, grammar.CAN, grammar.SHOULD)
    aspect = speaker.aspect((grammar.PRESENT, grammar.NOT, *(() if wanted else moved)))
    home = speaker.maybe(0.15)
    asking = not home and aspect in grammar.ASKED and speaker.maybe(0.15)
    word = Word("哪裡")
    place = Phrase((word,)) if asking else destination(speaker, subject, purpose=not aspect.after)
    verbs = (lexicon.CATENATIVES[:1] if wanted else ()) + ((lexicon.GO_HOME if home else lexicon.GO),)
    said = clause(
        subject,
        aspect,
        verbs,
        object=NOTHING if home else place,
        time=speaker.time(aspect.times),
        time_first=speaker.maybe(0.25),
    )
    if asking:
        return asked(speaker, said.zh, say("where", sure=[word]) + said.question(word), word)
    return ended(speaker, Phrase(said.zh, said.statement))


def destination(speaker: Speaker, subject: Nominal, *, purpose: bool) -> Phrase:
    """A place, and perhaps what is done there."""
    place = grammar.towards(speaker.rng.choice(lexicon.PLACES))
    if not purpose or speaker.maybe(0.5):
        return place
    verb = speaker.rng.choice([verb for verb in lexicon.VERBS if not verb.stative])
    done = lexical(verb.zh, f"{verb.forms.split()[0]} {verb.particle}")
    object_ = speaker.object_of(verb, subject) if verb.objects else NOTHING
    return place + Phrase(done.zh, say("to", possible=done.zh) + done.en) + object_
