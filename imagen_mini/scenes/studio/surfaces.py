"""The surfaces on which objects lie, as brightness, tint and relief, from noise alone.

Each function takes seeds [b] and a size. Lengths are in 1/64 of the width. Detail that the image
cannot show is left out; what it shows of the rest is the average.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from imagen_mini.scenes.scene import GRID, SURFACES
from imagen_mini.scenes.studio.noise import (
    finest,
    fractal_noise,
    fractal_relief,
    uniform,
    value_noise,
)


class Surface(NamedTuple):
    """A surface: its albedo is brightness * COLORS_OF[name][0] + tint * COLORS_OF[name][1]."""

    brightness: Tensor  # [b, size, size], about 1
    tint: Tensor  # [b, size, size]
    dx: Tensor  # [b, size, size], slope of the relief by x
    dy: Tensor  # [b, size, size], and by y


def pixel_places(size: int, device=None) -> tuple[Tensor, Tensor]:
    """The middles of the pixels: x [1, size] and y [size, 1]."""
    line = (torch.arange(size, device=device) + 0.5) * GRID / size
    return line[None, :], line[:, None]


def line_cover(distance: Tensor, width: float | Tensor, size: int) -> Tensor:
    """How much of a pixel a line covers, given the distance of its middle."""
    scale = size / GRID
    cover = ((width / 2 - distance.abs()) * scale + 0.5).clamp(0, 1)
    return cover * (torch.as_tensor(width) * scale).clamp(max=1)


def wood(seed: Tensor, size: int) -> Surface:
    """Planks with the figure of growth rings, streaks and pores; half of them stand upright."""
    _, y = pixel_places(size, seed.device)
    # 1. planks, each with a tone of its own
    width = 15 + 6 * uniform(seed, 1)[:, None, None]
    at = (y + width * uniform(seed, 2)[:, None, None]) / width
    plank = at.floor().long()
    tone = uniform(seed[:, None, None], 3, plank) - 0.5
    seam = line_cover((at - at.round()) * width, 0.5, size)
    # 2. rings: contour lines of streaked noise, another part of it in every plank
    figure = value_noise(seed, 10, 10, 2, size) + 0.15 * value_noise(seed, 11, 40, 5, size)
    rings = torch.cos(2 * math.pi * (1.5 * figure + 9 * tone))
    # 3. streaks along the grain, and pores, which only a large image shows
    streaks = value_noise(seed, 12, 32, 3, size) + 0.8 * value_noise(seed, 13, 64, 6, size)
    brightness = 1 + 0.22 * tone + 0.10 * rings + 0.075 * streaks
    if finest(size) >= 128:
        fine = value_noise(seed, 14, 128, 10, size)
        pores = (value_noise(seed, 15, 128, 24, size) - 1.3).clamp(0, 1)
        brightness = brightness + 0.05 * fine - 0.22 * pores
    else:
        brightness = brightness - 0.01  # the average of the pores
    if finest(size) >= 512:
        brightness = brightness + 0.05 * value_noise(seed, 16, 512, 24, size)
    brightness = brightness * (1 - 0.5 * seam)
    relief = -0.03 * rings + 0.02 * streaks
    # 4. upright or not
    upright = (uniform(seed, 4) < 0.5)[:, None, None]
    brightness, rings, relief = (
        torch.where(upright, x.transpose(1, 2), x) for x in (brightness, rings, relief)
    )
    return Surface(brightness, rings, relief * upright, relief * ~upright)


def sand(seed: Tensor, size: int) -> Surface:
    """Ripples that the wind left, and grains."""
    x, y = pixel_places(size, seed.device)
    # 1. ripples: waves across a direction, bent by smooth noise
    angle = math.pi * uniform(seed, 1)[:, None, None]
    waves = 2 * math.pi / (9 + 5 * uniform(seed, 2)[:, None, None])
    bend = fractal_relief(seed, 10, size, (4,), 1.0)
    phase = waves * (x * angle.cos() + y * angle.sin()) + 1.6 * bend.value
    height = 0.22 * (phase.cos() - 0.35 * (2 * phase).sin())
    dx = height * (angle.cos() + 1.6 / waves * bend.dx)
    dy = height * (angle.sin() + 1.6 / waves * bend.dy)
    # 2. grains: relief, tone, and the dark ones among them
    grains = fractal_relief(seed, 20, size, (16, 32, 64, 128, 256, 512), 0.85)
    brightness = 1 + 0.055 * grains.value
    if (n := finest(size)) >= 128:
        brightness = brightness - 0.5 * (value_noise(seed, 40, n, n, size) - 1.6).clamp(0, 1)
    else:
        brightness = brightness - 0.01  # their average
    return Surface(
        brightness,
        torch.zeros_like(brightness),
        dx + 0.065 * grains.dx,
        dy + 0.065 * grains.dy,
    )


def slate(seed: Tensor, size: int) -> Surface:
    """Dark stone, split in layers: broken edges, a rough relief, a touch of rust."""
    # 1. layers: the edges of a few levels of a rough height
    rough = fractal_relief(seed, 10, size, (3, 6, 12, 24), 0.6)
    level = 1.3 * rough.value
    edge = torch.exp(-(((level - level.round()) / 0.10) ** 2))
    # 2. relief and tone
    fine = fractal_relief(seed, 20, size, (8, 16, 32, 64, 128, 256, 512), 0.6)
    brightness = 1 + 0.12 * fine.value - 0.10 * edge
    # 3. rust in places
    rust = (value_noise(seed, 40, 4, 4, size) - 0.6).clamp(0, 1)
    return Surface(
        brightness,
        rust,
        0.5 * fine.dx + 1.2 * edge * rough.dx,
        0.5 * fine.dy + 1.2 * edge * rough.dy,
    )


def linen(seed: Tensor, size: int) -> Surface:
    """Cloth of plain weave, with threads of uneven thickness. The weave itself averages out in a
    64 px image, whose pixels hold one crossing each.
    """
    x, y = pixel_places(size, seed.device)
    # 1. uneven threads, and large soft folds
    weft, warp = value_noise(seed, 10, 64, 3, size), value_noise(seed, 11, 3, 64, size)
    folds = fractal_relief(seed, 12, size, (3,), 1.0)
    brightness = 1 + 0.075 * (weft + warp) + 0.03 * folds.value
    dx, dy = 1.2 * folds.dx, 1.2 * folds.dy
    # 2. the weave: at every other crossing the warp, which runs along y, lies on top
    if finest(size) >= 128:
        over = ((x.floor() + y.floor()) % 2 == 0).float()
        across = over * (x - x.floor()) + (1 - over) * (y - y.floor())
        along = over * (y - y.floor()) + (1 - over) * (x - x.floor())
        thread = torch.sin(math.pi * across) * (0.7 + 0.3 * torch.sin(math.pi * along))
        mean = (2 / math.pi) * (0.7 + 0.6 / math.pi)
        brightness = brightness * (1 + 0.45 * (thread - mean))
        round_off = 0.5 * torch.cos(math.pi * across)
        dx = dx - round_off * over
        dy = dy - round_off * (1 - over)
    # 3. fibres
    if finest(size) >= 512:
        fibres = value_noise(seed, 14, 512, 64, size) + value_noise(seed, 15, 64, 512, size)
        brightness = brightness + 0.06 * fibres
    return Surface(brightness, torch.zeros_like(brightness), dx, dy)


def marble(seed: Tensor, size: int) -> Surface:
    """Polished white stone with gray veins: the lines where bent noise is zero."""
    clouds = fractal_noise(seed, 10, size, (2, 4, 8, 16), 0.6)
    veins = torch.zeros_like(clouds)
    for channel, cells, sharpness, strength in ((20, 3, 0.10, 0.50), (30, 5, 0.07, 0.32)):
        bent = fractal_noise(seed, channel, size, (cells, 2 * cells, 4 * cells, 8 * cells), 0.5)
        where = (0.6 + 0.5 * value_noise(seed, channel + 8, 3, 3, size)).clamp(0, 1)
        veins = veins + strength * where * (
            0.65 * torch.exp(-bent.abs() / sharpness) + 0.2 * torch.exp(-bent.abs() / 0.5)
        )
    crystals = fractal_noise(seed, 40, size, (32, 64, 128, 256, 512), 1.0)
    brightness = (1 + 0.03 * clouds + 0.022 * crystals) * (1 - veins.clamp(max=0.6))
    flat = torch.zeros_like(brightness)
    return Surface(brightness, veins, flat, flat)


# The colour of each surface, and what one unit of its tint adds.
COLORS_OF = {
    "wood": ((0.62, 0.45, 0.295), (0.0, 0.0, 0.03)),
    "sand": ((0.70, 0.635, 0.53), (0.0, 0.0, 0.0)),
    "slate": ((0.305, 0.33, 0.37), (0.05, 0.0125, -0.02)),
    "linen": ((0.60, 0.60, 0.565), (0.0, 0.0, 0.0)),
    "marble": ((0.71, 0.705, 0.695), (0.0, 0.0, 0.03)),
}
MADE_BY: dict[str, Callable[[Tensor, int], Surface]] = {
    "wood": wood,
    "sand": sand,
    "slate": slate,
    "linen": linen,
    "marble": marble,
}
assert tuple(MADE_BY) == tuple(COLORS_OF) == tuple(SURFACES)
