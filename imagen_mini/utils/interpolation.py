"""Interpolation between noises."""

from __future__ import annotations

import torch
from torch import Tensor


def slerp(a: Tensor, b: Tensor, share: float) -> Tensor:
    """Return the spherical interpolation of two noises, along the arc between them.

        sin((1 - share) angle) / sin(angle) a + sin(share angle) / sin(angle) b

    `angle` is the angle between a and b as vectors. For independent noises it is almost 90 degrees,
    and the mix has their length, which a linear mix does not.

    Args:
        a: A noise.
        b: Another one of the same shape.
        share: From 0 (a) to 1 (b).

    Reference:
        Shoemake (1985), Animating rotation with quaternion curves.
    """
    angle = torch.arccos((a.flatten() @ b.flatten() / (a.norm() * b.norm())).clamp(-1, 1))
    if angle < 1e-4:  # so near that the arc is a straight line
        return torch.lerp(a, b, share)
    return (torch.sin((1 - share) * angle) * a + torch.sin(share * angle) * b) / torch.sin(angle)
