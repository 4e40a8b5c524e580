"""Images as one image: grids with labels, tables with names, colours reduced for small files."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from imagen_mini.utils.images import to_image

# correct, incorrect, not judged: green and vermilion of Okabe and Ito (2008)
BORDERS = {True: "#009E73", False: "#D55E00", None: "#bbbbbb"}
MARGIN = 6  # pixels around an image
Size = tuple[int, int]  # width and height
Border = bool | str | None  # correct or incorrect, a colour, or None: gray


def grid_size(labels: Sequence[str], columns: int | None = None, cell: int = 192) -> Size:
    """The width and height of an `image_grid` in pixels.

    Args:
        labels, columns, cell: As in `image_grid`.

    Returns:
        Width and height.
    """
    columns, width, height = _layout(labels, columns, cell)
    return columns * width, -(-len(labels) // columns) * height


def _layout(labels: Sequence[str], columns: int | None, cell: int) -> tuple[int, int, int]:
    """The number of columns, and the width and height of a cell with its label and margins."""
    lines = max(len(_wrapped(label, cell)) for label in labels)
    return (
        columns or min(len(labels), 4),
        cell + 2 * MARGIN,
        cell + 2 * MARGIN + 15 * lines + 4,
    )


def _wrapped(label: str, cell: int) -> list[str]:
    """A label in lines of the width of a cell."""
    return textwrap.wrap(label, width=cell // 6) or [""]


def image_grid(
    images: Sequence[Tensor | Image.Image],
    labels: Sequence[str],
    columns: int | None = None,
    cell: int = 192,
    borders: Sequence[Border] | None = None,
) -> Image.Image:
    """Images in rows, each with its label below.

    Args:
        images: n images [3, h, w] in [-1, 1], or PIL images that are as large as a cell.
        labels: The text below each; it is wrapped to the width of a cell.
        columns: Images in a row (default: at most 4).
        cell: The side of an image in pixels (default: 192).
        borders: For each image True (correct, green), False (incorrect, vermilion), None (not
            judged, gray) or the name of a colour (default: gray for all).

    Returns:
        A PIL image.
    """
    font = ImageFont.load_default(size=12)
    grid = Image.new("RGB", grid_size(labels, columns, cell), "white")
    columns, width, height = _layout(labels, columns, cell)
    for i, (image, label) in enumerate(zip(images, labels)):
        x, y = i % columns * width + MARGIN, i // columns * height + MARGIN
        _paste(grid, image, x, y, cell, borders[i] if borders else None)
        ImageDraw.Draw(grid).multiline_text(
            (x, y + cell + 4), "\n".join(_wrapped(label, cell)), fill="black", font=font, spacing=2
        )
    return grid


def image_table(
    rows: Sequence[Sequence[Tensor | None]],
    row_names: Sequence[str],
    column_names: Sequence[str],
    cell: int = 112,
    borders: Sequence[Sequence[Border]] | None = None,
) -> Image.Image:
    """Images as a table, with the names of the rows to the left and of the columns above.

    Args:
        rows: Rows of images [3, h, w] in [-1, 1]; None leaves a place empty.
        row_names: One name for each row.
        column_names: One name for each column.
        cell: The side of an image in pixels (default: 112).
        borders: As in `image_grid`, row by row.

    Returns:
        A PIL image.

    Raises:
        ValueError: If there are not as many names as rows and columns of images.
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
    grid = Image.new(
        "RGB", (left + len(heads) * step + MARGIN, top + len(names) * step + MARGIN), "white"
    )
    generate = ImageDraw.Draw(grid)
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
                    grid,
                    image,
                    left + i * step,
                    top + j * step,
                    cell,
                    borders[j][i] if borders else None,
                )
    return grid


def _paste(
    grid: Image.Image, image: Tensor | Image.Image, x: int, y: int, cell: int, border: Border
) -> None:
    """Paste an image at (x, y), `cell` pixels wide, with its border."""
    color = border if isinstance(border, str) else BORDERS[border]
    ImageDraw.Draw(grid).rectangle((x - 2, y - 2, x + cell + 1, y + cell + 1), fill=color)
    grid.paste(image if isinstance(image, Image.Image) else to_image(image, cell), (x, y))


def quantize_colors(grid: Image.Image) -> Image.Image:
    """An image in 256 colours.

    The eye hardly sees the difference, and the file is a fifth as large, since plain backgrounds
    become plain.
    """
    return grid.quantize(256, Image.Quantize.FASTOCTREE)


def as_jpeg(grid: Image.Image, quality: int = 85):
    """An image as a notebook displays it, but a third as large.

    Attention maps and noise are soft, and soft images make large PNG files.

    Args:
        image: A PIL image.
        quality: Of the JPEG file (default: 85).
    """
    from IPython.display import Image as Shown

    file = io.BytesIO()
    grid.save(file, "JPEG", quality=quality)
    return Shown(data=file.getvalue(), format="jpeg")
