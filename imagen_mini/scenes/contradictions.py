"""Contradictions: scenes that are as described except for one object or the background, with
everything in its place.

Sampling can go wrong early: an object is taken for another one, or gets the colour of its
neighbour. An edit even starts from such an image: the source's, when the prompt becomes the
target's. A network trained on contradictions can continue from there to what the caption says.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

from imagen_mini.scenes.captions import Description
from imagen_mini.scenes.equivalents import is_free
from imagen_mini.scenes.scene import (
    BACKGROUNDS,
    COLORS,
    LIGHTS,
    MATERIALS,
    SHAPES,
    SIZES,
    SURFACES,
    Scene,
    held_out,
)


def find_contradiction(scene: Scene, description: Description, rng: random.Random) -> Scene | None:
    """Find a scene that contradicts a description in one object or in the background.

    One object gets another colour, shape or size, or the shape and colour of another object; or the
    background changes. In the world `studio` a material or the light may change as well. Everything
    keeps its place.

    Args:
        scene: A scene that fits the description.
        description: What the caption states.
        rng: Source of randomness.

    Returns:
        A scene of the training distribution that the description does not fit, or None if no try
        made one.
    """
    ways = WAYS if scene.light is None else WAYS_WITH_LIGHT
    for way in rng.choices(tuple(ways), tuple(ways.values()), k=8):
        for other in way(scene, rng):
            if not description.fits(other) and is_free(other) and not held_out(other):
                return other
    return None


def _with_one(scene: Scene, i: int, **changed) -> Scene:
    changed_object = replace(scene.objects[i], **changed)
    return replace(scene, objects=(*scene.objects[:i], changed_object, *scene.objects[i + 1 :]))


def _in_any_order(scene: Scene, rng: random.Random) -> list[int]:
    return rng.sample(range(len(scene.objects)), len(scene.objects))


def recolored(scene: Scene, rng: random.Random) -> Iterator[Scene]:
    """One object in another colour."""
    for i in _in_any_order(scene, rng):
        yield _with_one(
            scene, i, color=rng.choice([name for name in COLORS if name != scene.objects[i].color])
        )


def reshaped(scene: Scene, rng: random.Random) -> Iterator[Scene]:
    """One object in another shape."""
    for i in _in_any_order(scene, rng):
        yield _with_one(
            scene, i, shape=rng.choice([name for name in SHAPES if name != scene.objects[i].shape])
        )


def resized(scene: Scene, rng: random.Random) -> Iterator[Scene]:
    """One object in the other size."""
    for i in _in_any_order(scene, rng):
        yield _with_one(
            scene, i, size=rng.choice([name for name in SIZES if name != scene.objects[i].size])
        )


def taken_for_another(scene: Scene, rng: random.Random) -> Iterator[Scene]:
    """One object in the shape and colour of another one, which is then there twice."""
    for i in _in_any_order(scene, rng):
        for other in rng.sample(scene.objects, len(scene.objects)):
            yield _with_one(scene, i, shape=other.shape, color=other.color)


def on_another_background(scene: Scene, rng: random.Random) -> Iterator[Scene]:
    """The same objects on another background."""
    known = SURFACES if scene.background in SURFACES else BACKGROUNDS
    yield replace(
        scene, background=rng.choice([name for name in known if name != scene.background])
    )


def in_another_material(scene: Scene, rng: random.Random) -> Iterator[Scene]:
    """One object of another material."""
    for i in _in_any_order(scene, rng):
        yield _with_one(
            scene,
            i,
            material=rng.choice([name for name in MATERIALS if name != scene.objects[i].material]),
        )


def lit_from_another_side(scene: Scene, rng: random.Random) -> Iterator[Scene]:
    """The same scene with its light on another side."""
    yield replace(scene, light=rng.choice([name for name in LIGHTS if name != scene.light]))


# Ways to contradict, with how often each is tried first; the second list for scenes with light.
WAYS = {recolored: 4, reshaped: 3, resized: 1, taken_for_another: 3, on_another_background: 1}
WAYS_WITH_LIGHT = WAYS | {in_another_material: 2, lit_from_another_side: 1}
