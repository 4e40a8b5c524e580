"""What the notebooks share: images with their score below, functions shown from the source."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence

from torch import Tensor

from imagen_mini.evaluation.scoring import judge_image, judge_images
from imagen_mini.evaluation.statistics import score_line
from imagen_mini.viz.image_grid import image_grid


def setup_notebook() -> None:
    """Charts as vectors; call it once, at the top of a notebook."""
    from matplotlib_inline.backend_inline import set_matplotlib_formats

    set_matplotlib_formats("svg")


def show_source(*functions: Callable):
    """Functions or classes as their source has them, to be displayed."""
    from IPython.display import Markdown

    return Markdown(
        "\n\n".join(
            f"`{f.__module__}`\n```python\n{inspect.getsource(f).rstrip()}\n```" for f in functions
        )
    )


def show_judged(
    prompts: Sequence[str], images: Tensor, columns: int | None = None, cell: int = 160
) -> None:
    """Display images [b, 3, h, w] in [-1, 1] with their prompts and what is wrong with them, framed
    by right and wrong, and the score below.
    """
    from IPython.display import display

    found = judge_images(prompts, images)
    labels = [
        prompt if right else f"{prompt}: {judge_image(prompt, image)}"
        for prompt, image, right in zip(prompts, images, found)
    ]
    display(image_grid(list(images), labels, columns=columns, cell=cell, frames=found))
    print(score_line(found))
