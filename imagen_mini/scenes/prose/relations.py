"""Scenes told twice: the same things, relations and places in other words."""

from __future__ import annotations

import random

from imagen_mini.scenes.captions import ObjectDescription
from imagen_mini.scenes.prose.phrases import (
    Style,
    a_thing,
    different_things,
    name_of,
    opening,
    pick_style,
    random_light,
    random_place,
    random_relation,
    relation_phrase,
    the_shape,
)
from imagen_mini.scenes.prose.words import ATTRIBUTES

AGAIN = ("in other words", "that is", "said again", "seen from the other side", "so")


def relation_line(rng: random.Random) -> str:
    """Where things are, told twice or concluded."""
    kinds = (told_twice,) * 5 + (three_in_a_row, who_is_where, light)
    return rng.choice(kinds)(rng)


def told_twice(rng: random.Random) -> str:
    """Two things and their relation, from one side and from the other, and what follows."""
    a, b = different_things(rng, 2, *(("color",) if rng.random() < 0.7 else ()))
    relation, opposite = random_relation(rng)
    place = f" {random_place(rng)}" if rng.random() < 0.3 else ""
    lit = f", {random_light(rng)}" if rng.random() < 0.15 else ""
    styles = pick_style(rng), pick_style(rng)
    first = f"{_related(a, relation, b, rng, styles[0])}{place}{lit}"
    second = f"{_related(b, opposite, a, rng, styles[1])}{place}{lit}"
    lines = [
        f"{opening(rng)} {first}",
        f"{rng.choice(AGAIN)}, {opening(rng)} {second}",
    ]
    for thing in (a, b):
        if rng.random() < 0.3:
            known = [v for v in (thing.size, thing.material, thing.texture, thing.color) if v]
            if known:
                lines.append(f"{the_shape(thing)} is {' and '.join(known)}")
    if rng.random() < 0.4:
        lines.append(f"{the_shape(a)} is {relation_phrase(relation, rng)} {the_shape(b)}")
    return ". ".join(lines)


def _related(
    a: ObjectDescription, relation: str, b: ObjectDescription, rng: random.Random, style: Style
) -> str:
    return f"{a_thing(a, rng, style)} {relation_phrase(relation, rng)} {a_thing(b, rng, style)}"


def three_in_a_row(rng: random.Random) -> str:
    """Three things in order, and where each is with respect to the others."""
    a, b, c = different_things(rng, 3)
    relation, opposite = random_relation(rng)
    style = pick_style(rng)
    x, y, z = (name_of(t, rng, style) for t in (a, b, c))
    return (
        f"the {x} is {relation_phrase(relation, rng)} the {y}, and the {y} is "
        f"{relation_phrase(relation, rng)} the {z}. "
        + rng.choice(
            (
                f"so {the_shape(a)} is {relation_phrase(relation, rng)} {the_shape(c)}",
                f"so {the_shape(c)} is {relation_phrase(opposite, rng)} {the_shape(a)}",
                f"so {the_shape(b)} is between {the_shape(a)} and {the_shape(c)}",
            )
        )
    )


def who_is_where(rng: random.Random) -> str:
    """A question about a relation, with its answer."""
    a, b = different_things(rng, 2)
    relation, opposite = random_relation(rng)
    style = pick_style(rng)
    said = f"the {name_of(a, rng, style)} is {relation_phrase(relation, rng)} the "
    said += name_of(b, rng, style)
    return f"{said}. " + rng.choice(
        (
            f"what is {relation_phrase(relation, rng)} {the_shape(b)}? {the_shape(a)}",
            f"what is {relation_phrase(opposite, rng)} {the_shape(a)}? {the_shape(b)}",
            f"where is {the_shape(b)}? {relation_phrase(opposite, rng)} {the_shape(a)}",
        )
    )


def light(rng: random.Random) -> str:
    """Where the lamp is, where light comes from, and where shadows fall."""
    side = rng.choice(ATTRIBUTES["light"])
    other = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}[side]
    (thing,) = different_things(rng, 1)
    said = a_thing(thing, rng, pick_style(rng))
    return rng.choice(
        (
            f"{opening(rng)} {said}, lit from the {side}. the lamp is on the {side}, and "
            f"the shadow falls to the {other}",
            f"the lamp stands at the {side}, so {said} is lit from the {side}",
            f"a shadow at the {other} shows that light comes from the {side}: {said} is lit from "
            f"the {side}",
        )
    )
