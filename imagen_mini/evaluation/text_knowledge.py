"""What a text encoder knows of words that no image shows: rare, misspelt, negated.

A network that draws learns from captions what each word's vector looks like. A word that captions
never have is drawn correctly only if its vector is like that of a word they have. The probes here
ask just that: what is learnt on the words of captions is tested on other words.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from string import ascii_lowercase

import torch
from torch import Tensor

from imagen_mini.evaluation.benchmark import held_out_relation, random_object
from imagen_mini.evaluation.linear_probe import ridge_probe
from imagen_mini.evaluation.text_probes import masked_mean
from imagen_mini.scenes.captions import RARE_WORDS, Caption, Description, caption_from
from imagen_mini.scenes.prose.words import ATTRIBUTES
from imagen_mini.scenes.rewording import misspell, reword, with_absence
from imagen_mini.scenes.scene import COLORS, OPPOSITE, RELATIONS, SHAPES, SIZES
from imagen_mini.text.encoder import TextEncoder

# Captions to put a word of each kind in, to compare it with the others of its kind.
FRAMES: dict[str, tuple[str, ...]] = {
    "colour": ("a {} circle", "a large {} star on wood", "a {} square above a striped ring"),
    "shape": ("a red {}", "a small blue {} on sand", "a striped {} on marble"),
    "size": ("a {} red circle", "a {} star to the left of a blue ring"),
    "pattern": ("a {} red circle", "a large {} star and a pink ring"),
    "finish": ("a {} red circle", "a large {} blue star on sand"),
    "background": ("a red circle on a {} background", "a star and a ring on a {} background"),
    "surface": ("a red circle on {}", "a small green star and a ring on {}"),
}
VARIANTS = ("seen words", "rare words", "misspelt words", "unseen phrases")


def nearest_words(
    encoder: TextEncoder, words: Mapping[str, str], rows: int = 256
) -> dict[str, tuple[str, ...]]:
    """The words of captions that each word is most like, the nearest first.

    Vectors are means over a word's tokens in several captions; the mean of the words of captions
    is subtracted, and cosines are compared.

    Args:
        encoder: The text encoder.
        words: Any word -> its kind, a key of `FRAMES`.
        rows: Prompts that are encoded at once (default: 256).

    Returns:
        For each word all words of captions of its kind.
    """
    known = {word: kind for kind in FRAMES for word in ATTRIBUTES[kind]}
    vectors = _vectors(encoder, {**{w: k for w, k in words.items()}, **known}, rows)
    found = {}
    for word, kind in words.items():
        candidates = ATTRIBUTES[kind]
        stacked = torch.stack([vectors[c] for c in candidates])
        common = stacked.mean(0)
        similar = torch.cosine_similarity(vectors[word] - common, stacked - common, dim=-1)
        found[word] = tuple(candidates[i] for i in similar.mean(-1).argsort(descending=True))
    return found


def _vectors(encoder: TextEncoder, words: Mapping[str, str], rows: int) -> dict[str, Tensor]:
    """The vectors [frames, d] of words in the captions of their kind."""
    asked = [(word, frame.format(word)) for word, kind in words.items() for frame in FRAMES[kind]]
    found: dict[str, list[Tensor]] = {}
    for start in range(0, len(asked), rows):
        some = asked[start : start + rows]
        text = encoder([prompt for _, prompt in some])
        for row, (word, prompt) in enumerate(some):
            tokens = encoder.tokenize_prompt(prompt)
            at = tokens.positions_of_word(tokens.words.index(word))
            found.setdefault(word, []).append(text.emb[row, at].float().mean(0).cpu())
    return {word: torch.stack(vectors) for word, vectors in found.items()}


def two_slips(word: str, rng: random.Random) -> str:
    """A word misspelt twice."""
    return misspell(misspell(word, rng), rng)


def another_letter(word: str, rng: random.Random) -> str:
    """A word with one of its inner letters exchanged for any other: a slip that no text has."""
    i = rng.randrange(1, len(word) - 1)
    return word[:i] + rng.choice(ascii_lowercase.replace(word[i], "")) + word[i + 1 :]


def misspelt_words(
    per_word: int = 4, seed: int = 0, slip: Callable[[str, random.Random], str] = misspell
) -> dict[str, tuple[str, str]]:
    """Misspelt forms of words of captions.

    Args:
        per_word: How many forms of each, at most (default: 4).
        seed: Which forms (default: 0).
        slip: How a word is misspelt (default: as in the benchmark and in text).

    Returns:
        Misspelt word -> (its kind, the word).
    """
    rng, found = random.Random(f"misspelt/{seed}"), {}
    right = {word for words in ATTRIBUTES.values() for word in words}
    for kind in FRAMES:
        for word in (w for w in ATTRIBUTES[kind] if len(w) >= 4):
            for _ in range(per_word):
                if (wrong := slip(word, rng)) not in right:
                    found[wrong] = (kind, word)
    return found


def share_of_nearest(encoder: TextEncoder, meanings: Mapping[str, tuple[str, str]]) -> float:
    """The share of words whose nearest word of captions is the one that they mean.

    Args:
        encoder: The text encoder.
        meanings: Word -> (its kind, a key of `FRAMES`; the word that it means).
    """
    nearest = nearest_words(encoder, {word: kind for word, (kind, _) in meanings.items()})
    return sum(nearest[w][0] == right for w, (_, right) in meanings.items()) / len(meanings)


# ---------------------------------------------------------------- from captions to other words


def random_description(rng: random.Random) -> Description:
    """Two things that differ in shape, colour and size, and their relation."""
    while True:
        a, b = (random_object(rng, "color", "size") for _ in range(2))
        d = Description((a, b), rng.choice(RELATIONS))
        differ = all(getattr(a, k) != getattr(b, k) for k in ("shape", "color", "size"))
        if differ and not held_out_relation(d):
            return d


def caption_variant(variant: str, rng: random.Random) -> Caption:
    """A caption of two things, in words of captions or in others.

    Args:
        variant: One of `VARIANTS`.
        rng: Source of randomness.
    """
    rare = {common: word for word, common in RARE_WORDS.items()}
    while True:
        description = random_description(rng)
        caption = caption_from(description, rng, paraphrase=variant == "unseen phrases")
        telling = {
            i: w.text for i, w in enumerate(caption.words) if w.role in ("color", "shape", "size")
        }
        if variant == "misspelt words":
            return reword(caption, {i: misspell(word, rng) for i, word in telling.items()})
        if variant != "rare words":
            return caption
        if set(telling.values()) <= set(rare):  # each of them has a rare word
            return reword(caption, {i: rare[word] for i, word in telling.items()})


# What is asked of the vector of the word for a thing's shape: the possible answers, and the one.
QUESTIONS: dict[str, tuple[Sequence[str], Callable[[Description, int], str]]] = {
    "shape": (tuple(SHAPES), lambda d, which: d.objects[which].shape),
    "colour": (tuple(COLORS), lambda d, which: d.objects[which].color or ""),
    "size": (tuple(SIZES), lambda d, which: d.objects[which].size or ""),
    "place": (RELATIONS, lambda d, which: OPPOSITE[d.relation] if which else d.relation or ""),
}


def transfer_probes(
    encoder: TextEncoder, captions: int = 800, seed: int = 0
) -> dict[str, dict[str, float]]:
    """Linear probes that are fitted to captions and tested on other words.

    Each question is put to the vector of the word for a thing's shape.

    Args:
        encoder: The text encoder.
        captions: How many are fitted to, and how many of each variant are tested (default: 800).
        seed: Of the captions (default: 0).

    Returns:
        {question: {variant: accuracy in [0, 1]}}.
    """
    # 1. vectors and answers of captions to fit to, and of each variant
    sets = {}
    for name in ("fit", *VARIANTS):
        variant = VARIANTS[0] if name == "fit" else name
        rng = random.Random(f"transfer/{seed}/{name}")
        sets[name] = _shape_vectors(
            encoder, [caption_variant(variant, rng) for _ in range(captions)]
        )
    # 2. one probe a question
    x, asked = sets["fit"]
    mean, scale = x.mean(0), x.std(0) + 1e-6
    found: dict[str, dict[str, float]] = {}
    for question, (answers, answer) in QUESTIONS.items():
        number = {a: i for i, a in enumerate(answers)}
        y = torch.tensor([number[answer(*q)] for q in asked])
        predict = ridge_probe((x - mean) / scale, y, len(answers))
        found[question] = {}
        for variant in VARIANTS:
            vectors, of = sets[variant]
            truth = torch.tensor([number[answer(*q)] for q in of])
            guess = predict((vectors - mean) / scale)
            found[question][variant] = (guess == truth).double().mean().item()
    return found


def _shape_vectors(
    encoder: TextEncoder, captions: Sequence[Caption]
) -> tuple[Tensor, list[tuple[Description, int]]]:
    """The vectors of the words for shapes, and of which thing in which description each is."""
    vectors, asked = [], []
    for start in range(0, len(captions), 256):
        some = captions[start : start + 256]
        text = encoder([c.text for c in some])
        for row, caption in enumerate(some):
            tokens = encoder.tokenize_prompt(caption.text)
            at = 0
            for number, word in enumerate(tokens.words):  # where the encoder's words stand
                at = caption.text.index(word, at)
                for w in caption.words:
                    if w.start == at and w.role == "shape":
                        position = tokens.positions_of_word(number)[-1]
                        vectors.append(text.emb[row, position].float().cpu())
                        asked.append((caption.description, w.objects[0]))
                at += len(word)
    return torch.stack(vectors), asked


# ---------------------------------------------------------------- numbers, and what is absent


def count_probe(encoder: TextEncoder, captions: int = 800, seed: int = 0) -> float:
    """The accuracy of a linear probe on the mean vector of a caption: how many things are there?

    Captions list one to four things, some of them equal, so that no single word tells.

    Args:
        encoder: The text encoder.
        captions: How many, of which the last quarter is tested (default: 800).
        seed: Of the captions (default: 0).
    """
    rng, texts, answers = random.Random(f"count/{seed}"), [], []
    for _ in range(captions):
        a, b = random_object(rng, "color"), random_object(rng, "color")
        n = rng.randint(1, 4)
        some = rng.randint(0, n)
        texts.append(caption_from(Description((a,) * some + (b,) * (n - some)), rng).text)
        answers.append(n - 1)
    pooled = torch.cat([masked_mean(encoder(texts[i : i + 256])) for i in range(0, captions, 256)])
    return _tested_on_the_last_quarter(pooled.float().cpu(), torch.tensor(answers), 4)


def absence_probe(encoder: TextEncoder, captions: int = 800, seed: int = 0) -> float:
    """The accuracy of a linear probe on the vector of a shape's word: is this thing there?

    Half of the words are of things that the caption says are absent.

    Args:
        encoder: The text encoder.
        captions: How many, of which the last quarter is tested (default: 800).
        seed: Of the captions (default: 0).
    """
    rng, vectors, answers = random.Random(f"absence/{seed}"), [], []
    texts, shapes = [], []
    for _ in range(captions):
        d = random_description(rng)
        there, absent = d.objects
        texts.append(with_absence(caption_from(Description((there,)), rng), absent, rng).text)
        shapes.append((there.shape, absent.shape))
    for start in range(0, captions, 256):
        text = encoder(texts[start : start + 256])
        for row, (there_shape, absent_shape) in enumerate(shapes[start : start + 256]):
            tokens = encoder.tokenize_prompt(texts[start + row])
            for shape, answer in ((there_shape, 1), (absent_shape, 0)):
                at = tokens.positions_of_word(tokens.words.index(shape))[-1]
                vectors.append(text.emb[row, at].float().cpu())
                answers.append(answer)
    return _tested_on_the_last_quarter(torch.stack(vectors), torch.tensor(answers), 2)


def _tested_on_the_last_quarter(x: Tensor, y: Tensor, classes: int) -> float:
    split = len(x) * 3 // 4
    mean, scale = x[:split].mean(0), x[:split].std(0) + 1e-6
    predict = ridge_probe((x[:split] - mean) / scale, y[:split], classes)
    return (predict((x[split:] - mean) / scale) == y[split:]).double().mean().item()
