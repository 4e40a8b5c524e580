"""Ways to spoil a picture, by a known amount: noise, blur, JPEG."""

from __future__ import annotations

import io

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from imagen_mini.pictures import to_image
from imagen_mini.randomness import randn


def add_noise(pictures: Tensor, sigma: float) -> Tensor:
    """Normal noise of this deviation, then clipped to [-1, 1]."""
    return (pictures + sigma * randn(range(len(pictures)), pictures.shape[1:], "parser check")).clamp(-1, 1)


def blur(pictures: Tensor, sigma: float) -> Tensor:
    """A Gaussian of `sigma` in 1/64 of the width, so that it blurs as much of a scene at any size."""
    if sigma == 0:
        return pictures
    sigma *= pictures.shape[-1] / 64
    reach = int(3 * sigma) + 1
    kernel = torch.exp(-torch.arange(-reach, reach + 1, device=pictures.device, dtype=pictures.dtype) ** 2 / (2 * sigma ** 2))
    kernel = (kernel / kernel.sum()).expand(3, 1, 1, -1)
    padded = F.pad(pictures, (reach,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel, groups=3), kernel.mT, groups=3)


def jpeg(pictures: Tensor, quality: float) -> Tensor:
    """Written as JPEG of this quality and read again."""
    out = []
    for picture in pictures:
        file = io.BytesIO()
        to_image(picture).save(file, "JPEG", quality=int(quality))
        with Image.open(file) as image:
            out.append(torch.frombuffer(bytearray(image.convert("RGB").tobytes()), dtype=torch.uint8).view(image.height, image.width, 3))
    return torch.stack(out).permute(0, 3, 1, 2) / 127.5 - 1
