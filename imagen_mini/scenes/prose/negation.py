"""Sentences about what is not there, and what that leaves."""

from __future__ import annotations

import random

from imagen_mini.scenes.captions import NUMBERS, ObjectDescription, article_for
from imagen_mini.scenes.prose.phrases import (
    a_thing,
    different_things,
    enumerate_in_words,
    name_of,
    opening,
    pick_style,
    random_place,
    random_thing,
    the_shape,
)
from imagen_mini.scenes.prose.words import ATTRIBUTES, DEFINITIONS


def negation_line(rng: random.Random) -> str:
    """What is missing, and what follows from it."""
    kinds = (present_and_absent,) * 5 + (meaning_of_no, gone, another_value, all_but)
    return ". ".join(rng.choice(kinds)(rng) for _ in range(rng.randint(1, 2)))


def absent_phrase(absent: ObjectDescription, rng: random.Random) -> str:
    """'and no blue square', 'without a blue square': as people say that something is missing."""
    style = pick_style(rng)
    name = name_of(absent, rng, style)
    article = article_for(name)
    return rng.choice(
        (
            f"and no {name}",
            f"but no {name}",
            f"without {article} {name}",
            f"and not {article} {name}",
            f"but not any {name}",
            f", and there is no {name}",
        )
    )


def present_and_absent(rng: random.Random) -> str:
    """Something that is there and something that is not, and the same again without it."""
    there = different_things(rng, 1 + (rng.random() < 0.25))
    absent = random_thing(rng, "color")
    while absent.shape in {t.shape for t in there}:
        absent = random_thing(rng, "color")
    style = pick_style(rng)
    said = enumerate_in_words([a_thing(t, rng, style) for t in there])
    again = enumerate_in_words([a_thing(t, rng) for t in there])
    phrase = absent_phrase(absent, rng)
    first = f"{opening(rng)} {said}{'' if phrase.startswith(',') else ' '}{phrase}"
    if rng.random() < 0.2:
        first += f" {random_place(rng)}"
    count = NUMBERS[len(there)]
    things = f"{count} thing{'s' if len(there) > 1 else ''}"
    return f"{first}. " + rng.choice(
        (
            f"so there is only {again}",
            f"all that is there is {again}",
            f"{again}, and nothing else, is there",
            f"that makes {things}: {again}",
            f"the {name_of(absent, rng)} is missing, and {again} is there",
            f"is there {a_thing(absent, rng)}? no. is there {again}? yes",
            f"how many things? {count}",
        )
    )


def meaning_of_no(rng: random.Random) -> str:
    """What it means that a shape is missing."""
    shape = rng.choice(ATTRIBUTES["shape"])
    meaning = rng.choice([d for d in DEFINITIONS[shape]])
    return rng.choice(
        (
            f"no {shape}: nothing that is {meaning}",
            f"without {article_for(shape)} {shape} nothing is {meaning}",
            f"where there is no {shape}, nothing is {meaning}",
            f"not one {shape}, zero of them: you find none",
        )
    )


def gone(rng: random.Random) -> str:
    """Something is taken away, and something stays."""
    stays, goes = different_things(rng, 2)
    style = pick_style(rng)
    a, b = a_thing(stays, rng, style), a_thing(goes, rng, style)
    return rng.choice(
        (
            f"there were {a} and {b}. {the_shape(goes)} is gone, so there is {a} and no "
            f"{goes.shape}",
            f"remove {b} from {a} and {b}: {a} is left",
            f"{the_shape(stays)} stays and {the_shape(goes)} does not: you see {a}",
        )
    )


def another_value(rng: random.Random) -> str:
    """Not this value of an attribute, so another one."""
    kind = rng.choice(("colour", "size", "pattern", "finish"))
    value, other = rng.sample(ATTRIBUTES[kind], 2)
    shape = rng.choice(ATTRIBUTES["shape"])
    return rng.choice(
        (
            f"the {shape} is not {value} but {other}: its {kind} is {other}",
            f"not {value}: some other {kind}, such as {other}",
            f"{article_for(other)} {other} {shape} is not {value}",
        )
    )


def all_but(rng: random.Random) -> str:
    """Everything except one of three."""
    a, b, c = different_things(rng, 3)
    rest = f"{the_shape(a)} and {the_shape(b)}"
    return rng.choice(
        (
            f"of {a_thing(a, rng)}, {a_thing(b, rng)} and {a_thing(c, rng)}, everything but "
            f"{the_shape(c)} is {rest}",
            f"neither {article_for(a.shape)} {a.shape} nor {article_for(b.shape)} {b.shape}, only "
            f"{a_thing(c, rng)}",
        )
    )
