"""Ways to spoil an image, by a known amount: noise, blur, JPEG."""

from __future__ import annotations

import io

import torch
from PIL import Image
from torch import Tensor

from imagen_mini.utils.images import to_image
from imagen_mini.utils.rng import randn


def gaussian_noise(images: Tensor, sigma: float) -> Tensor:
    """Normal noise of this deviation, then clipped to [-1, 1]."""
    return (images + sigma * randn(range(len(images)), images.shape[1:], "parser check")).clamp(
        -1, 1
    )


def jpeg(images: Tensor, quality: float) -> Tensor:
    """Written as JPEG of this quality and read again."""
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
