"""Scene -> image, at any resolution, by signed distance: negative inside a shape, zero on its
outline, positive outside.

Textures repeat every 1/64 of the width. A pixel of the 64 px image covers exactly one period, so
there all four textures show their common mean: the plain colour. A 256 px image has 4 x 4 pixels to
a period and shows the pattern.
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
    """Equilateral, point up: the largest of the distances to its three sides (y grows downwards)."""
    return torch.maximum(y, x.abs() * math.cos(math.pi / 6) - y * 0.5) - 0.68


def star(x: Tensor, y: Tensor, outer: float = 1.36, inner: float = 0.6) -> Tensor:
    """Five points. Folding the plane into one tenth leaves a single side, from an outer to an inner
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
    """The texture's brightness around its mean over the image: [size, size], zero mean over each
    period.

    Each of the 4 x 4 cells of a period is averaged over the part of it that a pixel covers; at 64
    px nothing is left.
    """
    cell = torch.arange(4, device=device)
    row, col = cell[:, None] // 2, cell[None, :] // 2
    period = {
        "solid": torch.zeros(4, 4, device=device),
        "striped": (1.0 - 2.0 * row).expand(4, 4),
        "dotted": torch.where((row == 0) & (col == 0), 1.0, -1.0 / 3.0),
        "checkered": 1.0 - 2.0 * ((row + col) % 2),
    }[texture].to(torch.float32) * CONTRAST
    fine = period.repeat(GRID, GRID)  # the whole image, one value a cell
    if size % (4 * GRID) == 0:
        return fine.repeat_interleave(size // (4 * GRID), 0).repeat_interleave(
            size // (4 * GRID), 1
        )
    return torch.nn.functional.adaptive_avg_pool2d(fine[None], size)[0]


class PackedScenes(NamedTuple):
    """All objects of a batch of scenes in one table, and the backgrounds: a few numbers, which
    another process or a GPU is sent in no time.
    """

    numbers: Tensor  # [n, 5]: x, y, radius in 1/64; index of shape, index of texture
    index: Tensor  # [n], whole: the object's scene
    colors: Tensor  # [n, 3], of the objects, in [0, 1]
    backgrounds: Tensor  # [scenes, 3] in [0, 1]

    def to(self, device) -> PackedScenes:
        return PackedScenes(*(x.to(device, non_blocking=True) for x in self))


def pack(scenes: Sequence[Scene]) -> PackedScenes:
    """On the CPU; objects in the order of their scenes."""
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
    """How much of each pixel each object covers, in a window that holds the object. Computed on
    `device`, by default where `numbers` are.

    The distance at the pixel's centre, in pixels, is turned into a coverage from 0 to 1 over the
    width of one pixel.

    Returns `cover` [n, k, k] and the image's rows and columns of the windows, `rows` [n, k] and
    `columns` [n, k].
    """
    scale = size / GRID
    # so that no GPU is asked how many
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
    """Draw scenes: [b, 3, size, size] in [-1, 1]. Objects of a scene do not overlap, so their order
    does not matter.
    """
    return render_packed(pack([scenes] if isinstance(scenes, Scene) else scenes), size, device)


def render_packed(scenes: PackedScenes, size: int, device=None) -> Tensor:
    """`render`, of packed scenes."""
    cover, rows, columns = coverage(scenes.numbers, size, device)
    numbers, index, colors, backgrounds = scenes.to(device)
    image = backgrounds[:, :, None, None].repeat(1, 1, size, size)
    paint = (colors - backgrounds[index])[:, :, None, None]
    if size > GRID:
        patterns = torch.stack([texture_pattern(t, size, device) for t in TEXTURES])
        texture = numbers[:, 4].long()[:, None, None]
        paint = paint + patterns[texture, rows[:, :, None], columns[:, None, :]][:, None]
    change = cover[:, None] * paint  # [n, 3, k, k]
    channel = torch.arange(3, device=device)
    where = (
        (index[:, None] * 3 + channel)[:, :, None, None] * size + rows[:, None, :, None]
    ) * size + columns[:, None, None, :]
    image.view(-1).scatter_add_(0, where.flatten(), change.flatten())
    return image.mul_(2).sub_(1)


def masks(scene: Scene, size: int = 64, device=None) -> Tensor:
    """Ground truth: which pixels belong to each object, bool [n, size, size], in the order of
    `scene.objects`, whose textures need not be known.
    """
    solid = Scene(tuple(replace(o, texture="solid") for o in scene.objects), scene.background)
    cover, rows, columns = coverage(pack([solid]).numbers, size, device)
    out = torch.zeros(len(scene.objects), size, size, dtype=torch.bool, device=device)
    which = torch.arange(len(out), device=device)[:, None, None]
    out[which, rows[:, :, None], columns[:, None, :]] = cover > 0.5
    return out
