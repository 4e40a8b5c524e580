"""What the notebooks share: verdicts, score lines, tables of images."""

import pytest
import torch

from imagen_mini.course.notebook import show_source
from imagen_mini.diffusion.schedules import alpha_sigma
from imagen_mini.evaluation.scoring import judge_images
from imagen_mini.evaluation.statistics import score_line
from imagen_mini.scenes.render import render
from imagen_mini.scenes.scene import Scene, SceneObject
from imagen_mini.viz.image_grid import BORDERS, MARGIN, image_grid, image_table

IMAGE = render(
    Scene(
        (SceneObject(x=30, y=30, shape="circle", color="red", size="large", texture="solid"),),
        "white",
    )
)


def hex_color(pixel):
    return "#{:02X}{:02X}{:02X}".format(*pixel)


def test_verdicts_are_the_parsers():
    prompts = ["a red circle", "a blue circle", "a cat"]
    assert judge_images(prompts, IMAGE.expand(3, -1, -1, -1)) == [True, False, None]
    with pytest.raises(ValueError, match="2 prompts for 1 images"):
        judge_images(["a red circle"] * 2, IMAGE)


def test_a_score_line_leaves_out_what_cannot_be_judged():
    assert (
        score_line([True] * 7 + [False, None]) == "7 of 8 correct (88 %, 95 % interval 53 to 98 %)"
    )
    assert score_line([None]).startswith("0 of 0")


def test_source_is_the_functions_own():
    shown = show_source(alpha_sigma).data
    assert "def alpha_sigma(log_snr: Tensor)" in shown and shown.startswith(
        "`imagen_mini.diffusion.schedules`"
    )


def test_a_table_puts_images_under_their_names():
    red, blue = (
        torch.tensor(c).view(3, 1, 1).expand(3, 8, 8) for c in ([1.0, -1, -1], [-1.0, -1, 1])
    )
    grid = image_table(
        [[red, blue], [None, red]],
        ["a", "b"],
        ["1", "2"],
        cell=32,
        borders=[[True, False], [None, None]],
    )
    width, height = grid.size
    left, top = width - 2 * (32 + MARGIN) - MARGIN, height - 2 * (32 + MARGIN) - MARGIN
    middle = [
        [
            grid.getpixel((left + i * (32 + MARGIN) + 16, top + j * (32 + MARGIN) + 16))
            for i in range(2)
        ]
        for j in range(2)
    ]
    assert middle == [[(255, 0, 0), (0, 0, 255)], [(255, 255, 255), (255, 0, 0)]]
    border = grid.getpixel((left - 1, top + 16))
    assert hex_color(border) == BORDERS[True]


def test_a_table_counts_its_names():
    with pytest.raises(ValueError, match="expected 1 rows"):
        image_table([[None], [None]], ["a"], ["1"])


def test_borders_say_correct_and_incorrect():
    grid = image_grid([IMAGE[0]] * 3, ["", "", ""], cell=32, borders=[True, False, "#123456"])
    colors = [
        hex_color(grid.getpixel((MARGIN - 1 + i * (32 + 2 * MARGIN), MARGIN + 16)))
        for i in range(3)
    ]
    assert colors == [BORDERS[True], BORDERS[False], "#123456"]
