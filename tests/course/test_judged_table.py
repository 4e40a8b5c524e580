"""Rows of images with the verdicts that belong to them."""

import numpy as np
import torch
from PIL import ImageColor
from support.scenes import one

from imagen_mini.course.notebook import judged_table
from imagen_mini.scenes.render import render
from imagen_mini.scenes.scene import Scene

IMAGES = render(
    [
        Scene((one(),), "white"),
        Scene((one("star"),), "white"),
        Scene((one("star", x=14), one("ring", x=48)), "gray"),
    ],
    64,
)
CORRECT, INCORRECT, NOT_JUDGED = "#009E73", "#D55E00", "#BBBBBB"


def count_borders(image):
    pixels = torch.from_numpy(np.array(image.convert("RGB"))).int()
    # two pixels all around a cell of 64; in a palette, colours may be off by a little
    side = 4 * 2 * (64 + 2)
    return [
        round(
            ((pixels - torch.tensor(ImageColor.getrgb(name))).abs().amax(-1) < 8).sum().item()
            / side
        )
        for name in (CORRECT, INCORRECT, NOT_JUDGED)
    ]


def test_each_row_is_judged_by_its_own_caption():
    assert count_borders(
        judged_table([("first", "a red circle", IMAGES), ("second", "a star", IMAGES)], cell=64)
    ) == [2, 4, 0]
    assert count_borders(
        judged_table([("not judged", "", IMAGES), ("second", "a red star", IMAGES)], cell=64)
    ) == [1, 2, 3]
