"""Random holes in images, for a network that learns to fill them."""

from __future__ import annotations

import random

import torch
from torch import Tensor

KINDS = ("everything", "box", "half", "strokes")


def random_known(rng: random.Random, size: int) -> Tensor:
    """What is known of an image: all but a hole of one of four kinds.

    "everything": nothing is known, so that the network still generates from text alone. "box": a
    rectangle is missing. "half": all on one side of a line is. "strokes": a few thick lines are, as
    from a brush.

    Args:
        rng: The source of randomness.
        size: Of the image.

    Returns:
        [1, size, size] of 0 and 1; 1 is known, and some of it is not.
    """
    kind = rng.choice(KINDS)
    place = torch.arange(size, dtype=torch.float32) + 0.5
    y, x = torch.meshgrid(place, place, indexing="ij")
    if kind == "everything":
        hole = torch.ones(size, size, dtype=torch.bool)
    elif kind == "box":
        height, width = (rng.uniform(0.2, 0.8) * size for _ in range(2))
        top, left = rng.uniform(0, size - height), rng.uniform(0, size - width)
        hole = (y >= top) & (y <= top + height) & (x >= left) & (x <= left + width)
    elif kind == "half":
        a, b = rng.gauss(0, 1), rng.gauss(0, 1)
        through_y, through_x = (rng.uniform(0.25, 0.75) * size for _ in range(2))
        hole = a * (y - through_y) + b * (x - through_x) > 0
    else:
        hole = torch.zeros(size, size, dtype=torch.bool)
        end = rng.uniform(0, size), rng.uniform(0, size)
        for _ in range(rng.randint(2, 5)):
            start, end = end, (rng.uniform(0, size), rng.uniform(0, size))
            hole |= _distance_to_line(y, x, start, end) <= rng.uniform(0.05, 0.12) * size
    return (~hole).float()[None]


def _distance_to_line(
    y: Tensor, x: Tensor, start: tuple[float, float], end: tuple[float, float]
) -> Tensor:
    """How far each place is from the line between two places."""
    dy, dx = end[0] - start[0], end[1] - start[1]
    along = ((y - start[0]) * dy + (x - start[1]) * dx) / max(dy * dy + dx * dx, 1e-9)
    along = along.clamp(0, 1)
    return ((y - start[0] - along * dy).square() + (x - start[1] - along * dx).square()).sqrt()
