"""The text-only corpus on which the text encoder is trained: lines of captions and of sentences
about words.
"""

from __future__ import annotations

import random

from imagen_mini.scenes.captions import (
    NUMBERS,
    PHRASES,
    RARE_WORDS,
    Description,
    caption_from,
    describe,
)
from imagen_mini.scenes.rewording import misspell
from imagen_mini.scenes.scene import HELD_OUT_COUNT, OPPOSITE, random_scene


def sample_corpus_line(rng: random.Random) -> str:
    """Sample one line of the text-only corpus.

    A line is a caption, the same scene described from the other side, and what follows from it; or
    a sentence about words. To fill a gap in one copy from the other ('a red circle above a star. a
    star under a red ...') makes a language model bind attributes to objects and understand
    relations. Rare words, held-out phrases and misspellings occur here, never in training captions.

    Args:
        rng: Source of randomness.
    """
    # 1. Sometimes, a sentence about a rare word.
    if rng.random() < 0.05:
        rare, common = rng.choice(tuple(RARE_WORDS.items()))
        return rng.choice(
            (
                f"{rare} is another word for {common}",
                f"{rare} means {common}",
                f"when it is {rare}, it is {common}",
            )
        )
    # 2. A caption of a random scene, and mostly the same scene from the other side.
    scene = random_scene(
        rng, exclude_held_out=False, count=rng.choices((None, 2, HELD_OUT_COUNT), (58, 40, 2))[0]
    )
    description = describe(scene, rng)
    lines = [caption_from(description, rng, paraphrase=rng.random() < 0.1).text]
    if rng.random() < 0.7:
        objects = tuple(reversed(description.objects))
        name = OPPOSITE.get(description.relation)
        lines.append(
            caption_from(
                Description(objects, name, description.background),
                rng,
                paraphrase=rng.random() < 0.1,
            ).text
        )
    # 3. What follows from it: attributes, the relation, the number of objects.
    shapes = [t.shape for t in description.objects]
    for obj in description.objects:
        if shapes.count(obj.shape) == 1 and rng.random() < 0.3:
            known = [value for value in (obj.color, obj.size, obj.texture) if value]
            if known:
                lines.append(f"the {obj.shape} is {' and '.join(known)}")
    if description.relation is not None and shapes[0] != shapes[1] and rng.random() < 0.5:
        a, b = shapes
        name = description.relation
        if rng.random() < 0.5:
            a, b, name = b, a, OPPOSITE[name]
        lines.append(f"the {a} is {rng.choice(PHRASES[name])} the {b}")
    number = len(description.objects)
    if number > 1 and rng.random() < 0.2:
        lines.append(f"there are {NUMBERS[number]} things")
    # 4. Some rare words and misspellings.
    words = ". ".join(lines).split(" ")
    rare = {common: word for word, common in RARE_WORDS.items()}
    for i, word in enumerate(words):
        chance = rng.random()
        if chance < 0.04:
            words[i] = rare.get(word, word)
        elif chance < 0.06 and word.isalpha():
            words[i] = misspell(word, rng)
    return " ".join(words)
