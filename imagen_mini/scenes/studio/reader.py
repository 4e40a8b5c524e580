"""What a small network sees at each pixel of the 64 x 64 grid: the learnt half of the judge.

It names what is there and decides nothing about objects. `judge.py` reads the scene from it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imagen_mini.scenes.scene import COLORS, GRID, LIGHTS, MATERIALS, SURFACES, TEXTURES

GROUND, FOREIGN = 0, 1 + len(COLORS)  # the kinds of a pixel: the ground, 8 colours, neither
WIDTHS = (32, 48, 64)  # channels at 32, 16 and 8 pixels of a side
# What is told of each pixel, and among how many.
TOLD = {
    "kind": 2 + len(COLORS),
    "material": len(MATERIALS),
    "texture": len(TEXTURES),
    "surface": len(SURFACES),
}


class Seen(NamedTuple):
    """Logits; at 64 px those of textures say nothing."""

    kind: Tensor  # [b, 10, GRID, GRID]: ground, the colours of objects, none of these
    material: Tensor  # [b, 3, GRID, GRID]
    texture: Tensor  # [b, 4, GRID, GRID]
    surface: Tensor  # [b, 5, GRID, GRID]
    light: Tensor  # [b, 4]


class Block(nn.Module):
    """Two convolutions, added to what comes in; at the start they add nothing."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.GroupNorm(8, width)
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.silu(self.first(F.silu(self.norm(x)))))


class PixelReader(nn.Module):
    """Images [b, 3, size, size] in [-1, 1] -> `Seen`: a U-Net of three levels.

    Args:
        size: Width of the images, 64 or 256.
    """

    def __init__(self, size: int):
        super().__init__()
        self.size = size
        a, b, c = WIDTHS
        # 1. The colours of the grid's pixels, and at 256 px what each patch of 4 x 4 shows beside.
        self.colors = nn.Sequential(nn.Conv2d(3, 24, 3, padding=1), nn.SiLU(), nn.Conv2d(24, 16, 1))
        self.details = None
        if (patch := size // GRID) > 1:
            self.details = nn.Sequential(
                nn.Conv2d(3, 32, patch, patch), nn.SiLU(), nn.Conv2d(32, 16, 1, bias=False)
            )
            nn.init.zeros_(self.details[2].weight)
        # 2. Down to 8 x 8 and up again.
        self.into = nn.Conv2d(4 * 16, a, 3, padding=1)
        self.fine = Block(a)
        self.down = nn.Conv2d(a, b, 3, 2, 1)
        self.middle = Block(b)
        self.down_again = nn.Conv2d(b, c, 3, 2, 1)
        self.coarse = nn.Sequential(Block(c), Block(c))
        self.up = nn.Conv2d(c, b, 1)
        self.middle_up = Block(b)
        self.up_again = nn.Conv2d(b, a, 1)
        self.fine_up = Block(a)
        # 3. What is told.
        self.tell = nn.Conv2d(a, 4 * sum(TOLD.values()), 1)
        self.tell_light = nn.Linear(2 * c, len(LIGHTS))

    def forward(self, images: Tensor) -> Seen:
        x = self.colors(F.avg_pool2d(images, self.size // GRID))
        if self.details is not None:
            x = x + self.details(images)
        x = self.fine(self.into(F.pixel_unshuffle(F.silu(x), 2)))
        y = self.middle(self.down(x))
        z = self.coarse(self.down_again(y))
        y = self.middle_up(y + F.interpolate(self.up(z), scale_factor=2))
        x = self.fine_up(x + F.interpolate(self.up_again(y), scale_factor=2))
        told = F.pixel_shuffle(self.tell(F.silu(x)), 2).float()
        of_all = F.silu(z)
        light = self.tell_light(torch.cat([of_all.mean((2, 3)), of_all.amax((2, 3))], 1))
        return Seen(*told.split(list(TOLD.values()), 1), light.float())
