"""Small English scenes in which some words are decided by earlier words, with those words marked.

A scene is written from a template. `{label}` is a word that may serve as a cue; `{label:sure~possible}` is a word
that depends on cues: the labels before `~` determine it, those after it may contribute, and each stands for all its
earlier mentions. A label without a value stands for itself.

>>> scene = write("gave", "{giver} gave the {thing} to Tom. The {thing:thing~giver} is old.", giver="Anna", thing="hat")
>>> scene.text
'Anna gave the hat to Tom. The hat is old.'
>>> cue = scene.cues[0]
>>> scene.text[slice(*cue.word)], cue.word, cue.sure, cue.possible
('hat', (30, 33), ((14, 17),), ((0, 4),))
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from random import Random
from string import Formatter

from corpora import scenes_lexicon as lexicon
from inseq.demo.gold import GoldCue, GoldScene, Span


class Deck:
    """Draws words at random, none twice while others are left, so that the scenes of a document share few of them."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self._drawn: set[str] = set()

    def draw(self, words: Sequence[str], n: int) -> list[str]:
        fresh = [word for word in words if word not in self._drawn]
        chosen = self.rng.sample(words if len(fresh) < n else fresh, n)
        self._drawn.update(chosen)
        return chosen

    def one(self, words: Sequence[str]) -> str:
        return self.draw(words, 1)[0]

    def shuffled(self, words: Sequence[str]) -> list[str]:
        return self.rng.sample(words, len(words))


def write(kind: str, template: str, **values: str) -> GoldScene:
    """Fill a template in and record the spans of its cues."""
    text = ""
    cues: list[GoldCue] = []
    mentions: dict[str, list[Span]] = defaultdict(list)

    def spans(labels: str) -> tuple[Span, ...]:
        return tuple(span for label in labels.split() for span in mentions[label])

    for literal, label, dependence, _ in Formatter().parse(template):
        text += literal
        if label is None:
            continue
        start = len(text)
        text += values.get(label, label)
        word = (start, len(text))
        if dependence:
            sure, _, possible = dependence.partition("~")
            cues.append(GoldCue(kind, word, spans(sure), spans(possible)))
        mentions[label].append(word)
    return GoldScene(text, tuple(cues))


def pronouns(name: str) -> dict[str, str]:
    """The pronouns of a person, under their masculine labels."""
    he, him, his = ("she", "her", "her") if name in lexicon.WOMEN else ("he", "him", "his")
    return {"he": he, "him": him, "his": his, "He": he.capitalize()}


Writer = Callable[[Deck], GoldScene]
_WRITERS: dict[str, Writer] = {}
_WEIGHTS: dict[str, int] = {}


def _kind(weight: int) -> Callable[[Writer], Writer]:
    """Register the writer of a kind; `weight` is how often it is chosen, relative to the others."""

    def register(writer: Writer) -> Writer:
        _WRITERS[writer.__name__] = writer
        _WEIGHTS[writer.__name__] = weight
        return writer

    return register


@_kind(3)
def causality(deck: Deck) -> GoldScene:
    """The verb tells whose property is the cause, and the pronoun takes the gender of that person."""
    subject, other = deck.draw(lexicon.NAMES, 2)
    of_subject = deck.rng.random() < 0.5
    verb, reason = deck.rng.choice(lexicon.SUBJECT_BIASED if of_subject else lexicon.OBJECT_BIASED)
    cause, rest = ("subject", "other") if of_subject else ("other", "subject")
    return write(
        "causality",
        f"{{subject}} {{verb}} {{other}} because {{he:{cause}~verb {rest}}} was {{reason:verb~subject other he}}.",
        **pronouns(subject if of_subject else other) | {"subject": subject, "verb": verb},
        other=other,
        reason=reason,
    )


@_kind(3)
def coref(deck: Deck) -> GoldScene:
    someone, other = deck.draw(lexicon.NAMES, 2)
    return write(
        "coref",
        deck.rng.choice(lexicon.COREFERENCES),
        **pronouns(someone) | {"someone": someone, "other": other},
        mood=deck.one(lexicon.MOODS),
        place=deck.one(lexicon.PLACES),
        pet=deck.rng.choice(("dog", "cat")),
    )


@_kind(8)
def gave(deck: Deck) -> GoldScene:
    giver, taker = deck.draw(lexicon.NAMES, 2)
    return write(
        "gave",
        "{giver} gave the {colour} {thing} to {taker}. " + deck.rng.choice(lexicon.HANDOVER_ENDINGS),
        **pronouns(giver) | {"giver": giver, "taker": taker},
        colour=deck.one(lexicon.COLOURS),
        thing=deck.one(lexicon.THINGS),
    )


@_kind(3)
def agreement(deck: Deck) -> GoldScene:
    """The verb agrees with the first noun, never with the nearer one."""
    head, attractor = deck.one(lexicon.THINGS), deck.one(lexicon.CONTAINERS)
    plural = deck.rng.random() < 0.5
    return write(
        "agreement",
        "The {head} {where} the {attractor} {verb:head~attractor} {state}.",
        head=head + "s" if plural else head,
        where=deck.rng.choice(("near", "behind", "under", "beside")),
        attractor=attractor if deck.rng.random() < 0.7 else attractor.replace("box", "boxe") + "s",
        verb="are" if plural else "is",
        state=deck.one(lexicon.STATES),
    )


@_kind(6)
def location(deck: Deck) -> GoldScene:
    """Only the last journey counts."""
    someone = deck.one(lexicon.NAMES)
    before, place = deck.draw(lexicon.PLACES, 2)
    return write(
        "location",
        "{someone} went to the {before} and then to the {place}. Now {he:someone} is in the {place:place~before}.",
        **pronouns(someone) | {"someone": someone},
        before=before,
        place=place,
    )


@_kind(8)
def keyval(deck: Deck) -> GoldScene:
    """Two pairs of a colour and a thing: one of the colours asks for its thing."""
    asked, other = deck.draw(lexicon.COLOURS, 2)
    value, rest = deck.draw(lexicon.THINGS, 2)
    pairs = deck.shuffled(["the {asked} {value}", "the {other} {rest}"])
    return write(
        "keyval",
        f"{{someone}} saw {' and '.join(pairs)} in the {{place}} and took the {{asked}} {{value:value~asked}}.",
        someone=deck.one(lexicon.NAMES),
        asked=asked,
        other=other,
        value=value,
        rest=rest,
        place=deck.one(lexicon.PLACES),
    )


@_kind(2)
def arith(deck: Deck) -> GoldScene:
    first, second = deck.draw(lexicon.NAMES, 2)
    n, m = deck.rng.randint(2, 5), deck.rng.randint(2, 5)
    return write(
        "arith",
        "{first} has {n} {things}. {second} has {m} {things:things}. Together they have {total:n m} {things:things}.",
        first=first,
        second=second,
        n=lexicon.NUMBERS[n],
        m=lexicon.NUMBERS[m],
        things=deck.rng.choice(("apples", "books", "pens", "coins", "hats", "cups")),
        total=lexicon.NUMBERS[n + m],
    )


@_kind(5)
def fact(deck: Deck) -> GoldScene:
    country = deck.rng.choice(lexicon.COUNTRIES)
    return write(
        "fact",
        deck.rng.choice(lexicon.FACTS),
        someone=deck.one(lexicon.NAMES),
        country=country.name,
        capital=country.capital,
        language=country.language,
    )


@_kind(2)
def opposite(deck: Deck) -> GoldScene:
    one, other = deck.shuffled(deck.rng.choice(lexicon.OPPOSITES))
    return write("opposite", "The opposite of {one} is {other:one}.", one=one, other=other)


@_kind(2)
def job(deck: Deck) -> GoldScene:
    someone = deck.one(lexicon.NAMES)
    work = deck.rng.choice(lexicon.JOBS)
    return write(
        "job",
        "{someone} is a {job}. {He:someone~job} {verb:job} {object:job~verb} every day.",
        **pronouns(someone) | {"someone": someone},
        job=work.name,
        verb=work.verb,
        object=work.object,
    )


@_kind(3)
def lost(deck: Deck) -> GoldScene:
    loser, finder = deck.draw(lexicon.NAMES, 2)
    return write(
        "lost",
        "{loser} lost {his:loser} {thing} in the {place}. "
        "{finder} found the {thing:thing} and gave it back to {him:loser~finder}.",
        **pronouns(loser) | {"loser": loser, "finder": finder},
        thing=deck.one(lexicon.THINGS),
        place=deck.one(lexicon.PLACES),
    )


@_kind(2)
def greeting(deck: Deck) -> GoldScene:
    return write(
        "greeting",
        deck.rng.choice(lexicon.GREETINGS),
        someone=deck.one(lexicon.NAMES),
        place=deck.one(lexicon.PLACES),
        daytime=deck.rng.choice(lexicon.DAYTIMES),
    )


@_kind(2)
def saying(deck: Deck) -> GoldScene:
    return write("saying", deck.rng.choice(lexicon.SAYINGS))


@_kind(2)
def sound(deck: Deck) -> GoldScene:
    animal = deck.rng.choice(lexicon.ANIMALS)
    return write(
        "sound",
        deck.rng.choice(lexicon.SOUNDS),
        animal=animal.name,
        past=animal.past,
        gerund=animal.gerund,
        someone=deck.one(lexicon.NAMES),
        place=deck.one(lexicon.PLACES),
    )


@_kind(2)
def story(deck: Deck) -> GoldScene:
    hero = deck.one(lexicon.NAMES)
    animal = deck.rng.choice(lexicon.ANIMALS[:2])
    return write(
        "story",
        "Once upon a time there was a little {child} named {hero}. {He:hero~child} had a {colour} {toy} and a {pet}. "
        "One day {he:hero~child} lost the {toy:toy~colour} in the {place}. The {pet:pet} went to the {place:place} "
        "and found the {colour:colour} {toy:toy~colour}. {hero:hero} was very happy and the {pet:pet} {past:pet}.",
        **pronouns(hero) | {"hero": hero, "child": "girl" if hero in lexicon.WOMEN else "boy"},
        colour=deck.one(lexicon.COLOURS),
        toy=deck.one(lexicon.THINGS),
        pet=animal.name,
        past=animal.past,
        place=deck.one(lexicon.PLACES),
    )


@_kind(3)
def password(deck: Deck) -> GoldScene:
    asker, teller = deck.draw(lexicon.NAMES, 2)
    return write(
        "password",
        "The secret word is {secret}. "
        "{asker} asked {teller} about the secret word and {teller:teller~asker} said {secret:secret}.",
        asker=asker,
        teller=teller,
        secret=deck.one(lexicon.THINGS + lexicon.COLOURS + lexicon.PLACES),
    )


@_kind(16)
def repeat(deck: Deck) -> GoldScene:
    """A list said twice: the densest practice in copying."""
    words = deck.draw(lexicon.NAMES + lexicon.COLOURS + lexicon.PLACES + lexicon.THINGS, deck.rng.randint(3, 5))
    labels = [f"word{i}" for i in range(len(words))]
    said = ", ".join(f"{{{label}}}" for label in labels)
    again = ", ".join(f"{{{label}:{label}~{before}}}" for label, before in zip(labels, ["", *labels], strict=False))
    return write("repeat", f"Say {said}. Again: {again}.", **dict(zip(labels, words, strict=True)))


KINDS = tuple(_WRITERS)


def scenes(n: int, seed: int, *, kinds: Sequence[str] | None = None) -> list[GoldScene]:
    """Write `n` documents, the same ones for the same arguments.

    A document holds one to three scenes of different kinds. With `kinds`, it holds a single scene of one of them.
    """
    rng = Random(seed)
    if kinds is None:
        return [_document(rng) for _ in range(n)]
    unknown = sorted(set(kinds) - set(KINDS))
    if unknown or not kinds:
        raise ValueError(f"Unknown kinds of scene: {unknown or 'none given'}. Choose from: {', '.join(KINDS)}.")
    return [_WRITERS[rng.choice(kinds)](Deck(rng)) for _ in range(n)]


def _document(rng: Random) -> GoldScene:
    deck = Deck(rng)
    length = rng.choices((1, 2, 3), weights=(5, 3, 2))[0]
    return _joined([_WRITERS[kind](deck) for kind in _different_kinds(rng, length)])


def _different_kinds(rng: Random, n: int) -> list[str]:
    weights = dict(_WEIGHTS)
    chosen = []
    for _ in range(n):
        kind = rng.choices(list(weights), weights=list(weights.values()))[0]
        del weights[kind]
        chosen.append(kind)
    return chosen


def _joined(parts: Sequence[GoldScene]) -> GoldScene:
    text = ""
    cues: list[GoldCue] = []
    for part in parts:
        start = len(text) + bool(text)
        text = f"{text} {part.text}" if text else part.text
        cues += [_shifted(cue, start) for cue in part.cues]
    return GoldScene(text, tuple(cues))


def _shifted(cue: GoldCue, by: int) -> GoldCue:
    def move(span: Span) -> Span:
        return span[0] + by, span[1] + by

    return GoldCue(cue.kind, move(cue.word), tuple(map(move, cue.sure)), tuple(map(move, cue.possible)))
