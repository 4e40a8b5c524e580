"""Image corruptions of known strength: noise and JPEG. (Blur: `imagen_mini.utils.images.blur`.)"""

from __future__ import annotations

import io

import torch
from PIL import Image
from torch import Tensor

from imagen_mini.utils.images import to_image
from imagen_mini.utils.rng import randn


def gaussian_noise(images: Tensor, sigma: float) -> Tensor:
    """Add Gaussian noise and clip.

    Args:
        images: [b, 3, h, w] in [-1, 1].
        sigma: Standard deviation of the noise, on the same scale.

    Returns:
        [b, 3, h, w] in [-1, 1].
    """
    return (images + sigma * randn(range(len(images)), images.shape[1:], "parser check")).clamp(
        -1, 1
    )


def jpeg(images: Tensor, quality: float) -> Tensor:
    """Compress to JPEG and decode again.

    Args:
        images: [b, 3, h, w] in [-1, 1].
        quality: JPEG quality, 1 to 95.

    Returns:
        [b, 3, h, w] in [-1, 1], on the CPU.
    """
    out = []
    for image in images:
        file = io.BytesIO()
        to_image(image).save(file, "JPEG", quality=int(quality))
        with Image.open(file) as decoded:
            out.append(
                torch.frombuffer(
                    bytearray(decoded.convert("RGB").tobytes()), dtype=torch.uint8
                ).view(decoded.height, decoded.width, 3)
            )
    return torch.stack(out).permute(0, 3, 1, 2) / 127.5 - 1
