"""Sentences about numbers: arithmetic, counting, and words for groups."""

from __future__ import annotations

import random

from imagen_mini.scenes.captions import NUMBERS, article_for
from imagen_mini.scenes.prose.phrases import (
    a_thing,
    different_things,
    enumerate_in_words,
    name_of,
    pick_style,
    random_thing,
    some_things,
)
from imagen_mini.scenes.prose.words import GROUPS, NUMBER_WORDS


def number_line(rng: random.Random) -> str:
    """Arithmetic, or how many things there are."""
    kinds = (arithmetic, arithmetic, one_kind, several_kinds, several_kinds, group, order)
    return ". ".join(rng.choice(kinds)(rng) for _ in range(rng.randint(1, 2)))


def arithmetic(rng: random.Random) -> str:
    """A sum or a difference of numbers up to ten."""
    a = rng.randint(0, 9)
    b = rng.randint(0, 10 - a)
    x, y, total = (NUMBER_WORDS[n] for n in (a, b, a + b))
    return rng.choice(
        (
            f"{x} and {y} make {total}",
            f"{x} plus {y} is {total}",
            f"{total} minus {y} is {x}",
            f"{y} less than {total} is {x}",
            f"{y} more than {x} is {total}",
            f"take {x} from {total} and {y} is left",
        )
    )


def order(rng: random.Random) -> str:
    """Which number comes next, and which is more."""
    n = rng.randint(1, 9)
    before, this, after = NUMBER_WORDS[n - 1], NUMBER_WORDS[n], NUMBER_WORDS[n + 1]
    counted = ", ".join(NUMBER_WORDS[1 : n + 1])
    return rng.choice(
        (
            f"between {before} and {after} comes {this}",
            f"{after} comes after {this}",
            f"{this} is more than {before} and less than {after}",
            f"count to {this}: {counted}",
        )
    )


def one_kind(rng: random.Random) -> str:
    """Things of one kind, one by one and as a number."""
    n, thing, style = rng.randint(2, 5), random_thing(rng), pick_style(rng)
    name = name_of(thing, rng)
    listed = enumerate_in_words([f"{article_for(name)} {name}"] * n)
    number = some_things(thing, n, rng, style)
    return rng.choice(
        (
            f"{listed} are {number}",
            f"we count {number}: {listed}",
            f"{NUMBERS[n - 1]} and one more make {number}",
            f"there are {number}, so there are {NUMBERS[n]} things",
            f"how many things are {number}? {NUMBERS[n]}",
        )
    )


def several_kinds(rng: random.Random) -> str:
    """Things of two kinds: how many of each, and together."""
    a, b = different_things(rng, 2)
    m, n = rng.randint(1, 3), rng.randint(1, 2)
    style = pick_style(rng)
    listed = [a_thing(a, rng)] * m + [a_thing(b, rng)] * n
    rng.shuffle(listed)
    both = f"{some_things(a, m, rng, style)} and {some_things(b, n, rng, style)}"
    total = NUMBERS[m + n]
    return rng.choice(
        (
            f"we see {enumerate_in_words(listed)}: {both}, which is {total} things",
            f"we see {both}. how many things? {total}",
            f"of the {total} things here, {NUMBERS[m]} {'is' if m == 1 else 'are'} "
            f"{some_things(a, m, rng)}; the rest is {some_things(b, n, rng)}",
        )
    )


def group(rng: random.Random) -> str:
    """A word for a group, and its number."""
    said, n = rng.choice(tuple(GROUPS.items()))
    thing, style = random_thing(rng), pick_style(rng)
    number = some_things(thing, n, rng)
    if n == 1:
        return f"a single {name_of(thing, rng, style)} is {number} and no more"
    names = name_of(thing, rng, style, n)
    return rng.choice(
        (
            f"a {said} of {names} is {number}",
            f"{number} are a {said}",
            f"whoever sees a {said} of {names} sees {NUMBERS[n]} things",
        )
    )
