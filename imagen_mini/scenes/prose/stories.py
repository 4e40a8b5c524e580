"""Small stories about people and things."""

from __future__ import annotations

import random

from imagen_mini.scenes.captions import NUMBERS
from imagen_mini.scenes.prose.phrases import (
    a_thing,
    different_things,
    enumerate_in_words,
    pick_style,
    random_place,
    random_relation,
    random_thing,
    relation_phrase,
    some_things,
    the_shape,
)
from imagen_mini.scenes.prose.words import NAMES


def story_line(rng: random.Random) -> str:
    """A story of two to four sentences."""
    return rng.choice((gives, gives, looks_for, collects))(rng)


def gives(rng: random.Random) -> str:
    """Somebody gives something away, and has the rest."""
    one, other = rng.sample(NAMES, 2)
    a, b = different_things(rng, 2)
    style = pick_style(rng)
    said = (
        f"{one} has {a_thing(a, rng, style)} and {a_thing(b, rng, style)}. {one} gives "
        f"{the_shape(a)} to {other}. "
    )
    return said + rng.choice(
        (
            f"now {other} has {a_thing(a, rng)}, and {one} has {a_thing(b, rng)}",
            f"{one} has no {a.shape} any more, only {a_thing(b, rng)}",
            f"who has {the_shape(a)}? {other}",
        )
    )


def looks_for(rng: random.Random) -> str:
    """Somebody looks for something and finds it."""
    who = rng.choice(NAMES)
    a, b = different_things(rng, 2)
    relation, opposite = random_relation(rng)
    style, place = pick_style(rng), random_place(rng)
    return (
        f"{who} looks for {a_thing(a, rng, style)}. there is {a_thing(b, rng, style)} {place}, "
        f"and {relation_phrase(relation, rng)} it {who} finds {the_shape(a)}. "
        + rng.choice(
            (
                f"so {a_thing(a, rng)} lies {relation_phrase(relation, rng)} {a_thing(b, rng)}",
                f"so {a_thing(b, rng)} lies {relation_phrase(opposite, rng)} {a_thing(a, rng)}",
            )
        )
    )


def collects(rng: random.Random) -> str:
    """Somebody gets more of the same."""
    who, thing = rng.choice(NAMES), random_thing(rng)
    first = rng.randint(1, 4)
    more = rng.randint(1, 5 - first)
    style = pick_style(rng)
    parts = [some_things(thing, first, rng, style), f"then {some_things(thing, more, rng)} more"]
    return (
        f"{who} finds {enumerate_in_words(parts)}. now {who} has "
        f"{some_things(thing, first + more, rng)}: {NUMBERS[first + more]} in all"
    )
