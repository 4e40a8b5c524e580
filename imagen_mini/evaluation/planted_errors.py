"""Errors planted in rendered images, to test a judge: each makes an image wrong in a way that
networks are wrong, too. A judge that calls such an image correct is no judge.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from imagen_mini.evaluation.statistics import wilson_interval
from imagen_mini.scenes.parse import ParsedScene, parse_image
from imagen_mini.scenes.render import masks, render
from imagen_mini.scenes.scene import (
    BACKGROUNDS,
    COLORS,
    GRID,
    SHAPES,
    SIZES,
    TEXTURES,
    Scene,
    SceneObject,
    sample_free_position,
)
from imagen_mini.utils.morphology import dilate

SHARE = 0.2  # of an object's area: how much of it is in error
OPACITY = 0.2  # of a ghost


def _another(rng: random.Random, choices, *but: str | None) -> str:
    return rng.choice([c for c in choices if c not in but])


def _paint(image: Tensor, mask: Tensor, color: Sequence[float]) -> Tensor:
    """The image with the pixels of a mask in one colour, given in [0, 1]."""
    return torch.where(mask, torch.tensor(color)[:, None, None] * 2 - 1, image)


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


def second_color(scene: Scene, o: SceneObject, image: Tensor, rng: random.Random) -> Tensor:
    """A fifth of the object has another colour."""
    mask = masks(scene, image.shape[-1])[scene.objects.index(o)]
    return _paint(image, _side(mask, rng), COLORS[_another(rng, COLORS, o.color)])


def two_halves(scene: Scene, o: SceneObject, image: Tensor, rng: random.Random) -> Tensor:
    """The object changes colour from one end to the other."""
    size = image.shape[-1]
    other = render(_with(scene, o, color=_another(rng, COLORS, o.color)), size)[0]
    mask = dilate(masks(scene, size)[[scene.objects.index(o)]], 1)[0]
    column = torch.arange(size).expand(size, size)
    first, last = column[mask].min(), column[mask].max()
    return torch.where(mask, torch.lerp(image, other, (column - first) / (last - first)), image)


def ghost(scene: Scene, o: SceneObject, image: Tensor, rng: random.Random) -> Tensor | None:
    """A further object is there, faintly. None: there is no room for it."""
    shape, size, color = (rng.choice(tuple(c)) for c in (SHAPES, SIZES, COLORS))
    where = sample_free_position(rng, SHAPES[shape] * SIZES[size], list(scene.objects))
    if where is None:
        return None
    further = SceneObject(where[1], where[0], shape, color, size, "solid")
    other = render(replace(scene, objects=(*scene.objects, further)), image.shape[-1])[0]
    return torch.lerp(image, other, OPACITY)


def faded(scene: Scene, o: SceneObject, image: Tensor, rng: random.Random) -> Tensor | None:
    """The object is half transparent. None: that makes it nearly one of the other colours."""
    ground, own = torch.tensor(BACKGROUNDS[scene.background]), torch.tensor(COLORS[o.color])
    if ((ground + own) / 2 - torch.tensor(list(COLORS.values()))).norm(dim=1).min() < 0.2:
        return None
    rest = Scene(tuple(p for p in scene.objects if p != o), scene.background)
    return torch.lerp(image, render(rest, image.shape[-1])[0], 0.5)


def hole(scene: Scene, o: SceneObject, image: Tensor, rng: random.Random) -> Tensor:
    """The background shows through a round hole of a tenth of the object's area."""
    mask = masks(scene, image.shape[-1])[scene.objects.index(o)]
    inside = mask
    while (smaller := ~dilate(~inside[None], 1)[0]).any():  # the pixels furthest from its edge
        inside = smaller
    middle = rng.choice(inside.nonzero().tolist())
    rows, columns = torch.meshgrid(*(torch.arange(n) for n in mask.shape), indexing="ij")
    distance = ((rows - middle[0]) ** 2 + (columns - middle[1]) ** 2).float()
    return _paint(
        image,
        mask & (distance <= distance[mask].quantile(SHARE / 2)),
        BACKGROUNDS[scene.background],
    )


def missing_part(scene: Scene, o: SceneObject, image: Tensor, rng: random.Random) -> Tensor:
    """A fifth of the object is cut off."""
    mask = masks(scene, image.shape[-1])[[scene.objects.index(o)]]
    return _paint(image, _side(dilate(mask, 1)[0], rng), BACKGROUNDS[scene.background])


def further_part(scene: Scene, o: SceneObject, image: Tensor, rng: random.Random) -> Tensor:
    """A bar of the object's colour sticks out of it."""
    scale = image.shape[-1] // GRID
    x, y, reach = o.x * scale, o.y * scale, round(1.5 * o.radius) * scale
    rows, columns = torch.meshgrid(*(torch.arange(n) for n in image.shape[1:]), indexing="ij")
    to_left = x > image.shape[-1] // 2
    bar = (
        ((rows - y).abs() <= 2 * scale)
        & ((columns < x) if to_left else (columns > x))
        & ((columns - x).abs() <= reach)
    )
    return _paint(image, bar, COLORS[o.color])


def two_shapes(scene: Scene, o: SceneObject, image: Tensor, rng: random.Random) -> Tensor:
    """The left half of the object has another shape than the right half."""
    size = image.shape[-1]
    other = render(_with(scene, o, shape=_another(rng, SHAPES, o.shape)), size)[0]
    left = torch.arange(size) < o.x * size // GRID
    return torch.where(left & _near(o, size), other, image)


def _near(o: SceneObject, size: int) -> Tensor:
    """The square around an object, bool [size, size]."""
    at = (torch.arange(size) + 0.5) * GRID / size
    return ((at - o.y).abs()[:, None] <= o.radius + 1) & ((at - o.x).abs() <= o.radius + 1)


def other_background(scene: Scene, o: SceneObject, image: Tensor, rng: random.Random) -> Tensor:
    """A fifth of the background has another background's colour."""
    empty = ~dilate(masks(scene, image.shape[-1]).any(0)[None], 1)[0]
    other = BACKGROUNDS[_another(rng, BACKGROUNDS, scene.background)]
    return _paint(image, _side(empty, rng), other)


def two_textures(scene: Scene, o: SceneObject, image: Tensor, rng: random.Random) -> Tensor | None:
    """Half of the object has another texture. None: at 64 px textures cannot be seen."""
    size = image.shape[-1]
    if size == GRID:
        return None
    other = render(_with(scene, o, texture=_another(rng, TEXTURES, o.texture)), size)[0]
    mask = masks(scene, size)[scene.objects.index(o)]
    return torch.where(_side(mask, rng, 0.5), other, image)


Plant = Callable[[Scene, SceneObject, Tensor, random.Random], Tensor | None]
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
    read: Callable[[Tensor], list[ParsedScene]] = parse_image,
) -> dict[str, dict]:
    """Measure how often a judge reads a scene from an image in which an error was planted.

    Args:
        scenes: True scenes, each with at least one object.
        size: The side of the images.
        read: The judge: images [b, 3, size, size] to what it reads (default: the exact parser).

    Returns:
        For each kind of error "n", "passed" (some scene was read, as if nothing were wrong) and
        the 95 % `interval` of the share that passed.
    """
    table = {}
    for name, plant in PLANTED_ERRORS.items():
        planted = []
        for number, scene in enumerate(scenes):
            rng = random.Random(f"planted/{name}/{number}")
            image = plant(scene, rng.choice(scene.objects), render(scene, size)[0], rng)
            if image is not None:
                planted.append(image)
        if planted:
            passed = sum(parsed.scene is not None for parsed in read(torch.stack(planted)))
            table[name] = {
                "n": len(planted),
                "passed": passed,
                "interval": wilson_interval(passed, len(planted)),
            }
    return table
