"""Scene -> image of solid objects under a lamp, at any resolution and as one batch.

Each object is computed in a window around it: its signed distance becomes coverage, a rounded
height, and from the height normals, which a lamp lights (Lambert, Blinn-Phong). All windows are
added to their images at once. Lengths are in 1/64 of the width, brightness is in [0, 1].

Reference: Blinn, Models of light reflection for computer synthesized pictures, SIGGRAPH 1977.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
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


def falloff(direction: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """How bright the lamp's light is at a place, 1 in the middle: the inverse square of the
    distance.

    Args:
        direction: [..., 3], towards the lamp.
        x, y: Places, which broadcast with each other and with `direction[..., 0]`.
    """
    at_x, at_y, at_z = (direction * LAMP_DISTANCE).unbind(-1)
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
    far = falloff(lamp.direction[:, None, None], *pixel_places(size, device))
    return LitSurface(brightness, tint, light.mul_(far), colors)


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


@lru_cache(maxsize=8)
def texture_patterns(side: int, device) -> Tensor:
    """All textures over a whole image, [textures, side, side]."""
    return torch.stack([texture_pattern(t, side, device) for t in TEXTURES])


def grain(seeds: Tensor, material: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """How much brighter each point is for the grain of its material: matte is rough, metallic is
    brushed. All arguments are [m], and so is the result.
    """
    specks = uniform(seeds, 107, row * 4096 + column) - 0.5
    brushed = uniform(seeds, 108, row) + uniform(seeds, 109, row // 3) - 1
    return 0.16 * specks * (material == 0) + 0.20 * brushed * (material == 2)


class ObjectWindows(NamedTuple):
    """A square window around each of n objects, on a grid of points over the image."""

    rows: Tensor  # [n, k] long
    columns: Tensor  # [n, k] long
    dx: Tensor  # [n, 1, k], from the object's middle
    dy: Tensor  # [n, k, 1]


def object_windows(middles: Tensor, reach: float, side: int) -> ObjectWindows:
    """Windows that contain everything within `reach` of the middles [n, 2], on side x side points.

    Where a window would leave the image it is moved inside.
    """
    scale = side / GRID
    k = min(side, math.ceil((2 * reach + 2) * scale))
    corner = ((middles * scale).round() - k // 2).clamp(0, side - k)  # x, y
    columns, rows = (corner[:, :, None] + torch.arange(k, device=corner.device)).unbind(1)
    dx = ((columns + 0.5) / scale - middles[:, :1])[:, None, :]
    dy = ((rows + 0.5) / scale - middles[:, 1:])[:, :, None]
    return ObjectWindows(rows.long(), columns.long(), dx, dy)


def signed_distances(dx: Tensor, dy: Tensor, radius: float, of_shape: list[int]) -> Tensor:
    """The signed distance of each point of the windows to the object's outline, [n, k, k].

    Args:
        dx: [n, 1, k], from the object's middle.
        dy: [n, k, 1].
        radius: Of the objects.
        of_shape: How many of the objects, which are sorted by shape, have each shape.
    """
    distance = dx.new_empty(len(dx), dy.shape[1], dx.shape[2])
    parts = zip(*(x.split(of_shape) for x in (distance, dx / radius, dy / radius)))
    for (out, x, y), function in zip(parts, DISTANCE.values()):
        torch.mul(function(x, y), radius, out=out)
    return distance


class Canvas(NamedTuple):
    """What objects change in their images, added up over objects."""

    cover: Tensor  # [b, size, size], how much of each pixel objects cover
    objects: Tensor  # [b, 3, size, size], their brightness times that
    # logarithms of how much of the lamp's light, and of that from around, reaches the surface;
    # [b, grid, grid], coarser for a large image, since shadows are soft
    lamp: Tensor
    sky: Tensor


def add_shadows(
    canvas: Canvas, lamp: Lamp, numbers: Tensor, index: Tensor, radius: float, of_shape: list[int]
) -> None:
    """Add the shadows of objects: a soft one that the lamp casts, and one all around, close by.

    Args:
        canvas: Where to add them.
        lamp: The lamps of the scenes.
        numbers: The objects, [n, 7], sorted by shape, all of one size.
        index: The scene of each, [n].
        radius: Their size.
        of_shape: How many of them have each shape.
    """
    grid = canvas.lamp.shape[-1]
    reach = max(SHAPES.values()) * radius + SHADOW_REACH
    rows, columns, dx, dy = object_windows(numbers[:, :2], reach, grid)
    # 1. The outline, moved away from the lamp and softened.
    direction = lamp.direction[index]
    length = (SHADOW_LENGTH / direction[:, 2]).clamp(max=SHADOW_REACH - 1)
    moved = (direction[:, :2] * length[:, None])[:, :, None, None]
    away = signed_distances(dx + moved[:, 0], dy + moved[:, 1], radius, of_shape)
    cast = torch.log1p(torch.sigmoid(-1.3 * away).mul_(-SHADOW))
    # 2. Close to an outline less light arrives from around.
    outside = signed_distances(dx, dy, radius, of_shape).clamp_(min=0)
    corners = torch.log1p((outside / -1.5).exp_().mul_(-CONTACT))
    # 3. Onto the canvas.
    at = (index[:, None, None] * grid + rows[:, :, None]) * grid + columns[:, None, :]
    canvas.lamp.view(-1).index_add_(0, at.flatten(), cast.flatten())
    canvas.sky.view(-1).index_add_(0, at.flatten(), corners.flatten())


def add_objects(
    canvas: Canvas,
    lamp: Lamp,
    scenes: PackedStudioScenes,
    chosen: Tensor,
    radius: float,
    of_shape: list[int],
) -> None:
    """Add objects to their images.

    Args:
        canvas: Where to add them.
        lamp: The lamps of the scenes.
        scenes: The scenes.
        chosen: Which objects, [n], sorted by shape, all of one size.
        radius: Their size.
        of_shape: How many of them have each shape.
    """
    size, device = canvas.cover.shape[-1], chosen.device
    numbers, index = scenes.numbers[chosen], scenes.index[chosen]
    # 1. Distances. A small image has 2 x 2 points in a pixel, whose mean comes close to the average
    # of a larger image.
    points = 2 if size < 256 else 1
    side = size * points
    rows, columns, dx, dy = object_windows(numbers[:, :2], max(SHAPES.values()) * radius, side)
    distance = signed_distances(dx, dy, radius, of_shape)
    cover = (0.5 - distance * (side / GRID)).clamp_(0, 1)
    # 2. The points on objects, in one list.
    k = distance.shape[-1]
    which, row, column = (cover > 0).nonzero().unbind(1)
    distance, point = distance.view(-1), (which * k + row) * k + column
    # 3. Normals of a bevel along the outline on a shallow dome.
    x, y = dx[which, 0, column], dy[which, row, 0]

    def slope(at: Tensor, step: int) -> Tensor:
        ahead, behind = point + step * (at < k - 1), point - step * (at > 0)
        return (distance[ahead] - distance[behind]) * (side / GRID / 2)

    steep = BEVEL_SLOPE * (1 - (-distance[point] / BEVEL).clamp(0, 1)) ** 2
    dome = DOME_SLOPE / radius
    normal = torch.stack(
        [
            steep * slope(column, 1) + dome * x,
            steep * slope(row, k) + dome * y,
            torch.ones_like(x),
        ],
        1,
    )
    # 4. Their colours: paint, the texture below 64 px, the grain of the material.
    paint = paints(scenes)[chosen[which]]
    row, column = rows[which, row], columns[which, column]
    if size > GRID:
        pattern = texture_patterns(side, device)[numbers[which, 4].long(), row, column][:, None]
        paint = paint * (1 + 0.9 * pattern) + 0.35 * pattern
    scene, material = index[which], numbers[which, 5]
    if points == 1:
        paint = paint * (1 + grain(scenes.seeds[scene], material, row, column))[:, None]
    # 5. In the light.
    direction = lamp.direction[scene]
    color = shade(F.normalize(normal, dim=1), paint, material, direction)
    near = falloff(direction, x + numbers[which, 0], y + numbers[which, 1])
    color = color * (0.45 + 0.55 * near)[:, None]
    # 6. Onto the canvas.
    cover = cover.view(-1)[point] / points**2
    at = (row // points) * size + column // points
    canvas.cover.view(-1).index_add_(0, scene * size**2 + at, cover)
    for channel in range(3):
        canvas.objects.view(-1).index_add_(
            0, (3 * scene + channel) * size**2 + at, color[:, channel] * cover
        )


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
    radii, shapes = scenes.numbers[:, 2], scenes.numbers[:, 3]
    of_size = [
        [((radii == r) & (shapes == i)).nonzero()[:, 0].to(device) for i in range(len(DISTANCE))]
        for r in SIZES.values()
    ]
    of_surface = [(scenes.surfaces == i).nonzero()[:, 0].to(device) for i in range(len(SURFACES))]
    scenes = scenes.to(device)
    lamp, b = lamps(scenes), len(scenes.seeds)
    surface = lit_surface(scenes, lamp, size, of_surface)
    # 2. Objects and their shadows, all of one size at once.
    zeros, grid = surface.lamp.new_zeros, max(GRID, size // 2)
    canvas = Canvas(
        zeros(b, size, size), zeros(b, 3, size, size), zeros(b, grid, grid), zeros(b, grid, grid)
    )
    for of, radius in zip(of_size, SIZES.values()):
        chosen, of_shape = torch.cat(of), [len(part) for part in of]
        if len(chosen):
            index = scenes.index[chosen]
            add_shadows(canvas, lamp, scenes.numbers[chosen], index, radius, of_shape)
            add_objects(canvas, lamp, scenes, chosen, radius, of_shape)
    # 3. The surface with shadows on it, behind the objects.
    shadows = torch.stack([canvas.lamp, canvas.sky], 1).exp_()
    if grid != size:
        shadows = F.interpolate(shadows, size=(size, size), mode="bilinear", align_corners=False)
    ground = surface.lamp.mul_(shadows[:, 0]).mul_(DIRECT).add_(shadows[:, 1], alpha=AMBIENT)
    ground = ground.mul_(1 - canvas.cover)
    plain, of_tint = surface.colors[..., None, None].unbind(1)
    image = canvas.objects.addcmul_((surface.brightness * ground)[:, None], plain)
    image.addcmul_((surface.tint * ground)[:, None], of_tint)
    image.mul_(lamp.color[:, :, None, None]).clamp_(min=0)
    # 4. A camera's curve: highlights approach white and do not reach it.
    bright = (image > KNEE).view(-1).nonzero()[:, 0]
    above = (image.view(-1)[bright] - KNEE) / (1 - KNEE)
    image.view(-1)[bright] = KNEE - (1 - KNEE) * torch.expm1(-above)
    return image.mul_(2).sub_(1)


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
