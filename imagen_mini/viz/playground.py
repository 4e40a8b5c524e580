"""Rows of images, each judged by its own caption: what the toys of the playground are shown in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from PIL import Image
from torch import Tensor

from imagen_mini.evaluation.scoring import judge_images
from imagen_mini.scenes.parse import parse_image
from imagen_mini.viz.image_grid import image_table, quantize_colors


def judged_rows(
    rows: Sequence[tuple[str, str, Tensor]], columns: Sequence[str] | None = None, cell: int = 128
) -> Image.Image:
    """A row for each (name, caption, images [b, 3, h, w] in [-1, 1]), framed by whether the images
    show that caption, by the parser; a caption that is empty is not judged. `columns`: their names
    (default: numbers).
    """
    n = len(rows[0][2])
    frames = [
        judge_images([caption] * n, images) if caption else [None] * n
        for _, caption, images in rows
    ]
    columns = columns or [f"{i}" for i in range(n)]
    return quantize_colors(
        image_table(
            [list(images) for _, _, images in rows],
            [name for name, _, _ in rows],
            columns,
            cell=cell,
            frames=frames,
        )
    )


def shapes_read(images: Tensor) -> Counter:
    """How many of the images are read as which shape; those that cannot be read, or show several
    things, under these words.
    """
    names = []
    for parsed in parse_image(images.float().cpu()):
        if parsed.scene is None:
            names.append("unreadable")
        else:
            names.append(
                parsed.scene.objects[0].shape
                if len(parsed.scene.objects) == 1
                else "several things"
            )
    return Counter(names)
