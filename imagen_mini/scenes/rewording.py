"""Captions reworded with rare words, misspellings and negations. Training captions of the diffusion
stages contain none of these.
"""

from __future__ import annotations

import random

from imagen_mini.scenes.captions import (
    RARE_WORDS,
    Caption,
    ObjectDescription,
    article_for,
    lay_out,
    noun_phrase,
)


def misspell(word: str, rng: random.Random) -> str:
    """Swap two neighbouring letters inside a word, drop one, or double one."""
    if len(word) < 4:
        return word
    i = rng.randrange(1, len(word) - 2)
    return rng.choice(
        (
            word[:i] + word[i + 1] + word[i] + word[i + 2 :],
            word[:i] + word[i + 1 :],
            word[:i] + word[i] + word[i:],
        )
    )


def reword(caption: Caption, new: dict[int, str]) -> Caption:
    """Replace words of a caption; "a" and "an" are adapted, and the description stays.

    Args:
        caption: The caption.
        new: Index of a word -> the new word.
    """
    tagged = [(new.get(i, w.text), w.objects, w.role) for i, w in enumerate(caption.words)]
    for i, (word, objects, role) in enumerate(tagged[:-1]):
        if word in ("a", "an"):
            tagged[i] = article_for(tagged[i + 1][0]), objects, role
    return lay_out(tagged, caption.description)


def with_rare_words(caption: Caption) -> Caption:
    """Replace every word that has a rare synonym; plurals ("circles") have none."""
    rare = {common: word for word, common in RARE_WORDS.items()}
    return reword(caption, {i: rare[w.text] for i, w in enumerate(caption.words) if w.text in rare})


def with_misspelling(caption: Caption, rng: random.Random) -> Caption:
    """Misspell one word that describes an object or the background."""
    telling = [
        i
        for i, w in enumerate(caption.words)
        if len(w.text) >= 4 and w.role not in ("other", "relation", "number")
    ]
    i = rng.choice(telling)
    # swapping two equal letters changes nothing: try again
    while (word := misspell(caption.words[i].text, rng)) == caption.words[i].text:
        pass
    return reword(caption, {i: word})


def with_absence(caption: Caption, obj: ObjectDescription, rng: random.Random) -> Caption:
    """Add what is not in the image: 'a red circle and no blue square'."""
    noun = [word for word, _ in noun_phrase(obj, 1, rng)[1:]]
    lead = rng.choice((["and", "no"], ["but", "no"], ["without", article_for(noun[0])]))
    return lay_out(
        [
            *((w.text, w.objects, w.role) for w in caption.words),
            *((word, (), "other") for word in lead + noun),
        ],
        caption.description,
    )
