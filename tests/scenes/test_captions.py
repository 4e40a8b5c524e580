"""Captions: what is said of a scene, and how it is read back."""

import random
from collections import Counter

import pytest

from imagen_mini.scenes.captions import (
    ATTRIBUTE_PROB,
    INDEPENDENT_PROB,
    Description,
    ObjectDescription,
    caption_from,
    describe,
    parse_caption,
)
from imagen_mini.scenes.scene import random_scene


@pytest.mark.parametrize("paraphrase", [False, True])
def test_what_is_written_of_a_thousand_scenes_reads_back_as_what_was_described(paraphrase):
    rng = random.Random(5)
    for _ in range(1000):
        scene = random_scene(rng, exclude_held_out=False)
        description = describe(scene, rng)
        got = parse_caption(caption_from(description, rng, paraphrase).text)
        assert description.fits(scene) and got.fits(scene)
        assert Counter(got.objects) == Counter(description.objects)
        assert (got.relation, got.background) == (description.relation, description.background)
        if got.relation is not None:
            assert got.objects == description.objects  # the order matters


def test_a_caption_knows_where_its_words_stand_and_what_they_speak_of():
    rng = random.Random(6)
    for _ in range(300):
        caption = caption_from(describe(random_scene(rng), rng), rng)
        objects = caption.description.objects
        for word in caption.words:
            assert caption.text[word.start : word.end] == word.text
            if word.role in ("color", "size", "texture"):
                assert all(getattr(objects[i], word.role) == word.text for i in word.objects)
            if word.role == "shape":
                assert all(
                    word.text in (objects[i].shape, objects[i].shape + "s", objects[i].shape + "es")
                    for i in word.objects
                )
        spoken = Counter(i for w in caption.words if w.role == "shape" for i in w.objects)
        assert spoken == {i: 1 for i in range(len(objects))}


def test_what_is_said_of_one_object_is_at_times_not_said_of_the_other():
    rng = random.Random(7)
    scenes = [
        scene
        for scene in (random_scene(rng, count=2) for _ in range(2000))
        if len({(o.shape, o.color) for o in scene.objects}) == 2
    ]
    pairs = [describe(scene, rng).objects for scene in scenes]
    for key, often in ATTRIBUTE_PROB.items():
        said = [sum(getattr(obj, key) is not None for obj in objects) for objects in pairs]
        assert said.count(1) / len(pairs) == pytest.approx(INDEPENDENT_PROB / 2, abs=0.03)
        assert said.count(2) / len(pairs) == pytest.approx(
            (1 - INDEPENDENT_PROB) * often + INDEPENDENT_PROB / 4, abs=0.04
        )


@pytest.mark.parametrize(
    "text, objects, relation, background",
    [
        ("a crimson disc", [ObjectDescription("circle", "red")], None, None),
        (
            "three tiny spotted hoops on a gray background",
            [ObjectDescription("ring", None, "small", "dotted")] * 3,
            None,
            "gray",
        ),
        (
            "A red circle, a star and a blue box",
            [
                ObjectDescription("circle", "red"),
                ObjectDescription("star"),
                ObjectDescription("square", "blue"),
            ],
            None,
            None,
        ),
        (
            "an image of a huge rose star beneath a cross",
            [ObjectDescription("star", "pink", "large"), ObjectDescription("cross")],
            "below",
            None,
        ),
        ("on a black background, a ring", [ObjectDescription("ring")], None, "black"),
    ],
)
def test_captions_are_read_rare_words_and_all(text, objects, relation, background):
    assert parse_caption(text) == Description(tuple(objects), relation, background)


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "nothing to see"),
        ("a cat", "'a?.?cat'"),
        ("a red blue circle", "'blue'"),
        ("a fuzzy circle", "'fuzzy'"),
        ("a circle on a teal background", "no background 'teal'"),
        ("a red", "expected one of circle"),
    ],
)
def test_what_the_grammar_does_not_have_is_an_error_that_names_the_word(text, message):
    with pytest.raises(ValueError, match=message):
        parse_caption(text)
