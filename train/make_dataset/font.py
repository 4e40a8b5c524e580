"""The emoji of a colour font, with their Unicode names as captions. Debian and Ubuntu have such a
font in the package fonts-noto-color-emoji.
"""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from tqdm.auto import tqdm

SIZES = (109, 160, 136, 128)  # colour fonts hold bitmaps, of one size: Noto's 109, Apple's 160


def find_font() -> Path:
    """The first colour-emoji font of this system."""
    from matplotlib.font_manager import findSystemFonts

    fonts = sorted(Path(font) for font in findSystemFonts() if "emoji" in Path(font).name.lower())
    if not fonts:
        raise FileNotFoundError(
            "no emoji font on this system; install one (Debian, Ubuntu: apt install "
            "fonts-noto-color-emoji) or name its file with --font"
        )
    return fonts[0]


def load_font(path: Path) -> ImageFont.FreeTypeFont:
    """The font at the size of its bitmaps."""
    for size in SIZES:
        try:
            return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)
        except OSError as error:  # another size is needed, or it is no font at all
            reason = error
    raise ValueError(
        f"{path} cannot be used: {reason}; expected a font with colour bitmaps of size "
        f"{', '.join(map(str, SIZES))}, like NotoColorEmoji.ttf"
    )


def emoji_names(code_points: Iterable[int]) -> dict[str, str]:
    """Symbols and their names, like 'grinning face', without letters, digits and parts of flags."""
    names = {
        chr(c): unicodedata.name(chr(c), "").lower()
        for c in sorted(code_points)
        if unicodedata.category(chr(c)) == "So"
    }
    return {
        symbol: name
        for symbol, name in names.items()
        if name and not name.startswith("regional indicator")
    }


def render_emoji(symbol: str, font: ImageFont.FreeTypeFont) -> Image.Image | None:
    """One symbol on a transparent square; None if the font renders nothing for it."""
    left, top, right, bottom = font.getbbox(symbol)
    side = max(right - left, bottom - top)
    image = Image.new("RGBA", (side, side))
    ImageDraw.Draw(image).text(
        ((side - right - left) / 2, (side - bottom - top) / 2),
        symbol,
        "black",
        font,
        embedded_color=True,
    )
    return image if image.getbbox() else None


def emoji_images(font_file: Path) -> Iterator[tuple[str, bytes, str]]:
    """(file name, PNG, caption) of every emoji of a font."""
    from fontTools.ttLib import TTFont  # comes with matplotlib

    font, found = load_font(font_file), 0
    for symbol, name in tqdm(
        emoji_names(TTFont(font_file, fontNumber=0).getBestCmap()).items(),
        desc="rendering",
        unit="emoji",
    ):
        if image := render_emoji(symbol, font):
            file, found = io.BytesIO(), found + 1
            image.save(file, "PNG")
            yield f"{ord(symbol):x}.png", file.getvalue(), name
    if not found:
        raise ValueError(
            f"{font_file} renders no emoji; expected a font with colour bitmaps, like "
            "NotoColorEmoji.ttf"
        )
