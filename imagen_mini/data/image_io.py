"""Image files of any origin -> RGB. Few formats, and a limit on the pixels that is checked before
any is decoded. What cannot be read raises an ImageError that names the file.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from imagen_mini.utils.images import to_rgb

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
MAX_PIXELS = 64 * 2**20  # a file of a few kB can declare billions


class ImageError(ValueError):
    """A file that is no image, or none that we read."""


def open_rgb(path: Path) -> Image.Image:
    """Read the image in a file, upright, as RGB. Of an animation or of several pages, the first.

    The content decides on the format, not the name. EXIF orientation is applied; transparent
    pixels are put on white; 16 bits are scaled to 8; colour profiles are not applied.

    Raises:
        ImageError: The file is no image, too large, or broken.
    """
    if not path.is_file():  # a pipe or a device would wait for ever
        raise ImageError(
            f"{path} is {'a folder' if path.is_dir() else 'no file'}; expected an image"
        )
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError(f"{image.width} x {image.height} pixels")
            return to_rgb(
                ImageOps.exif_transpose(image),
                sixteen_bit=image.mode.startswith("I;16")
                or (image.mode, image.format) == ("I", "PNG"),
            )
    except UnidentifiedImageError:
        raise ImageError(
            f"{path} ({path.stat().st_size:,} bytes) is no image; expected {', '.join(FORMATS)}"
        ) from None
    except Image.DecompressionBombError as error:
        raise ImageError(
            f"{path} is too large: {error}; at most {MAX_PIXELS:,} pixels are decoded. Make it "
            "smaller"
        ) from None
    except Exception as error:  # decoders meet broken files with all kinds of exceptions
        raise ImageError(
            f"{path} cannot be decoded: {error}. Save it again, or leave it out"
        ) from error
