"""Scenes and images of what a caption says, and prompts tokenized by hand."""

import random
from dataclasses import replace

from imagen_mini.scenes.render import render
from imagen_mini.scenes.scene import (
    BACKGROUNDS,
    COLORS,
    GRID,
    MIN_GAP,
    SIZES,
    TEXTURES,
    Scene,
    SceneObject,
    unambiguous_relation,
)
from imagen_mini.text.encoder import Tokens


def one(shape="circle", color="red", size="large", texture="solid", x=20, y=32):
    return SceneObject(y=y, x=x, shape=shape, color=color, size=size, texture=texture)


def scene_of(description, rng, accept=lambda scene: True):
    """A random scene that shows what is described, sampled until it fits.

    On purpose independent of the package's `sample_scene_matching`.
    """
    for _ in range(20_000):
        objects = []
        for obj in description.objects:
            size = obj.size or (
                rng.choice(tuple(SIZES)) if len(description.objects) < 3 else "small"
            )
            o = SceneObject(
                0,
                0,
                obj.shape,
                obj.color or rng.choice(tuple(COLORS)),
                size,
                obj.texture or rng.choice(TEXTURES),
            )
            low, high = int(o.radius + 1.5), int(GRID - o.radius - 0.5)
            for _ in range(20):
                o = replace(o, x=rng.randint(low, high), y=rng.randint(low, high))
                if all(
                    (o.x - p.x) ** 2 + (o.y - p.y) ** 2 >= (o.radius + p.radius + MIN_GAP) ** 2
                    for p in objects
                ):
                    objects.append(o)
                    break
        apart = len(objects) == len(description.objects)
        clear = apart and (
            description.relation is None or unambiguous_relation(*objects) == description.relation
        )
        scene = Scene(tuple(objects), description.background or rng.choice(tuple(BACKGROUNDS)))
        if clear and accept(scene):
            return scene
    raise AssertionError(f"no scene shows {description}")


def correct_images(prompts, size):
    """A `generate` that knows the truth: for each prompt an image that shows it."""
    descriptions = {c.text: c.description for _, _, c in prompts}

    def generate(texts, seeds):
        return render(
            [scene_of(descriptions[t], random.Random(f"{t}/{s}")) for t, s in zip(texts, seeds)],
            size,
        )

    return generate


def tokens(text):
    """Tokens by hand: spaces separate words, hyphens the pieces of a word. And the end token."""
    words = [w.split("-") for w in text.split()]
    pieces = [p for w in words for p in w]
    word_ids = [i for i, w in enumerate(words) for _ in w]
    return Tokens(
        tuple(range(len(pieces) + 1)),
        (*pieces, "</s>"),
        (*word_ids, None),
        tuple("".join(w) for w in words),
    )
