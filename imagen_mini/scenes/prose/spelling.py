"""Sentences with misspelt words and their right forms."""

from __future__ import annotations

import random

from imagen_mini.scenes.captions import ObjectDescription, article_for
from imagen_mini.scenes.prose.phrases import Style, name_of, random_place, random_thing
from imagen_mini.scenes.prose.words import ATTRIBUTE_OF, SYNONYMS
from imagen_mini.scenes.rewording import misspell

SPELT = tuple(w for w in (*ATTRIBUTE_OF, *SYNONYMS) if len(w) >= 4)


def spelling_line(rng: random.Random) -> str:
    """A misspelt word and what it should be, by itself or in a sentence."""
    kinds = (correction, twice, twice, letters)
    return ". ".join(rng.choice(kinds)(rng) for _ in range(rng.randint(1, 2)))


def misspelling_of(right: str, rng: random.Random) -> str:
    """A misspelt form that differs from the word."""
    while (wrong := misspell(right, rng)) == right:
        pass
    return wrong


def correction(rng: random.Random) -> str:
    """That a misspelt form stands for a word."""
    right = rng.choice(SPELT)
    wrong, other = misspelling_of(right, rng), misspelling_of(right, rng)
    common = SYNONYMS.get(right, right)
    return rng.choice(
        (
            f"{wrong} should be {right}",
            f"who writes {wrong} means {right}",
            f"it is spelt {right}, not {wrong}",
            f"{wrong} and {other} are {right} with a slip of the pen",
            f"read {right} for {wrong}",
            f"{wrong} is {article_for(common)} {common} misspelt"
            if ATTRIBUTE_OF[common] == "shape"
            else f"{wrong} still means {common}",
        )
    )


def twice(rng: random.Random) -> str:
    """A thing with misspelt words, and again as it should be."""
    thing = random_thing(rng, "color")
    if rng.random() < 0.5:  # one word is wrong, as is most common
        wrong = _with_one_slip(thing, rng)
    else:
        wrong = name_of(thing, rng, Style(misspelt=0.6))
    right = name_of(thing, rng)
    if rng.random() < 0.3:
        wrong, right = right, wrong
    place = f" {random_place(rng)}" if rng.random() < 0.3 else ""
    return rng.choice(
        (
            f"the {wrong}{place} is the {right}{place}",
            f"somebody wrote the {wrong}{place} and meant the {right}{place}",
            f"i saw the {wrong}{place}, sorry, the {right}{place}",
            f"for the {wrong} read the {right}",
            f"the {wrong} lies here{place}, and the {right} is all that lies here",
        )
    )


def _with_one_slip(thing: ObjectDescription, rng: random.Random) -> str:
    """The name of a thing with one misspelt word."""
    name = name_of(thing, rng).split(" ")
    i = rng.choice([i for i, w in enumerate(name) if len(w) >= 4])
    name[i] = misspelling_of(name[i], rng)
    return " ".join(name)


def letters(rng: random.Random) -> str:
    """A word spelt out in letters."""
    right = rng.choice(SPELT)
    spelt = " ".join(right)
    return rng.choice((f"{right} is spelt {spelt}", f"{spelt} makes {right}"))


def with_slips(line: str, rng: random.Random, share: float) -> str:
    """A line in which some words are misspelt.

    Args:
        line: The line.
        rng: Source of randomness.
        share: Of the words of at least four letters, in [0, 1].
    """
    return " ".join(
        misspell(w, rng) if w.isalpha() and rng.random() < share else w for w in line.split(" ")
    )
