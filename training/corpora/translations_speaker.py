"""Noun phrases and clauses of the Chinese-English demonstration grammar, chosen at random."""

from random import Random

from corpora import translations_grammar as grammar
from corpora import translations_lexicon as lexicon
from corpora.translations_grammar import NOTHING, Aspect, Clause, Nominal, Phrase, Word, clause, lexical, say
from corpora.translations_lexicon import Adjective, Noun, Verb

TRANSITIVE = tuple(verb for verb in lexicon.VERBS if verb.objects)
INTRANSITIVE = tuple(verb for verb in lexicon.VERBS if not verb.objects)
RELATIVE = tuple(verb for verb in TRANSITIVE if not verb.particle)
IMPERSONAL = tuple(verb for verb in RELATIVE if verb.objects != "person")


class Speaker:
    """Says phrases at random."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng

    def maybe(self, probability: float) -> bool:
        return self.rng.random() < probability

    # Noun phrases

    def person(self) -> Nominal:
        kinds = (self.pronoun, self.name, self.somebody, self.people, self.generic)
        return self.rng.choices(kinds, weights=(9, 5, 4, 2, 2))[0]()

    def generic(self) -> Nominal:
        """People of a kind: a bare noun, plural in English."""
        return grammar.noun_phrase(NOTHING, self.noun("person"), plural=True)

    def individual(self) -> Nominal:
        return self.rng.choice((self.pronoun, self.name))()

    def pronoun(self) -> Nominal:
        return grammar.pronoun(self.rng.choice(lexicon.PRONOUNS))

    def name(self) -> Nominal:
        return self.named(self.rng.choice(list(lexicon.NAMES)))

    def named(self, zh: str) -> Nominal:
        return grammar.simple(zh, lexicon.NAMES[zh], own="her" if zh in lexicon.WOMEN else "his")

    def somebody(self) -> Nominal:
        return self.counted(self.noun("person"), self.maybe(0.3))

    def people(self) -> Nominal:
        """Two people joined by "and"."""
        first, second = map(self.named, self.rng.sample(list(lexicon.NAMES), 2))
        if self.maybe(0.4):
            first = grammar.pronoun(self.rng.choice(lexicon.PRONOUNS[:4]))
        return grammar.coordinated([first, second])

    def noun(self, *kinds: str) -> Noun:
        return self.rng.choice([noun for noun in lexicon.NOUNS if noun.kind in kinds])

    def owner(self) -> Phrase:
        """A possessor, which may have a possessor of its own."""
        if self.maybe(0.25):
            owned = grammar.noun_phrase(self.owner_of_one(), self.noun("person"), plural=False)
            return grammar.possessed(owned.possessive)
        return self.owner_of_one()

    def owner_of_one(self) -> Phrase:
        return grammar.possessed(self.individual().possessive)

    def bare(self, noun: Noun) -> Nominal:
        return grammar.noun_phrase(NOTHING, noun, plural=True)

    def the(self, noun: Noun) -> Nominal:
        return grammar.noun_phrase(NOTHING, noun, plural=False, article=True)

    def counted(self, noun: Noun, described: bool = False) -> Nominal:
        """A noun with a determiner or a possessor, and perhaps an adjective."""
        before, plural = self.owner(), False
        if self.maybe(0.65):
            determiner = self.rng.choice(self.rng.choice((lexicon.DETERMINERS, lexicon.COUNTED, lexicon.DETERMINERS[:3])))
            before, plural = grammar.determined(determiner, self.rng.choice(noun.classifiers)), determiner.plural
        return grammar.noun_phrase(before + (self.description(noun) if described else NOTHING), noun, plural=plural)

    def description(self, noun: Noun) -> Phrase:
        if noun.zh in lexicon.COLOURED and self.maybe(0.5):
            return grammar.attributive(*self.rng.choice(list(lexicon.COLOURS.items())))
        adjective = self.adjective(noun.kind)
        return grammar.attributive(adjective.zh, adjective.en)

    def adjective(self, kind: str) -> Adjective:
        return self.rng.choice([adjective for adjective in lexicon.ADJECTIVES if kind in adjective.kinds.split()])

    def own(self, noun: Noun, subject: Nominal) -> Nominal:
        return grammar.noun_phrase(grammar.own_of(subject), noun, plural=False)

    def mass(self, kind: str) -> Nominal:
        return grammar.simple(*self.rng.choice(list(lexicon.MASS[kind].items())))

    def fields(self) -> Nominal:
        length = self.rng.choices((2, 3), weights=(8, 1))[0]
        chosen = self.rng.sample(list(lexicon.FIELDS.items()), length)
        return grammar.coordinated([grammar.simple(zh, en) for zh, en in chosen])

    def drinks(self) -> Nominal:
        """Cups of something."""
        zh, en = self.rng.choice(list(lexicon.DRINKS.items()))
        determiner = self.rng.choice((lexicon.DETERMINERS[0], *lexicon.COUNTED))
        count, measure, drink = Word(determiner.zh), Word("杯"), lexical(zh, en)
        cups = say("cups" if determiner.plural else "cup", sure=[measure], possible=[count])
        en_words = say(determiner.en, sure=[count]) + cups + say("of", possible=[measure, *drink.zh]) + drink.en
        return grammar.third_person(Phrase((count, measure, *drink.zh), en_words), drink.zh)

    def something(self, kind: str, subject: Nominal | None = None) -> Nominal:
        """A noun phrase of a kind; a subject lets it say "her own"."""
        if kind == "field":
            return self.fields() if self.maybe(0.35) else self.mass(kind)
        if kind == "drink":
            return self.drinks() if self.maybe(0.35) else self.mass(kind)
        if kind == "food" and self.maybe(0.3):
            return self.mass(kind)
        if kind == "person" and self.maybe(0.65):
            return self.person()
        noun = self.noun(kind)
        if self.maybe(0.25):
            other = self.noun(kind)
            both = [self.bare(noun), self.bare(other)]
            return grammar.coordinated(both) if other != noun and self.maybe(0.2) else both[0]
        if subject and subject.own and kind in ("text", "thing", "animal") and self.maybe(0.25):
            return self.own(noun, subject)
        return self.counted(noun, self.maybe(0.4))

    def related(self, kind: str) -> Nominal:
        """A noun with a relative clause of which it is the object."""
        verb = self.rng.choice([verb for verb in RELATIVE if kind in verb.objects.split()])
        subject = self.rng.choices((self.pronoun, self.name, self.people), weights=(4, 4, 1))[0]()
        return self._relative(clause(subject, _unmarked(verb), (verb,)), self.noun(kind), "that")

    def related_person(self) -> Nominal:
        """A person with a relative clause of which they are the subject."""
        verb = self.rng.choice(IMPERSONAL)
        object_ = self.something(self.rng.choice([kind for kind in verb.objects.split() if kind != "person"]))
        inner = clause(grammar.dummy(""), _unmarked(verb), (verb,), object=object_.object)
        return self._relative(inner, self.noun("person"), "who")

    def _relative(self, inner: Clause, noun: Noun, relative: str) -> Nominal:
        de, head = Word("的"), Word(noun.zh)
        that = (Word("那"), Word(self.rng.choice(noun.classifiers))) if self.maybe(0.3) else ()
        the = say("the", possible=[*that, head])
        en = the + say(noun.singular, sure=[head]) + say(relative, possible=[de]) + inner.statement
        return grammar.third_person(Phrase((*inner.zh, de, *that, head), en), [head])

    # Clauses

    def object_of(self, verb: Verb, subject: Nominal) -> Phrase:
        kind = self.rng.choice(verb.objects.split())
        if verb.stative and kind in ("text", "film", "song", "thing") and self.maybe(0.15):
            return self.related(kind).object
        found = self.something(kind, subject)
        same = [word.text for word in found.heads] == [word.text for word in subject.heads]
        return self.name().object if same else found.object

    def time(self, times: str, probability: float = 0.35) -> Phrase:
        if not times or not self.maybe(probability):
            return NOTHING
        return lexical(*self.rng.choice(list(lexicon.TIMES[times].items())))

    def place(self, probability: float = 0.2) -> Phrase:
        return grammar.at(self.rng.choice((*lexicon.PLACES, lexicon.HOME))) if self.maybe(probability) else NOTHING

    def aspect(self, aspects: tuple[Aspect, ...], *, stative: bool = False) -> Aspect:
        suitable = [aspect for aspect in aspects if aspect.stative or not stative]
        return self.rng.choices(suitable, weights=[aspect.weight for aspect in suitable])[0]

    def action(self, aspects: tuple[Aspect, ...] = grammar.ASPECTS, subject: Nominal | None = None) -> Clause:
        """Somebody does, did or will do something, somewhere, at some time."""
        subject = subject or self.person()
        verbs = INTRANSITIVE if self.maybe(0.15) else TRANSITIVE
        lasting = any(aspect.stative for aspect in aspects)
        verb = self.rng.choice([verb for verb in verbs if lasting or not verb.stative])
        helped = lasting and not verb.stative and self.maybe(0.2)
        helping = (self.rng.choice(lexicon.CATENATIVES),) if helped else ()
        suitable = tuple(aspect for aspect in aspects if verb.objects or aspect.after != "過")
        aspect = self.aspect(suitable, stative=verb.stative or helped)
        still = verb.stative or aspect is grammar.DOING
        return clause(
            subject,
            aspect,
            (*helping, verb),
            object=self.object_of(verb, subject) if verb.objects else NOTHING,
            place=NOTHING if still else self.place(),
            time=self.time(aspect.times),
            time_first=self.maybe(0.25),
        )

    def quality(self, subject: Nominal | None = None, *, asked: bool = False) -> Clause:
        """Somebody or something is, was or will be some way."""
        kind = self.rng.choice(("person", "person", "field", "text", "food", "thing", "animal", "drink"))
        kind = "person" if subject else kind
        subject = subject or (self.person() if kind == "person" else self.something(kind))
        timed = kind == "person"
        aspect = self.aspect((grammar.IS, grammar.IS_NOT, *((grammar.WAS, grammar.WILL_BE) if timed else ())))
        if asked:
            aspect = grammar.IS
        certain = 1.0 if aspect is grammar.WAS else 0.25
        return clause(
            subject,
            aspect,
            object=self.degree(self.adjective(kind), plain=aspect is grammar.IS_NOT or (asked and self.maybe(0.5))),
            time=self.time(aspect.times, certain) if timed else NOTHING,
            time_first=self.maybe(0.3),
        )

    def degree(self, adjective: Adjective, *, plain: bool = False) -> Phrase:
        said = lexical(adjective.zh, adjective.en)
        if plain:
            return said
        if self.maybe(0.2):
            return lexical("非常", "very") + said
        if self.maybe(0.1):
            too, le = Word("太"), Word("了")
            return Phrase((too, *said.zh, le), say("too", sure=[too], possible=[le]) + said.en)
        return Phrase((Word("很"), *said.zh), said.en)

    def any_clause(self) -> Clause:
        return self.quality() if self.maybe(0.35) else self.action()


def _unmarked(verb: Verb) -> Aspect:
    return grammar.PRESENT if verb.stative else grammar.UNMARKED_PAST
