"""Super-resolution by itself: what is given, what is correct, and how it is judged."""

from dataclasses import replace

import pytest
import torch

from imagen_mini.evaluation.statistics import format_share
from imagen_mini.evaluation.super_resolution import (
    SuperResolutionResult,
    augmentation_table,
    crop_around_object,
    super_resolve,
    true_scenes,
)
from imagen_mini.scenes.render import render
from imagen_mini.scenes.scene import Scene, SceneObject
from imagen_mini.scenes.world import SCENES
from imagen_mini.viz.super_resolution import plot_augmentation_levels

STRIPED = Scene((SceneObject(20, 40, "circle", "red", "large", "striped"),), "white")
TWO = Scene(
    (
        SceneObject(44, 14, "star", "pink", "small", "dotted"),
        SceneObject(20, 40, "ring", "green", "small", "solid"),
    ),
    "gray",
)
PROMPTS = ["a striped red circle", "a dotted pink star and a green ring"]


def test_true_scenes_have_the_places_of_the_image_and_the_textures_of_the_prompt():
    assert true_scenes(PROMPTS, render([STRIPED, TWO], 64)) == [STRIPED, TWO]
    assert true_scenes(["a red circle"], render([STRIPED], 64))[0].objects[0].texture == "solid"


@pytest.mark.parametrize("prompt", ["a blue circle", "a red elephant"])
def test_an_image_that_does_not_show_its_prompt_has_no_true_scene(prompt):
    with pytest.raises(ValueError, match=f"{prompt}.*keep those whose verdict is correct"):
        true_scenes([prompt], render([STRIPED], 64))


@pytest.mark.parametrize("size", [64, 256])
def test_the_part_around_an_object_holds_it(size):
    image = render([STRIPED], size)
    part = crop_around_object(image, [STRIPED])
    assert part.shape == (1, 3, 3 * size // 8, 3 * size // 8)
    assert ((part < 0.9).sum() == (image < 0.9).sum()) and (part < 0.9).any()
    corner = Scene((replace(STRIPED.objects[0], x=12, y=12),), "white")
    assert torch.equal(
        crop_around_object(render([corner], size), [corner])[0],
        render([corner], size)[0, :, : 3 * size // 8, : 3 * size // 8],
    )


def test_super_resolution_judges_what_it_makes(tiny_pipe, monkeypatch):
    small, large = render([STRIPED, TWO], 64), render([STRIPED, TWO], 256)
    given = {}

    def call(prompts, **options):
        given.update(options)
        return type(
            "Out", (), {"stages": {"sr_256": torch.stack([large[0], torch.zeros_like(large[0])])}}
        )()

    call.world = SCENES
    seen = super_resolve(call, PROMPTS, [3, 4], small, large, 0.2, steps=5)
    assert (
        seen.correct == [True, False]
        and seen.readable == [True, True]
        and seen.psnr[0] > 100 > seen.psnr[1]
    )
    assert (
        given["seed"] == [3, 4]
        and given["aug_level"] == 0.2
        and given["num_inference_steps"] == 5
        and given["low_res"] is small
    )


def test_levels_are_written_and_plotted():
    rows = [
        SuperResolutionResult(
            level,
            torch.zeros(2, 3, 4, 4),
            [True, level < 0.2],
            [True, True],
            torch.tensor([30.0, 20.0]),
        )
        for level in (0.0, 0.3)
    ]
    assert format_share([True] * 7 + [False]) == "7 of 8 (53 to 98 %)"
    lines = augmentation_table({"clean": rows}).splitlines()
    assert (
        len(lines) == 3 and "2 of 2" in lines[1] and "1 of 2" in lines[2] and "25.0 dB" in lines[1]
    )
    shares, likeness = plot_augmentation_levels({"clean": rows, "generated": rows}).axes
    assert [c.lines[0].get_ydata().tolist() for c in shares.containers] == [[1.0, 0.5]] * 2
    assert [t.get_text() for t in likeness.get_xticklabels()] == ["0", "0.3"]
