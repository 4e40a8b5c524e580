"""What a small network sees at each pixel of a 64 px image: the learnt part of the judge.

It names the ground and the colours of objects, and decides nothing. `judge.py` reads the scene from
it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imagen_mini.scenes.scene import COLORS, LIGHTS, SURFACES

# the kinds of a pixel: the ground, the colours of objects, none of these
GROUND, FOREIGN, KINDS = 0, 1 + len(COLORS), 2 + len(COLORS)
WIDTHS = (32, 48, 64)  # channels at 32, 16 and 8 pixels of a side
DILATED_WIDTH, DILATIONS = 40, (1, 2, 4, 8, 1, 2, 4, 8, 1, 1)  # of the second form


class Seen(NamedTuple):
    """Logits of what an image shows."""

    kind: Tensor  # [b, 10, GRID, GRID]: the ground, a colour of objects, or none of these
    surface: Tensor  # [b, 5, GRID, GRID]
    light: Tensor  # [b, 4], of the whole image


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
    """Images [b, 3, 64, 64] in [-1, 1] -> `Seen`: a U-Net of three levels."""

    def __init__(self):
        super().__init__()
        a, b, c = WIDTHS
        # 1. Colours of pixels, four pixels together; down to 8 x 8 and up again.
        self.colors = nn.Sequential(nn.Conv2d(3, 24, 3, padding=1), nn.SiLU(), nn.Conv2d(24, 16, 1))
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
        # 2. What is told.
        self.tell_kind = nn.Conv2d(a, 4 * KINDS, 1)
        self.tell_surface = nn.Conv2d(a, 4 * len(SURFACES), 1)
        self.tell_light = nn.Linear(2 * c, len(LIGHTS))

    def forward(self, images: Tensor) -> Seen:
        x = self.fine(self.into(F.pixel_unshuffle(F.silu(self.colors(images)), 2)))
        y = self.middle(self.down(x))
        z = self.coarse(self.down_again(y))
        y = self.middle_up(y + F.interpolate(self.up(z), scale_factor=2))
        x = F.silu(self.fine_up(x + F.interpolate(self.up_again(y), scale_factor=2)))
        kind, surface = (
            F.pixel_shuffle(tell(x).float(), 2) for tell in (self.tell_kind, self.tell_surface)
        )
        z = F.silu(z)
        light = self.tell_light(torch.cat([z.mean((2, 3)), z.amax((2, 3))], 1)).float()
        return Seen(kind, surface, light)


class DilatedBlock(nn.Module):
    """A dilated convolution and one of single pixels, added to what comes in; at the start they add
    nothing.
    """

    def __init__(self, width: int, dilation: int):
        super().__init__()
        self.norm = nn.GroupNorm(1, width)
        self.first = nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation)
        self.second = nn.Conv2d(width, width, 1)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.gelu(self.first(self.norm(x))))


class DilatedReader(nn.Module):
    """Images [b, 3, 64, 64] in [-1, 1] -> `Seen`, by another form: one grid, and convolutions that
    reach further and further. The second judge has it, to check the first one with.
    """

    def __init__(self):
        super().__init__()
        self.into = nn.Conv2d(4 * 3, DILATED_WIDTH, 5, padding=2)
        self.blocks = nn.Sequential(*(DilatedBlock(DILATED_WIDTH, d) for d in DILATIONS))
        self.norm = nn.GroupNorm(1, DILATED_WIDTH)
        self.tell_kind = nn.Conv2d(DILATED_WIDTH, 4 * KINDS, 3, padding=1)
        self.tell_surface = nn.Conv2d(DILATED_WIDTH, 4 * len(SURFACES), 1)
        self.tell_light = nn.Linear(2 * DILATED_WIDTH, len(LIGHTS))

    def forward(self, images: Tensor) -> Seen:
        x = self.norm(self.blocks(self.into(F.pixel_unshuffle(images, 2))))
        kind, surface = (
            F.pixel_shuffle(tell(x).float(), 2) for tell in (self.tell_kind, self.tell_surface)
        )
        light = self.tell_light(torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1)).float()
        return Seen(kind, surface, light)
