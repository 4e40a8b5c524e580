"""Sentences about what words mean: synonyms, definitions, things that everyone knows."""

from __future__ import annotations

import random

from imagen_mini.scenes.captions import article_for
from imagen_mini.scenes.prose.phrases import RARE, enumerate_in_words, name_of, random_thing
from imagen_mini.scenes.prose.words import (
    ATTRIBUTE_OF,
    ATTRIBUTES,
    DEFINITIONS,
    OF_COLOUR,
    SYNONYMS,
    synonyms_of,
)


def meaning_line(rng: random.Random) -> str:
    """What a word means, in one to three sentences."""
    kinds = (synonym, synonym, in_context, in_context, definition, known_thing, odd_one_out)
    return ". ".join(rng.choice(kinds)(rng) for _ in range(rng.randint(1, 3)))


def synonym(rng: random.Random) -> str:
    """That a rare word means a common one."""
    rare, common = rng.choice(tuple(SYNONYMS.items()))
    kind = ATTRIBUTE_OF[common]
    others = [w for w in synonyms_of(common) if w != rare]
    return rng.choice(
        (
            f"{rare} means {common}",
            f"{rare} is another word for {common}",
            f"{rare} says the same as {common}",
            f"what is {rare} is {common}",
            f"by {rare} people mean {common}",
            f"which {kind} is {rare}? {common}",
            f"the {kind} called {rare} is {common}",
            f"{common} is also called {enumerate_in_words([rare, *others])}",
        )
    )


def in_context(rng: random.Random) -> str:
    """The same thing in rare words and in common ones."""
    thing = random_thing(rng, "color", "size")
    rare, common = name_of(thing, rng, RARE), name_of(thing, rng)
    if rng.random() < 0.5:
        rare, common = common, rare
    return rng.choice(
        (
            f"the {rare} is the {common}",
            f"every {rare} is {article_for(common)} {common}",
            f"{article_for(rare)} {rare}, that is, {article_for(common)} {common}",
            f"one says the {rare} or the {common}",
            f"to see the {rare} is to see the {common}",
            f"whoever has the {rare} has the {common}",
        )
    )


def definition(rng: random.Random) -> str:
    """What a word of captions says, in other words."""
    common = rng.choice(tuple(DEFINITIONS))
    meaning = rng.choice(DEFINITIONS[common])
    said = rng.choice((common, *synonyms_of(common)))
    if ATTRIBUTE_OF[common] == "shape":
        said = f"{article_for(said)} {said}"
    return rng.choice(
        (
            f"{said} is {meaning}",
            f"what is {meaning}? {said} is",
            f"by {said} we mean {meaning}",
            f"if it is {meaning}, it is {said}",
        )
    )


def known_thing(rng: random.Random) -> str:
    """The colour of a thing that everyone knows."""
    colour = rng.choice(tuple(OF_COLOUR))
    thing = rng.choice(OF_COLOUR[colour])
    said = rng.choice((colour, *synonyms_of(colour)))
    return rng.choice(
        (
            f"{thing} is {said}",
            f"as {said} as {thing}",
            f"the colour of {thing} is {said}",
            f"{said} like {thing}",
            f"what colour is {thing}? {said}",
        )
    )


def odd_one_out(rng: random.Random) -> str:
    """Which of several words is of another kind, or means something else."""
    kind = rng.choice([k for k, words in ATTRIBUTES.items() if any(map(synonyms_of, words))])
    with_others = [w for w in ATTRIBUTES[kind] if len(synonyms_of(w)) > 1]
    if not with_others:
        return synonym(rng)
    common = rng.choice(with_others)
    alike = rng.sample(synonyms_of(common), 2)
    other = rng.choice([w for w in ATTRIBUTES[kind] if w != common])
    odd = rng.choice((other, *synonyms_of(other)))
    return rng.choice(
        (
            f"{alike[0]} and {alike[1]} are both {common}, and {odd} is {other}",
            f"of {alike[0]}, {alike[1]} and {odd} only {odd} is not {common}",
            f"{alike[0]} is {alike[1]}, but it is not {odd}",
            f"{common} is {alike[0]}, {other} is {odd}",
        )
    )
