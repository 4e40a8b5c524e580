"""Noise as a function of a seed and a place, the same at every resolution.

Value noise is a lattice of random numbers, smoothed by cubic B-splines. It is linear in the
lattice, so its average over each pixel is exact: two small matrix products. The 64 px image of a
noise is therefore the area average of its 256 px image.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

MASK = 0xFFFFFFFF
FINE = 2048  # the average over a pixel is taken over positions of this spacing, in 1 / width


def uniform(seed: Tensor, *keys: int | Tensor) -> Tensor:
    """Random numbers in [0, 1) that depend on their arguments alone.

    Args:
        seed: Integers below 2^32, of any shape.
        *keys: Further integers, which broadcast with the seed.

    Reference: an integer hash of two multiplications and three shifts ("lowbias32" by C. Wellons).
    """
    h = seed
    for key in keys:
        h = (h + 0x9E3779B9 * (key + 1)) & MASK
        h = ((h ^ (h >> 16)) * 0x7FEB352D) & MASK
        h = ((h ^ (h >> 15)) * 0x846CA68B) & MASK
        h = h ^ (h >> 16)
    return (h >> 8).to(torch.float32) / (1 << 24)


@lru_cache(maxsize=64)
def spline_weights(cells: int, size: int, corners: bool = False, device=None) -> Tensor:
    """The weight of each lattice value for each pixel of a row, by cubic B-splines.

    Args:
        cells: Cells of the lattice across the image.
        size: Pixels across the image.
        corners: Weights at the size + 1 borders of the pixels, instead of averages over the pixels
            (default: False).
        device: Where the result lies (default: CPU).

    Returns:
        [size, cells + 3], or [size + 1, cells + 3]. Noise with these weights has unit variance if
        the lattice has.
    """
    if corners:
        at = torch.linspace(0, cells, size + 1, dtype=torch.float64)
    else:
        per_pixel = max(FINE // size, 1)
        at = (torch.arange(size * per_pixel, dtype=torch.float64) + 0.5) / (size * per_pixel)
        at = at * cells
    distance = (at[:, None] + 1 - torch.arange(cells + 3)).abs()
    inner = 2 / 3 - distance.square() + distance**3 / 2
    outer = (2 - distance).clamp(min=0) ** 3 / 6
    weights = torch.where(distance < 1, inner, outer) / (151 / 315) ** 0.5
    if not corners:
        weights = weights.view(size, per_pixel, -1).mean(1)
    return weights.to(device, torch.float32)


def lattice(seed: Tensor, channel: int, down: int, across: int) -> Tensor:
    """Random numbers of zero mean and unit variance, [b, down + 3, across + 3]."""
    rows = torch.arange(down + 3, device=seed.device)[:, None]
    columns = torch.arange(across + 3, device=seed.device)
    place = rows * 4096 + columns
    return (uniform(seed[:, None, None], channel, place) - 0.5) * 12**0.5


def value_noise(seed: Tensor, channel: int, down: int, across: int, size: int) -> Tensor:
    """Smooth noise of unit variance.

    Args:
        seed: [b], integers.
        channel: Which of the seed's noises.
        down, across: Cells of its lattice. Few cells make smooth noise, unequal numbers streaks.
        size: Pixels of a side.

    Returns:
        [b, size, size].
    """
    values = lattice(seed, channel, down, across)
    by_row = spline_weights(down, size, device=seed.device)
    by_column = spline_weights(across, size, device=seed.device)
    return by_row @ values @ by_column.T


def finest(size: int) -> int:
    """The most cells of a lattice that an image of this size shows."""
    return max(64, size // 2)


class Relief(NamedTuple):
    """Noise of many scales with its slopes by x and by y, [b, size, size] each."""

    value: Tensor
    dx: Tensor
    dy: Tensor


def fractal_noise(
    seed: Tensor,
    channel: int,
    size: int,
    cells: Sequence[int],
    fall: float,
    corners: bool = False,
) -> Tensor:
    """The sum of noises of ever more cells, each `fall` times as strong as the one before.

    All products with the columns' weights are one: the sum of A_i B_i is (A_1 A_2 ...) times
    (B_1 B_2 ...) stacked.

    Args:
        seed: [b], integers.
        channel: Which of the seed's noises.
        size: Pixels of a side.
        cells: Cells of each lattice; those that the image does not show are left out.
        fall: See above.
        corners: Values at the corners of pixels, instead of averages over pixels (default: False).

    Returns:
        [b, size, size], or [b, size + 1, size + 1].
    """
    shown = [n for n in cells if n <= finest(size)]
    weights = [spline_weights(n, size, corners, seed.device) for n in shown]
    rows = [
        (fall**i * w) @ lattice(seed, channel + i, n, n)
        for i, (n, w) in enumerate(zip(shown, weights))
    ]
    return torch.cat(rows, 2) @ torch.cat(weights, 1).T


def fractal_relief(
    seed: Tensor, channel: int, size: int, cells: Sequence[int], fall: float
) -> Relief:
    """`fractal_noise` as a height, with its slopes.

    The average slope over a pixel is the difference between its borders, so a small image shows
    the average slopes of a large one.

    Args:
        seed, channel, size, cells, fall: As of `fractal_noise`.

    Returns:
        The height, and its slopes per 1/64 of the width.
    """
    height = fractal_noise(seed, channel, size, cells, fall, corners=True)
    by_row, by_column = height[:, 1:] + height[:, :-1], height[:, :, 1:] + height[:, :, :-1]
    value = (by_row[:, :, 1:] + by_row[:, :, :-1]) / 4
    dx = (by_row[:, :, 1:] - by_row[:, :, :-1]) * (size / 128)
    dy = (by_column[:, 1:] - by_column[:, :-1]) * (size / 128)
    return Relief(value, dx, dy)
