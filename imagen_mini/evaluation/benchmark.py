"""The benchmark's captions: DrawBench-like categories that the parser can judge. It is not
DrawBench.

The lists are fixed functions of a seed, and no training uses the seeds of their images. What is new
differs between categories. The captions of `HELD_OUT_CATEGORIES` never occur in training. The
captions of `CATEGORIES` are drawn from the same few words as training captions, so the shorter ones
do occur there, beside other images: `seen_in_training` counts them. `benchmark.tsv` holds the first
30 captions of each category in the world `scenes`. In the world `studio` backgrounds are surfaces,
and `STUDIO_CATEGORIES` come on top; captions without a background are the same in both.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import combinations

from tqdm.auto import trange

from imagen_mini.scenes.captions import (
    RARE_WORDS,
    Caption,
    Description,
    ObjectDescription,
    Vocabulary,
    caption_from,
)
from imagen_mini.scenes.rewording import with_absence, with_misspelling, with_rare_words
from imagen_mini.scenes.scene import (
    COLORS,
    HELD_OUT_COLOR_SHAPE,
    HELD_OUT_COUNT,
    HELD_OUT_RELATIONS,
    HELD_OUT_TEXTURE_SHAPE,
    MATERIALS,
    RELATIONS,
    SHAPES,
    SIZES,
    TEXTURES,
    conflicts,
)
from imagen_mini.scenes.world import SCENES, World

Sampler = Callable[[random.Random, Vocabulary], Description]  # of a category's descriptions


def random_object(rng: random.Random, *said: str, shape: str | None = None) -> ObjectDescription:
    """Sample an object of the training distribution.

    Args:
        rng: Source of randomness.
        *said: Attributes that are stated, among "color", "size", "texture" and "material".
        shape: Its shape (default: random).
    """
    while True:
        obj = ObjectDescription(
            shape or rng.choice(tuple(SHAPES)),
            rng.choice(tuple(COLORS)) if "color" in said else None,
            rng.choice(tuple(SIZES)) if "size" in said else None,
            rng.choice(TEXTURES) if "texture" in said else None,
            rng.choice(MATERIALS) if "material" in said else None,
        )
        if (obj.color, obj.shape) not in HELD_OUT_COLOR_SHAPE and (
            obj.texture,
            obj.shape,
        ) not in HELD_OUT_TEXTURE_SHAPE:
            return obj


def _two(rng: random.Random, *said: str) -> tuple[ObjectDescription, ObjectDescription]:
    """Two objects of different shape that differ in every stated attribute."""
    while True:
        a, b = random_object(rng, *said), random_object(rng, *said)
        if a.shape != b.shape and all(getattr(a, s) != getattr(b, s) for s in said):
            return a, b


def related(rng: random.Random) -> Description:
    """Two coloured objects with a relation that is not held out."""
    while True:
        (a, b), relation = _two(rng, "color"), rng.choice(RELATIONS)
        d = Description((a, b), relation)
        if not held_out_relation(d):
            return d


def held_out_relation(d: Description) -> bool:
    """Return True if the two shapes and their relation are held out of training."""
    a, b = d.objects
    pairs = {
        (a.shape, d.relation, b.shape),
        (b.shape, {"right of": "left of", "below": "above"}.get(d.relation), a.shape),
    }
    return bool(pairs & HELD_OUT_RELATIONS)


OF_EACH = ("color", "size", "texture", "material")  # groups that are stated of both objects


def _said_of_two(
    rng: random.Random, groups: tuple[str, ...], vocabulary: Vocabulary
) -> Description:
    """Two objects of which some groups of attributes are stated: those of `OF_EACH`, their
    relation, the background, the light.
    """
    while True:
        a, b = _two(rng, *(g for g in groups if g in OF_EACH))
        d = Description(
            (a, b),
            rng.choice(RELATIONS) if "relation" in groups else None,
            rng.choice(vocabulary.backgrounds) if "background" in groups else None,
            rng.choice(vocabulary.lights) if "light" in groups else None,
        )
        upper, lower = (b, a) if d.relation == "below" else (a, b)
        conflicting = d.relation in ("above", "below") and conflicts(upper, lower)
        if not (conflicting or d.relation and held_out_relation(d)):
            return d


# how many attributes a caption of two objects states with each group
ATTRIBUTES_OF_TWO = {"color": 2, "size": 2, "relation": 1, "background": 1}


def _attributes(k: int) -> Sampler:
    """Two objects of which `k` attributes are stated, besides their shapes. As in training, an
    attribute is stated for both objects or for neither.
    """
    ways = [
        groups
        for n in range(1, 5)
        for groups in combinations(ATTRIBUTES_OF_TWO, n)
        if sum(ATTRIBUTES_OF_TWO[g] for g in groups) == k
    ]
    return lambda rng, vocabulary: _said_of_two(rng, rng.choice(ways), vocabulary)


def _conflicting(rng: random.Random) -> Description:
    """A large object clearly above a small one: against the training set's one regularity, and
    against nothing else.
    """
    while True:
        a, b = _two(rng, "color")
        d = Description(
            (
                ObjectDescription(a.shape, a.color, "large"),
                ObjectDescription(b.shape, b.color, "small"),
            ),
            "above",
        )
        if not held_out_relation(d):
            return d


def _rare_object(rng: random.Random) -> ObjectDescription:
    """An object with at least two words that have a rare synonym: its size has one."""
    while True:
        obj = random_object(rng, "color", "size")
        if {obj.color, obj.shape} & set(RARE_WORDS.values()):
            return obj


def _pick(rng: random.Random, pairs: frozenset) -> tuple:
    return rng.choice(sorted(pairs))


CATEGORIES: dict[str, Sampler] = {
    "one object": lambda r, v: Description((random_object(r, "color", "size"),)),
    "colors": lambda r, v: Description(
        (random_object(r, "color"),), background=r.choice(v.backgrounds)
    ),
    "size": lambda r, v: Description(_two(r, "color", "size")),
    "binding": lambda r, v: Description(_two(r, "color")),
    "counting": lambda r, v: Description((random_object(r, "color"),) * r.randint(1, 4)),
    "positional": lambda r, v: related(r),
    "texture": lambda r, v: Description((random_object(r, "color", "texture"),)),
    "two textures": lambda r, v: Description(_two(r, "color", "texture")),
    "description": lambda r, v: _said_of_two(
        r, ("color", "size", "texture", "relation", "background"), v
    ),
    **{f"{k} attribute{'s' * (k > 1)}": _attributes(k) for k in range(1, 7)},
}
STUDIO_CATEGORIES: dict[str, Sampler] = {
    "material": lambda r, v: Description((random_object(r, "color", "material"),)),
    "two materials": lambda r, v: Description(_two(r, "color", "material")),
    "light": lambda r, v: Description((random_object(r, "color"),), light=r.choice(v.lights)),
    "full description": lambda r, v: _said_of_two(
        r, (*OF_EACH, "relation", "background", "light"), v
    ),
}
HELD_OUT_CATEGORIES: dict[str, Sampler] = {
    "held-out color and shape": lambda r, v: Description(
        (ObjectDescription((p := _pick(r, HELD_OUT_COLOR_SHAPE))[1], p[0]),)
    ),
    "held-out texture and shape": lambda r, v: Description(
        (
            ObjectDescription(
                (p := _pick(r, HELD_OUT_TEXTURE_SHAPE))[1], r.choice(("orange", "pink")), None, p[0]
            ),
        )
    ),
    "held-out relation": lambda r, v: Description(
        (
            ObjectDescription((p := _pick(r, HELD_OUT_RELATIONS))[0], "orange"),
            ObjectDescription(p[2], "pink"),
        ),
        p[1],
    ),
    "held-out count": lambda r, v: Description((random_object(r, "color"),) * HELD_OUT_COUNT),
    "held-out phrase": lambda r, v: related(r),
    "conflicting": lambda r, v: _conflicting(r),
    "misspellings": CATEGORIES["one object"],
    "rare words": lambda r, v: Description((_rare_object(r),)),
    "negation": lambda r, v: Description((random_object(r, "color"),)),
}


def categories_of(world: World = SCENES) -> dict[str, Sampler]:
    """Return the categories of a world: those of `STUDIO_CATEGORIES` need its words."""
    own = STUDIO_CATEGORIES if world.vocabulary.materials else {}
    return CATEGORIES | own | HELD_OUT_CATEGORIES


def caption_of(category: str, rng: random.Random, world: World = SCENES) -> Caption:
    """Sample a caption of a category.

    Args:
        category: A key of `categories_of(world)`.
        rng: Source of randomness.
        world: The world that it is a caption of (default: `scenes`).
    """
    caption = caption_from(
        categories_of(world)[category](rng, world.vocabulary),
        rng,
        paraphrase=category == "held-out phrase",
    )
    if category == "misspellings":
        return with_misspelling(caption, rng)
    if category == "rare words":
        return with_rare_words(caption)
    if category == "negation":
        (obj,) = caption.description.objects
        while (
            absent := random_object(rng, "color")
        ).shape == obj.shape or absent.color == obj.color:
            pass
        return with_absence(caption, absent, rng)
    return caption


def benchmark(
    n: int, seed: int = 0, categories: list[str] | None = None, world: World = SCENES
) -> list[tuple[str, int, Caption]]:
    """Return the benchmark's prompts: the same for the same seed.

    Args:
        n: Number of captions of each category.
        seed: Which list of captions (default: 0).
        categories: Only these (default: all, held-out ones too).
        world: The world whose captions these are (default: `scenes`).

    Returns:
        A list of (category, seed of the image, caption).

    Raises:
        ValueError: for an unknown category.
    """
    known = categories_of(world)
    chosen = list(known) if categories is None else categories
    if unknown := set(chosen) - set(known):
        raise ValueError(f"unknown categories {sorted(unknown)}; there are {', '.join(known)}")
    return [
        (
            category,
            1000 * seed + i,
            caption_of(category, random.Random(f"benchmark/{seed}/{category}/{i}"), world),
        )
        for category in chosen
        for i in range(n)
    ]


def seen_in_training(
    prompts: list[tuple[str, int, Caption]],
    n: int = 200_000,
    seed: int = 0,
    progress: bool = False,
    world: World = SCENES,
) -> dict[str, int]:
    """Count the prompts that stand word for word among training captions.

    Args:
        prompts: As from `benchmark`.
        n: Number of training captions to look through, from the first one on (default: 200,000).
        seed: Of the training set (default: 0, the seed of all presets).
        progress: Show a progress bar (default: False).
        world: The world of the prompts and the training set (default: `scenes`).

    Returns:
        For each category of the prompts the number of seen ones.
    """
    wanted = {caption.text for _, _, caption in prompts}
    seen = set()
    for i in trange(n, desc="training captions", disable=not progress):
        text = world.training_caption(world.training_scene(seed, i), seed, i).text
        if text in wanted:
            seen.add(text)
    counts = dict.fromkeys((category for category, _, _ in prompts), 0)
    for category, _, caption in prompts:
        counts[category] += caption.text in seen
    return counts
