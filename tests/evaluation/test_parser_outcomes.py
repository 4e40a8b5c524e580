"""What the parser reads from clean and from corrupted images."""

import pytest
import torch
from support.scenes import one

from imagen_mini.evaluation.corruptions import gaussian_noise
from imagen_mini.evaluation.parser_robustness import (
    measure_parser_robustness,
    read_correctly,
    shapes_in,
)
from imagen_mini.scenes.parse import parse_image
from imagen_mini.scenes.render import render
from imagen_mini.scenes.scene import HELD_OUT_SEED, Scene, training_scene
from imagen_mini.utils.images import blur
from imagen_mini.viz.measuring import plot_corruptions

IMAGES = render(
    [
        Scene((one(),), "white"),
        Scene((one("star"),), "white"),
        Scene((one("star", x=14), one("ring", x=48)), "gray"),
    ],
    64,
)


def test_shapes_are_recognized_in_blurred_images_too():
    images = torch.cat([IMAGES, torch.zeros(1, 3, 64, 64) + 0.4])
    assert shapes_in(images) == ["circle", "star", "several objects", "none"]
    large = [one("cross"), one("circle")]
    blurred = blur(render([Scene((o,), "white") for o in large], 64), 2)
    assert all(parsed.problems for parsed in parse_image(blurred))
    assert shapes_in(blurred) == ["cross", "circle"]


SCENES = [training_scene(HELD_OUT_SEED, i) for i in range(6)]


def test_scenes_are_read_from_clean_images_and_not_from_each_other_s():
    images = render(SCENES)
    assert read_correctly(SCENES, images) == [True] * 6 and not any(
        read_correctly(SCENES, images.roll(1, 0))
    )
    with pytest.raises(ValueError):
        read_correctly(SCENES[:2], images)


def test_corrupted_images_are_counted_by_outcome_and_plotted():
    rows = measure_parser_robustness(6, 64, gaussian_noise, (0, 2.0), batch=4)
    assert (rows[0]["right"], rows[1]["right"]) == (6, 0) and rows[1]["unreadable"] + rows[1][
        "misread"
    ] == 6
    (ax,) = plot_corruptions({"noise": rows}).axes
    assert ax.get_title() == "noise" and [list(line.get_ydata()) for line in ax.get_lines()][0] == [
        1,
        0,
    ]
