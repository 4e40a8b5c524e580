"""Contradictions: scenes that do not fit a caption, but differ little from one that does."""

import random
from collections import Counter

from imagen_mini.scenes.captions import parse_caption, training_caption
from imagen_mini.scenes.contradictions import find_contradiction
from imagen_mini.scenes.equivalents import is_free
from imagen_mini.scenes.scene import Scene, SceneObject, held_out, training_scene

PAIR = Scene(
    (
        SceneObject(x=16, y=30, shape="circle", color="red", size="small", texture="solid"),
        SceneObject(x=46, y=34, shape="square", color="blue", size="large", texture="dotted"),
    ),
    "white",
)


def differences(scene, other):
    """What differs: the background, or an attribute of an object; positions are equal."""
    assert [(o.x, o.y) for o in scene.objects] == [(o.x, o.y) for o in other.objects]
    changed = {"background"} if scene.background != other.background else set()
    return frozenset(
        changed
        | {
            (i, name)
            for i, (a, b) in enumerate(zip(scene.objects, other.objects))
            for name in ("shape", "color", "size", "texture")
            if getattr(a, name) != getattr(b, name)
        }
    )


def contradictions(caption, n=200):
    """How often each set of differences occurs."""
    return Counter(
        differences(PAIR, other)
        for seed in range(n)
        if (other := find_contradiction(PAIR, parse_caption(caption), random.Random(seed)))
        is not None
    )


def test_of_a_plain_caption_shapes_and_colours_are_contradicted():
    found = contradictions("a red circle and a blue square")
    assert found.keys() == {
        frozenset(names)
        for i in (0, 1)
        for names in ([(i, "color")], [(i, "shape")], [(i, "shape"), (i, "color")])
    }
    assert sum(found.values()) == 200


def test_what_the_caption_leaves_open_is_no_contradiction():
    assert not any(
        (0, "color") in names and len(names) == 1
        for names in contradictions("a circle and a blue square")
    )
    found = {
        name
        for names in contradictions("a large blue square and a red circle on a white background")
        for name in names
    }
    assert (1, "size") in found and "background" in found and (0, "size") not in found


def test_taken_for_another_it_has_its_shape_and_colour():
    for seed in range(100):
        other = find_contradiction(
            PAIR, parse_caption("a red circle and a blue square"), random.Random(seed)
        )
        if len(differences(PAIR, other)) == 2:
            a, b = other.objects
            assert (a.shape, a.color) == (b.shape, b.color)


def test_contradictions_are_training_scenes_that_do_not_fit_the_caption():
    found = 0
    for index in range(300):
        scene = training_scene(6, index)
        caption = training_caption(scene, 6, index)
        other = find_contradiction(scene, caption.description, random.Random(index))
        if other is None:
            continue
        found += 1
        assert not caption.description.fits(other) and is_free(other) and not held_out(other)
        changed = differences(scene, other)
        assert (
            len({name[0] for name in changed if name != "background"}) + ("background" in changed)
            == 1
        )
    assert found > 285
