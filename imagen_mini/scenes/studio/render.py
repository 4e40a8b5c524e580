"""Scene -> image of solid objects under a lamp, at any resolution and as one batch.

Each object is computed in a window around it: its signed distance becomes coverage, a rounded
height, and from the height normals, which a lamp lights (Lambert, Blinn-Phong). All windows are
added to their images at once. Lengths are in 1/64 of the width, brightness is in [0, 1].

Reference: Blinn, Models of light reflection for computer synthesized pictures, SIGGRAPH 1977.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from imagen_mini.scenes.render import DISTANCE, texture_pattern
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
)
from imagen_mini.scenes.studio.noise import uniform, value_noise
from imagen_mini.scenes.studio.surfaces import COLORS_OF, MADE_BY, pixel_places

AMBIENT, DIRECT = 0.40, 0.66  # of a level surface in the middle of the image
LAMP_DISTANCE = 100.0
BEVEL = 3.0  # width of the rounded edge
BEVEL_SLOPE, DOME_SLOPE = 1.9, 0.42  # steepest slopes of the edge, and of the top as a whole
SHADOW_LENGTH, SHADOW_REACH = 2.3, 5.0  # of a shadow under a lamp straight above; beyond an outline
SHADOW, CONTACT = 0.86, 0.36  # how much of the lamp's light, and of that from around, is taken away
KNEE = 0.75  # brightness above which the camera's curve bends
# The colours, purer than those of the flat world, because light and shadow take from them.
PAINTS = {
    "red": (0.80, 0.13, 0.12),
    "orange": (0.92, 0.47, 0.08),
    "yellow": (0.92, 0.82, 0.14),
    "green": (0.16, 0.58, 0.20),
    "cyan": (0.16, 0.70, 0.78),
    "blue": (0.16, 0.26, 0.82),
    "purple": (0.47, 0.17, 0.68),
    "pink": (0.92, 0.52, 0.68),
}
assert tuple(PAINTS) == tuple(COLORS)
TOWARDS_LAMP = {"left": math.pi, "right": 0.0, "top": -math.pi / 2, "bottom": math.pi / 2}
assert tuple(TOWARDS_LAMP) == LIGHTS


class PackedStudioScenes(NamedTuple):
    """A batch of scenes as tensors: all objects in one table, and what belongs to a scene."""

    numbers: Tensor  # [n, 7]: x, y, radius; indices of shape, texture, material and colour
    index: Tensor  # [n] long: the scene of each object
    seeds: Tensor  # [b] long
    surfaces: Tensor  # [b] long, indices of SURFACES
    lights: Tensor  # [b] long, indices of LIGHTS

    def to(self, device) -> PackedStudioScenes:
        return PackedStudioScenes(*(x.to(device, non_blocking=True) for x in self))


def pack_studio_scenes(scenes: Sequence[Scene]) -> PackedStudioScenes:
    """Pack scenes into tensors on the CPU, with objects in the order of their scenes.

    Args:
        scenes: Scenes of the world `studio` of which everything is known.
    """
    shapes, colors, surfaces = tuple(SHAPES), tuple(COLORS), tuple(SURFACES)
    rows = [
        (
            o.x,
            o.y,
            SIZES[o.size],
            shapes.index(o.shape),
            TEXTURES.index(o.texture),
            MATERIALS.index(o.material),
            colors.index(o.color),
        )
        for scene in scenes
        for o in scene.objects
    ]
    index = [i for i, scene in enumerate(scenes) for _ in scene.objects]
    return PackedStudioScenes(
        torch.tensor(rows, dtype=torch.float32).reshape(-1, 7),
        torch.tensor(index, dtype=torch.long),
        torch.tensor([s.seed for s in scenes], dtype=torch.long),
        torch.tensor([surfaces.index(s.background) for s in scenes], dtype=torch.long),
        torch.tensor([LIGHTS.index(s.light) for s in scenes], dtype=torch.long),
    )


class Lamp(NamedTuple):
    """The light of each scene."""

    direction: Tensor  # [b, 3], towards the lamp: x to the right, y down, z towards the viewer
    color: Tensor  # [b, 3], about 1


def lamps(scenes: PackedStudioScenes) -> Lamp:
    """The lamp of each scene: its side is given, the rest is a function of the seed."""
    seeds, device = scenes.seeds, scenes.seeds.device
    side = torch.tensor(list(TOWARDS_LAMP.values()), device=device)[scenes.lights]
    angle = side + math.radians(50) * (uniform(seeds, 101) - 0.5)
    height = math.radians(34) + math.radians(20) * uniform(seeds, 102)
    direction = torch.stack(
        [angle.cos() * height.cos(), angle.sin() * height.cos(), height.sin()], 1
    )
    warmth = 2 * uniform(seeds, 103) - 1
    tint = warmth[:, None] * torch.tensor([0.05, 0.0, -0.07], device=device)
    exposure = 0.94 + 0.12 * uniform(seeds, 104)
    return Lamp(direction, (1 + tint) * exposure[:, None])


def falloff(lamp: Lamp, size: int) -> Tensor:
    """How bright the lamp's light is at each pixel, 1 in the middle: the inverse square of the
    distance. [b, size, size].
    """
    x, y = pixel_places(size, lamp.direction.device)
    at_x, at_y, at_z = (lamp.direction * LAMP_DISTANCE)[:, :, None, None].unbind(1)
    along_x = (at_x + GRID / 2 - x) ** 2 + at_z**2
    return ((at_y + GRID / 2 - y) ** 2 + along_x).reciprocal_().mul_(LAMP_DISTANCE**2)


class LitSurface(NamedTuple):
    """The surfaces of a batch, without shadows."""

    brightness: Tensor  # [b, size, size]
    tint: Tensor  # [b, size, size]
    lamp: Tensor  # [b, size, size], how much of the lamp's light falls on each pixel
    colors: Tensor  # [b, 2, 3], what brightness and tint are multiplied with


def lit_surface(
    scenes: PackedStudioScenes, lamp: Lamp, size: int, of_surface: list[Tensor]
) -> LitSurface:
    """Make the surfaces and let the lamp shine on their relief.

    Args:
        scenes: The scenes.
        lamp: Their lamps.
        size: Pixels of a side.
        of_surface: For each surface, the numbers of the scenes that have it.
    """
    b, device = len(scenes.seeds), scenes.seeds.device
    brightness, tint, light = torch.empty(3, b, size, size, device=device)
    for of, make in zip(of_surface, MADE_BY.values()):
        if len(of):
            part = make(scenes.seeds[of], size)
            lx, ly, _ = (lamp.direction[of] / lamp.direction[of, 2:])[:, :, None, None].unbind(1)
            brightness[of], tint[of] = part.brightness, part.tint
            light[of] = (1 - part.dx * lx).addcmul_(part.dy, ly, value=-1).clamp_(min=0)
    light.mul_(value_noise(scenes.seeds, 105, 3, 3, size).mul_(0.035).add_(1))
    colors = torch.tensor(list(COLORS_OF.values()), device=device)[scenes.surfaces]
    return LitSurface(brightness, tint, light.mul_(falloff(lamp, size)), colors)


def shade(normal: Tensor, paint: Tensor, material: Tensor, light: Tensor) -> Tensor:
    """The brightness of points on objects, under a white lamp, [m, 3].

    Args:
        normal: Unit normals, [m, 3].
        paint: Colours, [m, 3].
        material: Indices of MATERIALS, [m].
        light: Directions towards the lamp, [m, 3].
    """
    half = F.normalize(light + light.new_tensor([0.0, 0.0, 1.0]), dim=1)
    facing = (normal * light).sum(1).clamp(min=0)
    gloss = (normal * half).sum(1).clamp(min=0)
    up, elevation = normal[:, 2], light[:, 2]
    # light that falls on it, from around and from the lamp
    diffuse = AMBIENT * (0.55 + 0.45 * up) + DIRECT * facing / elevation**0.7
    # a mirror sees a sky that is bright towards the lamp, and dark surroundings below the horizon
    mirrored = 2 * up * facing - elevation  # cosine between the mirrored view and the lamp
    sky = 0.12 + 0.98 * ((mirrored + 0.5) / 1.4).clamp(0, 1) ** 2 + 0.8 * gloss**24
    sky = sky * (0.4 + 0.6 * (4 * up.square() - 1).clamp(0, 1))
    matte, shiny, metallic = ((material == i).float() for i in range(len(MATERIALS)))
    tinted = matte * (0.06 + 0.94 * diffuse) + shiny * 0.92 * diffuse
    tinted = tinted + metallic * (0.12 * diffuse + 1.05 * sky)
    white = shiny * (0.80 * gloss**70 + 0.10 * gloss**10) + metallic * 0.30 * gloss**40
    return paint * tinted[:, None] + white[:, None]


def paints(scenes: PackedStudioScenes) -> Tensor:
    """The colour of each object, [n, 3]: that of its name, a little off."""
    numbers, device = scenes.numbers, scenes.numbers.device
    place = (numbers[:, 0] + GRID * numbers[:, 1]).long()[:, None]
    off = uniform(scenes.seeds[scenes.index, None], 106, place, torch.arange(4, device=device))
    palette = torch.tensor(list(PAINTS.values()), device=device)[numbers[:, 6].long()]
    return palette * (0.93 + 0.14 * off[:, :1]) + 0.04 * (off[:, 1:] - 0.5)


def grain(seeds: Tensor, material: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """How much brighter each point is for the grain of its material: matte is rough, metallic is
    brushed. All arguments are [m], and so is the result.
    """
    specks = uniform(seeds, 107, row * 4096 + column) - 0.5
    brushed = uniform(seeds, 108, row) + uniform(seeds, 109, row // 3) - 1
    return 0.16 * specks * (material == 0) + 0.20 * brushed * (material == 2)


class Canvas(NamedTuple):
    """What objects change in their images, added up over objects; one value for each pixel."""

    cover: Tensor  # [b * size * size], how much of it objects cover
    objects: Tensor  # [b * size * size, 3], their brightness times that
    lamp: Tensor  # [b * size * size], logarithm of how much of the lamp's light reaches the ground
    sky: Tensor  # [b * size * size], the same of the light from around


def add_objects(
    canvas: Canvas,
    scenes: PackedStudioScenes,
    lamp: Lamp,
    size: int,
    of: list[Tensor],
    radius: float,
) -> None:
    """Add some objects of one size to their images, all at once.

    Args:
        canvas: Where to add them.
        scenes: The scenes.
        lamp: Their lamps.
        size: Pixels of a side.
        of: For each shape, the numbers of the objects of this shape.
        radius: Of these objects, one of `SIZES`.
    """
    # 1. A window of k x k points around each object and its shadow. A small image has 2 x 2 points
    # in a pixel, whose mean comes close to the average of a larger image.
    chosen = torch.cat(of)
    if not len(chosen):
        return
    device = chosen.device
    numbers, index = scenes.numbers[chosen], scenes.index[chosen]
    points = 2 if size < 256 else 1  # to a side of a pixel
    scale, fine = size / GRID, size * points / GRID
    reach = max(SHAPES.values()) * radius + SHADOW_REACH
    k = min(size, math.ceil((2 * reach + 2) * scale)) * points
    corner = ((numbers[:, :2] * scale).round() * points - k // 2).clamp(0, size * points - k)
    columns, rows = (corner[:, :, None] + torch.arange(k, device=device)).unbind(1)
    dx = (columns + 0.5)[:, None, :] / fine - numbers[:, 0, None, None]
    dy = (rows + 0.5)[:, :, None] / fine - numbers[:, 1, None, None]
    rows, columns = rows.long(), columns.long()

    # 2. Signed distances of the points to each outline, and of the pixels to the same moved away
    # from the lamp.
    direction = lamp.direction[index]
    length = (SHADOW_LENGTH / direction[:, 2]).clamp(max=SHADOW_REACH - 1)
    moved = (direction[:, :2] * length[:, None])[:, :, None, None]
    moved_x = dx.unflatten(2, (-1, points)).mean(3) + moved[:, 0]
    moved_y = dy.unflatten(1, (-1, points)).mean(2) + moved[:, 1]
    distance = dx.new_empty(len(chosen), k, k)
    away = dx.new_empty(len(chosen), k // points, k // points)
    start = 0
    for part, function in zip(of, DISTANCE.values()):
        i = slice(start, start := start + len(part))
        torch.mul(function(dx[i] / radius, dy[i] / radius), radius, out=distance[i])
        torch.mul(function(moved_x[i] / radius, moved_y[i] / radius), radius, out=away[i])

    # 3. Shadows: a soft one, and less light from around close to the object.
    pixel = (index[:, None, None] * size + (rows[:, ::points] // points)[:, :, None]) * size
    pixel = pixel + (columns[:, ::points] // points)[:, None, :]
    outside = distance if points == 1 else F.avg_pool2d(distance, points)
    shadow = torch.log1p(torch.sigmoid(-1.3 * away).mul_(-SHADOW))
    corners = torch.log1p((outside.clamp(min=0) / -1.5).exp_().mul_(-CONTACT))
    canvas.lamp.index_add_(0, pixel.flatten(), shadow.flatten())
    canvas.sky.index_add_(0, pixel.flatten(), corners.flatten())

    # 4. The points on objects, in one list: normals of a bevel along the outline on a shallow dome.
    cover = (0.5 - distance * fine).clamp_(0, 1)
    which, row, column = (cover > 0).nonzero().unbind(1)
    flat, point = distance.view(-1), (which * k + row) * k + column
    there = flat[point]

    def slope(at: Tensor, step: int) -> Tensor:
        ahead, behind = point + step * (at < k - 1), point - step * (at > 0)
        return (flat[ahead] - flat[behind]) * fine / 2

    steep = BEVEL_SLOPE * (1 - (-there / BEVEL).clamp(0, 1)) ** 2
    dome = DOME_SLOPE / radius
    normal = torch.stack(
        [
            steep * slope(column, 1) + dome * dx[which, 0, column],
            steep * slope(row, k) + dome * dy[which, row, 0],
            torch.ones_like(there),
        ],
        1,
    )
    # 5. Their colours: paint, the texture below 64 px, the grain of the material.
    paint = paints(scenes)[chosen[which]]
    row, column = rows[which, row], columns[which, column]
    if size > GRID:
        patterns = torch.stack([texture_pattern(t, size * points, device) for t in TEXTURES])
        pattern = patterns[numbers[which, 4].long(), row, column][:, None]
        paint = paint * (1 + 0.9 * pattern) + 0.35 * pattern
    if points == 1:
        of_material = grain(scenes.seeds[index[which]], numbers[which, 5], row, column)
        paint = paint * (1 + of_material)[:, None]
    color = shade(F.normalize(normal, dim=1), paint, numbers[which, 5], direction[which])
    # 6. Onto the canvas.
    cover = cover.view(-1)[point] / points**2
    at = (index[which] * size + row // points) * size + column // points
    canvas.cover.index_add_(0, at, cover)
    canvas.objects.index_add_(0, at, color * cover[:, None])


def render_studio_packed(scenes: PackedStudioScenes, size: int, device=None) -> Tensor:
    """Render packed scenes.

    Args:
        scenes: Packed scenes, on any device.
        size: Width of the images in pixels, at least 64.
        device: Where to render (default: CPU).

    Returns:
        [b, 3, size, size] in [-1, 1].
    """
    # 1. Which objects have which size and shape, and which scenes which surface: found where the
    # scenes are, so that a GPU need not be synchronised.
    radius, shape = scenes.numbers[:, 2], scenes.numbers[:, 3]
    of_shape = [
        [((radius == r) & (shape == i)).nonzero()[:, 0].to(device) for i in range(len(DISTANCE))]
        for r in SIZES.values()
    ]
    of_surface = [(scenes.surfaces == i).nonzero()[:, 0].to(device) for i in range(len(SURFACES))]
    scenes = scenes.to(device)
    # 2. Surfaces and objects, each under the lamp.
    lamp, b = lamps(scenes), len(scenes.seeds)
    surface = lit_surface(scenes, lamp, size, of_surface)
    empty = torch.zeros(b * size * size, device=surface.lamp.device)
    canvas = Canvas(empty, empty[:, None].repeat(1, 3), empty.clone(), empty.clone())
    for of, r in zip(of_shape, SIZES.values()):
        add_objects(canvas, scenes, lamp, size, of, r)
    cover, lamp_reaches, sky_reaches = (
        part.view(b, size, size) for part in (canvas.cover, canvas.lamp, canvas.sky)
    )
    objects = canvas.objects.view(b, size, size, 3).permute(0, 3, 1, 2)
    # 3. Objects before the surface and its shadows. The lamp's light falls off with the distance.
    ground = surface.lamp.mul_(lamp_reaches.exp_()).mul_(DIRECT)
    ground = ground.add_(sky_reaches.exp_(), alpha=AMBIENT).mul_(1 - cover)[:, None]
    color, of_tint = (surface.colors * lamp.color[:, None])[..., None, None].unbind(1)
    image = surface.brightness[:, None] * ground * color
    image.addcmul_(surface.tint[:, None] * ground, of_tint)
    far = falloff(lamp, size).mul_(0.55).add_(0.45)[:, None]
    image.addcmul_(objects, far * lamp.color[:, :, None, None])
    # 4. A camera's curve: highlights approach white and do not reach it.
    bright = (image - KNEE).clamp_(min=0).mul_(-1 / (1 - KNEE)).expm1_()
    return image.clamp_(0.0, KNEE).sub_(bright, alpha=1 - KNEE).mul_(2).sub_(1)


def render_studio(scenes: Sequence[Scene] | Scene, size: int = 64, device=None) -> Tensor:
    """Render scenes of the world `studio`.

    Args:
        scenes: One scene or several, of which everything is known.
        size: Width of the images in pixels, at least 64 (default: 64).
        device: Where to render (default: CPU).

    Returns:
        [b, 3, size, size] in [-1, 1].
    """
    scenes = [scenes] if isinstance(scenes, Scene) else scenes
    return render_studio_packed(pack_studio_scenes(scenes), size, device)
