"""Other words for the same: rare words, misspellings, and what is not there. Captions of the
diffusion stages have none of these.
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
    """Swap two neighbouring letters inside a word, drop one or double one."""
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
    """The caption with other words at these positions; "a" and "an" follow suit. What it describes
    stays.
    """
    tagged = [(new.get(i, w.text), w.objects, w.role) for i, w in enumerate(caption.words)]
    for i, (word, objects, role) in enumerate(tagged[:-1]):
        if word in ("a", "an"):
            tagged[i] = article_for(tagged[i + 1][0]), objects, role
    return lay_out(tagged, caption.description)


def with_rare_words(caption: Caption) -> Caption:
    """Every word that has a rare synonym, by it. Words for several things ("circles") have none."""
    rare = {common: word for word, common in RARE_WORDS.items()}
    return reword(caption, {i: rare[w.text] for i, w in enumerate(caption.words) if w.text in rare})


def with_misspelling(caption: Caption, rng: random.Random) -> Caption:
    """One word that says something, misspelt."""
    telling = [
        i
        for i, w in enumerate(caption.words)
        if len(w.text) >= 4 and w.role not in ("other", "relation", "number")
    ]
    i = rng.choice(telling)
    # two equal letters may have changed places
    while (word := misspell(caption.words[i].text, rng)) == caption.words[i].text:
        pass
    return reword(caption, {i: word})


def with_absence(caption: Caption, obj: ObjectDescription, rng: random.Random) -> Caption:
    """And what is not in the image: 'a red circle and no blue square'."""
    noun = [word for word, _ in noun_phrase(obj, 1, rng)[1:]]
    lead = rng.choice((["and", "no"], ["but", "no"], ["without", article_for(noun[0])]))
    return lay_out(
        [
            *((w.text, w.objects, w.role) for w in caption.words),
            *((word, (), "other") for word in lead + noun),
        ],
        caption.description,
    )
