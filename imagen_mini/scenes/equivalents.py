"""Equivalent scenes: a second scene that a caption describes as well as the first, and that differs
from it in two places which must agree.

"A red circle and a blue square" does not say which of the two is on the left. What a network must
know is that if one place shows the circle, the other shows the square. "Four stars" does not say
where: if one place has a star less, another has one more. "A star" does not say its colour: if one
half of it is red, so is the other. Nor does it say its texture, which only super-resolution adds.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from imagen_mini.scenes.captions import Description
from imagen_mini.scenes.scene import (
    COLORS,
    GRID,
    MIN_GAP,
    TEXTURES,
    Scene,
    SceneObject,
    held_out,
    sample_free_position,
)


@dataclass(frozen=True)
class EquivalentScene:
    """A second scene that fits the same description as a first one.

    Args:
        scene: The second scene.
        places: The two points (x, y), in 1/64 of the width, around which it differs from the first.
    """

    scene: Scene
    places: tuple[tuple[float, float], tuple[float, float]]


def sides(places: Tensor, size: int) -> Tensor:
    """Return masks of the pixels that are nearer to the first place than to the second.

    Args:
        places: [b, 2, 2], pairs of points (x, y) in 1/64 of the width; NaN for no pair.
        size: Width of the masks in pixels.

    Returns:
        [b, 1, size, size]: 1 where a pixel is nearer to the first place, else 0. All 0 for NaN.
    """
    line = (torch.arange(size, device=places.device) + 0.5) * GRID / size
    x, y = places[:, :, :, None, None].unbind(2)
    first, second = ((line - x) ** 2 + (line[:, None] - y) ** 2).unbind(1)
    return (first < second).float()[:, None]


def find_equivalent(
    scene: Scene, description: Description, rng: random.Random, textures: bool = False
) -> EquivalentScene | None:
    """Find another scene of the training distribution that fits the same description.

    An object takes another colour, two objects swap places, or an object moves: a random choice
    among what is possible.

    Args:
        scene: A scene that fits the description.
        description: What the caption states.
        rng: Source of randomness.
        textures: Change the texture of one object and nothing else (default: False).

    Returns:
        The equivalent scene, or None if there is none.
    """
    for way in (retexture_object,) if textures else rng.choice(ORDERS):
        for other in way(scene, rng):
            differs = textures or other.scene.without_texture() != scene.without_texture()
            if (
                differs
                and description.fits(other.scene)
                and is_free(other.scene)
                and not held_out(other.scene)
            ):
                return other
    return None


def swap_objects(scene: Scene, rng: random.Random) -> Iterator[EquivalentScene]:
    """Swap the places of two objects; sizes and colours move along or stay, each at random.

    Sampling often decides on colours before shapes. Where the caption leaves colours open, it is
    then undecided which of the two shapes has which colour.
    """
    pairs = list(itertools.combinations(scene.objects, 2))
    for a, b in rng.sample(pairs, len(pairs)):
        for staying in rng.sample([(), ("size",), ("color",), ("size", "color")], 4):
            kept = ("x", "y", *staying)
            yield EquivalentScene(
                _with(scene, {a: _in_place_of(b, a, kept), b: _in_place_of(a, b, kept)}),
                ((a.x, a.y), (b.x, b.y)),
            )


def move_object(scene: Scene, rng: random.Random) -> Iterator[EquivalentScene]:
    """Move an object to another place, clear of its first one."""
    for obj in rng.sample(scene.objects, len(scene.objects)):
        if (place := sample_free_position(rng, obj.radius, list(scene.objects))) is not None:
            yield EquivalentScene(
                _with(scene, {obj: replace(obj, x=place[0], y=place[1])}), ((obj.x, obj.y), place)
            )


def recolor_object(scene: Scene, rng: random.Random) -> Iterator[EquivalentScene]:
    """Give an object another colour; the two places are halves of it.

    Objects that all share shape and colour are left alone: a caption with a number would not fit.
    """
    if len(scene.objects) > 1 and len({(o.shape, o.color) for o in scene.objects}) == 1:
        return
    for obj in rng.sample(scene.objects, len(scene.objects)):
        color = rng.choice([name for name in COLORS if name != obj.color])
        yield EquivalentScene(_with(scene, {obj: replace(obj, color=color)}), _halves(obj, rng))


def retexture_object(scene: Scene, rng: random.Random) -> Iterator[EquivalentScene]:
    """Give an object another texture; the two places are halves of it, the 64 px image is equal."""
    for obj in rng.sample(scene.objects, len(scene.objects)):
        texture = rng.choice([name for name in TEXTURES if name != obj.texture])
        yield EquivalentScene(_with(scene, {obj: replace(obj, texture=texture)}), _halves(obj, rng))


# Orders in which the ways are tried: those that are possible less often come first more often.
ORDERS = (
    (swap_objects, move_object, recolor_object),
    (recolor_object, swap_objects, move_object),
    (recolor_object, swap_objects, move_object),
    (move_object, swap_objects, recolor_object),
)


def is_free(scene: Scene) -> bool:
    """Return True if all objects lie inside the image and apart, as `random_scene` places them."""
    inside = all(
        int(o.radius + 1.5) <= at <= int(GRID - o.radius - 0.5)
        for o in scene.objects
        for at in (o.x, o.y)
    )
    return inside and all(
        (a.x - b.x) ** 2 + (a.y - b.y) ** 2 >= (a.radius + b.radius + MIN_GAP) ** 2
        for a, b in itertools.combinations(scene.objects, 2)
    )


def _halves(
    obj: SceneObject, rng: random.Random
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return a point on either side of a random line through the object's centre."""
    angle = rng.uniform(0, 2 * math.pi)
    dx, dy = math.cos(angle), math.sin(angle)
    return (obj.x + dx, obj.y + dy), (obj.x - dx, obj.y - dy)


def _with(scene: Scene, changed: dict[SceneObject, SceneObject]) -> Scene:
    return replace(scene, objects=tuple(changed.get(o, o) for o in scene.objects))


def _in_place_of(obj: SceneObject, other: SceneObject, kept: tuple[str, ...]) -> SceneObject:
    return replace(obj, **{name: getattr(other, name) for name in kept})
