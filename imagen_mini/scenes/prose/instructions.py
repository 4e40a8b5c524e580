"""Instructions, and what is to be seen once they are carried out."""

from __future__ import annotations

import random
from dataclasses import replace

from imagen_mini.scenes.captions import article_for
from imagen_mini.scenes.prose.phrases import (
    VALUES,
    a_thing,
    different_things,
    name_of,
    pick_style,
    random_place,
    random_relation,
    random_thing,
    relation_phrase,
    the_shape,
)


def instruction_line(rng: random.Random) -> str:
    """What to do with one or two things, and the result."""
    return rng.choice((place_two, place_two, change, take_away, swap))(rng)


def place_two(rng: random.Random) -> str:
    """Put one thing somewhere and another beside it."""
    a, b = different_things(rng, 2)
    relation, opposite = random_relation(rng)
    style, place = pick_style(rng), random_place(rng)
    said = (
        f"{rng.choice(('put', 'lay', 'draw'))} {a_thing(a, rng, style)} {place}, and "
        f"{rng.choice(('put', 'add', 'draw'))} {a_thing(b, rng, style)} "
        f"{relation_phrase(relation, rng)} it. "
    )
    return said + rng.choice(
        (
            f"now {a_thing(b, rng)} is {relation_phrase(relation, rng)} {a_thing(a, rng)} {place}",
            f"now {a_thing(a, rng)} is {relation_phrase(opposite, rng)} {a_thing(b, rng)} {place}",
            f"now there are two things {place}, {the_shape(a)} and {the_shape(b)}",
        )
    )


def change(rng: random.Random) -> str:
    """Give a thing another colour, size, pattern or finish."""
    role = rng.choice(tuple(VALUES))
    before, after = rng.sample(VALUES[role], 2)
    thing = replace(random_thing(rng), **{role: before})
    changed = replace(thing, **{role: after})
    verb = {"color": "paint", "size": "make", "texture": "make", "material": "make"}[role]
    return (
        f"take {a_thing(thing, rng, pick_style(rng))} and {verb} it {after}. now it is "
        f"{a_thing(changed, rng)}, and not {before} any more"
    )


def take_away(rng: random.Random) -> str:
    """Remove one of two things."""
    a, b = different_things(rng, 2)
    style = pick_style(rng)
    return (
        f"start with {a_thing(a, rng, style)} and {a_thing(b, rng, style)}. take "
        f"{the_shape(b)} away. now there is {a_thing(a, rng)} and no "
        f"{name_of(b, rng)}"
    )


def swap(rng: random.Random) -> str:
    """Two things change places."""
    a, b = different_things(rng, 2)
    relation, opposite = random_relation(rng)
    x, y = name_of(a, rng, pick_style(rng)), name_of(b, rng, pick_style(rng))
    return (
        f"{article_for(x)} {x} lies {relation_phrase(relation, rng)} {article_for(y)} {y}. let "
        f"them change places. now {the_shape(a)} is {relation_phrase(opposite, rng)} "
        f"{the_shape(b)}"
    )
