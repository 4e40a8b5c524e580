"""Image files of any origin -> RGB. Few formats, and a limit on the pixels that is checked before
any is decoded. What cannot be read raises an ImageError that names the file.
"""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from imagen_mini.data.svg import MISSING, can_render_svg, looks_like_svg, render_svg
from imagen_mini.utils.images import to_rgb, upright_rgb

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "JPEG2000")
SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
    *(".avif", ".jp2", ".j2k", ".jpf", ".jpx"),
)
MAX_PIXELS = 64 * 2**20  # a file of a few kB can declare billions
SVG_SIDE = 512  # pixels of the longer side that a drawing is rendered at, whatever it declares

# The chunks of a PNG that its pixels depend on, with the EXIF orientation.
PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"eXIf", b"IDAT", b"IEND")
END_OF_CODESTREAM = b"\xff\xd9"  # of JPEG 2000; in its compressed data these bytes never occur


class ImageError(ValueError):
    """A file that is no image, or none that we read."""


def open_rgb(path: str | Path, background: str = "white") -> Image.Image:
    """Read the image in a file, upright, as RGB. Of an animation or of several pages, the first.

    The content decides on the format, not the name. EXIF orientation is applied; transparent
    pixels are put on a background; 16 bits are scaled to 8; colour profiles are not applied. An
    SVG drawing is rendered, where the package resvg_py is installed.

    Args:
        path: The file.
        background: The colour of that background, see `utils.images.hex_color`.

    Raises:
        ImageError: The file is no image, too large, or broken.
    """
    path = Path(path)
    if not path.is_file():  # a pipe or a device would wait for ever
        raise ImageError(
            f"{path} is {'a folder' if path.is_dir() else 'no file'}; expected an image"
        )
    try:
        try:
            return _decode(path, background)
        except Exception:
            if can_render_svg() and looks_like_svg(path):
                return to_rgb(render_svg(path.read_bytes(), SVG_SIDE), background=background)
            if (pixels := _png_without_text(path)) is None:
                raise
            return _decode(pixels, background)
    except UnidentifiedImageError:
        raise ImageError(
            f"{path} ({path.stat().st_size:,} bytes) is no image; expected "
            f"{', '.join(readable_formats())}{_other_format(path)}"
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


def _decode(file: Path | BytesIO, background: str) -> Image.Image:
    """The image as RGB. Its size is checked before its pixels are decoded."""
    with Image.open(file, formats=readable_formats()) as image:
        if image.width * image.height > MAX_PIXELS:
            raise Image.DecompressionBombError(f"{image.width} x {image.height} pixels")
        if (
            image.format == "JPEG2000"
            and END_OF_CODESTREAM not in Path(image.filename).read_bytes()
        ):
            raise OSError("image file is truncated")  # the decoder fills in what is missing
        return upright_rgb(image, background)


def _png_without_text(path: Path) -> BytesIO | None:
    """A PNG with nothing but its pixels; None: it is no PNG, or had nothing else.

    Pillow refuses an image for a text or a colour profile above 1 MiB, and for a damaged chunk of
    any kind, although the pixels may be sound.
    """
    content = path.read_bytes()
    kept, at = [content[:8]], 8
    while content.startswith(b"\x89PNG") and at + 12 <= len(content):
        length, name = struct.unpack(">I4s", content[at : at + 8])
        chunk = content[at : at + 12 + length]
        sound = zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:])
        if name in PIXEL_CHUNKS and (sound or name not in (b"tRNS", b"eXIf")):
            kept.append(chunk)
        at += 12 + length
    pixels = b"".join(kept)
    return BytesIO(pixels) if 8 < len(pixels) < len(content) else None


def readable_formats() -> list[str]:
    """Those of `FORMATS` that this Pillow reads: an old or reduced one has no AVIF."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _other_format(path: Path) -> str:
    """Which well-known format this is that we do not read, for a message."""
    with open(path, "rb") as file:
        head = file.read(32)
    if head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"mif1", b"msf1", b"hevc"):
        return ". It is HEIC, as phones write it: save it as JPEG"
    if head.startswith(b"version https://git-lfs"):
        return ". It is a pointer of Git LFS: git lfs pull"
    if looks_like_svg(path):
        return f". It is SVG: {MISSING}"
    if head.lstrip()[:5].lower() in (b"<html", b"<!doc"):
        return ". It is a web page: the download went wrong"
    return ""
