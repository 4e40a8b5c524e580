"""Parts that sentences are made of: things, places and relations, in common or in rare words."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from imagen_mini.scenes.captions import NUMBERS, PHRASES, ObjectDescription, article_for
from imagen_mini.scenes.prose.words import TEXT_PHRASES, synonyms_of
from imagen_mini.scenes.rewording import misspell
from imagen_mini.scenes.scene import (
    BACKGROUNDS,
    COLORS,
    LIGHTS,
    MATERIALS,
    OPPOSITE,
    RELATIONS,
    SHAPES,
    SIZES,
    SURFACES,
    TEXTURES,
)

# How often each attribute of a thing is mentioned.
MENTIONED = {"color": 0.7, "size": 0.35, "texture": 0.2, "material": 0.2}
VALUES = {
    "color": tuple(COLORS),
    "size": tuple(SIZES),
    "texture": TEXTURES,
    "material": MATERIALS,
}
# How a sentence about a scene begins. A caption has none of these.
OPENINGS = (
    *("there is", "we see", "here lies", "you find", "someone drew", "it shows"),
    *("this is a picture of", "here is an image of"),
)


@dataclass(frozen=True)
class Style:
    """How things are put in words.

    Args:
        rare: How often a word is replaced by a synonym that no caption has, in [0, 1].
        misspelt: How often a word is misspelt, in [0, 1].
    """

    rare: float = 0.0
    misspelt: float = 0.0


PLAIN = Style()
RARE = Style(rare=0.7)


def pick_style(rng: random.Random) -> Style:
    """Mostly plain; sometimes with rare words, or misspelt ones."""
    return rng.choices((PLAIN, RARE, Style(0.3, 0.1), Style(0.0, 0.3)), (5, 3, 1, 1))[0]


def random_thing(rng: random.Random, *said: str, shape: str | None = None) -> ObjectDescription:
    """A random thing. Any combination is possible, as in any text.

    Args:
        rng: Source of randomness.
        *said: Attributes that are mentioned in any case.
        shape: Its shape (default: random).
    """
    attributes = {
        name: rng.choice(values)
        for name, values in VALUES.items()
        if name in said or rng.random() < MENTIONED[name]
    }
    return ObjectDescription(shape or rng.choice(tuple(SHAPES)), **attributes)


def different_things(rng: random.Random, n: int, *said: str) -> list[ObjectDescription]:
    """`n` things of different shapes, and of different colours where they have one.

    Args:
        rng: Source of randomness.
        n: How many, at most 6.
        *said: Attributes that are mentioned of each.
    """
    shapes = rng.sample(tuple(SHAPES), n)
    colors = rng.sample(tuple(COLORS), n)
    things = [random_thing(rng, *said, shape=shape) for shape in shapes]
    return [replace(t, color=t.color and c) for t, c in zip(things, colors)]


def word(common: str, rng: random.Random, style: Style) -> str:
    """A word of captions, or another for it."""
    said = common
    if rng.random() < style.rare:
        said = rng.choice(synonyms_of(common) or (common,))
    return misspell(said, rng) if rng.random() < style.misspelt else said


def plural(noun: str) -> str:
    """The plural of a shape or of a word for one."""
    return noun + ("es" if noun.endswith(("s", "x", "sh")) else "s")


def name_of(
    thing: ObjectDescription, rng: random.Random, style: Style = PLAIN, count: int = 1
) -> str:
    """A thing without an article: "large striped red circle"; in the plural if there are more."""
    roles = ["size", "material", "texture", "color"]
    adjectives = [getattr(thing, role) for role in roles if getattr(thing, role)]
    if rng.random() < 0.3:
        adjectives[-2:] = adjectives[-2:][::-1]
    noun = word(thing.shape, rng, style)
    said = [*(word(a, rng, style) for a in adjectives), plural(noun) if count > 1 else noun]
    return " ".join(said)


def a_thing(thing: ObjectDescription, rng: random.Random, style: Style = PLAIN) -> str:
    """A thing with its indefinite article: "a large red circle"."""
    name = name_of(thing, rng, style)
    return f"{article_for(name)} {name}"


def some_things(
    thing: ObjectDescription, count: int, rng: random.Random, style: Style = PLAIN
) -> str:
    """Several things of a kind: "three red circles"."""
    if count == 1:
        return a_thing(thing, rng, style)
    return f"{NUMBERS[count]} {name_of(thing, rng, style, count)}"


def the_shape(thing: ObjectDescription) -> str:
    """A thing by its shape alone: "the circle"."""
    return f"the {thing.shape}"


def relation_phrase(relation: str, rng: random.Random, rare: float = 0.5) -> str:
    """Any phrase for a relation, of captions or of text alone."""
    return rng.choice(TEXT_PHRASES[relation] if rng.random() < rare else PHRASES[relation])


def random_relation(rng: random.Random) -> tuple[str, str]:
    """A relation and its opposite."""
    relation = rng.choice(RELATIONS)
    return relation, OPPOSITE[relation]


def random_place(rng: random.Random, style: Style = PLAIN) -> str:
    """What things lie on: "on a white background", "on wood", "on a wooden surface"."""
    if rng.random() < 0.4:
        name = word(rng.choice(tuple(BACKGROUNDS)), rng, style)
        return f"on {article_for(name)} {name} background"
    surface = rng.choice(tuple(SURFACES))
    if rng.random() < 0.3:
        return f"on {article_for(SURFACES[surface])} {SURFACES[surface]} surface"
    return f"on {word(surface, rng, style)}"


def random_light(rng: random.Random) -> str:
    """Where light comes from: "lit from the left"."""
    return f"lit from the {rng.choice(LIGHTS)}"


def enumerate_in_words(parts: list[str]) -> str:
    """'a, b and c'."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def opening(rng: random.Random) -> str:
    """The beginning of a sentence about a scene: "there is"."""
    return rng.choice(OPENINGS)
