"""Errors planted in rendered images, to test a judge: each makes an image wrong in a way that
networks are wrong, too. A judge that calls such an image correct is no judge.

Every error blends the image with one of another scene, so that light and shade stay as they are.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from imagen_mini.evaluation.statistics import wilson_interval
from imagen_mini.scenes.parse import ParsedScene
from imagen_mini.scenes.render import masks
from imagen_mini.scenes.scene import (
    COLORS,
    GRID,
    SHAPES,
    SIZES,
    TEXTURES,
    Scene,
    SceneObject,
    sample_free_position,
)
from imagen_mini.scenes.world import WORLDS, World
from imagen_mini.utils.morphology import dilate

SHARE = 0.2  # of an object's area: how much of it is in error
OPACITY = 0.2  # of a ghost


def _another(rng: random.Random, choices, *but: str | None) -> str:
    return rng.choice([c for c in choices if c not in but])


def _side(mask: Tensor, rng: random.Random, share: float = SHARE) -> Tensor:
    """The pixels of a mask on one side of a straight cut: a share of its area."""
    angle = rng.uniform(0, 2 * torch.pi)
    direction = torch.tensor([angle]).sin(), torch.tensor([angle]).cos()
    rows, columns = torch.meshgrid(*(torch.arange(n) for n in mask.shape), indexing="ij")
    along = rows * direction[0] + columns * direction[1]
    return mask & (along >= along[mask].quantile(1 - share))


def _with(scene: Scene, o: SceneObject, **changes) -> Scene:
    """The scene with one object changed."""
    objects = tuple(replace(p, **changes) if p == o else p for p in scene.objects)
    return replace(scene, objects=objects)


def _without(scene: Scene, o: SceneObject) -> Scene:
    return replace(scene, objects=tuple(p for p in scene.objects if p != o))


def second_color(
    world: World, scene: Scene, o: SceneObject, image: Tensor, rng: random.Random
) -> Tensor:
    """A fifth of the object has another colour."""
    size = image.shape[-1]
    side = _side(masks(scene, size)[scene.objects.index(o)], rng)
    other = _with(scene, o, color=_another(rng, COLORS, o.color))
    return torch.where(side, world.render(other, size)[0], image)


def two_halves(
    world: World, scene: Scene, o: SceneObject, image: Tensor, rng: random.Random
) -> Tensor:
    """The object changes colour from one end to the other."""
    size = image.shape[-1]
    other = world.render(_with(scene, o, color=_another(rng, COLORS, o.color)), size)[0]
    mask = dilate(masks(scene, size)[[scene.objects.index(o)]], 1)[0]
    column = torch.arange(size).expand(size, size)
    first, last = column[mask].min(), column[mask].max()
    return torch.where(mask, torch.lerp(image, other, (column - first) / (last - first)), image)


def ghost(
    world: World, scene: Scene, o: SceneObject, image: Tensor, rng: random.Random
) -> Tensor | None:
    """A further object is there, faintly. None: there is no room for it."""
    shape, size, color = (rng.choice(tuple(c)) for c in (SHAPES, SIZES, COLORS))
    where = sample_free_position(rng, SHAPES[shape] * SIZES[size], list(scene.objects))
    if where is None:
        return None
    further = replace(
        o, y=where[1], x=where[0], shape=shape, color=color, size=size, texture="solid"
    )
    other = replace(scene, objects=(*scene.objects, further))
    return torch.lerp(image, world.render(other, image.shape[-1])[0], OPACITY)


def faded(
    world: World, scene: Scene, o: SceneObject, image: Tensor, rng: random.Random
) -> Tensor | None:
    """The object is half transparent. None: that makes it nearly one of the other colours."""
    size = image.shape[-1]
    mixed = torch.lerp(image, world.render(_without(scene, o), size)[0], 0.5)
    mask = masks(scene, size)[scene.objects.index(o)]
    colored = world.render([_with(scene, o, color=c) for c in COLORS], size)
    mean = ((torch.cat([mixed[None], colored]) + 1) / 2 * mask).sum((2, 3)) / mask.sum()
    return None if (mean[1:] - mean[0]).norm(dim=1).min() < 0.2 else mixed


def hole(world: World, scene: Scene, o: SceneObject, image: Tensor, rng: random.Random) -> Tensor:
    """The background shows through a round hole of a tenth of the object's area."""
    mask = masks(scene, image.shape[-1])[scene.objects.index(o)]
    inside = mask
    while (smaller := ~dilate(~inside[None], 1)[0]).any():  # the pixels furthest from its edge
        inside = smaller
    middle = rng.choice(inside.nonzero().tolist())
    rows, columns = torch.meshgrid(*(torch.arange(n) for n in mask.shape), indexing="ij")
    distance = ((rows - middle[0]) ** 2 + (columns - middle[1]) ** 2).float()
    within = mask & (distance <= distance[mask].quantile(SHARE / 2))
    return torch.where(within, world.render(_without(scene, o), image.shape[-1])[0], image)


def missing_part(
    world: World, scene: Scene, o: SceneObject, image: Tensor, rng: random.Random
) -> Tensor:
    """A fifth of the object is cut off."""
    size = image.shape[-1]
    side = _side(dilate(masks(scene, size)[[scene.objects.index(o)]], 1)[0], rng)
    return torch.where(side, world.render(_without(scene, o), size)[0], image)


def further_part(
    world: World, scene: Scene, o: SceneObject, image: Tensor, rng: random.Random
) -> Tensor:
    """A bar of the object's colour sticks out of it: a part of a square that is not there."""
    size = image.shape[-1]
    scale, to_left, reach = size // GRID, o.x > GRID // 2, round(1.5 * o.radius)
    x, y = o.x * scale, o.y * scale
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    bar = (
        ((rows - y).abs() <= 2 * scale)
        & ((columns < x) if to_left else (columns > x))
        & ((columns - x).abs() <= reach * scale)
    )
    away = reach - 8  # so that the square reaches over the bar's end
    square = replace(o, shape="square", size="large", x=o.x - away if to_left else o.x + away)
    other = world.render(replace(scene, objects=(*_without(scene, o).objects, square)), size)[0]
    return torch.where(bar, other, image)


def two_shapes(
    world: World, scene: Scene, o: SceneObject, image: Tensor, rng: random.Random
) -> Tensor:
    """The left half of the object has another shape than the right half."""
    size = image.shape[-1]
    other = world.render(_with(scene, o, shape=_another(rng, SHAPES, o.shape)), size)[0]
    left = torch.arange(size) < o.x * size // GRID
    return torch.where(left & _near(o, size), other, image)


def _near(o: SceneObject, size: int) -> Tensor:
    """The square around an object, bool [size, size]."""
    at = (torch.arange(size) + 0.5) * GRID / size
    return ((at - o.y).abs()[:, None] <= o.radius + 1) & ((at - o.x).abs() <= o.radius + 1)


def other_background(
    world: World, scene: Scene, o: SceneObject, image: Tensor, rng: random.Random
) -> Tensor:
    """A fifth of the background is another background."""
    size = image.shape[-1]
    side = _side(~dilate(masks(scene, size).any(0)[None], 1)[0], rng)
    other = replace(scene, background=_another(rng, world.vocabulary.backgrounds, scene.background))
    return torch.where(side, world.render(other, size)[0], image)


def two_textures(
    world: World, scene: Scene, o: SceneObject, image: Tensor, rng: random.Random
) -> Tensor | None:
    """Half of the object has another texture. None: at 64 px textures cannot be seen."""
    size = image.shape[-1]
    if size == GRID:
        return None
    other = world.render(_with(scene, o, texture=_another(rng, TEXTURES, o.texture)), size)[0]
    mask = masks(scene, size)[scene.objects.index(o)]
    return torch.where(_side(mask, rng, 0.5), other, image)


Plant = Callable[[World, Scene, SceneObject, Tensor, random.Random], Tensor | None]
PLANTED_ERRORS: dict[str, Plant] = {
    "a fifth in another colour": second_color,
    "colour changes across it": two_halves,
    "a ghost at 20 %": ghost,
    "half transparent": faded,
    "a hole": hole,
    "a fifth cut off": missing_part,
    "a bar sticks out": further_part,
    "two shapes in one": two_shapes,
    "two backgrounds": other_background,
    "two textures in one": two_textures,
}


def measure_planted_errors(
    scenes: Sequence[Scene],
    size: int,
    read: Callable[[Tensor], list[ParsedScene]] | None = None,
    world: World = WORLDS["scenes"],
) -> dict[str, dict]:
    """Measure how often a judge reads a scene from an image in which an error was planted.

    Args:
        scenes: True scenes, each with at least one object.
        size: The side of the images.
        read: The judge: images [b, 3, size, size] to what it reads (default: that of the world).
        world: The world of the scenes (default: `scenes`).

    Returns:
        For each kind of error "n", "passed" (a scene was read without a flaw, as if nothing were
        wrong) and the 95 % `interval` of the share that passed.
    """
    table = {}
    for name, plant in PLANTED_ERRORS.items():
        planted = []
        for number, scene in enumerate(scenes):
            rng = random.Random(f"planted/{name}/{number}")
            o = rng.choice(scene.objects)
            image = plant(world, scene, o, world.render(scene, size)[0], rng)
            if image is not None:
                planted.append(image)
        if planted:
            passed = sum(
                parsed.scene is not None and not parsed.flaws
                for parsed in (read or world.parse_image)(torch.stack(planted))
            )
            table[name] = {
                "n": len(planted),
                "passed": passed,
                "interval": wilson_interval(passed, len(planted)),
            }
    return table
