"""The words and templates of the English demonstration scenes: plain tables, read by `corpora.scenes`."""

from typing import NamedTuple

WOMEN = ("Anna", "Emma", "Alice", "Kate", "Mary", "Lucy", "Sara", "Julia")
MEN = ("Tom", "John", "Paul", "David", "Jack", "Peter", "Mark", "Leo")
NAMES = WOMEN + MEN

COLOURS = ("red", "blue", "green", "yellow", "black", "white", "pink", "brown")

PLACES = (
    "park", "office", "garden", "kitchen", "library", "school",
    "market", "station", "museum", "hotel", "forest", "cinema",
)  # fmt: skip

THINGS = (
    "ball", "book", "key", "hat", "bag", "letter", "lamp",
    "cup", "map", "pen", "coin", "clock", "kite", "ring",
)  # fmt: skip

CONTAINERS = ("box", "basket", "table", "chair", "door", "window")

STATES = ("old", "new", "dirty", "clean", "heavy", "cheap")

MOODS = ("sad", "happy", "tired", "angry", "hungry", "lonely")

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")

DAYTIMES = ("morning", "afternoon", "evening")


class Bias(NamedTuple):
    """A verb whose cause lies in one of its two arguments, with the property that explains it."""

    verb: str
    reason: str


SUBJECT_BIASED = (
    Bias("apologised to", "late"),
    Bias("lied to", "afraid"),
    Bias("called", "lonely"),
    Bias("confessed to", "guilty"),
    Bias("annoyed", "noisy"),
    Bias("disappointed", "lazy"),
    Bias("impressed", "clever"),
    Bias("amused", "funny"),
)

OBJECT_BIASED = (
    Bias("thanked", "kind"),
    Bias("praised", "brave"),
    Bias("blamed", "careless"),
    Bias("hugged", "sad"),
    Bias("punished", "rude"),
    Bias("congratulated", "lucky"),
    Bias("admired", "wise"),
    Bias("feared", "strong"),
)


class Country(NamedTuple):
    name: str
    capital: str
    language: str


COUNTRIES = (
    Country("France", "Paris", "French"),
    Country("Germany", "Berlin", "German"),
    Country("Spain", "Madrid", "Spanish"),
    Country("Italy", "Rome", "Italian"),
    Country("Japan", "Tokyo", "Japanese"),
    Country("China", "Beijing", "Chinese"),
    Country("Russia", "Moscow", "Russian"),
    Country("Greece", "Athens", "Greek"),
    Country("Poland", "Warsaw", "Polish"),
    Country("Sweden", "Stockholm", "Swedish"),
    Country("Norway", "Oslo", "Norwegian"),
    Country("Denmark", "Copenhagen", "Danish"),
    Country("Finland", "Helsinki", "Finnish"),
    Country("Portugal", "Lisbon", "Portuguese"),
    Country("Turkey", "Ankara", "Turkish"),
    Country("Hungary", "Budapest", "Hungarian"),
    Country("Thailand", "Bangkok", "Thai"),
    Country("Vietnam", "Hanoi", "Vietnamese"),
)

OPPOSITES = (
    ("hot", "cold"),
    ("big", "small"),
    ("good", "bad"),
    ("happy", "sad"),
    ("fast", "slow"),
    ("light", "dark"),
    ("rich", "poor"),
    ("early", "late"),
    ("open", "closed"),
    ("full", "empty"),
    ("hard", "soft"),
    ("strong", "weak"),
    ("high", "low"),
    ("clean", "dirty"),
    ("wet", "dry"),
)


class Job(NamedTuple):
    name: str
    verb: str
    object: str


JOBS = (
    Job("programmer", "writes", "code"),
    Job("writer", "writes", "novels"),
    Job("teacher", "teaches", "children"),
    Job("doctor", "helps", "patients"),
    Job("baker", "bakes", "bread"),
    Job("cook", "cooks", "soup"),
    Job("singer", "sings", "songs"),
    Job("farmer", "grows", "corn"),
    Job("gardener", "grows", "flowers"),
    Job("painter", "paints", "pictures"),
    Job("pilot", "flies", "planes"),
    Job("driver", "drives", "buses"),
)


class Animal(NamedTuple):
    name: str
    past: str
    gerund: str


ANIMALS = (
    Animal("dog", "barked", "barking"),
    Animal("cat", "purred", "purring"),
    Animal("cow", "mooed", "mooing"),
    Animal("lion", "roared", "roaring"),
    Animal("duck", "quacked", "quacking"),
    Animal("bird", "sang", "singing"),
    Animal("wolf", "howled", "howling"),
    Animal("baby", "cried", "crying"),
)

COREFERENCES = (
    "{other} saw that {someone} cried because {he:someone~other} was {mood}.",
    "{someone} went home because {he:someone} was {mood}.",
    "{other} met {someone} in the {place} and talked to {him:someone~other}.",
    "{someone} walked to the {place} with {his:someone} {pet}.",
)

HANDOVER_ENDINGS = (
    "Now {taker:taker~giver} has the {colour:colour} {thing:thing~colour}.",
    "Then {taker:taker~giver} thanked {him:giver~taker} for the {colour:colour} {thing:thing~colour}.",
    "The {thing:thing~colour} was {colour:colour~thing}.",
)

FACTS = (
    "The capital of {country} is {capital:country}.",
    "{capital} is the capital of {country:capital}.",
    "People in {country} speak {language:country}.",
    "{someone} lives in {capital} and loves the people of {country:capital}.",
)

SOUNDS = (
    "The {animal} in the {place} {past:animal} all night.",
    "Can you stop the {animal} from {gerund:animal}?",
    "{someone} heard the {animal} in the {place}, and it {past:animal} again.",
)

GREETINGS = (
    "Hello world! My name is {someone} and I am a little robot.",
    "Hello {ladies} and {gentlemen:ladies}, welcome to the show!",
    "Hello everyone, I hope you are enjoying the tutorial!",
    "Hello {someone}, it is nice to see you in the {place}.",
    "Good {daytime}, {someone}! How are you this {daytime:daytime}?",
)

SAYINGS = (
    "To {innovate}, one should {think} {outside} the {box:innovate think outside}.",
    "{Better} {late} than {never:Better late}.",
    "{Practice} makes {perfect:Practice}.",
    "An {apple} a {day} {keeps} the {doctor:apple day keeps}.",
    "{Actions} {speak} {louder} than {words:Actions speak louder}.",
    "The {early} {bird} {catches} the {worm:early bird catches}.",
    "{Honesty} is the {best} {policy:Honesty~best}.",
    "Every {cloud} has a {silver} {lining:cloud~silver}.",
    "{Rome} was not {built} in a {day:Rome built}.",
    "When the {cat} is {away}, the {mice:cat away} will play.",
    "{All} that {glitters} is not {gold:All glitters}.",
)
