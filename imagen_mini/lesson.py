"""What the notebooks share: pictures with their score below, functions shown from the source."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence

from torch import Tensor

from imagen_mini.evaluation import judge, wilson_interval
from imagen_mini.pictures import labelled_grid
from imagen_mini.scenes.captions import Description, read
from imagen_mini.scenes.parse import parse


def begin() -> None:
    """Charts as vectors; call it once, at the top of a notebook."""
    from matplotlib_inline.backend_inline import set_matplotlib_formats

    set_matplotlib_formats("svg")


def source(*functions: Callable):
    """Functions or classes as their source has them, to be displayed."""
    from IPython.display import Markdown

    return Markdown("\n\n".join(f"`{f.__module__}`\n```python\n{inspect.getsource(f).rstrip()}\n```" for f in functions))


def verdicts(prompts: Sequence[str], pictures: Tensor) -> list[bool | None]:
    """Does each picture [b, 3, h, w] in [-1, 1] show its prompt, by the parser? None where the prompt is not of the world's grammar."""
    if len(prompts) != len(pictures):
        raise ValueError(f"{len(prompts)} prompts for {len(pictures)} pictures; expected as many")
    descriptions = [description_of(prompt) for prompt in prompts]
    return [None if d is None else d.fits(reading.scene) for d, reading in zip(descriptions, parse(pictures.float().cpu()))]


def description_of(prompt: str) -> Description | None:
    """What a prompt asks for; None if it is not of the world's grammar."""
    try:
        return read(prompt)
    except ValueError:
        return None


def score_line(found: Sequence[bool | None]) -> str:
    """'7 of 8 right (88 %, 95 % interval 53 to 98 %)', over the verdicts that are not None."""
    judged = [v for v in found if v is not None]
    right, n = sum(judged), len(judged)
    low, high = wilson_interval(right, n)
    return f"{right} of {n} right ({100 * right / max(1, n):.0f} %, 95 % interval {100 * low:.0f} to {100 * high:.0f} %)"


def share(found: Sequence[bool]) -> str:
    """'7 of 8 (53 to 98 %)', for tables: the 95 % interval in brackets."""
    low, high = wilson_interval(sum(found), len(found))
    return f"{sum(found)} of {len(found)} ({100 * low:.0f} to {100 * high:.0f} %)"


def show_judged(prompts: Sequence[str], pictures: Tensor, columns: int | None = None, cell: int = 160) -> None:
    """Display pictures [b, 3, h, w] in [-1, 1] with their prompts and what is wrong with them, framed by right and wrong, and the score below."""
    from IPython.display import display

    found = verdicts(prompts, pictures)
    labels = [prompt if right else f"{prompt}: {judge(prompt, picture)}" for prompt, picture, right in zip(prompts, pictures, found)]
    display(labelled_grid(list(pictures), labels, columns=columns, cell=cell, frames=found))
    print(score_line(found))
