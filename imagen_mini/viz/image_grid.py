"""Images of images: grids with captions, for people to look at."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from imagen_mini.utils.images import to_image

# right, wrong, not judged: green and vermilion of Okabe and Ito (2008)
BORDERS = {True: "#009E73", False: "#D55E00", None: "#bbbbbb"}
MARGIN = 6  # pixels around an image
Frame = bool | str | None  # right or wrong, a colour, or None: no frame


def image_grid(
    images: Sequence[Tensor],
    labels: Sequence[str],
    columns: int | None = None,
    cell: int = 192,
    frames: Sequence[Frame] | None = None,
) -> Image.Image:
    """Images [3, h, w] in rows, each with its label below; `frames` says of each whether it is
    right (True, False; None: not judged), or gives a colour.
    """
    n = len(images)
    columns = columns or min(n, 4)
    font = ImageFont.load_default(size=12)
    lines = [textwrap.wrap(label, width=cell // 6) or [""] for label in labels]
    width, height = cell + 2 * MARGIN, cell + 2 * MARGIN + 15 * max(map(len, lines)) + 4
    sheet = Image.new("RGB", (columns * width, -(-n // columns) * height), "white")
    for i, (image, text) in enumerate(zip(images, lines)):
        x, y = i % columns * width + MARGIN, i // columns * height + MARGIN
        _paste(sheet, image, x, y, cell, frames[i] if frames else None)
        ImageDraw.Draw(sheet).multiline_text(
            (x, y + cell + 4), "\n".join(text), fill="black", font=font, spacing=2
        )
    return sheet


def image_table(
    rows: Sequence[Sequence[Tensor | None]],
    row_names: Sequence[str],
    column_names: Sequence[str],
    cell: int = 112,
    frames: Sequence[Sequence[Frame]] | None = None,
) -> Image.Image:
    """Images [3, h, w] as a table: names of rows to the left, of columns above; None leaves a place
    empty. `frames` as in `image_grid`, row by row. ValueError if names and images are not as many.
    """
    if len(rows) != len(row_names) or any(len(row) != len(column_names) for row in rows):
        raise ValueError(
            f"rows of {[len(row) for row in rows]} images; expected {len(row_names)} rows "
            f"({', '.join(row_names)}) of {len(column_names)}"
        )
    font = ImageFont.load_default(size=12)
    names = [textwrap.wrap(name, width=16) or [""] for name in row_names]
    heads = [textwrap.wrap(name, width=max(6, cell // 6)) or [""] for name in column_names]
    left = (
        int(max((font.getlength(line) for name in names for line in name), default=0)) + 2 * MARGIN
    )
    top, step = 15 * max(map(len, heads)) + MARGIN, cell + MARGIN
    sheet = Image.new(
        "RGB", (left + len(heads) * step + MARGIN, top + len(names) * step + MARGIN), "white"
    )
    generate = ImageDraw.Draw(sheet)
    for i, head in enumerate(heads):
        generate.multiline_text(
            (left + i * step + cell / 2, top - 2),
            "\n".join(head),
            fill="black",
            font=font,
            spacing=2,
            anchor="md",
            align="center",
        )
    for j, (name, row) in enumerate(zip(names, rows)):
        generate.multiline_text(
            (MARGIN, top + j * step + cell / 2),
            "\n".join(name),
            fill="black",
            font=font,
            spacing=2,
            anchor="lm",
        )
        for i, image in enumerate(row):
            if image is not None:
                _paste(
                    sheet,
                    image,
                    left + i * step,
                    top + j * step,
                    cell,
                    frames[j][i] if frames else None,
                )
    return sheet


def _paste(sheet: Image.Image, image: Tensor, x: int, y: int, cell: int, frame: Frame) -> None:
    """An image at (x, y), `cell` wide, in its frame."""
    color = frame if isinstance(frame, str) else BORDERS[frame]
    ImageDraw.Draw(sheet).rectangle((x - 2, y - 2, x + cell + 1, y + cell + 1), fill=color)
    sheet.paste(to_image(image, cell), (x, y))


def quantize_colors(sheet: Image.Image) -> Image.Image:
    """A sheet in 256 colours: the eye hardly sees it, and the file is a fifth as large, since plain
    backgrounds become plain.
    """
    return sheet.quantize(256, Image.Quantize.FASTOCTREE)


def as_jpeg(sheet: Image.Image, quality: int = 85):
    """A sheet as a notebook displays it, but a third as large: maps and noise are soft, and soft
    images make large PNG files.
    """
    from IPython.display import Image as Shown

    file = io.BytesIO()
    sheet.save(file, "JPEG", quality=quality)
    return Shown(data=file.getvalue(), format="jpeg")
