"""Images as tensors, arrays and Pillow images."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor


def to_image(image: Tensor, size: int | None = None) -> Image.Image:
    """A tensor as a PIL image.

    Args:
        image: [3, h, w] in [-1, 1].
        size: Pixels of a side; None: as it is. Enlarged without smoothing, reduced by averages,
            as a fine texture would become another one without.
    """
    if size is not None and size != image.shape[-1]:
        image = F.interpolate(
            image[None].float(),
            size=(size, size),
            mode="nearest" if size > image.shape[-1] else "area",
        )[0]
    return Image.fromarray(
        ((image.float().cpu().clamp(-1, 1) + 1) * 127.5)
        .round()
        .to(torch.uint8)
        .permute(1, 2, 0)
        .numpy()
    )


def to_pil(images: Tensor) -> list[Image.Image]:
    """[b, 3, h, w] in [-1, 1] -> PIL images."""
    return [Image.fromarray(a) for a in ((to_numpy(images) * 255).round().astype(np.uint8))]


def to_numpy(images: Tensor) -> np.ndarray:
    """[b, 3, h, w] in [-1, 1] -> [b, h, w, 3] in [0, 1]."""
    return (images.float().cpu().clamp(-1, 1) / 2 + 0.5).permute(0, 2, 3, 1).numpy()


def image_to_tensor(image: Image.Image, size: int = 64) -> Tensor:
    """The central square of a PIL image, as [3, size, size] in [-1, 1]."""
    return torch.from_numpy(central_square(to_rgb(image), size).copy()).permute(2, 0, 1) / 127.5 - 1


def blur(images: Tensor, sigma: float) -> Tensor:
    """Gaussian blur.

    Args:
        images: [b, 3, h, w].
        sigma: Standard deviation in 1/64 of the width, so that it blurs as much of a scene at any
            size. 0: no blur.
    """
    if sigma == 0:
        return images
    sigma *= images.shape[-1] / 64
    reach = int(3 * sigma) + 1
    kernel = torch.exp(
        -(torch.arange(-reach, reach + 1, device=images.device, dtype=images.dtype) ** 2)
        / (2 * sigma**2)
    )
    kernel = (kernel / kernel.sum()).expand(3, 1, 1, -1)
    padded = F.pad(images, (reach,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel, groups=3), kernel.mT, groups=3)


def to_rgb(image: Image.Image, sixteen_bit: bool = False) -> Image.Image:
    """A PIL image of any mode as RGB, on white.

    Args:
        image: The image.
        sixteen_bit: The one channel goes up to 65,535, which would be clipped at 255 otherwise.

    Raises:
        ValueError: The mode has 32 bits a pixel, so its white is not known.
    """
    if sixteen_bit:
        return Image.fromarray(
            (np.asarray(image, np.float32) / 257).round().astype(np.uint8)
        ).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(
            f"which of the values of mode {image.mode} (32 bits a pixel) is white is not "
            "known; expected 8 or 16 bits a channel"
        )
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def central_square(image: Image.Image, size: int) -> np.ndarray:
    """The largest square at the centre of an RGB image, resized with anti-aliasing: uint8 [size,
    size, 3].
    """
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return np.asarray(
        image.crop((left, top, left + side, top + side)).resize(
            (size, size), Image.Resampling.LANCZOS
        )
    )
