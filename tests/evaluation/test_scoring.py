"""The score itself: images that are correct by construction, images with known errors, and parsed
captions.
"""

import random
from dataclasses import replace

import pytest
import torch
from support.scenes import correct_images, one, scene_of

from imagen_mini.evaluation.benchmark import CATEGORIES, HELD_OUT_CATEGORIES, benchmark
from imagen_mini.evaluation.scoring import evaluate, score, table
from imagen_mini.evaluation.statistics import wilson_interval
from imagen_mini.scenes.captions import Caption, parse_caption
from imagen_mini.scenes.parse import parse_image
from imagen_mini.scenes.render import render
from imagen_mini.scenes.scene import COLORS, Scene
from imagen_mini.scenes.world import WORLDS

# ---------------------------------------------------------------- text alignment


@pytest.mark.parametrize("size", [64, 256])
def test_images_of_what_the_captions_say_are_all_correct(size):
    prompts = benchmark(6 if size == 64 else 2)
    rows = table(list(evaluate(correct_images(prompts, size), prompts)))
    assert set(rows) == set(CATEGORIES) | set(HELD_OUT_CATEGORIES)
    assert {name: row["accuracy"] for name, row in rows.items()} == {name: 1.0 for name in rows}


NOISE = torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "image", [torch.ones(3, 64, 64), torch.zeros(3, 64, 64), NOISE], ids=["white", "gray", "noise"]
)
def test_images_of_nothing_are_all_incorrect(image):
    prompts = benchmark(3)
    rows = table(list(evaluate(lambda texts, seeds: image.expand(len(texts), -1, -1, -1), prompts)))
    assert all(
        row["accuracy"] == row["right"] == row["nearest"] == row["flawless"] == 0 and row["n"] == 3
        for row in rows.values()
    )


def test_a_planted_tenth_of_swapped_colors_is_found_as_a_tenth():
    prompts = benchmark(50, categories=["colors"])
    generate = correct_images(prompts, 64)
    others = list(COLORS)

    def sometimes_incorrect(texts, seeds):
        images = generate(texts, seeds)
        for i, (text, seed) in enumerate(zip(texts, seeds)):
            if seed % 10 == 3:
                scene = scene_of(parse_caption(text), random.Random(0))
                (o,) = scene.objects
                other = others[(others.index(o.color) + 1) % len(others)]
                images[i] = render(replace(scene, objects=(replace(o, color=other),)), 64)[0]
        return images

    row = table(list(evaluate(sometimes_incorrect, prompts)))["colors"]
    assert row["right"] == 45 and row["accuracy"] == 0.9 and row["unreadable"] == 0
    assert row["low"] < 0.9 < row["high"] and row["nearest"] == row["flawless"] == 45


def test_what_an_image_shows_and_whether_it_is_flawless_are_two_questions():
    """A red circle lit from the top, in a scene that is lit from the left."""
    studio = WORLDS["studio"]
    two = studio.scene_matching(
        studio.parse_caption("a matte red circle left of a matte blue square on sand"),
        random.Random(0),
    )
    left, top = studio.render([replace(two, light=light) for light in ("left", "top")], 64)
    both_sides = torch.where(studio.masks(two, 64)[0], top, left)
    for image, text, correct, flawless in (
        (left, "a red circle left of a blue square", True, True),
        (left, "a red circle left of a blue square, lit from the left", True, True),
        (both_sides, "a red circle left of a blue square", True, False),
        (both_sides, "a red circle left of a blue square on sand", True, False),
        (both_sides, "a red circle left of a red square", False, False),
        (both_sides, "a red circle", False, False),
        (both_sides, "a red circle left of a blue square, lit from the bottom", False, False),
    ):
        caption = Caption(text, (), studio.parse_caption(text))
        prompts = [("", 0, caption)]
        (result,) = evaluate(lambda *_, image=image: image[None], prompts, world=studio)
        assert result.correct == correct, (text, result.parsed)
        assert result.flawless == flawless, (text, result.parsed)


@pytest.mark.parametrize("material, other", [("matte", "metallic"), ("metallic", "matte")])
@pytest.mark.parametrize("share, correct, nearest", [(0.0, 1, 1), (0.4, 0, 1), (0.7, 0, 0)])
def test_an_unclear_material_counts_as_the_nearest_one_in_a_column_of_its_own(
    material, other, share, correct, nearest
):
    """Between two materials the judge is not sure; the nearest reading turns about half-way."""
    studio, text = WORLDS["studio"], f"a {material} red circle on sand lit from the left"
    caption = Caption(text, (), studio.parse_caption(text))
    scene = studio.scene_matching(caption.description, random.Random(0))
    objects = tuple(replace(o, material=other) for o in scene.objects)
    image = torch.lerp(
        studio.render(scene, 64), studio.render(replace(scene, objects=objects), 64), share
    )
    row = score(list(evaluate(lambda *_: image, [("", 0, caption)], world=studio)))
    assert (row["right"], row["nearest"], row["unreadable"]) == (correct, nearest, 0)


@pytest.mark.parametrize(
    "caption, correct",
    [
        ("a red circle", True),
        ("a large solid red circle on a white background", True),
        ("a circle", True),
        ("a crimson disc", True),
        ("a blue circle", False),
        ("a red ring", False),
        ("a small red circle", False),
        ("a striped red circle", False),
        ("a red circle on a black background", False),
        ("two red circles", False),
        ("a red circle and a blue star", False),
    ],
)
def test_an_image_is_correct_if_it_shows_what_is_said_and_nothing_else(caption, correct):
    (parsed,) = parse_image(render(Scene((one(),), "white"), 256))
    assert parse_caption(caption).fits(parsed.scene) == correct


@pytest.mark.parametrize(
    "caption, correct",
    [
        ("a red circle to the left of a blue star", True),
        ("a blue star to the right of a red circle", True),
        ("a red circle and a blue star", True),
        ("a blue star and a red circle", True),
        ("a circle on the left side of a star", True),
        ("a red circle to the right of a blue star", False),
        ("a red circle above a blue star", False),
        ("a blue star to the left of a red circle", False),
        ("a blue circle to the left of a red star", False),
        ("a red circle", False),
    ],
)
def test_a_relation_is_correct_in_its_order_only(caption, correct):
    (parsed,) = parse_image(
        render(Scene((one(), one("star", "blue", "small", x=48, y=30)), "gray"), 64)
    )
    assert parse_caption(caption).fits(parsed.scene) == correct


def test_an_image_that_cannot_be_read_is_incorrect():
    assert not parse_caption("a red circle").fits(None)


# ---------------------------------------------------------------- intervals


@pytest.mark.parametrize(
    "successes, n, low, high",
    [
        (0, 10, 0.0, 0.2775),
        (8, 10, 0.4902, 0.9433),
        (10, 10, 0.7225, 1.0),
        (50, 100, 0.4038, 0.5962),
        (95, 100, 0.8882, 0.9785),
    ],
)
def test_the_interval_is_wilson_s(successes, n, low, high):
    assert wilson_interval(successes, n) == pytest.approx((low, high), abs=1e-4)


def test_of_nothing_the_interval_is_everything():
    assert wilson_interval(0, 0) == (0, 1)


def test_the_interval_solves_the_equation_that_defines_it():
    for successes, n in ((3, 20), (17, 40)):
        # p is as far from the observed share as 1.96 of its own deviations
        for p in wilson_interval(successes, n):
            assert abs(successes / n - p) == pytest.approx(1.96 * (p * (1 - p) / n) ** 0.5)
