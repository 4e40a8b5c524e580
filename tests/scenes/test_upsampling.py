"""Caption upsampling states what a caption leaves open, and changes nothing that it says."""

import random

import pytest

from imagen_mini.evaluation.benchmark import benchmark
from imagen_mini.scenes.matching import sample_scene_matching
from imagen_mini.scenes.scene import COLORS, HELD_OUT_COLOR_SHAPE
from imagen_mini.scenes.upsampling import upsample_caption
from imagen_mini.scenes.world import WORLDS

CATEGORIES = [f"{k} attribute{'s' * (k > 1)}" for k in range(1, 7)] + ["counting", "positional"]


@pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)
def test_images_of_an_upsampled_caption_show_the_caption(world):
    rng = random.Random(0)
    for _, seed, caption in benchmark(10, 3, CATEGORIES, world):
        told = world.parse_caption(upsample_caption(caption.text, seed, world))
        assert all(o.color for o in told.objects)
        for _ in range(3):
            assert caption.description.fits(sample_scene_matching(told, rng, world.vocabulary))


@pytest.mark.parametrize(
    "text",
    ["a red ring", "two red circles", "a red ring above a blue circle on a white background"],
)
def test_a_caption_that_leaves_no_colour_open_stays_word_for_word(text):
    assert upsample_caption(text) == text


def test_what_is_said_stays_and_objects_that_are_described_alike_stay_alike():
    world = WORLDS["studio"]
    for seed in range(20):
        told = world.parse_caption(
            upsample_caption(
                "a shiny ring left of a small red star on wood, lit from the top", seed, world
            )
        )
        ring, star = told.objects
        assert (ring.material, ring.size, ring.shape) == ("shiny", None, "ring")
        assert (star.color, star.size, star.shape) == ("red", "small", "star")
        assert (told.relation, told.background, told.light) == ("left of", "wood", "top")
        one, other, square = world.parse_caption(
            upsample_caption("two circles and a square", seed, world)
        ).objects
        assert one == other and square.color != one.color


def test_colours_differ_between_objects_and_seeds_and_none_is_held_out():
    seen = set()
    for seed in range(200):
        a, b = WORLDS["scenes"].parse_caption(upsample_caption("a ring and a star", seed)).objects
        assert a.color != b.color
        assert not {(a.color, "ring"), (b.color, "star")} & set(HELD_OUT_COLOR_SHAPE)
        seen |= {(a.color, "ring"), (b.color, "star")}
        assert upsample_caption("a ring and a star", seed) == upsample_caption(
            "a ring and a star", seed
        )
    known = {(c, s) for c in COLORS for s in ("ring", "star")} - set(HELD_OUT_COLOR_SHAPE)
    assert seen == known


def test_a_caption_of_another_grammar_is_an_error():
    with pytest.raises(ValueError, match="'dog'"):
        upsample_caption("a dog")
