"""Ways to spoil a picture, by a known amount: noise, blur, JPEG."""

from __future__ import annotations

import io

import torch
from PIL import Image
from torch import Tensor

from imagen_mini.utils.images import to_image
from imagen_mini.utils.rng import randn


def gaussian_noise(pictures: Tensor, sigma: float) -> Tensor:
    """Normal noise of this deviation, then clipped to [-1, 1]."""
    return (pictures + sigma * randn(range(len(pictures)), pictures.shape[1:], "parser check")).clamp(-1, 1)




def jpeg(pictures: Tensor, quality: float) -> Tensor:
    """Written as JPEG of this quality and read again."""
    out = []
    for picture in pictures:
        file = io.BytesIO()
        to_image(picture).save(file, "JPEG", quality=int(quality))
        with Image.open(file) as image:
            out.append(torch.frombuffer(bytearray(image.convert("RGB").tobytes()), dtype=torch.uint8).view(image.height, image.width, 3))
    return torch.stack(out).permute(0, 3, 1, 2) / 127.5 - 1
