"""Images with what each of their pixels shows, for `train.studio_judge`: true scenes, scenes with
something wrong in them, and corrupted images of both.

What is wrong is labelled as what it is. Where two scenes are blended, so that something is there
faintly or has a mixture of two colours, the label is "none of these".
"""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from imagen_mini.evaluation.corruptions import jpeg
from imagen_mini.scenes.render import coverage
from imagen_mini.scenes.scene import (
    COLORS,
    GRID,
    LIGHTS,
    MATERIALS,
    SHAPES,
    SIZES,
    SURFACES,
    TEXTURES,
    Scene,
    SceneObject,
    sample_free_position,
)
from imagen_mini.scenes.studio.reader import FOREIGN, GROUND, KINDS
from imagen_mini.scenes.studio.render import PAINTS, pack_studio_scenes, render_studio_packed
from imagen_mini.scenes.studio.sampling import random_studio_scene
from imagen_mini.utils.images import blur
from imagen_mini.utils.rng import generator

SPOILED, CORRUPTED = 0.45, 0.45  # how many images have something wrong in them; are corrupted
# An object over the ground is faint from FAINT[0] to FAINT[1] of opacity, and nothing is asked
# between that and SOLID. Likewise a mixture of two colours.
FAINT, MIXED, SOLID = (0.12, 0.75), (0.3, 0.7), 0.05
VISIBLE = 0.05  # mean change of a pixel's values, below which nobody is asked to see it


class Labels(NamedTuple):
    """What each pixel shows, as shares that sum to 1, and how much each answer counts."""

    kind: Tensor  # [b, 10, GRID, GRID]
    surface: Tensor  # [b, 5, GRID, GRID]
    light: Tensor  # [b] long
    asked: Tensor  # [b, GRID, GRID]: does the kind count?
    of_ground: Tensor  # [b, GRID, GRID]: does the surface?
    asked_light: Tensor  # [b]
    scenes: list[Scene]


def truth(scenes: list[Scene]) -> tuple[Tensor, Tensor]:
    """What each pixel of true scenes shows: kind [b, 10, 64, 64] and surface [b, 5, 64, 64]."""
    packed = pack_studio_scenes(scenes)
    cover, rows, columns = coverage(packed.numbers, GRID)
    kind = torch.zeros(len(scenes), KINDS, GRID, GRID)
    of = 1 + packed.numbers[:, 6].long()
    where = (packed.index[:, None, None], of[:, None, None], rows[:, :, None], columns[:, None, :])
    kind.index_put_(where, cover, accumulate=True)
    kind[:, GROUND] = (1 - kind.sum(1)).clamp(min=0)
    surface = F.one_hot(packed.surfaces, len(SURFACES)).float()[:, :, None, None]
    return kind, surface.expand(-1, -1, GRID, GRID)


def some_scene(rng: random.Random) -> Scene:
    """A scene of 0 to 5 objects, held-out combinations included."""
    count = rng.choices((0, 1, 2, 3, 4, 5), (2, 25, 30, 17, 14, 12))[0]
    scene = random_studio_scene(rng, count=max(count, 1), exclude_held_out=False)
    return scene if count else replace(scene, objects=())


class Spoiled(NamedTuple):
    """Another scene, blended into the first one."""

    other: Scene
    where: Tensor  # [GRID, GRID] bool
    opacity: Tensor  # [GRID, GRID] in [0, 1]


def spoil(scene: Scene, rng: random.Random, size: int) -> Spoiled | None:
    """Decide what is wrong with a scene. None: it could not be done."""
    everywhere = torch.ones(GRID, GRID, dtype=torch.bool)
    at = torch.arange(GRID) + 0.5
    y, x = at[:, None], at[None, :]
    full = torch.ones(GRID, GRID)

    def half_plane(of: Tensor, share: float) -> Tensor:
        angle = rng.uniform(0, 2 * math.pi)
        along = x * math.cos(angle) + y * math.sin(angle)
        return of & (along >= along[of].quantile(1 - share))

    def another(choices, but):
        return rng.choice([c for c in choices if c != but])

    def changed(o: SceneObject, **changes) -> Scene:
        return replace(
            scene, objects=tuple(replace(p, **changes) if p == o else p for p in scene.objects)
        )

    # 1. Without objects: another surface, or a ghost.
    ways = ["surface", "surface", "ghost", "ghost", "scene"]
    if scene.objects:
        ways += ["color", "gradient", "mixture", "ghost", "faded", "hole", "cut", "cut"]
        ways += ["shape", "shape", "bar", "material"] + ["texture"] * (size > GRID)
    way = rng.choice(ways)
    if way == "surface":
        other = replace(scene, background=another(SURFACES, scene.background))
        return Spoiled(other, half_plane(everywhere, rng.uniform(0.1, 0.9)), full)
    if way == "scene":
        other = some_scene(rng)
        return Spoiled(other, everywhere, full * rng.uniform(0.1, 0.9))
    if way == "ghost":
        further = random_studio_scene(rng, count=1, exclude_held_out=False).objects[0]
        where = sample_free_position(rng, further.radius, list(scene.objects))
        if where is None:
            return None
        further = replace(further, x=where[0], y=where[1])
        other = replace(scene, objects=(*scene.objects, further))
        return Spoiled(other, everywhere, full * rng.uniform(0.12, rng.choice((0.25, 0.7))))

    # 2. Something is wrong with one object.
    o = rng.choice(scene.objects)
    near = ((y - o.y).abs() <= o.radius + 1) & ((x - o.x).abs() <= o.radius + 1)
    share = rng.uniform(0.1, 0.6)
    without = replace(scene, objects=tuple(p for p in scene.objects if p != o))
    if way in ("color", "gradient", "mixture"):
        other = changed(o, color=another(COLORS, o.color))
        if way == "color":
            return Spoiled(other, half_plane(near, share), full)
        if way == "gradient":
            ramp = ((x - o.x) / (2 * SIZES[o.size]) + 0.5).clamp(0, 1).expand(GRID, GRID)
            return Spoiled(other, near, rng.choice((ramp, ramp.T, 1 - ramp, 1 - ramp.T)))
        return Spoiled(other, near, full * rng.uniform(0.3, 0.7))
    if way == "faded":
        return Spoiled(without, everywhere, full * rng.uniform(0.2, 0.88))
    if way == "cut":
        return Spoiled(without, half_plane(near, rng.uniform(0.1, 0.5)), full)
    if way == "hole":
        by, bx = (p + rng.uniform(-0.7, 0.7) * SIZES[o.size] for p in (o.y, o.x))
        return Spoiled(without, ((y - by) ** 2 + (x - bx) ** 2) <= rng.uniform(1.5, 4) ** 2, full)
    if way == "shape":
        other = changed(o, shape=another(SHAPES, o.shape))
        return Spoiled(other, half_plane(near, rng.uniform(0.3, 0.7)), full)
    if way == "bar":
        # a part of a large square of the same colour beside it
        to_left, upright = rng.random() < 0.5, rng.random() < 0.5
        by = rng.uniform(0.5, 1.0) * SIZES[o.size] * (-1 if to_left else 1)
        place = {"y": round(o.y + by)} if upright else {"x": round(o.x + by)}
        other = changed(o, shape="square", size="large", **place)
        wide, long = (x - o.x, y - o.y) if upright else (y - o.y, x - o.x)
        long = -long if to_left else long
        bar = (wide.abs() <= rng.uniform(1, 3)) & (long > 0) & (long <= rng.uniform(1.2, 1.8) * 10)
        return Spoiled(other, bar, full)
    change = {"material": another(MATERIALS, o.material)}
    if way == "texture":
        change = {"texture": another(TEXTURES, o.texture)}
    if rng.random() < 0.3:  # a mixture of both
        return Spoiled(changed(o, **change), near, full * rng.uniform(0.3, 0.7))
    return Spoiled(changed(o, **change), half_plane(near, rng.uniform(0.25, 0.75)), full)


def blend(
    images: Tensor, labels: tuple[Tensor, ...], scenes: list[Scene], rng: random.Random, clean: bool
) -> tuple[Tensor, Labels]:
    """Spoil some of the images, [b, 3, size, size], of which `truth` says what they show."""
    b, size = len(images), images.shape[-1]
    spoiled = {
        i: found
        for i, scene in enumerate(scenes)
        if not clean and rng.random() < SPOILED and (found := spoil(scene, rng, size)) is not None
    }
    kind, surface = (part.clone() for part in labels)
    asked = torch.ones(b, GRID, GRID)
    pure = torch.ones(b, GRID, GRID)  # the ground is that of one scene
    asked_light = torch.ones(b)
    if spoiled:
        at = torch.tensor(list(spoiled))
        others = [s.other for s in spoiled.values()]
        other_image = render_studio_packed(pack_studio_scenes(others), size)
        other = truth(others)
        opacity = torch.stack([s.opacity for s in spoiled.values()])
        share = opacity * torch.stack([s.where for s in spoiled.values()])
        fine = share.repeat_interleave(size // GRID, 1).repeat_interleave(size // GRID, 2)
        change = fine[:, None] * (other_image - images[at])
        images[at] += change
        # 1. Every pixel shows the mixture of what both show ...
        one = [part[at] for part in labels]
        mixed = [torch.lerp(p, q, share[:, None]) for p, q in zip(one, other)]
        # 2. ... but an object that is there faintly is none, nor is a mixture of two colours.
        first, second = one[0][:, 0] > 0.5, other[0][:, 0] > 0.5  # is it ground?
        there = torch.where(first, share, 1 - share)  # opacity of the object
        same = (one[0] - other[0]).abs().sum(1) < 0.1
        low, high = (
            torch.where(first == second, share.new_tensor(m), share.new_tensor(f))
            for m, f in zip(MIXED, FAINT)
        )
        there = torch.where(first == second, share, there)
        foreign = ~same & (there >= low) & (there <= high)
        amount = F.avg_pool2d(change.abs().mean(1), size // GRID)
        visible = amount > VISIBLE
        unclear = ~same & ~foreign & (there > SOLID) & (there < 1 - SOLID)
        unclear |= foreign & ~visible
        # outlines between two scenes
        mixed[0] = torch.where(
            foreign[:, None],
            F.one_hot(torch.tensor(FOREIGN), KINDS).view(KINDS, 1, 1).float(),
            mixed[0],
        )
        kind[at], surface[at] = mixed
        asked[at] = 1 - unclear.float()
        pure[at] = ((share < SOLID) | (share > 1 - SOLID) | (one[1] == other[1]).all(1)).float()
        light = torch.tensor([scenes[i].light == s.other.light for i, s in spoiled.items()])
        asked_light[at] = light.float()
    if not clean:
        add_blobs(images, kind, asked, rng)
    of_ground = kind[:, 0] * pure * asked
    light = torch.tensor([LIGHTS.index(s.light) for s in scenes])
    found = Labels(kind, surface, light, asked, of_ground, asked_light, scenes)
    return images, found


def add_blobs(images: Tensor, kind: Tensor, asked: Tensor, rng: random.Random):
    """Put spots of any colour on some images."""
    palette = F.normalize(torch.tensor(list(PAINTS.values())), dim=1)
    scale = images.shape[-1] // GRID
    at = torch.arange(images.shape[-1]) / scale
    for i in range(len(images)):
        if rng.random() > 0.08:
            continue
        color = torch.tensor([rng.random() for _ in range(3)])
        if (F.normalize(color, dim=0) @ palette.T).max() > 0.97:
            continue  # it may be one of the colours, in another light
        x, y, a, b, turn = (
            rng.uniform(4, 60), rng.uniform(4, 60), rng.uniform(2, 9), rng.uniform(2, 9),
            rng.uniform(0, math.pi),
        )  # fmt: skip
        dx, dy = at[None, :] - x, at[:, None] - y
        u, v = dx * math.cos(turn) + dy * math.sin(turn), dy * math.cos(turn) - dx * math.sin(turn)
        inside = (
            (u / a) ** 2 + (v / b) ** 2 < 1 if rng.random() < 0.5 else (u.abs() < a) & (v.abs() < b)
        )
        g = generator(rng.getrandbits(30), "blob")
        bumps = F.interpolate(
            torch.randn(1, 1, 16, 16, generator=g), images.shape[-1], mode="bicubic"
        )
        paint = (color[:, None, None] + 0.12 * bumps[0]).clamp(0, 1) * 2 - 1
        soft = inside.float()
        change = soft * (paint - images[i])
        images[i] += change
        small, seen = (
            F.avg_pool2d(p[None, None], scale)[0, 0] for p in (soft, change.abs().mean(0))
        )
        known = kind[i] * (1 - small)
        known[FOREIGN] += small
        kind[i] = known
        asked[i] *= ((small == 0) | (seen > 0.15)).float()


def corrupt(images: Tensor, rng: random.Random) -> Tensor:
    """Change colours a little, blur, add noise and compress some of the images."""
    b, g = len(images), generator(rng.getrandbits(30), "corrupted")
    chosen = torch.rand(b, generator=g) < CORRUPTED
    if not chosen.any():
        return images
    part = (images[chosen] + 1) / 2
    n = len(part)
    gain = 1 + 0.12 * (torch.rand(n, 1, 1, 1, generator=g) - 0.5)
    gain = gain + 0.06 * (torch.rand(n, 3, 1, 1, generator=g) - 0.5)
    gamma = torch.exp(0.25 * (torch.rand(n, 1, 1, 1, generator=g) - 0.5))
    part = ((part.clamp(0, 1) ** gamma) * gain).clamp(0, 1) * 2 - 1
    parts = []
    for few in part.split(4):
        way = rng.random()
        if way < 0.35:
            few = blur(few, rng.uniform(0.1, 0.8))
        elif way < 0.5:
            few = jpeg(few, rng.uniform(20, 95))
        if way > 0.85 or rng.random() < 0.5:
            sigma = rng.choice((0.05, 0.1, 0.2)) * torch.rand(len(few), 1, 1, 1, generator=g)
            few = few + sigma * torch.randn(few.shape, generator=g)
        parts.append(few)
    images = images.clone()
    images[chosen] = torch.cat(parts).clamp(-1, 1)
    return images


def examples(
    size: int, purpose: str, step: int, n: int, clean: bool = False
) -> tuple[Tensor, Labels]:
    """Images [n, 3, size, size] and their labels, a function of the arguments.

    Args:
        size: 64 or 256.
        purpose: What they are for; training and validation have other images.
        step: Number of the batch.
        n: Number of images.
        clean: True scenes alone, nothing wrong and nothing corrupted.
    """
    rng = random.Random(f"studio judge/{purpose}/{step}")
    scenes = [some_scene(rng) for _ in range(n)]
    images = render_studio_packed(pack_studio_scenes(scenes), size)
    images, labels = blend(images, truth(scenes), scenes, rng, clean)
    return images if clean else corrupt(images, rng), labels
