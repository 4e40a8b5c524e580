"""Rows of images with the verdicts that belong to them."""

import numpy as np
import torch
from PIL import ImageColor
from support.scenes import one

from imagen_mini.scenes.render import render
from imagen_mini.scenes.scene import Scene
from imagen_mini.viz.playground import judged_rows, shapes_read

IMAGES = render(
    [
        Scene((one(),), "white"),
        Scene((one("star"),), "white"),
        Scene((one("star", x=14), one("ring", x=48)), "gray"),
    ],
    64,
)
RIGHT, WRONG, UNJUDGED = "#009E73", "#D55E00", "#BBBBBB"


def frames_of(image):
    pixels = torch.from_numpy(np.array(image.convert("RGB"))).int()
    # two pixels all around a cell of 64; in a palette, colours may be off by a little
    side = 4 * 2 * (64 + 2)
    return [
        round(
            ((pixels - torch.tensor(ImageColor.getrgb(name))).abs().amax(-1) < 8).sum().item()
            / side
        )
        for name in (RIGHT, WRONG, UNJUDGED)
    ]


def test_each_row_is_judged_by_its_own_caption():
    assert frames_of(
        judged_rows([("first", "a red circle", IMAGES), ("second", "a star", IMAGES)], cell=64)
    ) == [2, 4, 0]
    assert frames_of(
        judged_rows([("not judged", "", IMAGES), ("second", "a red star", IMAGES)], cell=64)
    ) == [1, 2, 3]


def test_shapes_are_counted():
    found = shapes_read(torch.cat([IMAGES, torch.zeros(1, 3, 64, 64) + 0.4]))
    assert found == {"circle": 1, "star": 1, "several things": 1, "unreadable": 1}
