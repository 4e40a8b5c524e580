"""A random scene that shows what a description says."""

from __future__ import annotations

import random

from imagen_mini.scenes.captions import SCENES_VOCABULARY, Description, Vocabulary
from imagen_mini.scenes.scene import (
    COLORS,
    SHAPES,
    SIZES,
    TEXTURES,
    Scene,
    SceneObject,
    sample_free_position,
)


def sample_scene_matching(
    description: Description, rng: random.Random, vocabulary: Vocabulary = SCENES_VOCABULARY
) -> Scene:
    """Sample a random scene that a description fits.

    Attributes that the description leaves open are random.

    Args:
        description: What the scene must show.
        rng: Source of randomness.
        vocabulary: The words of the world (default: those of the world `scenes`).
    """
    while True:
        objects: list[SceneObject] = []
        for obj in description.objects:
            size, texture = (
                obj.size or rng.choice(tuple(SIZES)),
                obj.texture or rng.choice(TEXTURES),
            )
            where = sample_free_position(rng, SIZES[size] * SHAPES[obj.shape], objects)
            if where is not None:
                objects.append(
                    SceneObject(
                        x=where[0],
                        y=where[1],
                        shape=obj.shape,
                        color=obj.color or rng.choice(tuple(COLORS)),
                        size=size,
                        texture=texture,
                        material=obj.material or _any(vocabulary.materials, rng),
                    )
                )
        scene = Scene(
            tuple(objects),
            description.background or rng.choice(vocabulary.backgrounds),
            description.light or _any(vocabulary.lights, rng),
            rng.getrandbits(32) if vocabulary.lights else 0,
        )
        if description.fits(scene):
            return scene


def _any(words: tuple[str, ...], rng: random.Random) -> str | None:
    """A random word, or None (and no random number) of a world that has none."""
    return rng.choice(words) if words else None
