"""Dilation, erosion and closing of masks, on a grid of square neighbourhoods."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def dilate(mask: Tensor, by: int = 1) -> Tensor:
    """Grow a mask by `by` pixels on all sides, to all eight neighbours.

    Args:
        mask: Bool, or 0 and 1 in floating point, [b, h, w] or [b, c, h, w].
        by: Pixels, at least 0.

    Returns:
        A mask of the same shape and type: the maximum over squares of 2 by + 1 pixels.
    """
    pixels = mask if mask.is_floating_point() else mask.float()
    if mask.ndim == 3:  # as one channel each: max_pool2d takes no empty batch without channels
        pixels = pixels[:, None]
    grown = F.max_pool2d(pixels, 2 * by + 1, 1, by).view(mask.shape)
    return grown if mask.is_floating_point() else grown > 0


def erode(mask: Tensor, by: int = 1) -> Tensor:
    """Shrink a mask by `by` pixels on all sides; the frame of the image does not shrink it.

    Args:
        mask: Bool, or 0 and 1 in floating point, [b, h, w] or [b, c, h, w].
        by: Pixels, at least 0.

    Returns:
        A mask of the same shape and type: the minimum over squares of 2 by + 1 pixels.
    """
    return 1 - dilate(1 - mask, by) if mask.is_floating_point() else ~dilate(~mask, by)


def close(mask: Tensor, by: int = 1) -> Tensor:
    """Fill gaps and holes of up to 2 by pixels: the mask is dilated, then eroded.

    Args:
        mask: 0 and 1 in floating point, [b, c, h, w].
        by: Pixels, at least 1.

    Returns:
        A mask of the same shape and type.
    """
    padded = F.pad(mask, [by] * 4)
    return erode(dilate(padded, by), by)[..., by:-by, by:-by]
