"""Scene -> image, at any resolution, by signed distance fields: negative inside a shape, zero on
its outline, positive outside.

Textures repeat every 1/64 of the width. A pixel of the 64 px image covers exactly one period, so
all four textures show their common mean there: the plain colour. A 256 px image has 4 x 4 pixels
per period and shows the pattern.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from imagen_mini.scenes.scene import BACKGROUNDS, COLORS, GRID, SHAPES, SIZES, TEXTURES, Scene

CONTRAST = 0.22  # half of the difference between a texture's light and dark


def circle(x: Tensor, y: Tensor) -> Tensor:
    return torch.hypot(x, y) - 1.0


def square(x: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(x.abs(), y.abs()) - 0.89


def triangle(x: Tensor, y: Tensor) -> Tensor:
    """Equilateral, point up: the largest distance to one of its three sides; y grows downwards."""
    return torch.maximum(y, x.abs() * math.cos(math.pi / 6) - y * 0.5) - 0.68


def star(x: Tensor, y: Tensor, outer: float = 1.36, inner: float = 0.6) -> Tensor:
    """Five points: folding the plane into one tenth leaves a single side, from an outer to an inner
    corner.
    """
    angle = torch.atan2(x, -y)  # 0 points up
    tenth = math.pi / 5
    angle = (torch.remainder(angle + tenth, 2 * tenth) - tenth).abs()
    radius = torch.hypot(x, y)
    u, v = radius * torch.cos(angle), radius * torch.sin(angle)
    du, dv = inner * math.cos(tenth) - outer, inner * math.sin(tenth)
    return ((u - outer) * dv - v * du) / math.hypot(du, dv)


def cross(x: Tensor, y: Tensor) -> Tensor:
    ax, ay = x.abs(), y.abs()
    return torch.maximum(torch.minimum(ax, ay) - 0.38, torch.maximum(ax, ay) - 1.15)


def ring(x: Tensor, y: Tensor) -> Tensor:
    return (torch.hypot(x, y) - 0.8).abs() - 0.32


DISTANCE = {
    "circle": circle,
    "square": square,
    "triangle": triangle,
    "star": star,
    "cross": cross,
    "ring": ring,
}
assert tuple(DISTANCE) == tuple(SHAPES)


def texture_pattern(texture: str, size: int, device=None) -> Tensor:
    """Return a texture's brightness around its mean, over a whole image.

    Each of the 4 x 4 cells of a period is averaged over the part of it that a pixel covers. At 64
    px nothing is left.

    Args:
        texture: One of `TEXTURES`.
        size: Width of the image in pixels.
        device: Where to compute it (default: CPU).

    Returns:
        [size, size], with zero mean over each period.
    """
    cell = torch.arange(4, device=device)
    row, col = cell[:, None] // 2, cell[None, :] // 2
    period = {
        "solid": torch.zeros(4, 4, device=device),
        "striped": (1.0 - 2.0 * row).expand(4, 4),
        "dotted": torch.where((row == 0) & (col == 0), 1.0, -1.0 / 3.0),
        "checkered": 1.0 - 2.0 * ((row + col) % 2),
    }[texture].to(torch.float32) * CONTRAST
    fine = period.repeat(GRID, GRID)  # the whole image, one value per cell
    if size % (4 * GRID) == 0:
        return fine.repeat_interleave(size // (4 * GRID), 0).repeat_interleave(
            size // (4 * GRID), 1
        )
    return torch.nn.functional.adaptive_avg_pool2d(fine[None], size)[0]


class PackedScenes(NamedTuple):
    """A batch of scenes as tensors: all objects in one table, and the backgrounds.

    These few numbers are quickly sent to another process or to a GPU.
    """

    numbers: Tensor  # [n, 5]: x, y, radius in 1/64; index of shape, index of texture
    index: Tensor  # [n] long: the scene of each object
    colors: Tensor  # [n, 3], of the objects, in [0, 1]
    backgrounds: Tensor  # [scenes, 3] in [0, 1]

    def to(self, device) -> PackedScenes:
        return PackedScenes(*(x.to(device, non_blocking=True) for x in self))


def pack_scenes(scenes: Sequence[Scene]) -> PackedScenes:
    """Pack scenes into tensors on the CPU, with objects in the order of their scenes.

    Args:
        scenes: Scenes whose textures are all known.
    """
    shapes, textures = tuple(SHAPES), TEXTURES
    rows, index, colors = [], [], []
    for i, scene in enumerate(scenes):
        for o in scene.objects:
            rows.append((o.x, o.y, SIZES[o.size], shapes.index(o.shape), textures.index(o.texture)))
            index.append(i)
            colors.append(COLORS[o.color])
    return PackedScenes(
        torch.tensor(rows, dtype=torch.float32).reshape(-1, 5),
        torch.tensor(index, dtype=torch.long),
        torch.tensor(colors, dtype=torch.float32).reshape(-1, 3),
        torch.tensor([BACKGROUNDS[s.background] for s in scenes]),
    )


def coverage(numbers: Tensor, size: int, device=None) -> tuple[Tensor, Tensor, Tensor]:
    """Compute how much of each pixel each object covers, in a window that contains the object.

    The signed distance at the pixel's centre, in pixels, becomes a coverage from 0 to 1 over the
    width of one pixel.

    Args:
        numbers: [n, 5], as in `PackedScenes`.
        size: Width of the image in pixels.
        device: Where to compute it (default: the device of `numbers`).

    Returns:
        `cover` [n, k, k] in [0, 1], and the image rows and columns of each window, `rows` [n, k]
        and `columns` [n, k].
    """
    scale = size / GRID
    # found where `numbers` are, so that a GPU need not be synchronised
    of_shape = [
        (numbers[:, 3] == number).nonzero()[:, 0].to(device or numbers.device)
        for number in range(len(DISTANCE))
    ]
    numbers = numbers.to(device)
    k = min(size, math.ceil((2 * max(SHAPES.values()) * max(SIZES.values()) + 2) * scale))
    corner = ((numbers[:, :2] * scale).round() - k // 2).clamp_(0, size - k)  # x, y
    columns, rows = (corner[:, :, None] + torch.arange(k, device=numbers.device)).unbind(1)
    dx = ((columns + 0.5) / scale - numbers[:, 0:1])[:, None, :]
    dy = ((rows + 0.5) / scale - numbers[:, 1:2])[:, :, None]
    radius = numbers[:, 2, None, None]
    cover = torch.empty(len(numbers), k, k, device=numbers.device)
    for of, distance in zip(of_shape, DISTANCE.values()):
        cover[of] = (
            0.5 - distance(dx[of] / radius[of], dy[of] / radius[of]) * radius[of] * scale
        ).clamp_(0, 1)
    return cover, rows.long(), columns.long()


def render(scenes: Sequence[Scene] | Scene, size: int = 64, device=None) -> Tensor:
    """Render scenes.

    Objects of a scene do not overlap, so their order does not matter.

    Args:
        scenes: One scene or several.
        size: Width of the images in pixels, at least 64 (default: 64).
        device: Where to render (default: CPU).

    Returns:
        [b, 3, size, size] in [-1, 1].
    """
    return render_packed(
        pack_scenes([scenes] if isinstance(scenes, Scene) else scenes), size, device
    )


def render_packed(scenes: PackedScenes, size: int, device=None) -> Tensor:
    """Render packed scenes, as `render` does.

    Args:
        scenes: Packed scenes, on any device.
        size: Width of the images in pixels.
        device: Where to render (default: CPU).

    Returns:
        [b, 3, size, size] in [-1, 1].
    """
    # 1. Start from the plain backgrounds.
    cover, rows, columns = coverage(scenes.numbers, size, device)
    numbers, index, colors, backgrounds = scenes.to(device)
    image = backgrounds[:, :, None, None].repeat(1, 1, size, size)
    # 2. The change of colour inside of each object, with its texture.
    paint = (colors - backgrounds[index])[:, :, None, None]
    if size > GRID:
        patterns = torch.stack([texture_pattern(t, size, device) for t in TEXTURES])
        texture = numbers[:, 4].long()[:, None, None]
        paint = paint + patterns[texture, rows[:, :, None], columns[:, None, :]][:, None]
    # 3. Add it to the pixels of each object's window, in proportion to their coverage.
    change = cover[:, None] * paint  # [n, 3, k, k]
    channel = torch.arange(3, device=device)
    where = (
        (index[:, None] * 3 + channel)[:, :, None, None] * size + rows[:, None, :, None]
    ) * size + columns[:, None, None, :]
    image.view(-1).scatter_add_(0, where.flatten(), change.flatten())
    return image.mul_(2).sub_(1)


def masks(scene: Scene, size: int = 64, device=None) -> Tensor:
    """Return the ground-truth mask of each object.

    Args:
        scene: A scene of any world; its textures need not be known.
        size: Width of the masks in pixels (default: 64).
        device: Where to compute them (default: CPU).

    Returns:
        bool [n, size, size], in the order of `scene.objects`.
    """
    solid = Scene(tuple(replace(o, texture="solid") for o in scene.objects), "white")
    cover, rows, columns = coverage(pack_scenes([solid]).numbers, size, device)
    out = torch.zeros(len(scene.objects), size, size, dtype=torch.bool, device=device)
    which = torch.arange(len(out), device=device)[:, None, None]
    out[which, rows[:, :, None], columns[:, None, :]] = cover > 0.5
    return out
