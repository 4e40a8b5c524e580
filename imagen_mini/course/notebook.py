"""What the notebooks share: images with their score below, tables of judged images, functions shown
from the source.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence

from PIL import Image
from torch import Tensor

from imagen_mini.evaluation.scoring import judge_image, judge_images
from imagen_mini.evaluation.statistics import score_line
from imagen_mini.viz.image_grid import image_grid, image_table, quantize_colors


def setup_notebook() -> None:
    """Show plots as vector graphics. Call it once, at the top of a notebook."""
    from matplotlib_inline.backend_inline import set_matplotlib_formats

    set_matplotlib_formats("svg")


def show_source(*functions: Callable):
    """Return the source of functions or classes, as Markdown to be displayed."""
    from IPython.display import Markdown

    return Markdown(
        "\n\n".join(
            f"`{f.__module__}`\n```python\n{inspect.getsource(f).rstrip()}\n```" for f in functions
        )
    )


def show_judged(
    prompts: Sequence[str], images: Tensor, columns: int | None = None, cell: int = 160
) -> None:
    """Display images with their prompts and the parser's verdicts, and the score below.

    Args:
        prompts: b prompts.
        images: [b, 3, h, w] in [-1, 1].
        columns: Images in a row (default: at most 4).
        cell: The side of an image in pixels (default: 160).
    """
    from IPython.display import display

    found = judge_images(prompts, images)
    labels = [
        prompt if correct else f"{prompt}: {judge_image(prompt, image)}"
        for prompt, image, correct in zip(prompts, images, found)
    ]
    display(image_grid(list(images), labels, columns=columns, cell=cell, borders=found))
    print(score_line(found))


def judged_table(
    rows: Sequence[tuple[str, str, Tensor]], columns: Sequence[str] | None = None, cell: int = 128
) -> Image.Image:
    """Return rows of images with borders by the parser's verdicts.

    Args:
        rows: (name, caption, images [b, 3, h, w] in [-1, 1]) each. The images are judged by the
            caption; an empty caption leaves them not judged.
        columns: The names of the columns (default: their numbers).
        cell: The side of an image in pixels (default: 128).

    Returns:
        A PIL image in 256 colours.
    """
    n = len(rows[0][2])
    verdicts = [
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
            borders=verdicts,
        )
    )
