"""Pictures of pictures: grids with captions, for people to look at."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor


def to_image(picture: Tensor, size: int | None = None) -> Image.Image:
    """[3, h, w] in [-1, 1] -> a PIL picture, enlarged without smoothing to `size`."""
    if size is not None and size != picture.shape[-1]:
        picture = F.interpolate(picture[None].float(), size=(size, size), mode="nearest")[0]
    return Image.fromarray(((picture.float().cpu().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy())


def labelled_grid(pictures: Sequence[Tensor], labels: Sequence[str], columns: int | None = None, cell: int = 192,
                  frames: Sequence[str | None] | None = None) -> Image.Image:
    """Pictures [3, h, w] in rows, each with its label below; `frames` gives each a coloured frame (None: no frame)."""
    n = len(pictures)
    columns = columns or min(n, 4)
    font = ImageFont.load_default(size=12)
    lines = [textwrap.wrap(label, width=cell // 6) or [""] for label in labels]
    margin, text_height = 6, 15 * max(map(len, lines)) + 4
    width, height = cell + 2 * margin, cell + 2 * margin + text_height
    sheet = Image.new("RGB", (columns * width, -(-n // columns) * height), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (picture, text) in enumerate(zip(pictures, lines)):
        x, y = i % columns * width + margin, i // columns * height + margin
        frame = (frames[i] if frames else None) or "#bbbbbb"
        draw.rectangle((x - 2, y - 2, x + cell + 1, y + cell + 1), fill=frame)
        sheet.paste(to_image(picture, cell), (x, y))
        draw.multiline_text((x, y + cell + 4), "\n".join(text), fill="black", font=font, spacing=2)
    return sheet
