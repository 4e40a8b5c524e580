"""Captions in other words: rare words, misspelt ones, other phrases, and what is absent.

A restatement is a list of parts, (other words, words of captions), in the order of the sentence:

    ("an", "a") ("emerald", "green") ("disc", "circle") ("and no star", "")

The left side is never a training caption, unless nothing was exchanged. What is absent has no words
on the right side: a caption does not speak of it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import groupby

from imagen_mini.scenes.captions import NUMBERS, Caption, Description, Word, article_for
from imagen_mini.scenes.prose.negation import absent_phrase
from imagen_mini.scenes.prose.phrases import plural, random_thing
from imagen_mini.scenes.prose.words import GROUPS, TEXT_PHRASES, synonyms_of
from imagen_mini.scenes.rewording import misspell
from imagen_mini.scenes.scene import SHAPES

Part = tuple[str, str]


@dataclass(frozen=True)
class Wording:
    """How often something is put in other words, each in [0, 1].

    Args:
        rare: A word that has synonyms which no caption has.
        misspelt: A word that says something of the image, common or rare.
        phrase: A relation.
        absent: How often something absent is added.
    """

    rare: float = 0.0
    misspelt: float = 0.0
    phrase: float = 0.0
    absent: float = 0.0


# The kinds of restatements, with their shares in percent.
WORDINGS: dict[str, tuple[Wording, int]] = {
    "as captions say it": (Wording(), 30),
    "rare words": (Wording(rare=0.8), 18),
    "misspelt words": (Wording(misspelt=0.3), 18),
    "other phrases": (Wording(phrase=1.0), 12),
    "something absent": (Wording(absent=1.0), 12),
    "all of these": (Wording(0.4, 0.1, 0.5, 0.3), 10),
}


def restate(caption: Caption, wording: Wording, rng: random.Random) -> list[Part]:
    """A caption in other words, part by part.

    Args:
        caption: Of a built-in world.
        wording: What is put in other words, and how often.
        rng: Source of randomness.

    Returns:
        Parts (other words, words of the caption). A part of the left side has at least one word.
    """
    parts: list[Part] = []
    # 1. Relations as a whole, other words one by one; articles as the next word needs them.
    for role, run in groupby(caption.words, key=lambda w: w.role):
        words = list(run)
        if role == "relation":
            phrase = " ".join(word.text for word in words)
            said = phrase
            if rng.random() < wording.phrase:
                said = rng.choice(TEXT_PHRASES[caption.description.relation or ""])
            parts.append((said, phrase))
            continue
        for word in words:
            said = word.text
            if role != "other":
                if rng.random() < wording.rare:
                    said = rng.choice(rare_words_for(word, caption.description) or (said,))
                if rng.random() < wording.misspelt:
                    said = misspell(said, rng)
            parts.append((said, word.text))
    parts = [
        (article_for(after[0]), plain) if said in ("a", "an") else (said, plain)
        for (said, plain), after in zip(parts, [*parts[1:], ("", "")])
        if said
    ]
    # 2. Something that is not there: of another shape, as it would be odd otherwise.
    if rng.random() < wording.absent:
        there = {o.shape for o in caption.description.objects}
        if others := [shape for shape in SHAPES if shape not in there]:
            said = ("color",) if rng.random() < 0.7 else ()
            absent = random_thing(rng, *said, shape=rng.choice(others))
            phrase = absent_phrase(absent, rng)
            parts += [(",", ""), (phrase[2:], "")] if phrase.startswith(", ") else [(phrase, "")]
    return parts


def rare_words_for(word: Word, description: Description) -> tuple[str, ...]:
    """What text alone has for a word of a caption: "crimson" for "red", "discs" for "circles", "a
    pair of" for "two". Most words have none.
    """
    if word.role == "number":
        return tuple(f"a {name} of" for name, n in GROUPS.items() if NUMBERS[n] == word.text)
    if word.role == "shape" and word.text != (shape := description.objects[word.objects[0]].shape):
        return tuple(plural(noun) for noun in synonyms_of(shape))
    return synonyms_of(word.text)


def sentence(words: list[str]) -> str:
    """Words as a text: a comma follows the word before it at once."""
    return " ".join(word for word in words if word).replace(" ,", ",")


def said_and_plain(parts: list[Part]) -> tuple[str, str]:
    """Both sides of a restatement: in other words, and as the caption says it."""
    return sentence([said for said, _ in parts]), sentence([plain for _, plain in parts])


def random_wording(rng: random.Random) -> Wording:
    """One of `WORDINGS`, by its share."""
    kinds = list(WORDINGS.values())
    return rng.choices([w for w, _ in kinds], [share for _, share in kinds])[0]
