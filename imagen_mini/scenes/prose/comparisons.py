"""Sentences that compare things: larger, alike, different in one respect."""

from __future__ import annotations

import random
from dataclasses import replace

from imagen_mini.scenes.prose.phrases import (
    VALUES,
    a_thing,
    different_things,
    enumerate_in_words,
    name_of,
    pick_style,
    random_thing,
    the_shape,
)

NAMES_OF_ATTRIBUTES = {
    "color": "colour",
    "size": "size",
    "texture": "pattern",
    "material": "finish",
}


def comparison_line(rng: random.Random) -> str:
    """One or two comparisons."""
    kinds = (by_size, by_size, alike, differ, by_gloss)
    return ". ".join(rng.choice(kinds)(rng) for _ in range(rng.randint(1, 2)))


def by_size(rng: random.Random) -> str:
    """Which of two things is larger."""
    a, b = different_things(rng, 2)
    a, b = replace(a, size="large"), replace(b, size="small")
    style = pick_style(rng)
    large, small = name_of(a, rng, style), name_of(b, rng, style)
    return rng.choice(
        (
            f"the {large} is larger than the {small}",
            f"the {small} is smaller than the {large}",
            f"of the {large} and the {small}, {the_shape(a)} is the bigger one",
            f"which is smaller, the {large} or the {small}? {the_shape(b)}",
        )
    )


def alike(rng: random.Random) -> str:
    """What two things have in common."""
    a, b = different_things(rng, 2)
    role = rng.choice(tuple(VALUES))
    value = rng.choice(VALUES[role])
    a, b = replace(a, **{role: value}), replace(b, **{role: value})
    style = pick_style(rng)
    return (
        f"the {name_of(a, rng, style)} and the {name_of(b, rng, style)} have the same "
        f"{NAMES_OF_ATTRIBUTES[role]}: both are {value}"
    )


def differ(rng: random.Random) -> str:
    """Two things that differ in one respect."""
    thing, role = random_thing(rng), rng.choice(tuple(VALUES))
    one, other = rng.sample(VALUES[role], 2)
    style = pick_style(rng)
    a, b = replace(thing, **{role: one}), replace(thing, **{role: other})
    return (
        f"{a_thing(a, rng, style)} and {a_thing(b, rng, style)} differ in "
        f"{NAMES_OF_ATTRIBUTES[role]} alone: one is {one}, the other {other}"
    )


def by_gloss(rng: random.Random) -> str:
    """Which of three things mirrors light."""
    things = different_things(rng, 3)
    finishes = rng.sample(VALUES["material"], 3)
    things = [replace(t, material=m) for t, m in zip(things, finishes)]
    dull = things[finishes.index("matte")]
    style = pick_style(rng)
    said = enumerate_in_words([f"the {name_of(t, rng, style)}" for t in things])
    return f"of {said}, only {the_shape(dull)} does not gleam"
