"""The exact parser finds planted errors: an image that is wrong in a part of it is unreadable."""

import pytest
import torch

from imagen_mini.evaluation.planted_errors import PLANTED_ERRORS, measure_planted_errors
from imagen_mini.scenes.parse import ParsedScene, parse_image
from imagen_mini.scenes.render import render
from imagen_mini.scenes.scene import (
    BACKGROUNDS,
    COLORS,
    HELD_OUT_SEED,
    HELD_OUT_TEXTURE_SHAPE,
    SHAPES,
    TEXTURES,
    Scene,
    SceneObject,
    training_scene,
)

# The share that may pass. Some errors leave a small object within half a pixel of a correct one.
MAY_PASS = {"two shapes in one": 0.1, "a fifth cut off": 0.04, "colour changes across it": 0.04}


@pytest.mark.parametrize(
    "n, size",
    [
        (24, 64),
        (16, 256),
        pytest.param(300, 64, marks=pytest.mark.slow),
        pytest.param(300, 256, marks=pytest.mark.slow),
    ],
)
def test_planted_errors_make_images_unreadable(n, size):
    scenes = [training_scene(HELD_OUT_SEED, i) for i in range(n)]
    assert all(parsed.scene is not None for parsed in parse_image(render(scenes, size)))
    table = measure_planted_errors(scenes, size)
    assert list(table) == [k for k in PLANTED_ERRORS if size > 64 or k != "two textures in one"]
    for name, row in table.items():
        assert row["n"] > n / 2
        assert row["passed"] <= 1 + MAY_PASS.get(name, 0.01) * row["n"], (name, row)


def test_a_judge_that_looks_at_nothing_passes_everything():
    scenes = [training_scene(HELD_OUT_SEED, i) for i in range(4)]
    blind = measure_planted_errors(
        scenes, 64, lambda images: [ParsedScene(scenes[0], "white", (), ())] * len(images)
    )
    assert all(row["passed"] == row["n"] for row in blind.values())


def one(shape="square", color="red", size="large", background="white"):
    return Scene((SceneObject(32, 32, shape, color, size, "solid"),), background)


@pytest.mark.parametrize("background", BACKGROUNDS)
@pytest.mark.parametrize("opacity", [0.2, 0.5])
def test_a_ghost_is_named_with_its_place(background, opacity):
    scene = one(background=background)
    further = SceneObject(12, 14, "circle", "blue", "small", "solid")
    ghost = torch.lerp(render(scene), render(Scene((*scene.objects, further), background)), opacity)
    (parsed,) = parse_image(ghost)
    assert parsed.scene is None and "(14, 12) " in parsed.problems[0], parsed.problems
    assert parsed.objects == scene.without_texture().objects


@pytest.mark.parametrize("color", [c for c in COLORS if c != "red"])
def test_a_patch_of_another_color_in_an_object_is_a_problem(color):
    image = render(one())[0]
    image[:, 34:39, 33:38] = torch.tensor(COLORS[color])[:, None, None] * 2 - 1
    (parsed,) = parse_image(image[None])
    assert parsed.scene is None and "around (35, 36) is" in parsed.problems[0], parsed.problems


@pytest.mark.parametrize("texture", TEXTURES[1:])
def test_a_texture_of_more_contrast_is_no_error_at_the_outline(texture):
    """An outline cuts through a texture's period, so that its light and dark do not cancel there.
    Networks paint textures of more contrast than the renderer.
    """
    for shape in SHAPES:
        if (texture, shape) in HELD_OUT_TEXTURE_SHAPE:
            continue
        plain, textured = (
            Scene((SceneObject(31, 30, shape, "cyan", "large", t),), "black")
            for t in ("solid", texture)
        )
        strong = torch.lerp(render(plain, 256), render(textured, 256), 1.5).clamp(-1, 1)
        assert parse_image(strong)[0].scene == textured, shape
