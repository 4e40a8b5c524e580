"""Images as tensors, arrays and Pillow images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageColor, ImageOps
from torch import Tensor

WHITE_OR_BLACK_IS_ZERO = 262  # the TIFF tag PhotometricInterpretation; 0: white is zero


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
    """[b, 3, h, w] in [-1, 1] -> PIL images. NaN becomes black."""
    pixels = np.nan_to_num(to_numpy(images), nan=0.0)  # to cast NaN is undefined
    return [Image.fromarray(a) for a in (pixels * 255).round().astype(np.uint8)]


def to_numpy(images: Tensor) -> np.ndarray:
    """[b, 3, h, w] in [-1, 1] -> [b, h, w, 3] in [0, 1]."""
    return (images.float().cpu().clamp(-1, 1) / 2 + 0.5).permute(0, 2, 3, 1).numpy()


def image_to_tensor(image: Image.Image, size: int | None = 64) -> Tensor:
    """A PIL image of any mode as [3, size, size] in [-1, 1]: upright, its central square, resized.

    Args:
        image: The image. EXIF orientation is applied, transparent pixels are put on white.
        size: Pixels of a side (default 64). None: all of the image, as it is.

    Returns:
        [3, size, size] in [-1, 1], or [3, h, w] without a size.

    Raises:
        ValueError: The mode has 32 bits a pixel, so its white is not known.
    """
    rgb = upright_rgb(image)
    pixels = np.asarray(rgb) if size is None else central_square(rgb, size)
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1) / 127.5 - 1


# what `images_to_tensor` takes
Images = Tensor | np.ndarray | Image.Image | Sequence[Tensor | np.ndarray | Image.Image]


def images_to_tensor(images: Images, name: str = "image", size: int | None = None) -> Tensor:
    """Images of any of the usual types as one tensor [b, 3, h, w] in [-1, 1].

    The type says which values are black and white, as the values cannot:

        PIL image                 any mode, see `image_to_tensor`
        uint8                     0 to 255
        NumPy array of floats     0 to 1
        tensor of floats          -1 to 1, as everywhere in this package

    Args:
        images: One image or a batch, or a list of images. Arrays are [h, w, 3] or [b, h, w, 3],
            tensors [3, h, w] or [b, 3, h, w].
        name: What an error calls them.
        size: PIL images are brought to this size. None: they keep theirs. Arrays and tensors do.

    Returns:
        [b, 3, h, w] in [-1, 1], float32.

    Raises:
        TypeError: Not images, or values of another type.
        ValueError: Another shape, values out of range, or images of different sizes.
    """
    if not isinstance(images, (list, tuple)):
        return _batch(images, name, size)
    if not images:
        raise TypeError(f"{name}: an empty list; {EXPECTED}")
    batches = [_batch(image, name, size) for image in images]
    if len(sizes := {tuple(batch.shape[2:]) for batch in batches}) > 1:
        raise ValueError(f"{name}: images of different sizes, {sorted(sizes)}; expected one size")
    return torch.cat([batch.to(batches[0].device) for batch in batches])


EXPECTED = "expected a tensor, a NumPy array or PIL images"


def _batch(images: Tensor | np.ndarray | Image.Image, name: str, size: int | None) -> Tensor:
    """`images_to_tensor` of anything but a list."""
    # 1. which type: channels first, and the values of black and white
    if isinstance(images, Image.Image):
        return image_to_tensor(images, size)[None]
    if isinstance(images, np.ndarray):
        shape, (low, high), layout = images.shape, (0, 1), ("[h, w, 3]", "[b, h, w, 3]")
        last = -1
    elif isinstance(images, Tensor):
        shape, (low, high), layout = images.shape, (-1, 1), ("[3, h, w]", "[b, 3, h, w]")
        last = -3
    else:
        raise TypeError(f"{name} {type(images).__name__}; {EXPECTED}")
    # 2. the shape
    if len(shape) not in (3, 4) or shape[last] != 3 or 0 in shape:
        raise ValueError(
            f"{name} {list(shape)}: expected {layout[0]} or {layout[1]}, as "
            f"{'an array' if last == -1 else 'a tensor'} has its three channels "
            f"{'last' if last == -1 else 'first'}"
        )
    x = images if isinstance(images, Tensor) else _as_tensor(images, name)
    x = x if len(shape) == 4 else x[None]
    x = x if last == -3 else x.permute(0, 3, 1, 2)
    # 3. the values
    if x.dtype == torch.uint8:
        return x / 127.5 - 1
    if not x.is_floating_point():
        raise TypeError(f"{name}: values of type {x.dtype}; expected uint8 (0 to 255) or floats")
    x = x.float()
    if not x.isfinite().all():
        raise ValueError(f"{name}: not all values are finite")
    if x.min() < low - ROUNDING or x.max() > high + ROUNDING:
        raise ValueError(
            f"{name}: values from {x.min():.3g} to {x.max():.3g}; expected [{low}, {high}] in "
            f"{'an array' if last == -1 else 'a tensor'} of floats. Pass values from 0 to 255 as "
            f"uint8, those in [-1, 1] as a tensor, and those in [0, 1] as a NumPy array"
        )
    return x.clamp(-1, 1) if (low, high) == (-1, 1) else x.clamp(0, 1) * 2 - 1


ROUNDING = 1e-4  # by which values may miss their range, as resizing and half precision do


def _as_tensor(array: np.ndarray, name: str) -> Tensor:
    """An array as a tensor; a TypeError if its values are of no type that torch has."""
    try:
        return torch.from_numpy(np.ascontiguousarray(array))
    except TypeError:
        raise TypeError(
            f"{name}: values of type {array.dtype}; expected uint8 (0 to 255) or floats"
        ) from None


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


def to_rgb(image: Image.Image, sixteen_bit: bool = False, background: str = "white") -> Image.Image:
    """A PIL image of any mode as RGB, on a plain background.

    Args:
        image: The image.
        sixteen_bit: The one channel goes up to 65,535, which would be clipped at 255 otherwise.
        background: The colour that transparent pixels are put on, see `hex_color`.

    Raises:
        ValueError: The mode has 32 bits a pixel, so its white is not known.
    """
    if sixteen_bit:
        values = np.asarray(image, np.float32)
        rgb = Image.fromarray((values / 257).round().astype(np.uint8)).convert("RGB")
        if (transparent := image.info.get("transparency")) is not None:
            rgb.paste(ImageColor.getrgb(background), mask=Image.fromarray(values == transparent))
        return rgb
    if image.mode in ("I", "F"):
        raise ValueError(
            f"which of the values of mode {image.mode} (32 bits a pixel) is white is not "
            "known; expected 8 or 16 bits a channel"
        )
    if image.has_transparency_data:
        image = image.convert("LA") if image.mode == "La" else image
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, background), image)
    return image.convert("RGB")


def upright_rgb(image: Image.Image, background: str = "white") -> Image.Image:
    """A PIL image as RGB, as a viewer shows it: EXIF orientation applied, 16 bits scaled to 8,
    transparent pixels put on `background`.
    """
    sixteen_bit = image.mode.startswith("I;16") or (image.mode, image.format) == ("I", "PNG")
    # Pillow inverts such a TIFF only at 8 bits
    white_is_zero = sixteen_bit and getattr(image, "tag_v2", {}).get(WHITE_OR_BLACK_IS_ZERO) == 0
    try:
        image = ImageOps.exif_transpose(image)
    except Exception:  # the block is not readable as EXIF, which says nothing of the pixels
        pass
    rgb = to_rgb(image, sixteen_bit, background)
    return ImageOps.invert(rgb) if white_is_zero else rgb


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


def padded_square(image: Image.Image, size: int, background: str = "white") -> np.ndarray:
    """All of an RGB image at the centre of a square, resized with anti-aliasing: uint8 [size,
    size, 3]. What it leaves free has the colour `background`.
    """
    longest = max(image.size)
    width, height = (max(1, round(side * size / longest)) for side in image.size)
    square = Image.new("RGB", (size, size), background)
    square.paste(
        image.resize((width, height), Image.Resampling.LANCZOS),
        ((size - width) // 2, (size - height) // 2),
    )
    return np.asarray(square)


def hex_color(color: str) -> str:
    """A colour as '#rrggbb', from a name or a form that CSS knows: 'white', '#f0f0f0'.

    Raises:
        ValueError: It is no colour, or a transparent one.
    """
    try:
        channels = ImageColor.getrgb(color)
    except ValueError:
        channels = ()
    if len(channels) != 3:
        raise ValueError(f"the colour {color!r}; expected a name like 'white', or '#f0f0f0'")
    return "#{:02x}{:02x}{:02x}".format(*channels)
